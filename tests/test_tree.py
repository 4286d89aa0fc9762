"""The Merkle tree against RFC 6962 written down naively, and the entry against its drawing."""

import struct
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import CT_LEAVES, CT_ROOTS

from eventstore import EventStore
from eventstore.audit import entry, tree
from eventstore.audit.tree import EMPTY_ROOT, Frontier, leaf_hash, node_hash, root_of
from eventstore.log.format import TYPES
from eventstore.log.recorded import Recorded

SIZE_MAX = 300
LARGE = (1 << 16) + (1 << 8) + 3


def naive_root(leaves: list[bytes]) -> bytes:
    """Return the Merkle tree hash exactly as RFC 6962, 2.1 defines it."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    left, right = naive_root(leaves[:split]), naive_root(leaves[split:])
    return sha256(b"\x01" + left + right).digest()


def leaves_of(count: int) -> list[bytes]:
    """Return that many different leaf hashes."""
    return [leaf_hash(number.to_bytes(4, "big")) for number in range(count)]


def test_leaf_and_node_are_rfc_6962s():
    """A leaf hashes 0x00 and the entry, a node 0x01 and its children, nothing an empty string."""
    assert leaf_hash(b"entry") == sha256(b"\x00entry").digest()
    assert node_hash(b"l" * 32, b"r" * 32) == sha256(b"\x01" + b"l" * 32 + b"r" * 32).digest()
    assert EMPTY_ROOT == Frontier().root() == sha256(b"").digest()


def test_the_known_roots_of_certificate_transparency():
    """The reference vectors of Google's Certificate Transparency come out, size by size."""
    frontier = Frontier()
    for leaf, root in zip(CT_LEAVES, CT_ROOTS, strict=True):
        frontier.extend([leaf_hash(leaf)])
        assert frontier.root().hex() == root


def test_every_size_has_the_naive_root():
    """Leaf by leaf, the frontier's root is the recursive definition's, up to 300 leaves."""
    leaves, frontier = leaves_of(SIZE_MAX), Frontier()
    for size in range(SIZE_MAX + 1):
        assert frontier.size == size
        assert frontier.root() == naive_root(leaves[:size]) == root_of(leaves[:size])
        frontier.extend(leaves[size : size + 1])


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=600), st.data())
def test_leaves_may_come_in_any_portions(leaves: list[bytes], data: st.DataObject):
    """Batches, and a frontier that was written down between them, change nothing."""
    frontier, taken = Frontier(), 0
    while taken < len(leaves):
        portion = data.draw(st.integers(1, len(leaves) - taken))
        frontier = Frontier(frontier.size, list(frontier.nodes))
        frontier.extend(leaves[taken : taken + portion])
        taken += portion
    assert (frontier.size, frontier.root()) == (len(leaves), naive_root(leaves))


def test_the_frontier_holds_one_perfect_subtree_for_each_set_bit():
    """The nodes are the roots of the perfect subtrees, largest first."""
    leaves = leaves_of(SIZE_MAX)
    for size in (1, 2, 3, 170, 255, 256, 299):
        nodes, start = [], 0
        for bit in reversed(range(size.bit_length())):
            if size >> bit & 1:
                nodes.append(naive_root(leaves[start : start + (1 << bit)]))
                start += 1 << bit
        frontier = Frontier()
        frontier.extend(leaves[:size])
        assert frontier.nodes == nodes


def test_a_frontier_of_the_wrong_length_is_a_bug():
    """A frontier can't be made with more or fewer nodes than its size has bits."""
    with pytest.raises(AssertionError):
        Frontier(3, [b"\x00" * 32])


def test_kept_roots_are_those_of_their_subtrees():
    """Past 65,536 leaves, each full subtree of levels 4, 8, 12 and 16 is told once, and right."""
    leaves = [number.to_bytes(32, "big") for number in range(LARGE)]
    frontier = Frontier()
    kept = frontier.extend(leaves[:70]) + frontier.extend(leaves[70:65_000])
    kept += frontier.extend(leaves[65_000:])
    found = {(level, index): node for level, index, node in kept}
    assert len(found) == len(kept)
    levels = (4, 8, 12, 16)
    assert set(found) == {(level, index) for level in levels for index in range(LARGE >> level)}
    for (level, index), node in found.items():
        if level == 4:
            assert node == naive_root(leaves[index << 4 : (index + 1) << 4])
        else:
            below = [found[level - 4, (index << 4) + each] for each in range(16)]
            assert node == naive_root(below)
    assert found[16, 0] == frontier.nodes[0]


# -- entries ---------------------------------------------------------------------------------


def by_hand(recorded: Recorded, previous: int) -> bytes:
    """Return an entry built from docs/format.md alone: byte offsets and plain SHA-256."""
    row, salt, payload = recorded.frame.opened(recorded.index)

    def name(text: str | None) -> bytes:
        tagged = b"eventstore/name/1\x00" + (text or "").encode()
        return sha256(tagged).digest() if text else bytes(32)

    made = bytearray(232)
    made[0], made[1] = 1, row[5]
    struct.pack_into(">HH", made, 2, row[3], row[4])
    struct.pack_into(">q", made, 8, recorded.occurred_at or 0)
    struct.pack_into(">QQ", made, 16, recorded.version, previous + 1)
    struct.pack_into(">Q", made, 32, recorded.recorded_at)
    session = b"eventstore/session/1\x00" + recorded.session.encode()
    made[40:72] = sha256(session).digest()
    made[72:104] = name(recorded.actor)
    made[104:136] = name(recorded.correlation_id)
    made[136:168] = name(recorded.causation_id)
    made[168:200] = sha256(b"eventstore/payload/1\x00" + salt + payload).digest()
    return bytes(made)


def test_entries_are_as_drawn(store: EventStore):
    """A head's root follows from entries that are computed by hand, byte by byte."""
    store.create("a", actor="user:7")
    lines = [{"role": "user", "content": f"line {number}"} for number in range(40)]
    store.append("a", lines, occurred_at=-5, correlation_id="trace", causation_id="cause", key="k")
    store.branch("a", "b", at=3, actor="user:8")
    store.append("b", {"role": "user", "content": "x" * 5_000})
    store.merge("b", into="a")
    leaves: list[bytes] = []
    newest: dict[str, int] = {}
    for recorded in store.all():
        made = by_hand(recorded, newest.get(recorded.session, -1))
        assert TYPES[struct.unpack_from(">H", made, 2)[0]].__name__ == recorded.type
        leaves.append(sha256(b"\x00" + made).digest())
        newest[recorded.session] = recorded.position
    assert len(leaves) == store.head().size == 45
    assert naive_root(leaves) == store.head().root


def test_the_parts_of_an_entry_make_232_bytes():
    """The four parts stand side by side and fill the drawing exactly."""
    parts = (
        entry.entry_lead(1, 2, 1, -(1 << 63)),
        entry.entry_middle((1 << 32) - 1, -1),
        entry.entry_common((1 << 63) - 1, "s", None, "c", None),
        entry.entry_digests(b"p" * 32),
    )
    assert [len(part) for part in parts] == [16, 16, 136, 64]
    assert len(b"".join(parts)) == entry.ENTRY_BYTES == 232
    assert parts[3] == b"p" * 32 + bytes(32)


@given(st.binary(min_size=16, max_size=16), st.binary(max_size=200))
def test_a_commitment_binds_salt_and_payload(salt: bytes, payload: bytes):
    """It is the tagged SHA-256 of both, and another salt or payload gives another one."""
    made = entry.payload_commitment(salt, payload)
    assert made == sha256(b"eventstore/payload/1\x00" + salt + payload).digest()
    assert made != entry.payload_commitment(salt, payload + b"\x00")
    assert made != entry.payload_commitment(bytes(each ^ 1 for each in salt), payload)


def test_a_session_and_a_name_never_share_a_digest():
    """The same text as a session and as an actor stands for two different digests."""
    assert entry.session_digest("x") != entry.name_digest("x") != tree.EMPTY_ROOT
    assert entry.name_digest(None) == bytes(32)
