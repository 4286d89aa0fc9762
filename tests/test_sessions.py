"""The session manager: each method through its sync and its async face, and all over again."""

import asyncio
import gc
import inspect
import shutil
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from driver import ticking
from hypothesis import given
from hypothesis import strategies as st

from eventstore import (
    DepthExceeded,
    EventStore,
    EventTooLarge,
    InvalidEvent,
    KeyReused,
    KeyShredded,
    MergeConflict,
    SessionDeleted,
    SessionExists,
    SessionExpired,
    SessionNotFound,
    StoreUnavailable,
    VersionConflict,
)
from eventstore.audit.verify import verify
from eventstore.sessions import Session, SessionManager, Settings, Template
from eventstore.sessions.aio import AsyncSessionManager
from eventstore.sessions.external import generation_key, newest_generation
from projections import SessionState

PLAIN = Settings(token_limit=None)
SECONDS_MAX = 60


class Awaiting:
    """The async face, called like the sync one: each call is awaited in one event loop."""

    def __init__(self, manager: SessionManager, runner: asyncio.Runner) -> None:
        self._manager, self._runner = manager, runner

    def __getattr__(self, name):
        if not hasattr(AsyncSessionManager, name):
            return getattr(self._manager, name)
        method = getattr(self._manager.aio, name)
        return lambda *args, **kwargs: self._runner.run(method(*args, **kwargs))


@pytest.fixture(params=["sync", "async"])
def manager(request):
    """Give a manager over a store in memory, then its async face."""
    with EventStore.in_memory() as store, SessionManager(store, PLAIN) as made:
        if request.param == "sync":
            yield made
        else:
            with asyncio.Runner() as runner:
                yield Awaiting(made, runner)


def said(text: str, **fields) -> dict:
    """Return a message of a user."""
    return {"role": "user", "content": text, **fields}


def texts(messages) -> list[str]:
    """Return what messages say."""
    return [message.text for message in messages]


def shown(manager, session: str) -> list[str]:
    """Return what a session shows."""
    return texts(manager.get_messages(session))


def in_threads(count: int, job) -> list:
    """Run job(0), job(1), ... at once and return what they return."""
    start = threading.Barrier(count)
    with ThreadPoolExecutor(count) as pool:
        tasks = [pool.submit(lambda n=n: (start.wait(), job(n))[1]) for n in range(count)]
        return [task.result(SECONDS_MAX) for task in tasks]


# -- one face and the other ------------------------------------------------------------------


def public(kind: type) -> set[str]:
    """Return the names of a class's public methods."""
    return {name for name, each in vars(kind).items() if callable(each) and name[0] != "_"}


def test_the_async_face_has_every_method():
    """Each public method of the manager is a coroutine of its async face, with one signature."""
    methods = set().union(*(public(kind) for kind in SessionManager.__mro__[:-1]))
    methods -= {"open"}
    for name in sorted(methods - {"close"}):
        ours = inspect.signature(getattr(SessionManager, name))
        theirs = inspect.signature(getattr(AsyncSessionManager, name))
        assert ours == theirs, name
    assert public(AsyncSessionManager) - methods == {"run", "release"}
    assert all(map(inspect.iscoroutinefunction, map(AsyncSessionManager.__dict__.get, methods)))


def test_async_callers_do_not_wait_for_each_other():
    """Hundreds of coroutines append at once, each once, and the loop goes on meanwhile."""

    async def main(manager: SessionManager) -> int:
        await asyncio.gather(*(manager.aio.create(f"s{n}") for n in range(20)))
        calls = [manager.aio.add_message(f"s{n % 20}", said(str(n))) for n in range(300)]
        receipts = await asyncio.gather(*calls)
        return len({receipt.position for receipt in receipts})

    with EventStore.in_memory() as store, SessionManager(store, PLAIN) as manager:
        assert asyncio.run(main(manager)) == 300
        assert sum(manager.message_count(f"s{n}") for n in range(20)) == 300


def test_a_closed_manager_takes_no_async_calls(tmp_path):
    """After close() the async face says that the manager is closed; closing again is fine."""
    manager = SessionManager.open(tmp_path / "history")

    async def main() -> None:
        await manager.aio.create("s")
        await manager.aio.close()
        await manager.aio.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await manager.aio.get("s")

    asyncio.run(main())


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


# -- messages --------------------------------------------------------------------------------


def test_messages_come_back_as_they_went_in(manager):
    """add_message() and add_messages() keep whatever a message holds; get_messages() returns it."""
    manager.create("s")
    given_ = [said(f"m{n}", metadata={"n": n}, extra=[n]) for n in range(5)]
    manager.add_message("s", given_[0], occurred_at=7)
    receipt = manager.add_messages("s", given_[1:], actor="me", correlation_id="c")
    assert (receipt.first_version, receipt.version) == (2, 5)
    assert [message.to_dict() for message in manager.get_messages("s")] == given_
    assert manager.store.event(1).occurred_at == 7
    assert manager.store.event(5).actor == "me"
    assert manager.message_count("s") == manager.get("s").messages == 5
    assert texts(manager.get_messages("s", at_version=2)) == ["m0", "m1"]
    assert manager.message_count("s", at_version=2) == 2


@given(
    st.integers(0, 12),
    st.none() | st.integers(0, 15),
    st.integers(0, 15),
    st.booleans(),
)
def test_pages_of_messages_are_slices(count, limit, offset, newest_first):
    """Any limit and offset, from either end, give what slicing the plain list gives."""
    with SessionManager(EventStore.in_memory(), PLAIN) as manager:
        manager.create("s")
        manager.add_messages("s", [said(str(n)) for n in range(count)] or [said("none")])
        plain = [str(n) for n in range(count)] or ["none"]
        plain = plain[::-1] if newest_first else plain
        stop = None if limit is None else offset + limit
        found = manager.get_messages("s", limit, offset, newest_first=newest_first)
        assert texts(found) == plain[offset:stop]


@pytest.mark.parametrize("wrong", [{"limit": -1}, {"offset": -1}, {"limit": 1.5}, {"offset": "1"}])
def test_pages_take_whole_numbers(manager, wrong):
    """A limit or offset that is no whole number from 0 on is refused by name."""
    manager.create("s")
    with pytest.raises(InvalidEvent, match=f"{next(iter(wrong))} must be a whole number"):
        manager.get_messages("s", **wrong)


def test_a_repeated_key_adds_nothing(manager):
    """The same key with the same message is the same receipt; with another one it is refused."""
    manager.create("s", max_messages=1, max_bytes=200)
    first = manager.add_message("s", said("a" * 100), key="k")
    size = manager.store.head().size
    again = manager.add_message("s", said("a" * 100), key="k")
    assert (again.duplicate, again.position) == (True, first.position)
    with pytest.raises(KeyReused):
        manager.add_message("s", said("b"), key="k")
    assert manager.store.head().size == size


def test_an_expected_version_is_checked(manager):
    """expected= is the store's optimistic concurrency, also where a limit in bytes is checked."""
    manager.create("s", max_bytes=1_000)
    manager.add_message("s", said("a"), expected=0)
    with pytest.raises(VersionConflict):
        manager.add_message("s", said("b"), expected=0)
    assert shown(manager, "s") == ["a"]


def test_truncating_keeps_the_newest(manager):
    """truncate() hides all but the newest messages; history still has them."""
    manager.create("s")
    manager.add_messages("s", [said(str(n)) for n in range(6)])
    manager.truncate("s", 2)
    assert shown(manager, "s") == ["4", "5"]
    assert texts(manager.get_messages("s", at_version=6)) == list("012345")
    manager.truncate("s", 0)
    assert shown(manager, "s") == []


def test_clearing_keeps_the_summaries(manager):
    """clear() hides all messages but no summary, also twice and where there is nothing."""
    manager.create("s")
    manager.clear("s")
    manager.add_messages("s", [said(str(n)) for n in range(6)])
    manager.summarize("s", "the first three", upto=4)
    assert shown(manager, "s") == ["the first three", "3", "4", "5"]
    for _ in range(2):
        manager.clear("s")
        assert shown(manager, "s") == ["the first three"]
    manager.add_message("s", said("on"))
    assert shown(manager, "s") == ["the first three", "on"]


def test_tool_calls_and_errors_are_counted(manager):
    """record_tool_call() and record_error() are facts that the session and statistics count."""
    manager.create("s")
    manager.record_tool_call("s", "search", {"q": 1}, [2], call_id="c", duration_ms=5)
    manager.record_tool_call("s", "search", error="broke", key="k")
    manager.record_error("s", "timeout", "too slow", {"after": 3}, actor="me")
    found = manager.get("s")
    assert (found.tool_calls, found.errors) == (2, 1)
    numbers = manager.statistics("s")
    assert numbers["tools"]["search"] == {"calls": 2, "errors": 1, "duration_ms": 5.0}
    assert numbers["errors"] == {"timeout": 1}


# -- limits ----------------------------------------------------------------------------------


def test_the_oldest_messages_go_at_the_limit(manager):
    """Over max_messages the oldest are pruned, as a fact, but what is important stays."""
    manager.create("s", max_messages=3)
    manager.add_message("s", said("keep", metadata={"important": True}))
    for number in range(5):
        manager.add_message("s", said(str(number)))
        assert manager.message_count("s") <= 3
    assert shown(manager, "s") == ["keep", "3", "4"]
    assert [each.type for each in manager.store.events("s")].count("MessagesPruned") == 3
    manager.add_messages("s", [said(f"n{number}") for number in range(10)])
    assert shown(manager, "s") == ["keep", "n8", "n9"]


def test_a_pinned_session_is_not_cut(manager):
    """A pinned session shows more than its limit rather than losing a message."""
    manager.create("s", max_messages=2, metadata={"pinned": True})
    manager.add_messages("s", [said(str(number)) for number in range(5)])
    assert manager.message_count("s") == 5
    manager.update_metadata("s", {"pinned": None})
    manager.add_message("s", said("5"))
    assert shown(manager, "s") == ["4", "5"]


def test_threads_leave_a_session_within_its_limit(store):
    """Whoever appends last leaves no more messages than the limit, and nothing is lost."""
    with SessionManager(store, PLAIN) as manager:
        manager.create("s", max_messages=5)
        in_threads(16, lambda n: [manager.add_message("s", said(f"{n}.{m}")) for m in range(5)])
        assert manager.message_count("s") == 5
        assert manager.statistics("s")["messages"] == 80
        assert verify(store).findings == []


def test_a_full_session_takes_no_more_bytes(manager):
    """Over max_bytes an append is refused with both numbers; room comes back with clear()."""
    manager.create("s", max_bytes=1_000)
    manager.add_message("s", said("x" * 600))
    size = manager.store.head().size
    with pytest.raises(EventTooLarge, match="limit of 1000 bytes") as raised:
        manager.add_messages("s", iter([said("y"), said("z" * 500)]))
    assert raised.value.limit == 1_000 < raised.value.size
    assert manager.store.head().size == size
    manager.clear("s")
    manager.add_message("s", said("z" * 800))
    manager.store.rewind("s", 1)
    with pytest.raises(EventTooLarge):
        manager.add_message("s", said("z" * 800))
    manager.update_metadata("s", {"max_bytes": None})
    manager.add_message("s", said("z" * 5_000))


def test_threads_never_pass_the_limit_in_bytes(store):
    """16 threads fill a session: what was acknowledged is within max_bytes, and shown."""
    with SessionManager(store, PLAIN) as manager:
        manager.create("s", max_bytes=2_000)

        def fill(number: int) -> int:
            added = 0
            for _ in range(5):
                try:
                    manager.add_message("s", said(str(number) * 100))
                except EventTooLarge:
                    continue
                added += 1
            return added

        added = sum(in_threads(16, fill))
        size = sum(each.size for each in store.events("s") if each.type == "MessageAppended")
        assert 0 < manager.message_count("s") == added < 80
        assert size <= 2_000


# -- values ----------------------------------------------------------------------------------


def test_metadata_is_patched_and_context_set(manager):
    """Metadata is merged, a context value replaced; None removes; a default stands for nothing."""
    manager.create("s", metadata={"a": 1, "b": {"c": 2}}, context={"k": 1})
    manager.update_metadata("s", {"a": None, "b": {"d": 3}})
    manager.set_context("s", "k", {"x": [1]})
    manager.set_context("s", "l", 2)
    manager.set_context("s", "l", None)
    assert manager.get("s").metadata == {"b": {"c": 2, "d": 3}}
    assert manager.get_context("s", "k") == {"x": [1]}
    assert manager.get_context("s", "l", "gone") == "gone"
    assert manager.get_context("s", "k", at_version=0) == 1
    assert manager.get_context("s", "l", at_version=3) == 2


def test_context_is_shared_by_reference(manager):
    """What is shared follows its owner, through other sessions too, and at the same moment."""
    for name in ("owner", "reader", "third"):
        manager.create(name)
    manager.set_context("owner", "plan", "one")
    manager.share("owner", "plan", "reader")
    manager.share("reader", "plan", "third", name="theirs")
    assert manager.get_context("third", "theirs") == "one"
    then = manager.store.head().size - 1
    manager.set_context("owner", "plan", {"two": 2})
    assert manager.get_context("reader", "plan") == {"two": 2}
    assert manager.get_context("third", "theirs") == {"two": 2}
    assert manager.get_context("third", "theirs", at_position=then) == "one"
    recorded_at = manager.store.event(then).recorded_at
    if manager.store.event(then + 1).recorded_at > recorded_at:
        assert manager.get_context("third", "theirs", at_time=recorded_at) == "one"
    assert manager.get_context("reader", "plan", at_version=1) == "one"


def test_a_reference_to_nothing_is_told(manager):
    """Sharing what is not there, or what would refer to itself, is refused; reading it too."""
    for name in ("a", "b"):
        manager.create(name)
    with pytest.raises(InvalidEvent, match="no context value 'k'"):
        manager.share("a", "k", "b")
    with pytest.raises(SessionNotFound):
        manager.share("nobody", "k", "b")
    manager.set_context("a", "k", 1)
    manager.share("a", "k", "b")
    with pytest.raises(InvalidEvent, match=r"circle: a\.k -> b\.k -> a\.k"):
        manager.share("b", "k", "a")
    manager.set_context("a", "k", {"$ref": {"session": "b", "key": "k"}})
    with pytest.raises(InvalidEvent, match="goes in a circle"):
        manager.get_context("b", "k")
    manager.set_context("a", "k", None)
    with pytest.raises(InvalidEvent, match="session 'a' has no context value 'k'"):
        manager.get_context("b", "k")
    manager.delete("a")
    with pytest.raises(SessionDeleted):
        manager.get_context("b", "k")


def test_what_only_looks_like_a_reference_is_a_value(manager):
    """A value is a reference only in exactly that shape."""
    manager.create("s")
    for value in ({"$ref": 1}, {"$ref": {"session": "s"}}, {"$ref": {}, "more": 1}, [1]):
        manager.set_context("s", "k", value)
        assert manager.get_context("s", "k") == value


# -- templates -------------------------------------------------------------------------------


def test_a_template_is_copied(manager):
    """A session begins with its template's values and messages, and keeps them ever after."""
    manager.save_template(
        Template(
            name="support",
            description="d",
            metadata={"type": "dm"},
            context={"tone": "kind"},
            messages=[{"role": "system", "content": "Be kind."}],
            max_messages=50,
        )
    )
    made = manager.create("s", template="support", context={"more": 1})
    assert (made.metadata, made.context) == ({"type": "dm"}, {"tone": "kind", "more": 1})
    assert (made.max_messages, made.template, made.messages) == (50, "support", 1)
    manager.save_template(Template(name="support", messages=[]))
    manager.delete_template("support")
    assert shown(manager, "s") == ["Be kind."]
    with pytest.raises(InvalidEvent, match="no template 'support'; there are dm, group, bot"):
        manager.create(template="support")
    manager.save_template(Template(name="support", context={"new": True}))
    assert manager.template("support").context == {"new": True}


def test_a_session_with_its_template_is_one_append(manager):
    """The messages of a template come in with the session, or not at all."""
    manager.save_template(Template(name="t", messages=[said("one"), said("two")]))
    size = manager.store.head().size
    manager.create("s", template="t")
    assert manager.store.head().size == size + 3
    assert len({each.recorded_at for each in manager.store.all(size)}) == 1
    found = manager.find_or_create(chat=1, template="t")
    assert (found.template, found.messages) == ("t", 2)


def test_templates_are_listed_and_presets_can_t_be_changed(manager):
    """templates() are the presets and then the others by name; a preset's name is taken."""
    for name in ("b", "a"):
        manager.save_template(Template(name=name))
    assert [each.name for each in manager.templates()] == ["dm", "group", "bot", "a", "b"]
    manager.delete_template("b")
    assert [each.name for each in manager.templates()] == ["dm", "group", "bot", "a"]
    with pytest.raises(InvalidEvent, match="'dm' is a preset"):
        manager.save_template(Template(name="dm"))
    with pytest.raises(InvalidEvent, match="'dm' is a preset"):
        manager.delete_template("dm")
    with pytest.raises(InvalidEvent, match="no template 'b'"):
        manager.delete_template("b")
    assert manager.count() == 0  # templates are no conversations


@pytest.mark.parametrize(
    "wrong",
    [
        {"ttl": "soon"},
        {"ttl": -5},
        {"ttl": object()},
        {"metadata": None},
        {"messages": "hello"},
        {"messages": [5]},
        {"description": None},
        {"token_limit": 0},
        {"max_messages": 1.5},
        {"max_bytes": -1},
        {"name": "\ud800"},
    ],
    ids=" ".join,
)
def test_a_template_that_no_session_could_begin_with_is_not_kept(manager, wrong):
    """What is wrong in a template is said when it is saved, and the others stay listed."""
    with pytest.raises(InvalidEvent):
        manager.save_template(Template(**{"name": "t"} | wrong))
    assert not manager.store.exists("template:t") and len(manager.templates()) == 3


def test_what_is_no_template_is_said_to_be_none(manager):
    """No template at all, and a session that only looks like one, are errors that say so."""
    with pytest.raises(InvalidEvent, match="a Template is expected, not str"):
        manager.save_template("support")
    manager.create("template:t", context={"template": 5})
    with pytest.raises(InvalidEvent, match="template 't' is none"):
        manager.template("t")


def test_the_presets_say_what_they_promise(manager):
    """A bot's session lives for 24 hours and 4,000 tokens; dm and group have their types."""
    made = manager.create(template="bot")
    assert (made.ttl, made.token_limit) == (86_400, 4_000)
    assert [manager.create(template=name).metadata for name in ("dm", "group")] == [
        {"type": "dm"},
        {"type": "group"},
    ]


def test_a_template_whose_session_was_deleted_can_be_kept_again(manager):
    """Who deletes its session deletes the template: nothing is left of it, its name is free."""
    for turn in range(3):
        manager.save_template(Template(name="x", description=str(turn)))
        manager.save_template(Template(name="1:x"))
        assert manager.template("x").description == str(turn)
        assert [each.name for each in manager.templates()][3:] == ["1:x", "x"]
        [session] = [
            row.session for row in manager.list(where={"title": "x"}, status="archived", limit=None)
        ]
        manager.delete(session)
        assert [each.name for each in manager.templates()][3:] == ["1:x"]
        with pytest.raises(InvalidEvent, match="there is no template 'x'"):
            manager.template("x")
        with pytest.raises(InvalidEvent, match="there is no template 'x'"):
            manager.delete_template("x")
    manager.save_template(Template(name="x"))
    manager.delete_template("x")
    assert [each.name for each in manager.templates()][3:] == ["1:x"]


def test_a_session_becomes_a_template(manager):
    """save_as_template() keeps values, limits and visible messages, not who or which branch."""
    made = manager.find_or_create(chat=1, metadata={"a": 1}, token_limit=99, max_bytes=5_000)
    manager.add_messages(made.name, [said("one"), said("two")])
    manager.branch(made.name, session_id="b")
    manager.switch(made.name, "b")
    manager.truncate(made.name, 1)
    manager.save_as_template(made.name, "t", "as it was")
    found = manager.template("t")
    assert (found.metadata, found.context, found.messages) == ({"a": 1}, {}, [said("two")])
    assert (found.token_limit, found.max_bytes, found.description) == (99, 5_000, "as it was")


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "x" * 300},
        {"name": "t", "metadata": {"a": {1, 2}}},
        {"name": "t", "context": {"a": float("nan")}},
        {"name": "t", "messages": [{"role": 1}]},
    ],
)
def test_a_template_that_could_not_begin_a_session_is_refused(manager, wrong):
    """What no session could hold is refused when the template is saved; nothing is written."""
    with pytest.raises(InvalidEvent):
        manager.save_template(Template(**wrong))
    assert manager.store.head().size == 0


# -- branches --------------------------------------------------------------------------------


def test_branches_are_made_switched_compared_and_merged(manager):
    """branch, switch, current, path, tree, compare and merge agree about one tree."""
    manager.create("root", metadata={"a": 1})
    manager.add_messages("root", [said("one"), said("two")])
    made = manager.branch("root", "try", at=1, description="d", session_id="b1", actor="me")
    assert (made.parent, made.at_version, made.branch_name) == ("root", 1, "try")
    assert (made.depth, made.description, shown(manager, "b1")) == (1, "d", ["one"])
    assert manager.create("b2", branch_from="b1").parent == "b1"
    manager.add_message("b1", said("other"))
    assert manager.path("b2") == ["root", "b1", "b2"]
    assert set(manager.tree("b1").nodes) == {"root", "b1", "b2"}
    found = manager.compare("root", "b1")
    assert (found.common, texts(found.only_a), texts(found.only_b)) == (1, ["two"], ["other"])
    manager.merge("b1", "root")
    assert shown(manager, "root") == ["one", "two", "other"]
    manager.update_metadata("root", {"a": 2})
    manager.update_metadata("b1", {"a": 3})
    with pytest.raises(MergeConflict):
        manager.merge("b1", into="root")
    manager.merge("b1", "root", strategy="squash", on_conflict="ours", summary="short")


def test_switching_is_a_fact_on_the_root(manager):
    """current() is the branch chosen last, from anywhere in the tree; get(follow=) goes there."""
    manager.create("root")
    manager.branch("root", session_id="b1")
    manager.branch("b1", session_id="b2")
    assert manager.current("b2") == "root" and manager.get("root").current is None
    manager.switch("b1", "b2")
    assert {manager.current(name) for name in ("root", "b1", "b2")} == {"b2"}
    assert manager.get("b1", follow=True).name == "b2"
    assert manager.get("root").current == "b2"
    manager.switch("b2", "b1")
    manager.delete("b1")
    assert manager.current("b2") == "root"
    manager.switch("b2", "b2")
    manager.switch("b2", "root")
    assert manager.current("b2") == "root"
    assert manager.get("root").context == {}


def test_branches_outlive_their_root(manager):
    """Where the root is deleted, what is left of it are trees with choices of their own."""
    manager.create("root")
    manager.branch("root", session_id="b1")
    manager.switch("root", "b1")
    manager.branch("root", session_id="c1")  # inherits a choice that is none of its own tree's
    manager.branch("b1", session_id="b2")
    manager.branch("b2", session_id="b3")
    manager.delete("root")
    assert [manager.current(name) for name in ("b1", "b2", "b3", "c1")] == ["b1"] * 3 + ["c1"]
    manager.switch("b1", "b3")
    manager.delete("b2")
    assert manager.current("b1") == manager.current("b3") == "b3"
    assert manager.get("b1", follow=True).name == "b3"
    manager.switch("b3", "b1")
    assert manager.get("b3", follow=True).name == "b1"
    with pytest.raises(InvalidEvent, match="not in the tree of 'b1'"):
        manager.switch("b1", "c1")
    manager.delete("c1")
    with pytest.raises(SessionDeleted):
        manager.current("c1")


def test_a_branch_of_another_tree_can_t_be_current(manager):
    """switch() refuses what is not in the tree, is deleted or does not exist."""
    for name in ("root", "stranger"):
        manager.create(name)
    manager.branch("root", session_id="gone")
    manager.delete("gone")
    with pytest.raises(InvalidEvent, match="not in the tree of 'root'"):
        manager.switch("root", "stranger")
    with pytest.raises(SessionDeleted):
        manager.switch("root", "gone")
    with pytest.raises(SessionNotFound):
        manager.switch("root", "nobody")


def test_depth_is_limited_by_the_settings(tmp_path):
    """Branches of branches go as deep as max_depth says."""
    with SessionManager.open(tmp_path / "history", max_depth=2) as manager:
        manager.create("0")
        manager.branch("0", session_id="1")
        manager.branch("1", session_id="2")
        with pytest.raises(DepthExceeded, match="limit is 2"):
            manager.branch("2", session_id="3")


# -- lists -----------------------------------------------------------------------------------


def test_lists_are_paged_sorted_and_filtered(manager):
    """list() and count() go by user, metadata and status; offsets and cursors show each once."""
    for number in range(10):
        manager.create(f"s{number}", user=f"u{number % 2}", metadata={"tag": number % 3})
    manager.archive("s8")
    manager.delete("s9")
    names = [row.session for row in manager.list(order="session", limit=None)]
    assert names == [f"s{number}" for number in range(8)]
    assert [row.session for row in manager.list("u0", {"tag": 0}, order="-session")] == ["s6", "s0"]
    assert (manager.count(), manager.count("u1"), manager.count(where={"tag": 2})) == (8, 4, 2)
    assert manager.count(status=("archived", "deleted")) == 2
    assert [row.session for row in manager.list(status="archived")] == ["s8"]
    paged, after = [], None
    for _ in range(3):
        page = manager.list(order="session", limit=3, after=after)
        paged, after = [*paged, *(row.session for row in page)], page.next
    assert (paged, after) == (names, None)
    offsets = [manager.list(order="session", limit=3, offset=start) for start in (0, 3, 6, 9)]
    assert [row.session for page in offsets for row in page] == names


def test_a_text_is_found_where_it_stands(manager):
    """search() finds messages and metadata in whatever case, each once, within its limit."""
    manager.create("a", user="u", metadata={"title": "Cats and DOGS", "tags": ["pets"]})
    manager.create("b")
    manager.add_messages("a", [said("no animals"), said(f"{'x' * 100} dogs bark\nloudly")])
    manager.add_message("b", {"role": "user", "content": [{"type": "text", "text": "my Dog"}]})
    manager.branch("a", session_id="c")
    found = manager.search("dog")
    assert {(hit.key, hit.message and hit.message.id) for hit in found} == {
        ("title", None),
        (None, "a#2"),
        (None, "b#1"),
    }
    assert next(hit for hit in found if hit.message and hit.message.id == "a#2").excerpt.endswith(
        "dogs bark loudly"
    )
    assert [hit.key for hit in manager.search("PETS")] == ["tags", "tags"]  # of a and its branch
    assert {hit.session for hit in manager.search("dog", user="u")} <= {"a", "c"}
    assert len(manager.search("dog", limit=2)) == 2
    manager.clear("b")
    assert "b" not in {hit.session for hit in manager.search("dog")}
    for wrong in ("", "  ", None):
        with pytest.raises(InvalidEvent, match="a text to search for"):
            manager.search(wrong)


# -- life cycle ------------------------------------------------------------------------------


def test_a_session_closes_reopens_and_ends(manager):
    """close_session, reopen, archive and delete are facts with their reasons; so is extend_ttl."""
    manager.create("s")
    manager.close_session("s", reason="done")
    with pytest.raises(InvalidEvent, match="closed"):
        manager.add_message("s", said("x"))
    manager.reopen("s")
    manager.add_message("s", said("x"))
    manager.extend_ttl("s", 60)
    assert manager.get("s").ttl == 60
    manager.archive("s")
    assert (manager.get("s").status, manager.count()) == ("archived", 0)
    manager.delete("s", reason="over", actor="me")
    assert not manager.exists("s")
    with pytest.raises(SessionDeleted):
        manager.get("s")
    assert manager.get("s", at_version=2).status == "active"
    assert [each.actor for each in manager.store.events("s")][-1] == "me"


def test_closing_a_session_is_not_closing_the_manager(tmp_path):
    """close(session) is a fact; close() ends the manager, with its store if it opened that."""
    manager = SessionManager.open(tmp_path / "history")
    manager.create("s")
    manager.close("s", reason="done")
    assert manager.get("s").status == "closed"
    manager.close()
    manager.close()
    with pytest.raises(StoreUnavailable):
        manager.create()
    with EventStore.open(tmp_path / "history") as store:
        with SessionManager(store) as borrowed:
            assert borrowed.get("s").status == "closed"
        assert store.version("s") == 1


# -- figures ---------------------------------------------------------------------------------


def test_statistics_have_two_levels(manager):
    """statistics() counts the store and its parts, statistics(session) one session."""
    manager.find_or_create(interface="telegram", chat=1, metadata={"type": "dm"})
    manager.create("s")
    manager.add_messages("s", [said("a" * 40), {"role": "assistant", "content": "b" * 8}])
    found = manager.statistics()
    assert (found["sessions"], found["messages"], found["messages_per_session"]) == (2, 2, 1.0)
    assert found["by_interface"] == {"telegram": 1, "none": 1}
    assert found["by_type"] == {"dm": 1, "none": 1}
    assert set(found["cache"]) >= {"hits", "misses", "rate", "entries", "bytes", "evictions"}
    assert found["cleanup"]["rounds"] == found["summarizer"]["made"] == 0
    own = manager.statistics("s")
    assert (own["messages"], own["tokens_in"], own["tokens_out"]) == (2, 10, 2)
    assert own["last_message_at"] >= own["first_message_at"]
    with pytest.raises(SessionNotFound):
        manager.statistics("nobody")


def test_health_reads_and_tells(manager):
    """health() says that a store in memory is fine, and how long reading it took."""
    manager.create("s")
    size = manager.store.head().size
    found = manager.health()
    assert (found["ok"], found["problems"], found["writable"]) == (True, [], True)
    assert (found["events"], found["path"]) == (size, None)
    assert found["read_ms"] >= 0
    assert manager.store.head().size == size


def test_health_of_a_closed_store_names_the_problem(tmp_path):
    """A store on disk tells its size and free room; one that is closed is not ok."""
    store = EventStore.open(tmp_path / "history")
    manager = SessionManager(store)
    manager.create("s")
    found = manager.health()
    assert found["ok"] and found["bytes"] > 0 < found["free_bytes"]
    store.close()
    found = manager.health()
    assert not found["ok"] and found["problems"]


# -- care ------------------------------------------------------------------------------------


def test_a_window_goes_by_the_settings(manager):
    """build_context() takes what it is told, else the session's limit and the settings."""
    manager.create("s", token_limit=30)
    manager.add_messages("s", [said(f"{n} ".ljust(40)) for n in range(8)])  # 10 tokens each
    assert texts(manager.build_context("s").messages) == [f"{n} ".ljust(40) for n in (5, 6, 7)]
    assert len(manager.build_context("s", 1_000)) == 8
    assert len(manager.build_context("s", 1_000, 2)) == 2
    assert len(manager.build_context("s", 1_000, at_version=3)) == 3


def test_pruning_plans_first_and_then_applies(manager):
    """plan_pruning() writes nothing, prune() does what it said, by name or by a policy."""
    for number in range(4):
        manager.create(f"s{number}")
    size = manager.store.head().size
    plan = manager.plan_pruning("lru", max_sessions=3, then="delete")
    assert [(step.session, step.action) for step in plan.steps] == [("s0", "delete")]
    assert manager.store.head().size == size
    outcome = manager.prune("lru", max_sessions=3, then="delete", actor="me")
    assert outcome.done == plan.steps and not manager.exists("s0")
    with pytest.raises(InvalidEvent, match="strategies are lru, lfu, ttl, size, semantic"):
        manager.plan_pruning("random")
    with pytest.raises(InvalidEvent, match="'lru' has no limit color"):
        manager.plan_pruning("lru", color="red")


def test_cleanup_goes_by_the_settings():
    """One round ends expired and inactive sessions and keeps the settings' limits, as facts."""
    settings = Settings(
        token_limit=None,
        expired="archive",
        inactive_after=40_000,  # the clock moves on 9,000 seconds a look
        max_sessions=2,
        strategy="lru",
    )
    with SessionManager(EventStore.in_memory(clock=ticking()), settings) as manager:
        manager.create("idle", metadata={"pinned": True})
        manager.create("old")
        manager.create("expired", ttl=1)
        for number in range(6):
            manager.create(f"s{number}")
        manager.cleanup()
        assert manager.get("expired").status == "archived"
        assert manager.get("idle").status == "active"  # pinned
        assert manager.get("old").status == "archived"  # closed, then the least recently used
        assert manager.count() == 2
        assert manager.statistics()["cleanup"]["rounds"] == 1


def test_summaries_come_by_themselves_once_started(manager):
    """After start() a session that fills its limit gets a summary; before, nothing happens."""
    lines = [said(f"{n} ".ljust(40)) for n in range(12)]  # 10 tokens each
    manager.create("before", token_limit=100)
    manager.add_messages("before", lines)
    manager.start()
    manager.create("after", token_limit=100)
    manager.add_messages("after", lines)
    assert manager.summaries.wait_idle(SECONDS_MAX)
    manager.stop()
    assert [each.type for each in manager.store.events("before")].count("HistorySummarized") == 0
    assert [each.type for each in manager.store.events("after")].count("HistorySummarized") >= 1
    assert manager.get("after").tokens < 120
    assert manager.statistics()["summarizer"]["made"] >= 1


def test_a_summary_can_be_asked_for(manager):
    """summarize() takes a text up to a place, or has the summarizer write one."""
    manager.create("s")
    manager.add_messages("s", [said(f"line {n}. " * 8) for n in range(10)])
    assert manager.summarize("s") is not None
    assert manager.get_messages("s")[0].role == "system"
    manager.summarize("s", "all of it", upto=manager.get("s").version)
    assert shown(manager, "s") == ["all of it"]
    with pytest.raises(InvalidEvent, match="go with a summary of your own"):
        manager.summarize("s", upto=3)


# -- held, redacted, erased, watched ---------------------------------------------------------


def test_a_held_session_goes_on_and_loses_nothing(manager):
    """Under a legal hold appends work and nothing is cut; once it is cleared the limit holds."""
    manager.create("s", max_messages=2)
    manager.store.set_hold("s", reason="case 7")
    manager.add_messages("s", [said(str(number)) for number in range(5)])
    assert manager.message_count("s") == 5
    manager.store.clear_hold("s")
    manager.add_message("s", said("5"))
    assert shown(manager, "s") == ["4", "5"]


def test_what_was_redacted_is_forgotten_at_once(manager):
    """After a redaction counts, bytes and search know nothing of the message, cached or not."""
    manager.create("s", max_bytes=1_000)
    manager.add_messages("s", [said("x" * 700), said("stays")])
    assert (manager.get("s").messages, len(manager.search("xxx"))) == (2, 1)
    with pytest.raises(EventTooLarge):
        manager.add_message("s", said("y" * 700))
    manager.store.redact("s", "s#1")
    assert (manager.get("s").messages, manager.search("xxx")) == (1, [])
    assert manager.get("s").tokens == SessionState.of(manager.store, "s").tokens
    manager.add_message("s", said("y" * 700))


def test_an_erased_session_is_followed_by_a_fresh_one(tmp_path):
    """The key of an erased session finds nothing, and then a new session of the same key."""
    with SessionManager.open(tmp_path / "history", keyring=str(tmp_path / "ring")) as manager:
        old = manager.find_or_create(chat=1)
        manager.add_message(old.name, said("secret"))
        manager.store.erase(old.name, reason="asked for")
        assert manager.find_by(chat=1) is None and not manager.exists(old.name)
        with pytest.raises(KeyShredded):
            manager.get(old.name)
        assert manager.find_or_create(chat=1).name != old.name
        assert manager.search("secret") == []


def test_reads_from_the_cache_are_recorded_too():
    """In a store that records reads, one that the cache answers is recorded like the others."""
    with EventStore.in_memory(record_reads=True) as store, SessionManager(store, PLAIN) as manager:
        store.create("s")
        for reads in range(1, 4):
            manager.get("s")
            assert store.head().size == reads + 2  # and the two that begin the streams
        assert manager.cache.statistics().hits == 2


# -- everything survives ---------------------------------------------------------------------


def answers(manager: SessionManager) -> dict:
    """Return what a manager says about everything in its store."""
    rows = manager.list(limit=None, order="session", status=("active", "closed", "archived"))
    names = [row.session for row in rows]
    return {
        "rows": rows.rows,
        "sessions": [manager.get(name) for name in names],
        "messages": [[each.to_dict() for each in manager.get_messages(name)] for name in names],
        "current": [manager.current(name) for name in names],
        "trees": [manager.tree(name) for name in names],
        "shared": manager.get_context("reader", "plan"),
        "templates": manager.templates(),
        "found": [manager.find_by(chat=number) for number in range(4)],
        "hits": manager.search("1"),
        "windows": [manager.build_context(name).to_dict() for name in names],
        "statistics": {
            key: value for key, value in manager.statistics().items() if key not in NOT_FACTS
        },
        "of each": [manager.statistics(name) for name in names],
    }


NOT_FACTS = ("cache", "cleanup", "summarizer")


def use(manager: SessionManager) -> None:
    """Use every change that a manager knows."""
    manager.save_template(Template(name="t", messages=[said("first")], context={"plan": 1}))
    manager.save_template(Template(name="dropped"))
    manager.delete_template("dropped")
    for number in range(4):
        found = manager.find_or_create(chat=number, template="t", max_messages=4, user="u")
        manager.add_messages(found.name, [said(f"{number}.{line}") for line in range(6)])
    manager.delete(manager.find_by(chat=1).name)
    manager.find_or_create(chat=1)
    manager.archive(manager.find_by(chat=2).name)
    root = manager.find_by(chat=3).name
    manager.create("reader")
    manager.share(root, "plan", "reader")
    manager.branch(root, "try", session_id="branch")
    manager.add_message("branch", said("1 more", metadata={"important": True}))
    manager.switch(root, "branch")
    manager.merge("branch", root)
    manager.summarize("branch", "short", upto=manager.get("branch").version)
    manager.update_metadata(root, {"title": "t1"})
    manager.record_tool_call(root, "search")
    manager.record_error(root, "kind")
    manager.truncate(root, 3)
    manager.clear("branch")
    manager.close_session("branch")
    manager.prune("lru", max_sessions=3)


@pytest.mark.parametrize("encrypted", [False, True])
def test_everything_is_rebuilt_from_the_facts(tmp_path, encrypted):
    """Reopened without its views and snapshots, a store gives the same answer to every question."""
    keyring = str(tmp_path / "keys" / "ring") if encrypted else None
    (tmp_path / "keys").mkdir()
    with SessionManager.open(tmp_path / "history", keyring=keyring) as manager:
        use(manager)
        before = answers(manager)
        root = before["found"][3].name
    for name in ("views", "snapshots"):
        shutil.rmtree(tmp_path / "history" / name, ignore_errors=True)
    with SessionManager.open(tmp_path / "history", keyring=keyring) as manager:
        assert answers(manager) == before
        assert manager.current(root) == "branch"
        assert verify(manager.store).findings == []


def test_a_session_equals_the_store_s_own_fold(manager):
    """get() says what SessionState says, now and at every past version."""
    manager.create("s", metadata={"a": 1})
    manager.add_messages("s", [said("a"), said("b")])
    manager.set_context("s", "k", 1)
    manager.truncate("s", 1)
    for version in range(manager.get("s").version + 1):
        found = manager.get("s", at_version=version)
        state = SessionState.of(manager.store, "s", at_version=version)
        assert (found.version, found.messages, found.tokens, found.metadata, found.context) == (
            state.version,
            len(state.messages),
            state.tokens,
            state.metadata,
            state.context,
        )


def test_threads_use_one_manager_for_everything(store):
    """8 threads create, find, add, branch, switch, prune and read at once; the log is sound."""
    with SessionManager(store, Settings(token_limit=50, cache_sessions=5)).start() as manager:

        def work(number: int) -> int:
            for turn in range(6):
                found = manager.find_or_create(chat=turn % 3, max_messages=10)
                manager.add_messages(found.name, [said(f"{number} {turn} ".ljust(20))] * 2)
                branch = manager.branch(found.name)
                manager.add_message(branch.name, said("x"))
                manager.switch(found.name, branch.name)
                manager.get(found.name, follow=True)
                manager.set_context(found.name, f"k{number}", turn)
                assert manager.get_context(found.name, f"k{number}") == turn
            return 1

        assert sum(in_threads(8, work)) == 8
        manager.stop()
        assert all(manager.message_count(manager.find_by(chat=n).name) <= 10 for n in range(3))
        total = manager.statistics()
        assert (total["sessions"], total["messages"]) == (3 + 48, 8 * 6 * 3)
        assert verify(store).findings == []


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


@pytest.mark.parametrize(
    "ask",
    [
        lambda manager: manager.list(user=7.5),
        lambda manager: manager.create(user=True),
        lambda manager: manager.list(where="type"),
        lambda manager: manager.list(order=None),
        lambda manager: manager.list(offset=None),
        lambda manager: manager.list(limit=10**30),
        lambda manager: manager.count(status=None),
        lambda manager: manager.search("a", limit=10**30),
        lambda manager: manager.get_messages("s", limit=1, offset=None),
        lambda manager: manager.create(external=5),
        lambda manager: manager.create(template=[]),
        lambda manager: manager.plan_pruning(5),
        lambda manager: manager.get_context("s", []),
        lambda manager: manager.list(status="archive"),
        lambda manager: manager.count(status="inactive"),
        lambda manager: manager.search("a", status=["active", "gone"]),
        lambda manager: manager.list(status=[[]]),
        lambda _: SessionManager("history"),
        lambda manager: SessionManager(manager.store, {"ttl": 1}),
    ],
)
def test_a_question_of_the_wrong_type_is_one_clear_error(manager, ask):
    """What is no name, number, dict or policy is refused as such, wherever it is given."""
    manager.create("s")
    with pytest.raises(InvalidEvent):
        ask(manager)


def test_what_is_no_name_names_no_session(manager):
    """A session that is asked for by anything but text is not there."""
    for wrong in (None, 5, b"s", []):
        assert not manager.exists(wrong)
        for read in (manager.get, manager.get_messages):
            with pytest.raises(SessionNotFound):
                read(wrong)


def test_closed_managers_leave_nothing_with_their_store():
    """A store outlives any number of managers over it, and keeps none of them alive."""
    with EventStore.in_memory() as store:
        known = [SessionManager(store, PLAIN).start() for _ in range(3)]
        gone = [weakref.ref(each.cleaner) for each in known]
        while known:
            known.pop().close()
        gc.collect()
        assert [each() for each in gone] == [None] * 3


def test_a_retry_needs_no_room_before_its_first_try_is_on_disk(tmp_path):
    """In a session that is full by now, a key that is still on its way is known all the same."""
    with SessionManager.open(tmp_path / "history", PLAIN, durability="buffered") as manager:
        manager.create("s", max_bytes=120)
        for retried in (False, True):
            receipt = manager.add_message("s", said("x" * 60), key="update-1")
            assert receipt.duplicate is retried
