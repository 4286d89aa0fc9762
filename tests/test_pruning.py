"""Pruning: plans that say exactly what they do, limits that hold, and what never goes."""

from itertools import count

import pytest
from driver import ticking
from hypothesis import given
from hypothesis import strategies as st

from eventstore import EventStore, EventStoreError, InvalidEvent, StoreUnavailable
from eventstore.messages import calls_answered, calls_made
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
from eventstore.state.transcript import Transcript
from projections import SessionState, Statistics, Views

SECOND = 1_000_000_000
HOUR = 3_600 * SECOND

CALLS = ("a", "b", "c")
TYPES = (None, "dm", "group", ["no", "name"])
SMALL = {"dm": 4, "group": 2}


# -- conversations, drawn ----------------------------------------------------------------------


def said(role, text, **fields):
    """Return a message; fields that are None are left out."""
    given = {name: value for name, value in fields.items() if value is not None}
    return {"role": role, "content": text, **given}


def called(*calls, text=""):
    """Return an assistant's message that calls tools."""
    made = [{"id": call, "function": {"name": "f", "arguments": "{}"}} for call in calls]
    return said("assistant", text, tool_calls=made)


def answered(call, text="done"):
    """Return a tool's result."""
    return said("tool", text, tool_call_id=call)


METADATA = st.sampled_from(
    [None] * 5 + [{"important": True}, {"ttl": 5}, {"ttl": 40_000.5}, {"ttl": "soon"}, {"ttl": -1}]
)
PLAIN = st.builds(
    said,
    st.sampled_from(["user", "assistant", "system", "developer"]),
    st.sampled_from(["", "word " * 3, "word " * 20]),
    id=st.sampled_from([None, None, None, "same", "x" * 300]),
    metadata=METADATA,
)
ACTS = st.one_of(
    PLAIN,
    PLAIN,
    st.lists(st.sampled_from(CALLS), min_size=1, max_size=2, unique=True).map(lambda c: called(*c)),
    st.sampled_from(CALLS).map(answered),
    st.sampled_from(["summarize", "prune", "branch", "undo"]),
)
CONVERSATIONS = st.lists(ACTS, max_size=5) | st.lists(ACTS, min_size=6, max_size=24)
SESSIONS = st.lists(
    st.tuples(st.sampled_from(TYPES), st.sampled_from([False] * 4 + [True]), CONVERSATIONS),
    min_size=1,
    max_size=4,
)


def built(store, sessions):
    """Make the sessions that were drawn; what the store refuses is left out."""
    for number, (kind, pinned, acts) in enumerate(sessions):
        name = f"s{number}"
        store.create(name, metadata={"type": kind, "pinned": pinned})
        for at, act in enumerate(acts):
            try:
                act_on(store, name, act, at)
            except EventStoreError:
                continue


def act_on(store, name, act, at):
    """Say a message, or do what the word says."""
    if act == "summarize":
        store.summarize(name, "so far", upto=max(store.version(name) - 3, 0))
    elif act == "prune":
        store.prune(name, messages=[m.id for m in SessionState.of(store, name).messages[:1]])
    elif act == "branch":
        store.branch(name, f"{name}-{at}")
    elif act == "undo":
        store.undo(name)
    else:
        store.append(name, act)


def shown(store, session):
    """Return the visible lines as plain lists: (place, message, is a summary, said at)."""
    header = store.headers.now(session)
    lines = Transcript(store.log, header.spans).lines(0, header.messages)
    return [
        ((span.session, span.note, span.start), message, span.note, recorded.recorded_at)
        for span, recorded, message in lines
    ]


def shown_everywhere(store):
    """Return what every session that is not deleted shows."""
    return {
        name: shown(store, name)
        for name in store.sessions()
        if store.headers.now(name).status != "deleted"
    }


# -- the model: lines that go together, the slow way -------------------------------------------


def groups(lines):
    """Return the lines' indexes as sets that share tool calls: each result with its last call."""
    found = [{index} for index in range(len(lines))]
    for index, (_, message, *_) in enumerate(lines):
        for call in calls_answered(message.fields):
            makers = [at for at in range(index) if call in calls_made(lines[at][1].fields)]
            if makers:
                pair = [each for each in found if each & {index, makers[-1]}]
                found = [each for each in found if each not in pair] + [set().union(*pair)]
    return sorted(found, key=min)


def staying(lines):
    """Return the indexes of the lines that may not go by themselves."""
    kept = {index for index, (_, message, note, _) in enumerate(lines) if note}
    kept |= {i for i, (_, message, *_) in enumerate(lines) if message.metadata.get("important")}
    for index, (_, message, note, _) in enumerate(lines):
        if note or message.role not in ("system", "developer"):
            break
        kept.add(index)
    for index, (_, message, *_) in enumerate(lines):
        later = lines[index + 1 :]
        gone_on = any(
            each.role == "assistant" and not calls_answered(each.fields) for _, each, *_ in later
        )
        for call in calls_made(message.fields):
            replies = [(calls_made(m.fields), calls_answered(m.fields)) for _, m, *_ in later]
            settled = any(call in made or call in got for made, got in replies)
            if not settled and not gone_on:
                kept.add(index)
    return kept


def loose(lines):
    """Return the groups that may go, oldest first."""
    kept = staying(lines)
    return [group for group in groups(lines) if not group & kept]


def cut_to(lines, keep, spared=frozenset()):
    """Return the lines that are left when the oldest go until `keep` are there."""
    left = set(range(len(lines)))
    for group in loose(lines):
        if len(left) > keep and not group & spared:
            left -= group
    return [lines[index] for index in sorted(left)]


def is_pinned(store, session):
    """Return True for a pinned session."""
    return bool(store.headers.now(session).metadata.get("pinned"))


def kind_of(store, session):
    """Return the session's type, where it is a name."""
    kind = store.headers.now(session).metadata.get("type")
    return kind if isinstance(kind, str) else None


# -- what every plan over messages promises ----------------------------------------------------


def check_applied(store, views, plan, expected):
    """Apply a plan; the facts are the plan, the state is the model's, a second time adds none."""
    before, size = shown_everywhere(store), store.head().size
    outcome = plan.apply(store)
    assert (outcome.done, outcome.refused, outcome.repeated) == (plan.steps, [], 0)
    assert store.head().size == size + len(plan.steps)
    for step, fact in zip(plan.steps, store.all(size), strict=True):
        assert (fact.session, fact.version, fact.type) == (
            step.session,
            step.version + 1,
            "MessagesPruned",
        )
        assert (fact.event.count, fact.event.tokens) == (step.messages, step.tokens)
        assert places(fact.event.spans) == places(step.spans)
        ids = {place: message.id for place, message, *_ in before[step.session]}
        assert sorted(ids[place] for place in places(step.spans)) == sorted(
            drop.message for drop in step.drops
        )
        assert sum(drop.tokens for drop in step.drops) == step.tokens
    assert shown_everywhere(store) == expected
    check_no_orphan(before, expected)
    size = store.head().size
    assert plan.apply(store).repeated == len(plan.steps)
    assert store.head().size == size
    for row in views.sessions(limit=None):
        assert row.messages == len(expected[row.session])


def places(spans):
    """Return the lines of spans, one by one."""
    return {(s.session, s.note, number) for s in spans for number in range(s.start, s.stop)}


def check_no_orphan(before, after):
    """Every result that had its call before has it still."""
    for session, lines in after.items():
        kept = {place for place, *_ in lines}
        for group in groups(before[session]):
            members = {before[session][index][0] for index in group}
            assert members <= kept or not members & kept


@given(SESSIONS, st.integers(0, 6) | st.none())
def test_keep_count_equals_a_plain_model(sessions, keep):
    """Each session keeps so many newest by its type; exempt ones and the last count and stay."""
    with EventStore.in_memory(clock=ticking()) as store:
        built(store, sessions)
        views = Views(store)
        expected = {}
        for name, lines in shown_everywhere(store).items():
            most = SMALL.get(kind_of(store, name), len(lines) if keep is None else keep)
            last = {len(lines) - 1} if most else set()
            expected[name] = lines if is_pinned(store, name) else cut_to(lines, most, last)
            left = expected[name]
            if len(left) > most and not is_pinned(store, name):
                assert all(len(left) - 1 in group for group in loose(left))
        plan = KeepCount(keep=keep, by_type=SMALL).plan(store, views)
        check_applied(store, views, plan, expected)
        assert KeepCount(keep=keep, by_type=SMALL).plan(store, views).steps == []


@given(SESSIONS, st.sampled_from([None, 1.0, 50_000.0, 500_000.0]), st.integers(0, 100))
def test_message_ttl_equals_a_plain_model(sessions, default, hours):
    """A message goes when its own time, else the default one, is over, with what it needs."""
    with EventStore.in_memory(clock=ticking()) as store:
        built(store, sessions)
        views = Views(store)
        now = store.engine.now() + hours * HOUR
        expected = {
            name: lines if is_pinned(store, name) else outlived(lines, default, now)
            for name, lines in shown_everywhere(store).items()
        }
        plan = MessageTTL(default=default).plan(store, views, now=now)
        check_applied(store, views, plan, expected)


def outlived(lines, default, now):
    """Return the lines that are left when those whose time is over go."""
    left = set(range(len(lines)))
    for group in loose(lines):
        for index in group:
            ttl = lines[index][1].metadata.get("ttl")
            ttl = ttl if isinstance(ttl, (int, float)) and ttl > 0 else default
            if ttl is not None and now >= lines[index][3] + int(ttl * SECOND):
                left -= group
    return [lines[index] for index in sorted(left)]


@given(SESSIONS, st.integers(0, 12))
def test_total_messages_equals_a_plain_model(sessions, limit):
    """All sessions are cut to the largest length with which they fit under the limit together."""
    with EventStore.in_memory(clock=ticking()) as store:
        built(store, sessions)
        views = Views(store)
        before, floors = shown_everywhere(store), {}
        preserved = {name: SMALL.get(kind_of(store, name), 0) for name in before}
        for name, lines in before.items():
            tight = len(cut_to(lines, 0)) if not is_pinned(store, name) else len(lines)
            held = sum(len(group) for group in groups(lines) if group & staying(lines))
            assert is_pinned(store, name) or tight == held
            floors[name] = max(min(preserved[name], len(lines)), tight)

        def total(level):
            return sum(max(floors[n], min(len(lines), level)) for n, lines in before.items())

        longest = max(map(len, before.values()))
        level = next((each for each in range(longest, 0, -1) if total(each) <= limit), 0)
        expected = {
            name: lines
            if is_pinned(store, name) or len(lines) <= max(level, floors[name])
            else cut_to(lines, max(level, preserved[name]))
            for name, lines in before.items()
        }
        plan = TotalMessages(limit=limit, preserve=SMALL).plan(store, views)
        check_applied(store, views, plan, expected)
        if sum(map(len, expected.values())) > limit:
            assert total(0) > limit
            assert "over the limit stay" in plan.remarks[0]
        else:
            assert plan.remarks == [] or total(0) > limit


@given(SESSIONS, st.integers(0, 5))
def test_compact_hides_what_the_summariser_was_given(sessions, keep):
    """The oldest loose messages become one summary; what is exempt stays beside it."""
    given_to = []

    def summarizer(messages):
        given_to.append([message.id for message in messages])
        return f"{len(messages)} messages"

    with EventStore.in_memory(clock=ticking()) as store:
        built(store, sessions)
        views = Views(store)
        before = shown_everywhere(store)
        tokens = {row.session: row.tokens for row in views.sessions()}
        plan = Compact(summarizer=summarizer, over=5, keep=keep).plan(store, views)
        assert [[drop.message for drop in step.drops] for step in plan.steps] == given_to
        outcome = plan.apply(store)
        assert (outcome.done, outcome.refused) == (plan.steps, [])
        for name, lines in before.items():
            left = cut_to(lines, keep)
            steps = [step for step in plan.steps if step.session == name]
            due = tokens[name] > 5 and not is_pinned(store, name) and left != lines
            assert len(steps) == due
            after = shown(store, name)
            known = {place for place, *_ in lines}
            assert [line for line in after if line[0] in known] == (left if due else lines)
            assert [m.content for p, m, *_ in after if p not in known] == [s.summary for s in steps]
            reclaimed = sum(step.tokens for step in steps)
            assert SessionState.of(store, name).tokens == tokens[name] - reclaimed
        size = store.head().size
        assert plan.apply(store).repeated == len(plan.steps)
        assert store.head().size == size


# -- sessions ----------------------------------------------------------------------------------

ROWS = st.lists(
    st.tuples(
        st.booleans(),  # pinned
        st.integers(0, 4),  # messages
        st.sampled_from([None, 30_000, 300_000, 10**7]),  # ttl
        st.sampled_from(["active", "active", "closed", "archived", "deleted"]),
    ),
    max_size=8,
)
RANKS = {
    LRU: lambda row, _: row.updated_at,
    LFU: lambda row, now: (row.version + 1) / max((now - row.created_at) / HOUR, 1),
    Size: lambda row, _: -row.tokens,
    TTL: lambda row, _: float("inf") if row.expires_at is None else row.expires_at,
}


def peopled(store, rows):
    """Make sessions of these numbers."""
    ends = {"closed": store.close, "archived": store.archive, "deleted": store.delete}
    for number, (pinned, messages, ttl, status) in enumerate(rows):
        store.create(f"s{number}", metadata={"pinned": pinned})
        lines = [said("user", "word " * (number * text % 7)) for text in range(messages)]
        if lines:
            store.append(f"s{number}", lines)
        store.extend_ttl(f"s{number}", ttl)
        if status in ends:
            ends[status](f"s{number}")


@pytest.mark.parametrize("policy", RANKS)
@given(rows=ROWS, limits=st.tuples(*[st.integers(0, 9) | st.none()] * 3), delete=st.booleans())
def test_sessions_go_in_the_order_of_the_strategy(policy, rows, limits, delete):
    """The lowest rank goes first until every limit holds; pinned sessions count and stay."""
    with EventStore.in_memory(clock=ticking()) as store:
        peopled(store, rows)
        views, now = Views(store), store.engine.now()
        names = ("max_sessions", "max_messages", "max_tokens")
        then = "delete" if delete else "archive"
        chosen = policy(**dict(zip(names, limits, strict=True)), then=then)
        plan = chosen.plan(store, views, now=now)
        left = list(views.sessions(limit=None))
        loose_rows = [row for row in left if not row.metadata.get("pinned")]
        gone = []
        for row in sorted(loose_rows, key=lambda row: (RANKS[policy](row, now), row.session)):
            due = policy is TTL and row.expires_at is not None and row.expires_at <= now
            if due or over(left, limits):
                left.remove(row)
                gone.append(row)
        assert [step.session for step in plan.steps] == [row.session for row in gone]
        assert bool(plan.remarks) == over(left, limits)
        outcome = plan.apply(store)
        assert (outcome.done, outcome.refused) == (plan.steps, [])
        assert (outcome.messages, outcome.tokens) == (
            sum(row.messages for row in gone),
            sum(row.tokens for row in gone),
        )
        after = {row.session for row in views.sessions(limit=None)}
        assert after == {row.session for row in left}
        ended = {row.session: row.status for row in views.sessions(status=("archived", "deleted"))}
        assert all(ended[row.session] == chosen.then + "d" for row in gone)


def over(rows, limits):
    """Return True where a total is over its limit."""
    totals = len(rows), sum(row.messages for row in rows), sum(row.tokens for row in rows)
    return any(most is not None and n > most for n, most in zip(totals, limits, strict=True))


def test_lfu_takes_the_reads_that_the_caller_counted(store):
    """With `accesses` the least read session goes, whatever was written to it."""
    for name in ("quiet", "read"):
        store.create(name)
    store.append("quiet", [said("user", "word")] * 5)
    reads = {"quiet": 0, "read": 7}
    plan = LFU(max_sessions=1, accesses=reads.__getitem__).plan(store, Views(store))
    assert [(step.session, step.why) for step in plan.steps] == [("quiet", "0 reads")]


# -- plans -------------------------------------------------------------------------------------


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
