"""The entry: the fixed 232 bytes about one event that its leaf in the tree hashes.

Invariants: every field is big-endian and at a fixed place (docs/format.md draws it); names
stand as SHA-256 digests, so an entry gives nothing away; the payload is bound by a salted
commitment over its uncompressed bytes, so compression is no part of what is proved.
"""

import os
import threading
from functools import lru_cache
from hashlib import sha256
from struct import Struct

ENTRY_BYTES = 232
ENTRY_FORMAT = 1
NONE_DIGEST = bytes(32)
DIGESTS_BYTES = 64
"""The digest of the payload and that of the sealed bytes, one after the other."""

NAMES_CACHED_MAX = 4_096

SALT_BYTES = 16
PAYLOAD_TAG = b"eventstore/payload/1\x00"
SESSION_TAG = b"eventstore/session/1\x00"
NAME_TAG = b"eventstore/name/1\x00"

_LEAD = Struct(">BBHHHq")
_MIDDLE = Struct(">QQ")
_TIME = Struct(">Q")


class Salts:
    """Fresh random bytes out of a pool, since asking the system for each event is slow."""

    POOL_BYTES = 16_384

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool = b""
        self._at = 0
        self._pid = 0

    def take(self, count: int) -> bytes:
        """Return 16 bytes for each of `count` events, never the same twice, after a fork either."""
        wanted = SALT_BYTES * count
        with self._lock:
            start, pid = self._at, os.getpid()
            if start + wanted > len(self._pool) or pid != self._pid:
                self._pool, start = os.urandom(max(wanted, self.POOL_BYTES)), 0
                self._pid = pid
            self._at = end = start + wanted
            return self._pool[start:end]


def payload_commitment(salt: bytes, payload: bytes) -> bytes:
    """Return SHA-256(tag || salt || uncompressed payload)."""
    return sha256(PAYLOAD_TAG + salt + payload).digest()


@lru_cache(maxsize=NAMES_CACHED_MAX)
def session_digest(session: str) -> bytes:
    """Return the digest that stands for a session id in an entry."""
    return sha256(SESSION_TAG + session.encode()).digest()


@lru_cache(maxsize=NAMES_CACHED_MAX)
def name_digest(name: str | None) -> bytes:
    """Return the digest that stands for an actor or id in an entry; zeros for None."""
    return NONE_DIGEST if name is None else sha256(NAME_TAG + name.encode()).digest()


def entry_lead(flags: int, kind: int, schema: int, occurred_at: int) -> bytes:
    """Return bytes 0-15: what the caller decides about one event."""
    return _LEAD.pack(ENTRY_FORMAT, flags, kind, schema, 0, occurred_at)


def entry_middle(version: int, previous: int) -> bytes:
    """Return bytes 16-31: the place in the session; `previous` is a position, -1 for none."""
    return _MIDDLE.pack(version, previous + 1)


@lru_cache(maxsize=NAMES_CACHED_MAX)
def names_digests(actor: str | None, correlation_id: str | None, causation_id: str | None) -> bytes:
    """Return the digests that stand for these names in an entry, one after the other."""
    return name_digest(actor) + name_digest(correlation_id) + name_digest(causation_id)


def entry_common(
    recorded_at: int,
    session: str,
    actor: str | None,
    correlation_id: str | None,
    causation_id: str | None,
) -> bytes:
    """Return bytes 32-167: what all events of one append share."""
    names = names_digests(actor, correlation_id, causation_id)
    return _TIME.pack(recorded_at) + session_digest(session) + names


def entry_digests(commitment: bytes, sealed: bytes = NONE_DIGEST) -> bytes:
    """Return bytes 168-231: the payload commitment and the digest of sealed bytes."""
    return commitment + sealed
