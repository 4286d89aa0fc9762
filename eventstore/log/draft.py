"""A draft: what the caller of an append encodes, and the frame that it becomes at its place.

Invariants: event heads and bodies don't depend on the position that the append gets, so they
are made by the caller and travel as they are; place() adds the head that binds them. frame.py
is the reader of what is written here.
"""

from collections.abc import Sequence
from hashlib import sha256
from itertools import repeat

import msgspec
from xxhash import xxh3_64_digest

from ..audit.entry import PAYLOAD_TAG, SALT_BYTES, entry_digests, entry_lead, session_digest
from ..errors import EventTooLarge, InvalidEvent
from ..events import BranchCreated, Event, MessageAppended, SessionCreated
from ..limits import APPEND_BYTES_MAX, APPEND_EVENTS_MAX
from ..messages import role_code
from .codec import SCHEMA_OF, Codec, encode_all
from .format import (
    CHECKSUM32,
    EVENT_HEAD,
    FRAME_FORMAT,
    FRAME_HEAD,
    MESSAGE,
    OCCURRED,
    OCCURRED_TIME,
    ONLY_MESSAGES,
    OUTLIVING,
    SEALED,
    TYPE_CODES,
)
from .names import Names, public_session
from .seal import bound_of
from .vault import STORE_KEY

_U32_MAX = (1 << 32) - 1

Mark = tuple[int, int, int]
"""Type, role and tokens of an event."""


class Draft(msgspec.Struct, frozen=True, gc=False):
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
    key: int = STORE_KEY,
) -> Draft:
    """Encode events (1 to APPEND_EVENTS_MAX) for one stream.

    `salts` holds 16 random bytes an event; `occurred`, where given, one time in ns or None an
    event; `key`, in an encrypted store, is the id of the session's. Raises InvalidEvent,
    EventTooLarge, and what Seal.seal_all() raises.
    """
    payloads = _payloads(events)
    marks = [_mark(event) for event in events]
    flag = SEALED if codec.seal else 0
    leads = _leads(flag, marks, occurred)
    packed = codec.compress_all(payloads)
    texts, proofs = _salted(salts, payloads, packed)
    if codec.seal is None:
        digests = [entry_digests(each) for each in proofs]
    else:
        bounds = _bounds(codec.names, session, leads, payloads, marks, packed)
        keys = [STORE_KEY if code in OUTLIVING else key for code, _, _ in marks]
        sealed = codec.seal.seal_all(session, keys, texts, bounds)
        pairs = list(zip(proofs, sealed, strict=True))
        texts = [proof + each for proof, each in pairs]
        digests = [entry_digests(proof, sha256(each).digest()) for proof, each in pairs]
    heads, bodies = _encoded(payloads, marks, packed, texts, occurred, flag)
    return Draft(
        session,
        len(events),
        sum([code == MESSAGE for code, _, _ in marks]),
        isinstance(events[0], (SessionCreated, BranchCreated)),
        b"".join(heads),
        b"".join(bodies),
        leads,
        digests,
    )


def _salted(
    salts: bytes, payloads: Sequence[bytes], packed: Sequence[tuple[int, bytes]]
) -> tuple[list[bytes], list[bytes]]:
    """Return each salt with its stored payload, and the commitment to each payload."""
    texts, proofs, at = [], [], 0
    for payload, (_, stored) in zip(payloads, packed, strict=True):
        salt = salts[at : at + SALT_BYTES]
        at += SALT_BYTES
        texts.append(salt + stored)
        proofs.append(sha256(PAYLOAD_TAG + salt + payload).digest())
    return texts, proofs


def _payloads(events: Sequence[Event]) -> list[bytes]:
    if not 0 < len(events) <= APPEND_EVENTS_MAX:
        raise InvalidEvent(f"an append takes 1 to {APPEND_EVENTS_MAX} events, not {len(events)}")
    payloads = encode_all(events)
    total = sum(map(len, payloads))
    if total > APPEND_BYTES_MAX:
        raise EventTooLarge(total, APPEND_BYTES_MAX, "append")
    return payloads


def _mark(event: Event) -> Mark:
    """Return (type, role, tokens): what the head says so that scans need no payload."""
    if type(event) is MessageAppended:
        return MESSAGE, role_code(event.message.fields), min(event.tokens, _U32_MAX)
    return TYPE_CODES[type(event)], 0, 0


def _leads(flag: int, marks: Sequence[Mark], occurred: Sequence[int | None]) -> list[bytes]:
    """Return bytes 0-15 of each event's entry; hardly any event brings a time of its own."""
    if not occurred:
        return [_LEADS[flag, code] for code, _, _ in marks]
    return [
        _LEADS[flag, code]
        if when is None
        else entry_lead(flag | OCCURRED, code, SCHEMA_OF[code], when)
        for (code, _, _), when in zip(marks, occurred, strict=True)
    ]


_LEADS = {
    (flag, code): entry_lead(flag, code, schema, 0)
    for code, schema in SCHEMA_OF.items()
    for flag in (0, SEALED)
}


def _bounds(
    names: Names,
    session: str,
    leads: Sequence[bytes],
    payloads: Sequence[bytes],
    marks: Sequence[Mark],
    packed: Sequence[tuple[int, bytes]],
) -> list[bytes]:
    """Return what each sealed payload is tied to, as Frame.bound() finds it again."""
    digest = session_digest(public_session(names, session))
    return [
        bound_of(lead, digest, len(payload), tokens, role, number)
        for lead, payload, (_, role, tokens), (number, _) in zip(
            leads, payloads, marks, packed, strict=True
        )
    ]


def _encoded(
    payloads: Sequence[bytes],
    marks: Sequence[Mark],
    packed: Sequence[tuple[int, bytes]],
    texts: Sequence[bytes],
    occurred: Sequence[int | None],
    flag: int,
) -> tuple[list[bytes], list[bytes]]:
    """Return the head with its checksum, and the body, of each event."""
    heads, bodies, end = [], [], 0
    for payload, (code, role, tokens), (number, _), body, when in zip(
        payloads, marks, packed, texts, occurred or repeat(None, len(texts)), strict=True
    ):
        flags = flag
        if when is not None:
            flags, body = flag | OCCURRED, OCCURRED_TIME.pack(when) + body  # noqa: PLW2901
        end += len(body)
        head = EVENT_HEAD.pack(
            end, len(payload), tokens, code, SCHEMA_OF[code], flags, role, number, 0
        )
        heads.append(head + xxh3_64_digest(head + body)[-CHECKSUM32.size :])
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
    return head + xxh3_64_digest(head + rest, position) + rest + draft.bodies
