"""The Merkle tree over all entries, RFC 6962 over SHA-256 and nothing of our own.

Invariants: leaf hash = SHA-256(0x00 || entry), node = SHA-256(0x01 || left || right), the
root of nothing = SHA-256(""). A frontier is the list of roots of the perfect subtrees that
make up a tree of `size` leaves, largest first: one hash per set bit of `size`. A proof is
accepted only whole: every hash of it is used, and whatever is malformed is a ProofError.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256

from ..errors import ProofError

HASH_BYTES = 32
SIZE_MAX = (1 << 63) - 1
"""Leaves that a tree can have for all who check it: Go counts them in an int64."""

TILE_BITS = 8
"""A tile spans 2**8 nodes of a level, as in C2SP's tlog-tiles."""

KEPT_BITS = 4
"""A log keeps the roots of full subtrees on every fourth level: 3 bytes an event, for which a proof
hashes at most 16 leaves instead of the 256 of a tile."""

LEAF, NODE = b"\x00", b"\x01"
"""What stands in front of an entry, and of two hashes, when they are hashed."""

EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of one entry as a leaf (RFC 6962, 2.1)."""
    return sha256(LEAF + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node (RFC 6962, 2.1)."""
    return sha256(NODE + left + right).digest()


def root_of(leaf_hashes: Sequence[bytes]) -> bytes:
    """Return the root over these leaf hashes, in order."""
    frontier = Frontier()
    frontier.extend(leaf_hashes)
    return frontier.root()


class Frontier:
    """The right edge of the tree: enough to append leaves and to name the root."""

    __slots__ = ("nodes", "size")

    def __init__(self, size: int = 0, nodes: Iterable[bytes] = ()) -> None:
        self.size, self.nodes = size, list(nodes)
        assert len(self.nodes) == size.bit_count(), "one node per set bit of the size"

    def extend(self, leaves: Iterable[bytes]) -> list[tuple[int, int, bytes]]:
        """Add leaf hashes; return (level, index, root) of each subtree completed that is kept.

        A node is made for every level that becomes complete: one per leaf on average.
        """
        nodes, kept = self.nodes, []
        for leaf in leaves:
            node, index, level = leaf, self.size, 0
            while index & 1:
                node = sha256(NODE + nodes.pop() + node).digest()
                index >>= 1
                level += 1
                if not level % KEPT_BITS:
                    kept.append((level, index, node))
            nodes.append(node)
            self.size += 1
        return kept

    def join(self, level: int, node: bytes) -> list[tuple[int, int, bytes]]:
        """Add a full subtree of 2**level leaves behind as many full ones; returns as extend()."""
        index, kept = self.size >> level, []
        assert index << level == self.size, "a subtree begins at a multiple of its leaves"
        self.size += 1 << level
        while index & 1:
            node = sha256(NODE + self.nodes.pop() + node).digest()
            index, level = index >> 1, level + 1
            if not level % KEPT_BITS:
                kept.append((level, index, node))
        self.nodes.append(node)
        return kept

    def root(self) -> bytes:
        """Return the root of the tree as it stands (RFC 6962, 2.1)."""
        if not self.nodes:
            return EMPTY_ROOT
        nodes = iter(reversed(self.nodes))
        root = next(nodes)
        for left in nodes:
            root = sha256(NODE + left + root).digest()
        return root


def verify_inclusion(
    leaf_hash: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that the leaf at `index` is in the tree of `size` leaves (RFC 9162, 2.1.3.2).

    `proof` lists 32-byte hashes from the leaf's sibling upwards. Raises ProofError.
    """
    _check_hashes(proof, leaf_hash, root)
    _check_sizes(index, size)
    if index >= size:
        raise ProofError(f"leaf {index} can't be in a tree of {size} leaves")
    here, last, node = index, size - 1, leaf_hash
    for sibling in proof:
        _check_unfinished(last)
        if here & 1 or here == last:
            node = node_hash(sibling, node)
            here, last = _climbed(here, last)
        else:
            node = node_hash(node, sibling)
        here, last = here >> 1, last >> 1
    _check_finished(last)
    _check_root(node, root, size)


def verify_consistency(
    old_size: int, new_size: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes
) -> None:
    """Check that the first tree is the beginning of the second (RFC 9162, 2.1.4.2).

    Raises ProofError, also for an old tree without leaves: every tree begins with nothing, so
    that would accept any root.
    """
    _check_hashes(proof, old_root, new_root)
    _check_sizes(old_size, new_size)
    if not 0 < old_size <= new_size:
        raise ProofError(f"no proof leads from {old_size} leaves to {new_size}")
    if old_size == new_size:
        _check_same(proof, old_root, new_root, old_size)
        return
    here, last = old_size - 1, new_size - 1
    while here & 1:
        here, last = here >> 1, last >> 1
    # A perfect old tree is a node of the new one: its root is where the path begins.
    path = list(proof) if here else [old_root, *proof]
    if not path:
        raise ProofError("the proof is too short")
    old = new = path[0]
    for hash_ in path[1:]:
        _check_unfinished(last)
        if here & 1 or here == last:
            old, new = node_hash(hash_, old), node_hash(hash_, new)
            here, last = _climbed(here, last)
        else:
            new = node_hash(new, hash_)
        here, last = here >> 1, last >> 1
    _check_finished(last)
    _check_root(old, old_root, old_size)
    _check_root(new, new_root, new_size)


def _climbed(here: int, last: int) -> tuple[int, int]:
    """Return both indexes at the level where `here` is a right child; a lone node only moves up."""
    while here and not here & 1:
        here, last = here >> 1, last >> 1
    return here, last


def _check_hashes(proof: object, *hashes: object) -> None:
    if not isinstance(proof, (list, tuple)):
        raise ProofError(f"a proof is a list of hashes, not {type(proof).__name__}")
    for each in (*proof, *hashes):
        if type(each) is not bytes or len(each) != HASH_BYTES:
            raise ProofError(f"a hash has {HASH_BYTES} bytes")


def _check_sizes(*sizes: object) -> None:
    for size in sizes:
        if type(size) is not int or not 0 <= size <= SIZE_MAX:
            raise ProofError("an index or size is an integer from 0 to 2**63 - 1")


def _check_unfinished(last: int) -> None:
    if not last:
        raise ProofError("the proof is too long")


def _check_finished(last: int) -> None:
    if last:
        raise ProofError("the proof is too short")


def _check_same(proof: Sequence[bytes], old_root: bytes, new_root: bytes, size: int) -> None:
    """Check the proof between a tree and itself: it is empty."""
    if proof:
        raise ProofError("the proof is too long")
    _check_root(old_root, new_root, size)


def _check_root(found: bytes, root: bytes, size: int) -> None:
    if found != root:
        raise ProofError(f"the proof leads to another root than that of the {size} leaves")
