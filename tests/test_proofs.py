"""Proofs: every one of every size holds, nothing else does, and logs make the same ones."""

import random
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import CT_LEAVES, CT_ROOTS

from eventstore import Corruption, EventStore, ProofError
from eventstore.audit.leaves import LogLeaves, frame_entries, log_entries
from eventstore.audit.proof import Prover
from eventstore.audit.tree import (
    EMPTY_ROOT,
    Frontier,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from eventstore.log.rows import tile_key

SIZES = 300


class Listed:
    """Leaves in a list; counts how many are asked for."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.leaves, self.asked = leaves, 0

    def nodes(self, level: int, start: int, stop: int) -> list[bytes]:
        if level:
            return [root_of(self.leaves[i << level : i + 1 << level]) for i in range(start, stop)]
        self.asked += stop - start
        return self.leaves[start:stop]


LEAVES = [leaf_hash(b"%d" % index) for index in range(SIZES)]
PROVER = Prover(Listed(LEAVES))
ROOTS = [root_of(LEAVES[:size]) for size in range(SIZES + 1)]


def mth(leaves: list[bytes]) -> bytes:
    """Return the root as RFC 6962, 2.1 defines it."""
    if len(leaves) <= 1:
        return leaves[0] if leaves else sha256(b"").digest()
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(mth(leaves[:k]), mth(leaves[k:]))


def path(index: int, leaves: list[bytes]) -> list[bytes]:
    """Return the proof as RFC 6962, 2.1.1 defines it."""
    if len(leaves) == 1:
        return []
    k = 1 << (len(leaves) - 1).bit_length() - 1
    if index < k:
        return [*path(index, leaves[:k]), mth(leaves[k:])]
    return [*path(index - k, leaves[k:]), mth(leaves[:k])]


def subproof(old: int, leaves: list[bytes], *, whole: bool = True) -> list[bytes]:
    """Return the proof as RFC 6962, 2.1.2 defines it."""
    if old == len(leaves):
        return [] if whole else [mth(leaves)]
    k = 1 << (len(leaves) - 1).bit_length() - 1
    if old <= k:
        return [*subproof(old, leaves[:k], whole=whole), mth(leaves[k:])]
    return [*subproof(old - k, leaves[k:], whole=False), mth(leaves[:k])]


def flips(value: bytes) -> list[bytes]:
    """Return a value with each of its bits changed."""
    number = int.from_bytes(value, "big")
    return [(number ^ 1 << bit).to_bytes(len(value), "big") for bit in range(8 * len(value))]


def flipped(value: bytes, noise: random.Random) -> bytes:
    """Return a value with one bit changed."""
    return noise.choice(flips(value))


# -- vectors ---------------------------------------------------------------------------------


def test_the_roots_of_certificate_transparency():
    """The eight trees that Certificate Transparency publishes have the published roots."""
    hashes = [leaf_hash(leaf) for leaf in CT_LEAVES]
    for size, root in enumerate(CT_ROOTS, 1):
        assert root_of(hashes[:size]).hex() == root
        assert Prover(Listed(hashes)).root(size).hex() == root


def test_the_examples_of_rfc_6962():
    """The seven-leaf tree of RFC 6962, 2.1.3 has the proofs that are drawn there."""
    d = [leaf_hash(b"d%d" % index) for index in range(7)]
    a, b, c, e, f, j = *d[:4], *d[4:6]
    g, h, i = node_hash(a, b), node_hash(c, e), node_hash(f, j)
    k, l_ = node_hash(g, h), node_hash(i, d[6])
    prover = Prover(Listed(d))
    assert prover.root(7) == node_hash(k, l_)
    assert prover.inclusion(0, 7) == [b, h, l_]
    assert prover.inclusion(3, 7) == [c, g, l_]
    assert prover.inclusion(4, 7) == [j, d[6], k]
    assert prover.inclusion(6, 7) == [i, k]
    assert prover.consistency(3, 7) == [c, e, g, l_]
    assert prover.consistency(4, 7) == [l_]
    assert prover.consistency(6, 7) == [i, d[6], k]


@given(st.lists(st.binary(max_size=3), min_size=1, max_size=600), st.data())
def test_proofs_are_those_of_the_definitions(entries, data):
    """Roots and proofs are what the recursive definitions of RFC 6962 say."""
    leaves = [leaf_hash(entry) for entry in entries]
    prover, size = Prover(Listed(leaves)), len(leaves)
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(1, size))
    assert prover.root(size) == mth(leaves)
    assert prover.inclusion(index, size) == path(index, leaves)
    assert prover.consistency(old, size) == subproof(old, leaves)


def test_an_independent_library_agrees():
    """pymerkle, where it is installed, has the same roots and proofs of inclusion."""
    pymerkle = pytest.importorskip("pymerkle")
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for index in range(SIZES):
        tree.append_entry(b"%d" % index)
    for size in range(1, SIZES + 1):
        assert tree.get_root(size) == ROOTS[size]
    noise = random.Random(11)
    for _ in range(500):
        size = noise.randint(1, SIZES)
        index, old = noise.randrange(size), noise.randint(1, size)
        theirs = tree.prove_inclusion(index + 1, size)
        assert theirs.path == [LEAVES[index], *PROVER.inclusion(index, size)]
        pymerkle.verify_inclusion(LEAVES[index], ROOTS[size], theirs)
        theirs = tree.prove_consistency(old, size)
        pymerkle.verify_consistency(ROOTS[old], ROOTS[size], theirs)  # its own way from a to b


# -- every proof, and nothing but ------------------------------------------------------------


def test_every_inclusion_proof_holds():
    """Every leaf of every tree up to 300 leaves is proven, and by no other leaf's proof."""
    for size in range(1, SIZES + 1):
        for index in range(size):
            proof = PROVER.inclusion(index, size)
            verify_inclusion(LEAVES[index], index, size, proof, ROOTS[size])
        if size > 1:
            with pytest.raises(ProofError):
                verify_inclusion(LEAVES[0], 1, size, PROVER.inclusion(0, size), ROOTS[size])


def test_every_consistency_proof_holds():
    """Every pair of trees up to 300 leaves is proven to be one history."""
    for new in range(1, SIZES + 1):
        for old in range(1, new + 1):
            verify_consistency(old, new, PROVER.consistency(old, new), ROOTS[old], ROOTS[new])


def reject_changes(size: int, index: int, change) -> None:
    """Check that no hash of an inclusion proof, its leaf or root can be changed."""
    proof, leaf, root = PROVER.inclusion(index, size), LEAVES[index], ROOTS[size]
    for other in change(leaf):
        with pytest.raises(ProofError):
            verify_inclusion(other, index, size, proof, root)
    for other in change(root):
        with pytest.raises(ProofError):
            verify_inclusion(leaf, index, size, proof, other)
    for at, hash_ in enumerate(proof):
        for other in change(hash_):
            with pytest.raises(ProofError):
                verify_inclusion(leaf, index, size, [*proof[:at], other, *proof[at + 1 :]], root)


def reject_other_pasts(old: int, new: int, change) -> None:
    """Check that no hash of a consistency proof, neither root, can be changed."""
    proof, was, now = PROVER.consistency(old, new), ROOTS[old], ROOTS[new]
    for other in change(was):
        with pytest.raises(ProofError):
            verify_consistency(old, new, proof, other, now)
    for other in change(now):
        with pytest.raises(ProofError):
            verify_consistency(old, new, proof, was, other)
    for at, hash_ in enumerate(proof):
        for other in change(hash_):
            with pytest.raises(ProofError):
                verify_consistency(old, new, [*proof[:at], other, *proof[at + 1 :]], was, now)


@pytest.mark.parametrize("size", range(1, 10))
def test_every_changed_bit_is_rejected(size):
    """In small trees, each single bit of each proof, leaf and root matters."""
    for index in range(size):
        reject_changes(size, index, flips)
    for old in range(1, size + 1):
        reject_other_pasts(old, size, flips)


def test_changed_bits_are_rejected_in_larger_trees():
    """In trees up to 300 leaves, a random bit of every hash of random proofs matters."""
    noise = random.Random(7)
    for _ in range(400):
        size = noise.randint(10, SIZES)
        reject_changes(size, noise.randrange(size), lambda hash_: [flipped(hash_, noise)])
        reject_other_pasts(noise.randint(1, size), size, lambda hash_: [flipped(hash_, noise)])


@pytest.mark.long
def test_a_bit_of_every_hash_of_every_proof_is_rejected():
    """In every proof of every tree up to 300 leaves, a bit of each hash is changed."""
    noise = random.Random(8)
    for size in range(1, SIZES + 1):
        for index in range(size):
            reject_changes(size, index, lambda hash_: [flipped(hash_, noise)])
            reject_other_pasts(index + 1, size, lambda hash_: [flipped(hash_, noise)])


def test_another_length_is_rejected():
    """A proof with a hash left over, missing, doubled or in another order proves nothing."""
    noise = random.Random(9)
    for _ in range(300):
        size = noise.randint(2, SIZES)
        index, old = noise.randrange(size), noise.randint(1, size)
        good = PROVER.inclusion(index, size)
        seam = PROVER.consistency(old, size)
        for proof in ([*good, LEAVES[0]], good[1:], good[:-1], good[:1] + good, good[::-1]):
            if proof != good:
                with pytest.raises(ProofError):
                    verify_inclusion(LEAVES[index], index, size, proof, ROOTS[size])
        for proof in ([*seam, LEAVES[0]], seam[1:], seam[:-1], seam[:1] + seam, seam[::-1]):
            if proof != seam:
                with pytest.raises(ProofError):
                    verify_consistency(old, size, proof, ROOTS[old], ROOTS[size])


MALFORMED = [
    ((LEAVES[0], 0, 0, [], EMPTY_ROOT), "no leaf in an empty tree"),
    ((LEAVES[0], 3, 3, PROVER.inclusion(2, 3), ROOTS[3]), "an index behind the end"),
    ((LEAVES[0], -1, 3, PROVER.inclusion(2, 3), ROOTS[3]), "a negative index"),
    ((LEAVES[0], 0, -3, [], ROOTS[3]), "a negative size"),
    ((LEAVES[0], 0.0, 1, [], ROOTS[1]), "a float"),
    ((LEAVES[0], False, 1, [], ROOTS[1]), "a boolean"),
    ((LEAVES[0], "0", 1, [], ROOTS[1]), "a string"),
    ((LEAVES[0], None, 1, [], ROOTS[1]), "nothing"),
    ((LEAVES[0], 0, 10**5_000, [], ROOTS[1]), "a size that can't be printed"),
    ((LEAVES[0][1:], 0, 1, [], LEAVES[0][1:]), "a short leaf"),
    ((LEAVES[0] + b"x", 0, 1, [], LEAVES[0] + b"x"), "a long leaf"),
    ((LEAVES[0].hex(), 0, 1, [], LEAVES[0].hex()), "hexadecimal"),
    ((bytearray(LEAVES[0]), 0, 1, [], LEAVES[0]), "bytes that may change"),
    ((LEAVES[0], 0, 2, [LEAVES[1][:31]], ROOTS[2]), "a short hash"),
    ((LEAVES[0], 0, 2, [b""], ROOTS[2]), "an empty hash"),
    ((LEAVES[0], 0, 2, LEAVES[1], ROOTS[2]), "a hash instead of a list"),
    ((LEAVES[0], 0, 2, None, ROOTS[2]), "no list"),
    ((LEAVES[0], 0, 1, [], None), "no root"),
]


@pytest.mark.parametrize(("given_", "what"), MALFORMED, ids=[each[1] for each in MALFORMED])
def test_malformed_input_is_a_proof_error(given_, what):
    """Whatever is no proof raises ProofError, whoever sends it."""
    with pytest.raises(ProofError):
        verify_inclusion(*given_)


@pytest.mark.parametrize(
    "given_",
    [
        (0, 0, [], EMPTY_ROOT, EMPTY_ROOT),
        (0, 5, [], EMPTY_ROOT, ROOTS[5]),
        (5, 4, PROVER.consistency(4, 5), ROOTS[5], ROOTS[4]),
        (5, 5, [LEAVES[0]], ROOTS[5], ROOTS[5]),
        (5, 5, [], ROOTS[5], ROOTS[4]),
        (-1, 5, [], ROOTS[5], ROOTS[5]),
        (True, 5, PROVER.consistency(1, 5), ROOTS[1], ROOTS[5]),
        (1, 5, [], ROOTS[1], ROOTS[5]),
        (3, 5, [], ROOTS[3], ROOTS[5]),
        (3, 5, [b"short"], ROOTS[3], ROOTS[5]),
        (3, 5, iter(PROVER.consistency(3, 5)), ROOTS[3], ROOTS[5]),
        (3, 10**5_000, PROVER.consistency(3, 5), ROOTS[3], ROOTS[5]),
    ],
)
def test_malformed_consistency_is_a_proof_error(given_):
    """A proof from nothing, backwards, of the wrong length or type raises ProofError."""
    with pytest.raises(ProofError):
        verify_consistency(*given_)


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=40),
)
HASHES = st.lists(st.one_of(st.binary(min_size=32, max_size=32), ANYTHING), max_size=5)


@given(ANYTHING, ANYTHING, ANYTHING, st.one_of(HASHES, ANYTHING), ANYTHING)
def test_no_input_raises_anything_else(leaf, index, size, proof, root):
    """Random input to both verifiers ends in ProofError, never in another exception."""
    with pytest.raises(ProofError):
        verify_inclusion(leaf, index, size, proof, root)
    with pytest.raises(ProofError):
        verify_consistency(index, size, proof, leaf, root)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (3, 3), (-1, 3)])
def test_no_proof_of_what_is_not_there(index, size):
    """A prover refuses an index that its tree doesn't have."""
    with pytest.raises(ProofError, match="no event"):
        PROVER.inclusion(index, size)


@pytest.mark.parametrize(("old", "new"), [(0, 0), (0, 3), (4, 3), (-1, 3)])
def test_no_proof_from_nothing_or_backwards(old, new):
    """A prover refuses sizes between which nothing can be proven."""
    with pytest.raises(ProofError, match="no proof leads"):
        PROVER.consistency(old, new)


# -- out of a log ----------------------------------------------------------------------------


def fill(store: EventStore) -> None:
    """Append 700 events of a few sessions: single ones, long appends, one with its own time."""
    store.create("a", actor="user:1")
    store.create("b")
    store.append("a", [{"role": "user", "content": f"line {n}"} for n in range(300)], actor="u")
    for number in range(90):
        store.append(
            "ab"[number % 2], {"role": "user", "content": f"line {number}"}, key=f"{number}"
        )
    store.append("b", {"role": "user", "content": "then"}, occurred_at=1_600_000_000_000_000_000)
    store.append("b", [{"content": "x" * number} for number in range(307)], correlation_id="trace")


def test_a_log_gives_its_leaves_again(store):
    """Entries recomputed from frames hash to the root that commits maintained."""
    fill(store)
    head = store.head()
    assert head.size == 700
    entries = log_entries(store.log, 0, head.size)
    assert root_of([leaf_hash(entry) for entry in entries]) == head.root
    assert log_entries(store.log, 299, 305) == entries[299:305]
    frame = store.log.read_all(10)[0]
    assert frame_entries(frame, 20, 30) == entries[20:30]
    assert frame_entries(frame) == entries[2:302]


def test_a_log_proves_all_its_events(store):
    """Tile roots and recomputed leaves make every proof, at the newest and at earlier heads."""
    fill(store)
    head = store.head()
    leaves = [leaf_hash(entry) for entry in log_entries(store.log, 0, head.size)]
    prover = Prover.of(store.log)
    for size in (1, 255, 256, 257, 511, 512, 513, 699, 700):
        root = prover.root(size)
        assert root == root_of(leaves[:size])
        for index in {0, 1, 254, 255, 256, 511, 512, size // 2, size - 1}:
            if index < size:
                verify_inclusion(leaves[index], index, size, prover.inclusion(index, size), root)
        verify_consistency(size, 700, prover.consistency(size, 700), root, head.root)
    with pytest.raises(ProofError, match="only 700 events"):
        prover.inclusion(0, 701)


def test_what_is_appended_meanwhile_changes_no_proof(disk):
    """A prover made before an append goes on proving the tree it was made for."""
    fill(disk)
    head, prover = disk.head(), Prover.of(disk.log)
    disk.append("a", [{"content": "later"}] * 600)
    leaf = leaf_hash(log_entries(disk.log, 3, 4)[0])
    verify_inclusion(leaf, 3, head.size, prover.inclusion(3, head.size), head.root)
    proof = Prover.of(disk.log).consistency(head.size, 1_300)
    verify_consistency(head.size, 1_300, proof, head.root, disk.head().root)


def test_a_proof_recomputes_sixteen_leaves(tmp_path):
    """With the roots that are kept, a proof in 70,000 events hashes 16 leaves anew."""
    with EventStore.open(tmp_path / "history") as store:
        store.create("a")
        for _ in range(7):
            store.append("a", [{"content": "x"}] * 10_000)
        head, leaves = store.head(), LogLeaves(store.log)
        counted = Listed([])
        counted.nodes = lambda *span: count(counted, leaves, *span)
        prover = Prover(counted)
        prover.learn(leaves.edge)
        for index in (0, 65_535, 65_536, 40_000, head.size - 1):
            counted.asked = 0
            proof = prover.inclusion(index, head.size)
            assert counted.asked <= 16
            leaf = leaf_hash(log_entries(store.log, index, index + 1)[0])
            verify_inclusion(leaf, index, head.size, proof, head.root)
        seam = prover.consistency(65_537, head.size)
        verify_consistency(65_537, head.size, seam, prover.root(65_537), head.root)


def count(counted: Listed, leaves: LogLeaves, level: int, start: int, stop: int) -> list[bytes]:
    """Pass nodes on and count the leaves among them."""
    counted.asked += 0 if level else stop - start
    return list(leaves.nodes(level, start, stop))


def test_a_frontier_saves_the_right_edge():
    """A prover that learnt a tree's edge gives the same proofs without asking for its leaves."""
    noise = random.Random(3)
    for size in [1, 2, 3, 255, 256, 257, 300, *(noise.randint(1, SIZES) for _ in range(60))]:
        edge = Frontier()
        edge.extend(LEAVES[:size])
        source = Listed(LEAVES)
        prover = Prover(source)
        prover.learn(edge)
        assert prover.root(size) == ROOTS[size]
        assert source.asked == 0
        index = noise.randrange(size)
        assert prover.inclusion(index, size) == PROVER.inclusion(index, size)
        assert prover.consistency(index + 1, size) == PROVER.consistency(index + 1, size)


def test_a_remembered_root_is_forgotten_in_time(monkeypatch):
    """A prover's memory is bounded, and forgetting changes no proof."""
    monkeypatch.setattr("eventstore.audit.proof.ROOTS_CACHED_MAX", 5)
    prover = Prover(Listed(LEAVES))
    for size in range(1, 60):
        assert prover.inclusion(size // 2, size) == PROVER.inclusion(size // 2, size)
    assert len(prover._roots) <= 5


def test_a_missing_tile_is_damage(disk):
    """A tile root that is gone raises Corruption instead of a wrong proof."""
    fill(disk)
    with disk.log.env.write() as txn:
        txn.delete(tile_key(8, 1), db=disk.log._tiles)
    with pytest.raises(Corruption, match="tile of level 8"):
        Prover(LogLeaves(disk.log)).root(700)
