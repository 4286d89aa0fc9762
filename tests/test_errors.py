"""Bad input and bad places: one clear error of the tree, nothing written, the store goes on."""

import json
import math
import os
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from eventstore import (
    NO_STREAM,
    DepthExceeded,
    EventStore,
    EventTooLarge,
    FormatTooNew,
    InvalidEvent,
    KeyReused,
    MergeConflict,
    Message,
    SessionClosed,
    SessionDeleted,
    SessionExists,
    SessionExpired,
    SessionNotFound,
    StoreFull,
    StoreUnavailable,
    VersionConflict,
    errors,
)
from eventstore.log.format import FORMAT, MARKER
from eventstore.place.directory import LOG
from eventstore.state.caches import SNAPSHOTS
from eventstore.state.snapshots import MemorySnapshots
from projections.session import SessionState

HELLO = {"role": "user", "content": "hello"}
DEEP: dict[str, object] = {}
for _ in range(100):
    DEEP = {"x": DEEP}
VERY_DEEP: list[object] = []
for _ in range(100_000):
    VERY_DEEP = [VERY_DEEP]

BAD_COMMANDS = {
    # -- messages
    "a message of text": lambda s: s.append("s", "hello"),
    "a message of bytes": lambda s: s.append("s", b"hello"),
    "no message": lambda s: s.append("s", None),
    "a number": lambda s: s.append("s", 5),
    "an empty append": lambda s: s.append("s", []),
    "a list with a text": lambda s: s.append("s", [HELLO, "hello"]),
    "a list in a list": lambda s: s.append("s", [[HELLO]]),
    "role of a number": lambda s: s.append("s", {"role": 5}),
    "an empty id": lambda s: s.append("s", {"id": ""}),
    "NaN": lambda s: s.append("s", {"x": math.nan}),
    "infinity": lambda s: s.append("s", {"x": [-math.inf]}),
    "65 bits": lambda s: s.append("s", {"x": 1 << 64}),
    "a tuple": lambda s: s.append("s", {"x": (1, 2)}),
    "a set": lambda s: s.append("s", {"x": {1, 2}}),
    "bytes": lambda s: s.append("s", {"x": b"x"}),
    "a datetime": lambda s: s.append("s", {"x": datetime.now(UTC)}),
    "an object": lambda s: s.append("s", {"x": object()}),
    "a key of a number": lambda s: s.append("s", {1: "x"}),
    "a lone surrogate": lambda s: s.append("s", {"content": "\ud800"}),
    "a lone surrogate in a key": lambda s: s.append("s", {"\udfff": 1}),
    "a surrogate with a key": lambda s: s.append("s", {"content": "\ud800"}, key="fresh"),
    "100 levels": lambda s: s.append("s", {"x": DEEP}),
    "100,000 levels": lambda s: s.append("s", {"x": VERY_DEEP}),
    "100,000 levels in a Message": lambda s: s.append("s", Message({"x": VERY_DEEP})),
    "10,001 messages": lambda s: s.append("s", [HELLO] * 10_001),
    "the last of many is bad": lambda s: s.append("s", [HELLO] * 50 + [{"x": math.nan}]),
    # -- names
    "an empty session": lambda s: s.append("", HELLO),
    "a session of a number": lambda s: s.append(7, HELLO),
    "a session of None": lambda s: s.append(None, HELLO),
    "a control character": lambda s: s.create("a\nb"),
    "a zero byte": lambda s: s.create("a\x00b"),
    "a surrogate in a session": lambda s: s.create("\ud800"),
    "a session of 256 bytes": lambda s: s.create("x" * 256),
    "an empty new session": lambda s: s.create(""),
    "an empty branch": lambda s: s.branch("s", ""),
    "an empty actor": lambda s: s.append("s", HELLO, actor=""),
    "an empty key": lambda s: s.append("s", HELLO, key=""),
    "an idempotency key of a number": lambda s: s.append("s", HELLO, key=5),
    "an endless key": lambda s: s.append("s", HELLO, key="k" * 256),
    "a bad correlation id": lambda s: s.append("s", HELLO, correlation_id="\x7f"),
    "a bad causation id": lambda s: s.append("s", HELLO, causation_id=""),
    "a user of a number": lambda s: s.create("new", user=5),
    # -- numbers and times
    "expecting a text": lambda s: s.append("s", HELLO, expected="0"),
    "expecting True": lambda s: s.append("s", HELLO, expected=True),
    "a version in the future": lambda s: s.rewind("s", 99),
    "a version below 0": lambda s: s.rewind("s", -1),
    "a version of True": lambda s: s.rewind("s", True),
    "a version of text": lambda s: s.rewind("s", "0"),
    "an endless version": lambda s: s.rewind("s", 1 << 80),
    "a branch in the future": lambda s: s.branch("s", "new", at=99),
    "a branch at nothing": lambda s: s.branch("s", "new", at=1.5),
    "a branch at an unknown message": lambda s: s.branch("s", "new", at="nobody#1"),
    "a branch at an endless id": lambda s: s.branch("s", "new", at="x" * 999 + "#" + "9" * 9_999),
    "a branch at a surrogate": lambda s: s.branch("s", "new", at="\ud800#1"),
    "summing up the future": lambda s: s.summarize("s", "short", upto=99),
    "summing up nothing": lambda s: s.summarize("s", "short", upto=0),
    "summing up to None": lambda s: s.summarize("s", "short", upto=None),
    "a summary of a number": lambda s: s.summarize("s", 5, upto=1),
    "a time of text": lambda s: s.append("s", HELLO, occurred_at="now"),
    "a time without a zone": lambda s: s.append("s", HELLO, occurred_at=datetime(2026, 1, 1)),  # noqa: DTZ001 - the point
    "a time out of range": lambda s: s.append("s", HELLO, occurred_at=1 << 64),
    "too many times": lambda s: s.append("s", [HELLO], occurred_at=[1, 2]),
    "a ttl of 0": lambda s: s.create("new", ttl=0),
    "a ttl of NaN": lambda s: s.create("new", ttl=math.nan),
    "an endless ttl": lambda s: s.extend_ttl("s", math.inf),
    "a ttl of text": lambda s: s.extend_ttl("s", "1h"),
    "no messages at most": lambda s: s.create("new", max_messages=0),
    "half a token": lambda s: s.create("new", token_limit=0.5),
    # -- criteria and choices
    "pruning by nothing": lambda s: s.prune("s"),
    "pruning by two": lambda s: s.prune("s", keep_last=1, before=5),
    "keeping -1": lambda s: s.prune("s", keep_last=-1),
    "keeping a text": lambda s: s.prune("s", keep_last="5"),
    "pruning an unknown message": lambda s: s.prune("s", messages=["nobody"]),
    "pruning a text": lambda s: s.prune("s", messages="s#1"),
    "pruning a number": lambda s: s.prune("s", messages=5),
    "pruning numbers": lambda s: s.prune("s", messages=[1]),
    "pruning before a text": lambda s: s.prune("s", before="yesterday"),
    "merging into itself": lambda s: s.merge("s", into="s"),
    "an unknown strategy": lambda s: s.merge("b", into="s", strategy="rebase"),
    "a strategy of a list": lambda s: s.merge("b", into="s", strategy=[]),
    "an unknown rule": lambda s: s.merge("b", into="s", on_conflict="both"),
    "squash without a summary": lambda s: s.merge("b", into="s", strategy="squash"),
    "a summary without squash": lambda s: s.merge("b", into="s", summary="short"),
    # -- values
    "metadata of a list": lambda s: s.create("new", metadata=[1]),
    "metadata of NaN": lambda s: s.create("new", metadata={"x": math.nan}),
    "a patch of text": lambda s: s.update_metadata("s", "x"),
    "a patch with a tuple": lambda s: s.update_metadata("s", {"x": (1,)}),
    "a deep patch": lambda s: s.update_metadata("s", {"x": DEEP}),
    "context of a set": lambda s: s.create("new", context={"x": {1}}),
    "an empty context key": lambda s: s.set_context("s", "", 1),
    "a context value of bytes": lambda s: s.set_context("s", "k", b"x"),
    "a call id of a number": lambda s: s.record_tool_call("s", "tool", call_id=5),
    "a duration of text": lambda s: s.record_tool_call("s", "tool", duration_ms="1s"),
    "a duration of True": lambda s: s.record_tool_call("s", "tool", duration_ms=True),
    "a duration of NaN": lambda s: s.record_tool_call("s", "tool", duration_ms=math.nan),
    "an endless duration": lambda s: s.record_tool_call("s", "tool", duration_ms=1 << 70),
    "an error of a number": lambda s: s.record_tool_call("s", "tool", error=5),
    "a result of bytes": lambda s: s.record_tool_call("s", "tool", result=b""),
    "a tool without a name": lambda s: s.record_tool_call("s", ""),
    "an error text of a number": lambda s: s.record_error("s", "kind", 5),
    "an error without a kind": lambda s: s.record_error("s", ""),
    "a fact without a name": lambda s: s.record("s", "", {}),
    "a fact of bytes": lambda s: s.record("s", "mine", b"x"),
    "a reason of a number": lambda s: s.close("s", reason=5),
    "a reason that is no text": lambda s: s.archive("s", reason="\ud800"),
    "a title of a number": lambda s: s.branch("s", "new", name=5),
}


@pytest.fixture
def busy(store):
    """Give a store with a session of three messages and a branch of it."""
    store.create("s", metadata={"k": 1})
    store.append("s", [HELLO, HELLO, HELLO])
    store.branch("s", "b")
    return store


@pytest.mark.parametrize("bad", BAD_COMMANDS)
def test_bad_input_writes_nothing(busy, bad):
    """A command that can't become a fact is InvalidEvent, and the store is as it was."""
    before = busy.head()
    with pytest.raises(InvalidEvent) as refused:
        BAD_COMMANDS[bad](busy)
    assert str(refused.value) and len(str(refused.value)) < 20_000
    assert busy.head() == before
    busy.append("s", HELLO, expected=1 + 2)
    assert len(SessionState.of(busy, "s").messages) == 4


NOT_FOUND = {
    "append": lambda s: s.append("nobody", HELLO),
    "branch": lambda s: s.branch("nobody"),
    "merge from": lambda s: s.merge("nobody", into="s"),
    "merge into": lambda s: s.merge("s", into="nobody"),
    "prune": lambda s: s.prune("nobody", keep_last=1),
    "undo": lambda s: s.undo("nobody"),
    "delete": lambda s: s.delete("nobody"),
    "set_context": lambda s: s.set_context("nobody", "k", 1),
    "events": lambda s: s.events("nobody"),
    "version": lambda s: s.version("nobody"),
    "follow": lambda s: s.follow("nobody"),
    "version of an endless name": lambda s: s.version("x" * 999),
    "version of a surrogate": lambda s: s.version("\ud800"),
    "version of an empty name": lambda s: s.version(""),
    "state": lambda s: SessionState.of(s, "nobody"),
    "state of an endless name": lambda s: SessionState.of(s, "x" * 999),
    "state before it existed": lambda s: SessionState.of(s, "b", at_position=1),
    "state before the epoch": lambda s: SessionState.of(s, "s", at_time=-1),
}


@pytest.mark.parametrize("call", NOT_FOUND)
def test_an_unknown_session_is_not_found(busy, call):
    """Whatever is asked of a session that does not exist: SessionNotFound, which names it."""
    before = busy.head()
    with pytest.raises(SessionNotFound):
        NOT_FOUND[call](busy)
    assert busy.head() == before


BAD_READS = {
    "a position beyond": lambda s: s.event(99),
    "a position below 0": lambda s: s.event(-1),
    "an endless position": lambda s: s.event(1 << 80),
    "an unknown type": lambda s: s.all(types=["Nothing"]) and list(s.all(types=["Nothing"])),
    "a limit below 0": lambda s: s.events("s", limit=-1),
    "a time without a zone": lambda s: s.position_at(datetime(2026, 1, 1)),  # noqa: DTZ001 - the point
    "a state in the future": lambda s: SessionState.of(s, "s", at_version=99),
    "a state below 0": lambda s: SessionState.of(s, "s", at_version=-1),
    "two moments": lambda s: SessionState.of(s, "s", at_version=1, at_position=1),
}


@pytest.mark.parametrize("call", BAD_READS)
def test_reading_what_is_not_there(busy, call):
    """A moment or place that does not exist is InvalidEvent, on disk as in memory."""
    with pytest.raises(InvalidEvent):
        BAD_READS[call](busy)


def test_reading_from_beyond_the_ends(busy):
    """Readers that start before the first or after the last event give what there is."""
    whole = [each.position for each in busy.all()]
    assert whole == [each.position for each in busy.all(-5)]
    assert [each.position for each in busy.subscribe(-5, follow=False)] == whole
    for far in (len(whole), 1 << 40, 1 << 80):
        assert not list(busy.all(far)) and not list(busy.subscribe(far, follow=False))
        assert not list(busy.events("s", far))
    assert [each.version for each in busy.events("s", -9, 1 << 80)] == [0, 1, 2, 3]


def test_over_the_limits_of_size(busy):
    """An event or append that is too large names its size and the limit, both in bytes."""
    before = busy.head()
    with pytest.raises(EventTooLarge) as event:
        busy.append("s", {"content": "x" * (8 << 20)})
    with pytest.raises(EventTooLarge) as whole:
        busy.append("s", [{"content": "x" * (7 << 20)}] * 10)
    assert event.value.size > event.value.limit == 8 << 20
    assert whole.value.size > whole.value.limit == 64 << 20
    assert busy.head() == before
    busy.append("s", {"content": "x" * (7 << 20)})
    assert len(SessionState.of(busy, "s").messages[-1].content) == 7 << 20


def test_errors_of_the_commands_carry_their_numbers(busy):
    """Each error says in its attributes what a caller needs to act on it."""
    with pytest.raises(VersionConflict) as conflict:
        busy.append("s", HELLO, expected=1)
    assert (conflict.value.session, conflict.value.expected, conflict.value.actual) == ("s", 1, 3)
    with pytest.raises(VersionConflict):
        busy.update_metadata("s", {"k": 2}, expected=NO_STREAM)
    with pytest.raises(SessionExists):
        busy.create("s")
    with pytest.raises(SessionExists):
        busy.branch("s", "b")
    busy.append("s", HELLO, key="k")
    with pytest.raises(KeyReused) as reused:
        busy.append("s", {**HELLO, "content": "other"}, key="k")
    assert reused.value.key == "k"
    busy.update_metadata("s", {"k": 2})
    busy.update_metadata("b", {"k": 3})
    with pytest.raises(MergeConflict) as merge:
        busy.merge("b", into="s")
    assert merge.value.paths == ["metadata.k"]


def test_a_session_that_is_over(busy):
    """Closed sessions take no messages, deleted ones nothing at all."""
    busy.close("s")
    with pytest.raises(SessionClosed, match="is closed; reopen it first") as closed:
        busy.append("s", HELLO)
    assert (closed.value.session, closed.value.status) == ("s", "closed")
    busy.archive("s")
    with pytest.raises(SessionClosed, match="is archived"):
        busy.append("s", HELLO)
    busy.reopen("s")
    busy.delete("s")
    for call in (
        lambda: busy.append("s", HELLO),
        lambda: busy.undo("s"),
        lambda: busy.branch("s"),
        lambda: busy.merge("b", into="s"),
        lambda: SessionState.of(busy, "s"),
    ):
        with pytest.raises(SessionDeleted):
            call()
    assert len(SessionState.of(busy, "s", at_version=3).messages) == 3
    busy.append("b", HELLO)


def test_a_session_expires_by_the_clock():
    """After its time to live a session takes nothing but a longer life."""
    now = [10**18]
    store = EventStore.in_memory(clock=lambda: now[0])
    store.create("s", ttl=1.5)
    now[0] += 1_499_999_999
    store.append("s", HELLO)
    now[0] += 1
    with pytest.raises(SessionExpired) as expired:
        store.append("s", HELLO)
    assert expired.value.expired_at == 10**18 + 1_500_000_000
    store.extend_ttl("s", 1)
    store.append("s", HELLO)
    assert len(SessionState.of(store, "s").messages) == 2


def test_branches_have_a_depth_limit(store):
    """A branch of a branch, and so on, ends at the limit; the error names both numbers."""
    store.create("b0")
    for depth in range(10):
        store.branch(f"b{depth}", f"b{depth + 1}")
    with pytest.raises(DepthExceeded) as deep:
        store.branch("b10", "b11")
    assert (deep.value.depth, deep.value.limit) == (11, 10)


def test_every_error_is_one_of_the_tree():
    """Every class of errors.py descends from EventStoreError, and the drawing names it."""
    kinds = [each for each in vars(errors).values() if isinstance(each, type)]
    for kind in kinds:
        assert issubclass(kind, errors.EventStoreError)
        assert kind.__name__ in errors.__doc__


# -- places that are no store ----------------------------------------------------------------


def marker(path: Path) -> dict[str, object]:
    """Return what a store says of itself."""
    return json.loads((path / MARKER).read_text())


def test_a_store_of_a_newer_format_is_refused(tmp_path):
    """A newer format is named with both numbers before any of its bytes are opened."""
    EventStore.open(tmp_path / "h").close()
    newer = {**marker(tmp_path / "h"), "format": FORMAT + 1}
    (tmp_path / "h" / MARKER).write_text(json.dumps(newer))
    (tmp_path / "h" / LOG / "data.mdb").write_bytes(b"something new")
    with pytest.raises(FormatTooNew) as refused:
        EventStore.open(tmp_path / "h")
    assert (refused.value.found, refused.value.known) == (FORMAT + 1, FORMAT)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "x"}', '{"format": null}', "\0"])
def test_a_broken_marker_is_named(tmp_path, text):
    """A marker that says nothing is StoreUnavailable, which names the file."""
    EventStore.open(tmp_path / "h").close()
    (tmp_path / "h" / MARKER).write_text(text)
    with pytest.raises(StoreUnavailable, match=MARKER):
        EventStore.open(tmp_path / "h")


def test_a_directory_that_is_no_store_is_left_alone(tmp_path):
    """Where other files live no store is made, and nothing is touched."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreUnavailable, match="other files"):
        EventStore.open(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("place", ["file", "file/below", "\0", "file/deep/below"])
def test_a_place_that_can_t_be_a_store(tmp_path, place, read_only):
    """A file, a path below a file, no path at all: StoreUnavailable, nothing made."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreUnavailable):
        EventStore.open(tmp_path / place, read_only=read_only)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_reading_only_makes_nothing(tmp_path):
    """Opening what does not exist read-only is an error and makes no directory."""
    with pytest.raises(StoreUnavailable, match="no event store"):
        EventStore.open(tmp_path / "h", read_only=True)
    assert not list(tmp_path.iterdir())


def test_a_read_only_store_takes_no_commands(tmp_path):
    """Read-only, everything can be read and nothing written."""
    with EventStore.open(tmp_path / "h") as store:
        store.create("s")
    with EventStore.open(tmp_path / "h", read_only=True) as store:
        assert store.version("s") == 0 and SessionState.of(store, "s").version == 0
        for call in (
            lambda: store.append("s", HELLO),
            store.create,
            lambda: store.prune("s", keep_last=0),
            store.train_dictionary,
        ):
            with pytest.raises(StoreUnavailable, match="read-only"):
                call()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_is_named(tmp_path):
    """A directory that may not be written is StoreUnavailable with the system's reason."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(StoreUnavailable, match="ermission"):
        EventStore.open(closed / "h")


@pytest.mark.parametrize("damage", ["missing", "empty", "garbage", "no directory"])
def test_a_log_that_is_gone_is_named(tmp_path, damage):
    """A marker without its log is one clear error; the log is not made anew."""
    EventStore.open(tmp_path / "h").close()
    file = tmp_path / "h" / LOG / "data.mdb"
    file.unlink()
    if damage == "empty":
        file.touch()
    elif damage == "garbage":
        file.write_bytes(b"no database " * 10_000)
    elif damage == "no directory":
        (file.parent / "lock.mdb").unlink()
        file.parent.rmdir()
    for read_only in (False, True):
        with pytest.raises(errors.EventStoreError):
            EventStore.open(tmp_path / "h", read_only=read_only)


@pytest.mark.parametrize("damage", ["a file", "garbage", "gone"])
def test_broken_snapshots_cost_only_time(tmp_path, damage):
    """Snapshots are a cache: without them, or with rubbish in their place, the store works."""
    with EventStore.open(tmp_path / "h") as store:
        store.create("s", metadata={"k": 1})
        store.append("s", [HELLO] * 600)
        store.update_metadata("s", {"k": 2})
    place = tmp_path / "h" / SNAPSHOTS
    for each in place.iterdir():
        each.write_bytes(b"rubbish" * 5_000) if damage == "garbage" else each.unlink()
    if damage != "garbage":
        place.rmdir()
    if damage == "a file":
        place.write_text("in the way")
    with EventStore.open(tmp_path / "h") as store:
        if damage != "gone":
            assert isinstance(store.headers._snapshots, MemorySnapshots)
        state = SessionState.of(store, "s")
        assert (len(state.messages), state.metadata) == (600, {"k": 2})
        store.append("s", HELLO)


# -- no room ---------------------------------------------------------------------------------


def test_a_full_map_can_be_read_and_made_larger(tmp_path):
    """A map that is full is StoreFull; what was written reads on, and goes on in a larger map."""
    written = 0
    with EventStore.open(tmp_path / "h", map_size=1 << 20) as store:
        store.create("s")
        with suppress(StoreFull):
            while written < 100:
                store.append("s", {"content": os.urandom(20_000).hex(), "n": written})
                written += 1
        with pytest.raises(StoreFull, match="larger"):
            store.append("s", {"content": os.urandom(200_000).hex()})
        assert 0 < written < 100 and store.version("s") == written
        numbers = [each.fields["n"] for each in SessionState.of(store, "s").messages]
        assert numbers == list(range(written))
    with EventStore.open(tmp_path / "h") as store:
        store.append("s", {"content": os.urandom(200_000).hex()})
        assert store.version("s") == written + 1


FULL_DISK = """
import os, resource, sys
from eventstore import EventStore, StoreFull

path, room = sys.argv[1], int(sys.argv[2])
noise = [os.urandom(3_000).hex() for _ in range(40)]
with EventStore.open(path) as store:
    store.create("s")
    store.append("s", [{"content": "before"}] * 300)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    used = os.path.getsize(os.path.join(path, "log", "data.mdb"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (used + room, hard))
    written, refused = store.version("s"), 0
    for number, text in enumerate(noise):
        try:
            written = store.append("s", {"content": text, "n": number}).version
        except StoreFull:
            refused += 1
    assert refused, "the limit was never met"
    assert [each.version for each in store.events("s")] == list(range(written + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.append("s", {"content": "after"}).version == written + 1
    print(written + 1)
"""


@pytest.mark.parametrize("room", [-20_000, 0, 4_096, 9_000, 50_000, 120_001])
def test_a_full_disk_loses_nothing(tmp_path, room):
    """When the file may not grow, writes fail clearly; reads, and later writes, go on."""
    path = tmp_path / "h"
    command = [sys.executable, "-c", FULL_DISK, str(path), str(room)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    with EventStore.open(path) as store:
        assert store.version("s") == int(done.stdout)
        assert SessionState.of(store, "s").messages[-1].content == "after"
        assert [each.position for each in store.all()] == list(range(store.head().size))
