"""Saved headers, so that no state needs a long fold: disposable caches, never facts.

Invariants: a snapshot is believed only if its checksum holds and the code that folded it had
the same revision; deleting all of them changes nothing but time; a store that can't keep them
on disk keeps them in memory.
"""

import threading
from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from struct import Struct
from typing import Protocol

import msgspec
from xxhash import xxh3_64_digest

from .errors import EventStoreError
from .header import REVISION, SessionHeader
from .limits import SNAPSHOTS_IN_MEMORY_MAX
from .log.environment import open_environment

_VERSION = Struct(">I")
_PAGE_ROWS = 1_000
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SessionHeader).decode


class Snapshots(Protocol):
    """Where headers are kept between reads."""

    def nearest(self, session: str, version: int) -> SessionHeader | None:
        """Return the newest saved header of the session at or before `version`."""

    def save(self, headers: list[SessionHeader]) -> None:
        """Keep these headers, or don't."""

    def close(self) -> None:
        """Release everything."""


class MemorySnapshots:
    """Snapshots of a store in memory, or of one that may not be written."""

    def __init__(self) -> None:
        self._rows: dict[str, list[tuple[int, bytes]]] = {}
        self._count = 0
        self._lock = threading.Lock()

    def nearest(self, session: str, version: int) -> SessionHeader | None:
        """Return the newest saved header at or before `version`."""
        with self._lock:
            rows = self._rows.get(session, [])
            index = bisect_right(rows, version, key=lambda row: row[0])
            return _decode(rows[index - 1][1]) if index else None

    def save(self, headers: list[SessionHeader]) -> None:
        """Keep these headers; beyond SNAPSHOTS_IN_MEMORY_MAX all start anew."""
        with self._lock:
            for header in headers:
                self._keep(header)

    def _keep(self, header: SessionHeader) -> None:
        if self._count >= SNAPSHOTS_IN_MEMORY_MAX:
            self._rows, self._count = {}, 0
        rows = self._rows.setdefault(header.session, [])
        index = bisect_right(rows, header.version, key=lambda row: row[0])
        if not index or rows[index - 1][0] != header.version:
            rows.insert(index, (header.version, _encode(header)))
            self._count += 1

    def close(self) -> None:
        """Nothing to release."""


class LmdbSnapshots:
    """Snapshots in an LMDB environment of their own beside the log."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        if not read_only:
            path.mkdir(exist_ok=True)
        self._env = open_environment(path, read_only=read_only)
        self._table = self._env.table(b"headers-%d" % REVISION, create=not read_only)

    def nearest(self, session: str, version: int) -> SessionHeader | None:
        """Return the newest saved header at or before `version`, None where that is damaged."""
        try:
            return self._nearest(session.encode() + b"\x00", version)
        except EventStoreError:
            return None

    def _nearest(self, prefix: bytes, version: int) -> SessionHeader | None:
        wanted = prefix + _VERSION.pack(version)
        with self._env.begin() as txn:
            cursor = txn.cursor(self._table)
            found = cursor.set_range(wanted)
            if not (found and cursor.key() == wanted):
                found = cursor.prev() if found else cursor.last()
            if not found or cursor.key()[:-4] != prefix:
                return None
            return _opened(bytes(cursor.key()), bytes(cursor.value()))

    def saved(self) -> Iterator[tuple[str, int]]:
        """Iterate over (session, version) of all that is saved."""
        after = b""
        while True:
            with self._env.begin() as txn:
                cursor = txn.cursor(self._table)
                rows = cursor.iternext(values=False) if cursor.set_range(after) else iter(())
                page = [bytes(row) for row in islice(rows, _PAGE_ROWS)]
            for key in page:
                yield key[:-5].decode(errors="replace"), _VERSION.unpack(key[-4:])[0]
            if len(page) < _PAGE_ROWS:
                return
            after = page[-1] + b"\x00"

    def save(self, headers: list[SessionHeader]) -> None:
        """Keep these headers; a disk that refuses them only costs time later."""
        rows = []
        for header in headers:
            value = _encode(header)
            rows.append((_key(header.session, header.version), xxh3_64_digest(value) + value))
        try:
            with self._env.begin(write=True) as txn:
                txn.cursor(self._table).putmulti(rows)
        except EventStoreError:
            return

    def close(self) -> None:
        """Release the environment."""
        self._env.close()


def disk_snapshots(path: Path) -> Snapshots:
    """Return snapshots on disk, or in memory where the disk can't keep them."""
    try:
        return LmdbSnapshots(path)
    except (OSError, EventStoreError):
        return MemorySnapshots()


def _key(session: str, version: int) -> bytes:
    return session.encode() + b"\x00" + _VERSION.pack(version)


def _opened(key: bytes, row: bytes) -> SessionHeader | None:
    """Return the header of a row, None where row or key is damaged: as good as no cache."""
    if xxh3_64_digest(row[8:]) != row[:8]:
        return None
    header = _decode(row[8:])
    return header if _key(header.session, header.version) == key else None
