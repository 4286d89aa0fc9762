"""Plans of pruning: they do exactly what they say, and what does not fit any more is refused."""

from itertools import count

import pytest
from spoken import HOUR, SECOND, answered, called, said

from eventstore import EventStore, InvalidEvent, StoreUnavailable
from eventstore.sessions.pruning import (
    LFU,
    LRU,
    TTL,
    Compact,
    KeepCount,
    MessageTTL,
    Plan,
    Size,
    Step,
    TotalMessages,
)
from projections import SessionState, Statistics, Views


def test_a_step_whose_session_went_on_is_refused_and_the_others_are_done(store):
    """A plan that is out of date does nothing to that session, says so, and does the rest."""
    for name in ("one", "two"):
        store.create(name)
        store.append(name, [said("user", f"line {number}") for number in range(5)])
    views = Views(store)
    plan = KeepCount(keep=2).plan(store, views)
    store.append("one", said("user", "line 5"))
    outcome = plan.apply(store)
    assert [step.session for step in outcome.done] == ["two"]
    assert [(each.session, each.action) for each in outcome.refused] == [("one", "prune")]
    assert "expected session 'one' at 5, but it is at version 6" in outcome.refused[0].why
    assert len(SessionState.of(store, "one").messages) == 6
    assert "refused: prune one: expected" in str(outcome)
    assert outcome.to_dict()["messages"] == outcome.messages == 3


@pytest.mark.parametrize("end", ["delete", "close", "archive"])
def test_a_plan_of_a_session_that_ended_is_refused(store, end):
    """Whatever happened to a session between plan and apply, nothing more does."""
    store.create("s")
    store.append("s", [said("user", "word")] * 5)
    plan = KeepCount(keep=2).plan(store, Views(store))
    getattr(store, end)("s")
    size = store.head().size
    assert [each.session for each in plan.apply(store).refused] == ["s"]
    assert store.head().size == size


def test_an_expired_session_is_left_to_cleanup(store):
    """Messages of a session whose time is over are not looked into."""
    store.create("s", ttl=1)
    store.append("s", [said("user", "word")] * 5)
    later = store.engine.now() + 2 * SECOND
    views = Views(store)
    assert KeepCount(keep=1).plan(store, views, now=later).steps == []
    assert TotalMessages(limit=1).plan(store, views, now=later).steps == []
    assert len(KeepCount(keep=1).plan(store, views).steps) == 1


def test_a_plan_draws_itself_and_goes_through_json(store):
    """A drawn plan has a row a step and a row a message; no text in it moves a cursor."""
    store.create("s", metadata={"type": "dm"})
    store.append("s", said("user", "word " * 8, id="\x1b[2J\u202eevil", metadata={"ttl": 1}))
    plan = MessageTTL().plan(store, Views(store), now=store.engine.now() + 2 * SECOND)
    drawn = str(plan)
    assert "\x1b" not in drawn and "\u202e" not in drawn
    assert "s" in drawn and "its time was over 20" in drawn
    assert drawn.endswith("to go: prune 1 session: 1 message, 10 tokens come back")
    assert plan.to_dict()["steps"][0]["drops"][0]["message"] == "\x1b[2J\u202eevil"
    assert (plan.to_dict()["messages"], plan.to_dict()["tokens"]) == (1, 10)
    assert str(Plan("LRU", [])) == "LRU\nto go: nothing"


def test_a_long_plan_is_drawn_in_part(store):
    """A drawn plan has a bounded number of rows and says how many more there are."""
    for number in range(105):
        store.create(f"s{number:03}")
    drawn = str(LRU(max_sessions=0).plan(store, Views(store)))
    assert "and 5 more rows" in drawn
    assert "to go: archive 105 sessions: 0 messages, 0 tokens come back" in drawn


def test_pruning_shows_in_the_statistics(store):
    """What pruning did in all is counted by the store's statistics, from its facts."""
    store.create("s")
    store.append("s", [said("user", "word " * 4)] * 9)
    plan = KeepCount(keep=4).plan(store, Views(store))
    plan.apply(store, actor="janitor")
    counted = Statistics.of(store)
    assert (counted.prunes, counted.pruned, counted.tokens_reclaimed) == (1, 5, 25)
    fact = [*store.events("s")][-1]
    assert (fact.actor, fact.event.reason) == ("janitor", "older than the newest 4")


def test_a_store_that_takes_no_facts_stops_the_plan(disk):
    """apply() raises where no step can be done at all, instead of refusing each."""
    disk.create("s")
    disk.append("s", [said("user", "word")] * 3)
    plan = KeepCount(keep=1).plan(disk, Views(disk))
    with EventStore.open(disk.path, read_only=True) as reader, pytest.raises(StoreUnavailable):
        plan.apply(reader)
    assert len(SessionState.of(disk, "s").messages) == 3


def test_a_plan_with_an_unknown_action_is_refused(store):
    """A step that names no action of this release is refused by name."""
    store.create("s")
    outcome = Plan("by hand", [Step("s", 0, "explode", "why not")]).apply(store)
    assert "not 'explode'" in outcome.refused[0].why


def test_a_failing_summariser_leaves_its_session_out(store):
    """One session's failure, or an answer that is no text, is a remark, and the rest is planned."""
    for name in ("bad", "good", "odd"):
        store.create(name)
        store.append(name, [said("user", f"{name} " * 40)] * 4)

    def summarizer(messages):
        if "bad" in messages[0].text:
            raise OSError("no connection")
        return None if "odd" in messages[0].text else "in short"

    plan = Compact(summarizer=summarizer, over=10, keep=1).plan(store, Views(store))
    assert [step.session for step in plan.steps] == ["good"]
    assert plan.remarks[0] == "session 'bad' is left out: no connection"
    assert "'odd' is left out: the summariser gave None" in plan.remarks[1]


def test_a_call_that_waits_for_its_result_stays_until_the_assistant_goes_on(store):
    """A result that comes after a prune still has its call."""
    store.create("s")
    store.append("s", [said("user", "go"), called("a", "b"), answered("a"), said("user", "hurry")])
    views = Views(store)
    KeepCount(keep=0).plan(store, views).apply(store)
    assert [m.role for m in SessionState.of(store, "s").messages] == ["assistant", "tool"]
    store.append("s", answered("b"))
    KeepCount(keep=0).plan(store, views).apply(store)
    assert len(SessionState.of(store, "s").messages) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: LRU(max_sessions=-1),
        lambda: Size(max_tokens=True),
        lambda: LFU(accesses=5),
        lambda: LFU(max_sessions=-1, accesses=len),
        lambda: TTL(then="burn"),
        lambda: KeepCount(keep=2.5),
        lambda: KeepCount(by_type={"dm": None}),
        lambda: MessageTTL(default=0),
        lambda: MessageTTL(default=float("nan")),
        lambda: TotalMessages(limit=None),
        lambda: TotalMessages(limit=1, preserve={"dm": -1}),
        lambda: Compact(summarizer=str, keep=-1),
    ],
)
def test_a_policy_of_wrong_numbers_is_refused(make):
    """A number out of range is one error that names it and what is allowed."""
    with pytest.raises(InvalidEvent, match=r"must be .*not "):
        make()


def test_lines_of_another_session_are_no_lines_of_this_one(store):
    """prune(lines=) takes what the session shows, and nothing else."""
    for name in ("s", "t"):
        store.create(name)
        store.append(name, [said("user", "word")] * 3)
    spans = store.headers.now("t").spans
    with pytest.raises(InvalidEvent, match="does not show 3 of the 3 lines"):
        store.prune("s", lines=spans)
    with pytest.raises(InvalidEvent, match="exactly one of"):
        store.prune("t", lines=spans, keep_last=1)
    store.prune("t", lines=spans)
    assert store.headers.now("t").messages == 0


def test_the_clock_of_the_store_is_the_default(store):
    """Without `now` policies go by the store's own clock."""
    clock = count(HOUR, HOUR).__next__
    with EventStore.in_memory(clock=clock) as other:
        other.create("s", ttl=30 * 60)
        plan = TTL(then="delete").plan(other, Views(other))
        assert [(step.session, step.action) for step in plan.steps] == [("s", "delete")]


@pytest.mark.parametrize("counts", [None, 5, "dm", ["dm"]])
def test_counts_by_type_are_a_dict(counts):
    """What is no dict of counts by type is refused by the policies that take one."""
    with pytest.raises(InvalidEvent, match="by_type says"):
        KeepCount(by_type=counts)
    with pytest.raises(InvalidEvent, match="preserve says"):
        TotalMessages(limit=1, preserve=counts)
