"""Lists of sessions, what is found in them, and their figures."""

import pytest
from faces import said

from eventstore import (
    EventStore,
    InvalidEvent,
    SessionNotFound,
)
from eventstore.sessions import SessionManager

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


def test_an_excerpt_is_where_the_text_is(manager):
    """Letters that are two without case, as in German, don't move what is shown around a find."""
    manager.create("a")
    manager.add_message("a", said(f"{'ß' * 500} needle"))
    assert manager.search("NEEDLE")[0].excerpt.endswith("ß needle")


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


# -- wrong questions -------------------------------------------------------------------------


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
