"""Notes, keys and signed heads: one form only, one owner only, and never backwards."""

import http.server
import itertools
import os
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import EventStore, ProofError, RollbackDetected, StoreUnavailable
from eventstore.audit.anchors import to_command, to_directory, to_url
from eventstore.audit.heads import Heads, check_extends
from eventstore.audit.note import (
    Checkpoint,
    Note,
    open_checkpoint,
    open_rotation,
    origin_of,
    sign_note,
    sign_rotation,
)
from eventstore.audit.signer import SigningKey, VerifierKey
from eventstore.audit.tree import EMPTY_ROOT
from eventstore.log.memory import MemoryLog
from eventstore.state.snapshots import MemorySnapshots

ORIGIN = "example.com/support/01890a5d-ac96-774b-bcce-b302099a8057"
KEY = SigningKey(ORIGIN, bytes(range(32)))
OTHER = SigningKey(ORIGIN, bytes(range(1, 33)))
WITNESS = SigningKey("witness.example", bytes(range(2, 34)))
KEYS = [KEY.verifier]
HEAD = Checkpoint(ORIGIN, 109_482, bytes(range(32)))
NOTE = sign_note(str(HEAD), KEY)

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


# -- notes -----------------------------------------------------------------------------------


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
    """What was signed is read again, and only for the origin asked for."""
    assert open_checkpoint(NOTE, KEYS) == HEAD
    assert open_checkpoint(NOTE, [OTHER.verifier, *KEYS], ORIGIN) == HEAD
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
    """A good head of one store is none of another."""
    with pytest.raises(ProofError, match=r"not of 'example\.com/else'"):
        open_checkpoint(NOTE, KEYS, "example.com/else")


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
    assert open_checkpoint(sign_note(str(head), key), [key.verifier], name) == head
    assert VerifierKey.parse(str(key.verifier)) == key.verifier
    assert SigningKey.parse(key.secret()).verifier == key.verifier


# -- keys ------------------------------------------------------------------------------------

SECRET = KEY.secret()
PUBLIC = str(KEY.verifier)
BAD_KEYS = {
    "nothing": "",
    "a name alone": ORIGIN,
    "no id": f"{ORIGIN}++{PUBLIC.split('+', 2)[2]}",
    "another id": PUBLIC.replace(KEY.verifier.id.hex(), "00000000"),
    "an id in capitals": PUBLIC.replace(KEY.verifier.id.hex(), KEY.verifier.id.hex().upper()),
    "another name": "x" + PUBLIC,
    "no name": PUBLIC[len(ORIGIN) :],
    "a space in its name": PUBLIC.replace("support", "sup port"),
    "a short key": f"x+00000000+{'A' * 40}",
    "a long key": f"x+00000000+{'A' * 48}",
    "another type of key": f"x+00000000+{'C' + 'A' * 43}",
    "more behind": PUBLIC + "\n",
    "a lone surrogate": "\ud800+00000000+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
}


@pytest.mark.parametrize("text", BAD_KEYS.values(), ids=BAD_KEYS.keys())
def test_a_bad_verifier_key_is_refused(text):
    """A verifier key whose id, length, type or name is wrong raises ProofError."""
    with pytest.raises(ProofError):
        VerifierKey.parse(text)


@pytest.mark.parametrize(
    "text", ["", PUBLIC, SECRET[1:], SECRET[:-4], SECRET + "AAAA", SECRET.replace("/", "x", 1)]
)
def test_a_bad_signing_key_is_refused_without_naming_it(text):
    """A broken signing key raises ProofError, and its secret is not in the message."""
    with pytest.raises(ProofError) as caught:
        SigningKey.parse(text)
    assert SECRET[-20:] not in str(caught.value)


def test_a_secret_is_never_shown():
    """The repr of a signing key is that of its public half."""
    assert SECRET[-20:] not in repr(KEY)
    assert str(KEY.verifier) in repr(KEY)


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_a_key_of_another_length_is_refused(seed):
    """A key has 32 bytes."""
    with pytest.raises(ProofError, match="32 bytes"):
        SigningKey(ORIGIN, seed)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u2003b", "a\x00b", "\ud800"])
def test_a_name_is_checked(name):
    """A key's name is what a signature line can carry."""
    with pytest.raises(ProofError):
        SigningKey(name, bytes(32))


def test_a_key_file_is_its_owners(tmp_path: Path):
    """A key is written for its owner alone, is read again, and is never overwritten."""
    path, key = tmp_path / "key", SigningKey.generate(ORIGIN)
    key.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert SigningKey.load(path).secret() == key.secret()
    with pytest.raises(StoreUnavailable, match="never overwritten"):
        KEY.save(path)
    assert SigningKey.load(path).secret() == key.secret()


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o620, 0o602, 0o601, 0o777])
def test_a_key_file_open_to_others_is_refused(tmp_path: Path, mode: int):
    """A key that anybody else may read or write is not used."""
    path = tmp_path / "key"
    KEY.save(path)
    path.chmod(mode)
    with pytest.raises(StoreUnavailable, match=f"mode {mode:04o}"):
        SigningKey.load(path)


@pytest.mark.parametrize("content", [b"\n", b"no key\n", b"\xff", b"x" * 9_000])
def test_a_file_without_a_key_is_refused(tmp_path: Path, content: bytes):
    """A file that holds something else raises ProofError."""
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ProofError, match="holds no signing key"):
        SigningKey.load(path)


def test_a_key_that_was_never_written_is_written(tmp_path: Path):
    """An empty file, left by a process that died while it made a key, is named as that and used."""
    path = tmp_path / "key"
    path.touch(0o600)
    with pytest.raises(StoreUnavailable, match="is empty: no key was made; make it with keygen"):
        SigningKey.load(path)
    KEY.save(path)
    assert SigningKey.load(path).verifier == KEY.verifier
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize(
    "kind", ["open to others", "a link", "to nowhere", "a pipe", "a directory"]
)
def test_what_is_no_empty_key_file_is_left_alone(tmp_path: Path, kind: str):
    """Only a file that is empty and its owner's alone is written to, and no link is followed."""
    path, other = tmp_path / "key", tmp_path / "other"
    other.touch(0o600)
    make = {
        "open to others": lambda: path.touch(0o640) or path.chmod(0o640),
        "a link": lambda: path.symlink_to(other),
        "to nowhere": lambda: path.symlink_to(tmp_path / "nowhere"),
        "a pipe": lambda: os.mkfifo(path, 0o600),
        "a directory": path.mkdir,
    }
    make[kind]()
    with pytest.raises(StoreUnavailable):
        KEY.save(path)
    assert other.stat().st_size == 0 and not (tmp_path / "nowhere").exists()


def test_of_all_who_find_an_empty_key_file_one_writes(tmp_path: Path):
    """Threads that make keys in one place leave one key, and all others are told."""
    path = tmp_path / "key"
    path.touch(0o600)
    made = [SigningKey.generate(f"example.com/{number}") for number in range(8)]

    def save(key: SigningKey) -> str:
        with suppress(StoreUnavailable):
            key.save(path)
            return key.name
        return ""

    with ThreadPoolExecutor(len(made)) as pool:
        [saved] = filter(None, pool.map(save, made))
    assert SigningKey.load(path).name == saved


def test_a_missing_key_is_unavailable(tmp_path: Path):
    """No file, no directory and a directory for a file raise StoreUnavailable."""
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(StoreUnavailable):
            SigningKey.load(path)
    with pytest.raises(StoreUnavailable):
        KEY.save(tmp_path / "no" / "where")


# -- rotation --------------------------------------------------------------------------------


def test_a_key_hands_over_to_another():
    """Who knows the old key learns the new one, which both of them signed."""
    raw = sign_rotation(KEY, OTHER, 700)
    assert open_rotation(raw, KEY.verifier) == (700, OTHER.verifier)
    with pytest.raises(ProofError):
        open_checkpoint(raw, KEYS)
    with pytest.raises(ProofError):
        open_rotation(NOTE, KEY.verifier)


def test_a_bad_rotation_is_refused():
    """Both keys must sign, under one name, and no bit may be another."""
    for other in (KEY, WITNESS):
        with pytest.raises(ProofError, match="another key of that name"):
            sign_rotation(KEY, other, 5)
    raw = sign_rotation(KEY, OTHER, 700)
    text = raw.split(b"\n\n")[0].decode() + "\n"
    for bad in (
        sign_note(text, KEY),
        sign_note(text, OTHER),
        sign_note(text, OTHER, WITNESS),
        sign_note(text + "more\n", KEY, OTHER),
        sign_note(text.replace("700", "0700"), KEY, OTHER),
        sign_note(text.replace(str(OTHER.verifier), str(KEY.verifier)), KEY, OTHER),
        sign_note(text.replace(f"v1\n{ORIGIN}", "v1\nexample.com/other"), KEY, OTHER),
    ):
        with pytest.raises(ProofError):
            open_rotation(bad, KEY.verifier)
    for bit in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ProofError):
            open_rotation(bytes(changed), KEY.verifier)


# -- heads of a store ------------------------------------------------------------------------


def fill(store: EventStore) -> None:
    """Append a little."""
    store.create("s")
    store.append("s", [{"role": "user", "content": f"line {number}"} for number in range(20)])


def key_for(store: EventStore) -> SigningKey:
    """Return a fresh key for a store."""
    return SigningKey.generate(origin_of("example.com/support", store.id))


def test_heads_follow_each_other(disk, tmp_path: Path):
    """Each signed head is the log's, is kept before it is given out, and extends the last."""
    key, path = key_for(disk), tmp_path / "outside" / "last.note"
    heads = Heads(disk, key, path)
    assert heads.last() is None
    assert heads.check() is None
    notes = []
    for step in range(4):
        notes.append(heads.sign())
        assert path.read_bytes() == heads.last() == notes[-1]
        assert heads.sign() == notes[-1]
        if not step:
            fill(disk)
        disk.append("s", {"content": "more"})
    head = open_checkpoint(notes[3], [key.verifier])
    assert (head.size, head.origin) == (24, f"example.com/support/{disk.id}")
    assert check_extends(disk, notes[1], [key.verifier]).size == 22
    assert check_extends(disk, notes[0], [key.verifier]).size == 0
    assert [each.name for each in path.parent.iterdir() if "lock" not in each.name] == ["last.note"]


def test_a_head_is_kept_before_it_is_given_out(disk, tmp_path: Path, monkeypatch):
    """Where the head can't be kept, nobody gets it: no anchor, no caller."""
    fill(disk)
    seen: list[bytes] = []
    heads = Heads(disk, key_for(disk), tmp_path / "last.note", anchors=[seen.append])
    (tmp_path / "last.note.new").mkdir()
    with pytest.raises(StoreUnavailable, match=r"last\.note"):
        heads.sign()
    assert (seen, heads.last()) == ([], None)
    (tmp_path / "last.note.new").rmdir()
    assert seen == [] != [heads.sign()] == seen


def test_a_kept_head_in_the_store_is_refused(disk):
    """A head inside the store's directory would be rolled back along with it."""
    with pytest.raises(StoreUnavailable, match="keep it elsewhere"):
        Heads(disk, key_for(disk), disk.path / "last.note")


def test_a_key_of_another_store_is_refused(disk, tmp_path: Path):
    """A key signs for the store in its name; one in memory has no id to sign for."""
    with pytest.raises(ProofError, match="does not sign for store"):
        Heads(disk, KEY, tmp_path / "last.note")
    with EventStore.in_memory() as memory, pytest.raises(ProofError, match="in memory"):
        key_for(memory)


def test_a_note_of_another_store_is_refused(disk, tmp_path: Path):
    """A good head of one store proves nothing about another."""
    with EventStore.open(tmp_path / "other") as other:
        key = key_for(other)
        note = Heads(other, key, tmp_path / "last.note").sign()
        with pytest.raises(ProofError, match="not of store"):
            check_extends(disk, note, [key.verifier])


def test_a_restored_backup_is_a_rollback(tmp_path: Path):
    """A store that lost its newest events is found out by the last signed head, and not signed."""
    with EventStore.open(tmp_path / "history") as store:
        fill(store)
        key = key_for(store)
        store.log.env.copy(_made(tmp_path / "copy"))
        store.append("s", {"content": "lost"})
        note = Heads(store, key, tmp_path / "last.note").sign()
    (tmp_path / "history/log/data.mdb").write_bytes((tmp_path / "copy/data.mdb").read_bytes())
    with EventStore.open(tmp_path / "history") as store:
        heads = Heads(store, key, tmp_path / "last.note")
        for refused in (heads.check, heads.sign):
            with pytest.raises(RollbackDetected, match="22 events was signed, the log has only 21"):
                refused()
        store.append("s", {"content": "other"})
        with pytest.raises(RollbackDetected, match="not those that were signed"):
            heads.sign()
        assert heads.last() == note


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_damaged_kept_head_stops_signing(disk, tmp_path: Path):
    """A kept head that can't be believed is never replaced silently."""
    fill(disk)
    heads = Heads(disk, key_for(disk), tmp_path / "last.note")
    heads.sign()
    (tmp_path / "last.note").write_bytes(heads.last()[:-3])
    before = heads.last()
    with pytest.raises(ProofError):
        heads.sign()
    assert heads.last() == before


def test_a_new_key_follows_the_old_one(disk, tmp_path: Path):
    """After a rotation the new key signs on where the old one ended."""
    fill(disk)
    old, new = key_for(disk), key_for(disk)
    Heads(disk, old, tmp_path / "last.note").sign()
    with pytest.raises(ProofError, match="no known key"):
        Heads(disk, new, tmp_path / "last.note").sign()
    rotation = open_rotation(sign_rotation(old, new, disk.head().size), old.verifier)
    disk.append("s", {"content": "more"})
    heads = Heads(disk, new, tmp_path / "last.note", earlier=[old.verifier])
    assert open_checkpoint(heads.sign(), [rotation.key]).size == rotation.size + 1


def sign_often(path: str, secret: str, kept: str, sizes) -> None:
    """Append and sign in a process of its own."""
    with EventStore.open(path) as store:
        heads = Heads(store, SigningKey.parse(secret), Path(kept))
        for _ in range(8):
            store.append("s", {"content": "x"})
            sizes.put(Checkpoint.parse(Note.parse(heads.sign()).text).size)


def test_several_processes_sign_one_history(tmp_path: Path):
    """Processes that sign at once take turns: the kept head only grows, and ends at the newest."""
    with EventStore.open(tmp_path / "history") as store:
        fill(store)
        key = key_for(store)
    context = get_context("spawn")
    sizes = context.Queue()
    given_ = str(tmp_path / "history"), key.secret(), str(tmp_path / "last.note"), sizes
    workers = [context.Process(target=sign_often, args=given_) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [sizes.get(timeout=60) for _ in range(16)]
    for worker in workers:
        worker.join()
    with EventStore.open(tmp_path / "history") as store:
        last = Heads(store, key, tmp_path / "last.note").check()
    assert last.size == max(found) == 21 + 16


# -- tampering -------------------------------------------------------------------------------


class Script:
    """The commands of a history, which can be told again with a change."""

    def __init__(self) -> None:
        lines = [{"role": "user", "content": f"line {number}"} for number in range(6)]
        self.steps = [
            ("create", "a", {}, "user:1"),
            ("create", "b", {}, "user:1"),
            *(("append", "ab"[n % 2], line, "user:1") for n, line in enumerate(lines)),
        ]
        self.start = 1_700_000_000_000_000_000

    def tell(self, monkeypatch, store_id: str = "01890a5d-ac96-774b-bcce-b302099a8057"):
        """Return a store in memory with this history, the same for the same steps."""
        noise = random.Random(4)
        monkeypatch.setattr("eventstore.audit.entry.os.urandom", noise.randbytes)
        ticks = itertools.count(self.start, 1_000_000)
        store = EventStore(
            MemoryLog(), MemorySnapshots(), store=store_id, clock=lambda: next(ticks)
        )
        for command, session, given_, actor in self.steps:
            if command == "create":
                store.create(session, actor=actor, **given_)
            else:
                store.append(session, given_, actor=actor)
        return store


def _edit(script: Script) -> None:
    script.steps[4] = (*script.steps[4][:2], {"role": "user", "content": "linE 2"}, "user:1")


def _delete(script: Script) -> None:
    del script.steps[4]


def _truncate(script: Script) -> None:
    del script.steps[-1]


def _reorder(script: Script) -> None:
    script.steps[4], script.steps[5] = script.steps[5], script.steps[4]


def _forge(script: Script) -> None:
    script.steps.insert(4, ("append", "a", {"role": "user", "content": "never said"}, "user:1"))


def _replay(script: Script) -> None:
    script.steps.insert(5, script.steps[4])


def _transplant(script: Script) -> None:
    script.steps[4] = ("append", "b", *script.steps[4][2:])


def _rename(script: Script) -> None:
    script.steps[4] = (*script.steps[4][:3], "user:2")


def _backdate(script: Script) -> None:
    script.start -= 1


TAMPERING = [_edit, _delete, _truncate, _reorder, _forge, _replay, _transplant, _rename, _backdate]


def test_an_untouched_history_extends_its_head(monkeypatch):
    """The same commands make the same tree: what the next tests find is the tampering itself."""
    with Script().tell(monkeypatch) as store, Script().tell(monkeypatch) as again:
        assert store.head() == again.head()
        note = sign_note(str(Checkpoint(ORIGIN, 8, store.head().root)), KEY)
        again.append("a", {"content": "more"})
        assert check_extends(again, note, KEYS).size == 8


@pytest.mark.parametrize("tamper", TAMPERING, ids=lambda each: each.__name__[1:])
def test_a_rebuilt_history_does_not_extend_its_head(tamper, monkeypatch):
    """An operator who rebuilds the whole store around a change is found out by one old head."""
    with Script().tell(monkeypatch) as store:
        note = sign_note(str(Checkpoint(ORIGIN, 8, store.head().root)), KEY)
    script = Script()
    tamper(script)
    with script.tell(monkeypatch) as forged:
        forged.append("a", {"content": "more"})  # long enough again, where something was cut
        with pytest.raises(RollbackDetected, match="not those that were signed"):
            check_extends(forged, note, KEYS)


# -- anchors ---------------------------------------------------------------------------------


def test_heads_are_anchored_everywhere(disk, tmp_path: Path):
    """A head goes to every anchor: a directory, a command's input, a server."""
    fill(disk)
    received: list[bytes] = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        copy = f"import sys; open({str(tmp_path / 'copy')!r}, 'wb').write(sys.stdin.buffer.read())"
        anchors = [
            to_directory(tmp_path / "anchors"),
            to_command([sys.executable, "-c", copy]),
            to_url(f"http://127.0.0.1:{server.server_port}/heads"),
        ]
        note = Heads(disk, key_for(disk), tmp_path / "last.note", anchors=anchors).sign()
    (kept,) = (tmp_path / "anchors").iterdir()
    assert kept.read_bytes() == (tmp_path / "copy").read_bytes() == received[0] == note


def test_a_failing_anchor_is_named_and_tried_again(disk, tmp_path: Path):
    """A head stays kept where an anchor fails; the others get it, and the next call goes on."""
    fill(disk)
    seen: list[bytes] = []
    broken = to_command([sys.executable, "-c", "import sys; sys.exit('out of ink')"])
    heads = Heads(disk, key_for(disk), tmp_path / "last.note", anchors=[broken, seen.append])
    for count in (1, 2):
        with pytest.raises(StoreUnavailable, match="ended with 1: out of ink"):
            heads.sign()
        assert seen == [heads.last()] * count


def test_an_anchor_that_is_not_there_is_unavailable(tmp_path: Path):
    """A missing command, a file for a directory, a closed port and a refusal are named."""
    (tmp_path / "file").write_text("")

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(302)
            self.send_header("Location", "/other")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        port = server.server_port
        with pytest.raises(StoreUnavailable, match="answered 302"):
            to_url(f"http://127.0.0.1:{port}/")(NOTE)
    for anchor in (
        to_directory(tmp_path / "file"),
        to_command([str(tmp_path / "none")]),
        to_url(f"http://127.0.0.1:{port}/"),
    ):
        with pytest.raises(StoreUnavailable):
            anchor(NOTE)
    for url in ("file:///etc/passwd", "ftp://example.com", "example.com"):
        with pytest.raises(StoreUnavailable, match="http and https"):
            to_url(url)
