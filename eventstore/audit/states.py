"""Saved states against full folds: every snapshot on disk, and a sample of the newest headers.

Invariants: a snapshot is compared with the fold from the snapshots strictly before it, so by
induction either all are right or one is named; nothing is written.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING

import lmdb

from ..errors import EventStoreError
from ..events import MessageAppended, Span
from ..limits import PAGE_EVENTS_MAX
from ..log.base import Log, frames_at
from ..log.environment import FILE
from ..log.frame import Frame
from ..log.recorded import Recorded
from ..messages import Message
from ..state.caches import SNAPSHOTS, cache_directory
from ..state.header import SessionHeader
from ..state.lineage import fold_segments, lineage, young_of
from ..state.snapshots import LmdbSnapshots, Snapshots
from ..state.transcript import PAGE_FRAMES, Transcript, line_tokens, note_message, tokens_of
from .report import Notes

if TYPE_CHECKING:
    from ..store import EventStore

SAMPLED_SESSIONS_MAX = 256
"""Sessions whose newest state is folded from nothing."""

SAMPLED_EVENTS_MAX = 1_000_000
"""Events that are folded for the sample; a branch counts with its ancestors."""

SAMPLED_LINES_MAX = 2_000
"""Lines of a session whose last one is looked for from both ends."""


class _Earlier:
    """The snapshots as the fold towards one of them may use them: without it and later ones."""

    def __init__(self, kept: LmdbSnapshots, session: str, version: int) -> None:
        self._kept, self._session, self._version = kept, session, version

    def nearest(self, session: str, version: int) -> SessionHeader | None:
        """Return the newest saved header that may be used."""
        if session == self._session:
            version = min(version, self._version - 1)
        return self._kept.nearest(session, version) if version >= 0 else None

    def save(self, headers: list[SessionHeader]) -> None:
        """Keep nothing: a check leaves no trace."""

    def renewed(self, _: int) -> Snapshots:
        """Go on with what was opened."""
        return self

    def close(self) -> None:
        """Leave them open: they are somebody else's."""


class States:
    """The states of a store: its snapshots up to a log size, then a sample of its newest ones.

    They can be looked at before the log was walked, by somebody who would else wait. What is found
    then counts only if it is nothing, and so is what is found along the log; else they are again.
    """

    def __init__(self, store: "EventStore") -> None:
        self._store = store
        self._ahead: Notes | None = None

    def look_ahead(self, size: int) -> None:
        """Check the states as those of a sound log."""
        notes = Notes()
        with suppress(Exception):  # whatever reading a log raises that may yet be found damaged
            _check_states(self._store, size, notes)
            self._ahead = notes

    def check(self, size: int, notes: Notes) -> None:
        """Check the states behind the walk along the log, whose findings `notes` holds."""
        if self._ahead is None or self._ahead.findings or notes.findings:
            _check_states(self._store, size, notes)
        else:
            notes.checked.update(self._ahead.checked)


def _check_states(store: "EventStore", size: int, notes: Notes) -> None:
    """Check the snapshots, then the newest states; a log is sound of which `notes` hold nothing."""
    kept = _saved(store, notes)
    if kept is not None:
        try:
            with closing(kept):
                _check_snapshots(store.log, kept, size, notes)
        except EventStoreError as error:
            notes.add(-1, f"snapshots can't be read: {error}")
    try:
        _check_newest(store, notes)
    except EventStoreError as error:
        notes.add(-1, f"sessions can't be listed: {error}")


def _saved(store: "EventStore", notes: Notes) -> LmdbSnapshots | None:
    """Return the snapshots on disk, None where there are none, or none that can be opened."""
    path, erasures = store.path, store.log.erasures()
    if path is None or not (cache_directory(path, SNAPSHOTS, erasures) / FILE).exists():
        return None
    try:
        return LmdbSnapshots(path, store.log, erasures, read_only=True)
    except lmdb.NotFoundError:  # of this revision none was ever saved
        return None
    except (EventStoreError, lmdb.Error) as error:
        notes.add(-1, f"snapshots can't be opened: {error}")
        return None


def _check_snapshots(log: Log, kept: LmdbSnapshots, size: int, notes: Notes) -> None:
    for session, version in kept.saved():
        notes.checked["snapshots"] += 1
        what = f"snapshot of session {session!r} at version {version}"
        try:
            saved = kept.nearest(session, version)
            if saved is None or saved.version != version:
                notes.add(-1, f"{what} does not match its checksum; delete the snapshots")
            elif saved.position < size and saved != _folded(log, kept, session, version):
                notes.add(saved.position, f"{what} is not what the facts fold to")
        except EventStoreError as error:
            notes.add(-1, f"{what} can't be compared: {error}")


def _folded(log: Log, kept: LmdbSnapshots, session: str, version: int) -> SessionHeader:
    base, segments = lineage(log, session, version, _Earlier(kept, session, version))
    return fold_segments(log, base or SessionHeader(), segments)[0]


def _check_newest(store: "EventStore", notes: Notes) -> None:
    """Compare what commands and views see of some sessions with a fold from nothing."""
    count = sum(1 for _ in store.sessions())
    step = -(-count // SAMPLED_SESSIONS_MAX) or 1
    room, sound = SAMPLED_EVENTS_MAX, not notes.findings
    for session in islice(store.sessions(), 0, None, step):
        try:
            room -= _check_session(store, session, room, notes, sound=sound)
        except EventStoreError as error:
            notes.add(-1, f"the state of session {session!r} can't be folded: {error}")


def _check_session(
    store: "EventStore", session: str, room: int, notes: Notes, *, sound: bool
) -> int:
    """Check one session unless its lineage is longer than `room`; returns its length if checked.

    Of a log that was found `sound` a session is read once, if it can be, and the payload of its
    last line; of another one in every way there is, so that whatever stops a reader is told.
    """
    header, frames = store.headers.now(session), list[Frame]()
    if sound and header.version < min(room, PAGE_EVENTS_MAX):
        frames = frames_at(store.log, session, 0, frames_max=header.version + 1)
    folded = young_of(frames, header.version)
    length = header.version + 1
    if folded is None:
        frames = []
        _, segments = lineage(store.log, session, header.version)
        length = sum(segment.last - segment.first + 1 for segment in segments)
        if length > room:
            return 0
        folded, _ = fold_segments(store.log, SessionHeader(), segments)
    notes.checked["states"] += 1
    folded = store.headers.shown(folded)
    if folded != header:
        what = f"the state of session {session!r} is not what the facts fold to"
        notes.add(header.position, what)
    lines = Transcript(store.log, folded.spans)
    if sound:
        shown, last = _forwards(store.log, folded.spans, frames)
    else:
        shown, last = tokens_of(store.log, folded.spans), []
    if shown != folded.tokens:
        what = f"session {session!r} counts {folded.tokens} tokens, its lines hold {shown}"
        notes.add(header.position, what)
    if len(lines) <= SAMPLED_LINES_MAX and lines[-1:] != (last or list(lines)[-1:]):
        notes.add(header.position, f"paging back through session {session!r} gives another line")
    return length


def _forwards(log: Log, spans: Sequence[Span], known: list[Frame]) -> tuple[int, list[Message]]:
    """Return the tokens of lines and the last one, read from the first on by their heads."""
    total, last = 0, None
    for span in spans:
        left = span.stop - span.start
        for frame in _frames(log, span, known):
            indexes = frame.message_indexes(span.start, span.stop)
            if span.note:
                indexes = [span.start - frame.version]
            for index in indexes:
                last = Recorded(frame, index)
                total += line_tokens(last)
            left -= len(indexes)
            if left <= 0:
                break
    return total, [] if last is None else [_line(last)]


def _frames(log: Log, span: Span, known: list[Frame]) -> Iterator[Frame]:
    """Iterate over frames from the one on that holds the first line of a span.

    `known` are all frames of a session, or none.
    """
    if known and known[0].session == span.session:
        holds = attrgetter("version" if span.note else "number")
        yield from known[bisect_right(known, span.start, key=holds) - 1 :]
        return
    version = span.start if span.note else log.locate(span.session, span.start)
    while True:
        frames_max = min(span.stop - span.start, PAGE_FRAMES)
        for frame in frames_at(log, span.session, version, frames_max=frames_max):
            yield frame
            version = frame.last_version + 1


def _line(recorded: Recorded) -> Message:
    """Return an event as the line that it shows."""
    event = recorded.event
    return event.message if isinstance(event, MessageAppended) else note_message(recorded)
