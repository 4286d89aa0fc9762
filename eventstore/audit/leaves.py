"""The leaves of a log's tree, made again from its frames, and the subtree roots kept beside them.

Invariants: an entry follows from its frame alone, checksums checked; leaves are recomputed by
whole groups of 16, above which roots are kept, and some of these are remembered; what is appended
meanwhile changes nothing that was there.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from ..errors import ProofError
from ..log.base import Log
from ..log.format import OCCURRED, OCCURRED_TIME, SHREDDED
from ..log.frame import Frame
from ..log.lmdb import LmdbLog
from .entry import entry_common, entry_lead, entry_middle
from .tree import KEPT_BITS, Frontier, leaf_hash, root_of

GROUP_LEAVES = 1 << KEPT_BITS

GROUPS_CACHED_MAX = 1_024
"""Groups of leaf hashes that one reader remembers, 512 bytes each."""


class Leaves(Protocol):
    """What proofs are made of: hashes of a tree by level and index."""

    def nodes(self, level: int, start: int, stop: int) -> Sequence[bytes]:
        """Return the roots of the full subtrees `start <= index < stop` of 2**level leaves.

        `level` is a multiple of 4; at 0 these are the leaf hashes themselves.
        """


class LogLeaves:
    """The hashes of a log: subtree roots as they are kept, leaf hashes out of the frames.

    `edge` is the frontier of a log that keeps such roots, None of one that keeps none.
    """

    def __init__(self, log: Log) -> None:
        self._log, self._size = log, log.size()
        self.edge: Frontier | None = None
        if isinstance(log, LmdbLog):
            with log.env.begin() as txn:
                self.edge, _ = log.edge(txn)
            self._size = self.edge.size
        self._group = lru_cache(GROUPS_CACHED_MAX)(self._recomputed)

    def nodes(self, level: int, start: int, stop: int) -> Sequence[bytes]:
        """Return roots of full subtrees; raises Corruption, and ProofError beyond the log."""
        if stop << level > self._size:
            raise ProofError(f"the log has only {self._size} events")
        if not level:
            return self._leaves(start, stop)
        if isinstance(self._log, LmdbLog):
            return self._log.tiles(level, start, stop)
        lower = level - KEPT_BITS
        spans = ((index << KEPT_BITS, index + 1 << KEPT_BITS) for index in range(start, stop))
        return [root_of(self.nodes(lower, *span)) for span in spans]

    def _leaves(self, start: int, stop: int) -> Sequence[bytes]:
        """Return leaf hashes out of as many groups as they are in."""
        found: list[bytes] = []
        for group in range(start >> KEPT_BITS, (stop - 1 >> KEPT_BITS) + 1):
            first = group << KEPT_BITS
            found += self._group(group)[max(start - first, 0) : stop - first]
        return found

    def _recomputed(self, group: int) -> list[bytes]:
        first = group << KEPT_BITS
        made = log_entries(self._log, first, min(first + GROUP_LEAVES, self._size))
        return [leaf_hash(entry) for entry in made]


def log_entries(log: Log, start: int, stop: int) -> list[bytes]:
    """Return the entries at the positions `start <= position < stop`; raises Corruption."""
    made: list[bytes] = []
    while (position := start + len(made)) < stop:
        for frame in log.read_all(position, stop - position):
            made += frame_entries(frame, start + len(made), stop)
    return made


def frame_entries(frame: Frame, start: int = 0, stop: int | None = None) -> list[bytes]:
    """Return the entries of a frame's events at these positions, all by default.

    Raises Corruption where an event's bytes don't match its checksum.
    """
    common = frame_common(frame)
    low = max(start - frame.position, 0)
    high = frame.count if stop is None else min(stop - frame.position, frame.count)
    return [frame_entry(frame, index, common, frame.digests(index)) for index in range(low, high)]


def frame_common(frame: Frame) -> bytes:
    """Return the part of the entries that all events of a frame share."""
    return entry_common(frame.recorded_at, *frame.public_names())


def frame_entry(frame: Frame, index: int, common: bytes, digests: bytes) -> bytes:
    """Return the entry of an event whose bytes were checked, from its head and two digests."""
    _, _, _, code, schema, flags, *_ = frame.row(index)
    occurred = _occurred(frame, index) if flags & OCCURRED else 0
    previous = frame.position + index - 1 if index else frame.previous
    return (
        entry_lead(flags & ~SHREDDED, code, schema, occurred)
        + entry_middle(frame.version + index, previous)
        + common
        + digests
    )


def _occurred(frame: Frame, index: int) -> int:
    """Return the caller's own time, which stands in front of a body that was checked before."""
    bodies = len(frame.raw) - frame.row(frame.count - 1)[0]
    start = frame.row(index - 1)[0] if index else 0
    return int(OCCURRED_TIME.unpack_from(frame.raw, bodies + start)[0])
