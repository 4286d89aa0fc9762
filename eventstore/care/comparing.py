"""Compares a backup with its store: whether they hold the same facts, as far as it goes.

Invariants: the backup is walked whole, page by page and event by event, so that its root is known
to be that of what is in it; that the store begins with the same facts then follows from one root.
"""

import os
from contextlib import closing
from pathlib import Path

import msgspec

from ..audit.proof import Prover
from ..audit.report import Finding
from ..audit.verify import verify_directory
from ..errors import Corruption, EventStoreError
from ..files import checked_path
from ..log.base import Head
from ..log.lmdb import LmdbLog
from ..place import presence
from ..place.directory import LOG, describe
from ..store import EventStore
from .increments import check_increments, extents_of


class Comparison(msgspec.Struct, frozen=True):
    """How a backup stands to its store: `size` events in it, `behind` more in the store.

    `findings` name damage of the backup, and the first position at which they differ.
    """

    size: int
    behind: int
    findings: list[Finding]

    @property
    def equal(self) -> bool:
        """True where the backup is sound, and the store begins with what is in it."""
        return not self.findings


def compare(store: EventStore, backup: str | os.PathLike[str]) -> Comparison:
    """Compare a backup, with its increments, with an open store.

    Raises StoreUnavailable and FormatTooNew where there is no backup to compare.
    """
    place = checked_path(backup, "backup")
    marker = describe(place)
    store.flush()
    with presence.reading(place):
        return _compared(store, place, marker["store"])


def _compared(store: EventStore, place: Path, named: str) -> Comparison:
    newest = store.head()
    if named != store.id:
        what = f"it is of store {named}, this one is {store.id}"
        return Comparison(0, newest.size, [Finding(-1, what)])
    report = verify_directory(place)
    if not report.sound:
        return Comparison(report.size, max(newest.size - report.size, 0), report.findings)
    with closing(LmdbLog(place / LOG, read_only=True)) as base:
        end, findings = _differences(store, place, base)
    return Comparison(end.size, max(newest.size - end.size, 0), findings)


def _differences(store: EventStore, place: Path, base: LmdbLog) -> tuple[Head, list[Finding]]:
    """Return the head that a sound backup ends at, and where it differs from the store."""
    end = base.head()
    try:
        check_increments(place)
        extents = extents_of(place)
    except Corruption as error:
        return end, [Finding(error.position, error.what)]
    here, there = Prover.of(store.log), Prover.of(base)
    common = _common(here, there, min(store.log.size(), end.size))
    if common < end.size:
        return end, [Finding(common, "from here on the backup has other facts than the store")]
    for extent in extents:
        try:
            same = here.root(extent.size) == extent.root
        except EventStoreError:
            same = False
        if not same:
            what = "from here on an increment of the backup has other facts than the store"
            return end, [Finding(extent.first_size, what)]
        end = extent.end
    return end, []


def _common(here: Prover, there: Prover, size: int) -> int:
    """Return with how many equal events two logs begin, of `size` that both have: bisection."""
    low, high = 0, size
    while low < high:
        middle = (low + high + 1) // 2
        if here.root(middle) == there.root(middle):
            low = middle
        else:
            high = middle - 1
    return low
