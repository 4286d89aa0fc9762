"""The session manager as a whole: both faces, many callers, and all of it again from facts."""

import asyncio
import gc
import inspect
import shutil
import weakref

import pytest
from faces import PLAIN, in_threads, said

from eventstore import (
    EventStore,
    SessionNotFound,
    StoreUnavailable,
)
from eventstore.audit.verify import verify
from eventstore.sessions import SessionManager, Settings, Template
from eventstore.sessions.aio import AsyncSessionManager
from projections import SessionState

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
