"""The cache of session headers: least recently used ones leave first, old and outdated ones too.

Invariants: an entry answers only for the version and the erasure count it was made at, so that
whatever anybody wrote since, in this process or another, makes it a miss; entries are encoded,
so that a reader owns what it gets; no entry is larger than HEADER_BYTES_MAX, and all together
are no more than `entries_max` and `bytes_max`. Thread-safe.
"""

import threading
import time
from collections.abc import Callable
from math import inf

import msgspec
from cachetools import Cache, TLRUCache

from .checks import check_whole

HEADER_BYTES_MAX = 2_048
"""An encoded header that is kept; a larger one is made anew each time."""


class CacheStatistics(msgspec.Struct, frozen=True):
    """What the cache holds and did; `bytes` are those of the encoded entries.

    `evictions` made room, `stale` lookups found an entry that somebody's write had outdated and
    count as misses too.
    """

    entries: int
    bytes: int
    hits: int
    misses: int
    stale: int
    evictions: int

    @property
    def rate(self) -> float:
        """Share of the lookups that were hits, 0 where there were none."""
        return self.hits / (self.hits + self.misses) if self.hits else 0.0


class _Entry(msgspec.Struct):
    """An encoded header, what it is true for, how often it was asked for; seconds to live."""

    version: int
    erasures: int
    data: bytes
    ttl: float | None
    accesses: int = 0


class _Entries(TLRUCache[str, _Entry]):
    """cachetools' time-aware LRU by bytes, which counts what it throws out."""

    evictions = 0

    def popitem(self) -> tuple[str, _Entry]:
        """Throw the least recently used entry out."""
        self.evictions += 1
        return super().popitem()

    def unused(self, min_accesses: int) -> list[str]:
        """Return the sessions asked for less often, leaving the order of use as it is."""
        return [each for each in self if Cache.__getitem__(self, each).accesses < min_accesses]


class HeaderCache:
    """Encoded headers by session; `ttl` in seconds, None for no end."""

    def __init__(
        self,
        entries_max: int,
        bytes_max: int,
        ttl: float | None = None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._entries_max, self._ttl = entries_max, ttl
        self._lock = threading.Lock()
        self._entries = _Entries(bytes_max, _end_of_life, timer, _size)
        self._hits = self._misses = self._stale = 0
        self._closed = False

    def get(self, session: str, version: int, erasures: int) -> bytes | None:
        """Return the encoded header if there is one that is true at that version and count."""
        with self._lock:
            entry = self._entries.get(session)
            if entry is not None and (entry.version, entry.erasures) == (version, erasures):
                self._hits += 1
                entry.accesses += 1
                return entry.data
            self._misses += 1
            if entry is not None:
                self._stale += 1
                self._entries.pop(session, None)
            return None

    def put(
        self, session: str, version: int, erasures: int, data: bytes, ttl: float | None = None
    ) -> None:
        """Keep an encoded header for `ttl` seconds, by default the cache's own."""
        with self._lock:
            if self._closed or not self._entries_max or len(data) > HEADER_BYTES_MAX:
                return
            if len(data) > self._entries.maxsize:
                return
            entry = _Entry(version, erasures, data, self._ttl if ttl is None else ttl)
            self._entries[session] = entry
            while len(self._entries) > self._entries_max:
                self._entries.popitem()

    def prune(self, *, bytes: int | None = None, min_accesses: int | None = None) -> int:  # noqa: A002 - the name that users know from their settings
        """Throw out what was seldom asked for, and the least recently used until `bytes` are left.

        `min_accesses` is how often an entry must have been asked for to stay. Returns how many
        entries went. Raises InvalidEvent.
        """
        check_whole(bytes, "bytes", or_none=True)
        check_whole(min_accesses, "min_accesses", or_none=True)
        with self._lock:
            before = len(self._entries)
            for session in self._entries.unused(min_accesses or 0):
                self._entries.pop(session, None)
            while bytes is not None and self._entries.currsize > bytes:
                self._entries.popitem()
            return before - len(self._entries)

    def clear(self) -> None:
        """Throw everything out; the counters stay."""
        with self._lock:
            for session in list(self._entries):
                self._entries.pop(session, None)

    def close(self) -> None:
        """Throw everything out and keep nothing from now on; idempotent."""
        self._closed = True
        self.clear()

    def statistics(self) -> CacheStatistics:
        """Return what the cache holds and did since it was made."""
        with self._lock:
            self._entries.expire()
            return CacheStatistics(
                entries=len(self._entries),
                bytes=int(self._entries.currsize),
                hits=self._hits,
                misses=self._misses,
                stale=self._stale,
                evictions=self._entries.evictions,
            )


def _end_of_life(_: str, entry: _Entry, now: float) -> float:
    return inf if entry.ttl is None else now + entry.ttl


def _size(entry: _Entry) -> int:
    return len(entry.data)
