"""diff() and blame(): what two moments share, and which fact put a message or value where it is."""

import json

import pytest
from driver import STEPS, Driver, folded, ticking
from hypothesis import given
from hypothesis import strategies as st

from eventstore import Corruption, EventStore, InvalidEvent, SessionDeleted, SessionNotFound
from eventstore.events import Span
from eventstore.spans import joined
from eventstore.state.lineage import lineage
from eventstore.state.transcript import Transcript
from projections import SessionState, blame, diff
from projections.diff import common_prefix


def say(store: EventStore, session: str, *texts: str) -> None:
    """Append these texts at once."""
    store.append(session, [{"role": "user", "content": text} for text in texts])


def texts(messages) -> list[str]:
    """Return what messages say."""
    return [message.text for message in messages]


@pytest.fixture
def forked(store) -> EventStore:
    """Give a session and a branch of it, each of which went on alone."""
    store.create("a", metadata={"topic": "tea", "kept": 1}, context={"mood": "calm"})
    say(store, "a", "one", "two", "three")
    store.branch("a", "b", at=2)
    say(store, "a", "left")
    say(store, "b", "right", "right again")
    return store


# -- diff ------------------------------------------------------------------------------------


def test_branches_share_what_was_said_before_the_fork(forked):
    """The common start is counted; what each side has alone is listed in its order."""
    found = diff(forked, "a", "b")
    assert (found.common, found.shared) == (2, 2)
    assert texts(found.only_a) == ["three", "left"]
    assert texts(found.only_b) == ["right", "right again"]
    assert not found.same


def test_two_moments_of_one_session_differ_by_what_came_between(forked):
    """A (session, version) pair names a moment, and so does a state taken before."""
    state = SessionState.of(forked, "a", at_version=1)
    for earlier in ("a", 1), state:
        found = diff(forked, earlier, "a")
        assert (found.a, found.b) == (("a", 1), ("a", 4))
        assert texts(found.only_a) == []
        assert texts(found.only_b) == ["two", "three", "left"]
    assert diff(forked, "a", ("a", 4)).same


def test_values_and_status_that_differ_are_named(forked):
    """Changed, added and removed keys show both values, None for none; equal ones don't show."""
    forked.update_metadata("b", {"topic": "coffee", "kept": None, "new": [1]})
    forked.set_context("b", "mood", None)
    forked.close("b")
    plain = diff(forked, "a", "b").to_dict()
    assert plain["metadata"] == {
        "kept": {"a": 1, "b": None},
        "new": {"a": None, "b": [1]},
        "topic": {"a": "tea", "b": "coffee"},
    }
    assert plain["context"] == {"mood": {"a": "calm", "b": None}}
    assert (plain["a"]["status"], plain["b"]["status"]) == ("active", "closed")
    json.dumps(plain)


def test_a_line_hidden_on_one_side_is_that_of_the_other(forked):
    """A pruned message belongs to the side that still shows it; later shared ones stay shared."""
    forked.prune("b", messages=["a#1"])
    found = diff(forked, "a", "b")
    assert (found.common, found.shared) == (0, 1)
    assert texts(found.only_a) == ["one", "three", "left"]


def test_equal_words_are_not_the_same_message(store):
    """Sameness is of facts: two sessions that say the same share nothing."""
    for name in "a", "b":
        store.create(name)
        say(store, name, "hello")
    found = diff(store, "a", "b")
    assert (found.common, texts(found.only_a), texts(found.only_b)) == (0, ["hello"], ["hello"])


def test_diff_reads_as_text(forked):
    """str() is made for people: sides, what is shared, then - and + and values, one line each."""
    forked.append("b", {"role": "assistant", "content": "line\n\x1b[31m" + "long " * 40})
    forked.update_metadata("b", {"topic": "coffee"})
    forked.archive("b")
    lines = str(diff(forked, "a", "b")).splitlines()
    assert lines[:4] == [
        "--- a@4",
        "+++ b@5",
        "2 messages in common at the start, 2 in all",
        "- user: three",
    ]
    assert lines[-2:] == ['metadata.topic: "tea" -> "coffee"', "status: active -> archived"]
    assert lines[7].startswith("+ assistant: line [31mlong")
    assert lines[7].endswith("…") and len(lines[7]) < 90


def test_shared_history_is_never_read():
    """What both sides show may be unreadable: only the lines of one side are decoded."""
    store = EventStore.in_memory()
    store.create("a")
    say(store, "a", "shared")
    store.branch("a", "b")
    say(store, "b", "own")
    raw = bytearray(store.log._frames[1])
    raw[-1] ^= 1
    store.log._frames[1] = bytes(raw)
    found = diff(store, "a", "b")
    assert (found.common, texts(found.only_b)) == (1, ["own"])
    with pytest.raises(Corruption):
        list(SessionState.of(store, "a").messages)


def test_what_is_no_side_is_refused(forked):
    """A number, a triple and a version that does not exist are InvalidEvent; unknown names too."""
    for side in 5, ("a", 1, 2), ("a", "1"), ("a", 99), None:
        with pytest.raises(InvalidEvent):
            diff(forked, "a", side)
    with pytest.raises(SessionNotFound):
        diff(forked, "a", "nobody")
    forked.delete("b")
    with pytest.raises(SessionDeleted):
        diff(forked, "a", "b")
    assert diff(forked, "a", ("b", 2)).only_b


def places(store: EventStore, state: SessionState) -> list[tuple[str, int]]:
    """Return the fact behind each visible line."""
    lines = Transcript(store.log, state.header.spans).lines(0, len(state.messages))
    return [(recorded.session, recorded.version) for _, recorded, _ in lines]


@given(STEPS)
def test_diff_equals_comparing_lists(steps):
    """Prefix, shared lines and lines of one side equal those of plain lists, for every pair."""
    store = EventStore.in_memory(clock=ticking())
    driver = Driver(store)
    for step in steps:
        driver.run(step)
    newest = {session: store.version(session) for session in driver.sessions[:5]}
    sides = [
        (session, version) for session, last in newest.items() for version in {0, last // 2, last}
    ]
    for a in sides:
        for b in sides:
            ours, theirs = (SessionState.of(store, s, at_version=v) for s, v in (a, b))
            left, right = places(store, ours), places(store, theirs)
            found = diff(store, a, b)
            pairs = zip(left, right, strict=False)
            assert found.common == next(
                (n for n, (x, y) in enumerate(pairs) if x != y), min(len(left), len(right))
            )
            assert found.shared == len(set(left) & set(right))
            alone = [m for m, place in zip(ours.messages, left, strict=True) if place not in right]
            assert list(found.only_a) == alone
            values = (ours.metadata, ours.context, ours.status)
            equal = left == right and values == (theirs.metadata, theirs.context, theirs.status)
            assert found.same == equal
            assert common_prefix(theirs.header.spans, ours.header.spans) == found.common


LINES = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.booleans()), unique=True)


@given(LINES, LINES, st.randoms())
def test_common_start_does_not_depend_on_how_runs_are_cut(ours, theirs, random):
    """Lines in spans of one, or joined anywhere, share the same start."""
    shared = [line for line in ours if line not in theirs]
    ours, theirs = shared + [x for x in ours if x not in shared], shared + theirs
    single = [[Span(s, n, n + 1, note) for s, n, note in lines] for lines in (ours, theirs)]
    cut = random.randrange(len(ours) + 1)
    partly = joined(single[0][:cut]) + joined(single[0][cut:])
    pairs = zip(ours, theirs, strict=False)
    wanted = next((n for n, (x, y) in enumerate(pairs) if x != y), min(len(ours), len(theirs)))
    assert common_prefix(partly, single[1]) == common_prefix(single[1], partly) == wanted


def test_common_start_of_runs_cut_differently():
    """One run and the same run in two pieces are the same lines."""
    whole, pieces = [Span("a", 0, 5)], [Span("a", 0, 2), Span("a", 2, 5)]
    assert common_prefix(whole, pieces) == common_prefix(pieces, whole) == 5


# -- blame -----------------------------------------------------------------------------------


def test_messages_belong_to_the_fact_that_said_them(store):
    """Position, session, version, type, time and actor are those of the fact, in any branch."""
    store.create("a")
    store.append("a", {"role": "user", "content": "one"}, actor="user:1")
    store.branch("a", "b")
    store.append("b", {"role": "assistant", "content": "two"}, actor="agent:2")
    first, second = blame(store, "b").messages
    assert (first.origin.session, first.origin.version, first.origin.actor) == ("a", 1, "user:1")
    assert (second.origin.session, second.origin.version, second.origin.actor) == (
        "b",
        1,
        "agent:2",
    )
    assert first.origin.type == "MessageAppended"
    assert first.origin.recorded_at == store.event(first.origin.position).recorded_at


def test_a_summary_belongs_to_the_fact_that_summarised(store):
    """A summary stands for its lines, and its fact answers for it."""
    store.create("a")
    say(store, "a", "one", "two", "three")
    store.summarize("a", "in short", upto=2, actor="agent:2")
    summary, last = blame(store, "a").messages
    assert (summary.origin.type, summary.origin.actor) == ("HistorySummarized", "agent:2")
    assert last.origin.version == 3


@pytest.mark.parametrize("strategy", ["append", "adopt", "interleave"])
def test_a_merge_answers_for_what_it_brought(store, strategy):
    """A merged message names who said it and the merge; own messages name no merge."""
    store.create("a")
    say(store, "a", "one")
    store.branch("a", "b")
    say(store, "b", "theirs")
    say(store, "a", "ours")
    store.merge("b", into="a", strategy=strategy, actor="user:9")
    merges = {each.message.text: each.merge for each in blame(store, "a").messages}
    assert merges.pop("theirs").actor == "user:9"
    assert set(merges.values()) == {None}
    assert all(each.merge is None for each in blame(store, "b").messages)


def test_a_branch_of_a_merge_inherits_its_blame(store):
    """What a merge brought into the parent names that merge in its branches too."""
    store.create("a")
    store.branch("a", "b")
    say(store, "b", "theirs")
    store.merge("b", into="a")
    store.branch("a", "c")
    (line,) = blame(store, "c").messages
    assert (line.origin.session, line.merge.session, line.merge.type) == ("b", "a", "BranchMerged")


def test_values_belong_to_the_newest_fact_that_changed_them(store):
    """Setting a value again to what it is changes nothing; a part of a value is the value."""
    store.create("a", metadata={"topic": "tea", "n": {"x": 1}}, context={"mood": "calm"})
    store.update_metadata("a", {"topic": "tea", "n": {"y": 2}}, actor="user:1")
    store.set_context("a", "mood", "calm", actor="user:1")
    store.set_context("a", "place", "home", actor="user:1")
    found = blame(store, "a")
    assert {key: origin.version for key, origin in found.metadata.items()} == {"topic": 0, "n": 1}
    assert {key: origin.version for key, origin in found.context.items()} == {"mood": 0, "place": 3}
    store.update_metadata("a", {"n": None})
    assert set(blame(store, "a").metadata) == {"topic"}


def test_rewound_facts_answer_for_nothing(store):
    """After a rewind the older fact is behind the value again."""
    store.create("a", metadata={"topic": "tea"})
    store.update_metadata("a", {"topic": "coffee"})
    store.rewind("a", 0)
    assert blame(store, "a").metadata["topic"].version == 0
    assert blame(store, "a", at_version=1).metadata["topic"].version == 1


def test_values_that_a_merge_changed_belong_to_the_merge(store):
    """Three-way merged values name the merge in the target and the update in the source."""
    store.create("a", metadata={"topic": "tea"})
    store.branch("a", "b")
    store.update_metadata("b", {"topic": "coffee"})
    store.set_context("b", "mood", "keen")
    store.merge("b", into="a")
    found = blame(store, "a")
    assert found.metadata["topic"].type == found.context["mood"].type == "BranchMerged"
    assert blame(store, "b").metadata["topic"].type == "MetadataUpdated"


def test_blame_is_plain_json(store):
    """to_dict() is what a machine reads."""
    store.create("a", metadata={"topic": "tea"})
    say(store, "a", "one")
    plain = json.loads(json.dumps(blame(store, "a").to_dict()))
    assert plain["messages"][0]["id"] == "a#1"
    assert plain["messages"][0]["message"] == {"role": "user", "content": "one"}
    assert plain["messages"][0]["merge"] is None
    assert plain["metadata"]["topic"]["position"] == 0


def test_blame_of_what_is_not_there(store):
    """Unknown and deleted sessions and versions to come are errors of the tree."""
    with pytest.raises(SessionNotFound):
        blame(store, "a")
    store.create("a")
    with pytest.raises(InvalidEvent):
        blame(store, "a", at_version=1)
    store.delete("a")
    with pytest.raises(SessionDeleted):
        blame(store, "a")
    assert blame(store, "a", at_version=0).messages == []


def inside(segments, origin) -> bool:
    """Return True where a lineage holds the fact."""
    return any(
        each.session == origin.session and each.first <= origin.version <= each.last
        for each in segments
    )


@given(STEPS)
def test_every_message_and_value_is_where_its_fact_put_it(steps):
    """Blame covers exactly what the state shows; a value changed at its fact and not since."""
    store = EventStore.in_memory(clock=ticking())
    driver = Driver(store)
    for step in steps:
        driver.run(step)
    for session in driver.sessions:
        version = store.version(session)
        state, found = folded(store, session, version), blame(store, session, version)
        shown = Transcript(store.log, state.spans)
        _, own = lineage(store.log, session, version)
        assert [each.message for each in found.messages] == list(shown)
        for each in found.messages:
            recorded = store.event(each.origin.position)
            assert (recorded.session, recorded.version) == (
                each.origin.session,
                each.origin.version,
            )
            assert inside(own, each.origin) or each.merge is not None
            assert each.merge is None or inside(own, each.merge)
        for field in "metadata", "context":
            values, origins = getattr(state, field), getattr(found, field)
            assert set(values) == set(origins)
            for key, origin in origins.items():
                then = folded(store, origin.session, origin.version)
                assert getattr(then, field)[key] == values[key]
                if origin.version:
                    before = folded(store, origin.session, origin.version - 1)
                    assert getattr(before, field).get(key) != values[key]
