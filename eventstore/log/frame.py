"""A frame: one append's bytes in one stream. draft.py writes it, recorded.py shows one event of it.

Invariants: a frame's head carries position-bound numbers under one checksum (seeded with the
first position), and each event has a checksum of its own. Bytes that don't match raise
Corruption, never data; sealed bytes are opened only where the log has their key.
"""

import struct
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import accumulate

from xxhash import xxh3_64_intdigest

from ..audit.entry import (
    DIGESTS_BYTES,
    SALT_BYTES,
    entry_digests,
    entry_lead,
    payload_commitment,
    session_digest,
)
from ..errors import UNDECODABLE, Corruption, KeyShredded
from ..events import AnyEvent
from ..messages import Message
from .codec import SCHEMA_OF, Codec, decode, decode_message
from .format import (
    ACTOR_NAME,
    CAUSATION_NAME,
    CHECKED_FRAME_HEAD,
    CHECKSUM,
    CONTINUES,
    CORRELATION_NAME,
    EVENT_HEAD,
    EVENT_ROW,
    FRAME_FORMAT,
    FRAME_HEAD_BYTES,
    FRAME_NAMES,
    KEY_NAME,
    MESSAGE,
    NAMED,
    OCCURRED,
    OCCURRED_TIME,
    ONLY_MESSAGES,
    REF,
    RESIDUE_SCHEMA,
    SEALED,
    SHREDDED,
    U32_MAX,
)
from .names import public_session
from .recorded import Recorded
from .seal import COMMITMENT_BYTES, bound_of
from .vault import sealed_with

_MESSAGE_SCHEMA = SCHEMA_OF[MESSAGE]

_row_at, _end_at = EVENT_ROW.unpack_from, REF.unpack_from

Row = tuple[int, ...]
"""An event head as EVENT_ROW has it."""


class Frame:
    """One append in one stream, as it is kept: its head checked, events decoded when asked for."""

    __slots__ = (
        "_bodies_at",
        "_digest",
        "_names_at",
        "_numbers",
        "actor_ref",
        "actor",
        "codec",
        "count",
        "flags",
        "last_position",
        "last_version",
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
    last_position: int
    last_version: int
    number: int
    position: int
    previous: int
    recorded_at: int
    session: str
    version: int

    def __init__(self, raw: bytes, last_position: int, codec: Codec) -> None:
        try:
            (
                checksum,
                layout,
                self.flags,
                count,
                self.session_ref,
                self.version,
                self.number,
                previous,
                self.recorded_at,
            ) = CHECKED_FRAME_HEAD.unpack_from(raw)
            bodies_at = names_at = FRAME_HEAD_BYTES + count * EVENT_ROW.size
            if self.flags & NAMED:
                self.actor_ref, *lengths = FRAME_NAMES.unpack_from(raw, names_at)
                bodies_at += FRAME_NAMES.size + sum(lengths)
            else:
                self.actor_ref = 0
            position = last_position - count + 1
            covered = raw[CHECKSUM.size : bodies_at]
            if position < 0 or xxh3_64_intdigest(covered, position) != checksum:
                raise Corruption(last_position, "frame head does not match its checksum")
            end = bodies_at + _end_at(raw, names_at - EVENT_ROW.size)[0]
        except struct.error:
            raise Corruption(last_position, f"frame has only {len(raw)} bytes") from None
        if layout != FRAME_FORMAT or len(raw) != end:
            raise Corruption(last_position, f"frame of layout {layout} has {len(raw)} bytes")
        self.raw, self.codec, self.count = raw, codec, count
        self.position, self.last_position = position, last_position
        self.last_version = self.version + count - 1
        self.previous = previous - 1
        self._names_at, self._bodies_at = names_at, bodies_at
        self._numbers: list[int] | None = None
        self._digest: bytes | None = None

    @property
    def only_messages(self) -> bool:
        """True where every event is a MessageAppended."""
        return bool(self.flags & ONLY_MESSAGES)

    @property
    def continues(self) -> bool:
        """True where it goes on with the append of the frame in front of it."""
        return bool(self.flags & CONTINUES)

    def goes_on(self, before: "Frame") -> bool:
        """Return True where it goes on with the append of this very frame, as far as both tell."""
        beside = self.continues and self.position == before.last_position + 1
        return beside and not self.kept_key and self.shared() == before.shared()

    def shared(self) -> tuple[int, int, bytes, bytes]:
        """Return what all frames of one append have in common: time, actor, ids."""
        return self.recorded_at, self.actor_ref, self._kept(1), self._kept(2)

    @property
    def key(self) -> str | None:
        """The append's idempotency key."""
        return self._name(KEY_NAME, self.kept_key)

    @property
    def correlation_id(self) -> str | None:
        """What the append belongs to."""
        return self._name(CORRELATION_NAME, self._kept(1))

    @property
    def causation_id(self) -> str | None:
        """What caused the append."""
        return self._name(CAUSATION_NAME, self._kept(2))

    @property
    def kept_key(self) -> bytes:
        """The idempotency key as it is on disk, empty for none."""
        return self._kept(0)

    @property
    def kept_session(self) -> bytes:
        """The stream's name as it is on disk, which its first frame has; empty in all others."""
        return self._kept(3)

    def _kept(self, index: int) -> bytes:
        names = self.names
        if not names:
            return b""
        _, *lengths = FRAME_NAMES.unpack_from(names)
        start = FRAME_NAMES.size + sum(lengths[:index])
        return names[start : start + lengths[index]]

    @property
    def names(self) -> bytes:
        """The actor's reference and the names, as they are on disk; empty for none of them."""
        return self.raw[self._names_at : self._bodies_at]

    def _name(self, kind: bytes, kept: bytes) -> str | None:
        try:
            return self.codec.names.shown(kind, kept) if kept else None
        except ValueError as error:
            raise Corruption(self.position, f"a name in the frame's head: {error}") from None

    def public_names(self) -> tuple[str, str | None, str | None, str | None]:
        """Return session, actor, correlation and causation id as entries hash them.

        Raises Corruption where one of them is no name.
        """
        names = self.codec.names
        actor = names.kept(ACTOR_NAME, self.actor) if self.actor else b""
        given = actor, self._kept(1), self._kept(2)
        try:
            who, what, why = (names.public(kept) if kept else None for kept in given)
        except ValueError as error:
            raise Corruption(self.position, f"a name in the frame's head: {error}") from None
        return public_session(names, self.session), who, what, why

    def row(self, index: int) -> Row:
        """Return one event's head: end, size, tokens, type, schema, flags, role, dictionary."""
        return _row_at(self.raw, FRAME_HEAD_BYTES + index * EVENT_ROW.size)

    def rows(self, low: int = 0, high: int | None = None) -> Iterator[Row]:
        """Iterate over the event heads `low <= index < high` without touching a payload."""
        stop = FRAME_HEAD_BYTES + (self.count if high is None else high) * EVENT_ROW.size
        return EVENT_ROW.iter_unpack(self.raw[FRAME_HEAD_BYTES + low * EVENT_ROW.size : stop])

    def message_indexes(self, start: int, stop: int) -> Sequence[int]:
        """Return the indexes of the messages whose number is in `start <= number < stop`."""
        low, high = max(start - self.number, 0), max(stop - self.number, 0)
        if self.flags & ONLY_MESSAGES:
            return range(low, min(high, self.count))
        return [index for index, row in enumerate(self.rows()) if row[3] == MESSAGE][low:high]

    def message_number(self, index: int) -> int:
        """Return how many messages of the stream come before the event at `index`."""
        if self.flags & ONLY_MESSAGES:
            return self.number + index
        if self._numbers is None:
            marks = (row[3] == MESSAGE for row in self.rows())
            self._numbers = list(accumulate(marks, initial=self.number))
        return self._numbers[index]

    def next_number(self) -> int:
        """Return how many messages the stream holds up to and with this frame."""
        if self.flags & ONLY_MESSAGES:
            return self.number + self.count
        return self.message_number(self.count)

    def stored(self, index: int) -> tuple[Row, bytes]:
        """Return one event's head and its body as it is on disk, checked."""
        raw, at, bodies_at = self.raw, FRAME_HEAD_BYTES + index * EVENT_ROW.size, self._bodies_at
        row = _row_at(raw, at)
        start = bodies_at + _end_at(raw, at - EVENT_ROW.size)[0] if index else bodies_at
        body = raw[start : bodies_at + row[0]]
        if xxh3_64_intdigest(raw[at : at + EVENT_HEAD.size] + body) & U32_MAX != row[-1]:
            raise Corruption(self.position + index, "event does not match its checksum")
        if row[5] and len(body) < _least(row[5]):
            what = f"event of flags {row[5]} has only {len(body)} bytes"
            raise Corruption(self.position + index, what)
        return row, body

    def erased(self, index: int) -> bool:
        """Return True for an event whose payload was redacted or erased, here or since."""
        return bool(self.row(index)[5] & SHREDDED) or self._outlived(index)

    def _outlived(self, index: int) -> bool:
        """Return True where this copy still has what was erased since, see Seal.gone."""
        seal = self.codec.seal
        if seal is None or not seal.gone:
            return False
        place = self.session, self.version + index
        return place in seal.left or self.key_id(index) in seal.gone

    def digests(self, index: int) -> bytes:
        """Return the two digests that an event's entry ends with, all checked."""
        row, body = self._content(index)
        if row[5] & SHREDDED:
            return body[:DIGESTS_BYTES]
        if row[5] & SEALED:
            sealed = body[COMMITMENT_BYTES:]
            return entry_digests(body[:COMMITMENT_BYTES], sha256(sealed).digest())
        salt, payload = body[:SALT_BYTES], self._payload(index, row, body)
        return entry_digests(payload_commitment(salt, payload))

    def key_id(self, index: int) -> int | None:
        """Return the id of the key that an event is sealed with, None for one that is not."""
        row, body = self._content(index)
        if row[5] & (SEALED | SHREDDED) != SEALED:
            return None
        try:
            return sealed_with(body[COMMITMENT_BYTES:])
        except ValueError as error:
            raise Corruption(self.position + index, str(error)) from None

    def bound(self, index: int) -> bytes:
        """Return what an event's sealed bytes are tied to: its head, session and own time."""
        _, size, tokens, code, schema, flags, role, number, *_ = self.row(index)
        lead = entry_lead(flags & ~SHREDDED, code, schema, self.occurred_at(index) or 0)
        if self._digest is None:
            self._digest = session_digest(public_session(self.codec.names, self.session))
        return bound_of(lead, self._digest, size, tokens, role, number)

    def structure(self, index: int) -> AnyEvent | None:
        """Return what folds need of an event: all of it, or of an erased one its residue."""
        row, body = self._content(index)
        if not row[5] & SHREDDED:
            return self._left(index) if self._outlived(index) else self.event(index)
        residue = body[DIGESTS_BYTES:]
        if not residue:
            return None
        residue = self._unsealed(index, residue) if row[5] & SEALED else residue
        schema = RESIDUE_SCHEMA.unpack_from(residue)[0]
        return self._decoded(index, row[3], schema, residue[RESIDUE_SCHEMA.size :])

    def _left(self, index: int) -> AnyEvent | None:
        assert self.codec.seal is not None
        return self.codec.seal.left.get((self.session, self.version + index))

    def _content(self, index: int) -> tuple[Row, bytes]:
        """Return one event's head and its body without the caller's own time, checked."""
        row, body = self.stored(index)
        return row, body[OCCURRED_TIME.size :] if row[5] & OCCURRED else body

    def opened(self, index: int) -> tuple[Row, bytes, bytes]:
        """Return one event's head, salt and uncompressed payload, all checked.

        Raises KeyShredded where the payload was redacted or erased, here or since, and
        StoreUnavailable where it is sealed and the log is open without its keyring.
        """
        if self.codec.seal is not None and self._outlived(index):
            raise KeyShredded(self.session, version=self.version + index)
        return self.unpacked(index)

    def unpacked(self, index: int) -> tuple[Row, bytes, bytes]:
        """Return what opened() does, also where the payload was erased since this copy was made."""
        row, body = self.stored(index)
        if row[5]:  # mostly an event has no flags, and then nothing else to be looked at
            body = self._bare(index)
        return row, body[:SALT_BYTES], self._payload(index, row, body)

    def _payload(self, index: int, row: Row, body: bytes) -> bytes:
        """Return the uncompressed payload behind an event's salt."""
        try:
            return self.codec.decompress(row[7], body[SALT_BYTES:], row[1])
        except ValueError as error:
            raise Corruption(self.position + index, str(error)) from None

    def _bare(self, index: int) -> bytes:
        """Return salt and stored payload of an event that has flags."""
        row, body = self._content(index)
        if row[5] & SHREDDED:
            raise KeyShredded(self.session, version=self.version + index)
        return self._unsealed(index, body[COMMITMENT_BYTES:]) if row[5] & SEALED else body

    def _unsealed(self, index: int, sealed: bytes) -> bytes:
        if self.codec.seal is None:
            what = "payload is sealed in a store that is not encrypted"
            raise Corruption(self.position + index, what)
        try:
            return self.codec.seal.open(sealed, self.bound(index), self.session)
        except ValueError as error:
            raise Corruption(self.position + index, str(error)) from None

    def event(self, index: int) -> AnyEvent:
        """Return one event, decoded.

        Plain messages take a way with fewer calls, 2.6 instead of 3.6 us; what is not in order
        there is found again, and named, on the way that all others take.
        """
        raw, at, bodies_at = self.raw, FRAME_HEAD_BYTES + index * EVENT_ROW.size, self._bodies_at
        end, size, _, code, schema, flags, _, number, checksum = _row_at(raw, at)
        if code == MESSAGE and schema == _MESSAGE_SCHEMA and not flags:
            start = bodies_at + _end_at(raw, at - EVENT_ROW.size)[0] if index else bodies_at
            body = raw[start : bodies_at + end]
            if xxh3_64_intdigest(raw[at : at + EVENT_HEAD.size] + body) & U32_MAX == checksum:
                try:
                    payload = self.codec.decompress(number, body[SALT_BYTES:], size)
                    return decode_message(payload, self.session, self.version + index)
                except UNDECODABLE:
                    return self._event(index)
        return self._event(index)

    def plain_messages(self, low: int, high: int) -> list[Message]:
        """Return messages from index `low` on: below `high`, up to what is none or not in order.

        One loop for all of it, and all decoded behind it, take a quarter less than event().
        """
        raw, bodies_at = self.raw, self._bodies_at
        numbers: list[int] = []
        stored: list[bytes] = []
        sizes: list[int] = []
        at = FRAME_HEAD_BYTES + low * EVENT_ROW.size
        start = bodies_at + _end_at(raw, at - EVENT_ROW.size)[0] if low else bodies_at
        for end, size, _, code, schema, flags, _, number, checksum in self.rows(low, high):
            body = raw[start : bodies_at + end]
            head = raw[at : at + EVENT_HEAD.size]
            if (
                code != MESSAGE
                or schema != _MESSAGE_SCHEMA
                or flags
                or xxh3_64_intdigest(head + body) & U32_MAX != checksum
            ):
                break
            numbers.append(number)
            stored.append(body[SALT_BYTES:])
            sizes.append(size)
            at, start = at + EVENT_ROW.size, bodies_at + end
        try:
            return self.codec.messages(numbers, stored, sizes, self.session, self.version + low)
        except UNDECODABLE:
            return []

    def _event(self, index: int) -> AnyEvent:
        row, _, payload = self.opened(index)
        return self._decoded(index, row[3], row[4], payload)

    def _decoded(self, index: int, code: int, schema: int, payload: bytes) -> AnyEvent:
        try:
            return decode(code, schema, payload, self.session, self.version + index)
        except (KeyError, *UNDECODABLE) as error:
            raise Corruption(self.position + index, f"payload is no event: {error}") from None

    def occurred_at(self, index: int) -> int | None:
        """Return the caller's own time of one event, ns, or None."""
        if not self.row(index)[5] & OCCURRED:
            return None
        return int(OCCURRED_TIME.unpack_from(self.stored(index)[1])[0])

    def recorded(
        self, first_version: int = 0, last_version: int = U32_MAX, *, reverse: bool = False
    ) -> list[Recorded]:
        """Return the events whose version is in the (inclusive) range."""
        if self.count == 1 and first_version <= self.version <= last_version:
            return [Recorded(self, 0)]  # so is mostly every frame: a third of the time
        low = max(first_version - self.version, 0)
        high = min(last_version - self.version + 1, self.count)
        indexes = range(low, high)
        return [Recorded(self, index) for index in (reversed(indexes) if reverse else indexes)]


def _least(flags: int) -> int:
    """Return how many bytes the body of an event has at least that has flags."""
    kept = DIGESTS_BYTES if flags & SHREDDED else COMMITMENT_BYTES if flags & SEALED else SALT_BYTES
    return kept + OCCURRED_TIME.size if flags & OCCURRED else kept
