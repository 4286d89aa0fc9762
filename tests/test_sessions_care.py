"""A session's life: how it ends, what is pruned, summarised, held, redacted and erased."""

import pytest
from driver import ticking
from faces import PLAIN, SECONDS_MAX, said, shown, texts

from eventstore import (
    EventStore,
    EventTooLarge,
    InvalidEvent,
    KeyShredded,
    SessionDeleted,
    StoreUnavailable,
)
from eventstore.sessions import SessionManager, Settings
from projections import SessionState

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
