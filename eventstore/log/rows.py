"""Rows of small tables: a checksum in front of the value, so that damage is found, never used."""

from xxhash import xxh3_64_digest

from ..errors import Corruption

Bytes = bytes | memoryview
"""What LMDB's binding says it returns; without `buffers=True` it is always bytes."""

CHECKSUM_BYTES = 8


def checked_row(value: bytes) -> bytes:
    """Return a row: its checksum, then its value."""
    return xxh3_64_digest(value) + value


def checked_value(row: Bytes | None, what: str) -> bytes:
    """Return the value of such a row; raises Corruption where it is missing or damaged."""
    value = bytes(row[CHECKSUM_BYTES:]) if row else b""
    if row is None or xxh3_64_digest(value) != row[:CHECKSUM_BYTES]:
        raise Corruption(-1, f"{what} is missing or does not match its checksum")
    return value
