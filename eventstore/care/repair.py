"""Repair: every event of a damaged store that is whole, in a new store; and what is missing, named.

Invariants: the damaged store is read as bytes, never through LMDB, and never written; the new store
appears whole or not at all, and begins a new origin, since nothing that was signed for the old one
holds for it; it is called whole only where its tree is the old one's. What stands where something
is lost mending.py says, and loose.py what is taken that nothing proves.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import msgspec

from ..audit.pages import FILE
from ..audit.tree import KEPT_BITS
from ..errors import FormatTooNew, StoreUnavailable
from ..files import checked_path, write_durably
from ..ids import fresh_id
from ..keyring import Keyring
from ..log.codec import is_dictionary
from ..log.format import FORMAT, MARKER, STARTER
from ..log.lmdb import LmdbLog
from ..place import presence
from ..place.directory import LOG, describe
from ..store import starter_dictionary
from .backup import beside, private_log, restored, sync_copy
from .carrying import make_log
from .mending import LostPart, Mending, Unproven
from .salvage import Gaps, Salvage

LISTED_MAX = 1_000
"""Stretches that a report lists of each kind."""


class Repaired(msgspec.Struct, frozen=True):
    """What a repair made: the new store's head, and what of the old one it could not keep.

    `events` is how many the old one had, as far as that is known: `size_known` is False where it
    may have had more (an old page that is whole and stands where a newer one should can hide the
    newest commit even so: only a head that is kept elsewhere shows that); `kept` is how many of
    them the new one has. `positions` are stretches [start, stop) of the old log that are lost,
    `sessions` those parts of sessions, `unnamed` what sessions and actors are called now whose
    names are lost. `unproven` are facts that came over, and count as kept, though nothing that is
    left of the log proves that they ever were committed, and `unproven_names` such names: a commit
    that failed leaves rows behind as well. At most LISTED_MAX of each are listed.
    """

    size: int
    root: str
    events: int
    size_known: bool
    kept: int
    positions: list[tuple[int, int]]
    sessions: list[LostPart]
    unnamed: list[str]
    unproven: list[Unproven]
    unproven_names: list[str]

    @property
    def whole(self) -> bool:
        """True where nothing is missing and all is proven."""
        doubt = self.unnamed or self.unproven or self.unproven_names
        return self.size_known and self.kept == self.events and not doubt


def repair(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    keyring: Keyring | None = None,
) -> Repaired:
    """Make a new store of all that is whole in a damaged one; nobody may have that one open.

    An encrypted store needs its keyring only where something is missing. Raises StoreLocked,
    StoreUnavailable, StoreFull and FormatTooNew; then there is nothing at the destination.
    """
    place, target = checked_path(source, "source"), checked_path(destination, "destination")
    with presence.closed(place, "repair it then"), _salvage(place) as salvage:
        return _repaired(place, salvage, target, keyring)


def _salvage(place: Path) -> Salvage:
    try:
        return Salvage(place / LOG / FILE)
    except OSError as error:
        raise StoreUnavailable(f"{place / LOG / FILE} can't be read: {error.strerror}") from None


def _repaired(
    place: Path, salvage: Salvage, destination: Path, keyring: Keyring | None
) -> Repaired:
    with beside(destination, place) as made:
        marker = _marker(place, salvage)
        (made / LOG).mkdir()
        encrypted = bool(marker.get("encrypted"))
        make_log(made / LOG, marker["store"], _dictionaries(salvage), encrypted=encrypted)
        with private_log(made / LOG) as log:
            if encrypted and keyring is not None:
                log.unlock(keyring.unlock(marker["store"]))
            mending = Mending(salvage, log)
            mending.run()
            head = log.head()
            report = _report(salvage, mending, log)
        reason = f"repaired: {report.kept} of {report.events} events were whole"
        doubted = sum(each.last - each.first + 1 for each in report.unproven)
        reason += f", {doubted} of them proven by nothing" if doubted else ""
        write_durably(made / MARKER, restored(marker, head, reason, None))
        sync_copy(made)
        shutil.copymode(place, made)
        return report


def _dictionaries(salvage: Salvage) -> dict[int, bytes]:
    """Return the dictionaries that are whole; for the first the one that ships with the package."""
    starter = starter_dictionary()
    kept = {number: each for number, each in salvage.dictionaries().items() if is_dictionary(each)}
    return {**({} if starter is None else {STARTER: starter}), **kept}


def _marker(place: Path, salvage: Salvage) -> dict[str, Any]:
    """Return the store's description, or what of it the log says where that is damaged."""
    try:
        return describe(place)
    except FormatTooNew:
        raise
    except StoreUnavailable:
        store = salvage.store() or fresh_id()
        made: dict[str, Any] = {"format": FORMAT, "store": store, "origin": store}
        return {**made, "encrypted": True} if salvage.encrypted() else made


def _report(salvage: Salvage, mending: Mending, log: LmdbLog) -> Repaired:
    head, naming = log.head(), mending.naming
    unproven, names = mending.unproven, naming.unproven
    if (head.size, head.root) == (salvage.edge.size, salvage.edge.root()):
        unproven, names = [], set()
    elif not unproven and not names and mending.kept == mending.size == salvage.edge.size:
        unproven = [Unproven(start, stop - 1, start) for start, stop in _differing(salvage, log)]
    return Repaired(
        head.size,
        head.root.hex(),
        mending.size,
        salvage.size_known,
        mending.kept,
        mending.lost.stretches[:LISTED_MAX],
        mending.parts[:LISTED_MAX],
        sorted(naming.unnamed)[:LISTED_MAX],
        unproven[:LISTED_MAX],
        sorted(names)[:LISTED_MAX],
    )


def _differing(salvage: Salvage, log: LmdbLog) -> list[tuple[int, int]]:
    """Return the stretches of a log that is complete whose kept roots are not those of the old.

    A page that is older than it should be has frames that were never committed, or others lost.
    """
    found, size = Gaps(), log.size()
    groups = size >> KEPT_BITS
    for group in range(groups):
        if [salvage.tile(KEPT_BITS, group)] != list(log.tiles(KEPT_BITS, group, group + 1)):
            found.add(group << KEPT_BITS, group + 1 << KEPT_BITS)
    if not found.stretches:
        found.add(groups << KEPT_BITS, size)
    return found.stretches
