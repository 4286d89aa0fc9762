"""A draft: what the caller of an append encodes, and the frame that it becomes at its place.

Invariants: a draft holds none of the caller's own objects; event heads and bodies don't depend on
the position that the append gets, so the drafts of many callers are packed in one go, and place()
adds the head that binds them. frame.py is the reader of what is written here.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import repeat

import msgspec
from xxhash import xxh3_64_digest, xxh3_64_intdigest

from ..audit.entry import (
    NONE_DIGEST,
    PAYLOAD_TAG,
    SALT_BYTES,
    entry_digests,
    entry_lead,
    session_digest,
)
from ..errors import EventTooLarge, InvalidEvent
from ..events import Event, MessageAppended
from ..limits import APPEND_BYTES_MAX, APPEND_EVENTS_MAX
from ..messages import role_code
from .codec import SCHEMA_OF, Codec, encode_all
from .format import (
    CHECKSUM32,
    CONTINUES,
    CREATING,
    EVENT_HEAD,
    FRAME_FORMAT,
    FRAME_HEAD,
    FRAME_NAMES,
    NAMED,
    OCCURRED,
    OCCURRED_TIME,
    ONLY_MESSAGES,
    OUTLIVING,
    SEALED,
    TYPE_CODES,
    U32_MAX,
)
from .names import Names, public_session
from .seal import bound_of
from .vault import STORE_KEY

Mark = tuple[int, int, int, int, int]
"""Tokens, type, schema, flags and role of an event, in the order of its head."""

CHECKSUM32_BYTES = CHECKSUM32.size

Packed = Sequence[tuple[int, bytes]]
"""Dictionary number and stored bytes of each payload."""


class Loose(msgspec.Struct, frozen=True, gc=False):
    """Events as they are before they are packed: payloads, marks, 16 bytes of salt for each."""

    payloads: list[bytes]
    marks: list[Mark]
    salts: bytes


class Draft(msgspec.Struct, gc=False):
    """The part of a frame that is made before its place is known: events of one stream.

    `heads` and `bodies` go to disk as they are; `leads` and `digests` are bytes 0-15 and
    168-231 of each event's entry. While `loose` is there the others are not: pack_all() makes
    them, of many drafts at once.
    """

    session: str
    count: int
    messages: int
    creates: bool
    leads: list[bytes]
    heads: bytes = b""
    bodies: bytes = b""
    digests: list[bytes] = []
    loose: Loose | None = None

    @property
    def only_messages(self) -> bool:
        """True where every event is a MessageAppended."""
        return self.messages == self.count

    @property
    def weight(self) -> int:
        """How many bytes it takes in memory, more or less."""
        return len(self.bodies) if self.loose is None else sum(map(len, self.loose.payloads))


Some = Sequence[tuple[Draft, Loose]]
"""Drafts to pack, and what is to be packed."""


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
    event; `key`, in an encrypted store, is the id of the session's, and the draft comes packed:
    who has no such key must hear of it now. Raises InvalidEvent, EventTooLarge, and what
    Seal.seal_all() raises.
    """
    payloads = _payloads(events)
    marks, leads = _marked(events, occurred, SEALED if codec.seal else 0)
    loose = Loose(payloads, marks, salts)
    made = Draft(
        session,
        len(events),
        list(map(type, events)).count(MessageAppended),
        TYPE_CODES[type(events[0])] in CREATING,
        leads,
        loose=loose,
    )
    if codec.seal:
        _pack([(made, loose)], codec.compress_all(payloads), codec, key)
    return made


def pack_all(drafts: Iterable[Draft], codec: Codec) -> None:
    """Compress, hash and lay out the events of those drafts that are not packed yet.

    Each step is taken for all of them before the next: where many have one event each that saves
    a fifth.
    """
    some: list[tuple[Draft, Loose]] = []
    payloads: list[bytes] = []
    for each in drafts:
        if each.loose is not None:
            some.append((each, each.loose))
            payloads += each.loose.payloads
    if some:
        _pack(some, codec.compress_all(payloads), codec)


def _pack(some: Some, packed: Packed, codec: Codec, key: int = STORE_KEY) -> None:
    """Pack drafts; in an encrypted store they come one by one."""
    if codec.seal is None:
        texts, digests = _salted(some, packed, NONE_DIGEST)
    else:
        [(made, loose)] = some
        texts, proofs = _salted(some, packed, b"")
        bounds = _bounds(codec.names, made, loose, packed)
        keys = [STORE_KEY if code in OUTLIVING else key for _, code, *_ in loose.marks]
        sealed = codec.seal.seal_all(made.session, keys, texts, bounds)
        pairs = list(zip(proofs, sealed, strict=True))
        texts = [proof + each for proof, each in pairs]
        digests = [entry_digests(proof, sha256(each).digest()) for proof, each in pairs]
    _lay_out(some, packed, texts, digests)


def _salted(some: Some, packed: Packed, tail: bytes) -> tuple[list[bytes], list[bytes]]:
    """Return each salt with its stored payload, and the commitment to each payload with a tail."""
    texts, proofs, stored = [], [], iter(packed)
    for _, loose in some:
        salts, at = loose.salts, 0
        for payload in loose.payloads:
            salt = salts[at : at + SALT_BYTES]
            at += SALT_BYTES
            texts.append(salt + next(stored)[1])
            proofs.append(sha256(PAYLOAD_TAG + salt + payload).digest() + tail)
    return texts, proofs


def _lay_out(some: Some, packed: Packed, texts: Sequence[bytes], digests: Sequence[bytes]) -> None:
    """Give each draft its heads, each with its checksum, its bodies and digests."""
    events = zip(packed, texts, digests, strict=True)
    for made, loose in some:
        heads, bodies, made.digests, end = [], [], [], 0
        for payload, mark, lead in zip(loose.payloads, loose.marks, made.leads, strict=True):
            (number, _), body, both = next(events)
            if mark[3] & OCCURRED:
                body = lead[_TIME_AT:] + body
            end += len(body)
            head = EVENT_HEAD.pack(end, len(payload), *mark, number)
            heads.append(head + xxh3_64_digest(head + body)[-CHECKSUM32_BYTES:])
            bodies.append(body)
            made.digests.append(both)
        made.heads, made.bodies, made.loose = b"".join(heads), b"".join(bodies), None


def _payloads(events: Sequence[Event]) -> list[bytes]:
    if not 0 < len(events) <= APPEND_EVENTS_MAX:
        raise InvalidEvent(f"an append takes 1 to {APPEND_EVENTS_MAX} events, not {len(events)}")
    payloads = encode_all(events)
    total = sum(map(len, payloads))
    if total > APPEND_BYTES_MAX:
        raise EventTooLarge(total, APPEND_BYTES_MAX, "append")
    return payloads


def _marked(
    events: Sequence[Event], occurred: Sequence[int | None], flag: int
) -> tuple[list[Mark], list[bytes]]:
    """Return what the head says of each event so that scans need no payload, and its lead.

    A lead is bytes 0-15 of an entry; hardly any event brings a time of its own.
    """
    marks, leads = [], []
    times = occurred or repeat(None, len(events))
    for event, when in zip(events, times, strict=True):
        code, flags, role, tokens = TYPE_CODES[type(event)], flag, 0, 0
        if type(event) is MessageAppended:
            role, given = role_code(event.message.fields), event.tokens
            tokens = given if given < U32_MAX else U32_MAX  # noqa: FURB136 - min(): 0.1 us each
        if when is None:
            leads.append(_LEADS[flag, code])
        else:
            flags |= OCCURRED
            leads.append(entry_lead(flags, code, SCHEMA_OF[code], when))
        marks.append((tokens, code, SCHEMA_OF[code], flags, role))
    return marks, leads


_TIME_AT = len(entry_lead(0, 0, 0, 0)) - OCCURRED_TIME.size
"""Where a lead has the caller's own time, as a body does."""

_LEADS = {
    (flag, code): entry_lead(flag, code, schema, 0)
    for code, schema in SCHEMA_OF.items()
    for flag in (0, SEALED)
}


def _bounds(names: Names, made: Draft, loose: Loose, packed: Packed) -> list[bytes]:
    """Return what each sealed payload is tied to, as Frame.bound() finds it again."""
    digest = session_digest(public_session(names, made.session))
    return [
        bound_of(lead, digest, len(payload), tokens, role, number)
        for lead, payload, (tokens, _, _, _, role), (number, _) in zip(
            made.leads, loose.payloads, loose.marks, packed, strict=True
        )
    ]


def laid_out(events: Iterable[tuple[Sequence[int], bytes]]) -> tuple[bytes, bytes]:
    """Return heads and bodies of events taken from frames: ends and checksums are made anew."""
    heads, bodies, end = [], [], 0
    for row, body in events:
        end += len(body)
        head = EVENT_HEAD.pack(end, *row[1:-1])
        heads.append(head + CHECKSUM32.pack(xxh3_64_intdigest(head + body) & U32_MAX))
        bodies.append(body)
    return b"".join(heads), b"".join(bodies)


def frame_names(actor: int, names: Sequence[bytes]) -> bytes:
    """Return what a frame says of an actor's reference, 0 for nobody, and of its names.

    `names` are key, correlation and causation id, and the stream's name in its first frame.
    """
    if actor or any(names):
        return b"".join((FRAME_NAMES.pack(actor, *map(len, names)), *names))
    return b""


def place(
    draft: Draft,
    named: bytes,
    session: int,
    first: tuple[int, int, int],
    previous: int,
    recorded_at: int,
    *,
    continues: bool,
) -> bytes:
    """Return the frame of a draft at its place.

    `named` as frame_names() gives it; `session` is a reference; `first` the first position, version
    and message number; `previous` the stream's previous position or -1; `continues` says that it
    goes on with an append.
    """
    position, version, number = first
    flags = ONLY_MESSAGES if draft.messages == draft.count else 0
    if named:
        flags |= NAMED
    if continues:
        flags |= CONTINUES
    fixed = FRAME_HEAD.pack(
        FRAME_FORMAT, flags, draft.count, session, version, number, previous + 1, recorded_at
    )
    covered = fixed + draft.heads + named
    return xxh3_64_digest(covered, position) + covered + draft.bodies
