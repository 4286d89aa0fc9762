"""Values of the wrong type, in every argument of every public method: one error of the tree."""

import inspect
import math
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from itertools import islice, product

import pytest

from eventstore import EventStore, EventStoreError, InvalidEvent, StoreUnavailable
from eventstore.errors import BRIEF_CHARACTERS, brief
from eventstore.sessions import AgentSession, SessionManager, Settings, Template
from projections import BranchTree, SessionState, Statistics, blame, diff

WRONG = (None, [], {"x": [b""]}, 7, -1, 10**5_000, math.nan, "", "\ud800", b"x")
HELLO = {"role": "user", "content": "hello"}
RIGHT = {
    "session": "s", "parent": "s", "source": "b", "into": "s", "branch": "b", "a": "s", "b": "b",
    "with_session": "b", "message": HELLO, "messages": HELLO, "keep": 1, "ttl": 5, "name": "n",
    "type": "t", "kind": "k", "key": "k", "value": 1, "patch": {"k": 2}, "text": "hello",
    "summary": "short", "to_version": 1, "position": 0, "moment": 0, "reason": "because",
    "template": Template(name="t"), "first": 0, "last": None, "reverse": False, "types": None,
    "what": "log",
}  # fmt: skip
"""What arguments are that a method needs and that are not tried out."""

MORE = {
    "options": ("expected", "key", "actor", "correlation_id", "causation_id"),
    "moment": ("at_version", "at_position", "at_time"),
    "create": ("session", "template", "metadata", "context", "ttl", "max_messages", "max_bytes"),
    "limits": ("max_sessions", "max_messages", "then"),
}
"""What keyword arguments stand for."""

NOT_TRIED = {"open", "in_memory", "on_close", "off_close", "check_keys"}
"""Methods that open something, and those that take callables or keyrings."""


def filled() -> SessionManager:
    """Return a manager in memory with a session of three messages and a branch of it."""
    manager = SessionManager(EventStore.in_memory(), Settings())
    manager.create("s", metadata={"k": 1})
    manager.add_messages("s", [HELLO] * 3)
    manager.branch("s", session_id="b")
    return manager


def untouched() -> Generator[SessionManager]:
    """Give the same filled manager until something was done with it, then a new one."""
    while True:
        with filled() as manager:
            before = manager.store.head()
            with suppress(StoreUnavailable):  # close(None) is no command, it closes the store
                while manager.store.head() == before:
                    yield manager


def methods(kind: type) -> list[tuple[type, str]]:
    """Return the public methods of a class that are tried out."""
    found = inspect.getmembers(kind, inspect.isfunction)
    names = [name for name, _ in found if not name.startswith("_")]
    return [(kind, name) for name in names if name not in NOT_TRIED]


def arguments(method: Callable[..., object]) -> Iterator[tuple[str, inspect.Parameter]]:
    """Iterate over the names of all arguments, those of `**options` too."""
    for name, each in inspect.signature(method).parameters.items():
        yield from (
            (one, each) for one in (MORE[name] if each.kind == each.VAR_KEYWORD else [name])
        )


def call(method: Callable[..., object], wrong: str, value: object) -> None:
    """Call a method with one argument of this value, and read what it iterates over."""
    args, named = [], {}
    for name, each in arguments(method):
        if name == wrong or (each.default is each.empty and each.kind != each.VAR_KEYWORD):
            given = value if name == wrong else RIGHT[name]
            if each.kind == each.POSITIONAL_ONLY:
                args.append(given)
            else:
                named[name] = given
    answer = method(*args, **named)
    if isinstance(answer, Iterator) and not hasattr(answer, "close"):
        list(islice(answer, 3))


def refused(attempt: Callable[[], object]) -> None:
    """Call it; any error must be one of the tree, which says something, and not too much."""
    said = "done"
    try:
        attempt()
    except EventStoreError as error:
        said = str(error)
    assert 0 < len(said) < 2_000


@pytest.mark.parametrize(("kind", "name"), methods(SessionManager) + methods(EventStore), ids=str)
def test_no_wrong_type_ends_in_an_error_of_python(kind, name):
    """Whatever stands in one argument, the call does what it says or raises one of our errors."""
    tried = [each for each, _ in arguments(getattr(kind, name)) if each != "self"]
    with closing(untouched()) as managers:
        for (wrong, value), manager in zip(product(tried, WRONG), managers, strict=False):
            target = manager if kind is SessionManager else manager.store
            refused(lambda: call(getattr(target, name), wrong, value))  # noqa: B023 - now


OTHERS = {
    "the path of a store": lambda value, _: EventStore.open(value).close(),
    "a size": lambda value, _: EventStore.open("h", map_size=value).close(),
    "a depth": lambda value, _: EventStore.open("h", max_depth=value).close(),
    "a keyring": lambda value, _: EventStore.open("h", keyring=value).close(),
    "an actor": lambda value, _: EventStore.in_memory(actor=value).create("s"),
    "a directory of trust": lambda value, _: EventStore.open("h", trust=value).close(),
    "the path of a manager": lambda value, _: SessionManager.open(value).close(),
    "a manager's settings": lambda value, _: SessionManager.open("h", settings=value).close(),
    "one setting": lambda value, _: Settings(workers=value),
    "a file of settings": lambda value, _: Settings.load(value),
    "a subscription": lambda value, manager: manager.store.subscribe(value),
    "one of a session": lambda value, manager: manager.store.follow("s", value),
    "a state": lambda value, manager: SessionState.of(manager.store, value),
    "a tree": lambda value, manager: BranchTree.of(manager.store, value),
    "statistics": lambda value, manager: Statistics.of(manager.store, value),
    "blame": lambda value, manager: blame(manager.store, value),
    "a side": lambda value, manager: diff(manager.store, value, "s"),
    "a view": lambda value, manager: manager.views.rebuild(value),
    "a projection": lambda value, manager: manager.views.register(value),
    "an agent's manager": lambda value, _: AgentSession(value, "s"),
    "an agent's session": lambda value, manager: AgentSession(manager, value),
    "an agent": lambda value, manager: AgentSession(manager, "s", value),
    "tools": lambda value, manager: AgentSession(manager, "s", tools=value),
    "who acts": lambda value, manager: AgentSession(manager, "s", actor=value),
    "a question": lambda value, manager: AgentSession(manager, "s", str).send_message(value),
}


@pytest.mark.parametrize("what", OTHERS)
def test_no_wrong_type_gets_past_an_opening(what, tmp_path, monkeypatch):
    """What is opened, made or looked at by a wrong value is one of our errors too."""
    monkeypatch.chdir(tmp_path)
    with closing(untouched()) as managers:
        for value, manager in zip(WRONG, managers, strict=False):
            refused(lambda: OTHERS[what](value, manager))  # noqa: B023 - now


def test_no_session_to_close_is_not_the_whole_store():
    """`close_session(None)` is refused as any name that is no text; the store stays open."""
    with filled() as manager:
        with pytest.raises(InvalidEvent, match="session id must be a string, not NoneType"):
            manager.close_session(None)
        assert manager.add_message("s", HELLO).version == 4


@pytest.mark.parametrize("command", ["append", "branch", "delete", "undo", "redact", "set_hold"])
def test_a_name_that_can_t_be_looked_up(command):
    """A session's name of a list is refused as any that is no text, by the commands themselves."""
    with filled() as manager:
        more = {"append": [HELLO], "redact": [1]}.get(command, [])
        with pytest.raises(InvalidEvent, match="session id must be a string, not list"):
            getattr(manager.store, command)([], *more)


def test_a_message_shows_the_beginning_of_what_was_given():
    """An endless value, or one that Python can't write, is cut in the message that refuses it."""
    assert brief("x" * 10_000) == "'" + "x" * (BRIEF_CHARACTERS - 1) + "..."
    assert (brief(10**5_000), brief([None]), brief("short")) == ("<int>", "[None]", "'short'")


def test_readers_take_whole_numbers_of_any_size():
    """Limits and places beyond any log are no error: there is just no more to give."""
    with filled() as manager:
        store = manager.store
        whole = [each.position for each in store.all()]
        assert [each.position for each in store.all(limit=10**5_000)] == whole
        assert not [*store.all(10**5_000)] and not [*store.events("s", 10**5_000)]
        assert len([*store.events("s", -(10**5_000), 10**5_000)]) == 4
        for wrong in (1.0, True, "1"):
            with pytest.raises(InvalidEvent, match="from_position must be a whole number"):
                store.all(wrong)
            with pytest.raises(InvalidEvent, match="to_version must be a whole number"):
                store.events("s", to_version=wrong)
            with pytest.raises(InvalidEvent, match="limit must be a whole number"):
                store.all(limit=wrong)
