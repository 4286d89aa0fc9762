"""Files that must be there after a power cut, that only their owner may read, or that one holds.

Invariants: what these functions wrote is on the disk when they return; a private file is never
overwritten and never readable by others; an error is StoreUnavailable only where it says so.
"""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import InvalidEvent, StoreUnavailable, brief

PRIVATE = 0o600
OTHERS = 0o077
_NEW_OR_EMPTY = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK


def checked_path(path: object, what: str) -> Path:
    """Return the path that a caller gave, from the root: the process may change its directory.

    Raises InvalidEvent for what is none, StoreUnavailable for a relative one in no directory.
    """
    try:
        return Path(path).absolute()  # type: ignore[arg-type]
    except TypeError:
        raise InvalidEvent(f"{what} must be a path, not {brief(path)}") from None
    except OSError as error:
        where = "the directory that the process is in"
        raise StoreUnavailable(f"{where} can't be read: {error.strerror}") from None


def write_durably(path: Path, content: bytes) -> None:
    """Write a new file and sync it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def put_durably(path: Path, content: bytes) -> None:
    """Put a file into its place as a whole, over the one that is there; name and bytes are synced.

    One caller at a time: what is not whole yet is `<name>.new` beside it.
    """
    beside = path.with_name(f"{path.name}.new")
    write_durably(beside, content)
    beside.replace(path)
    sync_directory(path.parent)


def make_directory(path: Path) -> None:
    """Make a directory, and those above it, whose names are durable; it may exist."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


@contextmanager
def unavailable(path: Path) -> Iterator[None]:
    """Raise whatever the system refuses in the block as StoreUnavailable about `path`."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error.strerror}") from None


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, durably; raises StoreUnavailable.

    One that is there stays as it is, unless it is empty: a process died before it wrote the key.
    """
    with unavailable(path):
        handle = os.open(path, _NEW_OR_EMPTY, PRIVATE)
        with open(handle, "wb") as file:  # noqa: PTH123 - a handle, not a path
            fcntl.flock(handle, fcntl.LOCK_EX)  # of all who find it empty one writes
            _check_empty(path, os.fstat(handle))
            try:
                file.write(content)
                file.flush()
                os.fsync(handle)
            except OSError:
                path.unlink()  # half a key is none, and the name must be free again
                raise
        sync_directory(path.parent)


def _check_empty(path: Path, found: os.stat_result) -> None:
    """Raise StoreUnavailable unless an opened file is at its path, empty and its owner's alone."""
    there = path.exists() and os.path.samestat(found, path.stat())
    private = found.st_uid == os.geteuid() and not found.st_mode & OTHERS
    if found.st_size or not (there and private and stat.S_ISREG(found.st_mode)):
        raise StoreUnavailable(f"{path} exists already; a key is never overwritten")


def read_private(path: Path, limit: int) -> bytes:
    """Return the first `limit` bytes of a file; raises StoreUnavailable if others may read it."""
    with unavailable(path), path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise StoreUnavailable(f"{path} is no key file")
        if mode & OTHERS:
            shown = f"mode {stat.S_IMODE(mode):04o}"
            raise StoreUnavailable(f"{path} is open to others ({shown}); run chmod 600 on it")
        return file.read(limit)


def try_lock(handle: int, path: Path) -> bool:
    """Lock an opened file (flock); False where another has it locked.

    Raises StoreUnavailable where the volume has no locks, or none left.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StoreUnavailable(f"{path} can't be locked: {error.strerror}") from None
    return True


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold off other processes and threads that ask for the same lock file (flock)."""
    with unavailable(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE)
    try:
        with unavailable(path):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        with suppress(OSError):  # of a volume without locks, which said so before
            fcntl.flock(handle, fcntl.LOCK_UN)  # closing is not enough if a forked child has it
        os.close(handle)
