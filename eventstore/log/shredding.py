"""Shredding: a frame's bytes become the same frame with some payloads gone.

Invariants: everything here is a function over values; the entry of every event stays byte for
byte, since the two digests that its payload gave it are kept in the payload's place; what is left
besides, the residue, holds what folds need and nothing that anybody said; shredding what is
shredded changes nothing.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from msgspec.structs import replace
from xxhash import xxh3_64_intdigest

from .. import events as ev
from ..errors import KeyShredded
from ..events import AnyEvent, Event, Span
from ..messages import Json
from .codec import SCHEMA_OF, encode_all
from .draft import laid_out
from .format import (
    CHECKSUM,
    FRAME_HEAD_BYTES,
    MESSAGE,
    NOTES,
    OCCURRED,
    OCCURRED_TIME,
    OUTLIVING,
    RESIDUE_SCHEMA,
    SHREDDED,
)
from .frame import Frame, Row
from .vault import STORE_KEY


class Shred(NamedTuple):
    """The payloads of versions `first..last` of a stream are to go.

    With `whole` everything that was said goes and only structure stays; without it what one
    message or summary shows, a value, or what a single fact tells.
    """

    session: str
    first: int
    last: int
    whole: bool = False


# -- residues --------------------------------------------------------------------------------


def stripped(event: Event) -> AnyEvent | None:
    """Return what is left of an event when its session is erased, None for nothing."""
    strip = _STRIPS.get(type(event))
    return None if strip is None else strip(event)


def muted(event: Event) -> AnyEvent | None:
    """Return what is left of a fact when it is redacted, None for nothing.

    A value that is gone is none, until the next one: the one before it does not come back.
    """
    if isinstance(event, ev.ContextSet):
        return ev.ContextSet(event.key)
    if isinstance(event, ev.MetadataUpdated):
        return ev.MetadataUpdated(_nulled(event.patch))
    if isinstance(event, (ev.HistorySummarized, ev.BranchMerged)):
        return replace(event, summary={})
    assert isinstance(event, TOLD)
    return None


TOLD = (ev.MessageAppended, ev.ToolCallRecorded, ev.ErrorRecorded, ev.Custom)
"""Facts of which a redaction leaves nothing."""


def _nulled(patch: dict[str, Json]) -> dict[str, Json]:
    """Return the merge patch that removes what another one sets, and no more."""
    return {k: _nulled(v) if isinstance(v, dict) else None for k, v in patch.items()}


def _created(event: ev.SessionCreated) -> AnyEvent:
    return ev.SessionCreated(
        ttl=event.ttl,
        expires_at=event.expires_at,
        max_messages=event.max_messages,
        token_limit=event.token_limit,
    )


def _branched(event: ev.BranchCreated) -> AnyEvent:
    return ev.BranchCreated(event.parent, event.at_version)


def _merged(event: ev.BranchMerged) -> AnyEvent:
    bare = replace(event, metadata={}, context={})
    return bare if event.summary is None else replace(bare, summary={})


def _without_reason(event: ev.MessagesPruned | ev.SessionClosed) -> AnyEvent:
    return replace(event, reason=None)


def _whole(event: AnyEvent) -> AnyEvent:
    return event


_STRIPS: dict[type[Event], Callable[..., AnyEvent]] = {
    ev.SessionCreated: _created,
    ev.BranchCreated: _branched,
    ev.BranchMerged: _merged,
    ev.MessagesPruned: _without_reason,
    ev.HistorySummarized: lambda event: replace(event, summary={}),
    ev.SessionRewound: _whole,
    ev.SessionClosed: _without_reason,
    ev.SessionReopened: _whole,
    ev.SessionArchived: _without_reason,
    ev.SessionDeleted: _without_reason,
    ev.TtlExtended: _whole,
}
"""What is not here leaves nothing: messages, values, tool calls, errors, the users' own facts."""


def residue_of(event: AnyEvent | None, code: int) -> bytes:
    """Return the bytes of a residue: its schema, then msgpack; empty for None."""
    return b"" if event is None else RESIDUE_SCHEMA.pack(SCHEMA_OF[code]) + encode_all([event])[0]


# -- frames ----------------------------------------------------------------------------------


def shredded(frame: Frame, wanted: Shred) -> bytes:
    """Return the frame's bytes with the wanted payloads gone; the same bytes if they were.

    Facts that outlive an erasure are left as they are. Raises Corruption where an event's bytes
    are damaged.
    """
    events = []
    for index in range(frame.count):
        row, body = frame.stored(index)
        if wanted.first <= frame.version + index <= wanted.last and row[3] not in OUTLIVING:
            row, body = _destroyed(frame, index, wanted)
        events.append((row, body))
    return rebuilt(frame, events)


def _destroyed(frame: Frame, index: int, wanted: Shred) -> tuple[Row, bytes]:
    """Return head and body of one event without its payload."""
    row, body = frame.stored(index)
    try:
        event = frame.structure(index)
    except KeyShredded:  # nobody can read any more what would be left
        event = None
    left = None if event is None else (stripped if wanted.whole else muted)(event)
    if row[5] & SHREDDED and left == event:
        return row, body  # a residue sealed again would be other bytes
    residue = residue_of(left, row[3])
    if residue and frame.codec.seal is not None:
        residue = frame.codec.seal.opened().seal(STORE_KEY, residue, frame.bound(index))
    occurred = body[: OCCURRED_TIME.size] if row[5] & OCCURRED else b""
    return (*row[:5], row[5] | SHREDDED, *row[6:]), occurred + frame.digests(index) + residue


def rebuilt(frame: Frame, events: Iterable[tuple[Row, bytes]]) -> bytes:
    """Return the frame with these event heads and bodies; ends and checksums are made anew."""
    heads, bodies = laid_out(events)
    covered = frame.raw[CHECKSUM.size : FRAME_HEAD_BYTES] + heads + frame.names
    checksum = CHECKSUM.pack(xxh3_64_intdigest(covered, frame.position))
    return checksum + covered + bodies


# -- hidden lines ----------------------------------------------------------------------------


def hidden_lines(frame: Frame, indexes: Iterable[int] | None = None) -> list[Span]:
    """Return the lines that no list may show, their payloads being gone: of all events or some."""
    asked = range(frame.count) if indexes is None else indexes
    lines = (line_at(frame, index) for index in asked if frame.erased(index))
    return [line for line in lines if line is not None]


def line_at(frame: Frame, index: int) -> Span | None:
    """Return the line that an event is shown as, or was or might be; None where it never is one."""
    code, version = frame.row(index)[3], frame.version + index
    if code == MESSAGE:
        number = frame.message_number(index)
        return Span(frame.session, number, number + 1)
    return Span(frame.session, version, version + 1, note=True) if code in NOTES else None


def hidden_with(known: Iterable[Span], more: Iterable[Span]) -> list[Span]:
    """Return the lines of both lists, all of one session, as few spans in order."""
    made: list[Span] = []
    for span in sorted({*known, *more}, key=lambda span: (span.note, span.start)):
        last = made[-1] if made else None
        if last is not None and last.note == span.note and span.start <= last.stop:
            made[-1] = Span(span.session, last.start, max(last.stop, span.stop), span.note)
        else:
            made.append(span)
    return made
