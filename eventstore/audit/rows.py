"""The rows of an LMDB log's tables, as they are, in bounded pages.

Invariants: rows are read raw, since the log's own readers stop at damage; no transaction stays
open between pages.
"""

from collections.abc import Iterator
from itertools import islice
from typing import cast

import lmdb

from ..errors import Corruption
from ..limits import PAGE_BYTES_MAX, PAGE_EVENTS_MAX
from ..log.base import session_row
from ..log.format import FRAMES, POSITION, REF, REFS, STREAMS, TABLES
from ..log.lmdb import LmdbLog
from ..log.rows import position_of
from .tree import Frontier

TableRow = tuple[bytes, bytes]

REF_MAX = (1 << 32) - 1
"""No reference is larger: it has 32 bits."""


class Rows:
    """The tables of one log, and how they stood when this was made.

    `entries` counts their rows, `end` is the position after the last frame, `newest_ref` the
    reference of the newest name, REF_MAX where that is lost; `edge` is the frontier and time that
    the head row states, or what is wrong with it; `size` is the log's, of that row if it can be.
    """

    def __init__(self, log: LmdbLog) -> None:
        self.log = log
        with log.env.begin() as txn:
            self.tables = {name: log.env.table(name, dupfixed=name == STREAMS) for name in TABLES}
            self.entries = {
                name: int(txn.stat(table)["entries"]) for name, table in self.tables.items()
            }
            last = txn.cursor(self.tables[FRAMES])
            self.end = position_of(last.key()) + 1 if last.last() else 0
            self.edge = self._edge(txn)
            lost = isinstance(self.edge, Corruption)
            self.newest_ref = REF_MAX if lost else log.newest_ref(txn)
        self.size = self.end if isinstance(self.edge, Corruption) else self.edge[0].size

    def _edge(self, txn: lmdb.Transaction) -> tuple[Frontier, int] | Corruption:
        try:
            return self.log.edge(txn)
        except Corruption as error:
            return error

    def named(self, session: str) -> int | None:
        """Return the reference of a session's name; that it is damaged is said elsewhere."""
        found = self.value(REFS, session_row(self.log.codec.names, session))
        return None if found is None else int.from_bytes(found[: REF.size])

    def value(self, table: bytes, key: bytes) -> bytes | None:
        """Return the value of a row, None where there is none."""
        with self.log.env.begin() as txn:
            found = txn.get(key, db=self.tables[table])
            return None if found is None else bytes(found)

    def all(self, table: bytes) -> Iterator[TableRow]:
        """Iterate over all rows of a table."""
        for rows in self.pages(table):
            yield from rows

    def pages(self, table: bytes) -> Iterator[list[TableRow]]:
        """Iterate over all rows of a table, page by page."""
        after = None
        while True:
            with self.log.env.begin() as txn:
                rows = self.page(txn, table, after)
            if not rows:
                return
            yield rows
            after = rows[-1]

    def keys(self, table: bytes) -> Iterator[bytes]:
        """Iterate over the keys of a table, each once."""
        after = b""
        while True:
            with self.log.env.begin() as txn:
                cursor = txn.cursor(self.tables[table])
                page = list(islice(_keys_behind(cursor, after), PAGE_EVENTS_MAX))
            if not page:
                return
            yield from page
            after = page[-1]

    def page(
        self,
        txn: lmdb.Transaction,
        table: bytes,
        after: TableRow | None,
        stop: int | None = None,
    ) -> list[TableRow]:
        """Return a page of rows from the beginning or behind a row, of frames up to a position."""
        end = None if stop is None else POSITION.pack(stop)
        cursor = txn.cursor(self.tables[table])
        if after is None:
            found = cursor.first()
        else:
            found = cursor.set_key_dup(*after) if table == STREAMS else cursor.set_key(after[0])
            if not found:
                raise Corruption(-1, f"table {table.decode()!r}: row {after[0]!r} is found no more")
            found = cursor.next()
        rows: list[TableRow] = []
        size = 0
        behind = cast("Iterator[TableRow]", cursor) if found else iter(())
        for row in islice(behind, PAGE_EVENTS_MAX):
            if end is not None and row[0] >= end:
                break
            rows.append(row)
            size += len(row[1])
            if size >= PAGE_BYTES_MAX:
                break
        return rows


def _keys_behind(cursor: lmdb.Cursor, after: bytes) -> Iterator[bytes]:
    found = cursor.set_range(after) and (bytes(cursor.key()) != after or cursor.next_nodup())
    while found:
        yield bytes(cursor.key())
        found = cursor.next_nodup()
