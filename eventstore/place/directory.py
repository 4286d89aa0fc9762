"""The directory of a store: made beside and renamed into place, recognised before it is opened.

    history/
      eventstore.json      what this is: format and the store's id
      log/                 LMDB: the facts
      snapshots/ views/    LMDB: caches, may be deleted at any time

Invariants: a directory is either a whole store or none; nothing that is no store is written
into; a newer format is refused before any of its bytes are opened.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from ..errors import FormatTooNew, StoreUnavailable
from ..files import make_directory, sync_directory, write_durably
from ..ids import fresh_id
from ..log.format import FORMAT, MARKER
from ..log.lmdb import create_log

LOG = "log"
INCREMENTS = "increments"
"""What makes a directory a backup: a place for files with what came after its log."""


def ensure_store(path: Path, starter: bytes | None, *, encrypted: bool = False) -> None:
    """Make a new store at `path` unless there is one; another process may do so meanwhile."""
    if (path / MARKER).exists():
        _settle(path)
        return
    _check_free(path)
    try:
        make_directory(path.parent)
        beside = path.parent / f".{path.name}.{fresh_id()}"
        beside.mkdir()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise StoreUnavailable(f"no store can be made at {path}: {error}") from None
    try:
        _fill(beside, starter, encrypted=encrypted)
        _move(beside, path)
    except OSError as error:
        raise StoreUnavailable(f"no store can be made at {path}: {error.strerror}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _settle(path: Path) -> None:
    """Make a store's name durable: who made or moved it may have died before it was."""
    try:
        sync_directory(path.resolve().parent)
    except PermissionError:
        return  # a directory that may be passed through, not read
    except OSError as error:
        raise StoreUnavailable(f"{path} can't be synced: {error.strerror}") from None


def check_store(path: Path) -> str:
    """Return the store's id. Raises StoreUnavailable and FormatTooNew."""
    return str(describe(path)["store"])


def is_backup(path: Path) -> bool:
    """Return True for a backup, with increments or none yet."""
    return (path / INCREMENTS).is_dir()


def check_no_backup(path: Path) -> None:
    """Raise StoreUnavailable for a backup: it stays what it was, so that increments fit it."""
    if is_backup(path):
        raise StoreUnavailable(
            f"{path} is a backup; restore it into a new store and open that, or open it read-only,"
            " which shows what the full backup held"
        )


def describe(path: Path) -> dict[str, Any]:
    """Return what a store's directory says of it: `store`, `origin`, `restored` and the like.

    The origin is the store's id, until it is restored from a backup: then it is a fresh id, and
    `restored` names the origin before. Raises StoreUnavailable and FormatTooNew.
    """
    try:
        marker: dict[str, Any] = json.loads((path / MARKER).read_text())
        found, store = int(marker["format"]), str(marker["store"])
        origin, restored = str(marker.get("origin", store)), dict(marker.get("restored", {}))
    except FileNotFoundError:
        if (path / LOG).is_dir():
            raise _undescribed(path, "is missing") from None
        helps = "name another directory, or make one with 'eventstore init'"
        raise StoreUnavailable(f"{path} holds no event store; {helps}") from None
    except OSError as error:
        raise StoreUnavailable(f"{path} can't be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise _undescribed(path, "is no store's description") from None
    if found > FORMAT:
        raise FormatTooNew(found, FORMAT)
    return {**marker, "store": store, "origin": origin, "restored": restored}


def _undescribed(path: Path, what: str) -> StoreUnavailable:
    """Return the error of a directory that does not say what it is: its log knows that too."""
    helps = "'eventstore repair' makes a new store of its log"
    return StoreUnavailable(
        f"{path / MARKER} {what}" + (f"; {helps}" if (path / LOG).is_dir() else "")
    )


def _check_free(path: Path) -> None:
    """Raise unless `path` is missing or an empty directory."""
    try:
        if path.exists() and not path.is_dir():
            raise StoreUnavailable(f"{path} is a file; a store is a directory")
        if path.exists() and any(path.iterdir()):
            raise StoreUnavailable(f"{path} holds other files and no event store")
    except OSError as error:
        raise StoreUnavailable(f"{path} can't be read: {error.strerror}") from None


def _fill(beside: Path, starter: bytes | None, *, encrypted: bool) -> None:
    marker: dict[str, Any] = {"format": FORMAT, "store": fresh_id()}
    if encrypted:
        marker["encrypted"] = True
    (beside / LOG).mkdir()
    create_log(beside / LOG, marker["store"], starter, encrypted=encrypted)
    write_durably(beside / MARKER, json.dumps(marker).encode())
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
