"""Folds on demand: the base class, statistics, branch trees and past moments."""

import json
from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from driver import START, STEPS, TICK, Driver, folded, ticking
from hypothesis import given

from eventstore import Corruption, EventStore, InvalidEvent, SessionNotFound
from eventstore.audit.entry import SALT_BYTES
from eventstore.events import BranchCreated, MessageAppended
from eventstore.log.base import NO_STREAM, Append
from eventstore.log.draft import draft
from projections import BranchTree, Projection, SessionState, Statistics, fold
from projections.branches import root_session
from projections.moment import moment_version
from projections.statistics import StatisticsProjection

REAL = Path(__file__).parents[2] / "shared/data/tau_airline_conversations.json"


class Words(Projection[dict]):
    """Counts the words that were said."""

    name = "words"
    types = frozenset({"MessageAppended"})

    def initial(self):
        return {}

    def evolve(self, state, recorded):
        for word in recorded.event.message.text.split():
            state[word] = state.get(word, 0) + 1
        return state


class Seen(Projection[list]):
    """Keeps the places of all it is shown."""

    name = "seen"

    def initial(self):
        return []

    def evolve(self, state, recorded):
        return [*state, (recorded.session, recorded.version, recorded.type)]


class Slow(StatisticsProjection):
    """The statistics without their fast path."""

    name = "slow"
    evolve_frame = Projection.evolve_frame
    evolve_log = Projection.evolve_log


def say(store: EventStore, session: str, *texts: str) -> None:
    """Append these texts at once."""
    store.append(session, [{"role": "user", "content": text} for text in texts])


def grown(steps) -> tuple[EventStore, Driver]:
    """Return a store in memory with the history of these steps."""
    store = EventStore.in_memory(clock=ticking(), actor="user:1")
    driver = Driver(store)
    for step in steps:
        driver.run(step)
    return store, driver


# -- fold ------------------------------------------------------------------------------------


def test_own_projection_folds_the_whole_log_or_one_session(store):
    """A subclass with four lines of its own is a view of all sessions or of one."""
    store.create("a")
    say(store, "a", "tea please", "tea")
    store.create("b")
    say(store, "b", "coffee please")
    assert fold(store, Words()) == {"tea": 2, "please": 2, "coffee": 1}
    assert fold(store, Words(), session="b") == {"coffee": 1, "please": 1}


def test_types_hold_back_all_other_events(store):
    """A projection that names its types is shown no others."""

    class Branches(Seen):
        types = frozenset({"BranchCreated"})

    store.create("a")
    say(store, "a", "one", "two")
    store.branch("a", "b")
    assert fold(store, Branches()) == [("b", 0, "BranchCreated")]


def test_unknown_type_is_refused(store):
    """A type that no event has is a mistake, not an empty view."""

    class Typo(Seen):
        types = frozenset({"MessageAdded"})

    store.create("a")
    with pytest.raises(InvalidEvent, match="MessageAdded"):
        fold(store, Typo())


def test_inherited_folds_what_the_state_is_made_of(store):
    """Ancestors up to the fork come in, what was rewound stays out."""
    store.create("a")
    say(store, "a", "one", "two", "three")
    store.branch("a", "b", at=2)
    say(store, "b", "wrong")
    store.rewind("b", 0)
    say(store, "b", "right")
    assert fold(store, Words(), session="b") == {"wrong": 1, "right": 1}
    assert fold(store, Words(), session="b", inherited=True) == {"one": 1, "two": 1, "right": 1}
    assert fold(store, Words(), session="b", inherited=True, at_version=1) == {
        "one": 1,
        "two": 1,
        "wrong": 1,
    }


@given(STEPS)
def test_inherited_messages_are_those_the_header_counts(steps):
    """The lineage that fold() walks holds as many messages as the header says were appended."""
    store, driver = grown(steps)
    for session in driver.sessions:
        said = fold(store, StatisticsProjection(store.headers), session=session, inherited=True)
        assert said.messages == store.headers.now(session).appended


def test_moments_cut_the_log(store):
    """Version, position and time cut a fold exactly, also inside of an append."""
    store.create("a")
    say(store, "a", "one", "two", "three")
    assert [version for _, version, _ in fold(store, Seen(), at_position=2)] == [0, 1, 2]
    assert [version for _, version, _ in fold(store, Seen(), session="a", at_version=2)] == [
        0,
        1,
        2,
    ]
    assert fold(store, Seen(), session="a", at_position=2) == fold(store, Seen(), at_position=2)
    assert fold(store, Seen(), at_position=-1) == []
    assert len(fold(store, Seen(), at_position=3)) == 4


@pytest.mark.parametrize("position", [4, 10**5_000], ids=["next", "endless"])
def test_a_position_that_is_not_there_yet(store, position):
    """A position past the newest is an error wherever a moment is named, as a version is."""
    store.create("a")
    say(store, "a", "one", "two", "three")
    for asked in (
        lambda: fold(store, Seen(), at_position=position),
        lambda: fold(store, Seen(), session="a", at_position=position),
        lambda: SessionState.of(store, "a", at_position=position),
        lambda: BranchTree.of(store, "a", at_position=position),
        lambda: Statistics.of(store, at_position=position),
    ):
        with pytest.raises(InvalidEvent, match=r"no position .* yet: the log holds 4 facts"):
            asked()


def test_the_position_of_a_receipt_is_there(tmp_path):
    """What was just acknowledged is a moment to look at, also before its fsync."""
    with EventStore.open(tmp_path / "store", durability="buffered") as store:
        store.create("a")
        for count in range(1, 20):
            receipt = store.append("a", {"role": "user", "content": "x"})
            state = SessionState.of(store, "a", at_position=receipt.position)
            assert len(state.messages) == count


def test_time_is_the_newest_event_recorded_by_then():
    """at_time takes ns or an aware datetime and means everything recorded at or before it."""
    store = EventStore.in_memory(clock=ticking())
    store.create("a")
    for text in "one", "two", "three":
        say(store, "a", text)
    second = store.event(2).recorded_at
    assert len(fold(store, Seen(), at_time=second)) == 3
    assert len(fold(store, Seen(), at_time=second - 1)) == 2
    moment = datetime.fromtimestamp(second // 10**9, UTC)
    assert fold(store, Seen(), session="a", at_time=moment) == fold(store, Seen(), at_position=2)
    with pytest.raises(SessionNotFound):
        fold(store, Seen(), session="a", at_time=0)


@pytest.mark.parametrize(
    "moment",
    [
        {"at_position": 0, "at_time": 0},
        {"at_version": 0},
        {"inherited": True},
        {"at_position": True},
        {"at_position": "0"},
        {"session": "a", "at_version": 0, "at_position": 0},
        {"session": "a", "at_version": 7},
        {"session": "a", "at_position": 0.5},
    ],
)
def test_a_moment_that_means_nothing_is_refused(moment):
    """Two names for one moment, a version of no session and no integer are InvalidEvent."""
    store = EventStore.in_memory()
    store.create("a")
    with pytest.raises(InvalidEvent):
        fold(store, Seen(), **moment)


def test_fold_of_an_unknown_session_says_so(store):
    """A session that was never created has no fold."""
    with pytest.raises(SessionNotFound):
        fold(store, Seen(), session="nobody")


def test_a_session_that_was_not_there_yet_is_told_from_one_that_never_was(store):
    """Before its creation a session is not found, and the message says that it is later."""
    store.create("first")
    store.create("second")
    for asked in SessionState.of, BranchTree.of:
        with pytest.raises(SessionNotFound, match="'second' did not exist yet at that moment"):
            asked(store, "second", at_position=0)
        with pytest.raises(SessionNotFound, match="'third' does not exist"):
            asked(store, "third", at_position=0)


def test_moment_without_a_name_is_now():
    """The newest version is what no moment means."""
    store = EventStore.in_memory()
    store.create("a")
    say(store, "a", "one")
    assert moment_version(store, "a") == 1


# -- statistics ------------------------------------------------------------------------------


def counted(store: EventStore, events: list) -> dict:
    """Count decoded events in the most obvious way."""
    said = [each for each in events if isinstance(each.event, MessageAppended)]
    times = [each.recorded_at if each.occurred_at is None else each.occurred_at for each in said]
    known = {"user", "assistant", "system", "tool"}
    tools = [each.event for each in events if each.type == "ToolCallRecorded"]
    ends = {each.session: each.version for each in events}
    status = Counter(folded(store, *place).status for place in ends.items())
    kinds = Counter(each.type for each in events)
    hidden = [each.event for each in events if each.type == "MessagesPruned"]
    short = [each.event for each in events if each.type == "HistorySummarized"]
    assistant = [each for each in said if each.event.message.role == "assistant"]
    return {
        "events": len(events),
        "bytes": sum(each.size for each in events),
        "sessions": len(ends),
        **{name: status[name] for name in ("active", "closed", "archived", "deleted", "erased")},
        "branches": kinds["BranchCreated"],
        "merges": sum(
            each.type == "BranchMerged" and each.event.into == each.session for each in events
        ),
        "prunes": len(hidden),
        "pruned": sum(each.count for each in hidden),
        "summaries": len(short),
        "tokens_in": sum(each.event.tokens for each in said if each not in assistant),
        "tokens_out": sum(each.event.tokens for each in assistant),
        "tokens_reclaimed": sum(each.tokens for each in hidden)
        + sum(each.tokens_before - each.tokens for each in short),
        "first_at": events[0].recorded_at if events else None,
        "last_at": events[-1].recorded_at if events else None,
        "first_message_at": min(times, default=None),
        "last_message_at": max(times, default=None),
        "by_type": dict(kinds),
        "by_role": dict(
            Counter(
                each.event.message.role if each.event.message.role in known else "other"
                for each in said
            )
        ),
        "days": dict(
            sorted(
                Counter(
                    datetime.fromtimestamp(at // 10**9, UTC).date().isoformat() for at in times
                ).items()
            )
        ),
        "tools": {
            name: {
                "calls": sum(each.name == name for each in tools),
                "errors": sum(each.name == name and each.error is not None for each in tools),
                "duration_ms": sum(each.duration_ms for each in tools if each.name == name),
            }
            for name in {each.name for each in tools}
        },
        "errors": dict(Counter(each.event.kind for each in events if each.type == "ErrorRecorded")),
        "messages": len(said),
        "messages_per_session": len(said) / len(ends) if ends else 0,
        "duration": max(times) - min(times) if times else 0,
    }


@given(STEPS)
def test_statistics_equal_a_count_of_decoded_events(steps):
    """Every number equals the obvious count, of the store, of each session and of past moments."""
    store, driver = grown(steps)
    events = list(store.all())
    assert Statistics.of(store).to_dict() == counted(store, events)
    middle = len(events) // 2
    assert Statistics.of(store, at_position=middle).to_dict() == counted(
        store, events[: middle + 1]
    )
    for session in driver.sessions:
        own = list(store.events(session))
        assert Statistics.of(store, session).to_dict() == counted(store, own)
        cut = own[len(own) // 2].version
        assert Statistics.of(store, session, at_version=cut).to_dict() == counted(
            store, own[: cut + 1]
        )


@given(STEPS)
def test_heads_of_a_frame_count_as_its_events_do(steps):
    """The fast path over message frames equals the loop over events, at every position."""
    store, _ = grown(steps)
    for last in range(store.head().size):
        slow = fold(store, Slow(store.headers), at_position=last)
        assert Statistics.of(store, at_position=last) == slow


@given(STEPS)
def test_statistics_of_a_store_are_the_sums_of_its_sessions(steps):
    """No fact is counted twice and none is left out."""
    store, driver = grown(steps)
    whole = Statistics.of(store)
    parts = [Statistics.of(store, session) for session in driver.sessions]
    for name in ("events", "bytes", "sessions", "active", "merges", "tokens_in", "tokens_out"):
        assert getattr(whole, name) == sum(getattr(part, name) for part in parts)
    assert Counter(whole.by_type) == sum((Counter(part.by_type) for part in parts), Counter())


def test_statistics_decode_no_message():
    """Messages whose payloads are damaged are counted all the same: only heads are read."""
    store = EventStore.in_memory()
    store.create("a")
    say(store, "a", "one", "two")
    raw = bytearray(store.log._frames[1])
    raw[-1] ^= 1
    store.log._frames[1] = bytes(raw)
    assert Statistics.of(store).messages == 2
    with pytest.raises(Corruption):
        [event.event for event in store.all()]


def test_statistics_of_an_empty_store_are_zeros(store):
    """Nothing is divided by zero."""
    empty = Statistics.of(store)
    assert empty == Statistics()
    assert (empty.messages_per_session, empty.duration) == (0, 0)
    json.dumps(empty.to_dict())


def test_statistics_of_the_real_conversations():
    """Counts over the airline trials equal those of the JSON they came from."""
    if not REAL.exists():
        pytest.skip(f"{REAL.name} is not there")
    trials = json.loads(REAL.read_text())
    store = EventStore.in_memory()
    lines = [trial["traj"] for trial in trials if trial.get("traj")][:40]
    for number, line in enumerate(lines):
        store.create(f"trial-{number}")
        store.append(f"trial-{number}", line)
    stats = Statistics.of(store)
    assert stats.sessions == len(lines)
    assert stats.by_role == Counter(each["role"] for line in lines for each in line)


# -- branch trees ----------------------------------------------------------------------------


@pytest.fixture
def family(store) -> EventStore:
    """Give a root with two branches, one of which has a branch itself, and a stranger."""
    store.create("root", actor="user:1")
    say(store, "root", "one", "two")
    store.branch("root", "left", at=1, name="ask again", description="why", actor="user:2")
    store.branch("root", "right")
    store.branch("left", "leaf")
    store.create("stranger")
    say(store, "leaf", "three")
    return store


def test_any_member_finds_the_whole_tree(family):
    """Root, branch and branch of a branch give the same tree; a stranger is not in it."""
    tree = BranchTree.of(family, "leaf")
    assert tree == BranchTree.of(family, "root") == BranchTree.of(family, "right")
    assert list(tree.nodes) == ["root", "left", "right", "leaf"]
    assert tree.roots == ["root"]
    assert BranchTree.of(family).roots == ["root", "stranger"]


def test_path_children_and_depth(family):
    """A tree answers who came of whom; an id that is not in it is SessionNotFound."""
    tree = BranchTree.of(family, "root")
    assert tree.path("leaf") == ["root", "left", "leaf"]
    assert tree.path("root") == ["root"]
    assert tree.children("root") == ["left", "right"]
    assert tree.children("leaf") == []
    assert [tree.depth(session) for session in tree.nodes] == [0, 1, 1, 2]
    for ask in tree.path, tree.children, tree.depth:
        with pytest.raises(SessionNotFound):
            ask("stranger")


def test_nodes_say_who_made_them_and_what_they_show(family):
    """A node has its fork, its words, its maker and the count of visible messages."""
    node = BranchTree.of(family, "root").nodes["left"]
    assert (node.parent, node.at_version, node.name, node.description) == (
        "root",
        1,
        "ask again",
        "why",
    )
    assert (node.actor, node.messages, node.status) == ("user:2", 1, "active")
    assert node.created_at == family.event(3).recorded_at


def test_tree_draws_itself(family):
    """print() shows the shape with box characters, forks, statuses and merges."""
    family.merge("leaf", into="root")
    family.close("right")
    assert str(BranchTree.of(family, "root")).splitlines() == [
        "root · 3 messages",
        "├── left 'ask again' · from version 1, 1 message",
        "│   └── leaf · from version 0, 2 messages, merged into root@3 (append)",
        "└── right · from version 2, 2 messages, closed",
    ]


def test_merges_are_edges(family):
    """A merge is one edge, in the tree of its source and in that of its target."""
    family.merge("leaf", into="root")
    family.merge("stranger", into="left", strategy="adopt")
    first, second = BranchTree.of(family, "root").merges
    assert (first.source, first.source_version, first.into, first.into_version) == (
        "leaf",
        1,
        "root",
        3,
    )
    assert family.event(first.position).session == "root"
    assert second.strategy == "adopt"
    assert BranchTree.of(family, "stranger").merges == [second]


def test_tree_of_the_past_knows_nothing_of_the_future(family):
    """At a position or time a tree has the branches, statuses and counts of then."""
    family.close("left")
    then = family.event(4).position
    tree = BranchTree.of(family, "left", at_position=then)
    assert list(tree.nodes) == ["root", "left", "right"]
    assert tree.nodes["left"].status == "active"
    assert tree == BranchTree.of(family, "root", at_time=family.event(then).recorded_at)
    with pytest.raises(SessionNotFound):
        BranchTree.of(family, "leaf", at_position=then)
    with pytest.raises(SessionNotFound):
        BranchTree.of(family, "nobody")


def test_tree_is_plain_json(family):
    """to_dict() is what a machine reads."""
    family.merge("leaf", into="root")
    plain = json.loads(json.dumps(BranchTree.of(family, "root").to_dict()))
    assert plain["roots"] == ["root"]
    assert [node["session"] for node in plain["nodes"]] == ["root", "left", "right", "leaf"]
    assert plain["merges"][0]["source"] == "leaf"


@given(STEPS)
def test_paths_follow_parents_to_a_root(steps):
    """A path starts at a root, ends at its node, goes by parents and is as long as it is deep."""
    store, driver = grown(steps)
    forest = BranchTree.of(store)
    assert sorted(forest.nodes) == sorted(driver.sessions)
    for session in driver.sessions:
        tree, path = BranchTree.of(store, session), forest.path(session)
        assert path == tree.path(session)
        assert (path[0], path[-1], len(path)) == (tree.roots[0], session, tree.depth(session) + 1)
        for parent, child in pairwise(path):
            assert child in tree.children(parent)
        state = store.headers.now(session)
        node = tree.nodes[session]
        assert (node.status, node.messages) == (state.status, state.messages)


def test_circle_of_parents_is_damage():
    """Two branches of each other can't come from commands; read from a log they are Corruption."""
    store = EventStore.in_memory()
    events = {"a": BranchCreated("b", 0), "b": BranchCreated("a", 0)}
    drafts = tuple(
        draft(name, [event], store.log.codec, bytes(SALT_BYTES)) for name, event in events.items()
    )
    store.log.commit([Append(drafts, (NO_STREAM, NO_STREAM))], 1)
    with pytest.raises(Corruption, match="ancestor"):
        root_session(store.log, "a")


def test_state_at_a_version_ignores_later_facts():
    """SessionState names its moment with the same words as all other views."""
    store = EventStore.in_memory(clock=ticking())
    store.create("a")
    say(store, "a", "one")
    say(store, "a", "two")
    assert len(SessionState.of(store, "a", at_version=1).messages) == 1
    assert SessionState.of(store, "a", at_position=0).version == 0
    assert SessionState.of(store, "a", at_time=START + 50 * TICK).version == 2
