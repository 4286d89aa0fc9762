"""The log in dicts and lists: the reference that the others are compared with.

Invariants: it keeps the very frames that plan() made, so reading exercises the same bytes as
a log on disk; nothing survives close().
"""

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence

from ..audit.tree import Frontier
from ..errors import StoreUnavailable
from ..events import Span
from ..messages import Message
from .base import (
    FORGOTTEN,
    NAMES_PAGE,
    Append,
    Head,
    Outcome,
    Receipt,
    Row,
    Stage,
    T,
    Tail,
    page,
    receipt_again,
    session_row,
    version_of,
)
from .codec import Codec
from .format import KEY_NAME, KEY_ROW, POSITION, RAW, REF, SESSION_NAME, STARTER, STREAM_ROW
from .frame import Frame
from .lone import Tally
from .newest import Edge
from .plan import Plan, pack_appends, plan
from .shredding import Shred, hidden_lines, hidden_with, shredded


class MemoryLog:
    """A Log that lives as long as the process."""

    def __init__(self, dictionary: bytes | None = None) -> None:
        self._dictionaries = {STARTER: dictionary} if dictionary else {}
        self.codec = Codec(self._dictionaries.get, max(self._dictionaries, default=1))
        self.names = self.codec.names
        self.frontier = Frontier()
        self.recorded_at = 0
        self.next_ref = 1
        self._lock = threading.RLock()
        self._lasts: list[int] = []
        self._frames: list[bytes] = []
        self._streams: dict[int, list[Row]] = {}
        self._refs: dict[bytes, int] = {}
        self._name_of: dict[int, str] = {}
        self._keys: dict[bytes, bytes] = {}
        self._erasures = 0
        self._erased: dict[int, bool] = {}
        self._hidden: dict[str, list[Span]] = {}
        self._closed = False

    # -- what plan() asks ----------------------------------------------------------------

    def ref(self, row: bytes) -> int | None:
        """Return the reference of an interned name."""
        return self._refs.get(row)

    def key_row(self, key: bytes) -> bytes | None:
        """Return the row of an idempotency key."""
        return self._keys.get(key)

    def receipt_at(self, position: int) -> Receipt:
        """Return the receipt of the append at `position`, as a duplicate."""
        return receipt_again(self._frame(bisect_left(self._lasts, position)))

    @property
    def edge(self) -> Edge:
        """Where the log ends."""
        erased = bool(self._erased)
        return Edge(self.frontier, self.recorded_at, self.next_ref, erased, self._erasures)

    def erased(self, ref: int) -> bool:
        """Return True for a stream whose erasure has begun."""
        return ref in self._erased

    def tail(self, session: str) -> Tail | None:
        """Return the newest place in a stream."""
        with self._lock:
            self._check_open()
            ref = self._refs.get(session_row(self.names, session))
            if ref is None:
                return None
            row = self._streams[ref][-1]
            return Tail(ref, row.version, self._frame_of(row).next_number(), row.position)

    def settled_tail(self, session: str) -> Tail | None:
        """Return the same: nothing is between a commit and its callers."""
        return self.tail(session)

    # -- writing -------------------------------------------------------------------------

    def commit(self, batch: Sequence[Append], now: int) -> list[Outcome]:
        """Decide and keep a batch."""
        with self._lock:
            self._check_open()
            pack_appends(batch, self.codec)
            made = plan(batch, self, now)
            self._keep(made)
            for wanted in made.shreds:
                self._shred(wanted)
            return made.outcomes

    def _keep(self, made: Plan) -> None:
        """Take in what a plan made: all of it, or nothing where an interrupt comes before.

        From the first change on there is no call and no loop, so that none comes between (lead.py).
        """
        lasts = [POSITION.unpack(last)[0] for last, _ in made.frames]
        frames = [frame for _, frame in made.frames]
        names = {number: name[1:].decode() for name, number in made.names.items()}
        more: dict[int, list[Row]] = {}
        for ref, row in made.streams:
            more.setdefault(REF.unpack(ref)[0], []).append(Row(*STREAM_ROW.unpack(row)))
        streams = {ref: self._streams.get(ref, []) for ref in more}
        growing = map(list.extend, streams.values(), more.values())
        self._lasts += lasts
        self._frames += frames
        self._refs |= made.names
        self._name_of |= names
        self._keys |= made.keys
        self._erased |= made.erasing
        self._erasures += made.erases
        self.frontier, self.recorded_at = made.frontier, made.recorded_at
        self.next_ref = made.next_ref
        self._streams |= streams
        [*growing]  # noqa: B018 - all in C, where no interrupt comes out

    def group(self, work: Callable[[Stage], T]) -> T:
        """Let batches in one by one: memory has nothing to wait for."""
        return work(self.commit)

    def shred(self, wanted: Shred) -> None:
        """Destroy payloads that are not gone yet."""
        with self._lock:
            self._check_open()
            self._shred(wanted)

    def _shred(self, wanted: Shred) -> None:
        before = self._erasures
        for row in self._rows(wanted.session):
            index = bisect_left(self._lasts, row.position)
            frame = self._frame(index)
            raw = shredded(frame, wanted)
            if raw != frame.raw:
                self._frames[index] = raw
                self._forget_key(frame)
                lines = hidden_lines(self._frame(index))
                known = self._hidden.get(wanted.session, ())
                self._hidden[wanted.session] = hidden_with(known, lines)
                self._erasures = before + 1

    def _forget_key(self, frame: Frame) -> None:
        if frame.key:
            self._keys[frame.kept_key] = KEY_ROW.pack(frame.position, FORGOTTEN)

    def erasures(self) -> int:
        """Return how often payloads were destroyed."""
        return self._erasures

    def hidden(self) -> dict[str, list[Span]]:
        """Return, for each session, its lines that no list may show."""
        with self._lock:
            return dict(self._hidden)

    def erasing(self) -> list[str]:
        """Return the sessions whose erasure is not complete."""
        with self._lock:
            return [self._name_of[ref] for ref, pending in self._erased.items() if pending]

    def unerased(self, kept: Iterable[bytes]) -> list[str]:
        """Return which of these sessions, given by their names on disk, are here and not erased."""
        with self._lock:
            refs = (self._refs.get(SESSION_NAME + each) for each in kept)
            here = [ref for ref in refs if ref is not None and ref not in self._erased]
            return [self._name_of[ref] for ref in here]

    def add_dictionary(self, dictionary: bytes) -> int:
        """Keep a dictionary and compress with it from now on."""
        with self._lock:
            self._check_open()
            number = max(self._dictionaries, default=STARTER - 1) + 1
            self._dictionaries[number] = dictionary
            if self.codec.current != RAW:
                self.codec.current = number
            return number

    # -- reading -------------------------------------------------------------------------

    def head(self) -> Head:
        """Return size, root and time."""
        with self._lock:
            self._check_open()
            return Head(self.frontier.size, self.frontier.root(), self.recorded_at)

    def size(self) -> int:
        """Return the number of events."""
        self._check_open()
        return self.frontier.size

    def receipt_of(self, key: str) -> tuple[bytes, Receipt] | None:
        """Return the content digest and receipt of a key."""
        with self._lock:
            self._check_open()
            row = self._keys.get(self.names.kept(KEY_NAME, key))
            if row is None:
                return None
            position, content = KEY_ROW.unpack(row)
            return content, self.receipt_at(position)

    def read_all(self, position: int, frames_max: int | None = None) -> list[Frame]:
        """Return a page of frames from `position` on."""
        with self._lock:
            self._check_open()
            start = bisect_left(self._lasts, position)
            return page(map(self._frame, range(start, len(self._lasts))), frames_max)

    def tally(self, counted: Tally, position: int, last: int) -> tuple[int, list[Frame]]:  # noqa: ARG002
        """Return where a page ends and its frames: what is in memory needs no faster way."""
        frames = [frame for frame in self.read_all(position) if frame.position <= last]
        return (frames[-1].last_position + 1 if frames else position), frames

    def read_stream(
        self, session: str, version: int, *, reverse: bool = False, frames_max: int | None = None
    ) -> list[Frame]:
        """Return a page of a stream's frames, from `version` on or back."""
        with self._lock:
            self._check_open()
            rows = self._rows(session)
            start = bisect_left(rows, version, key=lambda row: row.version)
            wanted = rows[start::-1] if reverse else rows[start:]
            frames = map(self._frame_of, wanted)
            return page(frames if start < len(rows) else iter(()), frames_max)

    def read_messages(
        self, session: str, version: int, frames_max: int
    ) -> list[list[Message] | Frame]:
        """Return a page of a stream's frames: what is in memory needs no faster way."""
        return [*self.read_stream(session, version, frames_max=frames_max)]

    def locate(self, session: str, number: int) -> int:
        """Return the version of a message of the stream."""
        with self._lock:
            self._check_open()
            rows = self._rows(session)
            row = rows[
                bisect_right(rows, number, key=lambda row: self._frame_of(row).next_number())
            ]
            return version_of(self._frame_of(row), number)

    def sessions(self, after: str = "") -> list[str]:
        """Return a page of stream names in order."""
        with self._lock:
            self._check_open()
            rows = sorted(row for row in self._refs if row > SESSION_NAME + after.encode())
            return [row[1:].decode() for row in rows if row[:1] == SESSION_NAME][:NAMES_PAGE]

    def wait_applied(self, position: int) -> None:
        """Return at once: what is committed is readable."""

    def close(self) -> None:
        """Forget that it was open."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")

    def _rows(self, session: str) -> list[Row]:
        ref = self._refs.get(session_row(self.names, session))
        return [] if ref is None else self._streams[ref]

    def _frame_of(self, row: Row) -> Frame:
        return self._frame(bisect_left(self._lasts, row.position))

    def _frame(self, index: int) -> Frame:
        frame = Frame(self._frames[index], self._lasts[index], self.codec)
        frame.session = self._name_of[frame.session_ref]
        frame.actor = self._name_of.get(frame.actor_ref)
        return frame
