"""The directory of a store: made beside and renamed into place, recognised before it is opened.

    history/
      eventstore.json      what this is: format and the store's id
      log/                 LMDB: the facts
      snapshots/ views/    LMDB: caches, may be deleted at any time

Invariants: a directory is either a whole store or none; nothing that is no store is written
into; a newer format is refused before any of its bytes are opened.
"""

import json
import os
import shutil
from pathlib import Path

from .errors import FormatTooNew, StoreUnavailable
from .ids import fresh_id
from .log.format import FORMAT, MARKER
from .log.lmdb import create_log

LOG, SNAPSHOTS, VIEWS = "log", "snapshots", "views"


def ensure_store(path: Path, starter: bytes | None) -> None:
    """Make a new store at `path` unless there is one; another process may do so meanwhile."""
    if (path / MARKER).exists():
        return
    _check_free(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.parent / f".{path.name}.{fresh_id()}"
        beside.mkdir()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise StoreUnavailable(f"no store can be made at {path}: {error}") from None
    try:
        _fill(beside, starter)
        _move(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def check_store(path: Path) -> str:
    """Return the store's id. Raises StoreUnavailable and FormatTooNew."""
    try:
        marker = json.loads((path / MARKER).read_text())
        found, store = int(marker["format"]), str(marker["store"])
    except FileNotFoundError:
        raise StoreUnavailable(f"{path} holds no event store") from None
    except OSError as error:
        raise StoreUnavailable(f"{path} can't be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise StoreUnavailable(f"{path / MARKER} is no store's description") from None
    if found > FORMAT:
        raise FormatTooNew(found, FORMAT)
    return store


def _check_free(path: Path) -> None:
    """Raise unless `path` is missing or an empty directory."""
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise StoreUnavailable(f"{path} holds other files and no event store")
    except OSError as error:
        raise StoreUnavailable(f"{path} can't be read: {error.strerror}") from None


def _fill(beside: Path, starter: bytes | None) -> None:
    store = fresh_id()
    (beside / LOG).mkdir()
    create_log(beside / LOG, store, starter)
    write_durably(beside / MARKER, json.dumps({"format": FORMAT, "store": store}).encode())
    sync_directory(beside / LOG)
    sync_directory(beside)


def _move(beside: Path, path: Path) -> None:
    try:
        if path.exists():  # an empty directory that may be private
            shutil.copymode(path, beside)
        beside.rename(path)
    except OSError as error:
        if not (path / MARKER).exists():  # else another process was first: its store is as good
            raise StoreUnavailable(f"no store can be made at {path}: {error.strerror}") from None
    sync_directory(path.parent)


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
