"""Copies of a whole store: hot backups, increments on top of them, and stores made from them.

Invariants: a copy is one committed moment of the log, taken while others write; it appears at
its place as a whole, synced, or not at all; nothing that is there already is overwritten. Views
and snapshots are not copied: they are caches, made anew where they are missing. A store made of
the past ends with a whole append, and has the root that the log had then.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..audit.note import Note
from ..audit.proof import Prover
from ..audit.structure import check_structure
from ..engine.origins import PAST, has_reasons
from ..errors import Corruption, InvalidEvent, StoreUnavailable
from ..files import checked_path, make_directory, sync_directory, write_durably
from ..ids import fresh_id
from ..log.base import Head, frames_between
from ..log.environment import FILE, LOCK_FILE
from ..log.format import MARKER
from ..log.frame import Frame
from ..log.lmdb import LmdbLog
from ..place import presence
from ..place.directory import INCREMENTS, LOG, describe
from ..store import EventStore
from .carrying import Carrier, content_of, dictionaries_of, make_log, while_kept
from .increments import add_increment, check_increments, replay

REASON = "restored from a backup"
"""Why a store begins a new origin, where nothing better is said."""


def backup(
    store: EventStore, destination: str | os.PathLike[str], *, incremental: bool = False
) -> Head:
    """Copy an open store into a directory that is missing or empty; returns the copy's head.

    A backup opens read-only; restore() makes a store of it. With `incremental`, where there is a
    backup of this store already, what came since then is added to it. Readers and writers go on
    meanwhile. Raises StoreUnavailable and StoreFull; then there is nothing new at the destination.
    """
    log = store.log
    if store.path is None or not isinstance(log, LmdbLog):
        raise StoreUnavailable("a store in memory has no files to copy; export its events instead")
    store.flush()
    place = checked_path(destination, "destination")
    if incremental and (place / MARKER).exists():
        return _added(store, log, place)
    with beside(place, store.path) as made:
        (made / INCREMENTS).mkdir()
        return _copied(log, store.path, made)


def _added(store: EventStore, log: LmdbLog, place: Path) -> Head:
    marker = describe(place)
    if (marker["store"], marker["origin"]) != (store.id, store.origin):
        raise StoreUnavailable(
            f"{place} is a backup of store {marker['store']}, origin {marker['origin']}; this one "
            f"is {store.id}, origin {store.origin}"
        )
    return add_increment(log, store.id, store.origin, place)


class Moment(NamedTuple):
    """Up to where a store is made anew: a position, or a time in ns; None for no bound."""

    position: int | None = None
    time: int | None = None

    def keeps(self, frame: Frame) -> bool:
        """Return True for a frame that belongs to it."""
        return self._covers(frame.position, frame.recorded_at)

    def covers(self, head: Head) -> bool:
        """Return True where a whole log belongs to it."""
        return self._covers(head.size - 1, head.recorded_at)

    def _covers(self, position: int, time: int) -> bool:
        if self.position is not None and position > self.position:
            return False
        return self.time is None or time <= self.time

    def check(self, head: Head) -> None:
        """Raise InvalidEvent where what was made up to this moment is not what was asked for."""
        if self.position is not None and self.position >= head.size:
            raise InvalidEvent(f"positions go from 0 to {head.size - 1}, not {self.position}")
        if self.time is not None and not head.size:
            raise InvalidEvent("nothing had been recorded by then; name a later time")


NOW = Moment()
"""All that there is."""


def restore(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    moment: Moment = NOW,
    reason: str = REASON,
    head: bytes | None = None,
) -> Head:
    """Make a new store out of a backup (or of any store nobody repairs); returns its head.

    The increments of the backup are part of it; what came later than `moment` is not, but for the
    rest of the append that this falls into. It begins a new origin, since heads of the old one
    may have gone further: the first fact that is recorded in it names the old origin, how far the
    backup went, `reason` and `head`, the last known note of the old one. The source is walked
    page by page first. Raises StoreUnavailable, FormatTooNew, Corruption, InvalidEvent, and
    ProofError where `head` is no note; then there is nothing at the destination.
    """
    place, target = checked_path(source, "source"), checked_path(destination, "destination")
    if head is not None:
        Note.parse(head)
    marker = describe(place)
    with presence.reading(place), _whole(place) as log:
        if log.store != marker["store"]:
            raise StoreUnavailable(f"{place / MARKER} names another store than its log does")
        with beside(target, place) as made:
            copied = _made_of(log, place, made, moment)
            moment.check(copied)
            past = _lacks_facts(log, marker["restored"], copied)
            write_durably(made / MARKER, restored(marker, copied, reason, head, past=past))
            return copied


def _lacks_facts(log: LmdbLog, before: dict[str, Any], copied: Head) -> bool:
    """Return True for a copy in which payloads are gone whose redactions it leaves out.

    `before` is what the source says of how it was restored: so is any copy of one that is such a
    copy itself and has said nothing of it yet, being as long as it was made.
    """
    if PAST in before and before.get("size") == log.size():
        return True
    return copied.size < log.size() and log.erasures() > 0 and has_reasons(log)


@contextmanager
def _whole(place: Path) -> Iterator[LmdbLog]:
    """Open the log of a backup whose pages and increments are whole. Raises Corruption."""
    for finding in check_structure(place):
        raise Corruption(finding.position, f"{place}: {finding.what}")
    check_increments(place)
    with closing(LmdbLog(place / LOG, read_only=True)) as log:
        yield log


def restored(
    marker: dict[str, Any], copied: Head, reason: str, head: bytes | None, *, past: bool = False
) -> bytes:
    """Return the description of a store that goes on from another origin."""
    restored = {
        "origin": marker["origin"],
        "size": copied.size,
        "root": copied.root.hex(),
        "head": None if head is None else head.decode(),
        "reason": reason,
        **({PAST: True} if past else {}),
    }
    return json.dumps({**marker, "origin": fresh_id(), "restored": restored}).encode()


def _made_of(log: LmdbLog, source: Path, made: Path, moment: Moment) -> Head:
    """Copy a backup's facts up to a moment, increments included; returns the head they have."""
    base = log.head()
    if not moment.covers(base):
        return _begins(log, source, made, moment)
    _copied(log, source, made)
    with private_log(made / LOG) as copy:
        replay(source, copy, moment.keeps)
        return copy.head()


def _begins(log: LmdbLog, source: Path, made: Path, moment: Moment) -> Head:
    """Carry the beginning of a log into a new one; raises Corruption unless the roots agree."""
    (made / LOG).mkdir()
    encrypted = log.codec.seal is not None
    make_log(made / LOG, log.store, dictionaries_of(log), encrypted=encrypted)
    write_durably(made / MARKER, (source / MARKER).read_bytes())
    with private_log(made / LOG) as copy:
        carrier = Carrier(copy)
        for frame in while_kept(frames_between(log), moment.keeps):
            carrier.take(frame, content_of(log, frame))
        carrier.finish()
        head = copy.head()
    if Prover.of(log).root(head.size) != head.root:
        raise Corruption(-1, f"the first {head.size} events don't have the root they had")
    sync_copy(made)
    shutil.copymode(source, made)
    return head


@contextmanager
def private_log(path: Path, *, read_only: bool = False) -> Iterator[LmdbLog]:
    """Open a log that nobody else knows of, and leave no lock file of ours behind."""
    log = LmdbLog(path, read_only=read_only)
    try:
        yield log
    finally:
        log.close()
        (path / LOCK_FILE).unlink(missing_ok=True)


def _copied(log: LmdbLog, source: Path, made: Path) -> Head:
    (made / LOG).mkdir()
    log.env.copy(made / LOG)
    write_durably(made / MARKER, (source / MARKER).read_bytes())
    with private_log(made / LOG, read_only=True) as copy:
        head = copy.head()
    sync_copy(made)
    shutil.copymode(source, made)
    return head


@contextmanager
def beside(destination: Path, source: Path) -> Iterator[Path]:
    """Give a new directory that becomes `destination` at the end of the block, or goes away.

    It may not lie in `source`: what happens to a store would happen to its copy.
    """
    if destination.resolve().is_relative_to(source.resolve()):
        raise StoreUnavailable(f"{destination} is inside the store {source}; copy it elsewhere")
    _check_free(destination)
    try:
        make_directory(destination.parent)
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


def sync_copy(made: Path) -> None:
    """Make the bytes and the names of a copy durable."""
    handle = os.open(made / LOG / FILE, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    for each in (made / LOG, made):
        sync_directory(each)
