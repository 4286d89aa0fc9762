"""The sessions' commands: what a model sees, pruning, cleanup, templates and the repl."""

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import COMMAND, ENVIRONMENT, Cli, on_screen, start

from eventstore import EventStore
from eventstore.cli.app import _registered
from eventstore.sessions import SessionManager, Settings, Template

ROOT = Path(__file__).parents[1]

AGENTS = """
import asyncio, os, sys, time

def add(a, b):
    return a + b

TOOLS = {"add": add}

def shouting(messages):
    return messages[-1]["content"].upper()

async def later(messages):
    await asyncio.sleep(0)
    return f"later: {messages[-1]['content']}"

def moody(messages):
    text = messages[-1]["content"]
    if text == "boom":
        raise ValueError("no \\x1b[2J luck")
    if text == "leave":
        sys.exit(3)
    if text == "sleep":
        print("asleep", flush=True)
        time.sleep(60)
    return text.upper()

def flaky(messages):
    flaky.failed = not getattr(flaky, "failed", False)
    return "at last" if not flaky.failed else 1 / 0

def counting(messages):
    if messages[-1]["role"] == "tool":
        return f"it is {messages[-1]['content']}"
    function = {"name": "add", "arguments": '{"a": 1, "b": 2}'}
    return {"tool_calls": [{"id": "c1", "type": "function", "function": function}]}

def dying(messages):
    os._exit(9)
"""


def said(store: Path, session: str) -> list[str]:
    """Return what the visible messages of a session say."""
    with SessionManager.open(store, Settings()) as manager:
        return [message.content for message in manager.get_messages(session)]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory):
    """Give a store with sessions `a`, `b`, `c` of 1, 2, 3 messages of 10 tokens, to copy."""
    path = tmp_path_factory.mktemp("filled") / "history"
    with SessionManager.open(path, Settings(token_limit=None)) as manager:
        for count, name in enumerate("abc", 1):
            manager.create(name)
            texts = [f"{name}{number}: ".ljust(40, "x") for number in range(count)]
            manager.add_messages(name, [{"role": "user", "content": text} for text in texts])
    return path


@pytest.fixture
def three(cli: Cli, filled: Path):
    """Give a runner with a copy of that store."""
    shutil.copytree(filled, cli.store)
    return cli


@pytest.fixture
def agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Give a directory with agents in it, as the working directory."""
    (tmp_path / "agents.py").write_text(AGENTS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- all of them -----------------------------------------------------------------------------


def test_every_command_is_documented():
    """docs/cli.md shows each command at least once."""
    shown = {
        *re.findall(
            r"^(?:.*\| )?eventstore ([a-z-]+)", (ROOT / "docs/cli.md").read_text(), re.MULTILINE
        )
    }
    known = {
        name or function.__name__.replace("_", "-")
        for commands in _registered.values()
        for name, function in commands
    }
    assert known - shown == set()
    assert shown - known == set()


LOOKS = [
    ["context", "a"],
    ["templates"],
    ["templates", "bot"],
    ["prune-sessions", "--max-sessions", "1"],
]


NOT_MADE = [["cleanup"], ["repl", ""], ["repl", "a", "--actor", ""], ["repl", "a", "--agent", "x"]]


@pytest.mark.parametrize("arguments", [*LOOKS, *NOT_MADE], ids=" ".join)
def test_only_a_conversation_makes_a_store(cli: Cli, arguments: list[str]):
    """Looking and cleaning up where nothing is, a bad repl: exit 2, and no directory is made."""
    cli.refused(2, *arguments)
    assert not cli.store.exists()


@pytest.mark.parametrize("arguments", LOOKS, ids=" ".join)
@pytest.mark.parametrize("width", [40, 80])
def test_narrow_terminals_are_enough(
    three: Cli, arguments: list[str], width: int, monkeypatch: pytest.MonkeyPatch
):
    """No line is wider than the terminal, and nothing is written by looking."""
    on_screen(monkeypatch, width)
    three.fine("create", "a session with a rather long name, as some have them")
    before = three.size()
    out = three.fine(*arguments).out
    assert max(len(line) for line in out.splitlines()) <= width
    assert three.size() == before


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (1, ["context", "nobody"]),
        (2, ["context", "a", "--format", "magic"]),
        (2, ["context", "a", "--max-tokens", "0"]),
        (2, ["context", "a", "--at-version", "1", "--at-position", "1"]),
        (2, ["prune-sessions"]),
        (2, ["prune-sessions", "--strategy", "magic", "--max-sessions", "1"]),
        (2, ["prune-sessions", "--max-sessions", "-1"]),
        (2, ["prune-sessions", "--max-sessions", "1", "--then", "burn"]),
        (2, ["prune-sessions", "--strategy", "semantic", "--max-sessions", "1"]),
        (2, ["prune-sessions", "--strategy", "semantic", "--similarity", "2"]),
        (2, ["prune-sessions", "--max-sessions", "1", "--settings", "nowhere.toml"]),
        (2, ["cleanup", "--every", "soon"]),
        (2, ["cleanup", "--every", "0"]),
        (2, ["cleanup", "--expired", "burn"]),
        (2, ["templates", "magic"]),
        (2, ["repl", "a", "--agent", "nothing"]),
        (2, ["repl", "a", "--agent", "no_such_module:f"]),
        (2, ["repl", "a", "--agent", "agents:nobody"]),
        (2, ["repl", "a", "--agent", "agents:TOOLS"]),
        (2, ["repl", "a", "--tools", "agents:add"]),
        (2, ["repl", "a", "--max-iterations", "0"]),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else str(each),
)
def test_refusals(three: Cli, agents: Path, code: int, arguments: list[str]):
    """No is 1, wrong usage is 2; one line on stderr, no traceback, nothing written."""
    three.refused(code, *arguments)


def test_settings_come_from_a_file_and_the_environment(
    three: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Options win over the environment, that over the file; the file may name the store."""
    file = tmp_path / "sessions.toml"
    file.write_text(f'path = "{three.store}"\nmax_sessions = 2\nstrategy = "size"\n')
    plan = ("prune-sessions", "--settings", str(file), "--json")
    assert [each["session"] for each in three.fine(*plan).json["steps"]] == ["c"]
    monkeypatch.setenv("EVENTSTORE_STRATEGY", "lru")
    assert [each["session"] for each in three.fine(*plan).json["steps"]] == ["a"]
    assert len(three.fine(*plan, "--max-sessions", "1").json["steps"]) == 2
    monkeypatch.setenv("EVENTSTORE_STRATEGY", "")
    command = [*COMMAND, *plan]
    found = subprocess.run(command, env=ENVIRONMENT, cwd=tmp_path, capture_output=True, check=True)
    assert [each["session"] for each in json.loads(found.stdout)["steps"]] == ["c"]


def test_an_encrypted_store_is_looked_after_too(cli: Cli, tmp_path: Path):
    """With --keyring the commands read and write an encrypted store."""
    keys = ("--keyring", str(tmp_path / "keyring"))
    cli.fine("init", "--encrypt", *keys)
    assert cli.fine("repl", "s", *keys, stdin=b"hello\n").out == "hello\n"
    found = cli.fine("context", "s", "--json", *keys).json["messages"]
    assert [each["message"]["content"] for each in found] == ["hello", "hello"]
    assert cli.fine("prune-sessions", "--max-sessions", "0", "--json", *keys).json["messages"] == 2


# -- what a model sees -----------------------------------------------------------------------


def test_context_says_what_is_in_and_what_is_left_out(three: Cli):
    """The newest that fit the budget, each with its tokens and why; the rest is counted."""
    found = three.fine("context", "c", "--max-tokens", "25", "--json").json
    assert [(each["why"], each["tokens"]) for each in found["messages"]] == [("recent", 10)] * 2
    assert found["left"] == [{"why": "budget", "messages": 1, "tokens": 10}]
    out = three.fine("context", "c", "--max-tokens", "25").out
    assert "c@3: 2 messages, 20 of 25 tokens" in out
    assert "left out: 1 message, 10 tokens, over the budget" in out
    assert "c2: xxx" in out and "c0: xxx" not in out


def test_context_goes_back_in_time(three: Cli):
    """At a version, a position or a time it is what the model saw then; --last cuts it."""
    three.fine("append", "c", "--content", "more")
    with EventStore.open(three.store, read_only=True) as store:
        third = [*store.events("c")][3]
    for moment in (
        ["--at-version", "3"],
        ["--at-position", str(third.position)],
        ["--at-time", str(third.recorded_at)],
    ):
        found = three.fine("context", "c", "--json", *moment).json
        assert (found["version"], len(found["messages"])) == (3, 3)
    assert len(three.fine("context", "c", "--last", "1", "--json").json["messages"]) == 1


def test_context_comes_in_the_providers_shapes(three: Cli):
    """What --format prints is the very request, and commands no terminal where it is indented."""
    text = "caf\u00e9 \x1b[2J \x9b1m \u202e"
    three.fine("append", "a", stdin=json.dumps({"role": "user", "content": text}).encode())
    window = three.fine("context", "a", "--json").json
    messages = [each["message"] for each in window["messages"]]
    openai = three.fine("context", "a", "--format", "openai")
    assert openai.json == messages and openai.json[-1]["content"] == text
    assert "caf\u00e9" in openai.out
    assert not {"\x1b", "\x9b", "\u202e"} & set(openai.out)
    anthropic = three.fine("context", "a", "--format", "anthropic", "--json")
    assert anthropic.json["messages"][-1]["content"][-1]["text"] == text
    assert anthropic.out.count("\n") == 1
    assert not {"\x1b", "\x9b", "\u202e"} & set(three.fine("context", "a").out)


def test_context_leaves_summaries_out_when_asked(three: Cli):
    """--no-summaries shows what a model without them sees."""
    three.fine("summarize", "c", "they counted", "--upto", "2")
    whys = [each["why"] for each in three.fine("context", "c", "--json").json["messages"]]
    assert whys == ["summary", "recent"]
    found = three.fine("context", "c", "--no-summaries", "--json").json["messages"]
    assert [each["why"] for each in found] == ["recent"]


# -- pruning and cleanup ---------------------------------------------------------------------


def test_pruning_is_planned_then_applied(three: Cli):
    """Without --apply a plan with reasons and what comes back; with it the same, as facts."""
    plan = three.fine("prune-sessions", "--strategy", "size", "--max-sessions", "1").out
    assert "30 tokens in 3 messages" in plan
    assert "to go: archive 2 sessions; 5 messages, 50 tokens come back" in plan
    command = ("prune-sessions", "--strategy", "size", "--max-sessions", "1", "--json")
    planned, before = three.fine(*command).json, three.size()
    assert three.size() == before
    done = three.fine(*command, "--apply", "--actor", "ops").json
    assert (done["done"], done["refused"]) == (planned["steps"], [])
    assert (done["messages"], done["tokens"]) == (planned["messages"], planned["tokens"]) == (5, 50)
    with EventStore.open(three.store, read_only=True) as store:
        facts = [(each.type, each.actor) for each in store.all(before)]
    assert facts == [("SessionArchived", "ops")] * 2
    assert "nothing to go" in three.fine("prune-sessions", "--max-sessions", "1").out


def test_what_pruning_can_not_reach_is_said(three: Cli):
    """Pinned sessions stay, and a remark says by how much the limit is missed."""
    three.fine("meta", "a", "pinned=true")
    for arguments in ([], ["--apply"]):
        out = three.fine("prune-sessions", "--max-sessions", "0", *arguments).out
        assert "1 session over the limit of 0: the rest is exempt" in out


def test_near_duplicates_name_what_they_say_again(cli: Cli):
    """The semantic plan has a line for each message: which one says the same, and how alike."""
    pytest.importorskip("rensa")
    cli.fine("create", "s")
    for end in ("", ".", "!"):
        text = f"What is the meaning of the number in this long sentence{end}"
        cli.fine("append", "s", "--content", text)
    out = cli.fine("prune-sessions", "--strategy", "semantic").out
    assert re.search(r"#1 +\d+ +says what #3 says \((0\.9\d|1\.00)\)", out)
    cli.fine("prune-sessions", "--strategy", "semantic", "--apply")
    assert said(cli.store, "s") == [text]


def test_a_refused_step_is_told(three: Cli, monkeypatch: pytest.MonkeyPatch):
    """Where a session goes on between plan and deed it stays, a line says so, exit code 1."""
    planned = SessionManager.plan_pruning

    def then_busy(manager: SessionManager, *args, **limits):
        plan = planned(manager, *args, **limits)
        manager.add_message("a", {"role": "user", "content": "not yet"})
        return plan

    monkeypatch.setattr(SessionManager, "plan_pruning", then_busy)
    ended = three("prune-sessions", "--max-sessions", "1", "--apply")
    assert ended.code == 1 and ended.err == ""
    assert "archive 1 session" in ended.out
    assert "archive a: expected session 'a' at 1, but it is at version 2" in " ".join(
        ended.out.split()
    )


def test_cleanup_does_one_round(three: Cli):
    """Expired sessions are deleted, inactive ones closed, and what was done is listed."""
    three.fine("create", "short", "--ttl", "0.001")
    out = three.fine("cleanup", "--inactive-after", "1h").out
    assert "expired" in out and "✓ delete 1 session; 0 messages, 0 tokens come back" in out
    three.refused(1, "show", "short")
    found = three.fine("cleanup", "--inactive-after", "0.001", "--json").json
    assert {(each["session"], each["action"]) for each in found["done"]} == {
        (name, "close") for name in "abc"
    }
    assert "nothing done" in three.fine("cleanup").out


def test_cleanup_goes_on_until_it_is_interrupted(three: Cli):
    """With --every it tells round after round; Ctrl-C ends it with 130, no traceback."""
    arguments = ("cleanup", "--every", "0.05", "--json", "--store", str(three.store))
    with start(*arguments) as cleaning:
        assert cleaning.stdout is not None
        assert json.loads(cleaning.stdout.readline())["expired"] == 0
        three.fine("create", "short", "--ttl", "0.001")
        while json.loads(cleaning.stdout.readline())["expired"] == 0:
            pass
        cleaning.send_signal(signal.SIGINT)
        _, err = cleaning.communicate(timeout=20)
    assert (cleaning.returncode, err) == (130, b"eventstore: interrupted\n")
    three.refused(1, "show", "short")
    assert three.fine("verify", "--json").json["sound"]


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, b"eventstore: interrupted\n"), (signal.SIGTERM, -signal.SIGTERM, b"")],
)
def test_cleanup_waits_an_interval_and_ends_with_a_signal(three: Cli, number, code, said):
    """A process with --every says a line a round, does what came due, and ends as signals end."""
    arguments = ("cleanup", "--every", "0.3", "--expired", "close", "--store", str(three.store))
    with start(*arguments) as cleaning:
        assert cleaning.stdout is not None
        first = cleaning.stdout.readline().decode()
        three.fine("create", "short", "--ttl", "0.001")
        while "1 expired" not in (line := cleaning.stdout.readline().decode()):
            assert "nothing; 0 messages" in line
        cleaning.send_signal(number)
        _, err = cleaning.communicate(timeout=20)
    assert "nothing; 0 messages" in first
    assert (cleaning.returncode, err) == (code, said)
    assert three.fine("show", "short", "--json").json["status"] == "closed"
    assert three.fine("verify", "--json").json["sound"]


def test_templates_are_listed_and_shown(three: Cli):
    """Presets first, then the store's own; one by name with all it begins with."""
    with SessionManager.open(three.store, Settings()) as manager:
        system = {"role": "system", "content": "Sort \x1b[2J."}
        manager.save_template(
            Template(name="triage", metadata={"type": "dm"}, messages=[system], token_limit=2_000)
        )
    listed = [each["name"] for each in three.fine("templates", "--json").lines]
    assert listed == ["dm", "group", "bot", "triage"]
    shown = three.fine("templates", "triage").out
    assert "token_limit 2,000" in shown and "type: dm" in shown and "Sort \ufffd[2J." in shown
    assert three.fine("templates", "triage", "--json").json["messages"] == [system]
    three.fine("create", "sorted", "--template", "triage", "--token-limit", "90")
    made = three.fine("show", "sorted", "--json").json
    assert [each["content"] for each in made["messages"]] == [system["content"]]
    assert (made["metadata"], made["token_limit"]) == ({"type": "dm"}, 90)
    assert "gone 24 hours" in three.fine("templates").out


# -- the repl, from a pipe -------------------------------------------------------------------


def test_a_piped_line_is_a_message(cli: Cli):
    """Each line is answered by the echo, and both are facts; the session is made on the way."""
    ended = cli.fine("repl", "s", "--actor", "user:7", stdin="one\n\n  two\ncaf\u00e9".encode())
    assert ended.out == "one\ntwo\ncaf\u00e9\n"
    assert said(cli.store, "s") == ["one", "one", "two", "two", "caf\u00e9", "caf\u00e9"]
    with EventStore.open(cli.store, read_only=True) as store:
        assert {each.actor for each in store.events("s")} == {"user:7"}


def test_answers_for_machines(cli: Cli, agents: Path):
    """With --json each answer is one JSON line; tools run; coroutine functions are awaited."""
    arguments = ["--agent", "agents:counting", "--tools", "agents:TOOLS", "--json"]
    (answer,) = cli.fine("repl", "s", *arguments, stdin=b"1 + 2?\n").lines
    assert answer == {
        "session": "s",
        "id": "s#5",
        "message": {"role": "assistant", "content": "it is 3"},
    }
    assert cli.fine("repl", "s", "--agent", "agents:later", stdin=b"hi\n").out == "later: hi\n"


def test_a_failing_agent_is_one_line(cli: Cli, agents: Path):
    """Whatever an agent raises is one line on stderr, recorded, and the next line is answered."""
    stdin = b"boom\nfine\nleave\n/resume\n/rewind\nlast\n"
    ended = cli("repl", "s", "--agent", "agents:moody", stdin=stdin)
    assert ended.code == 1
    assert [line for line in ended.out.splitlines() if not line.startswith("✓")] == ["FINE", "LAST"]
    failed = "eventstore: the agent failed: "
    assert ended.err.splitlines() == [
        f"{failed}ValueError: no \ufffd[2J luck; /resume asks it again",
        f"{failed}SystemExit: 3; /resume asks it again",
        f"{failed}SystemExit: 3; /resume asks it again",
    ]
    assert said(cli.store, "s") == ["boom", "fine", "FINE", "last", "LAST"]
    ended = cli("repl", "s", "--agent", "agents:moody", "--json", stdin=b"boom\n")
    assert (ended.code, json.loads(ended.err)["error"]) == (1, "AgentError")


def test_the_commands_of_a_conversation(cli: Cli):
    """/history, /branch, /rewind, /clear, /help and /exit do what they say; // begins a slash."""
    lines = ["one", "two", "/rewind", "/branch b 1", "three", "/history", "//x", "/clear"]
    lines += ["/history", "/help", "/exit", "never"]
    ended = cli.fine("repl", "s", "--json", stdin="\n".join(lines).encode())
    one, two, rewound, branched, three, history, slash, cleared, empty, help_, *others = ended.lines
    assert [each["message"]["content"] for each in (one, two, three, slash)] == [
        *("one", "two", "three", "/x"),
    ]
    assert (rewound["session"], branched["session"], cleared["session"]) == ("s", "b", "b")
    assert [each["message"]["content"] for each in history] == ["one", "three", "three"]
    assert (empty, others) == ([], []) and "/rewind [VERSION]" in help_
    assert said(cli.store, "s") == ["one", "one"]
    out = cli.fine("repl", "s", stdin=b"/history 1\n").out
    assert out.split() == ["2", "assistant", "one"]


def test_resume_asks_a_failed_turn_again(cli: Cli, agents: Path):
    """After a failure /resume asks again for the same question; without one it says so."""
    ended = cli("repl", "s", "--agent", "agents:flaky", stdin=b"hello\n/resume\n/resume\n")
    assert (ended.code, ended.out) == (1, "at last\n")
    failed, nothing = ended.err.splitlines()
    assert "ZeroDivisionError" in failed and nothing.endswith("there is no turn to go on with")
    assert said(cli.store, "s") == ["hello", "at last"]


def test_a_wrong_command_changes_nothing(cli: Cli):
    """It is one line on stderr, the conversation goes on, and the exit code is 1."""
    cli.fine("repl", "s", stdin=b"one\n")
    before = cli.size()
    wrong = ["/magic", "/", "/clear now", "/rewind 99", "/rewind x", "/history x", "/branch s"]
    ended = cli("repl", "s", stdin="\n".join([*wrong, "/history 1"]).encode())
    told = ended.err.splitlines()
    assert (ended.code, len(told)) == (1, len(wrong))
    assert all(line.startswith("eventstore: ") for line in told)
    assert ended.out.split() == ["2", "assistant", "one"]
    assert cli.size() == before


def test_a_session_that_takes_no_messages_is_refused(cli: Cli):
    """Closed, expired and deleted ones say so before anything is read."""
    for name, code in (("closed", 1), ("expired", 1), ("deleted", 1)):
        cli.fine("create", name, *(["--ttl", "0.001"] if name == "expired" else []))
        if name != "expired":
            cli.fine(name[:-1] if name == "closed" else "delete", name)
        cli.refused(code, "repl", name, stdin=b"hi\n")
    ended = cli("repl", "s", stdin=b"caf\xe9\n")
    assert (ended.code, ended.err) == (2, "eventstore: a line is not UTF-8 at byte 3\n")


def test_an_interrupted_turn_is_gone_on_with(cli: Cli, agents: Path):
    """After a kill in the middle of a turn the next repl answers that question first."""
    arguments = ("repl", "s", "--store", str(cli.store))
    with start(*arguments, "--agent", "agents:dying") as killed:
        killed.communicate(b"hello\n", timeout=30)
    assert killed.returncode == 9
    ended = cli("repl", "s", "--agent", "agents:shouting", stdin=b"news\n")
    assert (ended.code, ended.out) == (0, "HELLO\nNEWS\n")
    assert ended.err == "going on with the turn that was interrupted\n"
    assert said(cli.store, "s") == ["hello", "HELLO", "news", "NEWS"]


# -- the repl, in a terminal -----------------------------------------------------------------


IN_A_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Makes its input the terminal that Ctrl-C comes from, then becomes the command."""


CTRL_C, CTRL_D = "\x03", "\x04"


class Typed:
    """A repl in a terminal of its own, that is typed into."""

    def __init__(self, *arguments: str) -> None:
        self._terminal, other = pty.openpty()
        self._child = subprocess.Popen(
            [sys.executable, "-c", IN_A_TERMINAL, *COMMAND, *arguments],
            stdin=other,
            stdout=other,
            stderr=other,
            env={**ENVIRONMENT, "TERM": "dumb", "COLUMNS": "80"},
            start_new_session=True,
        )
        os.close(other)

    def until(self, text: str, type_: str = "") -> str:
        """Type, then return what is shown up to where this text came.

        Ctrl-C is typed again while nothing is shown: one that comes between the prompt and the
        wait for a line is only looked at with the next key.
        """
        os.write(self._terminal, type_.encode())
        seen, deadline = "", time.monotonic() + 30
        while text not in seen:
            if select.select([self._terminal], [], [], 1)[0]:
                seen += os.read(self._terminal, 65_536).decode()
                continue
            assert time.monotonic() < deadline, seen
            if type_ == CTRL_C:
                os.write(self._terminal, CTRL_C.encode())
        return seen

    def end(self, type_: str) -> int:
        """Type, and return the exit code."""
        os.write(self._terminal, type_.encode())
        try:
            while os.read(self._terminal, 65_536):
                continue
        except OSError:  # the other side is closed
            os.close(self._terminal)
        return self._child.wait()


def test_a_conversation_in_a_terminal(cli: Cli, agents: Path):
    """It prompts, shows steps, recovers from a failing agent and from Ctrl-C, and ends with 0."""
    typed = Typed("repl", "s", "--store", str(cli.store), "--agent", "agents:moody")
    assert "s: 0 messages; /help says more" in typed.until("s> ")
    assert "assistant  HELLO" in typed.until("s> ", "hello\n")
    assert "the agent failed: ValueError: no" in typed.until("s> ", "boom\n")
    typed.until("asleep", "sleep\n")
    assert "stopped; /resume goes on" in typed.until("s> ", CTRL_C)
    typed.until("b> ", "/branch b\n")
    assert "/exit or Ctrl-D ends" in typed.until("b> ", CTRL_C)
    assert typed.end(CTRL_D) == 0
    assert said(cli.store, "b") == ["hello", "HELLO", "boom", "sleep"]
