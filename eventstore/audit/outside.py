"""A log against what is kept of it outside: signed heads, and the entries under them.

Invariants: nothing of the log is believed but what its own frames hash to, which is what verify()
has checked before; a head that nobody known signed is named, not used; memory does not grow with
the number of events; without entries (tiles) the stretch is named in which something was done,
with them the event and what was done to it.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..engine.system import ORIGIN
from ..errors import EventStoreError, ProofError
from ..events import Custom
from ..ids import SYSTEM
from ..store import EventStore
from .difference import ENTRIES_COMPARED_MAX, commitment_of, first_difference, name_of
from .leaves import LogLeaves, log_entries
from .note import Checkpoint, open_checkpoint
from .proof import Prover
from .report import Finding
from .signer import VerifierKey
from .tiles import CHECKPOINT, TileLeaves, entries_of
from .tree import TILE_BITS, leaf_hash, root_of
from .trust import read_note

NODES_COMPARED = 256
"""Roots of tiles that are compared at a time."""

_TILE = 1 << TILE_BITS


class Outside(NamedTuple):
    """What is known of a log elsewhere: named notes, the keys that sign them, a tile directory."""

    notes: Sequence[tuple[str, bytes]]
    keys: Sequence[VerifierKey]
    tiles: Path | None = None


class _Signed(NamedTuple):
    name: str
    head: Checkpoint


def check_outside(store: EventStore, outside: Outside) -> Iterator[Finding]:
    """Find out in what a store differs from what is kept of it outside."""
    heads: list[_Signed] = []
    for name, raw in _notes(outside):
        try:
            head = open_checkpoint(raw, outside.keys)
        except ProofError as error:
            yield Finding(-1, f"forged: {name} is no signed head: {error}")
            continue
        complaint = _origin_complaint(store, name, head)
        if complaint:
            yield complaint
        else:
            heads.append(_Signed(name, head))
    try:
        yield from _check_heads(store, heads, outside)
    except EventStoreError as error:
        yield Finding(-1, f"the signed heads can't be compared: {error}")


def _notes(outside: Outside) -> Iterable[tuple[str, bytes]]:
    yield from outside.notes
    if outside.tiles is not None:
        raw = read_note(outside.tiles / CHECKPOINT)
        yield str(outside.tiles / CHECKPOINT), raw or b""


def _origin_complaint(store: EventStore, name: str, head: Checkpoint) -> Finding | None:
    """Say so where a head is of another store, or of events that a restored one never had."""
    if head.origin.endswith(f"/{store.origin}"):
        return None
    for position, fact in _origins(store):
        if not head.origin.endswith(f"/{fact.get('origin')}"):
            continue
        size = fact.get("size")
        kept = size if type(size) is int else 0  # a fact that states none says that all is lost
        if head.size <= kept:
            return None
        what = f"{name} is of {head.size} events, the store was restored from a backup of {kept}"
        lost = f"{head.size - kept} signed events are lost, as the fact at this position says"
        return Finding(position, f"rolled back: {what}; {lost}")
    return Finding(-1, f"{name} is a head of {head.origin!r}, not of store {store.origin!r}")


def _origins(store: EventStore) -> Iterator[tuple[int, dict[str, object]]]:
    """Iterate over the facts by which the store, restored, began a new origin."""
    if not store.exists(SYSTEM):
        return
    for recorded in store.events(SYSTEM):
        fact = recorded.event
        if isinstance(fact, Custom) and fact.name == ORIGIN and isinstance(fact.data, dict):
            yield recorded.position, dict(fact.data)


def _check_heads(store: EventStore, heads: list[_Signed], outside: Outside) -> Iterator[Finding]:
    """Compare heads with the log, from the smallest on, and name what the first bad one shows."""
    leaves, size = LogLeaves(store.log), store.head().size
    prover, good = Prover(leaves), 0
    for signed in sorted(heads, key=lambda each: each.head.size):
        if signed.head.size <= size and prover.root(signed.head.size) == signed.head.root:
            good = signed.head.size
            continue
        exact = _compared(store, outside)
        yield exact or _stretch(signed, good, size)
        return


def _stretch(signed: _Signed, good: int, size: int) -> Finding:
    """Name what is wrong as far as heads alone tell it."""
    name, head = signed
    if good == size:
        what = f"the log ends with the signed head of {good} events, {name} is of {head.size}"
        return Finding(good - 1, f"rolled back: {what}; {head.size - size} events are missing")
    if head.size > size:
        what = f"truncated: {name} is of {head.size} events, the log has {size}"
        return Finding(size - 1, f"{what}; {head.size - size} are missing from position {good} on")
    what = f"the events up to position {head.size - 1} are not those that {name} was signed over"
    how = "edited, deleted, reordered, inserted or replayed: tiles of that head would tell"
    return Finding(good, f"{what} ({how})")


# -- with the entries that were signed ---------------------------------------------------


def _compared(store: EventStore, outside: Outside) -> Finding | None:
    """Name the first event that differs from the tiles, None where they can't tell."""
    if outside.tiles is None:
        return None
    head = open_checkpoint(read_note(outside.tiles / CHECKPOINT) or b"", outside.keys)
    signed = TileLeaves(outside.tiles, head.size)
    if Prover(signed).root(head.size) != head.root:
        return Finding(-1, f"the tiles in {outside.tiles} are not those of their own head")
    start = _first_tile(store, signed) * _TILE
    was = _signed_entries(outside.tiles, signed, start)
    size = store.head().size
    now = log_entries(store.log, start, min(start + _TILE, size))
    index = first_difference(was, now)
    if index is None:
        return None
    if start + index == size:
        return _ended(outside, size, head)
    return _named(store, outside.tiles, signed, start + index)


def _ended(outside: Outside, size: int, head: Checkpoint) -> Finding:
    """Name what was done to a log that is a mere beginning of what was signed."""
    sizes = set()
    for _, raw in outside.notes:
        try:
            sizes.add(open_checkpoint(raw, outside.keys).size)
        except ProofError:
            continue  # it was named before
    how = "rolled back to the signed head of that size" if size in sizes else "truncated"
    what = f"the log ends here, {head.size} events were signed"
    return Finding(size - 1, f"{how}: {what}; {head.size - size} are missing")


def _first_tile(store: EventStore, signed: TileLeaves) -> int:
    """Return the index of the first tile whose root differs, or of the one behind all of them."""
    found = LogLeaves(store.log)
    count = min(signed.size, store.head().size) >> TILE_BITS
    for start in range(0, count, NODES_COMPARED):
        stop = min(start + NODES_COMPARED, count)
        was = signed.nodes(TILE_BITS, start, stop)
        now = found.nodes(TILE_BITS, start, stop)
        for index, pair in enumerate(zip(was, now, strict=True), start):
            if pair[0] != pair[1]:
                return index
    return count


def _signed_entries(directory: Path, signed: TileLeaves, start: int) -> list[bytes]:
    """Return the entries of one tile, held to the hashes that the head is over."""
    made = entries_of(directory, start >> TILE_BITS, signed.size)
    hashes = [leaf_hash(entry) for entry in made]
    if len(hashes) == _TILE:
        same = [root_of(hashes)] == list(signed.nodes(TILE_BITS, start >> 8, (start >> 8) + 1))
    else:
        same = hashes == list(signed.nodes(0, start, start + len(hashes)))
    if not same:
        raise ProofError(f"the entries from {start} on in {directory} are not those of its head")
    return made


def _named(store: EventStore, directory: Path, signed: TileLeaves, position: int) -> Finding:
    """Name the difference that begins at a position, which both sides have."""
    was: list[bytes] = []
    for tile in range(position >> TILE_BITS, (signed.size - 1 >> TILE_BITS) + 1):
        was += _signed_entries(directory, signed, tile << TILE_BITS)
        if len(was) >= ENTRIES_COMPARED_MAX + _TILE:
            break
    was = was[position % _TILE :][:ENTRIES_COMPARED_MAX]
    stop = min(position + ENTRIES_COMPARED_MAX, store.head().size)
    now = log_entries(store.log, position, stop)

    def earlier(commitment: bytes) -> int | None:
        for start in range(0, position, _TILE):
            entries = log_entries(store.log, start, min(start + _TILE, position))
            for index, entry in enumerate(entries, start):
                if commitment_of(entry) == commitment:
                    return index
        return None

    return Finding(position, name_of(was, now, earlier))
