"""Our own events as lines: carried whole they are the same store, damaged they are refused."""

import json

import msgspec
import pytest
from driver import STEPS, Driver, ticking
from facts import OBJECTS
from hypothesis import given, settings
from hypothesis import strategies as st
from talks import frames, said, shown, written

from eventstore import (
    EventStore,
    EventStoreError,
    InvalidEvent,
    KeyReused,
    SessionExists,
    SessionNotFound,
    StoreUnavailable,
    events,
)
from eventstore.audit.entry import payload_commitment
from eventstore.audit.verify import verify
from eventstore.interchange import Imported, export_events, import_chat, import_events
from eventstore.limits import DURATION_MS_MAX, TTL_SECONDS_MAX
from eventstore.log.codec import decode, encode_all
from eventstore.log.format import TYPE_CODES
from eventstore.messages import TOKENS_MAX
from projections import SessionState


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


def family(store: EventStore) -> None:
    """Fill a store with a session, a branch and a merge."""
    store.create("root", metadata={"topic": "tests"}, ttl=1_000_000_000)
    store.append("root", [said("one"), said("two", "assistant")], key="first", actor="user:7")
    store.branch("root", "branch", at=1)
    store.append("branch", said("other"), correlation_id="c", causation_id="d")
    store.merge("branch", into="root")
    store.summarize("root", "in short", upto=2)


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


def numbered() -> list[dict]:
    """Return lines of events with all the numbers that an event can have."""
    with EventStore.in_memory() as one:
        one.create("a", ttl=60, max_messages=9, token_limit=9)
        one.append("a", [said("12345678")] * 4)
        one.branch("a", "b")
        one.append("b", said("1234"))
        one.merge("b", into="a")
        one.prune("a", keep_last=4)
        one.summarize("a", "in short", upto=3)
        one.record_tool_call("a", "tool", duration_ms=3)
        one.extend_ttl("a", 50)
        return [json.loads(line) for line in export_events(one)]


def said_of(lines: list[dict], kind: str, changed: dict[str, object]) -> list[bytes]:
    """Return the lines with other numbers in the events of a kind, and fitting commitments."""
    for line in lines:
        if line["type"] == kind:
            line["event"] |= changed
            code = TYPE_CODES[getattr(events, kind)]
            given = msgspec.msgpack.encode(line["event"])
            event = decode(code, line["schema"], given, line["session"], line["version"])
            payload = encode_all([event])[0]
            line["commitment"] = payload_commitment(bytes.fromhex(line["salt"]), payload).hex()
    return [json.dumps(line).encode() for line in lines]


LATE = 2**63 + TTL_SECONDS_MAX * 10**9
NUMBERS = [
    ("MessageAppended", "tokens", 0, TOKENS_MAX),
    ("SessionCreated", "ttl", 1.0, float(TTL_SECONDS_MAX)),
    ("SessionCreated", "expires_at", 0, LATE - 1),
    ("SessionCreated", "max_messages", 1, 2**63 - 1),
    ("SessionCreated", "token_limit", 1, 2**63 - 1),
    ("TtlExtended", "ttl", 1.0, float(TTL_SECONDS_MAX)),
    ("TtlExtended", "expires_at", 0, LATE - 1),
    ("ToolCallRecorded", "duration_ms", 0.0, float(DURATION_MS_MAX)),
    ("HistorySummarized", "tokens", 0, TOKENS_MAX),
]
"""A number of an event, the least and the most that a command could have recorded there."""


@pytest.mark.parametrize(("kind", "field", "least", "most"), NUMBERS)
def test_numbers_that_no_command_records_are_refused(store, kind, field, least, most):
    """Counts, times and limits are held to what commands hold them to, to the last one."""
    count = 5 if kind == "MessageAppended" else None  # what comes after that adds them up
    for number in (least - 1, most + 1, -(10**17), 2**64 - 1):
        with pytest.raises(InvalidEvent, match=rf"line \d+: {field}"):
            import_events(store, said_of(numbered()[:count], kind, {field: number}))
        assert store.head().size == 0
    for number in (least, most):
        with EventStore.in_memory() as other:
            import_events(other, said_of(numbered()[:count], kind, {field: number}))
            assert verify(other, deep=True).sound


SUMS = [
    ("MessagesPruned", "tokens", 2),
    ("HistorySummarized", "tokens_before", 4),
    ("BranchMerged", "tokens", 1),
    ("BranchMerged", "summary_tokens", 0),
]
"""A number of an event that follows from lines, and what it is."""


@pytest.mark.parametrize(("kind", "field", "right"), SUMS)
def test_sums_are_those_of_the_lines(store, kind, field, right):
    """A number of tokens that its lines do not have is refused: no state would add up."""
    for number in (right - 1, right + 1, 0 if right else 7, TOKENS_MAX, -1, 2**64 - 1):
        with pytest.raises(InvalidEvent, match=rf"line \d+: {field}"):
            import_events(store, said_of(numbered(), kind, {field: number}))
        assert store.head().size == 0
    import_events(store, said_of(numbered(), kind, {field: right}))
    assert verify(store, deep=True).sound


def last_said(kind: str, changed: dict[str, object]) -> list[bytes]:
    """Return lines of two sessions, and one more fact of the first with a fitting commitment."""
    with EventStore.in_memory() as one:
        one.create("b")
        one.append("b", said("elsewhere"))
        one.create("a")
        one.append("a", [said("1234"), said("5678")])
        one.record("a", "noted")
        lines = [json.loads(line) for line in export_events(one)]
    lines[-1] |= {"type": kind, "event": {"type": kind}}
    return said_of(lines, kind, changed)


FORGED = {
    "a name": ("Custom", {"name": "a\nb"}, "event type .* control character"),
    "no name": ("ToolCallRecorded", {"name": ""}, "tool name must not be empty"),
    "a long name": ("ErrorRecorded", {"kind": "x" * 256}, "error kind has 256 bytes"),
    "a key": ("ContextSet", {"key": "\0"}, "context key .* control character"),
    "a user": ("LegalHoldSet", {"user": "u"}, "for the store to say"),
    "a store's key": ("KeyCreated", {"key": 1, "digest": ""}, "for the store to say"),
    "a redaction": ("Redacted", {"version": 1}, "what is gone no file"),
    "an erasure": ("EraseRequested", {"keys": [1]}, "what is gone no file"),
    "the end of one": ("KeyShredded", {"keys": [1]}, "what is gone no file"),
    "a line twice": (
        *("MessagesPruned", {"spans": [["a", 0, 1]] * 2, "count": 2, "tokens": 2}),
        "names lines that the session does not show",
    ),
    "another's line": (
        *("MessagesPruned", {"spans": [["b", 0, 1]], "count": 1, "tokens": 3}),
        "names lines that the session does not show",
    ),
    "a summary's role": (
        *("HistorySummarized", {"summary": {"role": 1}, "spans": [["a", 0, 1]], "count": 1}),
        "message role must be a string",
    ),
}
"""What no command records, though it has the shape of an event."""


@pytest.mark.parametrize("what", FORGED)
def test_facts_that_no_command_records_are_refused(store, what):
    """Made by hand, with a commitment that fits, they are named by their line; none is written."""
    kind, changed, told = FORGED[what]
    with pytest.raises(InvalidEvent, match=f"line 6: .*{told}"):
        import_events(store, last_said(kind, changed))
    assert store.head().size == 0


ENDLESS = "x" * 100_000


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("MessagesPruned", {"spans": [[ENDLESS, 0, 1]], "count": 1}),
        ("BranchMerged", {"source": ENDLESS, "into": "a", "source_version": 0, "into_version": 3,
                          "strategy": "append"}),
        ("BranchMerged", {"source": "a", "into": ENDLESS, "source_version": 2, "into_version": 3,
                          "strategy": "append"}),
    ],
)  # fmt: skip
def test_an_error_is_short_whatever_the_file_holds(store, kind, changed):
    """A name of any length that a file refers to is shown by its beginning."""
    with pytest.raises(InvalidEvent) as caught:
        import_events(store, last_said(kind, changed))
    assert len(str(caught.value)) < 600 and store.head().size == 0


def test_an_error_is_short_whatever_a_session_is_called(store):
    """The name of a session that does not begin with version 0 is shown by its beginning."""
    line = json.loads(last_said("Custom", {"name": "x"})[-1])
    with pytest.raises(InvalidEvent, match="export it whole") as caught:
        import_events(store, [json.dumps({**line, "session": ENDLESS}).encode()])
    assert len(str(caught.value)) < 600


MERGES = {
    "brings nothing of its source": ({"brought": [["a", 0, 1]]}, "are there"),
    "brings a line twice": ({"brought": [["b", 0, 1], ["b", 0, 1]], "tokens": 2}, "a line twice"),
    "brings what is there": ({"hidden": [], "brought": [["a", 1, 2]]}, "are there"),
    "hides what is not shown": ({"hidden": [["b", 0, 1]]}, "does not show"),
    "a base that is not": ({"base": [["c", 0], ["a", 1]]}, "neither in the file"),
    "a strategy of its own": ({"strategy": "guess"}, "strategy must be one of"),
}


@pytest.mark.parametrize("what", MERGES)
def test_merges_that_no_command_records_are_refused(store, what):
    """A merge brings what its source shows, once, and hides what its target shows."""
    changed, told = MERGES[what]
    with pytest.raises(InvalidEvent, match=rf"line \d+: .*{told}"):
        import_events(store, said_of(numbered(), "BranchMerged", changed))
    assert store.head().size == 0


def test_a_message_that_is_none_is_named_by_its_line(store):
    """What is wrong with a message says where it stands, like everything else."""
    lines = numbered()[:5]
    lines[1]["event"]["message"]["role"] = 7
    with pytest.raises(InvalidEvent, match="line 2: message role"):
        import_events(store, [json.dumps(line).encode() for line in lines])
    assert store.head().size == 0
