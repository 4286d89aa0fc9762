"""The features page names nothing that does not exist; what had no test of its own has it here."""

import ast
import importlib
import inspect
import re
from functools import cache
from pathlib import Path

import pytest

import eventstore
from benchmarks import NAMES as BENCHMARKS
from benchmarks import sessions as benchmark
from benchmarks.data import Data
from benchmarks.harness import Bench
from eventstore import EventStore
from eventstore.cli.app import command_line
from eventstore.sessions import AgentSession, SessionManager, Settings, pruning
from eventstore.sessions.pruning import KeepCount

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "features.md"

LINES = {
    "1. Sessions as a tree, with a cache and pruning": 38,
    "2. Named sessions of an assistant": 22,
    "3. Sessions of bots": 42,
    "4. Sessions of agents": 14,
    "5. Sessions of a service": 25,
}
"""How many lines each section has: one for each thing that a system offers."""

LATER = {
    "tables that SQL tools read",
    "HTTP API with authentication",
    "bots",
    "dashboard",
}
CODE = re.compile(r"`([^`]+)`")
CALL = re.compile(r"(?P<name>[A-Za-z_][\w.]*)(?:\((?P<arguments>.*)\))?")


def lines() -> dict[str, list[list[str]]]:
    """Return the cells of each section's table: what, call, proofs."""
    found: dict[str, list[list[str]]] = {}
    for section in PAGE.read_text().split("\n## ")[1:]:
        title, *rest = section.splitlines()
        rows = [line.strip("| ").split(" | ") for line in rest if line.startswith("| ")]
        found[title] = [[*(cell.strip(" |") for cell in row), "", ""][:3] for row in rows[1:]]
    return found


ROWS = [row for rows in lines().values() for row in rows]


@pytest.fixture(scope="module")
def names():
    """Give what the page's names stand for."""
    with EventStore.in_memory() as store, SessionManager(store, Settings()) as manager:
        manager.create("s")
        agent = AgentSession(manager, "s")
        known = {"manager": manager, "settings": manager.settings, "cache": manager.cache}
        classes = {each.__name__: each for each in (SessionManager, AgentSession)}
        yield known | classes | {"agent": agent, "pruning": pruning, "eventstore": eventstore}


def test_no_line_is_missing():
    """Each section has its lines, no line stands twice, and only what is planned so is later."""
    assert {title: len(rows) for title, rows in lines().items()} == LINES
    for title, rows in lines().items():
        assert len({row[0] for row in rows}) == len(rows), title
    assert {what for what, call, _ in ROWS if call == "later"} == LATER


@pytest.mark.parametrize("row", [row for row in ROWS if "`" in row[1]], ids=lambda row: row[0])
def test_every_call_exists(row, names):
    """What a line names can be called: a method with these arguments, a setting, a command."""
    for code in CODE.findall(row[1]):
        if code.startswith("eventstore "):
            assert code.split()[1] in command_line().commands
        elif code.startswith("python -m benchmarks "):
            assert code.split()[3] in BENCHMARKS
        else:
            check_call(code, names)


def check_call(code: str, names: dict[str, object]) -> None:
    """Assert that a dotted name leads somewhere, and takes the arguments that are named."""
    call = CALL.fullmatch(code)
    assert call, code
    found = named(call["name"].split("."), names)
    arguments = re.findall(r"(\w+)=", call["arguments"] or "")
    assert callable(found) or "(" not in code, code
    known = inspect.signature(found).parameters if arguments else {}
    assert set(arguments) <= set(known), code


def named(parts: list[str], names: dict[str, object]) -> object:
    """Return what a dotted name stands for. Raises AttributeError and ImportError."""
    if parts[0] in names and parts[:2] != ["eventstore", "interchange"]:
        found, rest = names[parts[0]], parts[1:]
    else:
        found, rest = importlib.import_module(".".join(parts[:-1])), parts[-1:]
    for part in rest:
        found = getattr(found, part)
    return found


def test_every_proof_exists():
    """Each line that is here names at least one test, each of which is in its file."""
    for what, call, proofs in ROWS:
        refs = CODE.findall(proofs)
        assert bool(refs) == ("`" in call), what
        for ref in refs:
            file, name = ref.split("::")
            assert name in functions_in(ROOT / file), f"{what}: {ref}"


@cache
def functions_in(file: Path) -> set[str]:
    """Return the names of the functions in a file."""
    return {each.name for each in ast.parse(file.read_text()).body if hasattr(each, "name")}


# -- what no other file proves ---------------------------------------------------------------


@pytest.fixture
def manager():
    """Give a manager with the usual settings over a store in memory."""
    with EventStore.in_memory() as store, SessionManager(store, Settings()) as made:
        yield made


def said(content: str, **fields) -> dict:
    """Return a message of a user."""
    return {"role": "user", "content": content, **fields}


def test_the_usual_numbers(manager):
    """4,000 tokens a session, 1,000 sessions in the cache, cleanup each hour, 100 and 50 kept."""
    assert manager.create("s").token_limit == 4_000
    chosen = manager.settings
    assert (chosen.cache_sessions, chosen.cleanup_interval, chosen.max_depth) == (1_000, 3_600, 10)
    assert (chosen.preserve_dm, chosen.preserve_group) == (100, 50)
    for number in range(1_001):
        manager.cache.put(f"s{number}", 0, 0, b"x")
    assert manager.cache.statistics().entries == 1_000


def test_people_and_groups_keep_their_newest():
    """Over the limit of all messages a dm keeps its newest 100, a group 50, others give way."""
    settings = Settings(token_limit=None, max_messages_total=160)
    with EventStore.in_memory() as store, SessionManager(store, settings) as manager:
        for kind in ("dm", "group", "other"):
            manager.create(kind, metadata={"type": kind})
            manager.add_messages(kind, [said(str(number)) for number in range(120)])
        manager.cleanup()
        counts = [manager.message_count(kind) for kind in ("dm", "group", "other")]
        assert counts == [100, 50, 10]
        assert manager.get_messages("dm")[0].content == "20"


def test_metadata_is_kept_and_found(manager):
    """Metadata with a meaning is any JSON: it comes back, lists go by it, and it can be patched."""
    values = {
        "type": "dm",
        "title": "Talk",
        "tags": ["a", "b"],
        "pinned": True,
        "archived": False,
        "agent": "helper",
        "priority": 3,
    }
    manager.create("s", metadata=values)
    manager.create("other", metadata={"agent": "none"})
    assert manager.get("s").metadata == values
    for name, value in values.items():
        assert [row.session for row in manager.list(where={name: value})] == ["s"]
    manager.update_metadata("s", {"priority": 4, "tags": None})
    del values["tags"]
    assert manager.get("s").metadata == {**values, "priority": 4}


def test_message_metadata_is_kept(manager):
    """A message's metadata comes back as it went in, with `ttl`, `important` and `category`."""
    manager.create("s")
    metadata = {"ttl": 60, "important": True, "category": "facts", "own": [1]}
    manager.add_message("s", said("hello", metadata=metadata))
    assert manager.get_messages("s")[0].metadata == metadata


def test_lists_tell_names_and_counts(manager):
    """A row of a list has the session's name and how many messages it shows."""
    manager.create("few")
    manager.create("many")
    manager.add_messages("many", [said("a"), said("b"), said("c")])
    rows = {row.session: row.messages for row in manager.list()}
    assert rows == {"few": 0, "many": 3}


def test_large_messages_are_compressed(tmp_path):
    """A large message takes far less room with compression, and comes back equal either way."""
    text = "the same words again and again, " * 3_000
    stored = {}
    for compression in ("zstd", "none"):
        path = tmp_path / compression
        with SessionManager.open(path, compression=compression, token_limit=None) as manager:
            manager.create("s")
            manager.add_message("s", said(text))
            assert manager.get_messages("s")[0].content == text
            stored[compression] = manager.health()["bytes"]
    assert stored["zstd"] + 90_000 < stored["none"]


def test_a_session_tells_its_numbers(manager):
    """Its statistics have messages, tools, errors, tokens in and out, last active and duration."""
    manager.create("s")
    manager.add_message("s", said("a" * 40), occurred_at=10**18)
    answer = {"role": "assistant", "content": "b" * 8}
    manager.add_message("s", answer, occurred_at=10**18 + 5)
    manager.record_tool_call("s", "search", duration_ms=3)
    manager.record_error("s", "timeout")
    found = manager.statistics("s")
    assert (found["messages"], found["tokens_in"], found["tokens_out"]) == (2, 10, 2)
    assert (found["tools"]["search"]["calls"], found["errors"]) == (1, {"timeout": 1})
    assert (found["last_message_at"], found["duration"]) == (10**18 + 5, 5)
    assert found["last_at"] == manager.get("s").updated_at


def test_what_is_important_is_all_that_stays(manager):
    """Kept to no messages at all, a session shows what is important."""
    manager.create("s")
    manager.add_messages("s", [said("a"), said("b", metadata={"important": True}), said("c")])
    manager.prune(KeepCount(keep=0))
    assert [message.content for message in manager.get_messages("s")] == ["b"]


def test_every_promise_is_measured(tmp_path):
    """The benchmark has a figure for each promise, and says whether it is ten times better."""
    data = Data("tiny", [[said("hello " * 20), {"role": "assistant", "content": "yes"}]])
    bench = Bench(data, tmp_path, quick=True, seconds=0, events=10, smoke=True)
    try:
        result = benchmark.run(bench)
    finally:
        bench.end()
    targets = [bound.target for bound in result.reach]
    assert len(targets) == len(benchmark.PROMISES)
    for name, (promise, unit) in benchmark.PROMISES.items():
        assert f"{name}: 10x better than {promise:g} {unit}" in targets
    assert all(bound.value and bound.value > 0 for bound in result.reach)
