"""The command line: what each command answers, how it ends, and that bad input writes nothing."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from eventstore import EventStore
from eventstore.cli import run

AIRLINE = Path(__file__).parents[2] / "shared/data/tau_airline_conversations.json"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(__file__).parents[1]),
    "PYTHONWARNINGS": "error",
    "COLUMNS": "80",
}
COMMAND = [sys.executable, "-m", "eventstore.cli"]


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Cli:
    """Runs command lines in this process, against one store."""

    def __init__(self, store: Path, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch):
        self.store, self._capsys, self._patch = store, capsys, patch

    def __call__(self, *arguments: str, stdin: bytes = b"") -> Ended:
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        self._capsys.readouterr()
        code = run(["--store", str(self.store), *arguments])
        return Ended(code, *self._capsys.readouterr())

    def fine(self, *arguments: str, stdin: bytes = b"") -> Ended:
        ended = self(*arguments, stdin=stdin)
        assert (ended.code, ended.err) == (0, ""), (arguments, ended)
        return ended

    def refused(self, code: int, *arguments: str, stdin: bytes = b"") -> str:
        """Run what must fail: one line on stderr, nothing on stdout, nothing written."""
        before = self.size()
        ended = self(*arguments, stdin=stdin)
        assert ended.code == code, ended
        assert ended.out == ""
        assert ended.err.startswith("eventstore: ")
        assert ended.err.count("\n") == 1, ended.err
        assert self.size() == before
        return ended.err

    def size(self) -> int:
        if not self.store.exists():
            return 0
        with EventStore.open(self.store, read_only=True) as store:
            return store.head().size

    def texts(self, session: str, *moment: str) -> list[str]:
        shown = self.fine("show", session, "--json", *moment).json
        return [message["content"] for message in shown["messages"]]


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Give a runner of command lines."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("EVENTSTORE_PATH", raising=False)
    return Cli(tmp_path / "history", capsys, monkeypatch)


@pytest.fixture
def chat(cli: Cli, tmp_path_factory: pytest.TempPathFactory):
    """Give a runner whose store holds a session `a` with the messages one, two, three."""
    made_once = tmp_path_factory.getbasetemp() / "a chat"
    if not made_once.exists():
        cli.fine("create", "a", "--meta", "topic=python", "--meta", "n=3")
        for text in ("one", "two", "three"):
            cli.fine("append", "a", "--content", text)
        cli.store.rename(made_once)
    shutil.copytree(made_once, cli.store)
    return cli


# -- every mutation --------------------------------------------------------------------


def test_a_mutation_prints_its_receipt(cli: Cli):
    """With --json the receipt has the library's fields; for people it is one line."""
    receipt = cli.fine("create", "a", "--json").json
    assert receipt == {
        "session": "a",
        "first_version": 0,
        "version": 0,
        "position": 0,
        "recorded_at": receipt["recorded_at"],
        "tree_size": 1,
        "duplicate": False,
    }
    assert "version 1, position 1" in cli.fine("append", "a", "--content", "x").out


MUTATIONS = [
    (["append", "a", "--role", "assistant", "--content", "four"], "MessageAppended"),
    (["branch", "a", "b", "--at", "2", "--name", "again", "--description", "d"], "BranchCreated"),
    (["prune", "a", "--keep-last", "1", "--reason", "short"], "MessagesPruned"),
    (["prune", "a", "--message", "a#2"], "MessagesPruned"),
    (["prune", "a", "--before", "2100-01-01T00:00:00Z"], "MessagesPruned"),
    (["summarize", "a", "they counted", "--upto", "2"], "HistorySummarized"),
    (["summarize", "a", "they counted", "--upto", "a#2"], "HistorySummarized"),
    (["meta", "a", "topic=null", "pinned=true", 'tags=["x"]'], "MetadataUpdated"),
    (["set-context", "a", "step=4"], "ContextSet"),
    (["record", "a", "shop.paid", '{"cents": 3}'], "Custom"),
    (["record-tool-call", "a", "search", "--arguments", '{"q": 1}'], "ToolCallRecorded"),
    (["record-error", "a", "timeout", "too slow", "--detail", "[1]"], "ErrorRecorded"),
    (["rewind", "a", "1"], "SessionRewound"),
    (["undo", "a"], "SessionRewound"),
    (["close", "a", "--reason", "done"], "SessionClosed"),
    (["archive", "a"], "SessionArchived"),
    (["delete", "a"], "SessionDeleted"),
    (["extend-ttl", "a", "2h"], "TtlExtended"),
    (["extend-ttl", "a", "never"], "TtlExtended"),
]


@pytest.mark.parametrize(("arguments", "kind"), MUTATIONS, ids=lambda each: str(each)[:30])
def test_each_mutation_records_one_fact_as_its_options_say(
    chat: Cli, arguments: list[str], kind: str
):
    """Every mutation takes actor, ids, key and expected version, and writes its kind of fact."""
    options = ["--actor", "me", "--correlation-id", "c1", "--causation-id", "c2", "--key", "k1"]
    receipt = chat.fine(*arguments, *options, "--expected", "3", "--json").json
    fact = chat.fine("log", "--from", str(receipt["position"]), "--json").json
    assert fact["type"] == kind
    assert fact["session"] == receipt["session"]
    assert (fact["actor"], fact["correlation_id"], fact["causation_id"]) == ("me", "c1", "c2")
    again = chat.fine(*arguments, *options, "--expected", "3", "--json").json
    assert again == {**receipt, "duplicate": True}


def test_what_mutations_do_shows(chat: Cli):
    """Branch, append, merge, prune and undo from the command line give the state they should."""
    chat.fine("branch", "a", "b", "--at", "1")
    chat.fine("append", "b", "--content", "other")
    assert chat.texts("b") == ["one", "other"]
    chat.fine("merge", "b", "--into", "a")
    assert chat.texts("a") == ["one", "two", "three", "other"]
    chat.fine("prune", "a", "--keep-last", "1")
    assert chat.texts("a") == ["other"]
    chat.fine("undo", "a")
    assert chat.texts("a") == ["one", "two", "three", "other"]
    assert chat.texts("a", "--at-version", "2") == ["one", "two"]
    chat.fine("summarize", "a", "counted", "--upto", "3")
    assert chat.texts("a") == ["counted", "other"]
    squash = ("--strategy", "squash", "--summary", "in short")
    chat.fine("append", "b", "--content", "more")
    chat.fine("merge", "b", "--into", "a", *squash)
    assert chat.texts("a") == ["counted", "other", "in short"]


def test_metadata_and_context_take_json_or_text(chat: Cli):
    """key=value is JSON where it parses, else text; null removes."""
    chat.fine("meta", "a", "n=null", "x=1.5", "y=[1]", "z=hello = world", "w=NaN")
    chat.fine("set-context", "a", "step={}")
    shown = chat.fine("show", "a", "--json").json
    assert shown["metadata"] == {
        "topic": "python",
        "x": 1.5,
        "y": [1],
        "z": "hello = world",
        "w": "NaN",
    }
    assert shown["context"] == {"step": {}}


def test_create_takes_all_that_a_session_is_made_with(cli: Cli):
    """Options of create land in the session; without a name it gets one."""
    made = cli.fine(
        *("create", "--user", "7", "--ttl", "12h", "--max-messages", "9", "--token-limit", "100"),
        *("--template", "dm", "--context", "step=1", "--meta", "a=b", "--json"),
    ).json
    shown = cli.fine("show", made["session"], "--json").json
    assert (shown["user"], shown["ttl"], shown["max_messages"]) == ("7", 43_200, 9)
    assert (shown["token_limit"], shown["template"]) == (100, "dm")
    assert (shown["context"], shown["metadata"]) == ({"step": 1}, {"type": "dm", "a": "b"})
    assert "no template 'magic'" in cli.refused(2, "create", "--template", "magic")


# -- append from stdin -----------------------------------------------------------------

LINES = (
    b'{"role":"user","content":"hi"}\n\n{"role":"assistant","content":"ho","x":[1,{"y":null}]}\n'
)


@pytest.mark.parametrize(
    "given", [LINES, json.dumps([json.loads(x) for x in LINES.split(b"\n") if x]).encode()]
)
def test_stdin_is_one_append(chat: Cli, given: bytes):
    """JSON lines, or a JSON array, on stdin become one atomic append, untouched."""
    receipt = chat.fine("append", "a", "--json", stdin=given).json
    assert (receipt["first_version"], receipt["version"]) == (4, 5)
    shown = chat.fine("show", "a", "--last", "1", "--json").json
    assert shown["messages"] == [
        {"id": "a#5", "role": "assistant", "content": "ho", "x": [1, {"y": None}]}
    ]


BAD_STDIN = {
    "empty": b"",
    "not JSON": b"hello\n",
    "second line cut": LINES + b'{"role": "user", "cont',
    "not UTF-8": b'{"role":"user","content":"\xff\xfe"}\n',
    "no object": b'{"role":"user","content":"x"}\n3\n',
    "NaN": b'{"role":"user","content":NaN}\n',
    "too large a number": b'{"x":' + b"9" * 5_000 + b"}\n",
    "infinite": b'{"x":1e999}\n',
    "lone surrogate": b'{"role":"user","content":"\\ud800"}\n',
    "nested 100 deep": b'{"x":' + b"[" * 100 + b"]" * 100 + b"}\n",
    "nested 100,000 deep": b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    "role no text": b'{"role":3}\n',
    "array of texts": b'["a","b"]',
    "huge": b'{"content":"' + b"x" * (9 << 20) + b'"}\n',
}


@pytest.mark.parametrize("name", BAD_STDIN)
def test_bad_stdin_writes_nothing(chat: Cli, name: str):
    """Whatever is wrong in any line, exit 2, one line says so, and no message of it is kept."""
    chat.refused(2, "append", "a", stdin=BAD_STDIN[name])


# -- how it ends -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (1, ["show", "nobody"]),
        (1, ["append", "nobody", "--content", "x"]),
        (1, ["create", "a"]),
        (1, ["append", "a", "--content", "x", "--expected", "0"]),
        (1, ["append", "a", "--content", "x", "--expected", "none"]),
        (1, ["merge", "a", "--into", "nobody"]),
        (1, ["show", "a", "--at-time", "1999-01-01T00:00:00Z"]),
        (2, ["append", "a", "--content", "x", "--expected", "soon"]),
        (2, ["append", "a", "--content", "x", "--expected"]),
        (2, ["append", "", "--content", "x"]),
        (2, ["append", "a", "--content", "x", "--key", ""]),
        (2, ["append", "a", "--content", "x", "--actor", "a\x1b[2J"]),
        (2, ["append", "a", "--content", "\udcff"]),
        (2, ["append", "a\udcff", "--content", "x"]),
        (2, ["append", "a", "--content", "x", "--occurred-at", "yesterday"]),
        (2, ["append"]),
        (2, ["create", "b\x07"]),
        (2, ["create", "x" * 256]),
        (2, ["create", "b", "--meta", "novalue"]),
        (2, ["create", "b", "--ttl", "soon"]),
        (2, ["create", "b", "--ttl", "nan"]),
        (2, ["create", "b", "--ttl", "-1"]),
        (2, ["create", "b", "--max-messages", "many"]),
        (2, ["show", "a", "--at-version", "99"]),
        (2, ["show", "a", "--at-version", "-1"]),
        (2, ["show", "a", "--at-version", "1", "--at-position", "1"]),
        (2, ["show", "a", "--at-time", "2026-01-01"]),
        (2, ["show", "a", "--last", "-1"]),
        (2, ["rewind", "a", "99"]),
        (2, ["rewind", "a", "9" * 30]),
        (2, ["prune", "a"]),
        (2, ["prune", "a", "--keep-last", "1", "--before", "0"]),
        (2, ["prune", "a", "--message", "a#99"]),
        (2, ["summarize", "a", "s", "--upto", "0"]),
        (2, ["merge", "a", "--into", "a"]),
        (2, ["merge", "a", "--into", "b", "--strategy", "magic"]),
        (2, ["branch", "a", "b", "--at", "77"]),
        (2, ["set-context", "a", "k"]),
        (2, ["record", "a", "t", "{"]),
        (2, ["log", "--type", "Nonsense"]),
        (2, ["export", "--format", "magic"]),
        (2, ["export", "--format", "json"]),
        (2, ["export", "--at-version", "1"]),
        (1, ["export", "nobody"]),
        (2, ["sessions", "--order", "magic"]),
        (2, ["sessions", "--status", "magic"]),
        (2, ["nonsense"]),
        (2, ["show", "a", "--nonsense"]),
    ],
    ids=lambda each: " ".join(each)[:40] if isinstance(each, list) else str(each),
)
def test_refusals(chat: Cli, code: int, arguments: list[str]):
    """No is 1, wrong usage is 2; one line on stderr, no traceback, nothing written."""
    chat.refused(code, *arguments)


def test_errors_for_machines(chat: Cli):
    """With --json the line on stderr is JSON with the error's name and its numbers."""
    ended = chat("append", "a", "--content", "x", "--expected", "7", "--json")
    assert (ended.code, ended.out) == (1, "")
    told = json.loads(ended.err)
    assert "expected session 'a' at 7" in told.pop("message")
    assert told == {"error": "VersionConflict", "session": "a", "expected": 7, "actual": 3}


def test_a_reused_key_is_refused(chat: Cli):
    """The same key with other content: exit 1."""
    chat.fine("append", "a", "--content", "x", "--key", "k")
    assert "fresh key" in chat.refused(1, "append", "a", "--content", "y", "--key", "k")


def test_a_merge_conflict_names_the_keys(chat: Cli):
    """Both sides changed a key: exit 1 and its name; --on-conflict settles it."""
    chat.fine("branch", "a", "b")
    chat.fine("meta", "a", "topic=rust")
    chat.fine("meta", "b", "topic=go")
    assert "metadata.topic" in chat.refused(1, "merge", "b", "--into", "a")
    chat.fine("merge", "b", "--into", "a", "--on-conflict", "theirs")
    assert chat.fine("show", "a", "--json").json["metadata"]["topic"] == "go"


def test_a_deleted_session_is_shown_only_in_its_past(chat: Cli):
    """Deleted: show says no, an explicit moment still answers."""
    chat.fine("delete", "a")
    chat.refused(1, "show", "a")
    assert chat.texts("a", "--at-version", "3") == ["one", "two", "three"]


# -- where the store is ----------------------------------------------------------------


READS = [
    ["show", "a"],
    ["log"],
    ["log", "a"],
    ["tail"],
    ["sessions"],
    ["tree", "a"],
    ["diff", "a", "b"],
    ["blame", "a"],
    ["stats"],
    ["stats", "a"],
    ["verify"],
]


NOT_MADE = [
    *READS,
    ["append", "a", "--content", "x"],
    ["undo", "a"],
    ["create", ""],
    ["create", "a", "--ttl", "-1"],
    ["create", "a", "--meta", "x"],
]


@pytest.mark.parametrize("arguments", NOT_MADE, ids=" ".join)
def test_only_makers_make_a_store(cli: Cli, arguments: list[str]):
    """Looking, changing what is not there, a bad create: exit 2, and no directory is made."""
    cli.refused(2, *arguments)
    assert not cli.store.exists()


def test_other_directories_are_left_alone(cli: Cli):
    """A directory with other files is no store and does not become one."""
    cli.store.mkdir()
    (cli.store / "diary.txt").write_text("dear diary")
    for arguments in (["create", "a"], ["log"], ["init"], ["append", "a", "--content", "x"]):
        ended = cli(*arguments)
        assert (ended.code, ended.out) == (2, "")
    assert [path.name for path in cli.store.iterdir()] == ["diary.txt"]


def test_a_newer_format_is_refused(chat: Cli):
    """A store of a newer release: exit 2, and the line says to upgrade."""
    marker = chat.store / "eventstore.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "format": 99}))
    for arguments in (["show", "a"], ["append", "a", "--content", "x"], ["verify"]):
        ended = chat(*arguments)
        assert (ended.code, ended.out) == (2, "")
        assert "format 99" in ended.err


def test_the_store_is_named_in_four_ways(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """--store after the command, before it, EVENTSTORE_PATH, ./history: the first given counts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVENTSTORE_PATH", "by-env")
    assert run(["create", "a"]) == 0
    assert run(["--store", "before", "create", "a"]) == 0
    assert run(["--store", "before", "create", "a", "--store", "after"]) == 0
    monkeypatch.delenv("EVENTSTORE_PATH")
    assert run(["create", "a"]) == 0
    made = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert made == {"by-env", "before", "after", "history"}


def test_reading_works_beside_a_writer(chat: Cli):
    """While another process has the store open and writes, every reading command answers."""
    script = (
        "import sys; from eventstore import EventStore; s = EventStore.open(sys.argv[1]);"
        "s.append('a', {'role': 'user', 'content': 'theirs'}); print('up', flush=True);"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(chat.store)],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"up\n"
        assert chat.texts("a")[-1] == "theirs"
        chat.fine("append", "a", "--content", "ours")
        for arguments in READS:
            if arguments[0] != "diff":
                chat.fine(*arguments)
        other.stdin.close()
        assert other.wait(20) == 0


# -- looking ---------------------------------------------------------------------------


def test_show_reaches_every_moment(chat: Cli):
    """By version, by position and by time: the messages that were current then."""
    facts = chat.fine("log", "a", "--json").lines
    for fact in facts:
        expected = ["one", "two", "three"][: fact["version"]]
        assert chat.texts("a", "--at-version", str(fact["version"])) == expected
        assert chat.texts("a", "--at-position", str(fact["position"])) == expected
        assert chat.texts("a", "--at-time", str(fact["recorded_at"])) == expected
    assert chat.texts("a", "--last", "2") == ["two", "three"]


def test_people_see_the_newest_messages_first_asked(chat: Cli):
    """Without --json a long session shows its last 20 and says how many came before."""
    chat.fine("append", "a", stdin=b"".join(b'{"content":"line %d"}\n' % n for n in range(30)))
    shown = chat.fine("show", "a").out
    assert "13 earlier messages" in shown
    assert "line 29" in shown
    assert "line 9 " not in shown
    assert "line 0" in chat.fine("show", "a", "--all").out


def test_log_lists_facts_in_order(chat: Cli):
    """log: all or one session, from a place, some types, newest first, a limit."""
    chat.fine("branch", "a", "b")
    facts = chat.fine("log", "--json").lines
    assert [fact["position"] for fact in facts] == list(range(5))
    assert facts[1]["event"] == {
        "type": "MessageAppended",
        "message": {"fields": {"role": "user", "content": "one"}, "id": "a#1"},
        "tokens": 1,
    }
    assert [fact["version"] for fact in chat.fine("log", "a", "-r", "-n2", "--json").lines] == [
        3,
        2,
    ]
    kinds = chat.fine("log", "--type", "BranchCreated", "--json").lines
    assert [fact["session"] for fact in kinds] == ["b"]
    assert "BranchCreated" in chat.fine("log").out


def test_tail_begins_with_the_newest(chat: Cli):
    """Tail -n: the newest facts, oldest of them first."""
    assert [fact["position"] for fact in chat.fine("tail", "-n2", "--json").lines] == [2, 3]
    assert [fact["version"] for fact in chat.fine("tail", "a", "-n1", "--json").lines] == [3]
    assert "three" in chat.fine("tail").out


def test_sessions_are_listed_and_filtered(chat: Cli):
    """sessions: newest first; by user, metadata and status; archived ones only when asked for."""
    chat.fine("create", "b", "--user", "7")
    chat.fine("create", "c")
    chat.fine("archive", "c")
    names = [row["session"] for row in chat.fine("sessions", "--json").lines]
    assert names == ["b", "a"]
    for option, name in (("--user=7", "b"), ("--where=n=3", "a"), ("--status=archived", "c")):
        rows = chat.fine("sessions", option, "--json").lines
        assert [row["session"] for row in rows] == [name]
    assert "archived" in chat.fine("sessions", "--status", "archived").out
    assert "the first 1" in chat.fine("sessions", "-n1").out


def test_tree_shows_branches_and_merges(chat: Cli):
    """tree: drawn from any member; with --at-position as it was."""
    chat.fine("branch", "a", "b", "--at", "1", "--name", "again")
    chat.fine("append", "b", "--content", "x")
    receipt = chat.fine("merge", "b", "--into", "a", "--json").json
    drawn = chat.fine("tree", "b").out
    assert "└── b  2 messages" in drawn
    assert "“again”, from version 1" in drawn
    assert "merged into a at version 4, by append" in drawn
    found = chat.fine("tree", "a", "--json").json
    assert [node["session"] for node in found["nodes"]] == ["a", "b"]
    before = str(receipt["position"] - 1)
    assert chat.fine("tree", "a", "--at-position", before, "--json").json["merges"] == []


def test_diff_compares_sessions_and_moments(chat: Cli):
    """diff: A and B, or SESSION@VERSION on either side."""
    chat.fine("branch", "a", "b", "--at", "2")
    chat.fine("append", "b", "--content", "other")
    found = chat.fine("diff", "a", "b", "--json").json
    assert (found["common"], found["shared"]) == (2, 2)
    assert [message["content"] for message in found["only_b"]] == ["other"]
    drawn = chat.fine("diff", "a@1", "a").out
    assert "+ user: two" in drawn
    assert "no difference" in chat.fine("diff", "a", "a@3").out


def test_blame_names_the_fact_behind_each_message(chat: Cli):
    """blame: position and actor of every visible message and value."""
    chat.fine("append", "a", "--content", "four", "--actor", "me")
    found = chat.fine("blame", "a", "--json").json
    assert [each["origin"]["position"] for each in found["messages"]] == [1, 2, 3, 4]
    assert found["messages"][3]["origin"]["actor"] == "me"
    assert "metadata.topic" in chat.fine("blame", "a").out


def test_stats_count(chat: Cli):
    """stats: of the store, of a session, and of a past moment."""
    chat.fine("create", "b")
    assert chat.fine("stats", "--json").json["messages"] == 3
    assert chat.fine("stats", "b", "--json").json["messages"] == 0
    assert chat.fine("stats", "--at-position", "1", "--json").json["messages"] == 1
    assert "messages by role" in chat.fine("stats").out


def test_what_is_in_a_store_can_not_command_the_terminal(chat: Cli):
    """Escape sequences, direction overrides and markup in messages come out as plain marks."""
    chat.fine("append", "a", "--content", "\x1b[2J\x9b1m \u202e gnp [red]not red[/red] \r\x08")
    chat.fine("meta", "a", "k=\x1b]0;title\x07")
    for arguments in (["show", "a"], ["log"], ["tail"], ["blame", "a"], ["diff", "a@1", "a"]):
        out = chat.fine(*arguments).out
        assert not {"\x1b", "\x9b", "\u202e", "\r", "\x08", "\x07"} & set(out)
    assert "[red]not red[/red]" in chat.fine("show", "a").out


@pytest.mark.parametrize("arguments", READS, ids=" ".join)
@pytest.mark.parametrize("width", [40, 80])
def test_narrow_terminals_are_enough(
    chat: Cli, arguments: list[str], width: int, monkeypatch: pytest.MonkeyPatch
):
    """No line is wider than the terminal."""
    monkeypatch.setenv("COLUMNS", str(width))
    chat.fine("branch", "a", "b", "--name", "a rather long name of a branch")
    chat.fine("append", "a", stdin=json.dumps({"content": "word " * 60}).encode())
    out = chat.fine(*arguments).out
    assert max(len(line) for line in out.splitlines()) <= width


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


def test_an_output_file_appears_whole_or_not_at_all(chat: Cli, tmp_path: Path):
    """An existing file stays unless --force; a failed export leaves no file."""
    file = tmp_path / "out.jsonl"
    file.write_text("mine")
    assert "--force" in chat.refused(2, "export", "-o", str(file))
    assert file.read_text() == "mine"
    chat.refused(1, "export", "a", "nobody", "--format", "json", "-o", str(tmp_path / "new"))
    chat.refused(2, "export", "a", "-o", str(tmp_path / "no" / "such" / "place"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history", "out.jsonl"]
    chat.fine("export", "-o", str(file), "--force")
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


def test_missing_files_are_refused(cli: Cli, tmp_path: Path):
    """A file that is missing or a directory: exit 2, and no store is made."""
    cli.refused(2, "import", str(tmp_path / "missing.json"))
    cli.refused(2, "import", str(tmp_path))
    cli.refused(2, "import", str(tmp_path / "missing.json"), "--format", "magic")
    assert not cli.store.exists()


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


# -- whole processes -------------------------------------------------------------------


def start(*arguments: str, environment: dict[str, str] | None = None) -> "subprocess.Popen[bytes]":
    """Start a command line as a process of its own."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*COMMAND, *arguments],
        env={**ENVIRONMENT, **(environment or {})},
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
    )


def test_following_prints_what_comes_and_stops_quietly(chat: Cli):
    """Tail --follow prints facts of other processes; Ctrl-C ends it with 130, no traceback."""
    with start("tail", "--follow", "-n1", "--json", "--store", str(chat.store)) as following:
        assert following.stdout is not None
        assert json.loads(following.stdout.readline())["version"] == 3
        chat.fine("append", "a", "--content", "news")
        assert json.loads(following.stdout.readline())["version"] == 4
        following.send_signal(signal.SIGINT)
        _, err = following.communicate(timeout=20)
    assert (following.returncode, err) == (130, b"eventstore: interrupted\n")


def test_a_closed_pipe_is_quiet(chat: Cli):
    """When the reader goes away the command ends with 141 and says nothing."""
    many = b"".join(b'{"content":"line %d%s"}\n' % (n, b" of many" * 30) for n in range(1_000))
    chat.fine("append", "a", stdin=many)
    for arguments in (["log", "--json"], ["show", "a", "--all"]):
        with start(*arguments, "--store", str(chat.store)) as command:
            assert command.stdout is not None
            assert command.stderr is not None
            command.stdout.readline()
            command.stdout.close()
            assert command.wait(20) == 141
            assert command.stderr.read() == b""


def test_whole_processes(tmp_path: Path):
    """JSON lines in, a receipt out; colour only where it is wanted; any locale will do."""
    store = ("--store", str(tmp_path / "s"))

    def ended(*arguments: str, **environment: str) -> bytes:
        command = start(*arguments, *store, environment=environment)
        out, err = command.communicate(LINES, timeout=30)
        assert (command.returncode, err) == (0, b"")
        return out

    with EventStore.open(tmp_path / "s") as made:
        made.create("a")
    assert json.loads(ended("append", "a", "--json"))["version"] == 2
    assert b"\x1b[" not in ended("show", "a")
    assert b"\x1b[" in ended("show", "a", FORCE_COLOR="1")
    assert b"\x1b[3" not in ended("show", "a", FORCE_COLOR="1", NO_COLOR="1")
    ended("show", "a", LC_ALL="C", PYTHONIOENCODING="ascii")
