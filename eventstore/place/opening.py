"""Opening a store's log: nothing is touched before it is known to be safe to touch.

    1. the volume is no network's, and has room             StoreUnavailable, StoreFull
    2. the gate: nobody else opens, checks or compacts it   StoreLocked
    3. who has it open? a writer died, nobody is left:
       walk all pages in a child process                    Corruption
    4. a mark of this one, on the disk
    5. LMDB opens it; slots of dead readers are freed
    6. both meta pages, the tree head and the newest frame say the same    Corruption

Invariants: after a store was closed in the ordinary way the cost does not grow with its size;
after an unclean stop it is the walk of step 3, once, and while another process has it open there
is none, since that one opened it like this. An LMDB commit is whole or not there at all, so that
there is never half an append to cut off: where step 6 finds a contradiction, it is damage.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..audit.pages import FILE, META_READS, Meta, PageError, PageFile, hides_a_commit
from ..audit.structure import check_structure
from ..audit.trust import audit_directory
from ..errors import Corruption, InvalidEvent, StoreLocked, StoreUnavailable, brief
from ..files import checked_path
from ..keyring import Keyring
from ..log.environment import LOCK_FILE
from ..log.format import FRAMES, HEAD_KEY, MARKER
from ..log.lmdb import LmdbLog
from ..log.rows import head_size
from . import presence
from .directory import LOG
from .volume import check_local, check_room

UNFINISHED = ".compact-"
"""How the names begin of what a compaction makes in the store's directory."""


def check_volume(path: Path, *, read_only: bool) -> None:
    """Raise StoreUnavailable or StoreFull where a store can't be opened, or made, at a path."""
    try:
        above = next(each for each in (path, *path.absolute().parents) if each.exists())
    except (OSError, ValueError, StopIteration):
        return  # what is wrong with the path is said where it is used
    check_local(above)
    if not read_only:
        check_room(above)


def check_apart(keyring: Keyring | None, place: Path, *, read_only: bool) -> None:
    """Raise StoreUnavailable for a keyring inside the store, or one that is another store's.

    InvalidEvent for what is no keyring. A store is made before its keyring: whoever sees the
    second sees the first, too.
    """
    if keyring is None:
        return
    if not isinstance(keyring, Keyring):
        raise InvalidEvent(f"a keyring is made by Keyring.file(path), not {brief(keyring)}")
    keyring.check_outside(place)
    if not read_only and keyring.path.exists() and not (place / MARKER).exists():
        raise StoreUnavailable(
            f"{keyring.path} exists already; a new store at {place} needs a keyring of its own"
        )


def trusted_directory(place: Path, trust: str | os.PathLike[str] | None) -> Path:
    """Return the audit directory; raises StoreUnavailable where it was named and can't be one."""
    if trust is None:
        return audit_directory(place)
    directory = checked_path(trust, "trust")
    if not directory.is_dir():
        raise StoreUnavailable(f"{directory} is no directory with a signed head; run keygen first")
    if directory.resolve().is_relative_to(place.resolve()):
        raise StoreUnavailable(f"{directory} would be set back with the store: keep it elsewhere")
    return directory


def own_log(
    place: Path, store: str, keyring: Keyring | None, *, map_size: int, read_only: bool
) -> LmdbLog:
    """Open the log of a store, and its seals where a keyring is given.

    Raises StoreUnavailable for a keyring that is not its own, Corruption where the log is another
    store's, and what open_log() raises.
    """
    log = open_log(place, map_size=map_size, read_only=read_only)
    try:
        if not read_only:  # verify reads it, and says so
            _check_own(log, place, store)
        if keyring is not None:
            _unlock(log, place, keyring, create=not read_only)
    except BaseException:
        log.close()
        raise
    return log


def _check_own(log: LmdbLog, place: Path, store: str) -> None:
    if log.store != store:
        raise Corruption(-1, f"the log is of store {log.store!r}, {place} is store {store!r}")


def _unlock(log: LmdbLog, place: Path, keyring: Keyring, *, create: bool) -> None:
    if log.codec.seal is None:
        raise StoreUnavailable(
            f"{place} is not encrypted and stays so; import its events into a new store"
        )
    log.unlock(keyring.unlock(log.store, create=create and not log.size()))


def open_log(path: Path, *, map_size: int, read_only: bool) -> LmdbLog:
    """Open the log of the store in a directory, which is given back when the log is closed.

    Raises StoreUnavailable, StoreLocked, StoreFull, FormatTooNew and Corruption.
    """
    with presence.gate(path) as inside:
        if not inside and not read_only:
            raise StoreUnavailable(f"{path / presence.OPEN} can't be written; check its owner")
        present = presence.look(path) if inside else presence.Present([], [])
        presence.check_pid(path, present)
        _check_lock_file(path, present)
        sound = not present.stopped_uncleanly or check_after_unclean_stop(path, read_only=read_only)
        mark = _marked(path, read_only=read_only) if inside else None
        try:
            log = _checked(path, map_size, read_only=read_only)
        except BaseException:
            if mark is not None:
                mark.release()
            raise
        if mark is not None:
            log.on_close(mark.release)
        try:
            if inside and sound:
                _tidy(path, present)
        except BaseException:
            log.close()
            raise
        return log


def _tidy(path: Path, present: presence.Present) -> None:
    """Remove what those who died have left."""
    if not present.alive:
        drop_unfinished(path)
    presence.forget_dead(path)


def _check_lock_file(path: Path, present: presence.Present) -> None:
    """Raise StoreLocked where LMDB's lock file was taken from those who write into the store.

    LMDB would make another, which keeps nobody apart: both would write at the same time.
    """
    writers = sorted({str(each) for each in present.alive if not each.read_only})
    if writers and not (path / LOG / LOCK_FILE).exists():
        raise StoreLocked(
            f"{path / LOG / LOCK_FILE} was removed while the store is open in "
            f"{', '.join(writers)}; close it there first"
        )


def drop_unfinished(path: Path) -> None:
    """Remove what a compaction that was stopped has left; inside the gate."""
    with suppress(OSError):  # then the next one to open does it
        for left in path.glob(f"{UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)


def _marked(path: Path, *, read_only: bool) -> presence.Mark | None:
    """Leave a mark; a reader goes without one where the disk is full or not to be written."""
    try:
        return presence.enter(path, read_only=read_only)
    except StoreUnavailable:
        if read_only:
            return None
        raise


def check_after_unclean_stop(path: Path, *, read_only: bool) -> bool:
    """Walk all pages; raise Corruption for damage of the log, throw away caches that have any.

    Returns False where a reader leaves damaged caches to the next writer.
    """
    sound = True
    for finding in check_structure(path):
        name, _, rest = finding.what.partition("/")
        if rest and name != LOG:
            sound = sound and not read_only
            if not read_only:
                shutil.rmtree(path / name, ignore_errors=True)  # made again from the facts
            continue
        raise Corruption(
            -1,
            f"{path}: {finding.what} (its last writer did not close it; 'eventstore repair'"
            " saves what is whole)",
        )
    return sound


def _checked(path: Path, map_size: int, *, read_only: bool) -> LmdbLog:
    hidden = hidden_commit(path / LOG / FILE)
    if hidden is not None:
        raise Corruption(-1, f"{path / LOG / FILE}: {hidden}")
    log = LmdbLog(path / LOG, map_size=map_size, read_only=read_only)
    try:
        if not read_only:  # a reader meets damage where it reads, and verify names all of it
            log.check_end()
    except BaseException:
        log.close()
        raise
    return log


def hidden_commit(file: Path) -> str | None:
    """Return why the newest commit may be hidden behind the one before, None where it is not.

    LMDB keeps the pages of both. So one bit that makes the number of the newest smaller is seen:
    the numbers don't follow each other, or the older commit has more events than the newer.
    """
    try:
        with PageFile(file) as opened:
            return hides_a_commit(opened) or _shrinks(opened)
    except (PageError, OSError):
        return None  # LMDB says better what is wrong


def _shrinks(file: PageFile) -> str | None:
    for _ in range(META_READS):
        metas = file.metas()
        newer, older = (_counted(file, meta) for meta in metas)
        if metas == file.metas():  # else their pages may be those of other commits by now
            break
    if newer is None or older is None:
        return None
    if older.frames <= newer.frames or older.events <= newer.events:
        return None
    return f"the commit before the newest has {older.events} events, the newest only {newer.events}"


class _Counts(NamedTuple):
    """What one commit has: events as its tree head states them, and frames as there are."""

    frames: int
    events: int


def _counted(file: PageFile, meta: Meta) -> _Counts | None:
    """Return what a commit has, None where that can't be read.

    Both are counted, since a head or a frame that alone is missing is damage of other kinds, which
    verify names more exactly.
    """
    tables = file.tables(meta)
    row = file.get(meta.main, HEAD_KEY)
    try:
        events = head_size(row)
    except Corruption:
        return None
    return _Counts(tables[FRAMES].entries, events) if FRAMES in tables else None
