"""Rows of small tables: each has a checksum, so that damage is found, never used."""

from xxhash import xxh3_64_digest

from ..errors import Corruption
from .format import REF, TILE_KEY

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
