"""The audit commands: keys outside the store, evidence a stranger can check, and exit codes."""

import http.server
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Cli

from eventstore import EventStore
from eventstore.audit.signer import SigningKey
from eventstore.audit.trust import audit_directory
from eventstore.audit.verifier import main as verifier
from eventstore.ids import SYSTEM
from eventstore.place.directory import INCREMENTS


@pytest.fixture
def kept(chat: Cli) -> Path:
    """Give the audit directory of a store whose head was signed."""
    chat.fine("keygen", "--name", "example.com/support")
    chat.fine("checkpoint")
    return audit_directory(chat.store)


# -- keys and heads --------------------------------------------------------------------------


def test_keys_lie_beside_the_store(chat: Cli, tmp_path: Path):
    """The private key is its owner's alone, the other can be handed out; none is in the store."""
    made = chat.fine("keygen", "--name", "example.com/support", "--json").json
    audit = tmp_path / "history.audit"
    assert made["path"] == str(audit)
    assert (audit / "signing.key").stat().st_mode & 0o777 == 0o600
    assert (audit / "verifier.pub").read_text() == made["key"] + "\n"
    with EventStore.open(chat.store, read_only=True) as store:
        assert made["origin"] == f"example.com/support/{store.id}"
    assert "already; --rotate" in chat.refused(2, "keygen")
    assert "does not exist" not in chat.refused(2, "--store", str(tmp_path / "x"), "keygen")
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "x.audit").exists()


def test_a_checkpoint_is_a_signed_note(chat: Cli, kept: Path, tmp_path: Path):
    """On stdout, in a file or in JSON it is the note that is kept; it is never made without key."""
    assert chat.fine("checkpoint").out == (kept / "last.note").read_text()
    made = chat.fine("checkpoint", "--json").json
    assert (made["size"], made["note"]) == (4, (kept / "last.note").read_text())
    head = tmp_path / "head.note"
    assert chat.fine("checkpoint", "-o", str(head), "--json").json["path"] == str(head)
    assert head.read_bytes() == (kept / "last.note").read_bytes()
    chat.refused(2, "checkpoint", "-o", str(head))
    (kept / "signing.key").chmod(0o644)
    assert "mode 0644" in chat.refused(2, "checkpoint")
    shutil.rmtree(kept)
    assert "run 'eventstore keygen'" in chat.refused(2, "checkpoint")
    assert "run 'eventstore keygen'" in chat.refused(2, "keygen", "--rotate")
    for what in (["event", "0"], ["session", "a"]):
        assert "run 'eventstore checkpoint'" in chat.refused(2, "prove", *what)


def test_keygen_after_one_that_was_killed(chat: Cli, tmp_path: Path):
    """An empty key file that no head was signed with gets the key; one that had a key is kept."""
    audit = tmp_path / "history.audit"
    for name in ("signing.key", "signing.key.new"):
        audit.mkdir(exist_ok=True)
        (audit / name).touch(0o600)
        chat.fine("keygen", *(["--rotate"] if name.endswith("new") else []))
        assert (audit / "signing.key").stat().st_mode & 0o777 == 0o600
    chat.fine("checkpoint")
    known = (audit / "verifier.pub").read_text()
    for lose in (lambda path: os.truncate(path, 0), os.unlink):
        lose(audit / "signing.key")
        assert "restore it from its backup" in chat.refused(2, "keygen")
        assert (audit / "verifier.pub").read_text() == known


def test_a_key_hands_over(chat: Cli, kept: Path, capsys):
    """After a rotation the new key signs, old heads hold, and the first key leads to the new."""
    old = (kept / "signing.key").read_text()
    first = (kept / "last.note").read_bytes()
    made = chat.fine("keygen", "--rotate", "--json").json
    assert (kept / "signing.key").read_text() != old
    assert not (kept / "signing.key.new").exists()
    chat.fine("append", "a", "--content", "four")
    chat.fine("checkpoint")
    (kept / "first.note").write_bytes(first)
    assert chat.fine("check", str(kept / "first.note"), str(kept / "last.note"), "--json").json
    files = ["first.note", "rotation-1.note", "last.note"]
    key = ["--key", str(kept / "verifier.pub")]
    assert verifier([*key, *(str(kept / name) for name in files)]) == 0
    assert chat("check", *key, str(kept / "last.note")).code == 1
    assert chat("check", "--key", made["key"], str(kept / "last.note")).code == 0
    (kept / "signing.key").write_text(old)
    assert "is not the key that signs now" in chat.refused(1, "checkpoint")


def test_an_interrupted_rotation_is_finished(chat: Cli, kept: Path):
    """A key that was made and not used yet is used; nothing is signed in between."""
    shutil.copy(kept / "signing.key", kept / "old.key")
    assert str(kept / "rotation-1.note") in chat.fine("keygen", "--rotate").out  # to be handed out
    shutil.copy(kept / "signing.key", kept / "signing.key.new")
    shutil.copy(kept / "old.key", kept / "signing.key")
    size = chat.size()
    assert "run 'eventstore keygen --rotate'" in chat.refused(2, "checkpoint")
    chat.fine("keygen", "--rotate")
    assert chat.size() == size
    assert sorted(path.name for path in kept.glob("rotation-*")) == ["rotation-1.note"]
    chat.fine("checkpoint")


# -- anchors ---------------------------------------------------------------------------------


class Taker(http.server.BaseHTTPRequestHandler):
    """Keeps what is posted."""

    def do_POST(self) -> None:
        self.server.taken.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def server() -> Iterator[http.server.HTTPServer]:
    """Give a server that keeps what is posted in `taken`."""
    made = http.server.HTTPServer(("127.0.0.1", 0), Taker)
    made.taken = []
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def test_heads_are_left_elsewhere(chat: Cli, kept: Path, tmp_path: Path, server):
    """Directories, commands and URLs of the option and of the file get the very note."""
    script = "import sys; open(sys.argv[1], 'wb').write(sys.stdin.buffer.read())"
    command = f'command: {sys.executable} -c "{script}" {tmp_path / "by-command"}'
    url = f"http://127.0.0.1:{server.server_port}/heads"
    (kept / "anchors").write_text(f"# where heads go\n\n{url}\n{tmp_path / 'anchored'}\n")
    note = chat.fine("checkpoint", "--anchor", command, "--json").json["note"].encode()
    (found,) = (tmp_path / "anchored").iterdir()
    assert found.read_bytes() == (tmp_path / "by-command").read_bytes() == note
    assert server.taken == [note]


NOWHERE = "http://127.0.0.1:1/"


@pytest.mark.parametrize("place", ["command:", "command: /no/where", f"stamp:{NOWHERE}", NOWHERE])
def test_a_bad_anchor_is_named(chat: Cli, kept: Path, place: str):
    """An anchor that can't be reached ends with 2; the head is kept all the same."""
    chat.fine("append", "a", "--content", "four")
    chat.refused(2, "checkpoint", "--anchor", place)


# -- evidence --------------------------------------------------------------------------------


def test_every_kind_of_evidence_checks(chat: Cli, kept: Path, tmp_path: Path, capsys):
    """What the commands write holds for `check`, for the standalone verifier, and not when cut."""
    old = tmp_path / "old.note"
    shutil.copy(kept / "last.note", old)
    chat.fine("append", "a", "--content", "four")
    chat.fine("checkpoint")
    kinds = ("event", "session", "growth", "shown", "tiles")
    files = {name: str(tmp_path / name) for name in kinds}
    chat.fine("prove", "event", "2", "-o", files["event"])
    inside = chat.fine("prove", "event", "2", "--json").json
    assert inside == {"proof": Path(files["event"]).read_text()}
    chat.fine("prove", "session", "a", "-o", files["session"])
    heads = str(old), str(kept / "last.note")
    chat.fine("prove", "consistency", *heads, "-o", files["growth"])
    inside = chat.fine("prove", "consistency", *heads, "--json").json
    assert inside == {"proof": Path(files["growth"]).read_text()}
    chat.fine("disclose", "2", "-o", files["shown"])
    chat.fine("export", "--tiles", files["tiles"])
    found = chat.fine("check", *files.values(), str(old), "--json").json
    assert [each["proven"] for each in found] == [True] * 6
    assert verifier(["--key", str(kept / "verifier.pub"), *files.values()]) == 0
    for name in ("event", "session", "growth", "shown"):
        raw = Path(files[name]).read_bytes()
        Path(files[name]).write_bytes(raw[:-9])
        (verdict,) = chat("check", files[name], "--json").json
        assert verdict["proven"] is False
    assert chat("check", str(tmp_path / "nothing"), str(old)).code == 2
    assert chat("check", str(tmp_path / "nothing"), files["event"]).code == 1


def test_check_needs_no_store(chat: Cli, kept: Path, tmp_path: Path):
    """A stranger with a key and a file needs neither the store nor its audit directory."""
    chat.fine("prove", "event", "1", "-o", str(tmp_path / "event"))
    key = (kept / "verifier.pub").read_text().strip()
    (tmp_path / "elsewhere").mkdir()
    chat.store = tmp_path / "elsewhere" / "none"
    assert chat.fine("check", str(tmp_path / "event"), "--key", key).out.startswith("✓")
    assert "verifier.pub" in chat.refused(2, "check", str(tmp_path / "event"))
    assert "--key" in chat.refused(2, "check", str(tmp_path / "event"), "--key", "none")


def test_a_disclosure_can_leave_out_names(chat: Cli, kept: Path):
    """Without names the session and the actor stay digests; the payload is there all the same."""
    shown = json.loads(chat.fine("disclose", "1").out)
    assert shown["names"][0] == "a"
    hidden = json.loads(chat.fine("disclose", "1", "--no-names").out)
    assert (hidden["names"], hidden["payload"]) == ([], shown["payload"])


WRONG = [
    (2, ["prove"]),
    (2, ["prove", "event"]),
    (2, ["prove", "event", "x"]),
    (1, ["prove", "event", "99"]),
    (2, ["prove", "event", "1", "2"]),
    (2, ["prove", "everything", "1"]),
    (1, ["prove", "session", "none"]),
    (2, ["prove", "consistency", "none", "none"]),
    (2, ["prove", "event", "1", "--head", "none"]),
    (1, ["prove", "event", "1", "--key", "other.pub"]),
    (2, ["prove", "event", "1", "--key", "broken.pub"]),
    (1, ["disclose", "99"]),
    (2, ["disclose", "-1"]),
    (1, ["audit-export", "none"]),
    (2, ["audit-export", "a", "--html", "x", "-o", "y"]),
    (2, ["check", "x", "--key", "PRIVATE+KEY+x"]),
    (2, ["verify", "--head", "none"]),
    (2, ["verify", "--tiles", "none"]),
    (2, ["checkpoint", "-o", ".", "--force"]),
    (2, ["checkpoint", "--anchor", 'command: "x']),
    (2, ["checkpoint", "--anchor", "ftp://example.com/heads"]),
    (2, ["hold", "set"]),
    (2, ["hold", "keep", "a"]),
    (2, ["hold", "set", "a", "--user", "u"]),
    (2, ["erase", "a"]),
    (2, ["init", "--encrypt"]),
]


@pytest.mark.parametrize(("code", "arguments"), WRONG, ids=[" ".join(row[1]) for row in WRONG])
def test_wrong_usage_is_one_clear_line(
    chat: Cli,
    kept: Path,
    monkeypatch,
    code: int,
    arguments: list[str],
):
    """Every command refuses what it can't take, on one line, with nothing written."""
    monkeypatch.chdir(kept)
    Path("other.pub").write_text(str(SigningKey("x", bytes(32)).verifier))
    Path("broken.pub").write_text("x+00000000+AQEB")
    before = sorted(kept.iterdir())
    chat.refused(code, *arguments)
    assert sorted(kept.iterdir()) == before


# -- verify ----------------------------------------------------------------------------------


def test_verify_takes_heads_from_outside(chat: Cli, kept: Path, tmp_path: Path):
    """The kept head is looked at by itself; others are named with their key."""
    head, key = tmp_path / "old.note", (kept / "verifier.pub").read_text().strip()
    shutil.copy(kept / "last.note", head)
    assert chat.fine("verify", "--json").json["checked"]["signed heads"] == 1
    shutil.rmtree(kept)
    assert "signed heads" not in chat.fine("verify", "--json").json["checked"]
    assert "--key" in chat.refused(2, "verify", "--head", str(head))
    assert chat.fine("verify", "--head", str(head), "--key", key, "--json").json["sound"]
    other = Cli(tmp_path / "other", chat._capsys, chat._patch)
    other.fine("create", "a")
    ended = other("verify", "--head", str(head), "--key", key)
    assert ended.code == 1
    assert "not of store" in " ".join(ended.out.split())


def test_a_key_is_asked_for_and_never_ignored(chat: Cli, tmp_path: Path):
    """Without a verifier key there is one line that asks for it; one that has no use is refused."""
    head = tmp_path / "head.note"
    head.write_text("x")
    heads = ["prove", "consistency", str(head), str(head)]
    for command in (["check", str(head)], ["verify", "--head", str(head)], heads):
        assert "give it with --key" in chat.refused(2, *command)
    assert "--key is for signed heads" in chat.refused(2, "verify", "--key", "anything")


def test_a_store_that_was_set_back_is_told_of(chat: Cli, kept: Path, tmp_path: Path):
    """Reading goes on with a warning, writing ends with 1, verify names what is missing."""
    chat.fine("backup", str(tmp_path / "copy"))
    chat.fine("append", "a", "--content", "four")
    chat.fine("checkpoint")
    shutil.rmtree(chat.store)
    shutil.copytree(tmp_path / "copy", chat.store, ignore=shutil.ignore_patterns(INCREMENTS))
    shown = chat("show", "a")
    assert (shown.code, "three" in shown.out) == (0, True)
    assert "warning: a head of 5 events was signed, the log has only 4" in shown.err
    for command in (["append", "a", "--content", "x"], ["checkpoint"]):
        ended = chat(*command)
        assert (ended.code, "only 4" in ended.err) == (1, True)
    assert chat.size() == 4
    assert "truncated" in chat("verify").out


def test_verify_goes_on_where_the_last_run_ended(chat: Cli, tmp_path: Path):
    """Only what was added since is read, the tree before is compared; a set-back is found."""
    assert chat.fine("verify", "--since-last", "--json").json["checked"]["events"] == 4
    chat.fine("append", "a", "--content", "four", "--key", "k")
    chat.fine("branch", "a", "b", "--at", "2")
    report = chat.fine("verify", "--since-last", "--json").json
    assert (report["checked"]["events"], report["checked"]["frames"], report["size"]) == (2, 2, 6)
    assert chat.fine("verify", "--since-last", "--json").json["checked"]["events"] == 0
    assert chat.fine("verify", "--since-last", "--deep", "--json").json["checked"]["events"] == 6
    kept = audit_directory(chat.store) / "verified.json"
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "root": "00" * 32}))
    ended = chat("verify", "--since-last")
    assert (ended.code, "found sound before" in " ".join(ended.out.split())) == (1, True)


@pytest.mark.parametrize("content", ["", "x", "{}", '{"size": -1, "root": "", "deep": true}', None])
def test_a_damaged_note_of_the_last_run_stops_no_verification(chat: Cli, content: str | None):
    """Where nothing says how far the last run came, all is read; that is said, and kept anew."""
    chat.fine("verify", "--since-last")
    kept = audit_directory(chat.store) / "verified.json"
    sound = kept.read_text()
    if content is None:
        kept.unlink()
        kept.mkdir()
    else:
        kept.write_text(content)
    ended = chat("verify", "--since-last", "--json")
    assert (ended.code, ended.json["sound"], ended.json["checked"]["events"]) == (0, True, 4)
    said = "".join(ended.err.split())  # where lines break depends on how long the path is
    assert "warning:" in said and "verified.jsoncan'tberead,soallis" in said
    if content is not None:
        assert kept.read_text() == sound
        assert chat.fine("verify", "--since-last", "--json").json["checked"]["events"] == 0


# -- a new origin ----------------------------------------------------------------------------


def test_a_restored_store_gets_keys_of_its_own(chat: Cli, kept: Path, tmp_path: Path):
    """The kept head goes into its first fact; keygen puts the old keys away and makes new ones."""
    chat.fine("backup", str(tmp_path / "copy"))
    chat.fine("append", "a", "--content", "lost")
    last = chat.fine("checkpoint").out
    first = (kept / "verifier.pub").read_text()
    shutil.rmtree(chat.store)
    chat.fine("restore", str(tmp_path / "copy"), str(chat.store), "--reason", "disk lost")
    assert chat("checkpoint").code != 0
    chat.fine("keygen")
    (old,) = (path for path in kept.iterdir() if path.is_dir())
    assert (old / "verifier.pub").read_text() == first
    assert (old / "last.note").read_text() == last
    chat.fine("checkpoint")
    with EventStore.open(chat.store, read_only=True) as store:
        fact = list(store.events(SYSTEM))[1].event
        assert (fact.data["head"], fact.data["reason"]) == (last, "disk lost")
        assert (old.name, store.id) == (fact.data["origin"],) * 2
    assert chat.fine("verify", "--json").json["sound"]
    ended = chat("verify", "--head", str(old / "last.note"), "--key", str(old / "verifier.pub"))
    assert (ended.code, "rolled back" in ended.out) == (1, True)


# -- reports ---------------------------------------------------------------------------------


def test_a_report_for_machines(chat: Cli, kept: Path):
    """One line about the session, one for each fact, with what was recorded and its leaf."""
    head, *facts = chat.fine("audit-export", "a", "--json").lines
    assert (head["session"], head["events"], head["log_size"]) == ("a", 4, 4)
    assert head["note"] == (kept / "last.note").read_text()
    assert [fact["type"] for fact in facts] == ["SessionCreated", *["MessageAppended"] * 3]
    assert facts[2]["data"]["message"]["content"] == "two"


def test_a_report_is_no_evidence(chat: Cli, kept: Path, tmp_path: Path):
    """`check` of a report says what of it can be checked, and not that it is wrong."""
    page, lines = tmp_path / "a.html", tmp_path / "a.jsonl"
    chat.fine("audit-export", "a", "--html", str(page))
    chat.fine("audit-export", "a", "-o", str(lines))
    ended = chat("check", str(page), str(lines), "--json")
    assert ended.code == 2
    assert [each["proven"] for each in ended.json] == [None, None]
    assert all("a report to read" in each["says"] for each in ended.json)


def test_a_report_for_people(chat: Cli, kept: Path, tmp_path: Path):
    """One file, written whole, never over another unasked."""
    page = tmp_path / "a.html"
    chat.fine("audit-export", "a", "--html", str(page))
    assert page.read_text().startswith("<!doctype html>")
    chat.refused(2, "audit-export", "a", "--html", str(page))
    chat.fine("audit-export", "a", "--html", str(page), "--force")


# -- encrypted stores, and what goes for good ------------------------------------------------


@pytest.fixture
def sealed(cli: Cli, tmp_path: Path, monkeypatch) -> Cli:
    """Give a runner whose store is encrypted and was signed, with sessions `a` and `b`."""
    monkeypatch.setenv("EVENTSTORE_KEYRING", str(tmp_path / "keys" / "keyring"))
    cli.fine("init", "--encrypt")
    for session in ("a", "b"):
        cli.fine("create", session, "--user", "u")
        cli.fine("append", session, "--content", f"secret of {session}")
    cli.fine("keygen")
    cli.fine("checkpoint")
    return cli


def test_evidence_of_an_encrypted_store_outlives_an_erasure(sealed: Cli, tmp_path: Path):
    """Old proofs check after erase, the store verifies against old heads, the words are gone."""
    kept = audit_directory(sealed.store)
    files = [str(tmp_path / name) for name in ("old.note", "session", "event")]
    shutil.copy(kept / "last.note", files[0])
    sealed.fine("prove", "session", "a", "-o", files[1])
    sealed.fine("prove", "event", str(sealed.size() - 1), "-o", files[2])
    assert sealed.texts("a") == ["secret of a"]
    sealed.fine("erase", "a", "--reason", "asked for")
    assert sealed.fine("erase", "a", "--reason", "asked for", "--json").json["duplicate"]
    refusal = sealed.refused(1, "show", "a")
    assert "erased on 20" in refusal and "by user:" in refusal and ": asked for" in refusal
    assert sealed.texts("b") == ["secret of b"]
    assert [each["proven"] for each in sealed.fine("check", *files, "--json").json] == [True] * 3
    sealed.fine("checkpoint")
    assert sealed.fine("verify", "--deep", "--head", files[0], "--json").json["sound"]
    report = sealed.fine("audit-export", "a").out
    assert "secret" not in report
    assert report.count("were erased") == 2
    page = tmp_path / "a.html"
    sealed.fine("audit-export", "a", "--html", str(page))
    assert "were erased" in page.read_text()


def test_without_its_keyring_an_encrypted_store_is_checked_all_the_same(sealed: Cli, monkeypatch):
    """Verify against the kept head needs no key; writing ends with 2 and writes nothing."""
    monkeypatch.delenv("EVENTSTORE_KEYRING")
    assert sealed.fine("verify", "--json").json["checked"]["signed heads"] == 1
    sealed.refused(2, "append", "a", "--content", "x")
    sealed.refused(2, "disclose", str(sealed.size() - 1))


def test_a_hold_forbids_and_its_end_allows(sealed: Cli):
    """Held sessions, and sessions of held users, refuse erase and redact until it is cleared."""
    for hold in (["a"], ["--user", "u"]):
        sealed.fine("hold", "set", *hold, "--reason", "a case")
        assert "legal hold" in sealed.refused(1, "erase", "a", "--reason", "r")
        assert "legal hold" in sealed.refused(1, "redact", "a", "1")
        sealed.fine("hold", "clear", *hold)
    sealed.fine("redact", "a", "1", "--reason", "a slip")
    assert sealed.texts("a") == []
    sealed.fine("erase", "a", "--reason", "r")


def test_branches_that_would_lose_messages_are_named(sealed: Cli):
    """Erase says which branches show messages of the session, and goes on with --cascade only."""
    sealed.fine("branch", "a", "experiment")
    assert "experiment" in sealed.refused(2, "erase", "a", "--reason", "r")
    sealed.fine("erase", "a", "--reason", "r", "--cascade")
    assert sealed.texts("experiment") == []


def test_a_plain_store_can_redact_and_not_erase(chat: Cli):
    """Without encryption nothing can be destroyed for good, and the command says so."""
    chat.fine("redact", "a", "2")
    assert chat.texts("a") == ["one", "three"]
    assert "encrypted" in chat.refused(2, "erase", "a", "--reason", "r")


def test_redacting_tells_of_a_trained_dictionary(chat: Cli):
    """Where compression was trained before, the answer says what may still be in its dictionary."""
    words = [f'{{"role": "user", "content": "the price of {n} is {n * 7}"}}' for n in range(300)]
    chat.fine("append", "a", stdin="\n".join(words).encode())
    chat.fine("train-dictionary")
    done = chat("redact", "a", "9", "--json")
    assert done.code == 0 and done.json["version"]
    assert "dictionaries may hold pieces of it until 'eventstore compact'" in done.err
    chat.fine("append", "a", "--content", "more")


def test_a_restored_encrypted_store_records_its_origin_when_it_can(sealed: Cli, tmp_path: Path):
    """Restoring needs no keyring; the first command with it records the origin, sealed."""
    sealed.fine("backup", str(tmp_path / "copy"))
    sealed.fine("restore", str(tmp_path / "copy"), str(tmp_path / "made"))
    sealed.store = tmp_path / "made"
    size = sealed.size()
    sealed.fine("append", "b", "--content", "more")
    assert sealed.size() == size + 2
    assert "Custom  origin" in sealed.fine("log", SYSTEM).out
    assert sealed.fine("verify", "--deep", "--json").json["sound"]
