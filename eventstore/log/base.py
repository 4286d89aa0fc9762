"""The Log protocol and the values that it deals in: appends, receipts, heads, places, pages.

Invariants: reads are bounded pages of whole frames; what is asked of a log is answered the same
by every implementation, since all of them store what plan.py decides.
"""

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from ..errors import Corruption, EventStoreError, InvalidEvent, KeyShredded, SessionNotFound
from ..events import Event, Span
from ..limits import NAME_BYTES_MAX, PAGE_BYTES_MAX, PAGE_EVENTS_MAX
from ..messages import Message
from .codec import Codec
from .draft import Draft
from .format import SESSION_NAME, TYPE_CODES
from .frame import Frame
from .lone import Tally
from .names import Names
from .recorded import Recorded
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
    `content_is_kept` where it comes from another log's index of keys, and `continues` where it goes
    on with the append before it. `shreds` are the payloads that go with these facts, in the same
    transaction. `others` is how many events but messages the first stream had when it was found fit
    for these facts: with another number they are Overtaken.
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
    continues: bool = False
    shreds: tuple[Shred, ...] = ()
    others: int | None = None


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


class Tail(msgspec.Struct, frozen=True, gc=False):
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
    """One frame in a stream's index: its last version and position."""

    version: int
    position: int


class Overtaken(EventStoreError):
    """What an append was found fit for is not so any more, perhaps; callers never see this."""


Outcome = Receipt | EventStoreError

Stage = Callable[[Sequence[Append], int], list[Outcome]]
"""Decides a batch at a time in ns, inside a group."""

T = TypeVar("T")
"""What is done in a group."""

FORGOTTEN = b"\xff" * 16
"""The content of a key whose payloads are gone: the digest would tell whoever guesses them."""

POSITION_MAX = (1 << 63) - 1
"""Beyond any log."""

NAMES_PAGE = 1_000
"""Stream names in one page."""


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


def tail_of(log: "Log", session: str) -> Tail:
    """Return the newest place in a stream. Raises SessionNotFound."""
    tail = log.tail(session)
    if tail is None:
        raise log.codec.missing(session)
    return tail


def frames_at(
    log: "Log", session: str, version: int, *, reverse: bool = False, frames_max: int | None = None
) -> list[Frame]:
    """Return a page from a version on that some fact says exists; raises Corruption without it."""
    frames = log.read_stream(session, version, reverse=reverse, frames_max=frames_max)
    if not frames:
        raise Corruption(-1, f"session {session!r} lacks version {version}, which a fact names")
    return frames


def fact_at(log: "Log", session: str, version: int) -> Recorded:
    """Return a fact that is known to be there; raises Corruption without it."""
    frame = frames_at(log, session, version, frames_max=1)[0]
    return Recorded(frame, version - frame.version)


def facts_of(log: "Log", session: str, start: int, *kinds: type[Event]) -> Iterator[Recorded]:
    """Iterate over a session's facts of these kinds, none of them messages, from a version on."""
    last, codes = tail_of(log, session).version, {TYPE_CODES[kind] for kind in kinds}
    while start <= last:
        for frame in frames_at(log, session, start):
            if not frame.only_messages:
                yield from (each for each in frame.recorded(start) if each.type_code in codes)
            start = frame.last_version + 1


def frames_between(
    log: "Log", first: int = 0, stop: int = POSITION_MAX, frames_max: int | None = None
) -> Iterator[Frame]:
    """Iterate over the frames of positions `first <= position < stop`, a page in memory at a time.

    By default up to the end of the log; a frame that begins or ends outside comes whole.
    """
    position = first
    while position < stop and (frames := log.read_all(position, frames_max)):
        for frame in frames:
            if frame.position >= stop:
                return
            yield frame
            position = frame.last_position + 1


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


class Log(Protocol):
    """An append-only sequence of frames; every implementation passes one contract suite.

    Reads are bounded pages of whole frames; positions are compared and stored, never computed
    with, outside this package.
    """

    codec: Codec

    def commit(self, batch: Sequence[Append], now: int) -> list[Outcome]:
        """Decide and keep a batch; returns when it is durable. StoreFull, StoreUnavailable."""

    def group(self, work: Callable[[Stage], T]) -> T:
        """Run `work`, which stages batches one by one; they are durable when this returns."""

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
    ) -> list[list[Message] | Frame]:
        """Return a page of a stream from `version` on, lone messages perhaps decoded already.

        A list of them stands for as many frames, each of which holds nothing else; damaged
        payloads are left in theirs.
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
