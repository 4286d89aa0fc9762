"""The nine laws of semantics.md, held to a plain model by random command sequences."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from model import SECOND, Model

from eventstore import ANY, NO_STREAM, EventStore, EventStoreError, MergeConflict, SessionDeleted
from eventstore.audit.verify import verify
from eventstore.state.header import SessionHeader, evolve
from eventstore.state.lineage import Headers, fold_segments, lineage
from eventstore.state.snapshots import MemorySnapshots
from eventstore.state.transcript import Transcript
from projections.session import SessionState

NAMES = st.sampled_from("abcabcde")
FRESH = st.sampled_from("defgda")
PAIRS = st.sampled_from(["ab", "ba", "ac", "ca", "bc", "cb", "ad", "da", "bd", "ee"])
CALLS = st.sampled_from(["c1", "c2", "c3"])
TEXTS = st.text(max_size=12)
VALUES = st.recursive(
    st.sampled_from([0, 1, True, False, 1.0, "", "é", None]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("pq"), inner),
    max_leaves=4,
)
PATCHES = st.dictionaries(st.sampled_from("uvw"), VALUES, max_size=3)


@st.composite
def messages(draw):
    """Draw one message: a plain line, one with an id of its own, a tool call or a result."""
    fields = {"role": draw(st.sampled_from(["user", "assistant"])), "content": draw(TEXTS)}
    match draw(st.sampled_from(["plain", "plain", "named", "call", "result"])):
        case "named":
            fields["id"] = draw(st.sampled_from(["x", "y", "a#1"]))
        case "call":
            fields["tool_calls"] = [{"id": each} for each in draw(st.lists(CALLS, min_size=1))]
        case "result":
            fields = {"role": "tool", "content": "42", "tool_call_id": draw(CALLS)}
    return fields


class Clock:
    """A clock that stands still unless it is set."""

    def __init__(self) -> None:
        self.now = 1_700_000_000 * SECOND

    def __call__(self) -> int:
        return self.now


class Laws(RuleBasedStateMachine):
    """Every command goes to the store and to the model; both must answer and show the same."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.model = Model(self.clock)
        self.store = self.opened()

    def opened(self) -> EventStore:
        return EventStore.in_memory(clock=self.clock)

    def teardown(self) -> None:
        try:
            for name, session in self.model.sessions.items():
                for version in range(len(session.states)):
                    self.same_at(name, version)
            self.sound()
        finally:
            self.store.close()

    def sound(self) -> None:
        """Law 9: no command sequence breaks verify."""
        assert verify(self.store).findings == []

    # -- comparing -----------------------------------------------------------------------

    def do(self, command: str, *args, **options) -> None:
        """Run a command on both: the same receipt or the same error, and the same states."""
        wanted = _outcome(getattr(self.model, command), *args, **options)
        if command == "append":
            options = {**options, "actor": "user:7"}
        assert _outcome(getattr(self.store, command), *args, **options) == wanted
        assert self.store.head().size == len(self.model.log)
        for name, session in self.model.sessions.items():
            assert self.store.version(name) == session.version
        for name in {each for each in [*args, *options.values()] if isinstance(each, str)}:
            if name in self.model.sessions:
                self.same_now(name)

    def same_now(self, name: str) -> None:
        """Laws 2 and 3: the view that moves along is what was current, parents included."""
        session = self.model.sessions[name]
        header = self.store.headers.now(name)
        assert _seen(self.store, header) == _meant(session.states[-1])
        if session.fork:
            parent, version = session.fork
            then = self.store.headers.at(parent, version)
            assert _seen(self.store, then) == _meant(self.model.sessions[parent].states[version])

    def same_at(self, name: str, version: int) -> None:
        """Laws 1 and 4: a replayed prefix is what was current then, by state and by tails."""
        meant = self.model.sessions[name].states[version]
        state = SessionState.of(self.store, name, at_version=version)
        assert state.version == version
        assert _seen(self.store, state.header) == _meant(meant)
        shown = [line.fields for line in meant.lines]
        for count in (1, 2, len(shown)):
            tail = [message.to_dict() for message in state.messages[-count:]]
            assert tail == shown[-count:]

    # -- commands ------------------------------------------------------------------------

    @initialize()
    def first_session(self) -> None:
        lines = [{"role": "user", "content": text} for text in ("hello", "", "what is an event?")]
        self.do("create", "a", metadata={"u": 1})
        self.do("append", "a", lines)
        self.do("branch", "a", "b", at=2)
        self.do("append", "b", lines[:1])
        self.do("append", "a", [{"role": "assistant", "tool_calls": [{"id": "c1"}]}])
        self.do("branch", "a", "c")
        self.do("append", "c", lines[1:])

    @rule(name=FRESH, metadata=PATCHES, context=PATCHES, ttl=st.sampled_from([None, None, 5]))
    def create(self, name, metadata, context, ttl) -> None:
        self.do("create", name, metadata=metadata, context=context, ttl=ttl)

    @rule(
        name=NAMES,
        lines=st.lists(messages(), min_size=1, max_size=4),
        expected=st.sampled_from([ANY, ANY, "right", "wrong", NO_STREAM]),
        key=st.sampled_from([None, None, "k1", "k2"]),
    )
    def append(self, name, lines, expected, key) -> None:
        version = self.model.sessions[name].version if name in self.model.sessions else 0
        expected = {"right": version, "wrong": version + 1}.get(expected, expected)
        self.do("append", name, lines, expected=expected, key=key)

    @rule(name=NAMES, line=messages(), key=st.sampled_from(["k1", "k2", "k3"]))
    def append_twice(self, name, line, key) -> None:
        """Law 7: a duplicate key never adds an event."""
        self.do("append", name, [line], key=key)
        self.do("append", name, [line], key=key)

    @rule(parent=NAMES, name=FRESH, draw=st.data())
    def branch(self, parent, name, draw) -> None:
        self.do("branch", parent, name, at=draw.draw(st.none() | self.moments(parent)))

    @rule(
        pair=PAIRS,
        strategy=st.sampled_from(["append", "adopt", "interleave", "squash"]),
        on_conflict=st.sampled_from(["error", "ours", "theirs"]),
    )
    def merge(self, pair, strategy, on_conflict) -> None:
        summary = "in short" if strategy == "squash" else None
        options = {"strategy": strategy, "on_conflict": on_conflict, "summary": summary}
        self.do("merge", pair[0], into=pair[1], **options)

    @rule(name=NAMES, draw=st.data())
    def prune(self, name, draw) -> None:
        times = st.integers(-3, 3).map(lambda seconds: self.clock.now + seconds * SECOND)
        options = draw.draw(
            st.fixed_dictionaries({"keep_last": st.integers(0, 6)})
            | st.fixed_dictionaries({"messages": st.lists(self.ids(name), max_size=3)})
            | st.fixed_dictionaries({"before": times})
        )
        self.do("prune", name, **options)

    @rule(name=NAMES, draw=st.data())
    def summarize(self, name, draw) -> None:
        self.do("summarize", name, "so far", upto=draw.draw(self.moments(name)))

    @rule(name=NAMES, draw=st.data(), summaries=st.booleans())
    def redact(self, name, draw, summaries) -> None:
        """Show nothing of it ever, nor of what was made of it; that is what quoting() named."""
        message = draw.draw(self.ids(name) | self.versions(name))
        if name in self.model.sessions and isinstance(message, int):
            place = name, message
            if place in self.model.said:
                found = [each[:2] for each in self.store.quoting(name, message)]
                assert found == self.model.quotes(place)
        self.do("redact", name, message, summaries=summaries)

    @rule(name=NAMES, draw=st.data())
    def rewind(self, name, draw) -> None:
        self.do("rewind", name, draw.draw(self.versions(name)))

    @rule(name=NAMES)
    def undo(self, name) -> None:
        self.do("undo", name)

    @rule(name=NAMES)
    def undo_undo(self, name) -> None:
        """Law 6: undo(undo(x)) = x."""
        session = self.model.sessions.get(name)
        if session is None or session.now.status == "deleted" or not session.starts[-1]:
            return
        before = session.now
        if before.expires_at is None:
            self.do("undo", name)
            if session.now.expires_at is None:
                self.do("undo", name)
                assert _meant(session.now) == _meant(before)

    @rule(name=NAMES, change=PATCHES)
    def update_metadata(self, name, change) -> None:
        self.do("update_metadata", name, change)

    @rule(name=NAMES, key=st.sampled_from("uv"), value=VALUES)
    def set_context(self, name, key, value) -> None:
        self.do("set_context", name, key, value)

    @rule(name=NAMES, command=st.sampled_from(["record_tool_call", "record_error"]))
    def record_fact(self, name, command) -> None:
        self.do(command, name, "search")

    @rule(name=NAMES, value=VALUES)
    def record(self, name, value) -> None:
        self.do("record", name, "rated", value)

    @rule(name=NAMES, command=st.sampled_from(["close", "archive", "reopen", "reopen", "reopen"]))
    def live_on(self, name, command) -> None:
        self.do(command, name)

    @rule()
    @precondition(lambda self: "e" in self.model.sessions)
    def delete(self) -> None:
        self.do("delete", "e")

    @rule(name=NAMES, ttl=st.sampled_from([None, None, 3]))
    def extend_ttl(self, name, ttl) -> None:
        self.do("extend_ttl", name, ttl)

    @rule(seconds=st.integers(-2, 4))
    def time_passes(self, seconds) -> None:
        self.clock.now += seconds * SECOND

    # -- looking back --------------------------------------------------------------------

    @rule(name=NAMES, draw=st.data())
    @precondition(lambda self: self.model.log)
    def at_position_and_time(self, name, draw) -> None:
        """At a position and at a time, a session is what was current then."""
        position = draw.draw(st.integers(0, len(self.model.log) - 1))
        moment = self.model.log[position][2] + draw.draw(st.integers(-1, 1))
        assert self.store.position_at(moment) == self.model.position_at(moment)
        self.same_moment(name, position, at_position=position)
        self.same_moment(name, self.model.position_at(moment), at_time=moment)

    def same_moment(self, name: str, position: int, **moment: int) -> None:
        version = self.model.version_at_position(name, position)
        if version < 0:
            with pytest.raises(EventStoreError):
                SessionState.of(self.store, name, **moment)
            return
        state = SessionState.of(self.store, name, **moment)
        meant = self.model.sessions[name].states[version]
        assert (state.version, _seen(self.store, state.header)) == (version, _meant(meant))

    @rule(name=NAMES, draw=st.data())
    def any_way_to_fold(self, name, draw) -> None:
        """Law 2: fold by events, by frames and from every snapshot give one header."""
        if name not in self.model.sessions:
            return
        version = draw.draw(st.integers(0, self.model.sessions[name].version))
        log = self.store.log
        base, segments = lineage(log, name, version, None)
        assert base is None
        whole, passed = fold_segments(log, SessionHeader(), segments, every=1)
        single = SessionHeader()
        for session, first, last in segments:
            for recorded in self.store.events(session, first, last):
                single = evolve(single, recorded)
        saved = MemorySnapshots()
        saved.save(draw.draw(st.lists(st.sampled_from(passed)) if passed else st.just([])))
        assert whole == single
        shown = self.store.headers.shown(whole)
        assert shown == Headers(log, saved).at(name, version)
        assert shown == self.store.headers.at(name, version)

    @rule(name=NAMES)
    def deleted_is_deleted(self, name) -> None:
        """Hold to it that a deleted session has no present."""
        session = self.model.sessions.get(name)
        if session and session.now.status == "deleted":
            with pytest.raises(SessionDeleted):
                SessionState.of(self.store, name)

    # -- drawing -------------------------------------------------------------------------

    def versions(self, name: str) -> st.SearchStrategy[int]:
        known = self.model.sessions.get(name)
        return st.integers(0, known.version + 1 if known else 1)

    def ids(self, name: str) -> st.SearchStrategy[str]:
        known = self.model.sessions.get(name)
        shown = [line.id for line in known.now.lines] if known else []
        return st.sampled_from([*shown, *shown, "x", "a#1", "a#2"])

    def moments(self, name: str) -> st.SearchStrategy[int | str]:
        return self.versions(name) | self.ids(name)


class DiskLaws(Laws):
    """The same in LMDB, closed and opened again in between."""

    def opened(self) -> EventStore:
        self.directory = Path(tempfile.mkdtemp())
        return EventStore.open(self.directory / "history", clock=self.clock)

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            shutil.rmtree(self.directory)

    @rule()
    def reopen_store(self) -> None:
        self.store.close()
        self.store = EventStore.open(self.directory / "history", clock=self.clock)

    @rule(name=NAMES)
    def snapshots_on_disk(self, name) -> None:
        """Law 2: a header saved on disk is the header that was saved."""
        if name in self.model.sessions:
            whole = self.store.headers.whole(name)
            self.store.headers._snapshots.save([whole.copy()])
            shown = self.store.headers.shown(whole)
            assert self.store.headers.at(name, whole.version) == shown


def _outcome(command, *args, **options) -> object:
    """Return the receipt, or the kind and numbers of the error."""
    try:
        return command(*args, **options)
    except EventStoreError as error:
        numbers = {key: each for key, each in vars(error).items() if not key.startswith("_")}
        return type(error), numbers


def _seen(store: EventStore, header: SessionHeader) -> dict[str, object]:
    shown = list(Transcript(store.log, header.spans))
    return {
        "ids": [message.id for message in shown],
        "messages": [message.to_dict() for message in shown],
        "count": header.messages,
        **{name: getattr(header, name) for name in _PLAIN},
    }


def _meant(state) -> dict[str, object]:
    return {
        "ids": [line.id for line in state.lines],
        "messages": [line.fields for line in state.lines],
        "count": len(state.lines),
        **{name: getattr(state, name) for name in _PLAIN},
    }


_PLAIN = (
    "metadata",
    "context",
    "status",
    "tokens",
    "expires_at",
    "parent",
    "depth",
    "appended",
    "tool_calls",
    "errors",
)

EXAMPLES = settings.default.max_examples

TestLawsInMemory = Laws.TestCase
TestLawsInMemory.settings = settings(max_examples=EXAMPLES, stateful_step_count=40)
TestLawsOnDisk = DiskLaws.TestCase
TestLawsOnDisk.settings = settings(max_examples=EXAMPLES // 3, stateful_step_count=30)


# -- laws that are told best by a story --------------------------------------------------


def shown(store: EventStore, session: str) -> list[str]:
    """Return what a session shows now."""
    return [message.content for message in SessionState.of(store, session).messages]


def say(store: EventStore, session: str, *texts: str) -> None:
    """Append lines to a session."""
    store.append(session, [{"role": "user", "content": text} for text in texts])


@given(shapes=st.lists(st.lists(st.integers(1, 3), max_size=3), min_size=2, max_size=4))
def test_merging_disjoint_work_loses_no_message(shapes):
    """Law 5: branches merged by append, the last by adopt, all show up in full, each once."""
    store, texts = EventStore.in_memory(), ["before"]
    store.create("main")
    say(store, "main", "before")
    for index, shape in enumerate(shapes):
        store.branch("main", f"b{index}")
        for part, count in enumerate(shape):
            said = [f"{index}.{part}.{each}" for each in range(count)]
            say(store, f"b{index}", *said)
            texts += said
    for index in range(len(shapes)):
        last = index == len(shapes) - 1
        store.merge(f"b{index}", into="main", strategy="adopt" if last else "append")
    assert shown(store, "main") == texts


SYNCS = st.lists(st.sampled_from(["say a", "say b", "a to b", "b to a"]), max_size=12)


@given(steps=SYNCS)
def test_merging_both_ways_loses_no_message(steps):
    """However often two sides are merged into each other, each line arrives, once."""
    store, said = EventStore.in_memory(), {"a": {"start"}, "b": {"start"}}
    store.create("a")
    say(store, "a", "start")
    store.branch("a", "b")
    for number, step in enumerate(steps):
        if step.startswith("say"):
            said[step[-1]].add(f"{step} {number}")
            say(store, step[-1], f"{step} {number}")
        else:
            source, into = step[0], step[-1]
            store.merge(source, into=into)
            said[into] |= said[source]
    for side in "ab":
        lines = shown(store, side)
        assert len(lines) == len(set(lines)) and set(lines) == said[side]


TOOL_LINES = st.builds(dict, role=st.just("assistant"), content=st.just("!")) | st.builds(
    lambda made, answered: {
        "tool_calls": [{"id": each} for each in made],
        **({"tool_call_id": answered} if answered else {}),
    },
    st.lists(st.sampled_from(["c1", "c2"]), max_size=2),
    st.sampled_from([None, "c1", "c1", "c2"]),
)


@given(lines=st.lists(TOOL_LINES, min_size=1, max_size=9))
def test_tool_calls_stay_with_their_results(lines):
    """Wherever a prune or summary cuts, and whichever line is named, no result loses its call."""
    clock = Clock()
    store, model = EventStore.in_memory(clock=clock), Model(clock)
    for side in (store, model):
        side.create("a")
        side.append("a", lines)
        for number in range(len(lines)):
            for name in ("keep", "cover", "name"):
                side.branch("a", f"{name}{number}")
            side.prune(f"keep{number}", keep_last=number)
            side.summarize(f"cover{number}", "short", upto=f"a#{number + 1}")
            side.prune(f"name{number}", messages=[f"a#{number + 1}"])
    for name, session in model.sessions.items():
        assert _seen(store, store.headers.now(name)) == _meant(session.now)


def test_a_branch_kept_up_to_date_can_be_merged_back(store):
    """What a branch said before it took its parent in comes to the parent all the same."""
    store.create("main", metadata={"k": 0})
    store.branch("main", "work")
    say(store, "work", "w1")
    store.update_metadata("work", {"k": 1})
    say(store, "main", "m1")
    store.merge("main", into="work")
    say(store, "work", "w2")
    store.merge("work", into="main")
    assert shown(store, "work") == ["w1", "m1", "w2"]
    assert shown(store, "main") == ["m1", "w1", "w2"]
    assert SessionState.of(store, "main").metadata == {"k": 1}


def test_a_change_of_type_is_a_change(store):
    """True is not 1: a merge brings it, and two sides that differ only so are in conflict."""
    store.create("main", metadata={"k": 1})
    store.branch("main", "one")
    store.branch("main", "two")
    store.update_metadata("one", {"k": True})
    store.update_metadata("two", {"k": 1.0})
    store.merge("one", into="main")
    assert SessionState.of(store, "main").metadata["k"] is True
    with pytest.raises(MergeConflict) as conflict:
        store.merge("two", into="main")
    assert conflict.value.paths == ["metadata.k"]
