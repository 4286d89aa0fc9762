"""The tables of the LMDB log, read row by row and compared with what the frames say.

Invariants: rows are read raw, since the log's own readers stop at damage; each frame must have its
rows, and as many rows as frames must have are all there may be; pages are bounded and no
transaction stays open between them; what was appended after the start is left out.
"""

import struct
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import lmdb

from ..errors import Corruption, EventStoreError
from ..limits import PAGE_BYTES_MAX, PAGE_EVENTS_MAX
from ..log.base import session_row
from ..log.format import (
    ACTOR_NAME,
    DICTIONARIES,
    ENCRYPTED_KEY,
    FORMAT_KEY,
    FRAMES,
    HEAD_KEY,
    KEY_ROW,
    KEYS,
    META,
    NAMES,
    POSITION,
    REF,
    REFS,
    SESSION_NAME,
    STARTER,
    STORE_KEY,
    STREAM_ROW,
    STREAMS,
    TABLES,
    TILE_KEY,
    TILES,
)
from ..log.frame import Frame
from ..log.lmdb import LmdbLog
from ..log.rows import checked_value
from .relations import Place
from .report import Notes
from .tree import KEPT_BITS, Frontier
from .usual import Indexes, UsualFrames
from .walk import Tile, Walk

Taken = list[tuple[int, Frame | None]]
"""A page of frames with their last positions, None for one that can't be read."""

TableRow = tuple[bytes, bytes]


class Tables:
    """The tables of one log, as they stood when this was made."""

    def __init__(self, log: LmdbLog, store: str, notes: Notes) -> None:
        self._log, self._store, self._notes = log, store, notes
        self._erasures = log.erasures()
        self._misses = self._start = 0
        self._after: TableRow | None = None
        self._names: dict[int, str] = {}
        with log.env.begin() as txn:
            tables = {name: log.env.table(name, dupfixed=name == STREAMS) for name in TABLES}
            self._tables = tables
            self._entries = {name: int(txn.stat(db)["entries"]) for name, db in tables.items()}
            last = txn.cursor(tables[FRAMES])
            self.size = POSITION.unpack(last.key())[0] + 1 if last.last() else 0
            last = txn.cursor(tables[NAMES])
            self._newest_ref = REF.unpack(last.key())[0] if last.last() else 0
            self.edge = self._edge(txn)

    def _edge(self, txn: lmdb.Transaction) -> tuple[Frontier, int] | None:
        """Return the frontier and time that the head row states, None where it is damaged."""
        try:
            edge = self._log.edge(txn)
        except Corruption as error:
            self._notes.add_error(error)
            return None
        if edge[0].size != self.size:
            what = f"the tree head has size {edge[0].size}, the frames end at {self.size}"
            self._notes.add(min(edge[0].size, self.size), what)
        self.size = edge[0].size
        return edge

    def named(self, session: str) -> int | None:
        """Return the reference of a session's name."""
        with self._log.env.begin() as txn:
            found = txn.get(session_row(self._log.codec.names, session), db=self._tables[REFS])
        return None if found is None else int(REF.unpack(found)[0])

    # -- frames, and the rows that each of them must have --------------------------------

    def places(self, size: int) -> Iterator[tuple[int, Place]]:
        """Iterate over the streams and how far each had come when the log held `size` events."""
        key = None
        while True:
            with self._log.env.begin() as txn:
                cursor = txn.cursor(self._tables[STREAMS])
                found = cursor.first() if key is None else cursor.set_range(key)
                page: list[tuple[int, Place]] = []
                while found and len(page) < PAGE_EVENTS_MAX:
                    page += _place_before(cursor, size)
                    found = cursor.next_nodup()
                key = bytes(cursor.key()) if found else None
            yield from page
            if key is None:
                return

    def start(self, position: int) -> None:
        """Begin at a position, where a frame ended that was verified before."""
        self._start, self._after = position, (POSITION.pack(position - 1), b"")

    def follow(self, walk: Walk, usual: UsualFrames, stop: int | None = None) -> Iterator[None]:
        """Let a walk take the frames that end before a position, all by default, page by page."""
        while True:
            with self._log.env.begin() as txn:
                rows = self._rows(txn, FRAMES, self._after, stop)
                heads = usual.look(rows, self._indexes(txn))
            if not rows:
                return
            self._after = rows[-1]
            first = POSITION.unpack(rows[0][0])[0]
            if first >= self.size and self._entries[FRAMES] <= self._notes.checked["frames"]:
                return  # all that follows was appended after the start
            at = 0
            while at < len(rows):
                before, at = at, usual.take(rows, heads, at)
                self._notes.checked["frames"] += at - before
                if at < len(rows):
                    self._take(walk, usual, *rows[at])
                    at += 1
            self.check_tiles(walk.grow())
            yield

    def _take(self, walk: Walk, usual: UsualFrames, key: bytes, raw: bytes) -> None:
        """Let a walk take one frame that is not usual."""
        with self._log.env.begin() as txn:
            last, frame = self._taken(txn, key, raw)
        if last < self.size:
            walk.take(last, frame)
        if frame is not None:
            walk.keys += frame.kept_key != b""
            usual.learn(frame)

    def _indexes(self, txn: lmdb.Transaction) -> Indexes:
        def leads(key: bytes, position: int) -> bool:
            found = txn.get(key, db=self._tables[KEYS])
            return found is not None and _key_position(bytes(found)) == position

        frames, streams = self._tables[FRAMES], self._tables[STREAMS]
        return Indexes(partial(txn.cursor, frames), partial(txn.cursor, streams), leads)

    def _taken(self, txn: lmdb.Transaction, key: bytes, raw: bytes) -> tuple[int, Frame | None]:
        last = int(POSITION.unpack(key)[0])
        if last >= self.size:
            return last, None
        self._notes.checked["frames"] += 1
        try:
            frame = Frame(raw, last, self._log.codec)
            frame.session = self._name(txn, frame.session_ref)
            frame.actor = self._name(txn, frame.actor_ref) if frame.actor_ref else None
        except Corruption as error:
            self._notes.add_error(error, last)
            return last, None
        self._check_rows(txn, frame)
        return last, frame

    def _name(self, txn: lmdb.Transaction, ref: int) -> str:
        name = self._names.get(ref)
        if name is None:
            row = checked_value(txn.get(REF.pack(ref), db=self._tables[NAMES]), f"name {ref}")
            if len(self._names) >= PAGE_EVENTS_MAX:
                self._names.clear()
            try:
                name = self._names[ref] = self._log.codec.names.shown(row[:1], row[1:])
            except ValueError as error:
                raise Corruption(-1, f"name {ref}: {error}") from None
        return name

    def _check_rows(self, txn: lmdb.Transaction, frame: Frame) -> None:
        """Look for a frame where readers do: by position, in its stream, and by its key."""
        last, indexes = frame.last_position, self._indexes(txn)
        if not indexes.frames().set_key(POSITION.pack(last)):
            self._miss(last, "the frame that ends here can't be found by its position")
        row = STREAM_ROW.pack(frame.last_version, frame.next_number(), last)
        if not indexes.streams().set_key_dup(REF.pack(frame.session_ref), row):
            self._miss(last, f"the index of session {frame.session!r} does not lead here")
        if frame.kept_key and not indexes.key_leads(frame.kept_key, frame.position):
            self._miss(frame.position, f"the index of keys does not lead {frame.key!r} here")

    def _miss(self, position: int, what: str) -> None:
        self._misses += 1
        self._notes.add(position, what)

    # -- the other tables ----------------------------------------------------------------

    def check_tiles(self, tiles: list[Tile]) -> None:
        """Compare tiles made from the frames with those that are kept."""
        if not tiles:
            return
        with self._log.env.begin() as txn:
            for level, index, node in tiles:
                self._notes.checked["tiles"] += 1
                kept = txn.get(TILE_KEY.pack(level, index), db=self._tables[TILES])
                if kept != node:
                    what = f"tile {index} of level {level}, which starts here, is wrong or missing"
                    self._notes.add(index << level, what)

    def finish(self, walk: Walk) -> None:
        """Check every table against the walk that is over."""
        checks: dict[bytes, Callable[[Walk], None]] = {
            META: self._check_meta,
            DICTIONARIES: self._check_dictionaries,
            NAMES: self._check_names,
            REFS: self._check_refs,
            STREAMS: self._check_streams,
            KEYS: self._check_keys,
            TILES: self._check_tile_rows,
        }
        for name, check in checks.items():
            try:
                check(walk)
            except (EventStoreError, struct.error) as error:
                self._notes.add(-1, f"table {name.decode()!r} can't be read: {error}")

    def _check_meta(self, walk: Walk) -> None:
        rows = dict(self._all(META))
        due = {FORMAT_KEY, STORE_KEY}
        if self._log.codec.seal:
            due.add(ENCRYPTED_KEY)
        if walk.start or self._log.erasures() != self._erasures:  # not all, or not the same frames
            due |= rows.keys()
        else:
            due |= walk.erasures.rows()
            self._check_erased(walk)
        if set(rows) != due:
            self._notes.add(-1, f"table 'meta' has the rows {sorted(rows)}")
        loose = self._log.env.loose_rows()
        if set(loose) != {HEAD_KEY}:
            self._notes.add(-1, f"beside the tables are the rows {sorted(loose)}")
        store = checked_value(rows.get(STORE_KEY), "the store's id").decode(errors="replace")
        if store != self._store:
            self._notes.add(-1, f"the log is of store {store!r}, the directory of {self._store!r}")
        if self.edge is None or not walk.whole:
            return
        frontier, recorded_at = self.edge
        if frontier.nodes != walk.frontier.nodes:
            self._notes.add(-1, "the tree head is not what the frames hash to")
        if recorded_at != walk.recorded_at:
            what = f"the tree head's time is {recorded_at} instead of {walk.recorded_at}"
            self._notes.add(-1, what)

    def _check_erased(self, walk: Walk) -> None:
        """Compare what is kept of redactions and erasures with what the frames say."""
        if not walk.whole:
            return
        gone = self._log.gone
        with self._log.env.begin() as txn:
            if gone.erased(txn) != walk.erasures.erased:
                self._notes.add(-1, "the list of erased sessions is not what their facts say")
            for ref, lines in walk.erasures.hidden.items():
                session = lines[0].session
                if gone.hidden(txn, session, ref) != lines:
                    what = f"the list of hidden lines of session {session!r} is wrong or missing"
                    self._notes.add(-1, what)

    def _check_dictionaries(self, _: Walk) -> None:
        for due, (key, row) in enumerate(self._all(DICTIONARIES), STARTER):
            number = REF.unpack(key)[0]
            if number != due:
                self._notes.add(-1, f"dictionary {number} stands where {due} should")
            self._opened(row, f"dictionary {number}")
            self._notes.checked["dictionaries"] += 1

    def _check_names(self, walk: Walk) -> None:
        """Check that names are numbered densely, lead back to themselves, and have facts."""
        for due, (key, row) in enumerate(self._all(NAMES), 1):
            ref = REF.unpack(key)[0]
            if ref > self._newest_ref:
                break
            if ref != due:
                self._notes.add(-1, f"name {ref} stands where {due} should")
            self._notes.checked["names"] += 1
            name = self._opened(row, f"name {ref}")
            if name is None:
                continue
            if self._value(REFS, name) != key:
                self._notes.add(-1, f"{self._drawn(name)} does not lead to its reference {ref}")
            if name[:1] == SESSION_NAME:
                self._notes.checked["sessions"] += 1
                if walk.whole and not walk.places.at(ref)[0]:
                    self._notes.add(-1, f"{self._drawn(name)} has no facts")

    def _check_refs(self, _: Walk) -> None:
        for name, key in self._all(REFS):
            row = self._value(NAMES, key) if len(key) == REF.size else None
            if row is None or row[8:] != name:
                self._notes.add(-1, f"{self._drawn(name)} leads to a reference that is not its own")
        if self._entries[REFS] != self._entries[NAMES]:
            what = f"{self._entries[REFS]} references for {self._entries[NAMES]} names"
            self._notes.add(-1, what)

    def _check_streams(self, walk: Walk) -> None:
        """Name the rows that lead to no frame, unless rows and frames are known to be as many."""
        self._notes.checked["stream rows"] = self._entries[STREAMS]
        if not self._misses and walk.whole and self._entries[STREAMS] == self._entries[FRAMES]:
            return
        for key, row in self._all(STREAMS):
            version, messages, last = STREAM_ROW.unpack(row)
            if last < self.size and self._leads_astray(last, REF.unpack(key)[0], version, messages):
                self._notes.add(last, f"a row of the index of streams (version {version}) is wrong")

    def _leads_astray(self, last: int, ref: int, version: int, messages: int) -> bool:
        raw = self._value(FRAMES, POSITION.pack(last))
        try:
            frame = Frame(raw, last, self._log.codec) if raw is not None else None
        except Corruption:
            return False  # the frame was named already
        there = frame and (frame.session_ref, frame.last_version, frame.next_number())
        return there != (ref, version, messages)

    def _check_keys(self, walk: Walk) -> None:
        """Name the rows whose append has no such key, unless they are known to be as many."""
        self._notes.checked["keys"] = self._entries[KEYS]
        if not self._misses and walk.whole and self._entries[KEYS] == walk.keys:
            return
        for key, row in self._all(KEYS):
            position = _key_position(row)
            if self._within(position) and (position < 0 or self._other_key(position, key)):
                self._notes.add(position, f"a row of the index of keys ({key!r}) is wrong")

    def _within(self, position: int) -> bool:
        """Return True for a position that was walked, or for none at all."""
        return position < 0 or self._start <= position < self.size

    def _other_key(self, position: int, key: bytes) -> bool:
        with self._log.env.begin() as txn:
            cursor = txn.cursor(self._tables[FRAMES])
            if not cursor.set_range(POSITION.pack(position)):
                return True
            last, raw = POSITION.unpack(cursor.key())[0], bytes(cursor.value())
        try:
            frame = Frame(raw, last, self._log.codec)
        except Corruption:
            return False  # the frame was named already
        return (frame.position, frame.kept_key) != (position, key)

    def _check_tile_rows(self, _: Walk) -> None:
        """Name tiles that the tree doesn't have."""
        levels = range(KEPT_BITS, 64, KEPT_BITS)
        if self._entries[TILES] == sum(self.size >> level for level in levels):
            return
        self._notes.add(-1, f"{self._entries[TILES]} tiles are kept for {self.size} events")

    # -- rows ----------------------------------------------------------------------------

    def _drawn(self, row: bytes) -> str:
        kind = {SESSION_NAME: "session", ACTOR_NAME: "actor"}.get(row[:1], "unknown kind of name")
        try:
            return f"{kind} {self._log.codec.names.public(row[1:])!r}"
        except ValueError:
            return f"{kind} {row[1:].decode(errors='backslashreplace')!r}"

    def _opened(self, row: bytes, what: str) -> bytes | None:
        try:
            return checked_value(row, what)
        except Corruption as error:
            self._notes.add_error(error)
            return None

    def _value(self, table: bytes, key: bytes) -> bytes | None:
        with self._log.env.begin() as txn:
            found = txn.get(key, db=self._tables[table])
            return None if found is None else bytes(found)

    def _all(self, table: bytes) -> Iterator[TableRow]:
        """Iterate over all rows of a table."""
        after = None
        while True:
            with self._log.env.begin() as txn:
                rows = self._rows(txn, table, after)
            if not rows:
                return
            yield from rows
            after = rows[-1]

    def _rows(
        self,
        txn: lmdb.Transaction,
        table: bytes,
        after: TableRow | None,
        stop: int | None = None,
    ) -> list[TableRow]:
        """Return a page of rows from the beginning or behind a row, of frames up to a position."""
        end = None if stop is None else POSITION.pack(stop)
        cursor = txn.cursor(self._tables[table])
        if after is None:
            found = cursor.first()
        else:
            found = cursor.set_key_dup(*after) if table == STREAMS else cursor.set_key(after[0])
            if not found:
                raise Corruption(-1, f"table {table.decode()!r}: row {after[0]!r} is found no more")
            found = cursor.next()
        rows: list[TableRow] = []
        size = 0
        for key, value in islice(cursor, PAGE_EVENTS_MAX) if found else ():
            row = bytes(key), bytes(value)
            if end is not None and row[0] >= end:
                break
            rows.append(row)
            size += len(value)
            if size >= PAGE_BYTES_MAX:
                break
        return rows


def _place_before(cursor: lmdb.Cursor, size: int) -> list[tuple[int, Place]]:
    """Return the place of the cursor's stream before a position, nothing where it began later."""
    ref = int(REF.unpack(cursor.key())[0])
    more = cursor.last_dup()
    while more:
        version, messages, last = STREAM_ROW.unpack(cursor.value())
        if last < size:
            return [(ref, (version + 1, messages, last))]
        more = cursor.prev_dup()
    return []


def _key_position(row: bytes) -> int:
    """Return the position in a row of the index of keys, -1 where the row is damaged."""
    try:
        return int(KEY_ROW.unpack(checked_value(row, "row"))[0])
    except Corruption:
        return -1
