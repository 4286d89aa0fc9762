"""Care and files of the command line: stores made and checked, imports, exports, backups."""

import gzip
import json
from pathlib import Path
from zipfile import ZipFile

import pytest
from commands import Cli

from eventstore import EventStore

AIRLINE = Path(__file__).parents[2] / "shared/data/tau_airline_conversations.json"


# -- care ------------------------------------------------------------------------------


def test_init_makes_a_store_once(cli: Cli):
    """init: an empty store; again, the same one."""
    made = cli.fine("init", "--json").json
    assert made["size"] == 0
    assert cli.fine("init", "--json").json == made


def test_verify_says_sound(chat: Cli):
    """Verify and verify --deep: exit 0, the size and the root."""
    chat.fine("sessions")
    with EventStore.open(chat.store, read_only=True) as store:
        head = store.head()
    for arguments in (["verify", "--json"], ["verify", "--deep", "--json"]):
        report = chat.fine(*arguments).json
        assert (report["sound"], report["size"]) == (True, 4)
        assert report["root"] == head.root.hex()
    assert "sound" in chat.fine("verify").out


def test_verify_names_a_flipped_value(chat: Cli):
    """A bit of a stored message flipped by hand: verify ends with 1 and names its position."""
    with EventStore.open(chat.store, read_only=True) as store:
        raw = store.log.read_all(3)[0].raw
    file = chat.store / "log" / "data.mdb"
    content = file.read_bytes()
    assert raw in content
    file.write_bytes(content.replace(raw, raw[:-1] + bytes([raw[-1] ^ 1])))
    ended = chat("verify", "--json")
    assert (ended.code, ended.json["sound"]) == (1, False)
    assert 3 in [finding[0] for finding in ended.json["findings"]]
    ended = chat("verify")
    assert ended.code == 1
    assert "position 3" in ended.out


def test_train_dictionary_says_its_number(chat: Cli):
    """train-dictionary: a dictionary of this store, which reads on as before."""
    chat.fine("append", "a", stdin=b"".join(b'{"content":"line %d"}\n' % n for n in range(300)))
    before = chat.fine("show", "a", "--json").json
    assert chat.fine("train-dictionary", "--json").json["dictionary"] > 1
    assert chat.fine("show", "a", "--json").json == before
    chat.fine("append", "a", "--content", "line 1000")
    chat.fine("verify", "--deep")


# -- files and copies ------------------------------------------------------------------


@pytest.mark.skipif(not AIRLINE.exists(), reason="needs ../shared/data")
def test_tau_bench_comes_in_and_goes_out_equal(cli: Cli):
    """Import of the airline trajectories, deep verify, and every message out as it came in."""
    told = cli.fine("import", str(AIRLINE), "--json").json
    assert (told["format"], told["sessions"] + told["branches"]) == ("tau", 200)
    assert cli.fine("verify", "--deep", "--json").json["sound"]
    out = cli.fine("export", "airline-task-7", "airline-task-7-trial-2", "--format", "json").lines
    trials = {
        (each["task_id"], each["trial"]): each["traj"] for each in json.loads(AIRLINE.read_bytes())
    }
    assert [each["messages"] for each in out] == [trials[7, 0], trials[7, 2]]


def test_jsonl_carries_a_whole_store(chat: Cli, tmp_path: Path):
    """export, then import into a new store: the same root."""
    chat.fine("branch", "a", "b", "--at", "2")
    file = tmp_path / "all.jsonl"
    chat.fine("export", "-o", str(file))
    root = chat.fine("verify", "--json").json["root"]
    chat.store = tmp_path / "other"
    chat.fine("import", str(file))
    assert chat.fine("verify", "--json").json["root"] == root


def test_chat_goes_round(chat: Cli, tmp_path: Path):
    """Messages out as JSON lines and in again under another name are the same messages."""
    file = tmp_path / "again.jsonl"
    chat.fine("export", "a", "--format", "chat", "--at-version", "2", "-o", str(file))
    chat.fine("import", str(file), "--name", "c")
    assert chat.texts("c") == ["one", "two"]
    assert "three" in chat.fine("export", "a", "--format", "markdown").out


def test_our_own_lines_have_one_name(chat: Cli, tmp_path: Path):
    """What export calls jsonl, import calls jsonl; JSON lines of others under it are refused."""
    file = tmp_path / "all.jsonl"
    chat.fine("export", "--format", "jsonl", "-o", str(file))
    chat.store = tmp_path / "other"
    assert chat.fine("import", str(file), "--format", "jsonl", "--json").json["format"] == "jsonl"
    lines = b'{"role": "user", "content": "one"}\n{"role": "user", "content": "two"}\n'
    assert "none of ours" in chat.refused(2, "import", "-", "--format", "jsonl", stdin=lines)


def test_stdin_is_a_file_like_others(cli: Cli):
    """`import -` takes what comes in, names it, and says what is wrong with it as of any file."""
    lines = b'{"role": "user", "content": "one"}\n{"role": "user", "content": "two"}\n'
    told = cli.fine("import", "-", "--json", stdin=lines).json
    assert (told["file"], told["format"], told["messages"]) == ("-", "chat", 2)
    assert cli.texts("stdin") == ["one", "two"]
    cli.fine("import", "-", "--name", "again", stdin=lines)
    assert cli.texts("again") == ["one", "two"]
    size = cli.size()
    assert ": stdin is empty" in cli.refused(2, "import", "-")
    assert "is not JSON" in cli.refused(2, "import", "-", "--format", "jsonl", stdin=b"{")
    assert cli.size() == size


def test_an_output_file_appears_whole_or_not_at_all(chat: Cli, tmp_path: Path):
    """An existing file stays unless --force; a failed export leaves no file."""
    file = tmp_path / "out.jsonl"
    file.write_text("mine")
    assert "--force" in chat.refused(2, "export", "-o", str(file))
    assert file.read_text() == "mine"
    chat.refused(1, "export", "a", "nobody", "--format", "json", "-o", str(tmp_path / "new"))
    chat.refused(2, "export", "a", "-o", str(tmp_path / "no" / "such" / "place"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history", "out.jsonl"]
    told = chat.fine("export", "-o", str(file), "--force").out
    assert told == f"✓ {file}: 4 facts\n"
    assert len(file.read_bytes().splitlines()) == 4


BAD_FILES = {
    "empty": b"",
    "not JSON": b"hello",
    "other JSON": b'{"a": 1}',
    "not UTF-8": b'[{"role":"user","content":"\xff"}]',
    "cut": b'[{"role":"user","content":"x"},',
    "no message": b'[{"role":"user","content":"x"}, 3]',
    "nested 100 deep": b'[{"role":"user","x":' + b"[" * 100 + b"]" * 100 + b"}]",
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused(chat: Cli, tmp_path: Path, name: str):
    """What is no conversation: exit 2, one line, nothing written, and no store made for it."""
    file = tmp_path / "bad.json"
    file.write_bytes(BAD_FILES[name])
    chat.refused(2, "import", str(file))


def test_an_archive_is_to_be_unpacked(cli: Cli, tmp_path: Path):
    """An export comes as a ZIP, old logs as .gz: the line says what to do with them."""
    with ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("conversations.json", "[]")
    (tmp_path / "log.gz").write_bytes(gzip.compress(b"{}"))
    for name in ("export.zip", "log.gz"):
        assert "is an archive; unpack it" in cli.refused(2, "import", str(tmp_path / name))
    assert not cli.store.exists()


def test_missing_files_are_refused(cli: Cli, tmp_path: Path):
    """A file that is missing or a directory: exit 2, and no store is made."""
    cli.refused(2, "import", str(tmp_path / "missing.json"))
    cli.refused(2, "import", str(tmp_path))
    cli.refused(2, "import", str(tmp_path / "missing.json"), "--format", "magic")
    assert not cli.store.exists()


def test_a_backup_is_looked_at_and_left_as_it_is(chat: Cli, tmp_path: Path):
    """Whatever looks at a backup writes nothing there; what would write is refused."""
    copy = tmp_path / "copy"
    chat.fine("backup", str(copy))
    before = {each: each.read_bytes() for each in copy.rglob("*.mdb")}
    plan = ["prune-sessions", "--strategy", "lru", "--max-sessions", "1"]
    for looking in (["sessions"], ["stats"], ["tree", "a"], ["show", "a"], ["templates"], plan):
        assert chat.fine("--store", str(copy), *looking).out
    for writing in (["append", "a", "--content", "x"], ["create", "b"], ["compact"], ["init"]):
        ended = chat("--store", str(copy), *writing)
        assert (ended.code, ended.out) == (2, "")
        assert "is a backup; restore it into a new store" in ended.err
    assert before == {each: each.read_bytes() for each in copy.rglob("data.mdb")}
    assert not (copy / "views").exists()


def test_a_backup_with_increments_says_what_it_shows(chat: Cli, tmp_path: Path):
    """Looking at one shows the full backup, and says so; writing to it is refused."""
    copy = str(tmp_path / "copy")
    chat.fine("backup", copy)
    chat.fine("append", "a", "--content", "four")
    chat.fine("backup", copy, "--incremental")
    for looking in (["sessions"], ["show", "a"], ["stats"]):
        ended = chat("--store", copy, *looking)
        assert (ended.code, ended.err.count("\n")) == (0, 1)
        assert "the full backup alone; restore it" in ended.err
    ended = chat("--store", copy, "append", "a", "--content", "five")
    assert (ended.code, ended.out) == (2, "")
    assert "restore it into a new store" in ended.err
    chat.fine("append", "a", "--content", "five")
    chat.fine("backup", copy, "--incremental")


def test_backup_and_restore(chat: Cli, tmp_path: Path):
    """A backup and what is restored from it have the root of the original; nothing is replaced."""
    root = chat.fine("verify", "--json").json["root"]
    made = chat.fine("backup", str(tmp_path / "copy"), "--json").json
    assert (made["size"], made["root"]) == (4, root)
    chat.refused(2, "backup", str(tmp_path / "copy"))
    chat.fine("restore", str(tmp_path / "copy"), str(tmp_path / "new"))
    chat.refused(2, "restore", str(tmp_path / "nothing"), str(tmp_path / "newer"))
    chat.store = tmp_path / "new"
    assert chat.texts("a") == ["one", "two", "three"]
    chat.fine("append", "a", "--content", "four")
    assert chat.fine("verify", "--json").json["size"] == 7  # and two facts that begin its origin
