"""LMDB environments under LMDB's rules: one object per directory and process, never across fork.

Invariants: default sync mode only, never writemap; the map is large, sparse and set once; every
LMDB error leaves here as one of our tree; a full disk or map is StoreFull and loses nothing; what
LMDB writes through memory has its blocks on the disk before, since a fault there kills a process.
"""

import ctypes
import errno
import mmap
import os
import threading
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

import lmdb

from ..errors import Corruption, EventStoreError, StoreFull, StoreLocked, StoreUnavailable
from ..limits import GIB, MAP_BYTES_DEFAULT
from ..place.volume import check_room
from .blocks import Inside, Reading

NO_ROOM = ("No space left", "Input/output error", "File too large", "Disk quota exceeded")
"""What the system says when a disk, a quota or a file may not grow; LMDB calls a cut write I/O."""

FILE, LOCK_FILE = "data.mdb", "lock.mdb"
NOTHING = b"\0"
"""A row that no commit leaves behind."""

COMMIT_AT = 144
"""Where in a head the number of its commit stands: behind 16 bytes of the page's head and 128 of
LMDB's MDB_meta, in the machine's byte order (mdb.c, data version 1)."""

Heads = tuple[Sequence[int], Sequence[int]]
"""The numbers of the commits in the two heads of a file."""

NO_HEADS: Heads = (0,), (0,)
"""Those of a file that is closed: no commit has that number."""

READERS_MAX = 1_024
LOCK_BYTES = (READERS_MAX + 64) * 64
"""A lock file: a head of a few slots, and 64 bytes for each reader."""

RESIZE_SECONDS_MAX = 10.0
"""How long a map that another process outgrew waits for transactions of this one to end."""

CLOSING_SECONDS_MAX = 1.0
"""How long closing waits for other threads to be done with what they read, write or copy: a page
takes a few ms. Who is not done by then keeps the files open."""

TABLES_MAX = 64

ROOMY_BYTES, ROOMY_SECONDS = GIB, 1.0
"""With more than that free a disk does not fill up within the time that it is trusted for; asking
the system each time is a tenth of an append's own work."""


class Reader(NamedTuple):
    """A slot of LMDB's table of readers; `commit` is the one whose pages it pins, None for none."""

    process: int
    commit: int | None


class Environment:
    """One LMDB environment with its named tables, shared by all who open it here."""

    def __init__(self, path: Path, map_size: int, *, read_only: bool, cache: bool) -> None:
        self.path, self.read_only, self._cache = path, read_only, cache
        self.users = 0
        self.inside: dict[int, int] = {}
        self._map_size = map_size
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._resizing = threading.Lock()
        self._looked_until = 0.0
        self._tables: dict[bytes, lmdb._Database] = {}
        self._heads = NO_HEADS
        self._open()

    def _open(self) -> None:
        _allocate(self.path)
        self._env = _open_halving(self.path, self._map_size, read_only=self.read_only)
        try:
            self._files = _files(self.path)
            self._check_whole()
            self._map_heads()
            self._env.reader_check()  # slots of dead readers would pin old pages
        except BaseException:
            self._env.close()
            raise

    def _check_whole(self) -> None:
        """Raise where the file was cut: reading behind its end would kill the process."""
        used, size = self.used_bytes(), (self.path / FILE).stat().st_size
        if size < used:
            raise Corruption(
                -1, f"{self.path}: the file was cut, {used} bytes are in use, it has {size}"
            )

    def _map_heads(self) -> None:
        """Map the heads of the file. Raises StoreUnavailable where LMDB has them elsewhere."""
        page_bytes, before = self._env.stat()["psize"], self._env.info()["last_txnid"]
        try:
            with (self.path / FILE).open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 2 * page_bytes, access=mmap.ACCESS_READ)
        except OSError as error:
            raise StoreUnavailable(f"{self.path} can't be opened: {error}") from error
        starts = COMMIT_AT, page_bytes + COMMIT_AT
        first, second = (memoryview(mapped)[at : at + 8].cast("Q") for at in starts)
        self._heads = first, second
        if not before <= self.newest_commit() <= self._env.info()["last_txnid"]:
            raise StoreUnavailable(f"{self.path}: this LMDB writes its heads in an unknown way")

    def check_in_place(self) -> None:
        """Raise where the files that are open are gone, or others have taken their place.

        Without its lock file another process would make one, and write at the same time.
        """
        with suppress(PermissionError):  # of an account that may not look any more
            if _files(self.path) != self._files:
                what = "was removed or replaced while it is open in this process"
                raise StoreUnavailable(f"{self.path} {what}; close it first")

    def table(self, name: bytes, *, dupfixed: bool = False, create: bool = False) -> lmdb._Database:
        """Return the handle of a named table."""
        with self._lock:
            made = self._tables.get(name)
            if made is None:
                made = self._opened(name, dupfixed=dupfixed, create=create)
                self._tables[name] = made
            return made

    def tables(self) -> dict[bytes, bool]:
        """Return the names of all tables, and whether each was made with `dupfixed`."""
        with self.begin() as txn:
            names = [bytes(name) for name in txn.cursor().iternext(values=False)]
        return {
            name: bool(self.table(name).flags()["dupfixed"])
            for name in names
            if self._is_table(name)
        }

    def loose_rows(self) -> dict[bytes, bytes]:
        """Return the rows that stand beside the tables."""
        with self.begin() as txn:
            rows = {bytes(key): bytes(value) for key, value in txn.cursor()}
        return {key: value for key, value in rows.items() if not self._is_table(key)}

    def _is_table(self, name: bytes) -> bool:
        try:
            self.table(name)
        except lmdb.IncompatibleError:
            return False
        return True

    def _opened(self, name: bytes, *, dupfixed: bool, create: bool) -> lmdb._Database:
        try:
            if self.read_only:
                return self._env.open_db(name, create=False, dupsort=dupfixed, dupfixed=dupfixed)
            # Without a transaction of ours open_db() would wait for the write lock with the GIL
            # in hand, and so for ever if a thread of this process has that lock.
            with self._env.begin(write=True) as txn:
                return self._env.open_db(
                    name, txn=txn, create=create, dupsort=dupfixed, dupfixed=dupfixed
                )
        except lmdb.Error as error:
            if not create:
                raise  # a table that is missing says what the directory is not
            raise self.translated(error) from error

    @property
    def translating(self) -> Inside:
        """Return a block whose errors of LMDB leave it as ours."""
        return Inside(self)

    def begin(self) -> Reading:
        """Return the block of a transaction that reads."""
        return Reading(self)

    def write(self) -> lmdb.Transaction:
        """Begin to write: `with env.translating, env.write() as txn` commits, or else aborts.

        All processes wait for its end. So the block is LMDB's own, and left in C: no interrupt can
        come between its last line and its end, and one before the commit aborts it at once.
        """
        if monotonic() >= self._looked_until:
            self._look()
        return self.begun(write=True)

    def begun(self, *, write: bool) -> lmdb.Transaction:
        """Begin a transaction, which is to be ended."""
        if os.getpid() != self._pid:
            raise StoreUnavailable(
                f"{self.path} was opened before a fork; open the store anew in this process"
            )
        if self.users <= 0:
            raise StoreUnavailable(f"{self.path} is closed")
        try:
            return self._env.begin(write=write)
        except lmdb.MapResizedError:
            with self.translating:
                return self._begin_in_larger_map(write=write)
        except lmdb.Error as error:
            raise self.translated(error) from error

    def _look(self) -> None:
        """See that there is room and the files are in place; free the slots of dead readers.

        One that was killed as it read would pin all pages, 30 KiB of file an append, until
        somebody opens it anew. Far from the end of the disk, look only after a second again.
        """
        now = monotonic()
        roomy = check_room(self.path) > ROOMY_BYTES
        if not self._cache:
            self.check_in_place()
        self._env.reader_check()
        self._looked_until = now + ROOMY_SECONDS if roomy else now

    def _begin_in_larger_map(self, *, write: bool) -> lmdb.Transaction:
        """Take over the larger map of another process, once nobody reads from ours, and begin.

        Until then LMDB lets nothing begin in this process. What writes in it is over: another one
        could not have written else.
        """
        until = monotonic() + RESIZE_SECONDS_MAX
        with self._resizing:
            while True:
                with suppress(lmdb.MapResizedError):
                    return self._env.begin(write=write)
                if not self._is_read():
                    self._env.set_mapsize(0)
                elif monotonic() < until:
                    sleep(0.001)
                else:
                    raise StoreUnavailable(
                        f"{self.path}: another process uses a larger map, and readers here don't "
                        "end; open the store anew with that map_size"
                    )

    def _is_read(self) -> bool:
        """Return True while transactions of this process read."""
        return any(each.process == self._pid and each.commit is not None for each in self.readers())

    def translated(self, error: lmdb.Error, written: Path | None = None) -> EventStoreError:
        """Return the error of our tree that one of LMDB is; `written` is what a copy goes to."""
        if isinstance(error, lmdb.MapFullError):
            size = self._env.info()["map_size"]
            return StoreFull(f"{self.path} has used its map of {size} bytes; open a larger one")
        if isinstance(error, (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.BadValsizeError)):
            return Corruption(-1, f"{self.path}: {error}")
        if isinstance(error, lmdb.PanicError):
            what = "LMDB refuses all work after a write of its head failed"
            return StoreUnavailable(f"{self.path}: {what}; close the store and open it again")
        if any(reason in str(error) for reason in NO_ROOM):
            place = written or self.path
            return StoreFull(f"{place}: the disk refused the write ({error}); free some space")
        return StoreUnavailable(f"{self.path}: {error}")

    def newest_commit(self) -> int:
        """Return the number of the newest commit of any process; costs no transaction.

        It is read where LMDB itself looks for it. Asking LMDB lets go of the GIL, and of 64 threads
        another one takes it then: that hand-over cost as much as the rest of an append.
        """
        first, second = self._heads
        return max(first[0], second[0])

    def readers(self) -> list[Reader]:
        """Return who has a slot to read in, of all processes."""
        with self.translating:
            listed = self._env.readers().splitlines()[1:]  # mdb_reader_list(): pid, thread, commit
        fields = [line.split() for line in listed]
        return [Reader(int(pid), int(c) if c.isdigit() else None) for pid, _, c in fields]

    def copy(self, destination: Path) -> None:
        """Write a consistent copy into an existing empty directory, while in use.

        Page by page: py-lmdb 3.0.0 dies of a segmentation fault when it compacts a table with
        `dupfixed` whose values of one key fill more than a page, as a long stream's index does.
        """
        with self.translating:
            try:
                self._env.copy(str(destination), compact=False)
            except lmdb.Error as error:
                raise self.translated(error, destination) from error

    def used_bytes(self) -> int:
        """Return the bytes of the file up to the last page in use."""
        with self.translating:
            return int((self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"])

    def close(self) -> None:
        """Give up one use; the last one closes the files, once no other thread is inside.

        One that stays inside for long keeps them open, for whoever opens them next.
        """
        with _registry_lock:
            self.users -= 1
        until = monotonic() + CLOSING_SECONDS_MAX
        while self.users <= 0 and self._is_entered() and monotonic() < until:
            sleep(0.001)
        with _registry_lock:
            if self.users <= 0 and os.getpid() == self._pid and not self._is_entered():
                failed = self._has_failed()
                self._env.close()
                self._heads = NO_HEADS  # the last use unmaps them and closes their file
                _registry.pop((self._pid, self.path), None)
                if failed:
                    self._mend()

    def _is_entered(self) -> bool:
        """Return True while other threads are inside of LMDB, or about to be."""
        return any(thread != threading.get_ident() for thread in [*self.inside.values()])

    def _has_failed(self) -> bool:
        """Return True once LMDB refuses all work, since a write of its head went wrong."""
        try:
            self._env.begin().abort()
        except lmdb.PanicError:
            return True
        return False

    def _mend(self) -> None:
        """Commit nothing over what the failed write left: a commit that seems to be hidden.

        LMDB gives the head it could not write an old number, so that it is not used, but not the
        old pages. Where the disk goes on refusing, opening the log says so.
        """
        with suppress(lmdb.Error, EventStoreError):
            env = _open_halving(self.path, self._map_size, read_only=False)
            with closing(env), env.begin(write=True) as txn:
                txn.put(NOTHING, b"")
                txn.delete(NOTHING)

    def outlive(self) -> None:
        """Never be freed in this process: LMDB would free the slots of the parent's readers."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._env))


_registry: dict[tuple[int, Path], Environment] = {}
_registry_lock = threading.Lock()


def _after_fork() -> None:
    """Leave alone, in a forked child, what the parent has open."""
    global _registry_lock  # noqa: PLW0603 - another thread of the parent may have held it
    _registry_lock = threading.Lock()
    for inherited in _registry.values():
        inherited.outlive()


os.register_at_fork(after_in_child=_after_fork)


def open_environment(
    path: Path, map_size: int = MAP_BYTES_DEFAULT, *, read_only: bool = False, cache: bool = False
) -> Environment:
    """Return the environment of a directory, the same object for all users in this process.

    The files of a `cache` may go at any time; of others that is noticed before too much is lost.
    """
    key = os.getpid(), path.resolve()
    with _registry_lock:
        made = _registry.get(key)
        if made is not None and made.read_only and not read_only:
            raise StoreLocked(f"{path} is open read-only in this process; close that first")
        if made is not None:
            made.check_in_place()
        if made is None:
            _check_inherited(key[1])
            made = Environment(key[1], map_size, read_only=read_only, cache=cache)
            _registry[key] = made
        made.users += 1
        return made


def _check_inherited(path: Path) -> None:
    """Refuse what the parent had open at a fork: LMDB can't close it here, nor open it twice."""
    if any(path == inherited for _, inherited in _registry):
        raise StoreUnavailable(
            f"{path} was open when this process was forked; open it in a process started afresh"
        )


def _files(path: Path) -> list[tuple[int, int]]:
    """Return what tells files from others that took their names; nothing of one that is gone."""
    told: list[tuple[int, int]] = []
    for name in (FILE, LOCK_FILE):
        with suppress(FileNotFoundError, NotADirectoryError):
            found = (path / name).stat()
            told.append((found.st_dev, found.st_ino))
    return told


def allocate_lock_file(path: Path) -> None:
    """Give the lock file its blocks before LMDB writes into it through memory. Raises StoreFull.

    One that is open here has them: to open and close it once more would let go of all locks that
    LMDB has on it, for whatever file handle of a process is closed (POSIX, fcntl(2)).
    """
    with _registry_lock:
        if (os.getpid(), path.resolve()) not in _registry:
            _allocate(path)


def _allocate(path: Path) -> None:
    """Do so; on a system that has no call for that (macOS) LMDB does without."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        handle = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        return  # where nothing can be written LMDB does without
    try:
        found = os.fstat(handle)
        size = found.st_size or LOCK_BYTES  # one in use keeps its size: others have mapped it
        if found.st_blocks * 512 < size:
            os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreFull(f"{path}: no room for a lock file; free some space") from None
    finally:
        os.close(handle)


def _open_halving(path: Path, map_size: int, *, read_only: bool) -> lmdb.Environment:
    """Open with the map wished for, or half of it, and so on down to 1 GiB."""
    while True:
        try:
            return lmdb.open(
                str(path),
                map_size=map_size,
                max_dbs=TABLES_MAX,
                max_readers=READERS_MAX,
                max_spare_txns=16,
                readonly=read_only,
                create=not read_only,
                meminit=True,  # else what was freed, keys and plain text too, gets into the file
            )
        except lmdb.MemoryError:
            if map_size <= GIB:
                raise StoreUnavailable(f"{path}: no room for a map of {map_size} bytes") from None
            map_size //= 2
        except (lmdb.Error, OSError) as error:  # OSError: LMDB's binding makes the directory
            raise StoreUnavailable(f"{path} can't be opened: {error}") from error
