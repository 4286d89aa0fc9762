"""Lineage: which events make up a state, ancestors and rewinds included.

Invariants: this is the only place that knows about ancestors; a lineage is a list of segments
(session, first, last) whose events, folded in order, give the state; forks and rewinds are
followed backwards, so what was rewound is never read; the chain ends at a snapshot or at the
creation of the first ancestor, and a chain that doesn't end is damage.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from ..errors import Corruption, InvalidEvent, KeyShredded, LegalHold, SessionNotFound, brief
from ..events import BranchCreated, SessionRewound
from ..ids import SYSTEM
from ..limits import HEADERS_CACHED_MAX, LINEAGE_SEGMENTS_MAX, SNAPSHOT_VERSIONS
from ..log.base import Log, fact_at, frames_at, tail_of
from ..log.format import TYPE_CODES
from ..log.frame import Frame
from .header import SessionHeader, evolve_frame
from .hidden import Hidden
from .snapshots import Snapshots

_REWOUND = TYPE_CODES[SessionRewound]
_ELSEWHERE = {_REWOUND, TYPE_CODES[BranchCreated]}
_FIRST_PAGE_FRAMES = 8

T = TypeVar("T")
"""What is taken from a header."""


class Segment(NamedTuple):
    """The events of versions `first..last` (both included) of one stream."""

    session: str
    first: int
    last: int


class Standing(NamedTuple):
    """A session's status and time of expiry (ns or None), which no message changes.

    True as long as its stream holds `others` events that are no messages.
    """

    status: str
    expires_at: int | None
    others: int


def lineage(
    log: Log, session: str, version: int, snapshots: Snapshots | None = None
) -> tuple[SessionHeader | None, list[Segment]]:
    """Return the newest snapshot that the state builds on, if any, and the segments after it."""
    segments: list[Segment] = []
    seen = {session}
    while len(segments) < LINEAGE_SEGMENTS_MAX:
        base = snapshots.nearest(session, version) if snapshots else None
        base = base if base and _belongs(log, base) else None
        first = base.version + 1 if base else 0
        if first > version:
            return base, segments[::-1]
        rewind = _last_rewind(log, session, first, version)
        segments.append(Segment(session, rewind[0] if rewind else first, version))
        if rewind:
            if rewind[1] >= rewind[0]:
                break
            version = rewind[1]
        elif base:
            return base, segments[::-1]
        else:
            fork = fork_of(log, session)
            if fork is None:
                return None, segments[::-1]
            session, version = fork
            if session in seen:  # forks lead to older sessions
                break
            seen.add(session)
    raise Corruption(-1, f"the lineage of session {session!r} has no end")


def _belongs(log: Log, snapshot: SessionHeader) -> bool:
    """Return True if the snapshot is of this log: not of one that was set back since."""
    frames = log.read_stream(snapshot.session, snapshot.version, frames_max=1)
    if not frames:
        return False
    offset = snapshot.version - frames[0].version
    place = frames[0].position + offset, frames[0].recorded_at
    return place == (snapshot.position, snapshot.updated_at)


def _last_rewind(log: Log, session: str, first: int, last: int) -> tuple[int, int] | None:
    """Return (version, target) of the newest rewind among the versions first..last."""
    version, frames_max = last, min(_FIRST_PAGE_FRAMES, last - first + 1)
    while version >= first:
        for frame in frames_at(log, session, version, reverse=True, frames_max=frames_max):
            if frame.last_version < first:
                return None
            if not frame.only_messages:
                for recorded in frame.recorded(first, last, reverse=True):
                    if recorded.type_code == _REWOUND:
                        event = recorded.structure
                        if isinstance(event, SessionRewound):  # else nobody knows any more to where
                            return recorded.version, event.to_version
            version = frame.version - 1
        frames_max = min(frames_max * 4, max(version - first + 1, 1))
    return None


def young(log: Log, session: str, version: int) -> SessionHeader | None:
    """Return the header of a session of few events that leads nowhere else, None of another.

    In one read, where a lineage takes four: half of what the first look at a new session costs.
    """
    return young_of(frames_at(log, session, 0, frames_max=version + 1), version)


def young_of(frames: Iterable[Frame], version: int) -> SessionHeader | None:
    """Return the header that the first frames of a session give, None where they can't."""
    header = SessionHeader()
    for frame in frames:
        if not frame.only_messages and any(row[3] in _ELSEWHERE for row in frame.rows()):
            return None
        header = evolve_frame(header, frame, frame.version, version)
        if header.version == version:
            return header
    return None


def fork_of(log: Log, session: str) -> tuple[str, int] | None:
    """Return the (parent, version) that a branch started from, None for a root session."""
    event = fact_at(log, session, 0).structure
    return (event.parent, event.at_version) if isinstance(event, BranchCreated) else None


def fold_segments(
    log: Log, header: SessionHeader, segments: list[Segment], every: int = SNAPSHOT_VERSIONS
) -> tuple[SessionHeader, list[SessionHeader]]:
    """Fold the segments over `header`, which is given away.

    Also returns copies of the headers passed on the way, one per `every` versions.
    """
    passed: list[SessionHeader] = []
    for segment in segments:
        version = saved = segment.first
        while version <= segment.last:
            frames_max = segment.last - version + 1
            for frame in frames_at(log, segment.session, version, frames_max=frames_max):
                header = evolve_frame(header, frame, version, segment.last)
                version = frame.last_version + 1
                if header.version - saved >= every:
                    saved = header.version
                    passed.append(header.copy())
                if version > segment.last:
                    break
    return header, passed


class Headers:
    """Headers of any session at any version, by the shortest fold there is.

    Thread-safe. The newest header of each session is kept and moved on by the events that came
    since, so it can't be stale, whichever process wrote them. What is kept and saved holds hidden
    lines too, and all of it is dropped when the log's erasure count changes; `forget` is called
    with the new one, for what is kept elsewhere.
    """

    def __init__(
        self, log: Log, snapshots: Snapshots, forget: Callable[[int], None] = lambda _: None
    ) -> None:
        self._log, self._snapshots, self._forget = log, snapshots, forget
        self._lock = threading.Lock()
        self._newest: OrderedDict[str, SessionHeader] = OrderedDict()
        self._standing: dict[str, Standing] = {}
        self._erasures = 0
        self._hidden = Hidden(log, {})
        self.erasures()

    def at(self, session: str, version: int) -> SessionHeader:
        """Return the header at `version`, which must exist; the caller owns it."""
        while True:
            erasures = self._erasures
            header = self._folded(session, version, erasures)
            if self._is_current(erasures):
                return self.shown(header)

    def now(self, session: str) -> SessionHeader:
        """Return the newest header; the caller owns it. Raises SessionNotFound."""
        return self.shown(self.whole(session))

    def whole(self, session: str) -> SessionHeader:
        """Return the newest header with its hidden lines; the caller owns it."""
        return self.seen(session, SessionHeader.copy)

    def seen(self, session: str, look: Callable[[SessionHeader], T]) -> T:
        """Return what `look` takes from the newest header, whose hidden lines are in it.

        A copy takes as long as all else here, so who needs two numbers takes only those.
        """
        while True:
            erasures = self._erasures
            header = self._taken(session, erasures)
            found = look(header)
            self._keep(header, erasures)
            if self._is_current(erasures):
                return found

    def _is_current(self, erasures: int) -> bool:
        """Return True if nothing was erased since the count was this; else take the new one up.

        Whoever asks after it has read knows that what it read is of that count.
        """
        if self._log.erasures() == erasures == self._erasures:
            return True
        self.erasures()
        return False

    def shown(self, header: SessionHeader) -> SessionHeader:
        """Return a folded header, which is given away, without the lines that are hidden."""
        return self._hidden.left_out(header) if self._erasures else header

    def held(self, session: str) -> bool:
        """Return True where a legal hold covers the session, by itself or by its user."""
        header = self.now(session)
        if header.held or header.user is None or self._log.tail(SYSTEM) is None:
            return header.held
        return header.user in self.now(SYSTEM).users_held

    def check_readable(self, session: str) -> None:
        """Raise KeyShredded where the session was erased, whatever moment is asked for."""
        if self._erasures and self.standing(session).status == "erased":
            raise KeyShredded(session)

    def check_free(self, session: str) -> None:
        """Raise LegalHold where a hold covers the session."""
        if self.held(session):
            raise LegalHold(session)

    def erasures(self) -> int:
        """Return the log's erasure count; where it has changed, forget what was folded before."""
        erasures = self._log.erasures()
        if erasures > self._erasures:
            with self._lock:
                if erasures > self._erasures:
                    self._hidden = Hidden(self._log, self._log.hidden())
                    self._newest.clear()
                    self._snapshots = self._snapshots.renewed(erasures)
                    self._forget(erasures)
                    self._erasures = erasures
        return erasures

    def close(self) -> None:
        """Release the snapshots."""
        self._snapshots.close()

    def _save(self, headers: list[SessionHeader], erasures: int) -> None:
        """Save headers folded since the erasure count was that, unless it has changed."""
        with self._lock:
            if headers and erasures == self._erasures:
                self._snapshots.save(headers)

    def _folded(self, session: str, version: int, erasures: int) -> SessionHeader:
        """Return a header with its hidden lines, and save those passed on the way."""
        found = young(self._log, session, version) if version < _FIRST_PAGE_FRAMES else None
        if found is not None:
            return found
        base, segments = lineage(self._log, session, version, self._snapshots)
        header, passed = fold_segments(self._log, base or SessionHeader(), segments)
        self._save(passed, erasures)
        return header

    def standing(self, session: str) -> Standing:
        """Return what commands must know of a session. Raises SessionNotFound."""
        tail = self._log.settled_tail(session) if type(session) is str else None
        known = self._standing.get(session) if tail else None
        if tail is None or known is None or known.others != tail.others:
            return self._stand(session)
        return known

    def _stand(self, session: str) -> Standing:
        """Fold a session for its standing, and anew where somebody writes meanwhile."""
        failed = False
        while True:
            try:
                header = self.shown(self.whole(session))
            except KeyShredded:  # its key is gone, and its payloads are just about to go
                if session in self._log.erasing():
                    return Standing("erased", None, 0)
                if failed:
                    raise
                failed = True
                continue
            tail = self._log.tail(session)
            if tail is not None and header.version == tail.version:
                known = Standing(header.status, header.expires_at, tail.others)
                self._note(session, known)
                return known

    def _note(self, session: str, standing: Standing) -> None:
        """Remember a standing, unless a later one came meanwhile."""
        with self._lock:
            known = self._standing.get(session)
            if known is None or known.others < standing.others:
                self._standing[session] = standing
            if len(self._standing) > HEADERS_CACHED_MAX:
                self._standing.clear()

    def knows(self, sessions: Iterable[str]) -> bool:
        """Return True where the standing of these takes no long fold."""
        for session in sessions:
            if session not in self._standing and not self._is_young(session):
                return False
        return True

    def _is_young(self, session: str) -> bool:
        tail = self._log.settled_tail(session)
        return tail is None or tail.version < _FIRST_PAGE_FRAMES

    def _taken(self, session: str, erasures: int) -> SessionHeader:
        """Take the newest header out, folded without the lock: a long fold holds nobody up."""
        if type(session) is not str:  # nothing else names a session, and a list has no hash
            raise SessionNotFound(session)
        with self._lock:
            header = self._newest.pop(session, None)
        if header is None:
            header = self._folded(session, tail_of(self._log, session).version, erasures)
            header.share()
            return header
        return self._caught_up(header, erasures)

    def _keep(self, header: SessionHeader, erasures: int) -> None:
        """Put a header back, unless a newer one came meanwhile."""
        session, version = header.session, header.version
        with self._lock:
            present = self._newest.get(session)
            if erasures == self._erasures and (present is None or present.version < version):
                self._newest[session] = header
            if len(self._newest) > HEADERS_CACHED_MAX:
                self._newest.popitem(last=False)

    def _since(self, header: SessionHeader) -> list[Frame]:
        return self._log.read_stream(header.session, header.version + 1)

    def _caught_up(self, header: SessionHeader, erasures: int) -> SessionHeader:
        """Fold what came since, or start over at a rewind.

        Where nobody else wrote since this process did, the log knows its tail without a look.
        """
        tail, saved = self._log.tail(header.session), header.version
        newest = tail.version if tail else -1
        while header.version < newest and (frames := self._since(header)):
            for frame in frames:
                if not frame.only_messages and any(row[3] == _REWOUND for row in frame.rows()):
                    version = frames[-1].last_version
                    header = self._folded(header.session, version, erasures)
                    return self._caught_up(header, erasures)
                header = evolve_frame(header, frame, header.version + 1, frame.last_version)
        if header.version // SNAPSHOT_VERSIONS != saved // SNAPSHOT_VERSIONS:
            self._save([header], erasures)
        return header


def checked_version(log: Log, session: str, version: int) -> int:
    """Return `version` if the session has it. Raises SessionNotFound and InvalidEvent."""
    tail = tail_of(log, session)
    if isinstance(version, bool) or not isinstance(version, int):
        raise InvalidEvent(f"a version must be an integer, not {brief(version)}")
    if not 0 <= version <= tail.version:
        raise InvalidEvent(
            f"session {session!r} has versions 0 to {tail.version}, not {brief(version)}"
        )
    return version
