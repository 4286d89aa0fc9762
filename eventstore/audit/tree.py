"""The Merkle tree over all entries, RFC 6962 over SHA-256 and nothing of our own.

Invariants: leaf hash = SHA-256(0x00 || entry), node = SHA-256(0x01 || left || right), the
root of nothing = SHA-256(""). A frontier is the list of roots of the perfect subtrees that
make up a tree of `size` leaves, largest first: one hash per set bit of `size`.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256

HASH_BYTES = 32
TILE_BITS = 8
"""A tile spans 2**8 nodes of a level, as in C2SP's tlog-tiles."""

EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of one entry as a leaf (RFC 6962, 2.1)."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node (RFC 6962, 2.1)."""
    return sha256(b"\x01" + left + right).digest()


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
        """Add leaf hashes; return (level, index, root) of each tile they completed.

        A node is made for every level that becomes complete: one per leaf on average.
        """
        nodes, tiles = self.nodes, []
        for leaf in leaves:
            node, index, level = leaf, self.size, 0
            while index & 1:
                node = sha256(b"\x01" + nodes.pop() + node).digest()
                index >>= 1
                level += 1
                if not level % TILE_BITS:
                    tiles.append((level, index, node))
            nodes.append(node)
            self.size += 1
        return tiles

    def root(self) -> bytes:
        """Return the root of the tree as it stands (RFC 6962, 2.1)."""
        if not self.nodes:
            return EMPTY_ROOT
        nodes = iter(reversed(self.nodes))
        root = next(nodes)
        for left in nodes:
            root = sha256(b"\x01" + left + root).digest()
        return root
