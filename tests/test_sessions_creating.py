"""Sessions begin: by name, by template, by a key of the outside world, once for all who ask."""

import subprocess
import sys

import pytest
from driver import ticking
from faces import PLAIN, SECONDS_MAX, in_threads, said
from facts import OBJECTS
from hypothesis import given
from hypothesis import strategies as st

from eventstore import (
    EventStore,
    InvalidEvent,
    SessionExists,
    SessionExpired,
)
from eventstore.sessions import Session, SessionManager, Settings, Template
from eventstore.sessions.external import generation_key, newest_generation

# -- creating --------------------------------------------------------------------------------


def test_a_session_begins_as_it_was_told(manager):
    """create() returns the session with its values and limits, which get() returns too."""
    made = manager.create(
        "s",
        user="u",
        metadata={"title": "t"},
        context={"k": 1},
        ttl=60,
        max_messages=5,
        token_limit=100,
        max_bytes=1_000,
    )
    assert isinstance(made, Session) and manager.get("s") == made
    assert (made.name, made.version, made.status, made.user) == ("s", 0, "active", "u")
    assert (made.metadata["title"], made.context, made.max_bytes) == ("t", {"k": 1}, 1_000)
    assert (made.ttl, made.max_messages, made.token_limit) == (60, 5, 100)
    assert made.expires_at - made.created_at == pytest.approx(60e9, abs=1e9)
    assert made.usable and made.to_dict()["name"] == "s"


def test_what_is_left_out_comes_from_the_template_then_the_settings():
    """An argument wins over the template, that over the settings; None is an answer too."""
    settings = Settings(ttl=10, token_limit=20, max_messages=30, max_session_bytes=40_000)
    with SessionManager(EventStore.in_memory(), settings) as manager:
        manager.save_template(Template(name="t", token_limit=21, metadata={"a": 1, "b": {"c": 2}}))
        plain, base = manager.create(), manager.create(template="t")
        told = manager.create(
            template="t", token_limit=None, ttl=None, metadata={"b": {"d": 3}, "a": None}
        )
    limits = [(each.ttl, each.token_limit, each.max_messages) for each in (plain, base, told)]
    assert limits == [(10, 20, 30), (10, 21, 30), (None, None, 30)]
    assert plain.max_bytes == 40_000
    assert {**told.metadata, "max_bytes": None} == {"b": {"c": 2, "d": 3}, "max_bytes": None}
    assert (base.template, told.template, plain.template) == ("t", "t", None)


def test_a_name_is_taken_once(manager):
    """A second session of a name is refused; the first stays."""
    manager.create("s")
    with pytest.raises(SessionExists):
        manager.create("s")
    assert manager.exists("s") and not manager.exists("t")
    assert manager.count() == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_bytes": 0},
        {"max_bytes": True},
        {"ttl": -1},
        {"max_messages": 0},
        {"token_limit": "many"},
        {"metadata": [1]},
        {"context": "x"},
        {"template": "none such"},
        {"external": {}},
        {"external": {"planet": "mars"}},
        {"external": {"chat": ""}},
        {"external": {"chat": 1.5}},
        {"at": 3},
        {"branch_from": "s", "metadata": {"a": 1}},
        {"branch_from": "s", "token_limit": None},
        {"external": {"chat": "1"}, "key": "mine"},
    ],
)
def test_wrong_input_creates_nothing(manager, wrong):
    """What can't be a session is one clear error, and nothing is written."""
    manager.create("s")
    size = manager.store.head().size
    with pytest.raises(InvalidEvent):
        manager.create("new", **wrong)
    assert manager.store.head().size == size


# -- external keys ---------------------------------------------------------------------------


def test_an_external_key_finds_its_session(manager):
    """find_or_create() makes a session once; find_by() finds it by its key or a part of it."""
    key = {"interface": "telegram", "user": 7, "chat": "c", "conversation": "v"}
    assert manager.find_by(**key) is None
    made = manager.find_or_create(**key, metadata={"title": "t"}, max_messages=9)
    again = manager.find_or_create(**key, metadata={"title": "other"})
    assert again == made
    assert (made.user, made.metadata["title"], made.max_messages) == ("7", "t", 9)
    assert made.external == {"interface": "telegram", "user": "7", "chat": "c", "conversation": "v"}
    manager.branch(made.name, "try")
    for part in (key, {"conversation": "v"}, {"user": 7, "chat": "c"}):
        assert manager.find_by(**part) == manager.get(made.name)
    assert manager.find_by(conversation="w") is None
    assert manager.find_or_create(chat="c").name != made.name


@pytest.mark.parametrize("end", ["delete", "close_session", "archive"])
def test_an_ended_session_is_followed_by_a_fresh_one(manager, end):
    """Deleted, closed or archived: the key finds nothing, and then a new session, each time."""
    names = set()
    for _ in range(3):
        name = manager.find_or_create(chat=1).name
        names.add(name)
        getattr(manager, end)(name)
        assert manager.find_by(chat=1) is None
    assert len(names) == 3


def test_a_reopened_session_is_found_again(manager):
    """A closed session that is the newest of its key is found once it is active again."""
    name = manager.find_or_create(chat=1).name
    manager.close_session(name)
    manager.reopen(name)
    assert manager.find_or_create(chat=1).name == name


def test_an_expired_session_is_followed_by_a_fresh_one():
    """A key whose session has expired gets a new one; extend_ttl() would have kept the old."""
    with SessionManager(EventStore.in_memory(clock=ticking()), PLAIN) as manager:
        old = manager.find_or_create(chat=1, ttl=1)
        assert manager.get(old.name).expired and not manager.get(old.name).usable
        with pytest.raises(SessionExpired):
            manager.add_message(old.name, said("late"))
        new = manager.find_or_create(chat=1, ttl=None)
        assert new.name != old.name
        assert manager.find_or_create(chat=1).name == new.name
        manager.extend_ttl(old.name, None)
        assert not manager.get(old.name).expired
        assert manager.find_or_create(chat=1).name == new.name


def test_create_refuses_a_key_that_is_in_use(manager):
    """create(external=) makes the session that find_by() finds, and no second one."""
    made = manager.create("s", external={"chat": "1", "user": "u"})
    assert (made.user, manager.find_by(chat=1)) == ("u", made)
    with pytest.raises(SessionExists):
        manager.create("t", external={"user": "u", "chat": 1})
    assert not manager.exists("t")


def test_32_threads_get_one_session(store):
    """32 threads ask for one key at once, with other arguments each: one session is made."""
    with SessionManager(store, PLAIN) as manager:
        for _ in range(3):
            found = in_threads(32, lambda n: manager.find_or_create(chat=1, metadata={"n": n}).name)
            assert len(set(found)) == 1
            manager.delete(found[0])
        assert manager.store.log.sessions() == sorted(manager.store.log.sessions())
        assert len(manager.store.log.sessions()) == 3


ASKING = """
import sys
from concurrent.futures import ThreadPoolExecutor
from eventstore.sessions import SessionManager

with SessionManager.open(sys.argv[1]) as manager, ThreadPoolExecutor(8) as pool:
    print("ready", flush=True)
    sys.stdin.readline()
    def ask(n):
        return manager.find_or_create(chat=n % 10, metadata={"by": sys.argv[2]}).name
    print(" ".join(pool.map(ask, range(80))))
"""


def test_two_processes_get_one_session(tmp_path):
    """Two processes ask for ten keys at once, from 8 threads each: each key is one session."""
    with SessionManager.open(tmp_path / "history") as manager:
        pipe = subprocess.PIPE
        children = [
            subprocess.Popen(
                [sys.executable, "-c", ASKING, str(tmp_path / "history"), str(number)],
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                text=True,
            )
            for number in range(2)
        ]
        for child in children:
            assert child.stdout.readline() == "ready\n", child.stderr.read()
        for child in children:
            child.stdin.write("go\n")
            child.stdin.flush()
        found = [child.communicate(timeout=SECONDS_MAX)[0].split() for child in children]
        assert found[0] == found[1] and len(set(found[0])) == 10
        assert manager.count() == 10
        assert manager.find_by(chat=3).name == found[0][3]


@given(st.integers(0, 40))
def test_the_newest_generation_is_found_among_any_number(count):
    """However many sessions a key had, the newest one is found, and the number it has."""
    with EventStore.in_memory() as store:
        key = {"chat": "1"}
        names = [store.create(key=generation_key(key, n)).session for n in range(count)]
        assert newest_generation(store.log, key) == (count - 1, names[-1] if names else None)


# -- users -----------------------------------------------------------------------------------


def test_a_user_may_be_a_number_everywhere(manager):
    """An id that is a number is the same user as its text, wherever a manager takes one."""
    names = {
        manager.find_or_create(interface="telegram", user=7).name,
        manager.create(user=7).name,
        manager.create(user="7").name,
    }
    assert manager.create(user=0).name not in names
    for user in (7, "7"):
        assert {row.session for row in manager.list(user=user)} == names
        assert manager.count(user=user) == 3
    assert {manager.get(name).user for name in names} == {"7"} and manager.count(user=0) == 1
    [said_by] = sorted(names)[:1]
    manager.add_message(said_by, said("needle"))
    assert [hit.session for hit in manager.search("needle", user=7)] == [said_by]
    assert not manager.search("needle", user=0) and manager.learned_ttl(user=7) is None


@given(
    metadata=OBJECTS,
    context=OBJECTS,
    given=st.fixed_dictionaries(
        {},
        optional={
            "user": st.sampled_from(["u7", 7]),
            "max_messages": st.integers(1, 9),
            "token_limit": st.integers(1, 9),
            "max_bytes": st.integers(1_000, 9_000),
            "ttl": st.sampled_from([None, 60.0]),
            "key": st.just("k"),
        },
    ),
)
def test_a_session_just_made_is_what_the_store_folds(metadata, context, given):
    """create() tells, without reading, what a fresh look at the facts gives; a repeat reads."""
    with EventStore.in_memory() as store, SessionManager(store) as manager:
        made = manager.create(metadata=metadata, context=context, **given)
        with SessionManager(store) as other:
            assert made == other.get(made.name) == manager.get(made.name)
        if "key" in given:
            manager.add_message(made.name, said("on"))
            again = manager.create(metadata=metadata, context=context, **given)
            assert (again.name, again.messages) == (made.name, 1)
