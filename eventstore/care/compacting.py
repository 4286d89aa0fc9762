"""Compaction: the same rows in fewer pages, in a new file that takes the old one's place.

    1. the gate, and nobody else has the store open      StoreLocked
    2. a mark: if this dies, the next to open looks closer
    3. every row into `.compact-ID/` beside, synced; counted and compared
    4. its file takes the name of the old one, the directory is synced
    5. the lock file goes, which belonged to the old one

Where payloads were destroyed in a log that has dictionaries of its own, refitting.py says what its
rows become; else they are copied as they are.

Invariants: whatever stops it, under the name is the old file or the new one, whole; what it left
beside goes with the next opening after an unclean stop, and with the next compaction. A cache of
more tables than can be opened at once goes, to be made again from the facts. Rows are
copied one by one: py-lmdb 3.0.0 dies when it compacts what it copies (docs/decisions, 7).
"""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from ..audit.structure import check_structure, environments
from ..errors import Corruption, StoreFull, StoreLocked
from ..files import checked_path, sync_directory, unavailable
from ..ids import fresh_id
from ..limits import MIB
from ..log.environment import FILE, LOCK_FILE, TABLES_MAX, Environment, open_environment
from ..place import presence
from ..place.directory import LOG, check_no_backup, describe
from ..place.opening import UNFINISHED, check_volume, drop_unfinished
from ..place.volume import free_bytes
from .refitting import Refit, Row, refit_of

ROWS_MAX, ROWS_BYTES_MAX = 20_000, 16 * MIB
"""Rows that are copied in one transaction, and their bytes; one larger row goes alone."""


class Compacted(msgspec.Struct, frozen=True):
    """What became of one environment, in bytes of its file."""

    name: str
    before: int
    after: int


def compact(path: Path) -> list[Compacted]:
    """Give back the free pages of a store that nobody has open.

    Raises StoreLocked where somebody has, StoreFull where there is no room for the new file
    beside the old, StoreUnavailable, FormatTooNew and Corruption; then all is as it was.
    """
    path = checked_path(path, "path")
    describe(path)
    check_no_backup(path)
    check_volume(path, read_only=False)
    with presence.gate(path) as inside:
        if not inside:
            raise StoreLocked(f"{path} can't be written")
        presence.check_alone(path, presence.look(path), "compact it again")
        mark = presence.enter(path, read_only=False)
        try:
            for finding in check_structure(path):
                raise Corruption(finding.position, f"{path}: {finding.what}")
            drop_unfinished(path)
            return [_compacted(each) for each in environments(path)]
        finally:
            mark.release()


def _compacted(place: Path) -> Compacted:
    before = (place / FILE).stat().st_size
    if place.name != LOG and _has_outgrown(place):
        with unavailable(place):
            shutil.rmtree(place)
        return Compacted(place.name, before, 0)
    with unavailable(place), _beside(place) as beside:
        refit = refit_of(place) if place.name == LOG else None
        with closing(open_environment(place, read_only=True)) as source:
            _check_room(place, source.used_bytes())
            with closing(open_environment(beside)) as made:
                _copy_tables(source, made, refit)
        shutil.copymode(place / FILE, beside / FILE)
        (beside / FILE).rename(place / FILE)
        sync_directory(place)
        (place / LOCK_FILE).unlink(missing_ok=True)
    return Compacted(place.name, before, (place / FILE).stat().st_size)


def _has_outgrown(cache: Path) -> bool:
    """Return True where old revisions have left more tables than can be opened at once."""
    with closing(open_environment(cache, read_only=True)) as source, source.begin() as txn:
        return sum(1 for _ in txn.cursor()) > TABLES_MAX


@contextmanager
def _beside(place: Path) -> Iterator[Path]:
    made = place.parent / f"{UNFINISHED}{fresh_id()}"
    made.mkdir()
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _check_room(place: Path, used: int) -> None:
    free = free_bytes(place)
    if free is not None and free < used:
        raise StoreFull(f"{place}: compacting needs up to {used} bytes free, there are {free}")


def _pages(rows: Iterable[Row]) -> Iterator[list[tuple[bytes, bytes]]]:
    """Iterate over rows, as many together as go into one transaction."""
    page: list[tuple[bytes, bytes]] = []
    size = 0
    for key, value in rows:
        if page and (len(page) == ROWS_MAX or size + len(key) + len(value) > ROWS_BYTES_MAX):
            yield page
            page, size = [], 0
        page.append((bytes(key), bytes(value)))
        size += len(key) + len(value)
    if page:
        yield page


def _copy_tables(source: Environment, made: Environment, refit: Refit | None) -> None:
    """Copy every table, and compare how many rows it has; and the rows beside the tables."""
    with made.translating, made.write() as txn:
        txn.cursor().putmulti(list(source.loose_rows().items()))
    for name, dupfixed in source.tables().items():
        old = source.table(name, dupfixed=dupfixed)
        new = made.table(name, dupfixed=dupfixed, create=True)
        with source.begin() as reading:
            rows = reading.cursor(old)
            for page in _pages(refit.rows(name, rows) if refit else rows):
                with made.translating, made.write() as txn:
                    txn.cursor(new).putmulti(page, append=True)
            with made.begin() as txn:
                copied, due = txn.stat(new)["entries"], reading.stat(old)["entries"]
        if copied != due:
            raise Corruption(-1, f"{source.path}: {copied} of {due} rows of {name!r} were copied")
    if refit:
        refit.add(made)
