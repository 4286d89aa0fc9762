"""Who has a store open: a small file for each, in `open/`, locked for as long as that is so.

    history/open/4242-0192f0c1...     {"pid": 4242, "read_only": false, ...}

Invariants: a file whose lock is held is of somebody alive, whatever container they are in; one
whose lock is free is of somebody who died without closing; files come and are judged only by
whoever holds the lock of the directory, the gate; that of a writer is on the disk before the
writer is.
"""

import atexit
import errno
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

import msgspec

from ..errors import UNDECODABLE, StoreFull, StoreLocked, StoreUnavailable
from ..files import sync_directory, try_lock
from ..ids import fresh_id

OPEN = "open"
"""The directory of the files, in that of the store."""

MARK_BYTES_MAX = 4_096
"""More than any of these files has."""

GATE_SECONDS_MAX = 600.0
"""How long an opening waits for another one that is checking the store, or for a compaction."""

GATE_POLL_SECONDS = 0.01

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where a disk, a quota or a file may not grow."""


class Owner(msgspec.Struct, frozen=True):
    """One that has, or had, a store open; `since` in ns since the epoch.

    `boot` is the kernel's own id of its start, `namespace` tells the numbers of processes in one
    container from those in another; -1 and "" where the file does not say.
    """

    pid: int = -1
    since: int = 0
    read_only: bool = False
    boot: str = ""
    namespace: int = -1
    command: str = ""

    def __str__(self) -> str:
        return f"process {self.pid}" if self.pid >= 0 else "an unknown process"


class Present(msgspec.Struct, frozen=True):
    """Who has a store open, and who died with it open."""

    alive: list[Owner]
    dead: list[Owner]

    @property
    def stopped_uncleanly(self) -> bool:
        """True where a writer died, and nobody is left who knows the files to be sound."""
        return not self.alive and any(not owner.read_only for owner in self.dead)


# -- the gate --------------------------------------------------------------------------------


@contextmanager
def gate(store: Path, seconds: float = GATE_SECONDS_MAX) -> Iterator[bool]:
    """Keep others from opening the store; gives False where it is a reader's that can't be marked.

    Raises StoreLocked where somebody else is at it for longer than so many seconds.
    """
    handle = _directory(store)
    if handle is None:
        yield False
        return
    try:
        _locked(handle, store, seconds)
        yield True
    finally:
        _unlock(handle)


def _directory(store: Path) -> int | None:
    """Return a handle of the directory of marks, made if need be; None where that can't be."""
    place = store / OPEN
    try:
        if not place.is_dir():
            place.mkdir(exist_ok=True)
            sync_directory(store)
        return os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None


def _locked(handle: int, store: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not try_lock(handle, store):
        if time.monotonic() >= deadline:
            raise StoreLocked(
                f"{store} is being checked or compacted by another process for longer than "
                f"{seconds:.0f} s; wait until it is done"
            )
        time.sleep(GATE_POLL_SECONDS)


def _unlock(handle: int) -> None:
    """Let go of a lock and its file; a child that was forked meanwhile may have the file too."""
    with suppress(OSError):  # of a volume without locks, which said so before
        fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


# -- marks -----------------------------------------------------------------------------------


class Mark:
    """The file of one that has the store open; released when it is closed."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self._path, self._file = path, file
        self._pid = os.getpid()
        _held.add(self)

    def release(self) -> None:
        """Take the file away: the store was closed as it should be; idempotent."""
        if self in _held:
            _held.discard(self)
            if self._pid == os.getpid():
                with suppress(OSError):  # then the next one to open looks closer, that is all
                    self._path.unlink(missing_ok=True)
            self._file.close()


_held: set[Mark] = set()


@atexit.register
def _release_all() -> None:
    """Take all marks away: a process that ends in the ordinary way leaves sound files."""
    for mark in list(_held):
        mark.release()


os.register_at_fork(after_in_child=_release_all)  # else the child would hold its parent's locks


def enter(store: Path, *, read_only: bool) -> Mark:
    """Leave a mark, inside the gate. Raises StoreLocked, StoreUnavailable."""
    owner = _this_process(read_only=read_only)
    path = store / OPEN / f"{owner.pid}-{fresh_id()}"
    try:
        return Mark(path, _made(path, owner))
    except OSError as error:
        kind = StoreFull if error.errno in FULL else StoreUnavailable
        raise kind(f"{path.parent} can't be written: {error.strerror}") from None


def _made(path: Path, owner: Owner) -> FileIO:
    """Make the file of a mark; it has the lock, and gives it up where an interrupt drops it."""
    file = FileIO(path, "x")
    try:
        _lock(file, path)
        file.write(msgspec.json.encode(owner))
        if not owner.read_only:
            os.fsync(file.fileno())
            sync_directory(path.parent)
    except BaseException:
        path.unlink(missing_ok=True)
        file.close()
        raise
    return file


def _lock(file: FileIO, path: Path) -> None:
    """Lock a mark: without its lock it would be taken for that of one who died."""
    if not try_lock(file.fileno(), path):
        raise StoreLocked(f"{path} was locked by another as soon as it was made; try again")


@contextmanager
def reading(store: Path) -> Iterator[None]:
    """Have a reader's mark during the block, so that nobody compacts; without, where none can be.

    Raises StoreLocked where the gate stays shut.
    """
    mark = None
    with gate(store) as inside, suppress(StoreUnavailable):
        mark = enter(store, read_only=True) if inside else None
    try:
        yield
    finally:
        if mark is not None:
            mark.release()


def _this_process(*, read_only: bool) -> Owner:
    command = " ".join(sys.argv[:2])[:80]
    return Owner(os.getpid(), time.time_ns(), read_only, _boot(), _namespace(), command)


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _namespace() -> int:
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return -1


def look(store: Path) -> Present:
    """Return who has the store open and who died with it open; inside the gate."""
    present = Present([], [])
    for path in _marks(store):
        alive = _is_held(path)
        if alive is not None:
            (present.alive if alive else present.dead).append(_owner(path))
    return present


def forget_dead(store: Path) -> None:
    """Remove the marks of those who died, once the files are known to be sound; inside the gate."""
    for path in _marks(store):
        if _is_held(path) is False:
            with suppress(OSError):
                path.unlink()


@contextmanager
def closed(store: Path, what: str) -> Iterator[None]:
    """Keep a store that nobody has open from being opened; writes nothing into its directory.

    Raises StoreLocked, which says what to do then.
    """
    if not (store / OPEN).is_dir():
        yield
        return
    with gate(store):
        check_alone(store, look(store), what)
        yield


def check_alone(store: Path, present: Present, what: str) -> None:
    """Raise StoreLocked where anybody has the store open who must not, for `what` is to be done."""
    if present.alive:
        who = ", ".join(sorted({str(each) for each in present.alive}))
        raise StoreLocked(f"{store} is open in {who}; close it there and {what}")


def check_pid(store: Path, present: Present) -> None:
    """Raise StoreLocked where another container uses this process's number for the same store.

    LMDB tells its readers apart by that number.
    """
    here = _this_process(read_only=True)
    for owner in present.alive:
        if owner.pid == here.pid and owner.namespace != here.namespace:
            raise StoreLocked(
                f"{store} is open in another container, by a process that has the number "
                f"{here.pid} as well; let both see the same processes (one PID namespace)"
            )


def _marks(store: Path) -> list[Path]:
    try:
        return sorted((store / OPEN).iterdir())
    except OSError:
        return []


def _is_held(path: Path) -> bool | None:
    """Return whether a mark is of somebody alive, None where it is gone by now."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError:  # not ours to read: somebody else's, who may be alive
        return True
    try:
        if not try_lock(handle, path):
            return True
        return False if os.fstat(handle).st_nlink else None
    finally:
        _unlock(handle)


def _owner(path: Path) -> Owner:
    """Return what a mark says; of one that a crash cut, that it was a writer's."""
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(MARK_BYTES_MAX), type=Owner)
    except (OSError, *UNDECODABLE):
        return Owner()
