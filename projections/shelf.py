"""Shelves: where views keep their rows, in an LMDB environment of their own or in memory.

Invariants: a row carries a checksum over its key and value, so a damaged one is noticed, never
used; what one transaction writes is kept whole or not at all; everything here may be deleted at
any time, since it can be made again from facts.
"""

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import lmdb
import msgspec
from xxhash import xxh3_64_digest

from eventstore.errors import UNDECODABLE, Corruption, InvalidEvent, StoreFull, StoreUnavailable
from eventstore.log.base import T
from eventstore.log.environment import Environment, open_environment
from eventstore.place.presence import FULL

CHECKSUM_BYTES = 8
KEY_BYTES_MAX = 511
"""LMDB's own limit of a key."""


class Damage(Exception):
    """What a view keeps is not what was written; leads to a rebuild and never leaves here."""


class Retired(Exception):
    """Another shelf has taken this one's place; leads to another look and never leaves here."""


class Table(Protocol):
    """Sorted rows of bytes inside a transaction."""

    def get(self, key: bytes) -> bytes | None:
        """Return a row."""

    def put(self, key: bytes, row: bytes) -> None:
        """Write a row."""

    def delete(self, key: bytes) -> None:
        """Remove a row, if it is there."""

    def scan(
        self, prefix: bytes, after: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the rows whose keys begin with `prefix`, in order, those beyond `after`."""

    def count(self) -> int:
        """Return the number of rows."""

    def clear(self) -> None:
        """Remove all rows."""


Tables = Callable[[bytes], Table]
"""A transaction: gives the table of a name that add() has made."""


class Shelf(Protocol):
    """Named tables that change in transactions, one writer at a time."""

    def add(self, name: bytes) -> None:
        """Make a table, if it is new."""

    def begin(self) -> AbstractContextManager[Tables]:
        """Begin a transaction that reads and ends with the block. Raises Damage."""

    def write(self, work: Callable[[Tables], T]) -> T:
        """Run `work` in a transaction, undone on any error. Raises Damage."""

    def retire(self) -> None:
        """Close: another shelf has taken the place of this one."""

    def close(self) -> None:
        """Release everything; idempotent."""


# -- rows ------------------------------------------------------------------------------------


def sealed(key: bytes, value: bytes) -> bytes:
    """Return a row: the checksum of key and value, then the value."""
    return xxh3_64_digest(key + value) + value


def opened(key: bytes, row: bytes) -> bytes:
    """Return the value of a row; raises Damage."""
    value = row[CHECKSUM_BYTES:]
    if xxh3_64_digest(key + value) != row[:CHECKSUM_BYTES]:
        raise Damage(f"the row {key!r} does not match its checksum")
    return value


class RowCoder:
    """Turns states or rows into bytes and back, as a projection's `row_type` says."""

    def __init__(self, row_type: Any) -> None:
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(row_type).decode

    def seal(self, key: bytes, value: Any) -> bytes:
        """Return the row of a value."""
        return sealed(key, self._encode(value))

    def open(self, key: bytes, row: bytes) -> Any:
        """Return the value of a row; raises Damage where it is none of this type."""
        try:
            return self._decode(opened(key, row))
        except UNDECODABLE as error:
            raise Damage(f"the row {key!r} is of another kind: {error}") from None


Orders = Mapping[str, Callable[[Any], bytes]]
"""Names of orders, and the bytes of a row that they go by."""


class Index:
    """The rows of a table in other orders: an entry for each row and order, by value and key."""

    def __init__(self, table: Table, orders: Orders) -> None:
        self.table, self.orders = table, orders
        self._numbers = {name: bytes([number]) for number, name in enumerate(orders)}

    def move(self, key: bytes, before: Any | None, after: Any | None) -> None:
        """Take a row from where it stood to where it stands now, None for nowhere."""
        old, new = self._entries(key, before), self._entries(key, after)
        for entry in old - new:
            self.table.delete(entry)
        for entry in new - old:
            self.table.put(entry, key)

    def walk(
        self, order: str, within: bytes, place: bytes | None, *, reverse: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over (value and key, key) where the value begins so, those beyond `place`."""
        number = self._numbers[order]
        after = None if place is None else number + place
        for entry, key in self.table.scan(number + within, after, reverse=reverse):
            yield entry[1:], key

    def _entries(self, key: bytes, row: Any | None) -> set[bytes]:
        if row is None:
            return set()
        return {self._numbers[name] + value(row) + key for name, value in self.orders.items()}


class Rows(MutableMapping[str, Any]):
    """The state of a keyed projection inside one transaction.

    Rows are read when asked for and written by save(), those that changed and no others, however
    they were changed.
    """

    def __init__(self, table: Table, coder: RowCoder, index: Index | None = None) -> None:
        self._table, self._coder, self._index = table, coder, index
        self._touched: dict[str, Any] = {}
        self._stored: dict[str, bytes | None] = {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._stored:
            self._stored[key] = row = self._table.get(_key(key))
            if row is not None:
                self._touched[key] = self._coder.open(_key(key), row)
        return self._touched[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in self._stored:
            self._stored[key] = self._table.get(_key(key))
        self._touched[key] = value

    def __delitem__(self, key: str) -> None:
        self[key]
        del self._touched[key]

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self.under(""))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def under(self, prefix: str) -> Iterator[tuple[str, Any]]:
        """Iterate over the rows whose keys begin with `prefix`; don't change any meanwhile."""
        for key, row in self._table.scan(prefix.encode()):
            name = key.decode()
            if name not in self._stored:
                yield name, self._coder.open(key, row)
        for name, value in self._touched.items():
            if name.startswith(prefix):
                yield name, value

    def ordered(
        self, order: str, within: bytes, place: bytes | None, *, reverse: bool
    ) -> Iterator[Any]:
        """Iterate over rows in an order of the projection's, as they were before any change."""
        assert self._index is not None
        value = self._index.orders[order]
        for entry, key in self._index.walk(order, within, place, reverse=reverse):
            row = self._coder.open(key, self._table.get(key) or b"")
            if value(row) + key != entry:
                raise Damage(f"the row {key!r} is not where its order has it")
            yield row

    def save(self) -> None:
        """Write what changed; every row is encoded before the first one is written."""
        changed = {}
        for key, stored in self._stored.items():
            name = _key(key)
            row = self._coder.seal(name, self._touched[key]) if key in self._touched else None
            if row != stored:
                changed[name] = row
        for name, row in changed.items():
            if self._index is not None:
                self._index.move(name, self._before(name), self._touched.get(name.decode()))
            if row is None:
                self._table.delete(name)
            else:
                self._table.put(name, row)

    def _before(self, name: bytes) -> Any | None:
        """Return a row as it stands in the table."""
        stored = self._stored[name.decode()]
        return None if stored is None else self._coder.open(name, stored)


def _key(key: str) -> bytes:
    """Return the key of a row; raises InvalidEvent for one that no table can hold."""
    name = key.encode()
    if not 0 < len(name) <= KEY_BYTES_MAX:
        raise InvalidEvent(f"a row's key takes 1 to {KEY_BYTES_MAX} bytes, not {len(name)}")
    return name


# -- in LMDB ---------------------------------------------------------------------------------


class LmdbShelf:
    """Tables in an LMDB environment, for all threads and processes of this machine."""

    def __init__(self, path: Path) -> None:
        self._env = _open(path)
        self._tables: dict[bytes, Any] = {}
        self._lock = threading.Lock()
        self._using: set[object] = set()
        self._closed = self._retired = self._released = False

    def add(self, name: bytes) -> None:
        """Make a table, if it is new."""
        try:
            self._tables[name] = self._env.table(name, create=True)
        except lmdb.Error as error:
            raise StoreUnavailable(f"{self._env.path} takes no more views: {error}") from error

    @contextmanager
    def begin(self) -> Iterator[Tables]:
        """Begin an LMDB transaction that reads."""
        with self._in_use(), self._env.begin() as txn:
            yield lambda name: _LmdbTable(txn, self._tables[name])

    def write(self, work: Callable[[Tables], T]) -> T:
        """Run `work` in an LMDB transaction, whose end no interrupt can leave out."""
        with self._in_use(), self._env.translating, self._env.write() as txn:
            return work(lambda name: _LmdbTable(txn, self._tables[name]))

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """Have the environment stay open; Damage where LMDB's own pages are damaged."""
        use = object()
        try:
            with self._lock:
                if self._retired:
                    raise Retired
                if self._closed:
                    raise StoreUnavailable("the views are closed")
                self._using.add(use)
            yield
        except Corruption as error:
            if isinstance(error.__cause__, lmdb.Error):
                raise Damage(str(error.__cause__)) from error
            raise
        finally:
            self._using.discard(use)
            self._release()

    def _release(self) -> None:
        """Release the environment once it is closed and no transaction uses it."""
        if self._closed:
            with self._lock:
                if not self._using and not self._released:
                    self._released = True
                    self._env.close()

    def retire(self) -> None:
        """Close: another shelf has taken the place of this one."""
        self._retired = True
        self.close()

    def close(self) -> None:
        """Release the environment once no transaction uses it; idempotent."""
        self._closed = True
        self._release()


def _open(path: Path) -> Environment:
    """Open the environment; one that is none any more is made anew."""
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        kind = StoreFull if error.errno in FULL else StoreUnavailable
        raise kind(f"{path} can't be made: {error.strerror}") from None
    try:
        return open_environment(path, cache=True)
    except (StoreUnavailable, Corruption) as error:
        ruined = (lmdb.InvalidError, lmdb.VersionMismatchError)
        if not isinstance(error, Corruption) and not isinstance(error.__cause__, ruined):
            raise
        shutil.rmtree(path)
        path.mkdir()
        return open_environment(path, cache=True)


class _LmdbTable:
    def __init__(self, txn: lmdb.Transaction, table: Any) -> None:
        self._txn, self._table = txn, table

    def get(self, key: bytes) -> bytes | None:
        row = self._txn.get(key, db=self._table)
        return None if row is None else bytes(row)

    def put(self, key: bytes, row: bytes) -> None:
        self._txn.put(key, row, db=self._table)

    def delete(self, key: bytes) -> None:
        self._txn.delete(key, db=self._table)

    def scan(
        self, prefix: bytes, after: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        cursor = self._txn.cursor(self._table)
        found = self._before(cursor, prefix, after) if reverse else _seek(cursor, after or prefix)
        if found and not reverse and cursor.key() == after:
            found = cursor.next()
        for key, row in (cursor.iterprev() if reverse else cursor.iternext()) if found else ():
            if bytes(key[: len(prefix)]) != prefix:
                return
            yield bytes(key), bytes(row)

    def _before(self, cursor: lmdb.Cursor, prefix: bytes, after: bytes | None) -> bool:
        """Go to the last key before `after`, or of the prefix."""
        stop = after or _beyond(prefix)
        return cursor.prev() if stop and _seek(cursor, stop) else cursor.last()

    def count(self) -> int:
        return int(self._txn.stat(self._table)["entries"])

    def clear(self) -> None:
        self._txn.drop(self._table, delete=False)


def _seek(cursor: lmdb.Cursor, key: bytes) -> bool:
    return cursor.set_range(key) if key else cursor.first()


def _beyond(prefix: bytes) -> bytes:
    """Return the first key behind all that begin with `prefix`, b"" where there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b""


# -- in memory -------------------------------------------------------------------------------


class MemoryShelf:
    """Tables for a store in memory, or for one that may not be written."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._tables: dict[bytes, dict[bytes, bytes]] = {}
        self._closed = False

    def add(self, name: bytes) -> None:
        """Make a table, if it is new."""
        self._tables.setdefault(name, {})

    @contextmanager
    def begin(self) -> Iterator[Tables]:
        """Read alone."""
        with self._lock:
            yield self._begun({})

    def write(self, work: Callable[[Tables], T]) -> T:
        """Run a transaction alone; its writes are taken over at the end."""
        with self._lock:
            used: dict[bytes, _MemoryTable] = {}
            done = work(self._begun(used))
            self._tables |= {name: table.after() for name, table in used.items()}
            return done

    def _begun(self, used: "dict[bytes, _MemoryTable]") -> Tables:
        if self._closed:
            raise StoreUnavailable("the views are closed")
        return lambda name: used.setdefault(name, _MemoryTable(self._tables[name]))

    def retire(self) -> None:
        """Do nothing: whoever still reads from it may go on."""

    def close(self) -> None:
        """Forget everything; idempotent."""
        self._closed = True
        self._tables = {}


class _MemoryTable:
    """A table and the changes made to it in one transaction."""

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        self._rows = rows
        self._changed: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> bytes | None:
        return self._changed[key] if key in self._changed else self._rows.get(key)

    def put(self, key: bytes, row: bytes) -> None:
        self._changed[key] = row

    def delete(self, key: bytes) -> None:
        self._changed[key] = None

    def scan(
        self, prefix: bytes, after: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        for key in sorted({*self._rows, *self._changed}, reverse=reverse):
            row = self.get(key)
            seen = after is not None and (key >= after if reverse else key <= after)
            if row is not None and key.startswith(prefix) and not seen:
                yield key, row

    def count(self) -> int:
        differences = (
            (row is not None) - (key in self._rows) for key, row in self._changed.items()
        )
        return len(self._rows) + sum(differences)

    def clear(self) -> None:
        self._rows, self._changed = {}, {}

    def after(self) -> dict[bytes, bytes]:
        """Return the rows with the changes in them; the old ones are given away."""
        for key, row in self._changed.items():
            if row is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = row
        return self._rows
