"""The command line: how it ends, which store it takes, and how it behaves among processes."""

import json
import re
import shlex
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from commands import COMMAND, ENVIRONMENT, LINES, READS, Cli, start

from eventstore import EventStore
from eventstore.cli import run

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
        (2, ["show", "a", "--at-position", "99"]),
        (2, ["tree", "a", "--at-position", "99"]),
        (2, ["stats", "--at-position", "99"]),
        (2, ["show", "a", "--at-version", "1", "--at-position", "1"]),
        (2, ["show", "a", "--at-time", "2026-01-01"]),
        (2, ["show", "a", "--at-time", "2026"]),
        (2, ["prune", "a", "--before", "1767225600"]),
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
        (2, ["log", "--reverse"]),
        (2, ["log", "--from", "-1"]),
        (2, ["export", "--format", "magic"]),
        (2, ["export", "--format", "json"]),
        (2, ["export", "a", "-o", "nowhere/a.jsonl"]),
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


@pytest.mark.parametrize(
    ("told", "arguments"),
    [
        ("choose --on-conflict ours or --on-conflict theirs", "merge b --into a"),
        ("--on-conflict must be one of error, ours", "merge b --into a --on-conflict magic"),
        ("--strategy must be one of append,", "merge b --into a --strategy magic"),
        ("--keep-last must be a whole number", "prune a --keep-last -1"),
        ("exactly one of --keep-last, --message and --before", "prune a"),
        ("one moment: --at-version, --at-position or", "show a --at-version 1 --at-position 1"),
        ("--ttl must be above 0", "create c --ttl -1"),
        ("--max-messages must be a whole number above 0", "create c --max-messages 0"),
        ("--key must not be empty", "append a --content x --key="),
        ("--duration-ms must be 0 to", "record-tool-call a t --duration-ms -1"),
        ("--max-tokens must be a whole number", "context a --max-tokens 0"),
        ("--then must be 'archive' or", "prune-sessions --strategy ttl --then magic"),
        ("be read (--at-version, --at-time)", "append gone --content x"),
        ("--at-version needs the session", "stats --at-version 3"),
        ("; extend-ttl makes it usable", "append late --content x"),
        ("changed metadata.max_tokens;", "merge d --into a"),
        ("session 'keep_last=' does not", "show keep_last="),
    ],
)
def test_errors_name_what_is_typed(chat: Cli, told: str, arguments: str):
    """An error names options and commands as they are typed; what was given stays as it was."""
    for line in ("branch a b", "branch a d", "meta a n=1 ", "meta b n=2", "meta d max_tokens=2"):
        chat.fine(*line.split())
    for line in ("create gone", "delete gone", "create late --ttl 0.001"):
        chat.fine(*line.split())
    chat.fine("meta", "a", "max_tokens=1" if " d " in arguments else "m=1")
    assert told in chat(*shlex.split(arguments)).err


def test_a_key_of_no_name_is_wrong_usage(chat: Cli):
    """A name that no key can have ends keygen with 2, before a directory is made for it."""
    for name in ("a+b", "", " ", "a\tb"):
        assert "--name: " in chat.refused(2, "keygen", "--name", name)
    assert not chat.store.with_name("history.audit").exists()


def test_errors_for_machines(chat: Cli):
    """With --json the line on stderr is JSON with the error's name and its numbers."""
    ended = chat("append", "a", "--content", "x", "--expected", "7", "--json")
    assert (ended.code, ended.out) == (1, "")
    told = json.loads(ended.err)
    assert "expected session 'a' at 7" in told.pop("message")
    assert told == {"error": "VersionConflict", "session": "a", "expected": 7, "actual": 3}


def test_machines_get_no_markdown(chat: Cli):
    """--json with a format that is no JSON is refused before anything is printed."""
    ended = chat("export", "a", "--format", "markdown", "--json")
    assert (ended.code, ended.out) == (2, "")
    assert json.loads(ended.err)["error"] == "InvalidEvent"
    file = chat.store.with_name("a.md")
    told = chat.fine("export", "a", "--format", "markdown", "-o", str(file), "--json").json
    assert told == {"path": str(file)}


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


def test_a_session_that_takes_nothing_says_no(chat: Cli):
    """Closed, archived or expired: exit 1, as for a session that is not there, and what helps."""
    chat.fine("close", "a")
    assert "is closed; reopen it" in chat.refused(1, "append", "a", "--content", "x")
    chat.fine("archive", "a")
    assert "is archived; reopen it" in chat.refused(1, "append", "a", "--content", "x")
    chat.fine("create", "b", "--ttl", "0.001")
    told = chat.refused(1, "append", "b", "--content", "x")
    assert re.search(r"expired at \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ; extend-ttl", told)


def test_a_deleted_session_is_shown_only_in_its_past(chat: Cli):
    """Deleted: show says no, an explicit moment still answers."""
    chat.fine("delete", "a")
    chat.refused(1, "show", "a")
    assert chat.texts("a", "--at-version", "3") == ["one", "two", "three"]


def test_nothing_said_shows_what_can_be(capsys: pytest.CaptureFixture[str]):
    """Without arguments the help page comes, as wrong usage; --version names the release."""
    ended = subprocess.run(COMMAND, env=ENVIRONMENT, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (2, b"")
    assert b"Usage: eventstore" in ended.stdout
    assert b"bool" not in ended.stdout
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"eventstore {version('session-eventstore')}\n"


def test_a_shell_completes_commands():
    """What --show-completion puts into a shell asks for the names of commands, and gets them."""
    asked = {"_EVENTSTORE_COMPLETE": "complete_bash", "COMP_WORDS": "eventstore se"}
    ended = subprocess.run(
        COMMAND,
        env={**ENVIRONMENT, **asked, "COMP_CWORD": "1"},
        capture_output=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout.split()) == (0, [b"sessions", b"search", b"set-context"])


EACH_ALONE = """
import os, sys
from eventstore.cli import main

given = sys.argv[1:]
for code, *line in ([0, "log"], [0, "log", "--json"], [1, "show", "nobody"]):
    if not os.fork():
        sys.argv[1:] = [*given, *line]
        main()
    assert os.waitstatus_to_exitcode(os.wait()[1]) == code, line
"""
"""Loads the command line once and runs each command in a process that has just done that."""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_nothing_to_read_or_write(chat: Cli, closed: str):
    """A command started with standard streams closed runs as with /dev/null in their place."""
    line = shlex.join([sys.executable, "-c", EACH_ALONE, "--store", str(chat.store)])
    ended = subprocess.run(
        f"{line} {closed}", shell=True, env=ENVIRONMENT, capture_output=True, check=False
    )
    assert (ended.returncode, b"Traceback" in ended.stderr) == (0, False), ended
    assert chat.fine("verify", "--json").json["sound"]


def test_what_a_terminal_can_not_show_is_a_question_mark(chat: Cli):
    """Text outside of the encoding of stdout does not stop a command."""
    chat.fine("append", "a", "--content", "zażółć")
    ended = subprocess.run(
        [*COMMAND, "--store", str(chat.store), "show", "a"],
        env={**ENVIRONMENT, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert "za?ó??" in ended.stdout.decode("latin-1")


# -- where the store is ----------------------------------------------------------------

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


# -- whole processes -------------------------------------------------------------------


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


def test_an_output_that_is_full_is_named(chat: Cli, tmp_path: Path):
    """Where there is no room for an answer, the one line says where: exit 2, no part of a file."""
    script = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64));"
    script += "from eventstore.cli import run; sys.exit(run(sys.argv[1:]))"
    file = tmp_path / "out"
    for given, where in ([], b"stdout"), (["-o", str(file)], str(file).encode()):
        command = [sys.executable, "-c", script, "export", "--store", str(chat.store), *given]
        with file.with_name("stdout").open("wb") as out:
            done = subprocess.run(
                command, env=ENVIRONMENT, stdout=out, stderr=subprocess.PIPE, check=False
            )
        assert (done.returncode, done.stderr) == (2, b"eventstore: %s: File too large\n" % where)
    assert not file.exists()


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
    plain = ended("show", "a", LC_ALL="C", PYTHONIOENCODING="ascii")
    assert b"\x1b[" not in plain
    assert b"\x1b[" in ended("show", "a", FORCE_COLOR="1")
    assert b"\x1b[3" not in ended("show", "a", FORCE_COLOR="1", NO_COLOR="1")
