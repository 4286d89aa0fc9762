"""Reading a log in LMDB as a whole: its head and tiles, its frames in order, keys, lists of names.

Invariants: readers take a page in one short transaction and hold none afterwards; frames are read
without a gap, so that a damaged tree of pages hides nothing.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import cast

import lmdb

from ..audit.tree import Frontier
from ..errors import Corruption
from ..events import Span
from ..limits import PAGE_BYTES_MAX, PAGE_EVENTS_MAX
from .base import NAMES_PAGE, Head, Receipt, receipt_again
from .format import HEAD_KEY, KEY_NAME, KEY_ROW, POSITION, SESSION_NAME
from .frame import Frame
from .lone import Tally
from .rows import checked_value, head_of, head_size, tile_key
from .shredding import hidden_lines, hidden_with
from .streams import Streams


class Reads(Streams):
    """A log that can be read."""

    # -- the tree ------------------------------------------------------------------------

    def head(self) -> Head:
        """Return size, root and time."""
        self._check_open()
        with self.env.begin() as txn:
            frontier, recorded_at = self.edge(txn)
        return Head(frontier.size, frontier.root(), recorded_at)

    def size(self) -> int:
        """Return the number of events."""
        self._check_open()
        with self.env.begin() as txn:
            return self._size(txn)

    def _size(self, txn: lmdb.Transaction) -> int:
        return head_size(txn.get(HEAD_KEY))

    def edge(self, txn: lmdb.Transaction) -> tuple[Frontier, int]:
        """Return the frontier and the time of the newest event."""
        frontier, recorded_at, _ = head_of(txn.get(HEAD_KEY))
        return frontier, recorded_at

    def newest_ref(self, txn: lmdb.Transaction) -> int:
        """Return the reference of the newest name, 0 for none."""
        return head_of(txn.get(HEAD_KEY)).newest_ref

    def tiles(self, level: int, start: int, stop: int) -> list[bytes]:
        """Return the roots of the full subtrees `start <= index < stop` of 2**level leaves."""
        self._check_open()
        with self.env.begin() as txn:
            rows = [txn.get(tile_key(level, i), db=self._tiles) for i in range(start, stop)]
        if not all(rows):
            raise Corruption(start << level, f"a tile of level {level} from here on is missing")
        return [bytes(row) for row in rows if row]

    def check_end(self) -> None:
        """Raise Corruption unless the tree head and the newest frame say the same."""
        with self.env.begin() as txn:
            frontier, recorded_at = self.edge(txn)
            last = txn.cursor(self._frames)
            size = _position(bytes(last.key())) + 1 if last.last() else 0
            if frontier.size != size:
                what = f"the tree head has size {frontier.size}, the frames end at {size}"
                raise Corruption(min(frontier.size, size), what)
            for frame in self._page(txn, size - 1) if size else ():
                if frame.recorded_at != recorded_at:
                    what = f"the tree head's time is {recorded_at}, not {frame.recorded_at}"
                    raise Corruption(frame.position, what)

    # -- frames and keys -----------------------------------------------------------------

    def read_all(self, position: int, frames_max: int | None = None) -> list[Frame]:
        """Return a page of frames from `position` on."""
        self._check_open()
        with self.env.begin() as txn:
            return self._page(txn, position, frames_max)

    def tally(self, counted: Tally, position: int, last: int) -> tuple[int, list[Frame]]:
        """Count the lone messages of a page; return where it ends and the frames of all else."""
        self._check_open()
        others: list[Frame] = []
        start, size = position, 0
        with self.env.begin() as txn:
            cursor = txn.cursor(self._frames)
            found = cursor.set_range(POSITION.pack(position))
            rows = cast("Iterator[tuple[bytes, bytes]]", iter(cursor if found else ()))
            page = islice(rows, PAGE_EVENTS_MAX)
            while position <= last and size < PAGE_BYTES_MAX:
                position, row = counted.take(page, position, last, self._name_of)
                if row is None:
                    break
                key, raw = row
                frame = self._adopted(txn, Frame(raw, _position(key), self.codec))
                if not frame.position <= position <= frame.last_position:
                    break
                others.append(frame)
                position, size = frame.last_position + 1, size + len(raw)
            if position == start:
                self._page(txn, position, 1)  # says what is missing here
        return position, others

    def _page(
        self, txn: lmdb.Transaction, position: int, frames_max: int | None = None
    ) -> list[Frame]:
        """Return a page of frames without a gap, so that a damaged tree of pages hides nothing.

        It does what page() and _adopted() do: their calls would cost a third more a frame.
        """
        cursor, codec, names = txn.cursor(self._frames), self.codec, self._name_of
        taken: list[Frame] = []
        size, enough = 0, position + PAGE_EVENTS_MAX
        found = cursor.set_range(POSITION.pack(position))
        rows = cast("Iterable[tuple[bytes, bytes]]", cursor if found else ())
        for key, raw in islice(rows, frames_max):
            frame = Frame(raw, POSITION.unpack(key)[0], codec)
            if not frame.position <= position <= frame.last_position:
                break
            session, actor = frame.session_ref, frame.actor_ref
            frame.session = names.get(session) or self._session(txn, frame)
            frame.actor = (names.get(actor) or self._name(txn, actor)) if actor else None
            taken.append(frame)
            position = frame.last_position + 1
            size += len(raw)
            if position >= enough or size >= PAGE_BYTES_MAX:
                return taken
        if len(taken) != frames_max and position < self._size(txn):
            raise Corruption(position, "the frame that holds it is missing")
        return taken

    def receipt_of(self, key: str) -> tuple[bytes, Receipt] | None:
        """Return the content digest and receipt of a key."""
        self._check_open()
        with self.env.begin() as txn:
            row = self.key_row_in(txn, self.codec.names.kept(KEY_NAME, key))
            if row is None:
                return None
            position, content = KEY_ROW.unpack(row)
            return content, self.receipt_in(txn, position)

    def key_row_in(self, txn: lmdb.Transaction, key: bytes) -> bytes | None:
        """Return the row of an idempotency key, checked against the frame it names."""
        found = txn.get(key, db=self._keys)
        if found is None:
            return None
        name = self.codec.names.public(key)
        row = checked_value(found, f"the row of key {name!r}")
        position = KEY_ROW.unpack(row)[0]
        frames = self._page(txn, position, 1)
        if not frames or frames[0].position != position or frames[0].kept_key != key:
            raise Corruption(position, f"the index of keys is wrong about {name!r}")
        return row

    def receipt_in(self, txn: lmdb.Transaction, position: int) -> Receipt:
        """Return the receipt of the append that starts at `position`, as a duplicate."""
        return receipt_again(self._page(txn, position, 1)[0])

    # -- lists ---------------------------------------------------------------------------

    def sessions(self, after: str = "") -> list[str]:
        """Return a page of stream names in order."""
        self._check_open()
        if self.codec.seal:
            return self._sealed_sessions(after)
        found: list[str] = []
        with self.env.begin() as txn:
            cursor = txn.cursor(self._refs)
            if cursor.set_range(SESSION_NAME + after.encode() + (b"\x00" if after else b"")):
                for row, ref in cursor:
                    if row[:1] != SESSION_NAME or len(found) == NAMES_PAGE:
                        break
                    self._checked_ref(bytes(row), ref)
                    found.append(self._shown(bytes(row)))
        return found

    def _sealed_sessions(self, after: str) -> list[str]:
        """Return a page of names whose rows are in the order of their ciphertext."""
        with self._listed, self.env.begin() as txn:
            total = int(txn.stat(self._refs)["entries"])
            return self._listing.page(total, after, NAMES_PAGE, lambda: self._sealed_names(txn))

    def _sealed_names(self, txn: lmdb.Transaction) -> Iterator[str]:
        cursor = txn.cursor(self._refs)
        for row, ref in cursor if cursor.set_range(SESSION_NAME) else ():
            if row[:1] != SESSION_NAME:
                return
            self._checked_ref(bytes(row), ref)
            yield self._shown(bytes(row))

    def hidden(self) -> dict[str, list[Span]]:
        """Return, for each session, its lines that no list may show."""
        self._check_open()
        with self.env.begin() as txn:
            names = {ref: self._name(txn, ref) for ref in self.gone.hiding(txn)}
            found = {name: self.gone.hidden(txn, name, ref) for ref, name in names.items()}
        seal = self.codec.seal
        outlived = {*seal.gone.values(), *(session for session, _ in seal.left)} if seal else ()
        return {**found, **{session: self._lines_gone(session) for session in outlived}}

    def _lines_gone(self, session: str) -> list[Span]:
        """Return the lines of a session that its frames show no more."""
        found, version = list[Span](), 0
        while frames := self.read_stream(session, version):
            found = hidden_with(found, [each for frame in frames for each in hidden_lines(frame)])
            version = frames[-1].last_version + 1
        return found

    def erasing(self) -> list[str]:
        """Return the sessions whose erasure is not complete."""
        self._check_open()
        with self.env.begin() as txn:
            erased = self.gone.erased(txn)
            return [self._name(txn, ref) for ref, pending in erased.items() if pending]

    def unerased(self, kept: Iterable[bytes]) -> list[str]:
        """Return which of these sessions, given by their names on disk, are here and not erased."""
        self._check_open()
        with self.env.begin() as txn:
            refs = (self.ref_in(txn, SESSION_NAME + each) for each in kept)
            here = [ref for ref in refs if ref is not None and not self.gone.is_erased(txn, ref)]
            return [self._name(txn, ref) for ref in here]


def _position(key: bytes) -> int:
    return int(POSITION.unpack(key)[0])
