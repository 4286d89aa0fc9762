"""plan(), the pure decision about a batch of appends that every implementation of a log stores.

Invariants: positions are dense from 0 and equal to leaf indexes; versions are dense from 0 in
their stream; recorded time never decreases along positions; an append is decided whole: all
of its streams or none; a key decides before anything else, for ever.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Protocol

import msgspec

from .. import events
from ..audit.entry import entry_common, entry_middle
from ..audit.tree import LEAF, Frontier
from ..errors import (
    EventStoreError,
    KeyReused,
    KeyShredded,
    SessionExists,
    SessionNotFound,
    VersionConflict,
)
from .base import (
    FORGOTTEN,
    NO_STREAM,
    Append,
    Expected,
    Outcome,
    Overtaken,
    Receipt,
    Tail,
    same_content,
)
from .codec import Codec
from .draft import Draft, frame_names, pack_all, place
from .format import (
    ACTOR_NAME,
    CAUSATION_NAME,
    CORRELATION_NAME,
    KEY_NAME,
    KEY_ROW,
    POSITION,
    REF,
    SESSION_NAME,
    STREAM_ROW,
    TYPE_CODES,
)
from .names import Names
from .newest import Edge
from .shredding import Shred

Given = tuple[str | None, str | None, str | None]
"""Actor, correlation and causation id of an append."""


class Ground(Protocol):
    """What plan() may know of the log as it stands before the batch."""

    names: Names

    @property
    def edge(self) -> Edge:
        """Where the log ends."""

    def tail(self, session: str) -> Tail | None:
        """Return the newest place in a stream."""

    def ref(self, row: bytes) -> int | None:
        """Return the reference of an interned name (kind byte and kept name)."""

    def key_row(self, key: bytes) -> bytes | None:
        """Return the KEY_ROW of an idempotency key."""

    def receipt_at(self, position: int) -> Receipt:
        """Return the receipt of the append that starts at `position`, as a duplicate."""

    def erased(self, ref: int) -> bool:
        """Return True for a stream whose erasure has begun."""


class Plan:
    """The rows that a batch adds to each table, and each append's outcome in order."""

    shreds: list[Shred]

    def __init__(self, ground: Ground, now: int) -> None:
        self.ground = ground
        self.now = now
        edge = ground.edge
        self.recorded_at, self.next_ref = edge.recorded_at, edge.next_ref
        self.frontier = Frontier(edge.frontier.size, edge.frontier.nodes)
        self._size, self._any_erased = edge.frontier.size, edge.any_erased
        self._names = ground.names
        self.outcomes: list[Outcome] = []
        self.frames: list[tuple[bytes, bytes]] = []
        self.streams: list[tuple[bytes, bytes]] = []
        self.names: dict[bytes, int] = {}
        self.keys: dict[bytes, bytes] = {}
        self.tiles: list[tuple[int, int, bytes]] = []
        self.leaves: list[bytes] = []
        """Leaf hashes that wait for their place in the tree."""
        self._envelope = _NO_NAMES
        self.tails: dict[str, Tail] = {}
        """Every stream's newest place that was looked at or has moved on."""
        self.shreds = []
        self.erasing: dict[int, bool] = {}
        """Reference of a stream -> True where its erasure begins, False where it is complete."""
        self.erases = False
        """Whether any erasure begins here, also one that a later append of the batch completes."""
        self._receipts: dict[int, Receipt] = {}
        self._new: set[str] = set()
        """Sessions that the log does not have, so that a creation looks for its own once."""

    def decide(self, append: Append) -> Outcome:
        """Accept an append and number it, or say why not; nothing is half-accepted."""
        key = b""
        try:
            if append.key:
                key = self._names.kept(KEY_NAME, append.key)
                known = self._known(append.key, append.content, key)
                if known is not None:
                    return known
            assert len(append.drafts) == len(append.expected), "one for each stream"
            names = list(map(self._admitted, append.drafts, append.expected))
            if append.others is not None:
                self._check_standing(append.drafts[0].session, append.others)
            given = append.actor, append.correlation_id, append.causation_id
            if given != self._envelope.given:
                self._envelope = self._enveloped(given)
        except EventStoreError as error:
            return error
        time = append.recorded_at
        self.recorded_at = max(self.recorded_at, self.now if time is None else time)
        self.shreds += append.shreds
        first = self._place(append.drafts[0], names[0], key, continues=append.continues)
        for index in range(1, len(names)):
            self._place(append.drafts[index], names[index], b"", continues=True)
        if key:
            position = first.position - (first.version - first.first_version)
            as_is = append.content_is_kept or append.content == FORGOTTEN
            kept = append.content if as_is else self._names.digest(append.content)
            self.keys[key] = KEY_ROW.pack(position, kept)
            self._receipts[position] = msgspec.structs.replace(first, duplicate=True)
        return first

    def _enveloped(self, given: Given) -> "_Envelope":
        """Return the envelope of an append; most appends of a batch have the same.

        Raises InvalidEvent for what the disk can't keep, Corruption where the actor's row is
        damaged: this append fails then, and no other.
        """
        actor, what, why = given
        both = self._names.both
        who = both(ACTOR_NAME, actor) if actor else _NOBODY
        correlation = both(CORRELATION_NAME, what) if what else _NOBODY
        causation = both(CAUSATION_NAME, why) if why else _NOBODY
        row = ACTOR_NAME + who[0]
        ref = (self.names.get(row) or self.ground.ref(row)) if actor else 0
        ids, public = (correlation[0], causation[0]), (who[1], correlation[1], causation[1])
        named = None if ref is None else frame_names(ref, (b"", *ids, b""))
        return _Envelope(given, row, ids, public, ref, named)

    def _known(self, name: str, given: bytes, key: bytes) -> Receipt | None:
        """Return the receipt of a key that came before. Raises KeyReused."""
        row = self.keys.get(key) or self.ground.key_row(key)
        if row is None:
            return None
        position, content = KEY_ROW.unpack(row)
        if not same_content(self._names, given, content):
            raise KeyReused(name)
        return self._receipts.get(position) or self.ground.receipt_at(position)

    def _tail(self, session: str) -> Tail | None:
        tail = self.tails.get(session)
        if tail is None and session not in self._new:
            tail = self.ground.tail(session)
            if tail is None:
                self._new.add(session)
            else:
                self.tails[session] = tail
        return tail

    def _admitted(self, draft: Draft, expected: Expected | int) -> tuple[bytes, str]:
        """Check what a draft says of its stream; return that one's names, kept and public."""
        names = self._names.both(SESSION_NAME, draft.session)
        tail = self._tail(draft.session)
        if draft.creates and tail is not None:
            raise SessionExists(draft.session)
        if expected is NO_STREAM and tail is not None:
            raise VersionConflict(draft.session, expected, tail.version)
        if isinstance(expected, int) and (tail is None or tail.version != expected):
            raise VersionConflict(draft.session, expected, tail.version if tail else None)
        if tail is None and not draft.creates:
            raise SessionNotFound(draft.session)
        if tail is not None and (self.erasing or self._any_erased):
            self._check_unerased(draft, tail.ref)
        return names

    def _check_unerased(self, draft: Draft, ref: int) -> None:
        """Raise KeyShredded where a stream is erased, and the draft is not what says so."""
        if self._erased(ref) and _type_codes(draft) != {_KEY_SHREDDED}:
            raise KeyShredded(draft.session)

    def _check_standing(self, session: str, others: int) -> None:
        """Raise Overtaken where more than messages came to the stream since it was looked at."""
        tail = self.tails.get(session)
        if tail is None or tail.others != others:
            raise Overtaken

    def _erased(self, ref: int) -> bool:
        return ref in self.erasing or self.ground.erased(ref)

    def _place(
        self,
        draft: Draft,
        names: tuple[bytes, str],
        key: bytes,
        *,
        continues: bool,
    ) -> Receipt:
        """Give the draft its numbers, hash its entries, add its rows."""
        session, position, messages = draft.session, self._size, draft.messages
        envelope = self._envelope
        kept, public = names
        tail = self.tails.get(session) or Tail(self._new_ref(SESSION_NAME + kept), -1, 0, -1)
        version = tail.version + 1
        named = envelope.named
        if named is None or key or not version:
            named = self._named(envelope, key, b"" if version else kept)
        frame = place(
            draft,
            named,
            tail.ref,
            (position, version, tail.messages),
            tail.position,
            self.recorded_at,
            continues=continues,
        )
        common = entry_common(self.recorded_at, public, *envelope.public)
        self.leaves += _leaves(draft, common, version, position, tail.position)
        self._size = size = position + draft.count
        last, newest = size - 1, tail.version + draft.count
        tail = self.tails[session] = Tail(tail.ref, newest, tail.messages + messages, last)
        if messages != draft.count and (begun := _erasing(tail.ref, draft)):
            # An end whose beginning was lost, as a repair carries it, counts like a beginning.
            self.erases |= any(begun.values()) or not self._erased(tail.ref)
            self.erasing |= begun
        self.frames.append((POSITION.pack(last), frame))
        self.streams.append((REF.pack(tail.ref), STREAM_ROW.pack(newest, last)))
        return Receipt(session, version, newest, last, self.recorded_at, size)

    def _named(self, envelope: "_Envelope", key: bytes, session: bytes) -> bytes:
        """Return the names of a frame, key and session included; a new actor gets a number."""
        if envelope.actor_ref is None:
            ref = envelope.actor_ref = self._new_ref(envelope.actor_row)
            envelope.named = frame_names(ref, (b"", *envelope.ids, b""))
        return frame_names(envelope.actor_ref, (key, *envelope.ids, session))

    def _new_ref(self, row: bytes) -> int:
        ref = self.names[row] = self.next_ref
        self.next_ref += 1
        return ref


class _Envelope(msgspec.Struct, gc=False):
    """An actor, a correlation and a causation id: as given, on disk, and as entries hash them.

    On disk they are b"" for none; `actor_ref` is 0 for nobody, None for one whom the log does not
    know yet; `named` is what the frames say that have no other names.
    """

    given: Given
    actor_row: bytes
    ids: tuple[bytes, bytes]
    public: Given
    actor_ref: int | None
    named: bytes | None


_NO_NAMES = _Envelope((None, None, None), b"", (b"", b""), (None, None, None), 0, b"")
_NOBODY = b"", None
"""What is kept and hashed where there is no name."""


def _leaves(draft: Draft, common: bytes, version: int, position: int, previous: int) -> list[bytes]:
    """Return the leaf hash of each event of a draft at its place."""
    leaves = []
    for lead, digests in zip(draft.leads, draft.digests, strict=True):
        entry = LEAF + lead + entry_middle(version, previous) + common + digests
        leaves.append(sha256(entry).digest())
        previous, version, position = position, version + 1, position + 1
    return leaves


def pack_appends(batch: Sequence[Append], codec: Codec) -> None:
    """Pack all drafts of a batch in one go, as plan() needs them."""
    drafts: list[Draft] = []
    for append in batch:
        drafts += append.drafts
    pack_all(drafts, codec)


def plan(batch: Sequence[Append], ground: Ground, now: int) -> Plan:
    """Decide a batch in order: idempotency, conflicts, numbers, times, hashes. Pure."""
    made = Plan(ground, now)
    made.outcomes = list(map(made.decide, batch))
    made.tiles = made.frontier.extend(made.leaves)
    return made


def _type_codes(draft: Draft) -> set[int]:
    return {int.from_bytes(lead[2:4], "big") for lead in set(draft.leads)}  # mostly two or three


def _erasing(ref: int, draft: Draft) -> dict[int, bool]:
    """Return {ref: True} where a draft asks for its stream's erasure, False where it ends it."""
    codes = _type_codes(draft) & {_ERASE_REQUESTED, _KEY_SHREDDED}
    return {ref: _ERASE_REQUESTED in codes} if codes else {}


_ERASE_REQUESTED = TYPE_CODES[events.EraseRequested]
_KEY_SHREDDED = TYPE_CODES[events.KeyShredded]
