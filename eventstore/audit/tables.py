"""The tables of the LMDB log beside its frames, read row by row and compared with what those say.

Invariants: as many rows as frames must have are all there may be, where each frame has its own;
what was appended after the start is left out.
"""

import struct

import lmdb

from ..errors import Corruption, EventStoreError
from ..log.format import (
    ACTOR_NAME,
    ACTORS,
    DICTIONARIES,
    ENCRYPTED,
    ENCRYPTED_KEY,
    FORMAT_KEY,
    FRAMES,
    HEAD_KEY,
    KEYS,
    META,
    POSITION,
    REF,
    REFS,
    SESSION_NAME,
    STARTER,
    STORE_ID_KEY,
    STREAM_ROW,
    STREAMS,
    TILES,
)
from ..log.frame import Frame
from ..log.rows import CHECKSUM_BYTES, checked_row, checked_value, kept_ref, position_of
from .frames import key_position
from .report import Notes
from .rows import Rows
from .tree import KEPT_BITS, Frontier
from .walk import Walk


class Tables:
    """The tables of one log, as they stood when this was made."""

    def __init__(self, rows: Rows, store: str, notes: Notes) -> None:
        self._rows, self._log, self._store, self._notes = rows, rows.log, store, notes
        self._erasures, self._entries, self._size = rows.log.erasures(), rows.entries, rows.size
        self._misses = 0
        self.edge = self._edge()

    def _edge(self) -> tuple[Frontier, int] | None:
        """Return the frontier and time that the head row states, None where it is damaged."""
        edge = self._rows.edge
        if isinstance(edge, Corruption):
            self._notes.add_error(edge)
            return None
        if self._size != self._rows.end:
            what = f"the tree head has size {self._size}, the frames end at {self._rows.end}"
            self._notes.add(min(self._size, self._rows.end), what)
        return edge

    def finish(self, walk: Walk, misses: int) -> None:
        """Check every table against the walk that is over; `misses` are those of its frames."""
        self._misses = misses
        checks = {
            META: self._check_meta,
            DICTIONARIES: self._check_dictionaries,
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
        rows = dict(self._rows.all(META))
        due = {FORMAT_KEY, STORE_ID_KEY}
        if self._log.codec.seal:
            due.add(ENCRYPTED_KEY)
        if walk.start or self._log.erasures() != self._erasures:  # not all, or not the same frames
            due |= rows.keys()
        else:
            due |= walk.erasures.rows()
            self._check_erased(walk)
        if set(rows) != due:
            self._notes.add(-1, f"table 'meta' has the rows {sorted(rows)}")
        if ENCRYPTED_KEY in rows and rows[ENCRYPTED_KEY] != checked_row(ENCRYPTED):
            self._notes.add(-1, "the row that says that the log is encrypted says something else")
        loose = self._log.env.loose_rows()
        if set(loose) != {HEAD_KEY}:
            self._notes.add(-1, f"beside the tables are the rows {sorted(loose)}")
        store = checked_value(rows.get(STORE_ID_KEY), "the store's id").decode(errors="replace")
        if store != self._store:
            self._notes.add(-1, f"the log is of store {store!r}, the directory of {self._store!r}")
        self._check_head(walk)

    def _check_head(self, walk: Walk) -> None:
        """Compare the tree head with what the frames hash to, and its time with theirs."""
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
        for due, (key, row) in enumerate(self._rows.all(DICTIONARIES), STARTER):
            number = REF.unpack(key)[0]
            if number != due:
                self._notes.add(-1, f"dictionary {number} stands where {due} should")
            self._opened(key, row, f"dictionary {number}")
            self._notes.checked["dictionaries"] += 1

    def _check_refs(self, walk: Walk) -> None:
        """Check that names lead to their own references, each to another, and have facts."""
        sound, newest = True, REF.pack(self._rows.newest_ref)
        for page in self._rows.pages(REFS):
            with self._log.env.begin() as txn:
                for name, found in page:
                    number = kept_ref(name, found)
                    if number is not None and number <= newest:
                        self._notes.checked["names"] += 1
                        self._notes.checked["sessions"] += name.startswith(SESSION_NAME)
                    sound = self._leads_home(txn, walk, name, number) and sound
        actors = sum(number <= newest for number, _ in self._rows.all(ACTORS))
        names = actors + sum(number <= newest for number in self._rows.keys(STREAMS))
        if self._entries[ACTORS] != actors:
            self._notes.add(-1, f"{self._entries[ACTORS]} rows of actors for {actors} actors")
        if self._entries[REFS] != names:
            self._notes.add(-1, f"{self._entries[REFS]} references for {names} names")
        elif self.edge is not None and names != self._rows.newest_ref:
            self._notes.add(-1, f"the tree head counts {self._rows.newest_ref} names of {names}")
        elif sound:
            return  # as many rows as names, and each is its name's: so each name has its own
        self._check_names()

    def _leads_home(
        self, txn: lmdb.Transaction, walk: Walk, name: bytes, number: bytes | None
    ) -> bool:
        """Return True where a name is what its reference leads back to; say what is wrong."""
        if number is None:
            what = f"the reference of {self._drawn(name)} does not match its checksum"
            self._notes.add(-1, what)
            return False
        found = txn.get(number, db=self._rows.tables[ACTORS])
        row = None if found is None else bytes(found)
        known = self._first_name(txn, number) if row is None else row[CHECKSUM_BYTES:]
        if known not in (name, None):
            self._notes.add(-1, f"{self._drawn(name)} leads to a reference that is not its own")
        if row is None and name.startswith(ACTOR_NAME):
            what = f"{self._drawn(name)} is not found by its reference {REF.unpack(number)[0]}"
            self._notes.add(-1, what)
        elif known is None and not self._has_facts(walk, number):
            self._notes.add(-1, f"{self._drawn(name)} has no facts")
        return known == name and (row is None or checked_row(name, number) == row)

    def _has_facts(self, walk: Walk, number: bytes) -> bool:
        """Return True for a stream that frames or the index know of, those appended since too."""
        known = walk.places.at(REF.unpack(number)[0])[0]
        return bool(known) or self._rows.value(STREAMS, number) is not None

    def _check_names(self) -> None:
        """Name the sessions and actors that do not lead to their references."""
        for number, row in self._rows.all(ACTORS):
            name = self._opened(number, row, f"name {REF.unpack(number)[0]}")
            self._check_leads(name, number)
        for number in self._rows.keys(STREAMS):
            with self._log.env.begin() as txn:
                name = self._first_name(txn, number)
            self._check_leads(name, number)

    def _first_name(self, txn: lmdb.Transaction, number: bytes) -> bytes | None:
        """Return the name that a stream's first frame has, None where that is lost."""
        first = self._log.first_frame(txn, number)
        return None if first is None else SESSION_NAME + first.kept_session

    def _check_leads(self, name: bytes | None, number: bytes) -> None:
        if name is None:
            return
        found = self._rows.value(REFS, name)
        if found is None or kept_ref(name, found) not in (number, None):
            ref = REF.unpack(number)[0]
            self._notes.add(-1, f"{self._drawn(name)} does not lead to its reference {ref}")

    def _check_streams(self, walk: Walk) -> None:
        """Name the rows that lead to no frame, unless rows and frames are known to be as many."""
        self._notes.checked["stream rows"] = self._entries[STREAMS]
        if not self._misses and walk.whole and self._entries[STREAMS] == self._entries[FRAMES]:
            return
        for key, row in self._rows.all(STREAMS):
            version, last = STREAM_ROW.unpack(row)
            if last < self._size and self._leads_astray(last, REF.unpack(key)[0], version):
                self._notes.add(last, f"a row of the index of streams (version {version}) is wrong")

    def _leads_astray(self, last: int, ref: int, version: int) -> bool:
        raw = self._rows.value(FRAMES, POSITION.pack(last))
        try:
            frame = Frame(raw, last, self._log.codec) if raw is not None else None
        except Corruption:
            return False  # the frame was named already
        return (frame and (frame.session_ref, frame.last_version)) != (ref, version)

    def _check_keys(self, walk: Walk) -> None:
        """Name the rows whose append has no such key, unless they are known to be as many."""
        self._notes.checked["keys"] = self._entries[KEYS]
        if not self._misses and walk.whole and self._entries[KEYS] == walk.keys:
            return
        for key, row in self._rows.all(KEYS):
            position = key_position(row)
            walked = walk.start <= position < self._size
            if position < 0 or (walked and self._other_key(position, key)):
                self._notes.add(position, f"a row of the index of keys ({key!r}) is wrong")

    def _other_key(self, position: int, key: bytes) -> bool:
        with self._log.env.begin() as txn:
            cursor = txn.cursor(self._rows.tables[FRAMES])
            if not cursor.set_range(POSITION.pack(position)):
                return True
            last, raw = position_of(cursor.key()), bytes(cursor.value())
        try:
            frame = Frame(raw, last, self._log.codec)
        except Corruption:
            return False  # the frame was named already
        return (frame.position, frame.kept_key) != (position, key)

    def _check_tile_rows(self, _: Walk) -> None:
        """Name tiles that the tree doesn't have."""
        levels = range(KEPT_BITS, 64, KEPT_BITS)
        if self._entries[TILES] == sum(self._size >> level for level in levels):
            return
        self._notes.add(-1, f"{self._entries[TILES]} tiles are kept for {self._size} events")

    # -- rows ----------------------------------------------------------------------------

    def _drawn(self, row: bytes) -> str:
        kind = {SESSION_NAME: "session", ACTOR_NAME: "actor"}.get(row[:1], "unknown kind of name")
        try:
            return f"{kind} {self._log.codec.names.public(row[1:])!r}"
        except ValueError:
            return f"{kind} {row[1:].decode(errors='backslashreplace')!r}"

    def _opened(self, number: bytes, row: bytes, what: str) -> bytes | None:
        try:
            return checked_value(row, what, number)
        except Corruption as error:
            self._notes.add_error(error)
            return None
