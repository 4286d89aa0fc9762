"""A draft: what the caller of an append encodes, and the frame that it becomes at its place.

Invariants: a draft holds none of the caller's own objects; event heads and bodies don't depend on
the position that the append gets, so the drafts of many callers are packed in one go, and place()
adds the head that binds them. frame.py is the reader of what is written here.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import accumulate, repeat

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
        _pack([made], loose, codec, key)
    return made


def pack_all(drafts: Iterable[Draft], codec: Codec) -> None:
    """Compress, hash and lay out the events of those drafts that are not packed yet.

    Each step is taken for the events of all of them before the next: for many small drafts half
    the time of one draft after the other.
    """
    some: list[Draft] = []
    payloads: list[bytes] = []
    marks: list[Mark] = []
    salts: list[bytes] = []
    for each in drafts:
        if each.loose is not None:
            some.append(each)
            payloads += each.loose.payloads
            marks += each.loose.marks
            salts.append(each.loose.salts)
    if some:
        _pack(some, Loose(payloads, marks, b"".join(salts)), codec)


def _pack(some: Sequence[Draft], loose: Loose, codec: Codec, key: int = STORE_KEY) -> None:
    """Pack drafts, whose events all are in `loose`; sealed ones come one by one."""
    packed = codec.compress_all(loose.payloads)
    texts, proofs = _salted(loose, packed)
    if codec.seal is None:
        digests = [proof + NONE_DIGEST for proof in proofs]
    else:
        [made] = some
        bounds = _bounds(codec.names, made, loose, packed)
        keys = [STORE_KEY if code in OUTLIVING else key for _, code, *_ in loose.marks]
        sealed = codec.seal.seal_all(made.session, keys, texts, bounds)
        pairs = list(zip(proofs, sealed, strict=True))
        texts = [proof + each for proof, each in pairs]
        digests = [entry_digests(proof, sha256(each).digest()) for proof, each in pairs]
    _lay_out(some, loose, packed, texts, digests)


def _salted(loose: Loose, packed: Packed) -> tuple[list[bytes], list[bytes]]:
    """Return each salt with its stored payload, and the commitment to each payload."""
    salts = [loose.salts[at : at + SALT_BYTES] for at in range(0, len(loose.salts), SALT_BYTES)]
    texts = [salt + stored for salt, (_, stored) in zip(salts, packed, strict=True)]
    proofs = [
        sha256(PAYLOAD_TAG + salt + payload).digest()
        for salt, payload in zip(salts, loose.payloads, strict=True)
    ]
    return texts, proofs


def _lay_out(
    some: Sequence[Draft],
    loose: Loose,
    packed: Packed,
    texts: Sequence[bytes],
    digests: list[bytes],
) -> None:
    """Give each draft its heads with their checksums, its bodies and digests."""
    leads = [lead for made in some for lead in made.leads]
    bodies = [
        lead[_TIME_AT:] + text if mark[3] & OCCURRED else text
        for lead, mark, text in zip(leads, loose.marks, texts, strict=True)
    ]
    bare = [
        EVENT_HEAD.pack(end, len(payload), *mark, number)
        for end, payload, mark, (number, _) in zip(
            _ends(some, bodies), loose.payloads, loose.marks, packed, strict=True
        )
    ]
    heads = [
        head + xxh3_64_digest(head + body)[-CHECKSUM32_BYTES:]
        for head, body in zip(bare, bodies, strict=True)
    ]
    start, joined = 0, b"".join
    for made in some:
        stop = start + made.count
        made.heads, made.bodies = joined(heads[start:stop]), joined(bodies[start:stop])
        made.digests, made.loose = digests[start:stop], None
        start = stop


def _ends(some: Sequence[Draft], bodies: Sequence[bytes]) -> list[int]:
    """Return where each body ends among those of its draft."""
    sizes = list(map(len, bodies))
    if len(some) == len(bodies):
        return sizes
    ends, start = list[int](), 0
    for made in some:
        ends += accumulate(sizes[start : start + made.count])
        start += made.count
    return ends


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


def place(
    draft: Draft,
    names: tuple[bytes, bytes, bytes, bytes],
    refs: tuple[int, int],
    first: tuple[int, int, int],
    previous: int,
    recorded_at: int,
    *,
    continues: bool,
) -> bytes:
    """Return the frame of a draft at its place.

    `names` are key, correlation and causation id, and the stream's name in its first frame;
    `refs` session and actor; `first` the first position, version and message number; `previous`
    the stream's previous position or -1; `continues` says that it goes on with an append.
    """
    position, version, number = first
    session, actor = refs
    flags = (ONLY_MESSAGES if draft.only_messages else 0) | (CONTINUES if continues else 0)
    named = b""
    if actor or any(names):
        flags |= NAMED
        named = b"".join((FRAME_NAMES.pack(actor, *map(len, names)), *names))
    fixed = FRAME_HEAD.pack(
        FRAME_FORMAT, flags, draft.count, session, version, number, previous + 1, recorded_at
    )
    covered = fixed + draft.heads + named
    return xxh3_64_digest(covered, position) + covered + draft.bodies
