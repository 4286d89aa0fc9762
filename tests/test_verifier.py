"""The verifier, as a stranger has it: one copied file that accepts what holds and nothing else."""

import ast
import base64
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from eventstore import EventStore, ProofError, SessionNotFound
from eventstore.audit import verifier
from eventstore.audit.evidence import (
    Consistency,
    TlogProof,
    disclose,
    prove_consistency,
    prove_event,
    prove_session,
)
from eventstore.audit.heads import Heads
from eventstore.audit.note import Checkpoint, origin_of, sign_note, sign_rotation
from eventstore.audit.outside import _signed_entries
from eventstore.audit.signer import SigningKey
from eventstore.audit.tiles import TileLeaves, export_tiles

DOCUMENT = Path(__file__).parents[1] / "docs" / "integrity.md"


class Evidence:
    """What an operator hands out about one store, in files, and the keys he signed with."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.store = EventStore.open(place / "history")
        origin = origin_of("example.com/support", self.store.id)
        self.key, self.next_key = SigningKey.generate(origin), SigningKey.generate(origin)
        self.keys = [self.key.verifier]
        self.known = [verifier.Key.parse(str(self.key.verifier))]
        self._tell()
        self._hand_out()

    def _tell(self) -> None:
        store = self.store
        heads = Heads(store, self.key, self.place / "last.note")
        store.create("a", actor="user:1")
        store.create("b", actor="user:2")
        for number in range(40):
            line = {"role": "user", "content": f"ligne n° {number}"}
            store.append("ab"[number % 2], line, actor="user:7", correlation_id="trace")
        store.append("a", [{"content": "x"}] * 230, occurred_at=1_600_000_000_000_000_000)
        self.old = heads.sign()
        store.append("b", [{"content": "y"}] * 300)
        self.new = heads.sign()
        self.size = store.head().size

    def _hand_out(self) -> None:
        store, keys = self.store, self.keys
        files = {
            "old.note": self.old,
            "new.note": self.new,
            "event.tlog-proof": prove_event(store, 7, self.new, keys),
            "growth.proof": prove_consistency(store, self.old, self.new, keys),
            "event.json": disclose(store, 7, self.new, keys),
            "nameless.json": disclose(store, 7, self.new, keys, names=False),
            "session.jsonl": b"".join(prove_session(store, "b", self.new, keys)),
            "rotation.note": sign_rotation(self.key, self.next_key, self.size),
            "key.pub": f"{self.key.verifier}\n".encode(),
        }
        for name, content in files.items():
            (self.place / name).write_bytes(content)
        export_tiles(store, self.new, keys, self.place / "tiles")

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        return (self.place / name).read_bytes()

    def check(self, *names: str | Path) -> int:
        """Run the verifier in this process; returns its exit code."""
        return verifier.main(["--key", str(self.key.verifier), *map(str, self.paths(*names))])

    def paths(self, *names: str | Path) -> Iterator[Path]:
        """Iterate over the paths of files."""
        return (self.place / name for name in names)

    def rejects(self, content: bytes) -> bool:
        """Return True if the verifier, without its command, answers no to such a file."""
        path = self.place / "tampered"
        path.write_bytes(content)
        try:
            verifier.check(verifier.Auditor(self.known), path)
        except (ValueError, RecursionError):
            return True
        return False


@pytest.fixture(scope="module")
def evidence(tmp_path_factory) -> Iterator[Evidence]:
    """Give one store's evidence to all tests."""
    made = Evidence(tmp_path_factory.mktemp("evidence"))
    with made.store:
        yield made


FILES = [
    "old.note",
    "new.note",
    "event.tlog-proof",
    "growth.proof",
    "event.json",
    "nameless.json",
    "session.jsonl",
    "tiles",
    "rotation.note",
]


# -- what it is ------------------------------------------------------------------------------


def test_it_can_be_read_in_one_sitting():
    """The verifier has under 400 lines and imports only Python's own modules and cryptography."""
    source = Path(verifier.__file__).read_text()
    assert source.count("\n") < 400
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level
            found.add(node.module.split(".")[0])
    assert found - set(sys.stdlib_module_names) == {"cryptography"}


def test_a_lone_copy_checks_everything(evidence, tmp_path):
    """Copied away from this project, it proves every kind of evidence and exits with 0."""
    copy = shutil.copy(verifier.__file__, tmp_path / "check.py")
    command = [sys.executable, "-I", copy, "--key", str(evidence.place / "key.pub")]
    done = subprocess.run(
        [*command, *evidence.paths(*FILES)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.split("\n") if not line.startswith(" ")]
    assert [line[:4] for line in lines] == ["ok  "] * len(FILES) + [""]
    assert "ligne n° 5" in done.stdout
    assert "'user:7'" in done.stdout


def test_exit_codes(evidence, capsys):
    """0: all proven; 1: something is not, and all the rest is still looked at; 2: not checked."""
    assert evidence.check("new.note") == 0
    assert evidence.check("missing.note") == 2
    assert evidence.rejects(b"nothing")
    assert evidence.check("tampered", "missing.note", "new.note") == 1
    said = capsys.readouterr().out
    assert "FAIL" in said
    assert "new.note: 'example.com/support/" in said
    for wrong in (
        ["new.note"],
        ["--key", "no key", "new.note"],
        ["--key", str(evidence.place), "x"],
    ):
        with pytest.raises(SystemExit) as caught:
            verifier.main(wrong)
        assert caught.value.code == 2


# -- the one form of each file ---------------------------------------------------------------


def test_every_changed_bit_of_a_head_is_rejected(evidence):
    """No bit of a head can be another."""
    for bit in range(8 * len(evidence.new)):
        changed = bytearray(evidence.new)
        changed[bit // 8] ^= 1 << bit % 8
        assert evidence.rejects(bytes(changed))


@pytest.mark.parametrize("name", [*FILES[2:6], "rotation.note"])
def test_a_changed_bit_in_any_byte_is_rejected(evidence, name):
    """No byte of any file can have another bit, wherever it stands."""
    good, noise = evidence.read(name), random.Random(name)
    step = max(len(good) // 600, 1)
    for at in range(0, len(good), step):
        changed = bytearray(good)
        changed[at] ^= 1 << noise.randrange(8)
        assert evidence.rejects(bytes(changed))


def test_changed_bits_of_a_bundle_are_rejected(evidence):
    """Nor can a sample of the bits of a long bundle."""
    good, noise = evidence.read("session.jsonl"), random.Random(6)
    for _ in range(60):
        changed = bytearray(good)
        changed[noise.randrange(len(good))] ^= 1 << noise.randrange(8)
        assert evidence.rejects(bytes(changed))


@pytest.mark.parametrize("name", [*FILES[:7], "rotation.note"])
def test_cut_and_extended_files_are_rejected(evidence, name):
    """A file that ends early, goes on, or says its last line twice proves nothing."""
    good = evidence.read(name)
    lines = good.splitlines(keepends=True)
    for bad in (
        b"",
        good[:-1],
        good[: len(good) // 2],
        good + b"\n",
        good + b"x",
        good + lines[-1],
        b"\n" + good,
        b"".join(lines[:-1]),
        b"".join(lines[1:]),
        b"".join(reversed(lines)) if len(lines) > 1 else b"{}",
        good.replace(b"\n", b"\r\n"),
    ):
        assert evidence.rejects(bad)


@pytest.mark.parametrize("name", ["event.tlog-proof", "growth.proof", "session.jsonl"])
def test_reordered_and_doubled_lines_are_rejected(evidence, name):
    """Lines may neither change places nor stand twice, nor be missing."""
    lines = evidence.read(name).splitlines(keepends=True)
    for at in range(1, min(len(lines) - 1, 12)):
        swapped = [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]]
        assert swapped == lines or evidence.rejects(b"".join(swapped))
        assert evidence.rejects(b"".join([*lines[:at], lines[at], *lines[at:]]))
        assert evidence.rejects(b"".join([*lines[:at], *lines[at + 1 :]]))


@pytest.mark.parametrize("name", FILES[:7])
def test_another_key_proves_nothing(evidence, name, tmp_path):
    """What this store's key signed does not hold for a key of the same name, or of another."""
    for key in (evidence.next_key, SigningKey("example.com/other", bytes(32))):
        assert verifier.main(["--key", str(key.verifier), str(evidence.place / name)]) == 1


def test_json_of_another_form_is_rejected(evidence):
    """Spaces, another order, other fields, other types and repeated fields are refused."""
    good = json.loads(evidence.read("event.json"))

    def form(value: object) -> bytes:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    assert form(good) == evidence.read("event.json")
    bad = [json.dumps(good).encode() + b"\n", form(dict(reversed(good.items())))]
    bad += [form({**good, "more": 1}), form({k: v for k, v in good.items() if k != "names"})]
    wrong = {"index": ["7", True, -1, 10**30, None], "proof": ["", [1], [[]]], "salt": [None, 5]}
    wrong |= {"names": [["b"], ["b", 5, None, None], [*good["names"], None]], "payload": [0]}
    bad += [form({**good, name: value}) for name, values in wrong.items() for value in values]
    bad += [form(good).replace(b'"index":7', b'"index":7,"index":7'), form([good]), b"[" * 90_000]
    bad += [form(good).replace(b'"index":7', b'"index":7.0'), form(good)[:-2] + b',"a":NaN}\n']
    for content in bad:
        start = b'{"format":"eventstore/disclosure@v1",'
        assert evidence.rejects(content)
        assert evidence.rejects(start + content)


# -- what the files say ----------------------------------------------------------------------


def test_another_payload_is_rejected(evidence):
    """A payload, a salt or a border between them that the entry doesn't commit to is refused."""
    good = json.loads(evidence.read("event.json"))
    salt, payload = (base64.b64decode(good[name]) for name in ("salt", "payload"))
    for other in (
        (salt, payload + b"x"),
        (salt, payload.replace(b"ligne", b"lignE")),
        (bytes(16), payload),
        (salt[:-1], salt[-1:] + payload),
        (salt + payload[:1], payload[1:]),
    ):
        texts = {
            name: base64.b64encode(each).decode()
            for name, each in zip(("salt", "payload"), other, strict=True)
        }
        made = json.dumps({**good, **texts}, ensure_ascii=False, separators=(",", ":"))
        assert evidence.rejects(made.encode() + b"\n")


def bundle(evidence: Evidence) -> tuple[dict, list[dict]]:
    """Return the head line and the entries of the session bundle."""
    head, *lines = map(json.loads, evidence.read("session.jsonl").splitlines())
    return head, lines


def written(head: dict, lines: list[dict]) -> bytes:
    """Return a bundle that states the number of entries it has."""
    head = {**head, "events": len(lines)}
    texts = [json.dumps(each, ensure_ascii=False, separators=(",", ":")) for each in (head, *lines)]
    return ("\n".join(texts) + "\n").encode()


def test_a_session_bundle_with_a_gap_is_rejected(evidence):
    """No entry can be left out, doubled or moved, even where the count is put right."""
    head, lines = bundle(evidence)
    assert not evidence.rejects(written(head, lines))
    for bad in (
        lines[1:],
        lines[:5] + lines[6:],
        [*lines[:5], lines[5], *lines[5:]],
        [*lines[:5], lines[6], lines[5], *lines[7:]],
        [],
    ):
        assert evidence.rejects(written(head, bad))


def test_an_entry_of_another_session_is_rejected(evidence):
    """A proven entry of one session is none of another, and a bundle can't be renamed."""
    head, lines = bundle(evidence)
    other = b"".join(prove_session(evidence.store, "a", evidence.new, evidence.keys))
    theirs = [json.loads(line) for line in other.splitlines()[1:]]
    assert evidence.rejects(written(head, [theirs[0], *lines[1:]]))
    assert evidence.rejects(written({**head, "session": "a"}, lines))


def test_a_session_cut_at_its_end_needs_the_tiles(evidence):
    """Entries withheld at the end are found by the tiles of the same head, and only by them."""
    head, lines = bundle(evidence)
    (evidence.place / "short.jsonl").write_bytes(written(head, lines[:-3]))
    assert evidence.check("short.jsonl") == 0
    assert evidence.check("tiles", "short.jsonl") == 1
    assert evidence.check("tiles", "session.jsonl") == 0


def test_a_later_version_that_stands_earlier_is_rejected(evidence):
    """A session's events come in the order of the log, whoever signed a log in which they don't."""
    chains = {b"s": (0, 5)}
    entry = verifier.Entry(2, 1, 5, 0, (b"s",), b"")
    with pytest.raises(verifier.Rejected, match="event 3 should be version 1"):
        entry.follow(chains, 3)
    entry.follow(chains, 6)
    assert chains == {b"s": (1, 6)}


def test_names_that_look_alike_are_told_apart(tmp_path):
    """Letters and accents in one character or in two, or Cyrillic ones: no two lines are one."""
    said = set()
    names = ["caf\u00e9", "cafe\u0301", "c\u0430f\u00e9"]
    with EventStore.open(tmp_path / "history") as store:
        key = SigningKey.generate(origin_of("example.com", store.id))
        for name in names:
            store.create(name, actor=name)
        head = Heads(store, key, tmp_path / "last.note").sign()
        for at, name in enumerate(names):
            auditor = verifier.Auditor([verifier.Key.parse(str(key.verifier))])
            path = tmp_path / "evidence"
            path.write_bytes(b"".join(prove_session(store, name, head, [key.verifier])))
            said.add(verifier.check(auditor, path).encode("ascii", "ignore"))
            path.write_bytes(disclose(store, at, head, [key.verifier]))
            said.add(verifier.check(auditor, path).split("\n")[1].encode("ascii"))
    assert len(said) == 2 * len(names)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("entries/000", lambda place, leaves: _signed_entries(place, leaves, 0)),
        ("0/000", lambda _, leaves: leaves.nodes(0, 0, 256)),
    ],
)
def test_a_huge_tile_is_rejected_and_takes_no_memory(evidence, tmp_path, name, read):
    """A file of 1 GiB, which takes no room on the disk of whoever made it, is not read whole."""
    place = tmp_path / "tiles"
    shutil.copytree(evidence.place / "tiles", place)
    os.truncate(place / "tile" / name, 1 << 30)
    tracemalloc.start()
    assert evidence.check(place) == 1
    with pytest.raises(ProofError):
        read(place, TileLeaves(place, evidence.size))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


def test_two_heads_of_one_size_are_a_split_view(evidence):
    """An operator who signs two histories is convicted by his own signatures."""
    other = sign_note(str(Checkpoint(evidence.key.name, evidence.size, bytes(32))), evidence.key)
    (evidence.place / "other.note").write_bytes(other)
    assert evidence.check("other.note") == 0
    assert evidence.check("new.note", "other.note") == 1


def test_a_replaced_key_signs_no_later_head(evidence):
    """Behind a rotation the new key signs on, the old one only what it had signed before."""
    place, later = evidence.place, Checkpoint(evidence.key.name, evidence.size + 9, bytes(32))
    (place / "theirs.note").write_bytes(sign_note(str(later), evidence.next_key))
    (place / "stolen.note").write_bytes(sign_note(str(later), evidence.key))
    assert evidence.check("theirs.note") == 1
    assert evidence.check("rotation.note", "theirs.note", "new.note") == 0
    assert evidence.check("rotation.note", "stolen.note") == 1
    third = SigningKey.generate(evidence.key.name)
    (place / "again.note").write_bytes(sign_rotation(evidence.key, third, 3))
    assert evidence.check("rotation.note", "again.note") == 1
    (place / "on.note").write_bytes(sign_rotation(evidence.next_key, third, evidence.size + 5))
    assert evidence.check("rotation.note", "on.note") == 0


def test_a_proof_for_another_index_is_rejected(evidence):
    """An entry is proven at its own place only."""
    proof = TlogProof.parse(evidence.read("event.tlog-proof"))
    for index in (0, 6, 8, evidence.size, evidence.size + 7):
        moved = TlogProof(index, proof.hashes, proof.note, proof.extra)
        assert evidence.rejects(moved.encode())
    bare = TlogProof(proof.index, proof.hashes, proof.note)
    assert evidence.rejects(bare.encode())


# -- the package's own half ------------------------------------------------------------------


def test_evidence_comes_back(evidence):
    """The package reads its own proofs, and they hold there too."""
    raw = evidence.read("event.tlog-proof")
    proof = TlogProof.parse(raw)
    assert proof.encode() == raw
    assert proof.check(evidence.keys).size == evidence.size
    assert proof.check(evidence.keys, proof.extra).origin == evidence.key.name
    with pytest.raises(ProofError):
        proof.check(evidence.keys, proof.extra + b"x")
    raw = evidence.read("growth.proof")
    growth = Consistency.parse(raw)
    assert growth.encode() == raw
    assert [head.size for head in growth.check(evidence.keys)] == [272, evidence.size]


STARTS = [
    b"",
    b"c2sp.org/tlog-proof@v1\n",
    b"eventstore/consistency@v1\n",
    b"eventstore/key-rotation@v1\n",
    b'{"format":"eventstore/disclosure@v1",',
    b'{"format":"eventstore/session@v1"',
]


@given(
    raw=st.one_of(st.binary(max_size=200), st.text(max_size=60).map(str.encode)),
    start=st.sampled_from(STARTS),
)
def test_the_verifier_rejects_noise(evidence, raw, start):
    """Random files of every kind are rejected with a reason, never with a traceback."""
    assert evidence.rejects(start + raw)


@given(st.data())
def test_the_verifier_rejects_mixtures(evidence, data):
    """Pieces of good evidence, cut and joined at random, prove nothing that is not in them."""
    name = data.draw(st.sampled_from(FILES[2:7]))
    good = evidence.read(name)
    at, end = sorted(data.draw(st.tuples(*[st.integers(0, len(good))] * 2)))
    piece = data.draw(st.sampled_from([b"", b"\n", b"A", b'"', b"\x00", b"\xff", good[:40]]))
    mixed = good[:at] + piece + good[end:]
    assert mixed == good or evidence.rejects(mixed)


def test_nothing_is_proven_that_is_not_there(evidence):
    """Positions behind the head, unknown sessions and sessions begun later raise."""
    store, keys = evidence.store, evidence.keys
    for position in (-1, evidence.size, evidence.size + 5):
        with pytest.raises(ProofError):
            prove_event(store, position, evidence.new, keys)
        with pytest.raises(ProofError):
            disclose(store, position, evidence.new, keys)
    with pytest.raises(ProofError):
        prove_event(store, 280, evidence.old, keys)
    with pytest.raises(ProofError):
        prove_consistency(store, evidence.new, evidence.old, keys)
    with pytest.raises(SessionNotFound):
        list(prove_session(store, "none", evidence.new, keys))
    with pytest.raises(ProofError):
        prove_event(store, 1, evidence.new, [evidence.next_key.verifier])


# -- Go --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def go_check(tmp_path_factory) -> Path:
    """Give docs/integrity.md's Go program, built with golang.org/x/mod as Go itself carries it."""
    go = shutil.which("go") or shutil.which("go", path=str(Path(sys.executable).parent))
    if go is None:
        pytest.skip("go is not installed")
    place = tmp_path_factory.mktemp("go")
    asked = [go, "env", "GOROOT", "GOVERSION"]
    said = subprocess.run(asked, capture_output=True, text=True, check=True)
    root, version = said.stdout.split()
    carried = Path(root) / "src/cmd/vendor/golang.org/x/mod/sumdb"
    if not carried.is_dir():
        pytest.skip("this Go does not carry golang.org/x/mod")
    for package in ("note", "tlog"):
        shutil.copytree(carried / package, place / "mod/sumdb" / package)
    release = re.match(r"go(\d+\.\d+)", version)[1]
    (place / "mod/go.mod").write_text(f"module golang.org/x/mod\n\ngo {release}\n")
    (place / "go.mod").write_text(
        f"module check\n\ngo {release}\n\nrequire golang.org/x/mod v0.0.0\n\n"
        "replace golang.org/x/mod => ./mod\n"
    )
    (place / "main.go").write_text(go_program())
    environment = {**os.environ, "GOPROXY": "off", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod"}
    built = subprocess.run(
        [go, "build", "-o", "check", "."],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return place / "check"


def go_program() -> str:
    """Return the Go program that the document shows."""
    return re.search(r"^```go\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)[1]


def test_the_go_program_is_short():
    """The document's check with Go's own packages has 40 lines."""
    assert go_program().count("\n") <= 40


def test_go_accepts_our_proofs_and_no_others(evidence, go_check):
    """Go's sumdb/note and tlog accept checkpoint, inclusion and consistency, and refuse others."""
    proof = TlogProof.parse(evidence.read("event.tlog-proof"))
    growth = Consistency.parse(evidence.read("growth.proof"))

    def accepts(raw: bytes) -> bool:
        path = evidence.place / "for-go"
        path.write_bytes(raw)
        command = [go_check, str(evidence.key.verifier), path]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    assert accepts(evidence.read("event.tlog-proof"))
    assert accepts(evidence.read("growth.proof"))
    for changed in (
        replace(proof, index=proof.index + 1),
        replace(proof, hashes=proof.hashes[1:]),
        replace(proof, hashes=(*proof.hashes, bytes(32))),
        replace(proof, extra=proof.extra[:-1] + b"x"),
        replace(proof, note=evidence.old),
        replace(proof, note=proof.note.replace(b"\n572\n", b"\n573\n")),
        replace(growth, hashes=growth.hashes[::-1]),
        replace(growth, hashes=growth.hashes[:-1]),
        replace(growth, old=growth.new, new=growth.old),
        replace(growth, new=sign_note("x\n572\n" + "A" * 43 + "=\n", evidence.key)),
    ):
        assert changed not in (proof, growth)
        assert not accepts(changed.encode())
