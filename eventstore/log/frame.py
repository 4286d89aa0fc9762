"""A frame: the bytes of one append, and the view of one event inside it.

Invariants: a frame is written once and never re-encoded; its event heads and bodies don't
depend on the position it gets, so they can be made by the caller and travel as they are; its
head carries position-bound numbers under one checksum (seeded with the first position), and
each event has a checksum of its own. Bytes that don't match raise Corruption, never data.
"""

import struct
from collections.abc import Iterator, Sequence
from itertools import accumulate

import msgspec
from xxhash import xxh3_64_intdigest

from ..audit.entry import SALT_BYTES, entry_digests, entry_lead, payload_commitment
from ..errors import Corruption, EventTooLarge, InvalidEvent
from ..events import AnyEvent, BranchCreated, Event, MessageAppended, SessionCreated
from ..limits import APPEND_BYTES_MAX, APPEND_EVENTS_MAX
from ..messages import ROLES, role_code
from .codec import SCHEMA_OF, Codec, decode, encode_all
from .format import (
    CHECKSUM,
    CHECKSUM32,
    EVENT_HEAD,
    EVENT_ROW,
    FRAME_FORMAT,
    FRAME_HEAD,
    FRAME_HEAD_BYTES,
    MESSAGE,
    OCCURRED,
    OCCURRED_TIME,
    ONLY_MESSAGES,
    TYPE_CODES,
    TYPES,
)

_U32_MAX = (1 << 32) - 1

Row = tuple[int, ...]
"""An event head as EVENT_ROW has it."""


class Draft(msgspec.Struct, frozen=True):
    """The part of a frame that the caller makes: events of one stream, not yet placed.

    `heads` and `bodies` go to disk as they are; `leads` and `digests` are bytes 0-15 and
    168-231 of each event's entry.
    """

    session: str
    count: int
    messages: int
    creates: bool
    heads: bytes
    bodies: bytes
    leads: list[bytes]
    digests: list[bytes]

    @property
    def only_messages(self) -> bool:
        """True where every event is a MessageAppended."""
        return self.messages == self.count


def draft(
    session: str,
    events: Sequence[Event],
    codec: Codec,
    salts: bytes,
    occurred: Sequence[int | None] = (),
) -> Draft:
    """Encode events (1 to APPEND_EVENTS_MAX) for one stream.

    `salts` holds 16 random bytes an event; `occurred`, where given, one time in ns or None an
    event. Raises InvalidEvent and EventTooLarge.
    """
    if not 0 < len(events) <= APPEND_EVENTS_MAX:
        raise InvalidEvent(f"an append takes 1 to {APPEND_EVENTS_MAX} events, not {len(events)}")
    payloads = encode_all(events)
    total = sum(map(len, payloads))
    if total > APPEND_BYTES_MAX:
        raise EventTooLarge(total, APPEND_BYTES_MAX, "append")
    salted = [salts[at : at + SALT_BYTES] for at in range(0, len(salts), SALT_BYTES)]
    marks = [_mark(event) for event in events]
    times = occurred or [None] * len(events)
    heads, bodies = _encoded(payloads, marks, salted, times, codec)
    return Draft(
        session,
        len(events),
        sum(code == MESSAGE for code, _, _ in marks),
        isinstance(events[0], (SessionCreated, BranchCreated)),
        b"".join(heads),
        b"".join(bodies),
        [_lead(code, when) for (code, _, _), when in zip(marks, times, strict=True)],
        [entry_digests(payload_commitment(*each)) for each in zip(salted, payloads, strict=True)],
    )


def _mark(event: Event) -> tuple[int, int, int]:
    """Return (type, role, tokens): what the head says so that scans need no payload."""
    if type(event) is MessageAppended:
        return MESSAGE, role_code(event.message.fields), min(event.tokens, _U32_MAX)
    return TYPE_CODES[type(event)], 0, 0


def _lead(code: int, when: int | None) -> bytes:
    return _PLAIN_LEADS[code] if when is None else entry_lead(OCCURRED, code, SCHEMA_OF[code], when)


_PLAIN_LEADS = {code: entry_lead(0, code, schema, 0) for code, schema in SCHEMA_OF.items()}


def _encoded(
    payloads: Sequence[bytes],
    marks: Sequence[tuple[int, int, int]],
    salts: Sequence[bytes],
    times: Sequence[int | None],
    codec: Codec,
) -> tuple[list[bytes], list[bytes]]:
    """Return the head with its checksum, and the stored bytes, of each event."""
    heads, bodies, end = [], [], 0
    packed = codec.compress_all(payloads)
    for payload, (number, stored), (code, role, tokens), salt, when in zip(
        payloads, packed, marks, salts, times, strict=True
    ):
        flags, body = 0, salt + stored
        if when is not None:
            flags, body = OCCURRED, OCCURRED_TIME.pack(when) + body
        end += len(body)
        head = EVENT_HEAD.pack(
            end, len(payload), tokens, code, SCHEMA_OF[code], flags, role, number, 0
        )
        heads.append(head + CHECKSUM32.pack(xxh3_64_intdigest(head + body) & _U32_MAX))
        bodies.append(body)
    return heads, bodies


def place(
    draft: Draft,
    names: tuple[bytes, bytes, bytes],
    refs: tuple[int, int],
    first: tuple[int, int, int],
    previous: int,
    recorded_at: int,
) -> bytes:
    """Return the frame of a draft at its place.

    `names` are key, correlation and causation id; `refs` session and actor; `first` the first
    position, version and message number; `previous` the stream's previous position or -1.
    """
    position, version, number = first
    flags = ONLY_MESSAGES if draft.only_messages else 0
    key, correlation, causation = names
    head = FRAME_HEAD.pack(
        FRAME_FORMAT,
        flags,
        draft.count,
        *refs,
        version,
        number,
        len(key),
        len(correlation),
        len(causation),
        0,
        previous + 1,
        recorded_at,
    )
    rest = key + correlation + causation + draft.heads
    checksum = xxh3_64_intdigest(head + rest, position)
    return head + CHECKSUM.pack(checksum) + rest + draft.bodies


class Frame:
    """One append as it is kept, its head checked; events are decoded when asked for."""

    __slots__ = (
        "_bodies_at",
        "_heads_at",
        "_lengths",
        "_numbers",
        "actor_ref",
        "actor",
        "codec",
        "count",
        "flags",
        "number",
        "position",
        "previous",
        "raw",
        "recorded_at",
        "session",
        "session_ref",
        "version",
    )

    actor: str | None
    count: int
    flags: int
    number: int
    recorded_at: int
    session: str
    version: int

    def __init__(self, raw: bytes, last_position: int, codec: Codec) -> None:
        try:
            (
                layout,
                self.flags,
                self.count,
                self.session_ref,
                self.actor_ref,
                self.version,
                self.number,
                *lengths,
                _,
                previous,
                self.recorded_at,
            ) = FRAME_HEAD.unpack_from(raw)
            self._heads_at = FRAME_HEAD_BYTES + sum(lengths)
            self._bodies_at = self._heads_at + self.count * EVENT_ROW.size
            checksum = CHECKSUM.unpack_from(raw, FRAME_HEAD.size)[0]
        except struct.error:
            raise Corruption(last_position, f"frame has only {len(raw)} bytes") from None
        self.raw, self.codec = raw, codec
        self.position = last_position - self.count + 1
        self.previous = previous - 1
        self._lengths = lengths
        self._numbers: list[int] | None = None
        covered = raw[: FRAME_HEAD.size] + raw[FRAME_HEAD_BYTES : self._bodies_at]
        if self.position < 0 or xxh3_64_intdigest(covered, self.position) != checksum:
            raise Corruption(last_position, "frame head does not match its checksum")
        if layout != FRAME_FORMAT or len(raw) != self._bodies_at + self.row(self.count - 1)[0]:
            raise Corruption(last_position, f"frame of layout {layout} has {len(raw)} bytes")

    @property
    def last_position(self) -> int:
        """Position of the newest event of the frame."""
        return self.position + self.count - 1

    @property
    def last_version(self) -> int:
        """Version of the newest event of the frame."""
        return self.version + self.count - 1

    @property
    def only_messages(self) -> bool:
        """True where every event is a MessageAppended."""
        return bool(self.flags & ONLY_MESSAGES)

    @property
    def key(self) -> str | None:
        """The append's idempotency key."""
        return self._name(0)

    @property
    def correlation_id(self) -> str | None:
        """What the append belongs to."""
        return self._name(1)

    @property
    def causation_id(self) -> str | None:
        """What caused the append."""
        return self._name(2)

    def _name(self, index: int) -> str | None:
        start = FRAME_HEAD_BYTES + sum(self._lengths[:index])
        return self.raw[start : start + self._lengths[index]].decode() or None

    def row(self, index: int) -> Row:
        """Return one event's head: end, size, tokens, type, schema, flags, role, dictionary."""
        return EVENT_ROW.unpack_from(self.raw, self._heads_at + index * EVENT_ROW.size)

    def rows(self, low: int = 0, high: int | None = None) -> Iterator[Row]:
        """Iterate over the event heads `low <= index < high` without touching a payload."""
        stop = self._heads_at + (self.count if high is None else high) * EVENT_ROW.size
        return EVENT_ROW.iter_unpack(self.raw[self._heads_at + low * EVENT_ROW.size : stop])

    def message_indexes(self, start: int, stop: int) -> Sequence[int]:
        """Return the indexes of the messages whose number is in `start <= number < stop`."""
        low, high = max(start - self.number, 0), max(stop - self.number, 0)
        if self.only_messages:
            return range(low, min(high, self.count))
        return [index for index, row in enumerate(self.rows()) if row[3] == MESSAGE][low:high]

    def message_number(self, index: int) -> int:
        """Return how many messages of the stream come before the event at `index`."""
        if self.only_messages:
            return self.number + index
        if self._numbers is None:
            marks = (row[3] == MESSAGE for row in self.rows())
            self._numbers = list(accumulate(marks, initial=self.number))
        return self._numbers[index]

    def next_number(self) -> int:
        """Return how many messages the stream holds up to and with this frame."""
        return self.message_number(self.count)

    def stored(self, index: int) -> tuple[Row, bytes]:
        """Return one event's head and its body as it is on disk, checked."""
        at = self._heads_at + index * EVENT_ROW.size
        row = EVENT_ROW.unpack_from(self.raw, at)
        start = EVENT_ROW.unpack_from(self.raw, at - EVENT_ROW.size)[0] if index else 0
        body = self.raw[self._bodies_at + start : self._bodies_at + row[0]]
        if xxh3_64_intdigest(self.raw[at : at + EVENT_HEAD.size] + body) & _U32_MAX != row[9]:
            raise Corruption(self.position + index, "event does not match its checksum")
        return row, body

    def opened(self, index: int) -> tuple[Row, bytes, bytes]:
        """Return one event's head, salt and uncompressed payload, all checked."""
        row, body = self.stored(index)
        if row[5] & OCCURRED:
            body = body[OCCURRED_TIME.size :]
        try:
            return row, body[:SALT_BYTES], self.codec.decompress(row[7], body[SALT_BYTES:], row[1])
        except ValueError as error:
            raise Corruption(self.position + index, str(error)) from None

    def event(self, index: int) -> AnyEvent:
        """Return one event, decoded."""
        row, _, payload = self.opened(index)
        try:
            return decode(row[3], row[4], payload, self.session, self.version + index)
        except (KeyError, msgspec.MsgspecError) as error:
            raise Corruption(self.position + index, f"payload is no event: {error}") from None

    def occurred_at(self, index: int) -> int | None:
        """Return the caller's own time of one event, ns, or None."""
        if not self.row(index)[5] & OCCURRED:
            return None
        return int(OCCURRED_TIME.unpack_from(self.stored(index)[1])[0])

    def recorded(
        self, first_version: int = 0, last_version: int = _U32_MAX, *, reverse: bool = False
    ) -> Iterator["Recorded"]:
        """Iterate over the events whose version is in the (inclusive) range."""
        low = max(first_version - self.version, 0)
        high = min(last_version - self.version + 1, self.count)
        indexes = range(low, high)
        return (Recorded(self, index) for index in (reversed(indexes) if reverse else indexes))


class Recorded:
    """An event with its place: a view into its frame that decodes when asked.

    `position` (in the log), `session`, `version` (in the session), `recorded_at` and
    `occurred_at` (ns since the epoch, the latter None unless the caller gave one), `actor`,
    `correlation_id`, `causation_id`, `key` (on the first event of an append), `event`.
    """

    __slots__ = ("_event", "frame", "index")

    def __init__(self, frame: Frame, index: int) -> None:
        self.frame, self.index = frame, index
        self._event: AnyEvent | None = None

    @property
    def position(self) -> int:
        """Place in the log."""
        return self.frame.position + self.index

    @property
    def session(self) -> str:
        """The stream it belongs to."""
        return self.frame.session

    @property
    def version(self) -> int:
        """Place in the stream."""
        return self.frame.version + self.index

    @property
    def recorded_at(self) -> int:
        """Time of the commit, ns since the epoch; never goes backwards."""
        return self.frame.recorded_at

    @property
    def occurred_at(self) -> int | None:
        """The caller's own time, ns since the epoch."""
        return self.frame.occurred_at(self.index)

    @property
    def actor(self) -> str | None:
        """Who did it."""
        return self.frame.actor

    @property
    def correlation_id(self) -> str | None:
        """What it belongs to."""
        return self.frame.correlation_id

    @property
    def causation_id(self) -> str | None:
        """What caused it."""
        return self.frame.causation_id

    @property
    def key(self) -> str | None:
        """The idempotency key, on the first event of an append."""
        return None if self.index else self.frame.key

    @property
    def number(self) -> int:
        """How many messages of the stream come before it."""
        return self.frame.message_number(self.index)

    @property
    def type_code(self) -> int:
        """Number of the event's type on disk."""
        return self.frame.row(self.index)[3]

    @property
    def schema(self) -> int:
        """Number of the payload's schema."""
        return self.frame.row(self.index)[4]

    @property
    def tokens(self) -> int:
        """Tokens of a message, counted when it was appended."""
        return self.frame.row(self.index)[2]

    @property
    def size(self) -> int:
        """Bytes of the payload before compression."""
        return self.frame.row(self.index)[1]

    @property
    def role(self) -> str:
        """Role of a message, where it has a code; else the empty string."""
        return ROLES[self.frame.row(self.index)[6]]

    @property
    def type(self) -> str:
        """Name of the event's type; needs no decoding."""
        return TYPES[self.type_code].__name__

    @property
    def event(self) -> AnyEvent:
        """The typed event; raises Corruption where its bytes are damaged."""
        if self._event is None:
            self._event = self.frame.event(self.index)
        return self._event

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recorded) and _facts(self) == _facts(other)

    def __hash__(self) -> int:
        return hash((self.position, self.session, self.version))

    def __repr__(self) -> str:
        return f"<Recorded {self.position} {self.session!r}@{self.version} {self.type}>"


def _facts(recorded: Recorded) -> tuple[object, ...]:
    return (
        recorded.position,
        recorded.session,
        recorded.version,
        recorded.recorded_at,
        recorded.occurred_at,
        recorded.actor,
        recorded.correlation_id,
        recorded.causation_id,
        recorded.key,
        recorded.event,
    )
