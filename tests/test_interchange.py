"""Files in and out: our own events, plain chat, tau-bench, chitchat, transcripts."""

import json
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from driver import STEPS, Driver, ticking
from facts import OBJECTS
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import (
    EventStore,
    EventStoreError,
    EventTooLarge,
    InvalidEvent,
    KeyReused,
    SessionDeleted,
    SessionExists,
    SessionNotFound,
    StoreUnavailable,
)
from eventstore.audit.verify import verify
from eventstore.interchange import (
    Imported,
    detect_format,
    export_chat,
    export_chat_lines,
    export_events,
    export_markdown,
    import_chat,
    import_chitchat,
    import_conversations,
    import_events,
    import_file,
    import_tau,
    mismatches,
)
from eventstore.interchange.chat import time_of
from eventstore.interchange.chitchat import PACKAGE, chitchat_path
from eventstore.limits import APPEND_EVENTS_MAX, EVENT_BYTES_MAX
from projections import SessionState

TAU = Path(__file__).parents[2] / "shared/data/tau_airline_conversations.json"
SECOND = 1_000_000_000


def said(content: str, role: str = "user", **more) -> dict:
    """Return a message."""
    return {"role": role, "content": content, **more}


def written(path: Path, value) -> Path:
    """Write a value as JSON; return the path."""
    path.write_text(json.dumps(value))
    return path


def shown(store: EventStore, session: str, version: int | None = None) -> list[dict]:
    """Return the visible messages, now or at a version."""
    state = SessionState.of(store, session, at_version=version)
    return [message.to_dict() for message in state.messages]


def states(store: EventStore, *, left_out=()) -> dict:
    """Return the header and the messages of every session at every version."""
    found = {}
    for session in store.sessions():
        for version in range(store.version(session) + 1):
            state = SessionState.of(store, session, at_version=version)
            fields = {f: getattr(state.header, f) for f in state.header.__struct_fields__}
            header = {f: value for f, value in fields.items() if f not in left_out}
            ids = [message.id for message in state.messages]
            found[session, version] = header, ids, shown(store, session, version)
    return found


def frames(store: EventStore) -> list[tuple]:
    """Return what tells one append from another, in order."""
    made = []
    while more := store.log.read_all(made[-1][0] + made[-1][1] if made else 0):
        made += [(f.position, f.count, f.session, f.recorded_at, f.actor, f.key) for f in more]
    return made


def family(store: EventStore) -> None:
    """Fill a store with a session, a branch and a merge."""
    store.create("root", metadata={"topic": "tests"}, ttl=1_000_000_000)
    store.append("root", [said("one"), said("two", "assistant")], key="first", actor="user:7")
    store.branch("root", "branch", at=1)
    store.append("branch", said("other"), correlation_id="c", causation_id="d")
    store.merge("branch", into="root")
    store.summarize("root", "in short", upto=2)


# -- our own events --------------------------------------------------------------------


@given(steps=STEPS)
def test_a_whole_store_into_an_empty_one_is_the_same_store(steps):
    """Law 8: equal root, equal state at every version, equal frames, equal lines again."""
    with EventStore.in_memory(clock=ticking()) as one, EventStore.in_memory() as other:
        driver = Driver(one)
        for step in [("create", 0, 0, 0), *steps]:
            driver.run(step)
        lines = list(export_events(one))
        found = import_events(other, iter(lines))
        assert other.head() == one.head()
        assert states(other) == states(one)
        assert frames(other) == frames(one)
        assert list(export_events(other)) == lines
        assert found.events == len(lines) == one.head().size


@given(OBJECTS, st.lists(OBJECTS, max_size=3))
def test_any_json_is_carried_byte_for_byte(data, bodies):
    """Numbers keep their kind and keys their order, so that the payload's bytes stay the same."""
    with EventStore.in_memory() as one, EventStore.in_memory() as other:
        one.create("a", metadata=data, ttl=60)
        for body in bodies:
            one.append("a", {"role": "user", **body, "id": "m"} | {"role": "user"})
        one.record("a", "noted", data)
        one.record_tool_call("a", "tool", data, duration_ms=3)
        one.record_tool_call("a", "tool", data, duration_ms=3.0)
        import_events(other, export_events(one))
        assert other.head() == one.head()


def test_carrying_works_between_any_two_kinds_of_store(store, tmp_path):
    """Memory and disk hold the same facts, and what was carried passes verification."""
    family(store)
    with EventStore.open(tmp_path / "other") as other:
        assert import_events(other, export_events(store)) == Imported(1, 1, 3, 8)
        assert other.head() == store.head()
        assert states(other) == states(store)
        assert verify(other, deep=True).sound


def test_a_carried_store_goes_on(store, tmp_path):
    """Keys answer as before, other content under them is refused, and new facts follow."""
    family(store)
    with EventStore.open(tmp_path / "other") as other:
        import_events(other, export_events(store))
        head = other.head()
        lines = [said("one"), said("two", "assistant")]
        again = other.append("root", lines, key="first")
        assert again == store.append("root", lines, key="first")
        assert again.duplicate and other.head() == head
        with pytest.raises(KeyReused):
            other.append("root", said("else"), key="first")
        other.undo("root")
        other.merge("branch", into="root")
        assert verify(other, deep=True).sound


def test_undo_after_carrying_takes_back_a_whole_append(store):
    """Append boundaries are carried: an undo goes as far back as it would have gone before."""
    with EventStore.in_memory() as one:
        one.create("a")
        one.append("a", said("kept"))
        one.append("a", [said("x"), said("y"), said("z")])
        import_events(store, export_events(one))
    store.undo("a")
    assert shown(store, "a") == [said("kept")]


def test_lines_say_all_that_is_kept_of_an_event(store):
    """A line is readable JSON with the envelope and the payload, what was not given left out."""
    store.create("a", metadata={"x": 1}, actor="user:7")
    store.append("a", said("hi"), occurred_at=5, key="k", correlation_id="c")
    first, second = (json.loads(line) for line in export_events(store))
    assert first["event"] == {"type": "SessionCreated", "metadata": {"x": 1}}
    assert (first["actor"], "occurred_at" in first, "key" in first) == ("user:7", False, False)
    assert second["event"]["message"] == said("hi")
    assert (second["position"], second["version"], second["type"]) == (1, 1, "MessageAppended")
    assert (second["occurred_at"], second["key"], second["correlation_id"]) == (5, "k", "c")
    assert second["recorded_at"] == store.event(1).recorded_at


def test_an_export_shows_one_moment(store):
    """Facts that come while the lines are read are not among them."""
    store.create("a")
    lines = export_events(store)
    store.append("a", said("late"))
    assert len(list(lines)) == 1


def test_added_to_other_sessions_events_are_new_facts(store):
    """They keep their names, versions and state; their original time becomes occurred_at."""
    with EventStore.in_memory(clock=ticking()) as one:
        family(one)
        one.append("root", said("dated"), occurred_at=7)
        store.create("mine")
        assert import_events(store, export_events(one)).events == one.head().size
        times = [each.recorded_at for each in one.events("root")]
        assert [each.occurred_at for each in store.events("root")] == [*times[:-1], 7]
        assert store.event(1).recorded_at >= store.event(0).recorded_at
        moved = ("position", "created_at", "updated_at")
        mine = states(store, left_out=moved)
        del mine["mine", 0]
        assert mine == states(one, left_out=moved)
    lines = [said("one"), said("two", "assistant")]
    assert store.append("root", lines, key="first").duplicate


@given(steps=STEPS)
@settings(max_examples=15)
def test_some_sessions_with_all_they_build_on_can_be_added(steps):
    """What may be exported apart is what a session builds on; its states are then the same."""
    with EventStore.in_memory(clock=ticking()) as one, EventStore.in_memory() as other:
        driver = Driver(one)
        for step in [("create", 0, 0, 0), ("create", 0, 0, 0), *steps]:
            driver.run(step)
        other.create("mine")
        wanted = needed(one, driver.sessions[-1])
        import_events(other, list(export_events(one, sorted(wanted))))
        moved = ("position", "created_at", "updated_at")
        theirs, mine = states(one, left_out=moved), states(other, left_out=moved)
        assert {key: theirs[key] for key in theirs if key[0] in wanted} == {
            key: mine[key] for key in mine if key[0] != "mine"
        }
        assert verify(other).sound


def needed(store: EventStore, session: str) -> set[str]:
    """Return a session, its parents and everything that was ever merged with one of them."""
    found, left = set(), [session]
    while left:
        session = left.pop()
        if session in found:
            continue
        found.add(session)
        for recorded in store.events(session):
            event = recorded.event
            if recorded.type == "BranchCreated":
                left.append(event.parent)
            if recorded.type == "BranchMerged":
                left += [event.into, event.source]
    return found


def test_a_branch_needs_its_parent(store):
    """Without it nothing is written; with it in the store the branch is added."""
    with EventStore.in_memory() as one:
        one.create("root")
        one.append("root", [said("one"), said("two")])
        one.branch("root", "branch", at=1)
        one.append("branch", said("other"))
        branch = list(export_events(one, ["branch"]))
        with pytest.raises(InvalidEvent, match=r"line 1: .*'branch' builds on 'root'"):
            import_events(store, branch)
        assert store.head().size == 0
        store.create("root")
        with pytest.raises(InvalidEvent, match="version 1 of 'root', which has 0-0"):
            import_events(store, branch)
        store.append("root", said("ours"))
        import_events(store, branch)
    assert shown(store, "branch") == [said("ours"), said("other")]


@pytest.mark.parametrize("half", [["root"], ["root", "side"], ["side"]])
def test_a_merge_is_added_for_both_sides_or_not_at_all(store, half):
    """One half of it would be a fact that the other session knows nothing of."""
    with EventStore.in_memory() as one:
        one.create("root")
        one.create("side")
        one.append("side", said("hi"))
        one.merge("side", into="root")
        lines = list(export_events(one, half))
        if len(half) == 1:
            with pytest.raises(InvalidEvent, match=r"'side'.*export (both|it too)"):
                import_events(store, lines)
            assert store.head().size == 0
        else:
            store.create("mine")
            assert import_events(store, lines[:]) == Imported(2, 0, 1, 5)
            assert shown(store, "root") == [said("hi")]
            assert verify(store).sound


def test_unknown_sessions_are_not_exported(store):
    """The error comes with the call, before a line is read."""
    with pytest.raises(SessionNotFound):
        export_events(store, ["nobody"])


def test_a_name_or_key_that_is_taken_stops_an_import_before_it_writes(store):
    """The other sessions of the file don't come in either."""
    with EventStore.in_memory() as one:
        one.create("new")
        one.create("taken", key="k")
        lines = list(export_events(one))
    store.create("taken")
    with pytest.raises(SessionExists, match="taken"):
        import_events(store, lines)
    assert store.head().size == 1
    with EventStore.in_memory() as other:
        other.create("else", key="k")
        with pytest.raises(KeyReused):
            import_events(other, lines)
        assert other.head().size == 1


@given(where=st.integers(0), byte=st.integers(0, 255))
def test_a_changed_file_is_refused_or_harmless(where, byte):
    """Whatever one byte becomes: nothing is written, or a store that passes verification."""
    lines = b"".join(family_lines())
    place = where % len(lines)
    changed = lines[:place] + bytes([byte]) + lines[place + 1 :]
    with EventStore.in_memory() as store:
        try:
            import_events(store, changed.splitlines(keepends=True))
        except EventStoreError:
            assert store.head().size == 0
        else:
            assert verify(store, deep=True).sound


_LINES: list[bytes] = []


def family_lines() -> list[bytes]:
    """Return ten lines: five appends of one event, one of two, a merge, and three more."""
    if not _LINES:
        with EventStore.in_memory(clock=ticking()) as one:
            family(one)
            one.rewind("root", 2)
            one.prune("root", keep_last=1)
            _LINES.extend(export_events(one))
    return _LINES


ORDERS = st.integers(1, 10).flatmap(
    lambda count: st.tuples(st.integers(0, 9), st.integers(0, 9)).map(
        lambda pair: swapped(list(range(count)), *pair)
    )
) | st.lists(st.integers(0, 9), min_size=1, max_size=12)


def swapped(order: list[int], one: int, other: int) -> list[int]:
    """Return an order with two places swapped, or one doubled or left out."""
    if one < len(order) and other < len(order):
        order[one], order[other] = order[other], order[one]
    elif one < len(order):
        order.pop(one)
    elif other < len(order):
        order.insert(other, other)
    return order


@given(ORDERS.filter(bool))
def test_lines_left_out_doubled_or_moved_are_refused(order):
    """Only beginnings that end with an append are accepted, and they are what they were."""
    lines = family_lines()
    chosen = [lines[index] for index in order]
    with EventStore.in_memory() as store:
        try:
            import_events(store, chosen)
        except EventStoreError:
            assert store.head().size == 0
        else:
            assert chosen == lines[: len(chosen)]
            assert list(export_events(store)) == chosen


@pytest.mark.parametrize("count", range(1, 11))
def test_a_cut_file_gives_whole_appends_or_nothing(count):
    """A file that ends inside an append says so, with its line."""
    lines = family_lines()[:count]
    whole = count not in (2, 6)
    with EventStore.in_memory() as store:
        if whole:
            assert import_events(store, lines).events == count
        else:
            with pytest.raises(InvalidEvent, match=f"ends after line {count}"):
                import_events(store, lines)
            assert store.head().size == 0


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"salt": "00"}, "salt must be 16 bytes"),
        ({"salt": "00" * 16}, "not the one its commitment was made for"),
        ({"type": "Nothing"}, "no type of event"),
        ({"type": "SessionClosed"}, "no type of event"),
        ({"schema": 2}, "schema 2; this release writes 1"),
        ({"version": 1}, "version 1 instead of 0"),
        ({"session": ""}, "must not be empty"),
        ({"session": "a\nb"}, "control character"),
        ({"actor": "x" * 256}, "256 bytes"),
        ({"recorded_at": -1}, "must be ns from 0"),
        ({"recorded_at": 1 << 70}, "must be ns from 0"),
        ({"occurred_at": 1 << 63}, "ns in 64 bits"),
        ({"events": 0}, "0 events can't be"),
        ({"events": 10**9}, "1000000000 events can't be"),
        ({"events": 2}, "with 1 of the 2 events"),
        ({"append": 5}, "before it are missing"),
        ({"key": "k", "content": "zz"}, "content must be 16 bytes"),
        ({"event": []}, "unexpected shape"),
        ({"position": None}, "unexpected shape"),
    ],
)
def test_a_line_that_makes_no_sense_is_named(store, change, what):
    """The error gives the line and the reason, and nothing is written."""
    with EventStore.in_memory() as one:
        one.create("a")
        line = json.loads(next(export_events(one)))
    with pytest.raises(InvalidEvent, match=f"line 1.*({what})"):
        import_events(store, [json.dumps({**line, **change}).encode()])
    assert store.head().size == 0


def test_only_stores_that_can_be_written_take_imports(disk, tmp_path):
    """A store that is open read-only refuses before it reads the file."""
    disk.create("a")
    lines = list(export_events(disk))
    disk.close()
    with EventStore.open(tmp_path / "history", read_only=True) as reader:
        with pytest.raises(StoreUnavailable, match="read-only"):
            import_events(reader, lines)
        with pytest.raises(StoreUnavailable, match="read-only"):
            import_chat(reader, written(tmp_path / "chat.json", [said("hi")]))


# -- plain chat ------------------------------------------------------------------------

HEADING = {
    "_type": "metadata",
    "created_at": "2026-02-03T04:05:06.123456789+08:00",
    "updated_at": "2026-02-03T05:00:00Z",
    "metadata": {"type": "dm", "pinned": True},
}
"""What session managers of bots write on the first line of a session's JSONL file."""

CHATS = {
    "one object": ([{"messages": [said("a"), said("b")]}], {"talk": ["a", "b"]}),
    "a name of its own": ([{"id": "x", "messages": [said("a")]}], {"x": ["a"]}),
    "a number for a name": ([{"id": 7, "messages": [said("a")]}], {"7": ["a"]}),
    "its session first": ([{"id": "x", "session": "y", "messages": []}], {"y": []}),
    "a list of messages": ([[said("a"), said("b")]], {"talk": ["a", "b"]}),
    "several conversations": (
        [[{"messages": [said("a")]}, {"id": "x", "messages": []}, {"messages": [said("b")]}]],
        {"talk-1": ["a"], "x": [], "talk-3": ["b"]},
    ),
    "lists in a list": ([[[said("a")], [said("b")]]], {"talk-1": ["a"], "talk-2": ["b"]}),
    "a message a line": ([said("a"), said("b")], {"talk": ["a", "b"]}),
    "a conversation a line": (
        [{"messages": [said("a")]}, {"id": "x", "messages": [said("b")]}],
        {"talk-1": ["a"], "x": ["b"]},
    ),
    "a single message": ([said("a")], {"talk": ["a"]}),
    "a heading and messages": ([HEADING, said("a"), said("b")], {"talk": ["a", "b"]}),
    "a heading with a key": ([HEADING | {"key": "dm:7"}, said("a")], {"dm:7": ["a"]}),
    "a heading alone": ([HEADING], {"talk": []}),
    "a heading at the end": ([said("a"), HEADING], {"talk": ["a"]}),
}


@pytest.mark.parametrize("shape", CHATS)
@pytest.mark.parametrize("indent", [None, 2])
def test_every_usual_shape_of_chat_is_understood(store, tmp_path, shape, indent):
    """Objects, lists and lines become one session each, named by themselves or by the file."""
    values, sessions = CHATS[shape]
    path = tmp_path / "talk.json"
    indent = indent if len(values) == 1 else None
    path.write_text("\ufeff" + "\n\n".join(json.dumps(each, indent=indent) for each in values))
    assert detect_format(path) == "chat"
    told = []
    found = import_file(store, path, progress=told.append)
    assert {name: [m["content"] for m in shown(store, name)] for name in sessions} == sessions
    assert sorted(store.sessions()) == sorted(sessions)
    assert found.sessions == len(sessions) and found.messages == sum(told)
    assert verify(store).sound


def test_a_conversation_keeps_what_else_it_carries(store, tmp_path):
    """Title, tools and anything else are metadata; metadata of its own goes first."""
    talk = {
        "id": "x",
        "title": "Hello",
        "tools": [{"name": "t"}],
        "metadata": {"tier": 1, "gone": None},
        "context": {"city": "Bonn"},
        "messages": [said("a", id="m1", extra={"deep": [1, 2.0, None]})],
    }
    path = written(tmp_path / "talk.json", talk)
    import_chat(store, path, actor="importer")
    state = SessionState.of(store, "x")
    assert state.metadata == {
        "source": "talk.json",
        "title": "Hello",
        "tools": [{"name": "t"}],
        "tier": 1,
    }
    assert state.context == {"city": "Bonn"}
    assert shown(store, "x") == talk["messages"]
    assert {each.actor for each in store.events("x")} == {"importer"}


@pytest.mark.parametrize(
    ("fields", "ns"),
    [
        ({"timestamp": "2018-05-02T19:38:15Z"}, 1_525_289_895 * SECOND),
        ({"created_at": "2018-05-02T21:38:15+02:00"}, 1_525_289_895 * SECOND),
        ({"ts": "2018-05-02T19:38:15.25"}, 1_525_289_895 * SECOND + SECOND // 4),
        ({"ts": 1_525_289_895}, 1_525_289_895 * SECOND),
        ({"ts": 1_525_289_895.25}, 1_525_289_895 * SECOND + SECOND // 4),
        ({"ts": 1_525_289_895_250}, 1_525_289_895 * SECOND + SECOND // 4),
        ({"timestamp": None, "ts": 0}, 0),
        ({"ts": "yesterday"}, None),
        ({"ts": 1e300}, None),
        ({"ts": "9999-12-31T00:00:00Z"}, None),
        ({"ts": True}, None),
        ({"ts": {}}, None),
        ({}, None),
    ],
)
def test_times_in_messages_are_when_they_occurred(store, tmp_path, fields, ns):
    """The message itself stays as it was, whatever its time looks like."""
    message = said("a", **fields)
    assert time_of(message) == ns
    import_chat(store, written(tmp_path / "talk.json", [message]))
    assert store.event(1).occurred_at == ns
    assert shown(store, "talk") == [message]


def test_sessions_of_bots_come_in_unchanged(store, tmp_path):
    """A JSONL session of heading and messages: each message equal, the heading's values kept."""
    call = {"id": "c1", "name": "search", "params": {"q": "x"}}
    messages = [
        {"role": "user", "content": "hi", "timestamp": "2026-02-03T04:05:06.123456789+08:00"},
        {"role": "user", "content": "see", "media": [{"type": "image", "url": "u"}]},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "found", "tool_call_id": "c1", "metadata": {"ttl": 60}},
        {"role": "assistant", "content": "done", "timestamp": "0001-01-01T00:00:00Z"},
    ]
    path = tmp_path / "agent_main_7.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in [HEADING, *messages]))
    assert import_file(store, path).messages == len(messages)
    state = SessionState.of(store, "agent_main_7")
    assert shown(store, "agent_main_7") == messages
    assert state.metadata == {
        "source": path.name,
        "type": "dm",
        "pinned": True,
        "created_at": HEADING["created_at"],
        "updated_at": HEADING["updated_at"],
    }
    assert store.event(1).occurred_at == 1_770_062_706 * SECOND + 123_456_000
    assert store.event(5).occurred_at is None
    store.prune("agent_main_7", keep_last=2)
    assert [each.role for each in SessionState.of(store, "agent_main_7").messages] == [
        "assistant",
        "tool",
        "assistant",
    ]


def test_a_conversation_longer_than_an_append_comes_whole(store, tmp_path):
    """It takes several appends and one commit."""
    messages = [said(str(number)) for number in range(APPEND_EVENTS_MAX + 5)]
    import_chat(store, written(tmp_path / "long.json", messages))
    assert shown(store, "long") == messages
    assert [count for _, count, *_ in frames(store)] == [APPEND_EVENTS_MAX, 6]


def test_an_import_that_fails_midway_leaves_whole_sessions(store, tmp_path):
    """What is too large is found out when it is encoded; the error counts what is in by then."""
    many = {"messages": [said(str(number)) for number in range(6_000)]}
    large = {"messages": [said("fine"), said("x" * EVENT_BYTES_MAX)]}
    path = tmp_path / "talk.jsonl"
    path.write_text("\n".join(json.dumps(each) for each in (many, many, large, many)))
    with pytest.raises(EventTooLarge, match=r"2 whole sessions \(12000 messages\) were imported"):
        import_chat(store, path)
    assert sorted(store.sessions()) == ["talk-1", "talk-2"]
    assert shown(store, "talk-2") == many["messages"]


def test_an_import_goes_on_beside_other_writers(disk, tmp_path):
    """Sessions stay whole, appends of others land in between, and nobody waits for ever."""
    disk.create("busy")
    talks = [[said(f"{n}-{line}") for line in range(40)] for n in range(500)]
    path, stop = written(tmp_path / "talk.json", talks), threading.Event()

    def write() -> None:
        while not stop.is_set():
            disk.append("busy", said("meanwhile"))

    writers = [threading.Thread(target=write) for _ in range(2)]
    for each in writers:
        each.start()
    try:
        assert import_chat(disk, path).sessions == 500
    finally:
        stop.set()
        for each in writers:
            each.join()
    assert disk.version("busy") > 0
    assert all(shown(disk, f"talk-{n + 1}") == talks[n] for n in range(0, 500, 50))
    assert verify(disk).sound


def test_conversations_in_memory_come_in_as_sessions(store):
    """Each has its messages, the metadata of all and the times its messages say."""
    talks = {"a": [said("hi"), said("hello", "assistant", timestamp=5)], "b": []}
    done = import_conversations(store, talks, metadata={"source": "app"})
    assert done == Imported(sessions=2, messages=2, events=4)
    assert shown(store, "a") == talks["a"]
    assert shown(store, "b") == []
    assert SessionState.of(store, "a").metadata == {"source": "app"}
    assert [each.occurred_at for each in store.events("a")] == [None, None, 5 * SECOND]


@pytest.mark.parametrize(
    ("talks", "error"),
    [
        ({"a": [said("x")], "taken": []}, SessionExists),
        ({"a": [said("x")], "": []}, InvalidEvent),
        ({"a": [said("x")], "b": "text"}, InvalidEvent),
        ({"a": [said("x")], "b": [{"content": "by nobody"}]}, InvalidEvent),
        ({"a": [said("x")], "b": [said("x"), 7]}, InvalidEvent),
    ],
)
def test_bad_conversations_in_memory_stop_all_of_them(store, talks, error):
    """A name that is taken or none, and what is no message, is an error before any fact."""
    store.create("taken")
    with pytest.raises(error):
        import_conversations(store, talks)
    assert list(store.sessions()) == ["taken"]


def test_names_that_are_taken_or_twice_stop_a_chat_before_it_writes(store, tmp_path):
    """Not even the conversations before it come in."""
    talks = [{"id": name, "messages": [said("a")]} for name in "abca"]
    path = written(tmp_path / "talk.json", talks)
    with pytest.raises(SessionExists, match="'a'"):
        import_chat(store, path)
    assert store.head().size == 0
    store.create("c")
    with pytest.raises(SessionExists, match="'c'"):
        import_chat(store, written(path, talks[:3]))
    assert store.head().size == 1


DEEP = '{"role": "user", "content": ' + "[" * 100 + "]" * 100 + "}"
BAD = {
    "empty": (b"", "is empty"),
    "blank": (b" \n\n", "is empty"),
    "not JSON": (b"hello there", "is not JSON"),
    "half a document": (b'{"messages": [{"role": "user"', "is not JSON"),
    "not UTF-8": (b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}', "UTF-8"),
    "UTF-16": ('{"messages": []}'.encode("utf-16"), "UTF-8"),
    "a number": (b"42", "unexpected shape"),
    "a text": (b'"role"', "unexpected shape"),
    "an empty list": (b"[]", "neither our events nor chat"),
    "an empty object": (b"{}", "neither our events nor chat"),
    "something else": (b'{"a": 1}', "neither our events nor chat"),
    "numbers": (b"[1, 2]", "neither our events nor chat"),
    "not a number": (b'[{"role": "user", "content": NaN}]', "is not JSON"),
    "infinity": (b'[{"role": "user", "content": 1e999}]', "unexpected shape|is not JSON"),
    "a huge integer": (b'[{"role": "user", "content": 1' + b"0" * 30 + b"}]", "64 bits"),
    "deep": (f"[{DEEP}]".encode(), "nested deeper than 64"),
    "very deep": (b"[" * 100_000 + b"]" * 100_000, "nested too deeply|not JSON"),
    "half a surrogate": (b'[{"role": "user", "content": "\\ud800"}]', "is not JSON"),
    "no role": (b'{"messages": [{"content": "a"}]}', "message 1: a message must say its role"),
    "a role that is none": (b'[{"role": 7}]', "role must be a string"),
    "a message that is none": (b'{"messages": [1]}', "must be a dict"),
    "messages that are none": (b'{"messages": {}}', "no list of messages"),
    "an id that is none": (b'[{"role": "user", "id": 7}]', "message id must be a string"),
    "metadata that is none": (b'{"messages": [], "metadata": 7}', "metadata must be an object"),
    "a bad line": (b'{"role": "user"}\n{"role": ', "line 2 is not JSON"),
    "a line of another kind": (b'{"role": "user"}\n{"messages": []}', "line 2 is no message"),
    "a heading of another type": (b'{"_type": "state", "a": 1}', "neither our events nor chat"),
    "a heading's metadata that is none": (
        b'{"_type": "metadata", "metadata": 7}\n{"role": "user"}',
        "metadata must be an object",
    ),
    "an empty name": (b'{"id": "", "messages": []}', "session id must not be empty"),
    "a name too long": (b'{"id": "' + b"x" * 256 + b'", "messages": []}', "256 bytes"),
    "a task without messages": (b'[{"task_id": 1, "traj": 3}]', "unexpected shape"),
    "a trial of no messages": (b'[{"task_id": 1, "traj": [3]}]', "must be a dict"),
    "a talk without times": (b'{"x": {"messages": [[{"text": "a"}]]}}', "unexpected shape"),
    "an event without its place": (
        b'{"position": 0, "session": "a", "version": 0, "event": {}}',
        "unexpected shape",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_clear_error_and_no_fact(tmp_path, kind):
    """Whatever is wrong, it is an InvalidEvent of one line, and the store stays empty."""
    content, what = BAD[kind]
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with EventStore.in_memory() as store:
        with pytest.raises(InvalidEvent, match=what) as caught:
            import_file(store, path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
        assert store.head().size == 0


@given(content=st.binary(max_size=200), pick=st.integers(0), byte=st.integers(0, 255))
def test_no_bytes_break_an_import(tmp_path_factory, content, pick, byte):
    """Random bytes, and good files with a byte changed, are refused or imported soundly."""
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    good = json.dumps(CHATS[list(CHATS)[pick % len(CHATS)]][0][0]).encode()
    place = pick % len(good)
    for each in (content, good[:place] + bytes([byte]) + good[place + 1 :], good[:place]):
        path.write_bytes(each)
        with EventStore.in_memory() as store:
            try:
                import_file(store, path)
            except EventStoreError:
                assert store.head().size == 0
            else:
                assert verify(store, deep=True).sound


@pytest.mark.parametrize("what", ["missing", "a directory"])
def test_what_is_no_file_is_refused(store, tmp_path, what):
    """A missing file and a directory are clear errors."""
    path = tmp_path / "missing" if what == "missing" else tmp_path
    with pytest.raises(InvalidEvent, match=r"can't be read|no regular file"):
        import_file(store, path)


def test_an_unknown_format_is_refused(store, tmp_path):
    """The error lists the formats there are."""
    with pytest.raises(InvalidEvent, match="auto, events, chat, tau, chitchat"):
        import_file(store, tmp_path / "x", "yaml")


# -- tau-bench -------------------------------------------------------------------------

LINES = st.builds(said, st.sampled_from("ab"), st.sampled_from(["user", "assistant"]))
TRAJECTORIES = st.lists(
    st.tuples(st.integers(0, 1), st.lists(LINES, max_size=5)), min_size=1, max_size=16
)


def trajectories(drawn) -> list[dict]:
    """Return drawn (task, messages) as trials in the benchmark's shape."""
    return [
        {"task_id": task, "trial": trial, "reward": trial / 2, "traj": messages, "info": {}}
        for trial, (task, messages) in enumerate(drawn)
    ]


@given(TRAJECTORIES, st.sampled_from([1, 2, 10]))
def test_trials_are_branches_and_give_back_their_messages(tmp_path_factory, drawn, max_depth):
    """Every trial shows its own messages; shared beginnings are stored once where depth allows."""
    path = written(tmp_path_factory.getbasetemp() / "tau_x.json", trajectories(drawn))
    with EventStore.in_memory(max_depth=max_depth) as store:
        found = import_tau(store, path)
        assert mismatches(store, path) == []
        assert found.sessions == len({task for task, _ in drawn})
        assert found.branches == len(drawn) - found.sessions
        depths = [store.headers.now(name).depth for name in store.sessions()]
        assert max(depths) <= max_depth
        if max_depth == 10 and max(depths) < max_depth:
            starts = {
                (task, json.dumps(messages[: end + 1]))
                for task, messages in drawn
                for end in range(len(messages))
            }
            assert found.messages == len(starts)
        assert verify(store, deep=True).sound


def test_a_trial_has_its_own_reward_and_task(store, tmp_path):
    """A branch's metadata is its own, also where its parent has keys that it lacks."""
    task = {"instruction": "book", "user_id": "u"}
    items = [
        {"task_id": 3, "trial": 0, "reward": 1.0, "traj": [said("a")], "info": {"task": task}},
        {"task_id": 3, "trial": 5, "reward": 0, "traj": [said("a"), said("b")], "info": None},
    ]
    path = written(tmp_path / "tau_airline_conversations.json", items)
    assert detect_format(path) == "tau"
    assert import_file(store, path) == Imported(1, 1, 2, 5)
    first = SessionState.of(store, "airline-task-3").metadata
    assert first == {
        "source": "tau-bench",
        "task_id": 3,
        "trial": 0,
        "reward": 1.0,
        "instruction": "book",
    }
    second = SessionState.of(store, "airline-task-3-trial-5")
    assert second.metadata == {"source": "tau-bench", "task_id": 3, "trial": 5, "reward": 0}
    assert (second.parent, second.header.at_version) == ("airline-task-3", 1)


def test_a_changed_message_is_a_mismatch(store, tmp_path):
    """The check compares with the file: 1 and 1.0 are not the same there."""
    item = {"task_id": 0, "trial": 0, "reward": 1, "traj": [said("a", n=1)]}
    path = written(tmp_path / "x.json", [item])
    import_tau(store, path)
    assert mismatches(store, path) == []
    item["traj"][0]["n"] = 1.0
    assert mismatches(store, written(path, [item])) == ["x-task-0"]


@pytest.mark.skipif(not TAU.exists(), reason="the tau-bench conversations are not there")
def test_all_conversations_of_tau_bench_come_back_equal(disk):
    """200 real conversations with tool calls: 50 sessions, 150 branches, every message equal."""
    assert detect_format(TAU) == "tau"
    found = import_file(disk, TAU)
    assert (found.sessions, found.branches) == (50, 150)
    assert mismatches(disk, TAU) == []
    for item in json.loads(TAU.read_bytes()):
        trial = f"-trial-{item['trial']}" if item["trial"] else ""
        session = f"airline-task-{item['task_id']}{trial}"
        assert export_chat(disk, session)["messages"] == item["traj"]
    assert verify(disk, deep=True).sound


# -- chitchat --------------------------------------------------------------------------


def test_a_dialogue_is_told_by_its_senders(store, tmp_path):
    """Who speaks first is the user; times, prompt, ratings and start are kept."""
    turns = [[("hi", "p", 15), ("there?", "p", 16)], [("yes", "q", 20)]]
    talk = {
        "messages": [
            [
                {"text": text, "sender": who, "timestamp": f"2018-05-02T19:38:{second}Z"}
                for text, who, second in turn
            ]
            for turn in turns
        ],
        "prompt": "What?",
        "ratings": {"witty": 10},
        "start": "2018-05-03T01:38:01Z",
    }
    path = written(tmp_path / "talks.json", {"x-1": talk})
    assert detect_format(path) == "chitchat"
    assert import_file(store, path) == Imported(1, 0, 3, 4)
    assert shown(store, "chitchat-x-1") == [
        said("hi", name="p"),
        said("there?", name="p"),
        said("yes", "assistant", name="q"),
    ]
    base = int(datetime(2018, 5, 2, 19, 38, tzinfo=UTC).timestamp())
    times = [each.occurred_at for each in store.events("chitchat-x-1")]
    assert times == [None, *((base + second) * SECOND for second in (15, 16, 20))]
    assert SessionState.of(store, "chitchat-x-1").metadata == {
        "source": "chitchat-dataset",
        "prompt": "What?",
        "ratings": {"witty": 10},
        "start": "2018-05-03T01:38:01Z",
    }


def test_real_dialogues_come_in_with_every_text(disk, tmp_path):
    """Some hundred conversations of the dataset, each text in its place."""
    pytest.importorskip(PACKAGE, reason=f"{PACKAGE} is not installed")
    talks = dict(list(json.loads(chitchat_path().read_bytes()).items())[:300])
    told = []
    found = import_chitchat(disk, written(tmp_path / "talks.json", talks), progress=told.append)
    assert (found.sessions, found.messages) == (300, sum(told))
    for key, talk in talks.items():
        texts = [each["text"] for turn in talk["messages"] for each in turn]
        assert [each["content"] for each in shown(disk, f"chitchat-{key}")] == texts
    assert verify(disk).sound


# -- transcripts -----------------------------------------------------------------------


def test_exported_chat_can_be_imported_again(store, tmp_path):
    """Messages, metadata, context and name survive the way out and in."""
    store.create("a", metadata={"topic": "x"}, context={"city": "Bonn"})
    store.append("a", [said("one"), said("two", "assistant", tool_calls=[{"id": "c"}])])
    path = written(tmp_path / "a.json", export_chat(store, "a"))
    with EventStore.in_memory() as other:
        import_file(other, path)
        assert shown(other, "a") == shown(store, "a")
        state = SessionState.of(other, "a")
        assert state.metadata == {"source": "a.json", "topic": "x"}
        assert state.context == {"city": "Bonn"}


def test_chat_shows_what_is_visible_at_a_moment(store):
    """Pruned messages are not exported; with a version they are still there."""
    store.create("a")
    store.append("a", [said("one"), said("two"), said("three")])
    store.prune("a", keep_last=1)
    assert export_chat(store, "a")["messages"] == [said("three")]
    assert len(export_chat(store, "a", at_version=3)["messages"]) == 3
    assert [json.loads(line) for line in export_chat_lines(store, "a")] == [said("three")]
    store.delete("a")
    with pytest.raises(SessionDeleted):
        export_chat(store, "a")
    assert export_chat(store, "a", at_version=3)["session"] == "a"


def test_markdown_reads_like_the_conversation(store):
    """Who, when, text, tool calls with their arguments, results, and parts that are no text."""
    store.create("a", metadata={"topic": "x", "n": [1]})
    call = {"id": "c", "function": {"name": "find", "arguments": '{"q": 1}'}}
    picture = {"type": "image_url", "image_url": {"url": "http://x"}}
    store.append(
        "a",
        [
            said("Hello", name="Ann"),
            said(None, "assistant", tool_calls=[call]),
            said("```found```", "tool"),
            {"role": "user", "content": [{"type": "text", "text": "See"}, picture]},
        ],
        occurred_at=0,
    )
    text = export_markdown(store, "a")
    for wanted in (
        "# a\n",
        "4 messages",
        "- **topic**: x\n- **n**: [1]",
        "## 1. user (Ann) · 1970-01-01 00:00:00 UTC\n\nHello",
        'Calls `find`:\n\n```json\n{"q": 1}\n```',
        "````\n```found```\n````",
        "See\n\n```json\n",
    ):
        assert wanted in text


@given(st.text("`ab\n", max_size=30))
def test_no_tool_result_breaks_out_of_its_block(text):
    """The fence is longer than any run of backticks in it."""
    with EventStore.in_memory() as store:
        store.create("a")
        store.append("a", said("x" + text, "tool"))
        lines = export_markdown(store, "a").rstrip("\n").split("\n")
    start = next(number for number, line in enumerate(lines) if line.startswith("```"))
    fence = lines[start]
    assert lines[-1] == fence
    assert not any(line.startswith(fence) for line in lines[start + 1 : -1])
