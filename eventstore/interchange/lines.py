"""One line of our own JSONL: an event with all that the store keeps of it, and back.

    {"position": 7, "session": "support-42", "version": 2, "type": "MessageAppended", "schema": 1,
     "recorded_at": ns, "append": 6, "events": 3, "salt": hex, "commitment": hex,
     "event": {"type": "MessageAppended", "message": {...}, "tokens": 5},
     "occurred_at": ns, "actor": ..., "correlation_id": ..., "causation_id": ...,
     "key": ..., "content": hex}

`append` is the position of the append's first line and `events` the number of its lines: they
mark what was written atomically. `content` goes with `key`, on the first line of an append, and
is what makes a repeated key answer. `event` is the payload as it is stored.

Invariants: what is absent was never given; the event of a line encodes to the very bytes that
`commitment` = SHA-256(tag || salt || bytes) binds, so a changed line is found out.
"""

from collections.abc import Iterable, Iterator
from heapq import merge

import msgspec

from ..audit.entry import SALT_BYTES, payload_commitment
from ..errors import UNDECODABLE, Corruption, InvalidEvent, brief
from ..events import AnyEvent, MessageAppended
from ..limits import APPEND_EVENTS_MAX, NESTING_DEPTH_MAX
from ..log.base import FORGOTTEN, Log
from ..log.codec import SCHEMA_OF, decode, encode_all
from ..log.format import OCCURRED, TYPE_CODES
from ..log.frame import Frame
from ..log.recorded import Recorded
from ..messages import Json, check_json, check_message
from .sources import decoded, numbered

PAGE_FRAMES = 16
"""Frames of one stream that are looked at together while several streams are woven."""

APPEND_LINES_MAX = 2 * APPEND_EVENTS_MAX
"""Lines of one append: a merge writes to two streams."""

_CODES = {kind.__name__: code for kind, code in TYPE_CODES.items()}


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event; times in ns, bytes in hex."""

    position: int
    session: str
    version: int
    type: str
    schema: int
    recorded_at: int
    append: int
    events: int
    salt: str
    commitment: str
    event: dict[str, Json]
    occurred_at: int | None = None
    actor: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    key: str | None = None
    content: str | None = None


_decoder = msgspec.json.Decoder(Line)
_encode = msgspec.json.Encoder().encode

# -- out -------------------------------------------------------------------------------


def frames_of(log: Log, sessions: Iterable[str], size: int) -> Iterator[Frame]:
    """Iterate over the frames of some streams in the order of the log."""
    streams = [_stream(log, session, size) for session in sessions]
    return merge(*streams, key=lambda frame: frame.position)


def _stream(log: Log, session: str, size: int) -> Iterator[Frame]:
    version = 0
    while frames := log.read_stream(session, version, frames_max=PAGE_FRAMES):
        for frame in frames:
            if frame.position >= size:
                return
            yield frame
            version = frame.last_version + 1


def written(log: Log, frames: Iterable[Frame]) -> Iterator[bytes]:
    """Iterate over the lines of frames, frames of one append marked as one."""
    for append in _appends(frames):
        events = sum(frame.count for frame in append)
        content = _content(log, append[0])
        for frame in append:
            for index in range(frame.count):
                yield _encoded(frame, index, append[0].position, events, content)
                content = None


def _appends(frames: Iterable[Frame]) -> Iterator[list[Frame]]:
    """Put the frames of each append together, of those that are here."""
    append: list[Frame] = []
    for frame in frames:
        if append and not frame.goes_on(append[-1]):
            yield append
            append = []
        append.append(frame)
    if append:
        yield append


def _content(log: Log, frame: Frame) -> str | None:
    """Return what is kept of the command behind a key; an encrypted log gives it to nobody."""
    found = log.receipt_of(frame.key) if frame.key else None
    if found is None:
        return None
    return FORGOTTEN.hex() if log.codec.seal else found[0].hex()


def _encoded(frame: Frame, index: int, append: int, events: int, content: str | None) -> bytes:
    """Return the line of an event; raises Corruption for what was never appended."""
    try:
        return _encode(_line(frame, index, append, events, content)) + b"\n"
    except (TypeError, *UNDECODABLE) as error:  # msgpack has more than JSON
        raise Corruption(frame.position + index, f"payload is no event: {error}") from None


def _line(frame: Frame, index: int, append: int, events: int, content: str | None) -> Line:
    _check_there(frame, index)
    row, salt, payload = frame.opened(index)
    return Line(
        position=frame.position + index,
        session=frame.session,
        version=frame.version + index,
        type=Recorded(frame, index).type,
        schema=row[4],
        recorded_at=frame.recorded_at,
        append=append,
        events=events,
        salt=salt.hex(),
        commitment=payload_commitment(salt, payload).hex(),
        event=msgspec.msgpack.decode(payload),
        occurred_at=frame.occurred_at(index) if row[5] & OCCURRED else None,
        actor=frame.actor,
        correlation_id=frame.correlation_id,
        causation_id=frame.causation_id,
        key=frame.key if content else None,
        content=content,
    )


def _check_there(frame: Frame, index: int) -> None:
    """Raise InvalidEvent for an event that was redacted or erased: no file carries that."""
    if frame.erased(index):
        raise InvalidEvent(
            f"position {frame.position + index}, in session {frame.session!r}, was redacted or "
            "erased, which no file of events carries; make a backup, or export other sessions"
        )


# -- and in ----------------------------------------------------------------------------

Numbered = tuple[int, Line]
"""A line and its number in the file, from 1."""


def read_appends(lines: Iterable[bytes]) -> Iterator[list[Numbered]]:
    """Iterate over the appends of a file; raises InvalidEvent at one that is not whole."""
    append: list[Numbered] = []
    for number, raw in numbered(lines):
        line = decoded(raw, f"line {number}", _decoder)
        append.append((number, line))
        _check_place(number, line, append[0][1], len(append))
        if len(append) == line.events:
            yield append
            append = []
    if append:
        number, line = append[-1]
        raise InvalidEvent(
            f"the file ends after line {number}, with {len(append)} of the {line.events} events"
            f" of the append at position {line.append}"
        )


def _check_place(number: int, line: Line, first: Line, count: int) -> None:
    """Raise unless the line goes on with the append that `first` began."""
    if count == 1 and line.append != line.position:
        raise InvalidEvent(
            f"line {number}: the lines of append {line.append} before it are missing"
        )
    if not count <= line.events <= APPEND_LINES_MAX:
        raise InvalidEvent(f"line {number}: an append of {line.events} events can't be")
    if _shared(line) != _shared(first):
        raise InvalidEvent(f"line {number} is not of the append that line {number - 1} is of")
    if count > 1 and line.key is not None:
        raise InvalidEvent(f"line {number}: only the first event of an append has its key")


def _shared(line: Line) -> tuple[object, ...]:
    """Return what all lines of one append have in common."""
    return (
        line.append,
        line.events,
        line.recorded_at,
        line.actor,
        line.correlation_id,
        line.causation_id,
    )


def event_of(number: int, line: Line) -> AnyEvent:
    """Return the event of a line, checked; raises InvalidEvent."""
    code, where = _CODES.get(line.type), f"line {number}"
    if code is None or line.event.get("type") != line.type:
        raise InvalidEvent(
            f"{where}: {brief(line.type)} is no type of event, or not that of the event"
        )
    if line.schema != SCHEMA_OF[code]:
        raise InvalidEvent(
            f"{where}: {line.type} of schema {line.schema}; this release writes {SCHEMA_OF[code]}"
        )
    check_json(line.event, where, NESTING_DEPTH_MAX + 2)
    try:
        payload = msgspec.msgpack.encode(line.event)
        event = decode(code, line.schema, payload, line.session, line.version)
        if isinstance(event, MessageAppended):
            check_message(event.message)
    except (msgspec.MsgspecError, ValueError, InvalidEvent) as error:
        raise InvalidEvent(f"{where}: {error}") from None
    return event


def salt_of(number: int, line: Line) -> bytes:
    """Return the salt of a line."""
    return _bytes(line.salt, SALT_BYTES, f"line {number}: salt")


def content_of(number: int, line: Line) -> bytes:
    """Return the digest of what the append's caller asked for."""
    return _bytes(line.content or "00" * 16, 16, f"line {number}: content")


def check_commitment(number: int, line: Line, event: AnyEvent) -> int:
    """Return the bytes of an event's payload; InvalidEvent unless they are those exported."""
    try:
        payload = encode_all([event])[0]
    except InvalidEvent as error:
        raise InvalidEvent(f"line {number}: {error}") from None
    if payload_commitment(salt_of(number, line), payload).hex() != line.commitment:
        raise InvalidEvent(
            f"line {number}: the event is not the one its commitment was made for;"
            " the file was changed after the export"
        )
    return len(payload)


def _bytes(text: str, size: int, what: str) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != size:
        raise InvalidEvent(f"{what} must be {size} bytes in hex, not {text[:64]!r}")
    return found
