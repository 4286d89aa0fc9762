"""A store's tree as static files, C2SP's tlog-tiles: any web server can serve them to auditors.

    checkpoint                       the signed head
    tile/entries/x001/234[.p/7]      entries, each behind its length (u16)
    tile/0/x001/234[.p/7]            leaf hashes, 256 to a full tile
    tile/1/004[.p/2] ...             roots of the full tiles below

Invariants: what is written hashes to the signed root, else nothing names it: the checkpoint comes
last, when all else is on disk; a full tile is written once, a partial one stays for the head it
belongs to; entries hold no payloads and no names, so the directory gives away only how many
events there are, of which kind, when, and which of them belong together.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from struct import Struct

from ..errors import Corruption, ProofError, StoreUnavailable
from ..files import checked_path, sync_directory, write_durably
from ..store import EventStore
from .heads import check_extends, open_head
from .leaves import LogLeaves, log_entries
from .note import NOTE_BYTES_MAX, Checkpoint
from .proof import Prover
from .signer import VerifierKey
from .tree import HASH_BYTES, TILE_BITS, leaf_hash, root_of

CHECKPOINT = "checkpoint"

TILE_LEAVES = 1 << TILE_BITS

TILE_BYTES_MAX = 1 << 16
"""How much of a file is read: entries take 58.5 KiB a tile, hashes 8."""

_LENGTH = Struct(">H")
"""Bytes of the entry that follows."""

Tile = tuple[int, int]
"""Index and width of a tile, which is full at 256."""


def export_tiles(
    store: EventStore,
    note: bytes,
    keys: Sequence[VerifierKey],
    directory: str | os.PathLike[str],
) -> Checkpoint:
    """Write the tree under a signed head into a directory, or add to one what is new.

    Raises ProofError where the log is not what was signed, RollbackDetected where the directory
    holds a head that the log does not lead on from, Corruption and StoreUnavailable, which is
    also for a directory inside the store.
    """
    place = checked_path(directory, "directory")
    _check_outside(place, store.path)
    store.flush()
    head = open_head(store, note, keys)
    if Prover(LogLeaves(store.log)).root(head.size) != head.root:
        raise ProofError(f"the log's first {head.size} events are not those that were signed")
    try:
        done = _exported(store, keys, place)
        if done > head.size:
            raise ProofError(f"{place} holds a head of {done} events, newer than {head.size}")
        _Export(store, place, head.size, done).write(note)
    except OSError as error:
        raise StoreUnavailable(f"no tiles can be written: {error}") from None
    return head


def _check_outside(directory: Path, store: Path | None) -> None:
    """Raise StoreUnavailable for a directory inside the store's, also by way of a link."""
    place = Path(os.path.realpath(directory))
    if store is not None and place.is_relative_to(os.path.realpath(store)):
        raise StoreUnavailable(f"{directory} is inside the store {store}; write tiles elsewhere")


def tile_path(index: int, width: int = TILE_LEAVES) -> str:
    """Return the end of a tile's path: its index by threes, and its width unless it is full."""
    digits = str(index)
    digits = digits.zfill(len(digits) + -len(digits) % 3)
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    path = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
    return path if width == TILE_LEAVES else f"{path}.p/{width}"


def entries_of(directory: Path, index: int, size: int) -> list[bytes]:
    """Return the entries in a tile of a tree of `size` leaves; raises ProofError."""
    raw = _content(directory, f"tile/entries/{tile_path(index, _width(index, size))}")
    made, at = [], 0
    while at < len(raw):
        (length,) = _LENGTH.unpack(raw[at : at + _LENGTH.size].rjust(_LENGTH.size, b"\0"))
        made.append(raw[at + _LENGTH.size : at + _LENGTH.size + length])
        at += _LENGTH.size + length
    return made


def _width(index: int, count: int) -> int:
    """Return how many nodes a tile has on a level of `count`."""
    return min(count - (index << TILE_BITS), TILE_LEAVES)


def _content(directory: Path, name: str) -> bytes:
    try:
        with (directory / name).open("rb") as file:
            return file.read(TILE_BYTES_MAX)
    except OSError as error:
        raise ProofError(f"{directory / name} can't be read: {error.strerror}") from None


class TileLeaves:
    """The hashes of an exported tree of `size` leaves, for a Prover; raises ProofError."""

    def __init__(self, directory: Path, size: int) -> None:
        self._directory, self.size = directory, size

    def nodes(self, level: int, start: int, stop: int) -> Sequence[bytes]:
        """Return the roots of the full subtrees `start <= index < stop` of 2**level leaves."""
        inner = level % TILE_BITS
        if inner:  # between two tiles: out of the lower one's nodes
            spans = ((index << inner, index + 1 << inner) for index in range(start, stop))
            return [root_of(self.nodes(level - inner, *span)) for span in spans]
        found: list[bytes] = []
        for tile in range(start >> TILE_BITS, (stop - 1 >> TILE_BITS) + 1):
            first = tile << TILE_BITS
            width = _width(tile, self.size >> level)
            name = f"tile/{level // TILE_BITS}/{tile_path(tile, width)}"
            raw = _content(self._directory, name)
            if len(raw) != width * HASH_BYTES:
                raise ProofError(f"{name} has {len(raw)} bytes instead of {width * HASH_BYTES}")
            hashes = [raw[at : at + HASH_BYTES] for at in range(0, len(raw), HASH_BYTES)]
            found += hashes[max(start - first, 0) : stop - first]
        return found


def _exported(store: EventStore, keys: Sequence[VerifierKey], directory: Path) -> int:
    """Return the size of the head that the directory ends with, 0 where it holds none."""
    place = directory / CHECKPOINT
    if not place.exists():
        return 0
    with place.open("rb") as file:
        note = file.read(NOTE_BYTES_MAX + 1)
    return check_extends(store, note, keys).size


class _Export:
    """The files of one head of `size` events, where those of `done` events are there already."""

    def __init__(self, store: EventStore, directory: Path, size: int, done: int) -> None:
        self._log, self._leaves = store.log, LogLeaves(store.log)
        self._directory, self._size, self._done = directory, size, done
        self._changed: set[Path] = set()

    def write(self, note: bytes) -> None:
        """Write all that is missing, the checkpoint last."""
        for index, width in self._tiles(0):
            self._write_leaves(index, width)
        for level in range(TILE_BITS, self._size.bit_length(), TILE_BITS):
            for index, width in self._tiles(level):
                first = index << TILE_BITS
                self._write_hashes(level, index, self._leaves.nodes(level, first, first + width))
        for each in self._changed:
            sync_directory(each)
        self._put(CHECKPOINT, note)
        sync_directory(self._directory)

    def _tiles(self, level: int) -> Iterator[Tile]:
        """Iterate over the tiles of a level, without those that were full before."""
        count, full = self._size >> level, self._done >> level >> TILE_BITS
        for first in range(full << TILE_BITS, count, TILE_LEAVES):
            yield first >> TILE_BITS, min(count - first, TILE_LEAVES)

    def _write_leaves(self, index: int, width: int) -> None:
        first = index << TILE_BITS
        entries = log_entries(self._log, first, first + width)
        bundle = b"".join(_LENGTH.pack(len(entry)) + entry for entry in entries)
        self._put(f"tile/entries/{tile_path(index, width)}", bundle)
        self._write_hashes(0, index, [leaf_hash(entry) for entry in entries])

    def _write_hashes(self, level: int, index: int, hashes: Sequence[bytes]) -> None:
        """Write a tile; a full one must hash to what the level above says, up to the root."""
        upper = level + TILE_BITS
        if len(hashes) == TILE_LEAVES and [root_of(hashes)] != self._kept(upper, index):
            raise Corruption(index << upper, f"tile {index} of level {upper} is not its events'")
        path = f"tile/{level // TILE_BITS}/{tile_path(index, len(hashes))}"
        self._put(path, b"".join(hashes))

    def _kept(self, level: int, index: int) -> list[bytes]:
        return list(self._leaves.nodes(level, index, index + 1))

    def _put(self, name: str, content: bytes) -> None:
        path = self._directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.new")
        write_durably(beside, content)
        beside.replace(path)
        self._changed.update(each for each in path.parents if each.is_relative_to(self._directory))
