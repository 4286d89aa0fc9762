"""Policies of pruning: each equals a plain model, limits hold, and no result loses its call."""

import pytest
from driver import ticking
from hypothesis import given
from hypothesis import strategies as st
from spoken import HOUR, SECOND, answered, called, said

from eventstore import EventStore, EventStoreError
from eventstore.messages import calls_answered, calls_made
from eventstore.sessions.pruning import (
    LFU,
    LRU,
    TTL,
    Compact,
    KeepCount,
    MessageTTL,
    Size,
    TotalMessages,
)
from eventstore.state.transcript import Transcript
from projections import SessionState, Views

CALLS = ("a", "b", "c")
TYPES = (None, "dm", "group", ["no", "name"])
SMALL = {"dm": 4, "group": 2}


# -- conversations, drawn ----------------------------------------------------------------------

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
