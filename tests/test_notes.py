"""Notes: those of others are read, ours come back, and whatever is not exactly one is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from signed import HEAD, KEY, KEYS, NOTE, ORIGIN, OTHER, WITNESS

from eventstore import ProofError
from eventstore.audit.note import Checkpoint, Note, open_checkpoint, open_rotation, sign_note
from eventstore.audit.signer import SigningKey, VerifierKey
from eventstore.audit.tree import EMPTY_ROOT
from eventstore.audit.trust import check_origin

# The key and the note that the documentation of Go's package sumdb/note shows.
GO_SIGNER = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_VERIFIER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
GO_NOTE = (
    f"{GO_TEXT}\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXg"
    "KvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()


def test_the_note_of_gos_documentation():
    """Key texts, key ids and the signature are byte for byte those of Go's sumdb/note."""
    key = SigningKey.parse(GO_SIGNER)
    assert key.secret() == GO_SIGNER
    assert str(key.verifier) == GO_VERIFIER
    assert VerifierKey.parse(GO_VERIFIER) == key.verifier
    assert sign_note(GO_TEXT, key) == GO_NOTE
    assert Note.parse(GO_NOTE).check([key.verifier]) == [key.verifier]


def test_the_checkpoint_of_the_specification():
    """The example of C2SP's tlog-checkpoint is read as what it says."""
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    raw = (
        text.encode()
        + (
            "\n— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4UR"
            "YN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
        ).encode()
    )
    note = Note.parse(raw)
    found = Checkpoint.parse(note.text)
    assert (found.origin, found.size) == ("example.com/behind-the-sofa", 20_852_163)
    assert str(found) == text
    assert note.signatures[0].key_id == bytes.fromhex("033de0ae")


def test_a_head_comes_back():
    """What was signed is read again, whichever keys are known besides."""
    assert open_checkpoint(NOTE, KEYS) == HEAD
    assert open_checkpoint(NOTE, [OTHER.verifier, *KEYS]) == HEAD
    empty = Checkpoint(ORIGIN, 0, EMPTY_ROOT)
    assert open_checkpoint(sign_note(str(empty), KEY), KEYS) == empty


def test_signatures_of_unknown_keys_are_ignored():
    """A witness may sign along: its line is passed over, as C2SP demands."""
    both = sign_note(str(HEAD), WITNESS, KEY)
    assert open_checkpoint(both, KEYS) == HEAD
    assert Note.parse(both).check([WITNESS.verifier, *KEYS]) == [WITNESS.verifier, KEY.verifier]
    with pytest.raises(ProofError, match="no key of its origin"):
        open_checkpoint(both, [WITNESS.verifier])


def signed(text: str) -> bytes:
    """Return any text with a good signature."""
    return sign_note(text, KEY)


LINE = NOTE.split(b"\n\n")[1]
TEXT = str(HEAD)
BASE64 = TEXT.split("\n")[2]
BAD_NOTES = {
    "nothing": b"",
    "truncated": NOTE[:-20],
    "without its last newline": NOTE[:-1],
    "without signature": TEXT.encode() + b"\n",
    "without empty line": NOTE.replace(b"\n\n", b"\n"),
    "extended by a line": NOTE + b"more\n",
    "extended by an empty line": NOTE + b"\n",
    "extended by a byte": NOTE + b"x",
    "extended in front": b"\n" + NOTE,
    "signed twice": NOTE + LINE,
    "re-signed by another key": sign_note(TEXT, OTHER),
    "re-signed under another name": sign_note(TEXT, SigningKey("example.com/other", bytes(32))),
    "another text under the signature": NOTE.replace(b"109482", b"109483"),
    "windows newlines": NOTE.replace(b"\n", b"\r\n"),
    "not UTF-8": NOTE.replace(b"example", b"\xff\xfe"),
    "a control character": NOTE.replace(b"example", b"exa\x00ple"),
    "another dash": NOTE.replace("—".encode(), b"-"),
    "two spaces": NOTE.replace("— ".encode(), "—  ".encode()),
    "no base64": NOTE[:-10] + b"!" + NOTE[-9:],
    "too large": b"x" * 70_000 + NOTE,
    "too many signatures": signed(TEXT)
    + b"".join(
        sign_note("x\n", SigningKey(f"w{n}", bytes(32))).split(b"\n\n")[1] for n in range(17)
    ),
    "a fourth line": signed(TEXT + "extension\n"),
    "two lines": signed(f"{ORIGIN}\n5\n"),
    "an empty fourth line": signed(TEXT + "\n"),
    "reordered lines": signed(f"{ORIGIN}\n{BASE64}\n109482\n"),
    "no origin": signed(f"\n5\n{BASE64}\n"),
    "an origin with a space": signed(f"{ORIGIN} x\n5\n{BASE64}\n"),
    "another origin": signed(f"{ORIGIN}x\n5\n{BASE64}\n"),
    "a leading zero": signed(f"{ORIGIN}\n05\n{BASE64}\n"),
    "a plus sign": signed(f"{ORIGIN}\n+5\n{BASE64}\n"),
    "a negative size": signed(f"{ORIGIN}\n-5\n{BASE64}\n"),
    "hexadecimal": signed(f"{ORIGIN}\n0x5\n{BASE64}\n"),
    "foreign digits": signed(f"{ORIGIN}\n\u0665\n{BASE64}\n"),
    "a size beyond 63 bits": signed(f"{ORIGIN}\n{1 << 63}\n{BASE64}\n"),
    "a size of 5,000 digits": signed(f"{ORIGIN}\n{'9' * 5_000}\n{BASE64}\n"),
    "a short root": signed(f"{ORIGIN}\n5\n{BASE64[:-4]}\n"),
    "a root without padding": signed(f"{ORIGIN}\n5\n{BASE64[:-1]}\n"),
    "a root with stray bits": signed(f"{ORIGIN}\n5\n{BASE64[:-2]}9=\n"),
    "a root in URL base64": signed(f"{ORIGIN}\n5\n{'_' * 43}=\n"),
}


@pytest.mark.parametrize("raw", BAD_NOTES.values(), ids=BAD_NOTES.keys())
def test_a_bad_head_is_refused(raw):
    """Whatever is not exactly a head that the key signed for its origin raises ProofError."""
    with pytest.raises(ProofError):
        open_checkpoint(raw, KEYS)


def test_a_head_of_another_origin_is_refused():
    """A good head of one store is none of another, nor of one without an id."""
    check_origin(HEAD, ORIGIN.rpartition("/")[2])
    for other in ("else", ""):
        with pytest.raises(ProofError, match=f"not of store {other!r}"):
            check_origin(HEAD, other)


def test_every_changed_bit_of_a_head_is_refused():
    """No single bit of a signed head, in text or signature, can be another."""
    for bit in range(8 * len(NOTE)):
        changed = bytearray(NOTE)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ProofError):
            open_checkpoint(bytes(changed), KEYS)


@given(st.binary(max_size=200))
def test_noise_is_a_proof_error(raw):
    """Random bytes never get through a parser, and raise nothing but ProofError."""
    text = raw.decode(errors="replace")
    for read in (
        lambda: open_checkpoint(raw, KEYS),
        lambda: open_rotation(raw, KEY.verifier),
        lambda: VerifierKey.parse(text),
        lambda: SigningKey.parse(text),
        lambda: SigningKey.parse("PRIVATE+KEY+" + text),
        lambda: Checkpoint.parse(text),
    ):
        with pytest.raises(ProofError):
            read()


PIECES = [
    TEXT,
    "\n",
    "— ",
    ORIGIN,
    " ",
    "109482",
    "0",
    BASE64,
    LINE.decode(),
    "+",
    "\ud800",
    "é",
    "",
]


@given(st.lists(st.sampled_from(PIECES), max_size=8))
def test_shuffled_pieces_are_a_proof_error(pieces):
    """Pieces of a good head in any other order raise ProofError."""
    raw = "".join(pieces).encode("utf-8", "surrogatepass")
    if raw != NOTE:
        with pytest.raises(ProofError):
            open_checkpoint(raw, KEYS)


@given(
    st.text(st.characters(exclude_categories=["Zs", "Cc", "Cs", "Zl", "Zp"]), min_size=1),
    st.integers(0, (1 << 63) - 1),
    st.binary(min_size=32, max_size=32),
)
def test_every_head_comes_back(name, size, root):
    """Any origin, size and root survive being signed and read."""
    name = name.replace("+", "") or "x"
    key = SigningKey(name, bytes(32))
    head = Checkpoint(name, size, root)
    assert open_checkpoint(sign_note(str(head), key), [key.verifier]) == head
    assert VerifierKey.parse(str(key.verifier)) == key.verifier
    assert SigningKey.parse(key.secret()).verifier == key.verifier
