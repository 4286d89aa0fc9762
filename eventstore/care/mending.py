"""Mending: what is whole in a damaged log into a new one, placeholders for what is lost.

A session keeps its versions and the numbers of its messages, whatever is lost of it: where an event
was lost a placeholder stands, so that branches, merges, prunings and rewinds still mean what they
meant. A lost message becomes a message of the role `system` that says so, a lost beginning a
session without metadata, everything else a `Custom` fact named `lost`; of a merge that is whole in
one of its two sessions the other half is written anew, in its target without the values and the
words that it brought. In what order the events of one hole came
nobody knows: messages are put first. The end of a session has placeholders only as far as other
facts say that it went. How many tokens lost messages had nobody knows, so the totals of such a
session may be off, which verify says.

Invariants: frames that are whole come over byte for byte, in order, and are of one append only
where nothing was lost between them; every position that does not come over is named, and every one
that does though nothing proves it (loose.py, claims.py); what stands for a lost payload says that
it is lost; what a fact that came over took away stays away, whatever old copy of it was found.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from ..audit.entry import Salts
from ..errors import Corruption, EventStoreError
from ..events import (
    AnyEvent,
    BranchCreated,
    BranchMerged,
    ContextSet,
    Custom,
    EraseRequested,
    Event,
    HistorySummarized,
    KeyCreated,
    KeyShredded,
    MessageAppended,
    MessagesPruned,
    MetadataUpdated,
    Redacted,
    SessionCreated,
    Span,
)
from ..ids import SYSTEM
from ..log.base import ANY, Append, frames_at
from ..log.draft import draft
from ..log.format import MESSAGE, TYPE_CODES
from ..log.frame import Frame
from ..log.lmdb import LmdbLog
from ..log.shredding import Shred, stripped
from ..log.vault import STORE_KEY
from ..messages import Json, Message
from .carrying import Carrier, append_of, draft_of
from .claims import MERGED, denied, facts_of
from .loose import Verdict, judged, merged
from .naming import Naming
from .salvage import Gaps, Salvage

KEY_SHREDDED = TYPE_CODES[KeyShredded]

LOST = "lost"
"""The name of the fact, and of the key in a message's metadata, that stand for what is lost."""

ROOM_EVENTS, ROOM_BYTES = 10_000, 16
"""Events that a repaired log may always have, else one for so many bytes of the file, less than
half of what any takes: a forged number would have placeholders written until the disk is full."""

LOST_TEXT = "[a message was lost here and could not be repaired]"


class LostPart(msgspec.Struct, frozen=True):
    """Versions `first..last` of a session that are placeholders now."""

    session: str
    first: int
    last: int


class Unproven(msgspec.Struct, frozen=True):
    """Facts that nothing proves: positions `first..last`; the first `was` at this one before."""

    first: int
    last: int
    was: int


class _Stream:
    """Where a session stands in the new store."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.version = self.number = 0
        """Of the next event, and of the next message."""
        self.key = STORE_KEY
        """What seals its payloads, once that is known."""
        self.known: deque[tuple[int, int]] = deque()
        """The same two numbers for each frame of the old store that follows a hole."""


class _Half(NamedTuple):
    """A fact of a merge, and in which of its two sessions it stands."""

    session: str
    fact: BranchMerged

    @property
    def marker(self) -> BranchMerged:
        """What stands in the source: the fact without the target's values."""
        found = stripped(self.fact)
        assert isinstance(found, BranchMerged)
        return found

    def matches(self, other: "_Half") -> bool:
        """Return True for the two halves of one merge."""
        return self.session != other.session and self.marker == other.marker


class Mending:
    """Carries what is whole, in order, with placeholders where something is lost.

    After run() `size` is how many events there were, as far as that is known, `kept` how many came
    over, `lost` the positions that did not, `parts` what of sessions are placeholders, `unproven`
    what came over though nothing proves it; `naming` has names that are lost or not proven.
    """

    def __init__(self, salvage: Salvage, log: LmdbLog) -> None:
        self._salvage, self._log = salvage, log
        self._carrier, self._salts = Carrier(log), Salts()
        self._survey = salvage.survey(log.codec)
        self.naming = Naming(salvage, self._survey, log.codec)
        self._streams: dict[str, _Stream] = {}
        self._half: _Half | None = None
        self._gone: list[Shred] = []
        self._erased: set[str] = set()
        self._named: set[int] = set()
        self._time = self._next = self.kept = 0
        self._room = max(ROOM_EVENTS, salvage.file_bytes // ROOM_BYTES)
        self.size = salvage.size
        self.lost, self.parts = Gaps(), list[LostPart]()
        self.unproven = list[Unproven]()

    def run(self) -> None:
        """Carry everything."""
        codec = self._log.codec
        taken, unproven = self._judged()
        found = self._survey.damaged | taken
        if found and codec.seal is not None:
            codec.seal.opened()  # a later fact that redacted what an old page has must be readable
        self._drop_denied(found, unproven)
        ends = (each.last_position + 1 for each in found.values())
        self.size = max(self.size, max(ends, default=0))
        self._find_holes(found)
        for frame in self._frames(found, self.naming.give):
            self._take(frame, proven=frame.position not in unproven)
        self._end_merge(None)
        self.lost.add(self._next, self.size)
        self._name_keys()
        self._carrier.finish()
        self._shred()

    # -- what there is -----------------------------------------------------------------------

    def _judged(self) -> Verdict:
        """Return what no tree leads to and is taken."""
        salvage, codec, naming = self._salvage, self._log.codec, self.naming
        loose = naming.allowed(salvage.loose(self._survey, codec))
        naming.look(loose)
        found = judged(loose, self._survey.gaps, salvage, codec, naming.knows)
        naming.settle(found.taken.values(), found.unproven)
        return found

    def _drop_denied(self, found: dict[int, Frame], unproven: set[int]) -> None:
        """Take away unproven frames that others give the lie to, and the names that they say."""
        doubted = [found[position] for position in unproven]
        for frame in doubted:
            self.naming.knows(frame)
        tried = partial(self._frames, found, self.naming.knows)
        for position in denied(doubted, tried, self._salvage):
            del found[position]
        self.naming.settle(found.values(), unproven)

    def _frames(self, found: dict[int, Frame], name: Callable[[Frame], object]) -> Iterator[Frame]:
        """Iterate over all frames in the order of their positions, each named in this way."""
        for frame in merged(self._salvage.reached(self._log.codec), found):
            name(frame)
            yield frame

    def _find_holes(self, found: dict[int, Frame]) -> None:
        """Note where sessions go on after what is lost of them."""
        due: dict[int, int] = {}
        for frame in self._frames(found, self.naming.give):
            stream = self._stream(frame.session)
            stream.key = stream.key or _key_of(frame)
            if frame.version > due.get(frame.session_ref, 0):
                stream.known.append((frame.version, frame.number))
            due[frame.session_ref] = frame.last_version + 1

    def _stream(self, name: str) -> _Stream:
        return self._streams.setdefault(name, _Stream(name))

    # -- frames ------------------------------------------------------------------------------

    def _take(self, frame: Frame, *, proven: bool) -> None:
        """Carry a frame, and make room for what it says of others, where it means anything."""
        self.lost.add(self._next, frame.position)
        self._next = frame.last_position + 1
        events = facts_of(frame)
        unnamed = frame.session in self.naming.unnamed and self._needs_name(frame.session, events)
        if unnamed or _comes_anew(frame):
            self.lost.add(frame.position, self._next)
            return
        if events or frame.row(0)[3] != MERGED:
            self._end_merge(_half_of(frame.session, events))
        else:  # it is sealed and nobody has its key: it is whole, so both halves are there
            self._half = None
        for event in events:
            self._found(event)
            self._note(frame.session, event)
        stream = self._stream(frame.session)
        self._fill(stream, frame.version)
        if frame.version != stream.version:  # there twice, or so far on as no session ever was
            self.lost.add(frame.position, self._next)
            return
        if not proven:
            self._doubt(frame)
        self._carry(stream, frame)

    def _note(self, session: str, event: AnyEvent) -> None:
        """Remember what a fact says of keys, and of payloads that must not come back."""
        if isinstance(event, KeyCreated):
            self._named.add(event.key)
        elif isinstance(event, (EraseRequested, KeyShredded)):
            self._erased.add(session)
        elif isinstance(event, Redacted):
            self._gone.append(Shred(session, event.version, event.version))

    def _carry(self, stream: _Stream, frame: Frame) -> None:
        """Take a frame over as it is, or where it is damaged event by event."""
        self._time = max(self._time, frame.recorded_at)
        _, content = (frame.kept_key and self._salvage.keyed(frame.kept_key)) or (0, None)
        try:
            self._carrier.take(frame, content)
            self.kept += frame.count
        except Corruption:
            self._take_apart(frame, content)
        stream.version, stream.number = frame.last_version + 1, frame.next_number()

    def _doubt(self, frame: Frame) -> None:
        """Name the frame that is taken next as one that nothing proves."""
        first, was = self._carrier.taken, frame.position
        before = self.unproven[-1] if self.unproven else None
        if before and before.last + 1 == first and was - before.was == first - before.first:
            first, was = before.first, before.was
            self.unproven.pop()
        self.unproven.append(Unproven(first, self._carrier.taken + frame.count - 1, was))

    def _needs_name(self, session: str, events: list[AnyEvent]) -> bool:
        """Return True for what means nothing in a session of another name.

        A merge says in which sessions it stands; what is sealed opens in its own only.
        """
        return self._log.codec.seal is not None or _half_of(session, events) is not None

    def _take_apart(self, frame: Frame, content: bytes | None) -> None:
        """Carry the events of a frame one by one, placeholders for those that are damaged."""
        came = []
        for index, row in enumerate(frame.rows()):
            try:
                made = append_of(frame, content, draft_of(frame, index, index + 1))
                came.append(index)
            except Corruption:
                version, position = frame.version + index, frame.position + index
                self.lost.add(position, position + 1)
                self.parts.append(LostPart(frame.session, version, version))
                made = self._placeholder(frame.session, _lost(version, row[3] == MESSAGE))
            key = frame.key if index == 0 else None
            self._carrier.take_append(replace(made, key=key))
        self.kept += len(came)
        self._carrier.hide(frame, came)  # a placeholder is no line whose payload is gone

    def _shred(self) -> None:
        """Take away what was redacted or erased: an older page may have had the payload still."""
        for each in self._gone:
            self._log.shred(each._replace(whole=self._goes_whole(each)))
        for session in self._erased:
            last = self._stream(session).version
            self._log.shred(Shred(session, 0, last, whole=True))

    def _goes_whole(self, redacted: Shred) -> bool:
        """Return True where not only words are to go.

        Values go where a merge brought them from a session that is erased, and all of a
        placeholder does that is no message.
        """
        with suppress(EventStoreError):
            frame = frames_at(self._log, redacted.session, redacted.first, frames_max=1)[0]
            fact = frame.structure(redacted.first - frame.version)
            if isinstance(fact, BranchMerged):
                return fact.source in self._erased
            single = MessageAppended, HistorySummarized, ContextSet, MetadataUpdated
            return not isinstance(fact, single)
        return False

    # -- placeholders ------------------------------------------------------------------------

    def _found(self, event: AnyEvent) -> None:
        """Make room for what a fact says of other sessions, where the end of them is lost."""
        if isinstance(event, BranchCreated):
            self._fill(self._stream(event.parent), event.at_version + 1)
        elif isinstance(event, BranchMerged):
            for session, version in [(event.source, event.source_version), *event.base]:
                self._fill(self._stream(session), version + 1)
            self._show(event.brought + event.hidden)
        elif isinstance(event, (MessagesPruned, HistorySummarized)):
            self._show(event.spans)

    def _show(self, spans: Iterable[Span]) -> None:
        for span in spans:
            stream = self._stream(span.session)
            if span.note:
                self._fill(stream, span.start + 1)
            while stream.number < span.stop and not span.note:
                if not self._fill(stream, stream.version + max(span.stop - stream.number, 1)):
                    break

    def _fill(self, stream: _Stream, version: int) -> bool:
        """Put placeholders for all missing versions before this one; False if they are too many."""
        first = stream.version
        if self._carrier.taken + version - first > self._room:
            return False
        while stream.version < version:
            self._put(stream, _lost(stream.version, self._is_message(stream)))
        if stream.version > first:
            self.parts.append(LostPart(stream.name, first, stream.version - 1))
        return True

    def _is_message(self, stream: _Stream) -> bool:
        """Return whether the next lost event is to be a message: first all that a hole had are."""
        while stream.known and stream.known[0][0] <= stream.version:
            stream.known.popleft()
        return not stream.known or stream.number < stream.known[0][1]

    def _put(self, stream: _Stream, fact: Event) -> None:
        self._carrier.take_append(self._placeholder(stream.name, fact))
        stream.version += 1
        stream.number += isinstance(fact, MessageAppended)

    def _placeholder(self, session: str, fact: Event) -> Append:
        """Return the append of a placeholder, sealed as the others of its session are."""
        codec = self._log.codec
        key = STORE_KEY if session == SYSTEM else self._key(self._stream(session))
        made = draft(session, [fact], codec, self._salts.take(1), (), key)
        return Append((made,), (ANY,), recorded_at=self._time)

    def _key(self, stream: _Stream) -> int:
        """Return the key that seals a session, made anew where none is left."""
        seal = self._log.codec.seal
        if seal is not None and (not stream.key or seal.opened().commitment(stream.key) is None):
            stream.key, _ = seal.opened().fresh()
        return stream.key

    def _name_keys(self) -> None:
        """Say in the system stream which keys seal sessions, where the facts of that are lost."""
        seal = self._log.codec.seal
        vault = None if seal is None else seal.vault
        if vault is None:
            return
        for key in {each.key for each in self._streams.values() if each.version}:
            digest = vault.commitment(key)
            if digest is not None and key not in self._named:
                system = self._stream(SYSTEM)
                self._fill(system, 1)
                self._put(system, KeyCreated(key, digest.hex()))

    def _end_merge(self, half: _Half | None) -> None:
        """Where only one half of a merge was whole, write the other: the target's comes first."""
        before, self._half = self._half, None
        if before is not None and half is not None and half.matches(before):
            return
        if before is not None:
            fact = before.fact
            self._put_half(fact.source, fact.source_version + 1, before.marker)
        if half is None or half.session == half.fact.into:
            self._half = half
            return
        self._found(half.fact)
        into, version = half.fact.into, half.fact.into_version
        if self._put_half(into, version, _without_values(half.marker)):
            self.parts.append(LostPart(into, version, version))

    def _put_half(self, session: str, version: int, fact: BranchMerged) -> bool:
        """Put a half of a merge at its version, unless the session goes further already."""
        stream = self._stream(session)
        self._fill(stream, version)
        if stream.version != version:
            return False
        self._put(stream, fact)
        return True


def _half_of(session: str, events: Iterable[AnyEvent]) -> _Half | None:
    return next((_Half(session, each) for each in events if isinstance(each, BranchMerged)), None)


def _comes_anew(frame: Frame) -> bool:
    """Return True for a damaged fact that needs no placeholder, which would only be in the way.

    What a merge's other half says stands there; the end of an erasure, after which nothing else
    may come, is said again by whoever opens the store.
    """
    if frame.row(0)[3] not in (MERGED, KEY_SHREDDED):
        return False
    with suppress(Corruption):
        draft_of(frame)
        return False
    return True


def _without_values(marker: BranchMerged) -> BranchMerged:
    """Return the half of a merge that changes a session, of which only the marker is whole."""
    return marker if marker.summary is None else replace(marker, summary=_lost_fields())


def _lost(version: int, message: bool) -> Event:  # noqa: FBT001 - which of two placeholders
    """Return the placeholder of an event."""
    if not version:
        return SessionCreated({LOST: True})
    return MessageAppended(Message(_lost_fields())) if message else Custom(LOST, {})


def _lost_fields() -> dict[str, Json]:
    return {"role": "system", "content": LOST_TEXT, "metadata": {LOST: True}}


def _key_of(frame: Frame) -> int:
    """Return the id of the key that seals a frame's payloads, STORE_KEY where none says another."""
    for index in range(frame.count):
        try:
            key = frame.key_id(index)
        except EventStoreError:
            continue
        if key:
            return key
    return STORE_KEY
