"""The Log protocol and plan(), the pure decision that every implementation stores.

Invariants: positions are dense from 0 and equal to leaf indexes; versions are dense from 0 in
their stream; recorded time never decreases along positions; an append is decided whole: all
of its streams or none; a key decides before anything else, for ever.
"""

import enum
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from hashlib import sha256
from itertools import islice
from typing import NamedTuple, Protocol

import msgspec

from .. import events
from ..audit.entry import entry_common, entry_middle
from ..audit.tree import Frontier
from ..errors import (
    Corruption,
    EventStoreError,
    InvalidEvent,
    KeyReused,
    KeyShredded,
    SessionExists,
    SessionNotFound,
    VersionConflict,
)
from ..events import MessageAppended, Span
from ..limits import NAME_BYTES_MAX, PAGE_BYTES_MAX, PAGE_EVENTS_MAX
from .codec import Codec
from .draft import Draft, pack_all, place
from .format import (
    ACTOR_NAME,
    CAUSATION_NAME,
    CORRELATION_NAME,
    KEY_NAME,
    KEY_ROW,
    REF,
    SESSION_NAME,
    STREAM_ROW,
    TYPE_CODES,
)
from .frame import Frame
from .lone import Tally
from .names import Names
from .shredding import Shred


class Expected(enum.Enum):
    """What a caller may expect of a stream besides a version."""

    ANY = "any version"
    NO_STREAM = "no such session"

    def __repr__(self) -> str:
        return self.name


ANY, NO_STREAM = Expected.ANY, Expected.NO_STREAM


class Append(msgspec.Struct, frozen=True, gc=False):
    """One call's facts: usually one stream, for a merge two, always atomic.

    `content` is the xxh3-128 of what the caller asked for: the same key with other content is
    refused. `recorded_at` is given only when a whole log is carried over from elsewhere;
    `content_is_kept` where it comes from another log's index of keys. `shreds` are the payloads
    that go with these facts, in the same transaction.
    """

    drafts: tuple[Draft, ...]
    expected: tuple[Expected | int, ...]
    actor: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    key: str | None = None
    content: bytes = bytes(16)
    content_is_kept: bool = False
    recorded_at: int | None = None
    shreds: tuple[Shred, ...] = ()


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """Proof that facts are on disk: versions `first_version..version` of `session`.

    `position` is that of the last event, `tree_size` the log's size up to and with it;
    `duplicate` is True where the key had brought these facts in before.
    """

    session: str
    first_version: int
    version: int
    position: int
    recorded_at: int
    tree_size: int
    duplicate: bool = False


class Head(msgspec.Struct, frozen=True):
    """The tree head: number of events, Merkle root, time of the newest event in ns (or 0)."""

    size: int
    root: bytes
    recorded_at: int


class Tail(NamedTuple):
    """The newest place in a stream: its reference, version, message count and position."""

    ref: int
    version: int
    messages: int
    position: int

    @property
    def others(self) -> int:
        """Number of events of the stream that are no messages."""
        return self.version + 1 - self.messages


class Row(NamedTuple):
    """One frame in a stream's index: its last version, the messages up to it, its position."""

    version: int
    messages: int
    position: int


Outcome = Receipt | EventStoreError

Stage = Callable[[Sequence[Append], int], list[Outcome]]
"""Decides a batch at a time in ns, inside a group."""

FORGOTTEN = b"\xff" * 16
"""The content of a key whose payloads are gone: the digest would tell whoever guesses them."""

NAMES_PAGE = 1_000
"""Stream names in one page."""


class Ground(Protocol):
    """What plan() may know of the log as it stands before the batch."""

    frontier: Frontier
    recorded_at: int
    next_ref: int
    names: Names

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

    def __init__(self, ground: Ground, now: int) -> None:
        self.ground = ground
        self.now = now
        self.recorded_at = ground.recorded_at
        self.frontier = Frontier(ground.frontier.size, ground.frontier.nodes)
        self.next_ref = ground.next_ref
        self._names = ground.names
        self.outcomes: list[Outcome] = []
        self.frames: list[tuple[int, bytes]] = []
        self.streams: list[tuple[bytes, bytes]] = []
        self.names: dict[bytes, int] = {}
        self.keys: dict[bytes, bytes] = {}
        self.tiles: list[tuple[int, int, bytes]] = []
        self.tails: dict[str, Tail] = {}
        self.shreds: list[Shred] = []
        self.erasing: dict[int, bool] = {}
        """Reference of a stream -> True where its erasure begins, False where it is complete."""
        self.erases = False
        """Whether any erasure begins here, also one that a later append of the batch completes."""
        self._receipts: dict[int, Receipt] = {}

    def decide(self, append: Append) -> Outcome:
        """Accept an append and number it, or say why not; nothing is half-accepted."""
        try:
            envelope = self._enveloped(append)
            known = self._known(append, envelope.key)
            if known is not None:
                return known
            for draft, expected in zip(append.drafts, append.expected, strict=True):
                self._admit(draft, expected)
            if envelope.actor:  # where its row is damaged this append fails, and no other
                self.ground.ref(ACTOR_NAME + envelope.actor)
        except EventStoreError as error:
            return error
        given = append.recorded_at
        self.recorded_at = max(self.recorded_at, self.now if given is None else given)
        self.shreds += append.shreds
        first = self._place(append.drafts[0], envelope, envelope.key)
        for draft in append.drafts[1:]:
            self._place(draft, envelope, b"")
        if envelope.key:
            position = first.position - (first.version - first.first_version)
            as_is = append.content_is_kept or append.content == FORGOTTEN
            kept = append.content if as_is else self._names.digest(append.content)
            self.keys[envelope.key] = KEY_ROW.pack(position, kept)
            self._receipts[position] = msgspec.structs.replace(first, duplicate=True)
        return first

    def _enveloped(self, append: Append) -> "_Envelope":
        """Return the names of an append as the disk keeps them. Raises InvalidEvent."""
        kept = self._names.kept
        for draft in append.drafts:
            kept(SESSION_NAME, draft.session)
        return _Envelope(
            kept(KEY_NAME, append.key) if append.key else b"",
            kept(ACTOR_NAME, append.actor) if append.actor else b"",
            kept(CORRELATION_NAME, append.correlation_id) if append.correlation_id else b"",
            kept(CAUSATION_NAME, append.causation_id) if append.causation_id else b"",
        )

    def _known(self, append: Append, key: bytes) -> Receipt | None:
        if append.key is None:
            return None
        row = self.keys.get(key) or self.ground.key_row(key)
        if row is None:
            return None
        position, content = KEY_ROW.unpack(row)
        if not same_content(self._names, append.content, content):
            raise KeyReused(append.key)
        return self._receipts.get(position) or self.ground.receipt_at(position)

    def _tail(self, session: str) -> Tail | None:
        return self.tails.get(session) or self.ground.tail(session)

    def _admit(self, draft: Draft, expected: Expected | int) -> None:
        tail = self._tail(draft.session)
        if draft.creates and tail is not None:
            raise SessionExists(draft.session)
        if expected is NO_STREAM and tail is not None:
            raise VersionConflict(draft.session, expected, tail.version)
        if isinstance(expected, int) and (tail is None or tail.version != expected):
            raise VersionConflict(draft.session, expected, tail.version if tail else None)
        if tail is None and not draft.creates:
            raise SessionNotFound(draft.session)
        if tail is not None and self._erased(tail.ref) and _type_codes(draft) != {_KEY_SHREDDED}:
            raise KeyShredded(draft.session)

    def _erased(self, ref: int) -> bool:
        return ref in self.erasing or self.ground.erased(ref)

    def _place(self, draft: Draft, envelope: "_Envelope", key: bytes) -> Receipt:
        """Give the draft its numbers, hash its entries, add its rows."""
        session, position = draft.session, self.frontier.size
        kept = self._names.kept(SESSION_NAME, session)
        tail = self._tail(session) or Tail(self._ref(SESSION_NAME + kept), -1, 0, -1)
        actor = self._ref(ACTOR_NAME + envelope.actor) if envelope.actor else 0
        version = tail.version + 1
        frame = place(
            draft,
            (key, envelope.correlation_id, envelope.causation_id),
            (tail.ref, actor),
            (position, version, tail.messages),
            tail.position,
            self.recorded_at,
        )
        common = entry_common(self.recorded_at, *self._public(kept, envelope))
        self.tiles += self.frontier.extend(_leaves(draft, common, version, position, tail.position))
        last, messages = position + draft.count - 1, tail.messages + draft.messages
        tail = Tail(tail.ref, version + draft.count - 1, messages, last)
        self.tails[session] = tail
        begun = _erasing(tail.ref, draft)
        # An end whose beginning was lost, as a repair carries it, counts like a beginning.
        self.erases |= any(begun.values()) or (bool(begun) and not self._erased(tail.ref))
        self.erasing |= begun
        self.frames.append((last, frame))
        self.streams.append((REF.pack(tail.ref), STREAM_ROW.pack(tail.version, messages, last)))
        return Receipt(session, version, tail.version, last, self.recorded_at, last + 1)

    def _public(
        self, session: bytes, envelope: "_Envelope"
    ) -> tuple[str, str | None, str | None, str | None]:
        """Return session, actor, correlation and causation id as entries hash them."""
        public = self._names.public
        who, what, why = (public(each) if each else None for each in envelope[1:])
        return public(session), who, what, why

    def _ref(self, row: bytes) -> int:
        ref = self.names.get(row) or self.ground.ref(row)
        if ref is None:
            ref = self.names[row] = self.next_ref
            self.next_ref += 1
        return ref


class _Envelope(NamedTuple):
    """The names that an append has, as the disk keeps them; empty for none."""

    key: bytes
    actor: bytes
    correlation_id: bytes
    causation_id: bytes


def _leaves(draft: Draft, common: bytes, version: int, position: int, previous: int) -> list[bytes]:
    """Return the leaf hash of each event of a draft at its place."""
    leaves = []
    for lead, digests in zip(draft.leads, draft.digests, strict=True):
        entry = b"\x00" + lead + entry_middle(version, previous) + common + digests
        leaves.append(sha256(entry).digest())
        previous, version, position = position, version + 1, position + 1
    return leaves


def pack_appends(batch: Sequence[Append], codec: Codec) -> None:
    """Pack all drafts of a batch in one go, as plan() needs them."""
    pack_all([draft for append in batch for draft in append.drafts], codec)


def plan(batch: Sequence[Append], ground: Ground, now: int) -> Plan:
    """Decide a batch in order: idempotency, conflicts, numbers, times, hashes. Pure."""
    made = Plan(ground, now)
    made.outcomes = [made.decide(append) for append in batch]
    return made


def page(frames: Iterable[Frame], frames_max: int | None = None) -> list[Frame]:
    """Take a bounded page: PAGE_EVENTS_MAX or PAGE_BYTES_MAX, rounded up to whole frames."""
    taken, events, size = [], 0, 0
    for frame in islice(frames, frames_max):
        taken.append(frame)
        events += frame.count
        size += len(frame.raw)
        if events >= PAGE_EVENTS_MAX or size >= PAGE_BYTES_MAX:
            break
    return taken


def session_row(names: Names, session: str) -> bytes:
    """Return a session's row in `refs`; for a text that is no name, a row that none has."""
    try:
        row = SESSION_NAME + names.kept(SESSION_NAME, session)
    except InvalidEvent:
        return SESSION_NAME
    return row if len(row) <= NAME_BYTES_MAX + 1 else SESSION_NAME


def frames_at(
    log: "Log", session: str, version: int, *, reverse: bool = False, frames_max: int | None = None
) -> list[Frame]:
    """Return a page from a version on that some fact says exists; raises Corruption without it."""
    frames = log.read_stream(session, version, reverse=reverse, frames_max=frames_max)
    if not frames:
        raise Corruption(-1, f"session {session!r} lacks version {version}, which a fact names")
    return frames


def key_of(log: "Log", session: str) -> int:
    """Return the id of a session's key, which sealed its first fact: the log is encrypted.

    Raises SessionNotFound, and KeyShredded where the session was erased.
    """
    seal = log.codec.seal
    assert seal is not None
    if session not in seal.keys:
        frames = log.read_stream(session, 0, frames_max=1)
        if not frames:
            raise SessionNotFound(session)
        key = frames[0].key_id(0)
        if key is None:
            raise KeyShredded(session)
        seal.remember(session, key)
    return seal.keys[session]


def same_content(names: Names, given: bytes, kept: bytes) -> bool:
    """Return True if a command's digest is the one kept with its key, or that was forgotten."""
    return kept in (FORGOTTEN, names.digest(given))


def version_of(frame: Frame, number: int) -> int:
    """Return the version of the message of that number, which is in this frame."""
    return frame.version + frame.message_indexes(number, number + 1)[0]


def receipt_again(frame: Frame) -> Receipt:
    """Return the receipt of a frame that is on disk already."""
    last = frame.last_position
    return Receipt(
        frame.session,
        frame.version,
        frame.last_version,
        last,
        frame.recorded_at,
        tree_size=last + 1,
        duplicate=True,
    )


def _type_codes(draft: Draft) -> set[int]:
    return {int.from_bytes(lead[2:4], "big") for lead in draft.leads}


def _erasing(ref: int, draft: Draft) -> dict[int, bool]:
    """Return {ref: True} where a draft asks for its stream's erasure, False where it ends it."""
    if draft.only_messages:
        return {}
    codes = _type_codes(draft) & {_ERASE_REQUESTED, _KEY_SHREDDED}
    return {ref: _ERASE_REQUESTED in codes} if codes else {}


_ERASE_REQUESTED = TYPE_CODES[events.EraseRequested]
_KEY_SHREDDED = TYPE_CODES[events.KeyShredded]


class Log(Protocol):
    """An append-only sequence of frames; every implementation passes one contract suite.

    Reads are bounded pages of whole frames; positions are compared and stored, never computed
    with, outside this package.
    """

    codec: Codec

    @property
    def erasures_seen(self) -> int:
        """The erasure count as of the newest read here; costs nothing."""

    def commit(self, batch: Sequence[Append], now: int) -> list[Outcome]:
        """Decide and keep a batch; returns when it is durable. StoreFull, StoreUnavailable."""

    def group(self) -> AbstractContextManager[Stage]:
        """Open a group: batches are decided one by one and durable when the block ends."""

    def head(self) -> Head:
        """Return size, root and time of the log."""

    def size(self) -> int:
        """Return the number of events."""

    def tail(self, session: str) -> Tail | None:
        """Return the newest place in a stream, None where it does not exist."""

    def settled_tail(self, session: str) -> Tail | None:
        """Like tail(), but a commit of this process may be missing whose callers still wait."""

    def receipt_of(self, key: str) -> tuple[bytes, Receipt] | None:
        """Return what same_content() takes, and the original receipt, of an idempotency key."""

    def read_all(self, position: int, frames_max: int | None = None) -> list[Frame]:
        """Return a page of frames from the one that holds `position` on."""

    def tally(self, counted: Tally, position: int, last: int) -> tuple[int, list[Frame]]:
        """Count lone messages of a page of the log that begins at `position`, at most up to `last`.

        Return the position after the page, and its frames that were not counted. A page ends
        where a gap begins; one that begins there raises Corruption.
        """

    def read_stream(
        self, session: str, version: int, *, reverse: bool = False, frames_max: int | None = None
    ) -> list[Frame]:
        """Return a page of a stream's frames from the one that holds `version` on."""

    def read_messages(
        self, session: str, version: int, frames_max: int
    ) -> list[MessageAppended | Frame]:
        """Return a page of a stream from `version` on, lone messages perhaps decoded already.

        One stands for the frame that holds nothing else; damaged payloads are left in theirs.
        """

    def locate(self, session: str, number: int) -> int:
        """Return the version of the stream's message of that number."""

    def sessions(self, after: str = "") -> list[str]:
        """Return a page of the names of all streams, sorted by UTF-8 bytes."""

    def add_dictionary(self, dictionary: bytes) -> int:
        """Keep a compression dictionary and make it the current one; returns its number."""

    def unerased(self, kept: Iterable[bytes]) -> list[str]:
        """Return which of these sessions, given by their names on disk, are here and not erased."""

    def shred(self, wanted: Shred) -> None:
        """Destroy payloads that are not gone yet, durably, and raise the erasure count."""

    def erasures(self) -> int:
        """Return how often payloads were destroyed: the epoch of all that is kept beside a log."""

    def hidden(self) -> dict[str, list[Span]]:
        """Return, for each session, its lines that no list may show: their payloads are gone."""

    def erasing(self) -> list[str]:
        """Return the sessions whose erasure was requested and is not complete."""

    def wait_applied(self, position: int) -> None:
        """Return once `position` is readable here: at once in a log that is local."""

    def close(self) -> None:
        """Release everything; idempotent."""
