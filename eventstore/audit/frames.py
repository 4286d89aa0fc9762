"""The frames of an LMDB log, read in order and looked for where readers look for them.

Invariants: each frame must have its row in the index of streams, and in that of keys where it has
one; pages are bounded and no transaction stays open between them; what was appended after the
start is left out.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import lmdb

from ..errors import Corruption
from ..limits import NAMES_REMEMBERED_MAX
from ..log.format import (
    ACTORS,
    FRAMES,
    KEY_ROW,
    KEYS,
    POSITION,
    REF,
    REFS,
    SESSION_NAME,
    STREAM_ROW,
    STREAMS,
    TILES,
)
from ..log.frame import Frame
from ..log.rows import checked_value, kept_ref, position_of, tile_key
from .relations import Place
from .report import Finding, Notes
from .rows import Rows, TableRow
from .usual import Indexes, UsualFrames
from .walk import Stretch, Tile, Walk

Taken = tuple[int, Frame | None, list[Finding]]
"""Last position, the frame or None where it can't be read, and what is wrong with its rows."""


class Frames:
    """The frames of one log of `size` events, for those who walk along them.

    `misses` counts the rows that do not lead to their frame.
    """

    def __init__(self, rows: Rows, size: int, notes: Notes) -> None:
        self._rows, self._log, self._notes = rows, rows.log, notes
        self._tables = rows.tables
        self._after: TableRow | None = None
        self._names: dict[int, str] = {}
        self._loose: dict[bytes, bytes] | None = None
        self.size, self.misses = size, 0

    def places(self, size: int) -> Iterator[tuple[int, Place]]:
        """Iterate over the streams and how far each had come when the log held `size` events."""
        newest = REF.pack(self._rows.newest_ref)
        for key in self._rows.keys(STREAMS):
            if len(key) != REF.size or key > newest:
                continue  # no stream's: that is said where the index is checked row by row
            ref = int(REF.unpack(key)[0])
            try:
                place = self.place(ref, size)
            except Corruption as error:  # what follows in that stream is named too
                self._notes.add_error(error)
            else:
                yield ref, place

    def place(self, ref: int, size: int) -> Place:
        """Return how far a stream had come then, as its index and last frame say.

        Raises Corruption where that frame is damaged.
        """
        with self._log.env.begin() as txn:
            cursor = txn.cursor(self._tables[STREAMS])
            version, last = _row_before(cursor, size) if cursor.set_key(REF.pack(ref)) else (-1, -1)
            if last < 0:
                return 0, 0, -1
            raw = txn.get(POSITION.pack(last), db=self._tables[FRAMES])
        return version + 1, Frame(bytes(raw or b""), last, self._log.codec).next_number(), last

    def first(self, position: int) -> Frame | None:
        """Return the frame that is the first to end at a position or behind it, without names.

        None where there is none; raises Corruption where it is damaged.
        """
        with self._log.env.begin() as txn:
            cursor = txn.cursor(self._tables[FRAMES])
            if not cursor.set_range(POSITION.pack(position)):
                return None
            last, raw = position_of(cursor.key()), bytes(cursor.value())
        return Frame(raw, last, self._log.codec)

    def frame(self, last: int) -> Frame:
        """Return the frame that ends at a position; raises Corruption."""
        raw = self._rows.value(FRAMES, POSITION.pack(last))
        if raw is None:
            raise Corruption(last, "the frame that ended here is found no more")
        with self._log.env.begin() as txn:
            return self._adopted(txn, Frame(raw, last, self._log.codec))

    def begin(self, position: int) -> None:
        """Go on at a position, behind a frame that ends in front of it."""
        self._after = (POSITION.pack(position - 1), b"") if position else None

    def follow(self, walk: Walk, usual: UsualFrames, stop: int | None = None) -> Iterator[None]:
        """Let a walk take the frames that end before a position, all by default, page by page."""
        while True:
            with self._log.env.begin() as txn:
                rows = self._rows.page(txn, FRAMES, self._after, stop)
                if not rows:
                    return
                self._after = rows[-1]
                first = position_of(rows[0][0])
                walked = self._notes.checked["frames"]
                if first >= self.size and self._rows.entries[FRAMES] <= walked:
                    return  # all that follows was appended after the start
                self._take(txn, walk, usual, rows)
            self.check_tiles(walk.grow())
            yield

    def leap(self, walk: Walk, stretch: Stretch) -> bool:
        """Let a walk take a stretch that is sound; False where it does not go on from here."""
        tiles = walk.leap(stretch)
        if tiles is None:
            return False
        for last in stretch.open:
            walk.judge(self.frame(last))
        self.begin(stretch.end)
        self.check_tiles(tiles)
        return True

    def _take(
        self, txn: lmdb.Transaction, walk: Walk, usual: UsualFrames, rows: Sequence[TableRow]
    ) -> None:
        """Let a walk take frames, each that is not usual by itself and behind its own rows."""
        indexes, at = self._indexes(txn), 0
        while at < len(rows):
            before, at = at, usual.take(rows, at, indexes)
            self._notes.checked["frames"] += at - before
            if at < len(rows):
                self._take_odd(txn, walk, indexes, rows[at])
                at += 1

    def _take_odd(self, txn: lmdb.Transaction, walk: Walk, indexes: Indexes, row: TableRow) -> None:
        if len(row[0]) != POSITION.size:
            self._notes.checked["frames"] += 1
            self._notes.add(-1, f"a frame stands behind {row[0]!r}, which is no position")
            return
        last, frame, said = self._taken(txn, indexes, *row)
        self._notes.take(said)
        if last < self.size:
            walk.take(last, frame)
        if frame is not None:
            walk.keys += frame.kept_key != b""

    def _indexes(self, txn: lmdb.Transaction) -> Indexes:
        def leads(ref: int) -> Callable[[bytes], bool]:
            return partial(txn.cursor(streams).set_key_dup, REF.pack(ref))

        def key_leads(key: bytes, position: int) -> bool:
            found = txn.get(key, db=self._tables[KEYS])
            return found is not None and key_position(bytes(found)) == position

        frames, streams = self._tables[FRAMES], self._tables[STREAMS]
        return Indexes(txn.get, frames, leads, key_leads, partial(self._name, txn))

    def _taken(self, txn: lmdb.Transaction, indexes: Indexes, key: bytes, raw: bytes) -> Taken:
        last = int(POSITION.unpack(key)[0])
        if last >= self.size:
            return last, None, []
        self._notes.checked["frames"] += 1
        try:
            frame = self._adopted(txn, Frame(raw, last, self._log.codec))
        except Corruption as error:
            notes = Notes()
            notes.add_error(error, last)
            return last, None, notes.findings
        misses = self._missed(indexes, frame)
        self.misses += len(misses)
        return last, frame, misses

    def _adopted(self, txn: lmdb.Transaction, frame: Frame) -> Frame:
        """Give a frame the names that its references stand for."""
        kept, row = b"", b""
        if not frame.version:
            kept, row = frame.kept_session, STREAM_ROW.pack(frame.last_version, frame.last_position)
        frame.session = self._name(txn, frame.session_ref, kept, row)
        frame.actor = self._name(txn, frame.actor_ref) if frame.actor_ref else None
        return frame

    def _name(self, txn: lmdb.Transaction, ref: int, kept: bytes = b"", first: bytes = b"") -> str:
        """Return the name that a reference stands for. Raises Corruption.

        Of a stream's first frame, whose row in the index is `first`, it is what that frame says.
        """
        name = self._names.get(ref)
        if name is None:
            said = kept and self._begins(txn, REF.pack(ref), first)
            row = SESSION_NAME + kept if said else self._name_row(txn, ref)
            if len(self._names) >= NAMES_REMEMBERED_MAX:
                self._names.clear()
            try:
                name = self._names[ref] = self._log.codec.names.shown(row[:1], row[1:])
            except ValueError as error:
                raise Corruption(-1, f"name {ref}: {error}") from None
        return name

    def _name_row(self, txn: lmdb.Transaction, ref: int) -> bytes:
        """Do what the log's name_row() does, and look through all references once at most.

        Where the index of streams is lost, each name is lost there: a look for each would take
        the square of their number.
        """
        row = self._log.kept_name(txn, ref)
        if row is not None:
            return row
        if self._loose is None:
            self._loose = {}
            for name, found in txn.cursor(self._tables[REFS]):
                self._loose.setdefault(kept_ref(bytes(name), found) or b"", bytes(name))
        row = self._loose.get(REF.pack(ref))
        if row is None:
            raise Corruption(-1, f"name {ref} is missing or does not match its checksum")
        return row

    def _begins(self, txn: lmdb.Transaction, number: bytes, row: bytes) -> bool:
        """Return True if readers find the frame of this row as the first of the stream `number`."""
        return (
            txn.get(number, db=self._tables[ACTORS]) is None
            and txn.get(number, db=self._tables[STREAMS]) == row
            and txn.get(row[-POSITION.size :], db=self._tables[FRAMES]) is not None
        )

    def _missed(self, indexes: Indexes, frame: Frame) -> list[Finding]:
        """Look for a frame where readers do: by position, in its stream, and by its key."""
        first, last, missed = frame.position, frame.last_position, list[Finding]()
        if indexes.get(POSITION.pack(last), None, indexes.frames) is None:
            what = "the frame that ends here can't be found by its position"
            missed.append(Finding(last, what))
        row = STREAM_ROW.pack(frame.last_version, last)
        if not indexes.leads(frame.session_ref)(row):
            what = f"the index of session {frame.session!r} does not lead here"
            missed.append(Finding(last, what))
        if frame.kept_key and not indexes.key_leads(frame.kept_key, first):
            what = f"the index of keys does not lead {frame.key!r} here"
            missed.append(Finding(first, what))
        return missed

    def check_tiles(self, tiles: list[Tile]) -> None:
        """Compare tiles made from the frames with those that are kept."""
        if not tiles:
            return
        with self._log.env.begin() as txn:
            for level, index, node in tiles:
                self._notes.checked["tiles"] += 1
                kept = txn.get(tile_key(level, index), db=self._tables[TILES])
                if kept != node:
                    what = f"tile {index} of level {level}, which starts here, is wrong or missing"
                    self._notes.add(index << level, what)


def _row_before(cursor: lmdb.Cursor, size: int) -> tuple[int, int]:
    """Return the row of the cursor's stream before a position, by bisection; (-1, -1) for none."""
    ref = bytes(cursor.key())
    cursor.last_dup()
    found, low, high = (-1, -1), 0, int(STREAM_ROW.unpack(cursor.value())[0])
    probe = high
    while low <= high and cursor.set_range_dup(ref, STREAM_ROW.pack(probe, 0)):
        version, last = STREAM_ROW.unpack(cursor.value())
        if last < size:
            found, low = (version, last), version + 1
        else:
            high = probe - 1
        probe = (low + high) // 2
    return found


def key_position(row: bytes) -> int:
    """Return the position in a row of the index of keys, -1 where the row is damaged."""
    try:
        return int(KEY_ROW.unpack(checked_value(row, "row"))[0])
    except (Corruption, struct.error):
        return -1
