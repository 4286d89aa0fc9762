"""Evidence as the package makes and reads it: one form of each file, and only of what is there."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import ProofError
from eventstore.audit.evidence import (
    Consistency,
    TlogProof,
    disclose,
    prove_event,
    prove_session,
)
from eventstore.audit.heads import Heads
from eventstore.audit.note import Checkpoint, origin_of, sign_note
from eventstore.audit.signer import SigningKey
from eventstore.audit.tree import leaf_hash, root_of


def test_the_specifications_example_is_read():
    """The form of C2SP's tlog-proof with and without extra data is read and written again."""
    hashes = tuple(leaf_hash(b"%d" % number) for number in range(5))
    for proof in (
        TlogProof(73_894, hashes, b"example.com/fancylog\n109482\n...", b"age-v1.2.1"),
        TlogProof(0, (), b"checkpoint\n"),
    ):
        assert TlogProof.parse(proof.encode()) == proof
    assert TlogProof(0, (), b"checkpoint\n").encode() == (
        b"c2sp.org/tlog-proof@v1\nindex 0\n\ncheckpoint\n"
    )


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"c2sp.org/tlog-proof@v2\nindex 0\n\nx",
        b"c2sp.org/tlog-proof@v1\n\nx",
        b"c2sp.org/tlog-proof@v1\nindex 0\n",
        b"c2sp.org/tlog-proof@v1\nindex 00\n\nx",
        b"c2sp.org/tlog-proof@v1\nindex -1\n\nx",
        b"c2sp.org/tlog-proof@v1\nindex \n\nx",
        b"c2sp.org/tlog-proof@v1\nextra \nindex 0\n\nx",
        b"c2sp.org/tlog-proof@v1\nextra !\nindex 0\n\nx",
        b"c2sp.org/tlog-proof@v1\nextra YQ==\nextra YQ==\nindex 0\n\nx",
        b"c2sp.org/tlog-proof@v1\nindex 0\nextra YQ==\n\nx",
        b"c2sp.org/tlog-proof@v1\nindex 0\nYQ==\n\nx",
        b"c2sp.org/tlog-proof@v1\nindex 0\n" + b"A" * 43 + b"=\n" * 65 + b"\nx",
        b"c2sp.org/tlog-proof@v1\nindex 0\n" + (b"A" * 43 + b"=\n") * 65 + b"\nx",
        b"c2sp.org/tlog-proof@v1\nindex 0\n\xff\n\nx",
        b"c2sp.org/tlog-proof@v1\nindex 0\n\n" + b"x" * 300_000,
    ],
)
def test_a_bad_tlog_proof_is_a_proof_error(bad):
    """Every other form of a tlog-proof raises ProofError."""
    with pytest.raises(ProofError):
        TlogProof.parse(bad)


@given(st.binary(max_size=300), st.sampled_from([b"", b"c2sp.org/tlog-proof@v1\n"]))
def test_noise_is_a_proof_error(raw, start):
    """Random bytes raise ProofError in the package's parsers."""
    for parse in (TlogProof.parse, Consistency.parse):
        try:
            parse(start + raw)
        except ProofError:
            continue
        assert start


def test_a_session_begun_after_the_head_has_no_proof(disk, tmp_path):
    """A head holds nothing of a session that began later; an earlier head gets the earlier part."""
    key = SigningKey.generate(origin_of("example.com", disk.id))
    disk.create("a")
    disk.append("a", {"content": "x"})
    note = Heads(disk, key, tmp_path / "last.note").sign()
    disk.create("b")
    disk.append("a", {"content": "y"})
    with pytest.raises(ProofError, match="no events among the first 2"):
        list(prove_session(disk, "b", note, [key.verifier]))
    head = json.loads(next(prove_session(disk, "a", note, [key.verifier])))
    assert head["events"] == 2


def test_a_store_that_was_changed_hands_out_no_proof(disk, tmp_path):
    """A head of another history of the same store gets no proof of this one."""
    disk.create("a")
    key = SigningKey.generate(origin_of("example.com", disk.id))
    other = root_of([leaf_hash(b"other")])
    note = sign_note(str(Checkpoint(key.name, 1, other)), key)
    for made in (prove_event, disclose):
        with pytest.raises(ProofError, match="another root"):
            made(disk, 0, note, [key.verifier])
    with pytest.raises(ProofError, match="another root"):
        list(prove_session(disk, "a", note, [key.verifier]))
