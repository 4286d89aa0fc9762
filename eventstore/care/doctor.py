"""The doctor: what state a store is in, and what to do about it, without touching anything of it.

Invariants: nothing of the store is written but a reader's mark while it is read; damaged files are
read as bytes and walked in a child process, and LMDB opens only what was found sound; every
complaint says what to do.
"""

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from ..audit.note import open_checkpoint
from ..audit.pages import FILE, PageError, PageFile
from ..audit.structure import check_structure, environments
from ..audit.trust import LAST_NOTE, audit_directory, known_keys, read_note
from ..errors import Corruption, EventStoreError, StoreLocked, StoreUnavailable
from ..files import checked_path, unavailable
from ..limits import RESERVE_BYTES
from ..log.base import Head
from ..log.lmdb import LmdbLog
from ..place import presence
from ..place.directory import LOG, describe
from ..place.opening import UNFINISHED, hidden_commit
from ..place.volume import INSIST, free_bytes, is_network, mount_of
from ..store import EventStore

FULL_SHARE_MAX = 0.8
"""Of a disk or a map in use: from there on it is time to make room."""

BEHIND_MAX = 1_000
"""Commits since a reader began: it keeps the pages of all of them from being used again."""


class Advice(msgspec.Struct, frozen=True):
    """What is not as it should be, and what to do; `urgent` where the store can't be relied on."""

    what: str
    do: str
    urgent: bool = True


class Volume(msgspec.Struct, frozen=True):
    """The file system that a store lies on, in bytes."""

    mount: str
    kind: str
    network: bool
    free_bytes: int | None
    reserve_bytes: int = RESERVE_BYTES


class Room(msgspec.Struct, frozen=True):
    """What one LMDB file has, uses and may grow to, in bytes."""

    name: str
    file_bytes: int
    used_bytes: int
    map_bytes: int


class Slot(msgspec.Struct, frozen=True):
    """A reader in a transaction: its process, and how many commits it is behind."""

    process: int
    behind: int
    alive: bool


class Signed(msgspec.Struct, frozen=True):
    """The head that was signed last: its size and origin."""

    size: int
    origin: str


class Diagnosis(msgspec.Struct, frozen=True):
    """The state of a store; `size`, `root` and `recorded_at` (ns) are None where it can't be read.

    `alive` have the store open, `dead` died with it open; after an `unclean_stop` the next one to
    open it walks all pages.
    """

    path: str
    store: str
    origin: str
    format: int
    encrypted: bool
    volume: Volume
    alive: list[presence.Owner]
    dead: list[presence.Owner]
    unclean_stop: bool
    files: list[Room]
    readers: list[Slot]
    size: int | None
    root: str | None
    recorded_at: int | None
    signed: Signed | None
    advice: list[Advice]

    @property
    def healthy(self) -> bool:
        """True where nothing urgent is to be done."""
        return not any(each.urgent for each in self.advice)


def diagnose(
    path: str | os.PathLike[str], audit: str | os.PathLike[str] | None = None
) -> Diagnosis:
    """Look at the store in a directory; `audit` is where its signed heads are kept outside of it.

    Raises StoreUnavailable where there is no store, and FormatTooNew.
    """
    place = checked_path(path, "path")
    marker = describe(place)
    kept = audit_directory(place) if audit is None else checked_path(audit, "audit")
    advice: list[Advice] = []
    present = _present(place, advice)
    volume = _volume(place, advice)
    files = [room_of(each, advice) for each in environments(place)]
    damaged = _damage(place, present, advice)
    head, readers = (None, []) if damaged else _opened(place, kept, advice)
    return Diagnosis(
        path=str(path),
        store=marker["store"],
        origin=marker["origin"],
        format=int(marker["format"]),
        encrypted=bool(marker.get("encrypted")),
        volume=volume,
        alive=present.alive,
        dead=present.dead,
        unclean_stop=present.stopped_uncleanly,
        files=files,
        readers=readers,
        size=head.size if head else None,
        root=head.root.hex() if head else None,
        recorded_at=head.recorded_at if head else None,
        signed=_signed(kept),
        advice=advice,
    )


# -- around the files --------------------------------------------------------------------------


def _present(path: Path, advice: list[Advice]) -> presence.Present:
    """Return who has a store open; makes no directory where nobody ever had."""
    if not (path / presence.OPEN).is_dir():
        return presence.Present([], [])
    try:
        with presence.gate(path, 0.0):
            return presence.look(path)
    except StoreLocked:
        advice.append(Advice("it is being opened, checked or compacted", "wait", urgent=False))
        return presence.Present([], [])


def _volume(path: Path, advice: list[Advice]) -> Volume:
    mount, free = mount_of(path), free_bytes(path)
    network = is_network(mount)
    if network:
        what = "it is on a network file system, where locks and memory maps are not safe"
        advice.append(Advice(what, f"move it to a local disk; {INSIST} lets it be opened"))
    if free is not None and free < RESERVE_BYTES:
        what = f"{free} bytes are free on its disk, {RESERVE_BYTES} are kept in reserve"
        advice.append(Advice(what, "free some space: until then it can only be read"))
    elif _share_in_use(path) >= FULL_SHARE_MAX:
        what = f"its disk is {_share_in_use(path):.0%} full"
        advice.append(Advice(what, "make room before writes are refused", urgent=False))
    kind = mount.kind if mount else "unknown"
    return Volume(mount.point if mount else "", kind, network, free)


def _share_in_use(path: Path) -> float:
    with unavailable(path):
        found = os.statvfs(path)
    return 1 - found.f_bavail / found.f_blocks if found.f_blocks else 0.0


def _signed(audit: Path) -> Signed | None:
    with suppress(EventStoreError):  # what is wrong with it is told by the store's distrust
        note = read_note(audit / LAST_NOTE)
        if note is not None:
            last = open_checkpoint(note, known_keys(audit))
            return Signed(last.size, last.origin)
    return None


# -- the files ---------------------------------------------------------------------------------


def room_of(place: Path, advice: list[Advice]) -> Room:
    """Return what a file uses, as its newer meta page says."""
    size = (place / FILE).stat().st_size
    try:
        with PageFile(place / FILE) as file:
            newest = file.metas()[0]
    except (PageError, OSError):
        return Room(place.name, size, 0, 0)  # the walk says why
    if newest.used_bytes >= FULL_SHARE_MAX * newest.map_bytes:
        what = f"{place.name} has used {newest.used_bytes} of the {newest.map_bytes} bytes mapped"
        advice.append(Advice(what, "open the store with a larger map_size=", urgent=False))
    return Room(place.name, size, newest.used_bytes, newest.map_bytes)


def _damage(path: Path, present: presence.Present, advice: list[Advice]) -> bool:
    """Note what is wrong with the files; returns True where LMDB must not open the log."""
    if not (path / LOG / FILE).exists():
        advice.append(Advice(f"{LOG}/{FILE} is missing", "restore a backup"))
        return True
    hidden = hidden_commit(path / LOG / FILE)
    findings = [f"{LOG}/{FILE}: {hidden}"] if hidden else []
    if present.stopped_uncleanly:
        findings += [each.what for each in check_structure(path)]
    in_log = [each for each in findings if each.startswith(f"{LOG}/") or "/" not in each]
    for each in findings:
        if each in in_log:
            advice.append(Advice(each, "'eventstore repair' saves what is whole; or restore"))
        else:
            advice.append(Advice(each, "nothing: it is a cache, and made anew"))
    if present.stopped_uncleanly and not findings:
        who = ", ".join(sorted({str(each) for each in present.dead}))
        what = f"{who} did not close it; all pages are sound"
        advice.append(Advice(what, "nothing: who opens it next looks again", urgent=False))
    if not present.alive and list(path.glob(f"{UNFINISHED}*")):
        what = "a compaction was stopped; the store is as it was"
        advice.append(Advice(what, "open it, which tidies up; compact it again", urgent=False))
    return bool(in_log)


def _opened(path: Path, audit: Path, advice: list[Advice]) -> tuple[Head | None, list[Slot]]:
    """Open the log to read; returns its head, and who reads in it."""
    try:
        trust = audit if audit.is_dir() else None
        with EventStore.open(path, read_only=True, trust=trust) as store:
            if store.distrust is not None:
                do = "docs/integrity.md says what to do when a store was set back"
                advice.append(Advice(str(store.distrust), do))
            assert isinstance(store.log, LmdbLog)
            return store.head(), _slots(store.log, advice)
    except StoreUnavailable as error:
        advice.append(Advice(str(error), "see docs/operations.md for what each error asks for"))
    except EventStoreError as error:
        what = error.what if isinstance(error, Corruption) else str(error)
        advice.append(Advice(what, "'eventstore verify' names all of it, 'repair' saves it"))
    return None, []


def _slots(log: LmdbLog, advice: list[Advice]) -> list[Slot]:
    newest = log.env.newest_commit()
    found = [
        Slot(each.process, max(newest - each.commit, 0), _lives(each.process))
        for each in log.env.readers()
        if each.commit is not None
    ]
    for slot in found:
        if slot.behind > BEHIND_MAX:
            what = (
                f"process {slot.process} reads as of {slot.behind} commits ago, so the file grows"
            )
            do = "end it" if slot.alive else "open the store to write: that frees its slot"
            advice.append(Advice(what, do, urgent=False))
    return found


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
