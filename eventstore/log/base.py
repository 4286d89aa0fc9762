"""The Log protocol and plan(), the pure decision that every implementation stores.

Invariants: positions are dense from 0 and equal to leaf indexes; versions are dense from 0 in
their stream; recorded time never decreases along positions; an append is decided whole: all
of its streams or none; a key decides before anything else, for ever.
"""

import enum
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from hashlib import sha256
from typing import NamedTuple, Protocol

import msgspec

from ..audit.entry import entry_common, entry_middle
from ..audit.tree import Frontier
from ..errors import (
    Corruption,
    EventStoreError,
    KeyReused,
    SessionExists,
    SessionNotFound,
    VersionConflict,
)
from ..limits import NAME_BYTES_MAX, PAGE_BYTES_MAX, PAGE_EVENTS_MAX
from .codec import Codec
from .format import ACTOR_NAME, KEY_ROW, REF, SESSION_NAME, STREAM_ROW
from .frame import Draft, Frame, place


class Expected(enum.Enum):
    """What a caller may expect of a stream besides a version."""

    ANY = "any version"
    NO_STREAM = "no such session"

    def __repr__(self) -> str:
        return self.name


ANY, NO_STREAM = Expected.ANY, Expected.NO_STREAM


class Append(msgspec.Struct, frozen=True):
    """One call's facts: usually one stream, for a merge two, always atomic.

    `content` is the xxh3-128 of what the caller asked for: the same key with other content is
    refused. `recorded_at` is given only when a whole log is carried over from elsewhere.
    """

    drafts: tuple[Draft, ...]
    expected: tuple[Expected | int, ...]
    actor: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    key: str | None = None
    content: bytes = bytes(16)
    recorded_at: int | None = None


class Receipt(msgspec.Struct, frozen=True):
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


class Row(NamedTuple):
    """One frame in a stream's index: its last version, the messages up to it, its position."""

    version: int
    messages: int
    position: int


Outcome = Receipt | EventStoreError

Stage = Callable[[Sequence[Append], int], list[Outcome]]
"""Decides a batch at a time in ns, inside a group."""

NAMES_PAGE = 1_000
"""Stream names in one page."""


class Ground(Protocol):
    """What plan() may know of the log as it stands before the batch."""

    frontier: Frontier
    recorded_at: int
    next_ref: int

    def tail(self, session: str) -> Tail | None:
        """Return the newest place in a stream."""

    def ref(self, row: bytes) -> int | None:
        """Return the reference of an interned name (kind byte and UTF-8)."""

    def key_row(self, key: bytes) -> bytes | None:
        """Return the KEY_ROW of an idempotency key."""

    def receipt_at(self, position: int) -> Receipt:
        """Return the receipt of the append that starts at `position`, as a duplicate."""


class Plan:
    """The rows that a batch adds to each table, and each append's outcome in order."""

    def __init__(self, ground: Ground, now: int) -> None:
        self.ground = ground
        self.now = now
        self.recorded_at = ground.recorded_at
        self.frontier = Frontier(ground.frontier.size, ground.frontier.nodes)
        self.next_ref = ground.next_ref
        self.outcomes: list[Outcome] = []
        self.frames: list[tuple[int, bytes]] = []
        self.streams: list[tuple[bytes, bytes]] = []
        self.names: dict[bytes, int] = {}
        self.keys: dict[bytes, bytes] = {}
        self.tiles: list[tuple[int, int, bytes]] = []
        self.tails: dict[str, Tail] = {}
        self._receipts: dict[int, Receipt] = {}

    def decide(self, append: Append) -> Outcome:
        """Accept an append and number it, or say why not; nothing is half-accepted."""
        try:
            known = self._known(append)
            if known is not None:
                return known
            for draft, expected in zip(append.drafts, append.expected, strict=True):
                self._admit(draft, expected)
        except EventStoreError as error:
            return error
        given = append.recorded_at
        self.recorded_at = max(self.recorded_at, self.now if given is None else given)
        key = (append.key or "").encode()
        first = self._place(append, append.drafts[0], key)
        for draft in append.drafts[1:]:
            self._place(append, draft, b"")
        if key:
            position = first.position - (first.version - first.first_version)
            self.keys[key] = KEY_ROW.pack(position, append.content)
            self._receipts[position] = msgspec.structs.replace(first, duplicate=True)
        return first

    def _known(self, append: Append) -> Receipt | None:
        if append.key is None:
            return None
        key = append.key.encode()
        row = self.keys.get(key) or self.ground.key_row(key)
        if row is None:
            return None
        position, content = KEY_ROW.unpack(row)
        if content != append.content:
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

    def _place(self, append: Append, draft: Draft, key: bytes) -> Receipt:
        """Give the draft its numbers, hash its entries, add its rows."""
        session, position = draft.session, self.frontier.size
        tail = self._tail(session) or Tail(self._ref(SESSION_NAME, session), -1, 0, -1)
        actor = self._ref(ACTOR_NAME, append.actor) if append.actor else 0
        names = key, (append.correlation_id or "").encode(), (append.causation_id or "").encode()
        version = tail.version + 1
        first = position, version, tail.messages
        frame = place(draft, names, (tail.ref, actor), first, tail.position, self.recorded_at)
        common = entry_common(
            self.recorded_at, session, append.actor, append.correlation_id, append.causation_id
        )
        self.tiles += self.frontier.extend(_leaves(draft, common, version, position, tail.position))
        last, messages = position + draft.count - 1, tail.messages + draft.messages
        tail = Tail(tail.ref, version + draft.count - 1, messages, last)
        self.tails[session] = tail
        self.frames.append((last, frame))
        self.streams.append((REF.pack(tail.ref), STREAM_ROW.pack(tail.version, messages, last)))
        return Receipt(session, version, tail.version, last, self.recorded_at, last + 1)

    def _ref(self, kind: bytes, name: str) -> int:
        row = kind + name.encode()
        ref = self.names.get(row) or self.ground.ref(row)
        if ref is None:
            ref = self.names[row] = self.next_ref
            self.next_ref += 1
        return ref


def _leaves(draft: Draft, common: bytes, version: int, position: int, previous: int) -> list[bytes]:
    """Return the leaf hash of each event of a draft at its place."""
    leaves = []
    for lead, digests in zip(draft.leads, draft.digests, strict=True):
        entry = b"\x00" + lead + entry_middle(version, previous) + common + digests
        leaves.append(sha256(entry).digest())
        previous, version, position = position, version + 1, position + 1
    return leaves


def plan(batch: Sequence[Append], ground: Ground, now: int) -> Plan:
    """Decide a batch in order: idempotency, conflicts, numbers, times, hashes. Pure."""
    made = Plan(ground, now)
    made.outcomes = [made.decide(append) for append in batch]
    return made


def page(frames: Iterable[Frame], frames_max: int | None = None) -> list[Frame]:
    """Take a bounded page: PAGE_EVENTS_MAX or PAGE_BYTES_MAX, rounded up to whole frames."""
    taken, events, size = [], 0, 0
    for frame in frames:
        taken.append(frame)
        events += frame.count
        size += len(frame.raw)
        if events >= PAGE_EVENTS_MAX or size >= PAGE_BYTES_MAX or len(taken) == frames_max:
            break
    return taken


def session_row(session: str) -> bytes:
    """Return a session's row in `refs`; for a text that is no name, a row that none has."""
    row = SESSION_NAME + session.encode("utf-8", "surrogatepass")
    return row if len(row) <= NAME_BYTES_MAX + 1 else SESSION_NAME


def frames_at(
    log: "Log", session: str, version: int, *, reverse: bool = False, frames_max: int | None = None
) -> list[Frame]:
    """Return a page from a version on that some fact says exists; raises Corruption without it."""
    frames = log.read_stream(session, version, reverse=reverse, frames_max=frames_max)
    if not frames:
        raise Corruption(-1, f"session {session!r} lacks version {version}, which a fact names")
    return frames


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


class Log(Protocol):
    """An append-only sequence of frames; every implementation passes one contract suite.

    Reads are bounded pages of whole frames; positions are compared and stored, never computed
    with, outside this package.
    """

    codec: Codec

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

    def receipt_of(self, key: str) -> tuple[bytes, Receipt] | None:
        """Return the content digest and the original receipt of an idempotency key."""

    def read_all(self, position: int, frames_max: int | None = None) -> list[Frame]:
        """Return a page of frames from the one that holds `position` on."""

    def read_stream(
        self, session: str, version: int, *, reverse: bool = False, frames_max: int | None = None
    ) -> list[Frame]:
        """Return a page of a stream's frames from the one that holds `version` on."""

    def locate(self, session: str, number: int) -> int:
        """Return the version of the stream's message of that number."""

    def sessions(self, after: str = "") -> list[str]:
        """Return a page of the names of all streams, sorted by UTF-8 bytes."""

    def add_dictionary(self, dictionary: bytes) -> int:
        """Keep a compression dictionary and make it the current one; returns its number."""

    def wait_applied(self, position: int) -> None:
        """Return once `position` is readable here: at once in a log that is local."""

    def close(self) -> None:
        """Release everything; idempotent."""
