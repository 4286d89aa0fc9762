"""Copies of a whole store: hot backups, and stores made from them.

Invariants: a copy is one committed moment of the log, taken while others write; it appears at
its place as a whole, synced, or not at all; nothing that is there already is overwritten. Views
and snapshots are not copied: they are caches, made anew where they are missing.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .audit.structure import check_structure
from .directory import LOG, check_store, sync_directory, write_durably
from .errors import Corruption, StoreUnavailable
from .log.base import Head
from .log.format import MARKER
from .log.lmdb import LmdbLog
from .store import EventStore

DATA, LOCK = "data.mdb", "lock.mdb"
"""The two files of an LMDB environment."""


def backup(store: EventStore, destination: str | os.PathLike[str]) -> Head:
    """Copy an open store into a directory that is missing or empty; returns the copy's head.

    Readers and writers go on meanwhile. Raises StoreUnavailable and StoreFull; then there is
    nothing at the destination.
    """
    log = store.log
    if store.path is None or not isinstance(log, LmdbLog):
        raise StoreUnavailable("a store in memory has no files to copy; export its events instead")
    store.flush()
    return _copied(log, store.path, Path(destination))


def restore(source: str | os.PathLike[str], destination: str | os.PathLike[str]) -> Head:
    """Make a new store out of a backup (or of any store nobody repairs); returns its head.

    The source is walked page by page first. Raises StoreUnavailable, FormatTooNew and Corruption;
    then there is nothing at the destination.
    """
    place = Path(source)
    store = check_store(place)
    for finding in check_structure(place):
        raise Corruption(finding.position, f"{place}: {finding.what}")
    log = LmdbLog(place / LOG, read_only=True)
    try:
        if log.store != store:
            raise StoreUnavailable(f"{place / MARKER} names another store than its log does")
        return _copied(log, place, Path(destination))
    finally:
        log.close()


def _copied(log: LmdbLog, source: Path, destination: Path) -> Head:
    with _beside(destination) as made:
        (made / LOG).mkdir()
        log.env.copy(made / LOG)
        write_durably(made / MARKER, (source / MARKER).read_bytes())
        head = _head(made / LOG)
        _sync(made)
        shutil.copymode(source, made)
    return head


@contextmanager
def _beside(destination: Path) -> Iterator[Path]:
    """Give a new directory that becomes `destination` at the end of the block, or goes away."""
    _check_free(destination)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    except OSError as error:
        raise _refused(destination, error) from None
    try:
        yield made
        made.rename(destination)  # takes the place of an empty directory, and of nothing else
        sync_directory(destination.parent)
    except OSError as error:
        raise _refused(destination, error) from None
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _check_free(destination: Path) -> None:
    try:
        if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
            raise StoreUnavailable(f"{destination} is not empty; a copy overwrites nothing")
    except OSError as error:
        raise _refused(destination, error) from None


def _refused(destination: Path, error: OSError) -> StoreUnavailable:
    return StoreUnavailable(f"no copy can be made at {destination}: {error.strerror}")


def _head(path: Path) -> Head:
    """Read the head of a finished copy, and leave no lock file of ours behind."""
    log = LmdbLog(path, read_only=True)
    try:
        return log.head()
    finally:
        log.close()
        (path / LOCK).unlink(missing_ok=True)


def _sync(made: Path) -> None:
    """Make the bytes and the names of a copy durable."""
    handle = os.open(made / LOG / DATA, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    for each in (made / LOG, made):
        sync_directory(each)
