"""Summaries: what they cover, the worker that writes them, and what happens when that fails."""

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from play import STEPS, Play, call, results, said

from eventstore import EventStore, InvalidEvent, Message, VersionConflict
from eventstore.events import Span
from eventstore.messages import calls_answered, calls_made, count_tokens
from eventstore.sessions import summaries
from eventstore.sessions import summaries as module
from eventstore.sessions.context import build_context
from eventstore.sessions.covering import Rules, is_due, plan_summary, still_holds
from eventstore.sessions.summaries import ERROR_KIND, Summaries, backoff_seconds
from eventstore.sessions.units import units_of
from eventstore.spans import length, minus
from projections import SessionState

PATIENCE_SECONDS = 30


def talk(store, session: str, count: int, size: int = 40) -> None:
    """Append as many messages of `size` characters each."""
    store.append(session, said(*(f"{each:0{size}}" for each in range(count))))


def notes(store, session: str) -> list[Message]:
    """Return the visible summaries."""
    return [each for each in SessionState.of(store, session).messages if "summary" in each.metadata]


def errors(store, session: str) -> list:
    """Return the facts about failed summaries."""
    events = [each.structure for each in store.events(session)]
    return [each for each in events if getattr(each, "kind", "") == ERROR_KIND]


class Writer:
    """A summariser that counts its calls and answers what it was told to."""

    def __init__(self, answer="in short") -> None:
        self.answer, self.asked = answer, []

    def __call__(self, messages):
        self.asked.append(messages)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def looked_at(worker: Summaries, *sessions: str) -> None:
    """Have the worker look at sessions and wait until it has."""
    for session in sessions:
        worker.notice(session)
    assert worker.wait_idle(PATIENCE_SECONDS)


# -- what is covered -------------------------------------------------------------------------

RULES = st.builds(
    Rules,
    share=st.sampled_from([0.7, 0.3, 1.0]),
    messages_min=st.integers(2, 10),
    tokens_max=st.integers(1, 500),
)


@given(steps=STEPS, rules=RULES, limit=st.none() | st.integers(1, 300))
def test_a_plan_covers_the_older_part_and_nothing_exempt(steps, rules, limit):
    """Whole units, oldest first, never the prompt, what is important or a call that waits."""
    with EventStore.in_memory() as store:
        play = Play(store, token_limit=limit)
        for step in steps:
            play.do(*step)
        header = store.headers.now(play.session)
        units = units_of(store.log, header)
        plan = plan_summary(header, units, rules)
        movable = [unit for unit in units if not unit.stays]
        older = older_units(movable, rules.share)
        if plan is None:
            few = sum(len(unit.lines) for unit in movable) < rules.messages_min
            lines = [line for unit in older for line in unit.lines]
            assert few or len(lines) < 2 or sum(line.tokens for line in lines) < 2
            return
        covered = [unit for unit in units if not minus([unit.lines[0].span], plan.spans)]
        assert all(not unit.stays or unit.stays == "a summary" for unit in covered)
        assert plan.messages == length(plan.spans) == sum(len(unit.lines) for unit in covered)
        assert plan.tokens == sum(line.tokens for unit in covered for line in unit.lines)
        assert 0 < plan.tokens_max <= min(rules.tokens_max, plan.tokens // 2)
        assert [unit for unit in covered if not unit.stays] == older
        assert still_holds(plan, units)


def older_units(movable, share) -> list:
    """Return the units, all but the newest, whose middle is in the older part of the lines."""
    sizes = [len(unit.lines) for unit in movable]
    middles = [sum(sizes[:each]) + size / 2 for each, size in enumerate(sizes)]
    return [
        unit
        for unit, middle in zip(movable[:-1], middles[:-1], strict=True)
        if middle <= share * sum(sizes)
    ]


@given(steps=STEPS)
def test_a_summary_parts_no_call_from_its_results(steps):
    """What was complete before a summary is all there or all gone after it; the past stays."""
    with EventStore.in_memory() as store:
        play = Play(store)
        for step in steps:
            play.do(*step)
        before = SessionState.of(store, play.session)
        said_before, tokens = list(before.messages), before.tokens
        receipt = Summaries(store, Writer()).summarize_now(play.session)
        after = SessionState.of(store, play.session)
        kept = {each.id for each in after.messages}
        for made, answered in pairs(said_before):
            assert (made.id in kept) == (answered.id in kept)
        assert list(SessionState.of(store, play.session, at_version=before.version).messages) == (
            said_before
        )
        assert receipt is None or after.tokens < tokens


def pairs(messages: list[Message]):
    """Iterate over each result with the call it answers."""
    latest: dict[str, Message] = {}
    for each in messages:
        for wanted in calls_answered(each.fields) & latest.keys():
            yield latest[wanted], each
        latest |= dict.fromkeys(calls_made(each.fields), each)


def test_a_call_that_waits_is_not_covered(store):
    """While nothing but results follows a call it stays, however old; then the turn is over."""
    store.create("s")
    store.append("s", [*said("please"), call(list("abcdefghij"), "openai")])
    store.append("s", results(list("abcdefghi"), "openai"))
    assert Summaries(store).plan("s") is None
    store.append("s", {"role": "assistant", "content": "I went on without the last one."})
    assert Summaries(store).plan("s").spans == [Span("s", 0, 11)]


def test_lines_are_named_exactly(store):
    """store.summarize(lines=) covers these lines and no others, or says how many are not shown."""
    store.create("s")
    store.append("s", said("a", "b", "c", "d"))
    store.summarize("s", "b and d", lines=[Span("s", 3, 4), Span("s", 1, 2)])
    assert [each.text for each in SessionState.of(store, "s").messages] == ["a", "b and d", "c"]
    gone = [Span("s", 0, 2)]
    for lines, wrong in ((gone, "1 of the 2 lines"), ([], "0 of the 0"), ("x", "Span")):
        with pytest.raises(InvalidEvent, match=wrong):
            store.summarize("s", "x", lines=lines)
    for both in ({}, {"upto": 1, "lines": [Span("s", 0, 1)]}):
        with pytest.raises(InvalidEvent, match="exactly one"):
            store.summarize("s", "x", **both)


@pytest.mark.parametrize(
    "wrong", [{"at": 0}, {"share": 1.1}, {"messages_min": 1}, {"tokens_max": 0}, {"at": "x"}]
)
def test_rules_have_ranges(wrong):
    """A wrong rule is named with its value."""
    with pytest.raises(InvalidEvent, match=f"{next(iter(wrong))} must be"):
        Rules(**wrong)


# -- the worker ------------------------------------------------------------------------------


def test_a_summary_is_made_at_70_percent(store):
    """The older 70 % become one message of at most 500 tokens; the recent 30 % stay."""
    store.create("s", token_limit=4_000)
    talk(store, "s", 100, size=108)
    with Summaries(store) as worker:
        looked_at(worker, "s")
        assert notes(store, "s") == []
        talk(store, "s", 4, size=100)
        looked_at(worker, "s")
    state = SessionState.of(store, "s")
    assert [each.metadata["summary"]["messages"] for each in notes(store, "s")] == [73]
    assert len(state.messages) == 104 - 73 + 1 and state.messages[0] == notes(store, "s")[0]
    assert 0 < count_tokens(state.messages[0].fields) <= 500
    assert worker.statistics.made == 1 and worker.statistics.messages == 73
    assert worker.statistics.tokens == 2_800 - state.tokens


@pytest.mark.parametrize(
    ("options", "count", "size"),
    [({"token_limit": 100}, 9, 400), ({}, 50, 400), ({"token_limit": 4_000}, 100, 100)],
)
def test_what_is_not_due_is_left_alone(store, options, count, size):
    """Fewer than ten messages, no limit, or less than 70 % of it: nothing happens."""
    store.create("s", **options)
    talk(store, "s", count, size)
    with Summaries(store, writer := Writer()) as worker:
        looked_at(worker, "s")
    assert writer.asked == [] and len(SessionState.of(store, "s").messages) == count


def test_pinned_and_held_sessions_are_summarised_only_when_asked(store):
    """Automatic summaries leave them alone; summarize_now() does not."""
    store.create("pinned", token_limit=100, metadata={"pinned": True})
    store.create("held", token_limit=100)
    store.set_hold("held")
    with Summaries(store, Writer()) as worker:
        for session in ("pinned", "held"):
            talk(store, session, 20)
            looked_at(worker, session)
            assert notes(store, session) == []
            assert worker.summarize_now(session).session == session
            assert len(notes(store, session)) == 1


def test_summaries_stack_until_they_are_too_many(store):
    """Earlier summaries stay beside new ones, in order, and are covered once they fill up."""
    store.create("s", token_limit=1_000)
    writer = Writer("so far " * 60)
    stack = []
    with Summaries(store, writer, Rules(tokens_max=70)) as worker:
        for _ in range(12):
            talk(store, "s", 30, size=100)
            looked_at(worker, "s")
            stack.append(len(notes(store, "s")))
    assert stack[:3] == [1, 2, 3] and max(stack) < 20 and stack != sorted(stack)
    assert any("summary" in each.metadata for asked in writer.asked for each in asked)
    window = build_context(store, "s")
    assert [each.why for each in window.chosen].count("summary") == stack[-1]


def test_a_failure_loses_nothing_and_is_a_fact(store, monkeypatch):
    """The error is recorded once for the same lines; with new ones it is tried again."""
    monkeypatch.setattr(module, "BACKOFF_SECONDS", 0.0)
    store.create("s", token_limit=100)
    talk(store, "s", 20)
    writer = Writer(RuntimeError("no \ud800 answer"))
    with Summaries(store, writer) as worker:
        looked_at(worker, "s")
        looked_at(worker, "s")
        looked_at(worker, "s")
        assert len(writer.asked) == 1 and len(SessionState.of(store, "s").messages) == 20
        talk(store, "s", 1)
        looked_at(worker, "s")
        found = [(each.text, each.detail["failures"]) for each in errors(store, "s")]
        assert found == [("RuntimeError: no ? answer", 1), ("RuntimeError: no ? answer", 2)]
        assert worker.statistics.failed == 2 and SessionState.of(store, "s").header.errors == 2
        writer.answer = "now it works"
        talk(store, "s", 1)
        looked_at(worker, "s")
    assert [each.text for each in notes(store, "s")] == ["now it works"]


@pytest.mark.parametrize("kind", [asyncio.CancelledError, SystemExit, KeyboardInterrupt])
def test_the_worker_outlives_whatever_a_summariser_raises(store, kind):
    """Also what is no Exception is a fact, and the next session gets its summary."""
    store.create("s", token_limit=100)
    store.create("next", token_limit=100)
    talk(store, "s", 20)
    talk(store, "next", 20)
    with Summaries(store, writer := Writer(kind())) as worker:
        looked_at(worker, "s")
        writer.answer = "in short"
        looked_at(worker, "next")
        assert worker.running and worker.statistics.failed == 1
    assert [each.text for each in errors(store, "s")] == [f"{kind.__name__}: "]
    assert [each.text for each in notes(store, "next")] == ["in short"]


def test_the_worker_outlives_a_token_counter_that_fails():
    """What fails outside the summariser is a fact of the session as well."""
    broken = []

    def count(fields):
        if broken and fields.get("content") == "in short":
            raise ZeroDivisionError("by zero")
        return count_tokens(fields)

    with EventStore.in_memory(count_tokens=count) as store:
        store.create("s", token_limit=100)
        talk(store, "s", 20)
        broken.append(True)
        with Summaries(store, Writer()) as worker:
            looked_at(worker, "s")
            assert worker.running and worker.statistics.failed == 1
        assert [each.text for each in errors(store, "s")] == ["ZeroDivisionError: by zero"]


def test_a_failure_waits_for_its_backoff(store):
    """Within the backoff nobody is asked again; the waits double up to a limit."""
    store.create("s", token_limit=100)
    talk(store, "s", 20)
    with Summaries(store, writer := Writer(RuntimeError("busy"))) as worker:
        worker_backoff = [backoff_seconds(failures) for failures in (1, 2, 3, 60)]
        looked_at(worker, "s")
        talk(store, "s", 1)
        looked_at(worker, "s")
    assert len(writer.asked) == 1 and worker_backoff == [1.0, 2.0, 4.0, 300.0]


@pytest.mark.parametrize("answer", [None, "", "  ", 5, b"bytes"])
def test_a_summariser_must_give_text(store, answer):
    """What is no text is a failure like any other."""
    store.create("s")
    talk(store, "s", 20)
    with pytest.raises(InvalidEvent, match="must give text"):
        Summaries(store, Writer(answer)).summarize_now("s")
    assert len(errors(store, "s")) == 1 and len(SessionState.of(store, "s").messages) == 20
    with pytest.raises(InvalidEvent, match="callable"):
        Summaries(store, "me")


def test_what_is_too_long_is_cut(store):
    """A summary never has more tokens than its plan allows."""
    store.create("s")
    talk(store, "s", 20)
    worker = Summaries(store, Writer("word " * 5_000))
    allowed = worker.plan("s").tokens_max
    worker.summarize_now("s")
    assert allowed // 2 < count_tokens(notes(store, "s")[0].fields) <= allowed


def test_an_asynchronous_summariser_is_awaited(store):
    """A coroutine function works in the worker and when asked."""

    async def write(messages):
        await asyncio.sleep(0)
        return f"{len(messages)} messages"

    store.create("s", token_limit=100)
    talk(store, "s", 20)
    with Summaries(store, write) as worker:
        looked_at(worker, "s")
        assert notes(store, "s")[0].text == "14 messages"
        worker.summarize_now("s")
    assert notes(store, "s")[-1].text != "14 messages"


def test_stopping_cancels_what_is_awaited(store):
    """A summariser that never answers does not keep the worker, and nothing is written."""
    begun = threading.Event()

    async def write(_):
        begun.set()
        await asyncio.Event().wait()

    store.create("s", token_limit=100)
    talk(store, "s", 20)
    worker = Summaries(store, write)
    worker.start()
    worker.notice("s")
    assert begun.wait(PATIENCE_SECONDS)
    worker.stop()
    assert not worker.running and store.version("s") == 20


class Slow(Writer):
    """A summariser that waits until it is let go on."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, messages):
        self.begun.set()
        assert self.go_on.wait(PATIENCE_SECONDS)
        return super().__call__(messages)


def test_appends_wait_for_nothing_and_take_nothing_away(store):
    """A session that goes on while its summary is written gets that very summary."""
    store.create("s", token_limit=100)
    talk(store, "s", 20)
    with Summaries(store, writer := Slow()) as worker:
        worker.notice("s")
        assert writer.begun.wait(PATIENCE_SECONDS)
        store.append("s", said("meanwhile"))
        store.update_metadata("s", {"topic": "x"})
        writer.go_on.set()
        assert worker.wait_idle(PATIENCE_SECONDS)
    state = SessionState.of(store, "s")
    assert len(writer.asked) == 1 and worker.statistics.failed == 0
    assert [each.text for each in (state.messages[0], state.messages[-1])] == [
        "in short",
        "meanwhile",
    ]


def test_a_program_can_wait_for_its_summaries(store):
    """wait_idle() says False while a summary is being written, and True when all are there."""
    store.create("s", token_limit=100)
    with Summaries(store, writer := Slow()) as worker:
        assert worker.wait_idle(0)
        talk(store, "s", 20)
        worker.notice("s")
        assert not worker.wait_idle(0)
        assert writer.begun.wait(PATIENCE_SECONDS) and not worker.wait_idle(0)
        writer.go_on.set()
        assert worker.wait_idle()
        assert SessionState.of(store, "s").messages[0].text == "in short"


def test_lines_that_changed_are_planned_again(store):
    """A summary of lines that are gone is dropped, and one of what is left is made if due."""
    store.create("s", token_limit=100)
    talk(store, "s", 40)
    with Summaries(store, writer := Slow()) as worker:
        worker.notice("s")
        assert writer.begun.wait(PATIENCE_SECONDS)
        store.prune("s", keep_last=20)
        writer.go_on.set()
        assert worker.wait_idle(PATIENCE_SECONDS)
    assert [len(each) for each in writer.asked] == [28, 14]
    assert len(SessionState.of(store, "s").messages) == 7
    assert errors(store, "s") == []


@pytest.mark.parametrize("asked", [True, False])
def test_a_line_redacted_since_the_plan_is_no_failure(store, monkeypatch, asked):
    """Between plan and summary a line goes: it is planned again without it, and nobody is told."""
    store.create("s", token_limit=100)
    talk(store, "s", 40)
    plans = []

    def planned(*args):
        plans.append(plan_summary(*args))
        if len(plans) == 1:
            store.redact("s", 3)
        return plans[-1]

    monkeypatch.setattr(summaries, "plan_summary", planned)
    with Summaries(store, writer := Writer()) as worker:
        if asked:
            assert worker.summarize_now("s") is not None
        else:
            looked_at(worker, "s")
    assert [plan.messages for plan in plans if plan][:2] == [28, 27]
    assert len(writer.asked[0]) == 27 and writer.asked[0][2].text == f"{3:040}"
    assert errors(store, "s") == [] and worker.statistics.failed == 0


def test_a_version_that_moved_is_a_conflict(store):
    """The fact of a summary is written from the version that was looked at."""
    store.create("s")
    talk(store, "s", 20)
    plan = Summaries(store).plan("s")
    store.append("s", said("more"))
    with pytest.raises(VersionConflict):
        store.summarize("s", "x", lines=plan.spans, expected=plan.version)


def test_sessions_that_are_gone_stop_nobody(tmp_path):
    """Deleted, unknown and expired sessions are passed over; the next one gets its summary."""
    with EventStore.open(tmp_path / "h") as store, Summaries(store, Writer()) as worker:
        for session in ("gone", "late", "s"):
            store.create(session, token_limit=100, ttl=None if session != "late" else 1e-9)
        for session in ("gone", "s"):
            talk(store, session, 20)
        store.delete("gone")
        looked_at(worker, "gone", "nobody", "late", "s")
        assert worker.running and len(notes(store, "s")) == 1


def test_closing_the_store_stops_the_worker(tmp_path):
    """No thread is left, and stopping twice or noticing afterwards does nothing."""
    store = EventStore.open(tmp_path / "h")
    worker = Summaries(store)
    worker.start()
    worker.start()
    assert worker.running
    store.close()
    assert not worker.running
    worker.stop()
    worker.notice("s")
    assert worker.wait_idle(PATIENCE_SECONDS)
    assert "eventstore-summaries" not in [each.name for each in threading.enumerate()]


def test_due_is_a_function_of_the_header(store):
    """Reaching 70 % of the limit exactly is due."""
    store.create("s", token_limit=100)
    talk(store, "s", 10, size=28)
    assert is_due(store.headers.now("s"), Rules())
    assert not is_due(store.headers.now("s"), Rules(at=0.71))
    assert not is_due(store.headers.now("s"), Rules(messages_min=11))


def test_nothing_is_waited_for_once_the_worker_has_stopped(store):
    """A worker that is stopped at one of several sessions is idle, not busy for ever."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(_):
        begun.set()
        go_on.wait(PATIENCE_SECONDS)
        return "in short"

    worker = Summaries(store, slow)
    for session in ("a", "b"):
        store.create(session, token_limit=100)
        talk(store, session, 20)
        worker.start()
        worker.notice(session)
    assert begun.wait(PATIENCE_SECONDS)
    stopper = threading.Thread(target=worker.stop)
    stopper.start()
    while not worker._halt.is_set():
        continue
    go_on.set()
    stopper.join(PATIENCE_SECONDS)
    assert not worker.running and worker.wait_idle(0)
