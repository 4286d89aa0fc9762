"""A session's messages: added, paged, hidden, and kept within its limits."""

import pytest
from faces import PLAIN, in_threads, said, shown, texts
from hypothesis import given
from hypothesis import strategies as st

from eventstore import (
    EventStore,
    EventTooLarge,
    InvalidEvent,
    KeyReused,
    VersionConflict,
)
from eventstore.audit.verify import verify
from eventstore.sessions import SessionManager

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


def test_clearing_at_once_and_again_is_no_error():
    """However many clear a session at the same time, or once more with a key, nobody is refused."""
    with SessionManager(EventStore.in_memory(), PLAIN) as manager:
        manager.create("s")
        for _ in range(20):
            manager.add_messages("s", [said("one"), said("two")])
            in_threads(3, lambda _: manager.clear("s"))
            assert manager.message_count("s") == 0
        manager.add_message("s", said("three"))
        cleared = manager.clear("s", key="once")
        manager.add_message("s", said("four"))
        again = manager.clear("s", key="once")
        assert (again.duplicate, again.version) == (True, cleared.version)
        assert texts(manager.get_messages("s")) == ["four"]


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


def test_a_new_limit_holds_at_once(tmp_path):
    """Also where writes are acknowledged before they are committed."""
    with SessionManager.open(tmp_path / "history", PLAIN, durability="buffered") as manager:
        manager.create("s")
        for number in range(5):
            manager.update_metadata("s", {"max_bytes": 10 + number})
            with pytest.raises(EventTooLarge):
                manager.add_message("s", said("x" * 100))
            manager.update_metadata("s", {"max_bytes": None})
            manager.add_message("s", said("x" * 100))


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


def test_a_retry_needs_no_room_before_its_first_try_is_on_disk(tmp_path):
    """In a session that is full by now, a key that is still on its way is known all the same."""
    with SessionManager.open(tmp_path / "history", PLAIN, durability="buffered") as manager:
        manager.create("s", max_bytes=120)
        for retried in (False, True):
            receipt = manager.add_message("s", said("x" * 60), key="update-1")
            assert receipt.duplicate is retried
