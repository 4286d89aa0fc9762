"""Making proofs: from the subtree roots that a log keeps and fewer than 16 leaves beside them.

Invariants: pure over `Leaves`; a subtree's root is computed once and remembered, so many proofs
against one head cost little more than one; nothing made here is trusted: whoever hands a proof
out checks it first, as a stranger would.
"""

from collections.abc import Iterator
from typing import Self

from ..errors import ProofError
from ..log.base import Log
from .leaves import Leaves, LogLeaves
from .tree import EMPTY_ROOT, KEPT_BITS, Frontier, node_hash

ROOTS_CACHED_MAX = 65_536
"""Roots of subtrees that one prover remembers, about 200 bytes each."""

Subtree = tuple[int, int]
"""Leaves `low <= index < high` under one node of a tree."""


class Prover:
    """Makes roots and proofs of the trees over the first leaves of a source."""

    def __init__(self, leaves: Leaves) -> None:
        self._leaves = leaves
        self._roots: dict[Subtree, bytes] = {}

    @classmethod
    def of(cls, log: Log) -> Self:
        """Return a prover over a log as it stands."""
        leaves = LogLeaves(log)
        prover = cls(leaves)
        if leaves.edge is not None:
            prover.learn(leaves.edge)
        return prover

    def learn(self, edge: Frontier) -> None:
        """Take over the roots along the right edge of a tree: they need no leaves any more."""
        low = high = edge.size
        root = b""
        for node in reversed(edge.nodes):
            low, middle = low & low - 1, low  # the lowest bit of the size is its smallest subtree
            root = node_hash(node, root) if root else node
            self._roots[low, middle], self._roots[low, high] = node, root

    def root(self, size: int) -> bytes:
        """Return the root over the first `size` leaves."""
        return self._root((0, size)) if size else EMPTY_ROOT

    def frontier(self, size: int) -> Frontier:
        """Return the right edge of the tree over the first `size` leaves."""
        nodes, low = [], 0
        for bit in reversed(range(size.bit_length())):
            if size >> bit & 1:
                nodes.append(self._root((low, low + (1 << bit))))
                low += 1 << bit
        return Frontier(size, nodes)

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Return the proof of the leaf at `index` in the tree of `size` leaves (RFC 6962, 2.1.1).

        Raises ProofError where there is no such leaf.
        """
        if not 0 <= index < size:
            raise ProofError(f"there is no event {index} among the first {size}")
        return [self._root(subtree) for subtree in _path(index, size)]

    def consistency(self, old_size: int, new_size: int) -> list[bytes]:
        """Return the proof that one tree begins with the other (RFC 6962, 2.1.2).

        Raises ProofError unless 0 < old_size <= new_size.
        """
        if not 0 < old_size <= new_size:
            raise ProofError(f"no proof leads from {old_size} events to {new_size}")
        return [self._root(subtree) for subtree in _seam(old_size, new_size)]

    def _root(self, subtree: Subtree) -> bytes:
        found = self._roots.get(subtree)
        if found is None:
            found = self._computed(*subtree)
            if len(self._roots) >= ROOTS_CACHED_MAX:
                self._roots.clear()
            self._roots[subtree] = found
        return found

    def _computed(self, low: int, high: int) -> bytes:
        """Return the root over a subtree: kept subtrees as large as fit, and what is left over."""
        level = (high - low).bit_length() - 1 & -KEPT_BITS
        frontier = Frontier()
        frontier.extend(self._leaves.nodes(level, low >> level, high >> level))
        rest = high >> level << level
        if rest == high:
            return frontier.root()
        root = self._root((rest, high))
        for left in reversed(frontier.nodes):
            root = node_hash(left, root)
        return root


def _halves(low: int, high: int) -> tuple[Subtree, Subtree]:
    """Return the two children of a node: the left one is the largest full subtree that fits."""
    middle = low + (1 << (high - low - 1).bit_length() - 1)
    return (low, middle), (middle, high)


def _path(index: int, size: int) -> Iterator[Subtree]:
    """Iterate over the siblings of the nodes from a leaf up to the root."""
    siblings, subtree = [], (0, size)
    while subtree[1] - subtree[0] > 1:
        left, right = _halves(*subtree)
        subtree, sibling = (left, right) if index < left[1] else (right, left)
        siblings.append(sibling)
    return reversed(siblings)


def _seam(old_size: int, new_size: int) -> Iterator[Subtree]:
    """Iterate over the nodes, bottom up, that both trees can be put together from."""
    nodes, subtree = [], (0, new_size)
    while old_size < subtree[1]:
        left, right = _halves(*subtree)
        subtree, sibling = (left, right) if old_size <= left[1] else (right, left)
        nodes.append(sibling)
    if subtree[0]:
        nodes.append(subtree)  # else it is the old tree itself, which the verifier knows
    return reversed(nodes)
