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
from struct import error as StructError  # noqa: N812 - what it is
from typing import Protocol

import msgspec
from xxhash import xxh3_64_digest

from ..errors import UNDECODABLE, EventStoreError
from ..limits import SNAPSHOTS_IN_MEMORY_MAX
from ..log.base import Log, key_of
from ..log.environment import open_environment
from ..log.format import SESSION_NAME
from .caches import SNAPSHOTS, cache_directory
from .header import REVISION, SessionHeader

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

    def renewed(self, erasures: int) -> "Snapshots":
        """Return empty ones in place of these: payloads were destroyed, `erasures` times by now."""

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

    def renewed(self, _: int) -> "Snapshots":
        """Return empty ones."""
        return MemorySnapshots()

    def close(self) -> None:
        """Nothing to release."""


class LmdbSnapshots:
    """Snapshots in an LMDB environment of their own beside the log, for one erasure count.

    Those of an encrypted log are sealed with their session's key, under its sealed name.
    """

    def __init__(
        self, store: Path, log: Log, erasures: int = 0, *, read_only: bool = False
    ) -> None:
        path = cache_directory(store, SNAPSHOTS, erasures)
        if not read_only:
            path.mkdir(exist_ok=True)
        self._store, self._log, self._erasures = store, log, erasures
        self._lock = threading.Lock()
        self._closed = False
        self._env = open_environment(path, read_only=read_only, cache=True)
        try:
            self._table = self._env.table(b"headers-%d" % REVISION, create=not read_only)
        except BaseException:
            self._env.close()
            raise

    def renewed(self, erasures: int) -> Snapshots:
        """Leave the directory for that of a newer count."""
        if erasures == self._erasures:
            return self
        self.close()
        return disk_snapshots(self._store, self._log, erasures)

    def nearest(self, session: str, version: int) -> SessionHeader | None:
        """Return the newest saved header at or before `version`, None where that is damaged."""
        try:
            with self._lock:
                return None if self._closed else self._nearest(self._prefix(session), version)
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
            key, row = bytes(cursor.key()), bytes(cursor.value())
        return self._opened(key, row)

    def saved(self) -> Iterator[tuple[str, int]]:
        """Iterate over (session, version) of all that is saved."""
        after = b""
        while True:
            with self._env.begin() as txn:
                cursor = txn.cursor(self._table)
                rows = cursor.iternext(values=False) if cursor.set_range(after) else iter(())
                page = [bytes(row) for row in islice(rows, _PAGE_ROWS)]
            for key in page:
                yield self._session(key), _VERSION.unpack(key[-4:])[0]
            if len(page) < _PAGE_ROWS:
                return
            after = page[-1] + b"\x00"

    def save(self, headers: list[SessionHeader]) -> None:
        """Keep these headers; a disk that refuses them only costs time later."""
        try:
            rows = [self._row(header) for header in headers]
            with self._lock:
                self._put(rows)
        except EventStoreError:
            return

    def _put(self, rows: list[tuple[bytes, bytes]]) -> None:
        if not self._closed:
            with self._env.translating, self._env.write() as txn:
                txn.cursor(self._table).putmulti(rows)

    def close(self) -> None:
        """Release the environment; idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._env.close()

    # -- rows ----------------------------------------------------------------------------

    def _prefix(self, session: str) -> bytes:
        return self._log.codec.names.kept(SESSION_NAME, session) + b"\0"

    def _session(self, key: bytes) -> str:
        """Return the session in a key; where the key is damaged, a name that none has."""
        try:
            return self._log.codec.names.shown(SESSION_NAME, key[:-5])
        except ValueError:
            return key[:-5].decode(errors="replace")

    def _row(self, header: SessionHeader) -> tuple[bytes, bytes]:
        key, value = self._prefix(header.session) + _VERSION.pack(header.version), _encode(header)
        seal = self._log.codec.seal
        if seal is not None:
            owner = key_of(self._log, header.session)
            value = seal.seal_all(header.session, [owner], [value], [key])[0]
        return key, xxh3_64_digest(value) + value

    def _opened(self, key: bytes, row: bytes) -> SessionHeader | None:
        """Return the header of a row, None where row or key is damaged: as good as no cache."""
        value, seal = row[8:], self._log.codec.seal
        if xxh3_64_digest(value) != row[:8]:
            return None
        try:
            header = _decode(seal.open(value, key, self._session(key)) if seal else value)
            place = self._prefix(header.session) + _VERSION.pack(header.version)
        except (StructError, *UNDECODABLE):  # another seal, or another shape of header
            return None
        return header if place == key else None


def disk_snapshots(store: Path, log: Log, erasures: int) -> Snapshots:
    """Return snapshots on disk, or in memory where the disk can't keep them."""
    try:
        return LmdbSnapshots(store, log, erasures)
    except (OSError, EventStoreError):
        return MemorySnapshots()
