"""Rows of small tables: each has a checksum, so that damage is found, never used.

Invariants: a checksum shows that nobody hit a row, not that it was written here; so what a row says
is looked at too before anything is built on it.
"""

from typing import NamedTuple

from xxhash import xxh3_64_digest

from ..audit.tree import HASH_BYTES, Frontier
from ..errors import Corruption
from .format import HEAD_ROW, POSITION, REF, TILE_KEY

Bytes = bytes | memoryview
"""What LMDB's binding says it returns; without `buffers=True` it is always bytes."""

CHECKSUM_BYTES = 8


def checked_row(value: bytes, number: bytes = b"") -> bytes:
    """Return a row: the checksum of its value, and of its key where that is a number; the value."""
    return xxh3_64_digest(value + number) + value


def checked_value(row: Bytes | None, what: str, number: bytes = b"") -> bytes:
    """Return the value of such a row; raises Corruption where it is missing or damaged."""
    value = bytes(row[CHECKSUM_BYTES:]) if row else b""
    if row is None or xxh3_64_digest(value + number) != row[:CHECKSUM_BYTES]:
        raise Corruption(-1, f"{what} is missing or does not match its checksum")
    return value


class HeadRow(NamedTuple):
    """The tree head: its frontier, the time of the newest event, the newest reference."""

    frontier: Frontier
    recorded_at: int
    newest_ref: int


def head_size(row: Bytes | None) -> int:
    """Return the size that a tree head states; raises Corruption where the row can't be one."""
    return _head_parts(row)[0]


def head_of(row: Bytes | None) -> HeadRow:
    """Return what a tree head states; raises Corruption where the row can't be one."""
    size, recorded_at, newest_ref, hashes = _head_parts(row)
    nodes = [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]
    return HeadRow(Frontier(size, nodes), recorded_at, newest_ref)


def _head_parts(row: Bytes | None) -> tuple[int, int, int, bytes]:
    value = checked_value(row, "the tree head")
    if len(value) < HEAD_ROW.size:
        raise Corruption(-1, f"the tree head has only {len(value)} bytes")
    size, recorded_at, newest_ref = HEAD_ROW.unpack_from(value)
    hashes = value[HEAD_ROW.size :]
    if len(hashes) != size.bit_count() * HASH_BYTES:
        raise Corruption(-1, f"the tree head has {len(hashes)} bytes of hashes for size {size}")
    return size, recorded_at, newest_ref, hashes


def position_of(key: Bytes) -> int:
    """Return the position in a key of the table of frames.

    Of a key that is none, which only a strange hand writes, that of its first bytes: so keys keep
    their order, and whoever looks for its frame finds that it has no such place.
    """
    return int.from_bytes(bytes(key[: POSITION.size]).ljust(POSITION.size, b"\0"))


def tile_key(level: int, index: int) -> bytes:
    """Return the key of the root of the full subtree `index` of 2**level leaves."""
    return TILE_KEY.pack(index + 1 << level, level)


def ref_row(name: bytes, ref: bytes) -> bytes:
    """Return a row of references: a name's packed reference, then the checksum of both."""
    return ref + xxh3_64_digest(name + ref)


def kept_ref(name: bytes, row: Bytes) -> bytes | None:
    """Return the packed reference of such a row, None where it is damaged."""
    ref = bytes(row[: REF.size])
    return ref if row == ref_row(name, ref) else None
