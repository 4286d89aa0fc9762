"""Many callers at once: threads and tasks lose nothing, double nothing, keep order."""

import asyncio
import threading
import time
from collections import Counter, defaultdict
from contextlib import suppress
from itertools import count

import pytest
from callers import check_whole, in_threads, message

from eventstore import (
    EventStore,
    EventStoreError,
    InvalidEvent,
    SessionDeleted,
    StoreFull,
    StoreUnavailable,
    VersionConflict,
)
from eventstore.audit.verify import verify
from eventstore.state.lineage import Headers
from eventstore.state.snapshots import MemorySnapshots
from projections.session import SessionState

# -- one process -----------------------------------------------------------------------------


@pytest.mark.parametrize("sessions", [2, 40])
def test_64_threads_lose_nothing(store, sessions):
    """64 threads on few or many sessions: every append once, in its caller's order."""
    names = [f"s{index}" for index in range(sessions)]
    for name in names:
        store.create(name)

    def caller(index: int) -> list[object]:
        own = [names[(index + number) % sessions] for number in range(12)]
        return [store.append(own[number], message(index, number)) for number in range(12)]

    receipts = in_threads([lambda index=index: caller(index) for index in range(64)])
    positions = [receipt.position for own in receipts for receipt in own]
    assert len(set(positions)) == 64 * 12
    said: dict[str, Counter] = defaultdict(Counter)
    for index in range(64):
        for number in range(12):
            said[names[(index + number) % sessions]][index, number] += 1
    check_whole(store, said)


def test_500_tasks_share_commits(store):
    """500 asyncio tasks: every append once, in its task's order, and each receipt its own."""
    names = [f"s{index}" for index in range(5)]

    async def caller(index: int) -> list[int]:
        receipts = [
            await store.aio.append(names[index % 5], message(index, number)) for number in range(4)
        ]
        return [receipt.position for receipt in receipts]

    async def everybody() -> list[list[int]]:
        await asyncio.gather(*(store.aio.create(name) for name in names))
        return await asyncio.gather(*(caller(index) for index in range(500)))

    found = asyncio.run(everybody())
    assert all(own == sorted(own) for own in found)
    assert len({position for own in found for position in own}) == 2_000
    said = {
        names[s]: Counter((index, n) for index in range(s, 500, 5) for n in range(4))
        for s in range(5)
    }
    check_whole(store, said)


def test_threads_tasks_and_decisions_together(store):
    """Appends of threads and tasks, with prunes, merges and undos between them, all land."""
    store.create("main")
    store.branch("main", "side")

    def thread(index: int) -> None:
        for number in range(15):
            store.append(("main", "side")[number % 2], message(index, number))

    async def task(index: int) -> None:
        for number in range(5):
            await store.aio.append("side", message(index, number))

    async def tasks() -> None:
        await asyncio.gather(*(task(100 + index) for index in range(40)))

    def decide() -> None:
        for number in range(8):
            store.prune("main", keep_last=20)
            store.merge("side", into="main")
            store.update_metadata("main", {"merged": number})
            store.undo("side")

    jobs = [lambda index=index: thread(index) for index in range(8)]
    in_threads([*jobs, lambda: asyncio.run(tasks()), decide])
    both = Counter((index, number) for index in range(8) for number in range(15))
    said = {
        "main": Counter({each: 1 for each in both if each[1] % 2 == 0}),
        "side": Counter({each: 1 for each in both if each[1] % 2 == 1}),
    }
    said["side"].update((100 + index, number) for index in range(40) for number in range(5))
    check_whole(store, said)
    for name in ("main", "side"):
        fresh = Headers(store.log, MemorySnapshots())
        assert store.headers.now(name) == fresh.at(name, store.version(name))


def test_an_expected_version_lets_one_through(store):
    """Of many callers that expect the same version exactly one is written, each time."""
    store.create("s")

    def caller(index: int) -> int:
        wins = 0
        for version in range(10):
            with suppress(VersionConflict):
                store.append("s", message(index, version), expected=version)
                wins += 1
        return wins

    wins = in_threads([lambda index=index: caller(index) for index in range(16)])
    assert sum(wins) == store.version("s") <= 10
    assert [each.version for each in store.events("s")] == list(range(sum(wins) + 1))


COMMANDS = {
    "append": lambda s, key: s.append("main", {"content": "once"}, key=key),
    "summarize": lambda s, key: s.summarize("main", "short", upto="main#2", key=key),
    "prune": lambda s, key: s.prune("main", messages=["main#1"], key=key),
    "merge": lambda s, key: s.merge("side", into="main", key=key),
    "branch": lambda s, key: s.branch("main", "new", key=key),
    "create": lambda s, key: s.create(key=key),
    "delete": lambda s, key: s.delete("side", key=key),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_one_key_at_the_same_time_is_one_event(store, command):
    """Callers that repeat a command with one key at once: one writes, all get its receipt."""
    store.create("main")
    store.append("main", [{"content": "one"}, {"content": "two"}])
    store.branch("main", "side")
    before = store.head().size
    receipts = in_threads([lambda: COMMANDS[command](store, "k")] * 8)
    assert len({receipt.position for receipt in receipts}) == 1
    assert [receipt.duplicate for receipt in receipts].count(False) == 1
    assert store.head().size - before == (2 if command == "merge" else 1)


def test_decisions_get_their_turn(store):
    """A command that reads state is served while others append without a pause."""
    store.create("busy")
    store.create("s", metadata={"n": 0})
    done = threading.Event()

    def appender(index: int) -> bool:
        for number in range(5_000):
            if done.is_set():
                return True
            store.append("busy", message(index, number))
        return False

    def decide() -> bool:
        try:
            for number in range(20):
                store.rewind("s", number)
        finally:
            done.set()
        return True

    appenders = [lambda index=index: appender(index) for index in range(6)]
    assert all(in_threads([*appenders, decide]))
    assert store.version("s") == 20


def test_readers_see_whole_appends_only(store):
    """While others write, a reader sees the log up to some append: no gap and nothing half."""
    store.create("s")
    done = threading.Event()

    def write() -> None:
        try:
            for number in range(60):
                store.append("s", [message(0, number * 3 + part) for part in range(3)])
        finally:
            done.set()

    def read() -> None:
        seen = 0
        while not done.is_set() or seen < 181:
            positions = [each.position for each in store.all()]
            assert positions == list(range(len(positions))) and len(positions) % 3 == 1
            assert len(positions) >= seen
            seen = len(positions)
            state = SessionState.of(store, "s")
            assert [m.fields["by"][1] for m in state.messages] == list(range(len(state.messages)))
            assert len(state.messages) % 3 == 0 and len(state.messages) >= seen - 1

    in_threads([write, read, read])


def test_closing_while_others_write(tmp_path):
    """Callers that a close() catches get a clear error; whatever was acknowledged is there."""
    store = EventStore.open(tmp_path / "h")
    store.create("s")
    begun = threading.Barrier(11)

    def caller(index: int) -> set[tuple[int, int]]:
        acknowledged = set()

        def append_for_ever() -> None:
            for number in count():
                store.append("s", message(index, number))
                acknowledged.add((index, number))

        begun.wait()
        with pytest.raises(StoreUnavailable, match="closed"):
            append_for_ever()
        return acknowledged

    def close() -> set[tuple[int, int]]:
        begun.wait()
        while store.version("s") < 50:
            continue
        store.close()
        return set()

    def read() -> set[tuple[int, int]]:

        def read_for_ever() -> None:
            while store.exists("s"):
                assert len(SessionState.of(store, "s").messages[-5:]) <= len(list(store.all()))

        begun.wait()
        with pytest.raises(StoreUnavailable, match="closed"):
            read_for_ever()
        return set()

    jobs = [lambda index=index: caller(index) for index in range(8)]
    acknowledged = set().union(*in_threads([*jobs, close, read, read]))
    with EventStore.open(tmp_path / "h") as again:
        found = [tuple(m.fields["by"]) for m in SessionState.of(again, "s").messages]
        assert acknowledged <= set(found) and len(found) == len(set(found))


def test_an_interrupt_as_the_lead_is_taken_gives_it_up(store, monkeypatch):
    """Ctrl-C may come before a caller could note that it leads: others still get their turn."""
    store.create("a")
    writer = store.engine.writer
    lead = writer._lead

    class Interrupted:
        """The lead, with an interrupt as soon as it is taken."""

        release, check_free = lead.release, lead.check_free

        def acquire(self, *, blocking: bool) -> bool:
            assert lead.acquire(blocking=blocking)
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(writer, "_lead", Interrupted())
        with pytest.raises(KeyboardInterrupt):
            store.append("a", {"content": "interrupted"})
    other = threading.Thread(target=store.append, args=("a", {"content": "next"}), daemon=True)
    other.start()
    other.join(10)
    assert not other.is_alive() and store.version("a") == 1


def test_a_cancelled_task_leaves_a_sound_store(store):
    """A cancelled caller stops waiting; its append lands whole or not at all; others go on."""

    async def story() -> None:
        await store.aio.create("s")
        tasks = [asyncio.create_task(store.aio.append("s", message(0, n))) for n in range(50)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes[1::2]:
            assert outcome.session == "s"
        await store.aio.append("s", message(1, 0))
        prune = asyncio.create_task(store.aio.prune("s", keep_last=1))
        await asyncio.sleep(0)
        prune.cancel()
        await asyncio.gather(prune, return_exceptions=True)
        await store.aio.append("s", message(1, 1))

    asyncio.run(story())
    found = [e.event.message.fields["by"] for e in store.events("s") if e.type == "MessageAppended"]
    assert {number for by, number in found if by == 0} >= set(range(1, 50, 2))
    assert len(found) == len({tuple(each) for each in found}) and found[-1] == [1, 1]
    assert verify(store).findings == []


def test_nothing_lands_after_a_deletion(store):
    """Appends that race with a deletion come before it or are refused, never behind it."""
    for number in range(10):
        name = f"s{number}"
        store.create(name)
        go = threading.Event()

        def say(name: str = name, go: threading.Event = go) -> None:
            go.wait()
            with suppress(SessionDeleted):
                for index in range(20):
                    store.append(name, message(0, index))

        def drop(name: str = name, go: threading.Event = go) -> None:
            go.set()
            store.delete(name)

        in_threads([say, say, say, drop])
        types = [recorded.type for recorded in store.events(name)]
        assert types.index("SessionDeleted") == len(types) - 1


def test_a_message_may_change_after_an_awaitable_call(store):
    """What `aio.append` was called with is what is stored, whatever becomes of the dict."""
    store.create("s")

    async def say() -> None:
        said = {"role": "user", "content": "0"}
        tasks = []
        for number in range(3):
            said["content"] = str(number)
            tasks.append(asyncio.create_task(store.aio.append("s", said)))
        said["content"] = float("nan")
        await asyncio.gather(*tasks)

    asyncio.run(say())
    shown = SessionState.of(store, "s").messages
    assert sorted(each.content for each in shown) == ["0", "1", "2"]


SAID = {"role": "user", "content": "a word"}
REFUSED = {
    "a message that is none": lambda aio: aio.append("s", "a text"),
    "one that can't be kept": lambda aio: aio.append("s", {"content": float("nan")}),
    "one too large": lambda aio: aio.append("s", {"content": "x" * (9 << 20)}),
    "a name": lambda aio: aio.create([]),
    "a session that is not there": lambda aio: aio.append("nobody", SAID),
    "a merge": lambda aio: aio.merge("s", into="s"),
    "a message of none": lambda aio: aio.redact("s", []),
    "a fact": lambda aio: aio.record_system([]),
    "a time to live": lambda aio: aio.extend_ttl("s", -1),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_refusal_is_raised_by_the_await(store, what):
    """Of calls made together one that is refused takes no other with it, whatever is wrong."""
    store.create("s")

    async def say() -> list[object]:
        calls = store.aio.append("s", SAID), REFUSED[what](store.aio), store.aio.append("s", SAID)
        return await asyncio.gather(*calls, return_exceptions=True)

    one, refusal, other = asyncio.run(say())
    assert sorted([one.version, other.version]) == [1, 2]
    assert isinstance(refusal, EventStoreError)
    assert store.version("s") == 2


def test_a_counter_that_fails_does_so_at_the_await():
    """What a caller's own token counter raises comes out of the await too."""
    with EventStore.in_memory(count_tokens=lambda said: 1 // len(said["content"])) as store:
        store.create("s")

        async def say() -> list[object]:
            calls = [store.aio.append("s", {"content": text}) for text in ("word", "", "word")]
            return await asyncio.gather(*calls, return_exceptions=True)

        one, failure, other = asyncio.run(say())
        assert sorted([one.version, other.version]) == [1, 2]
        assert isinstance(failure, ZeroDivisionError)


# -- durability="buffered" -------------------------------------------------------------------


def test_buffered_callers_read_what_they_wrote(tmp_path):
    """With early acknowledgement every read still sees what was acknowledged before it."""
    with EventStore.open(tmp_path / "h", durability="buffered") as store:

        def caller(index: int) -> None:
            name = f"s{index}"
            store.create(name)
            for number in range(15):
                receipt = store.append(name, message(index, number))
                assert store.version(name) == receipt.version == number + 1
                assert store.event(receipt.position).version == receipt.version
                assert len(SessionState.of(store, name).messages) == number + 1
                assert store.head().size >= receipt.tree_size
            with pytest.raises(VersionConflict):
                store.append(name, message(index, 99), expected=0)
            store.prune(name, keep_last=5)
            store.delete(name)
            with pytest.raises(Exception, match="deleted"):
                store.append(name, message(index, 99))

        in_threads([lambda index=index: caller(index) for index in range(8)])
    with EventStore.open(tmp_path / "h") as again:
        said = {f"s{i}": Counter((i, n) for n in range(15)) for i in range(8)}
        check_whole(again, said)


def test_buffered_keys_and_errors_are_those_of_sync(tmp_path):
    """Early acknowledgement changes no outcome: duplicates, conflicts and refusals are the same."""
    with EventStore.open(tmp_path / "h", durability="buffered") as store:
        store.create("s")
        first = store.append("s", message(0, 0), key="k")
        again = store.append("s", message(0, 0), key="k")
        assert again.duplicate and again.position == first.position
        store.close("s")
        with pytest.raises(InvalidEvent, match="closed"):
            store.append("s", message(0, 1))


def test_early_acknowledgements_that_are_lost_are_told_at_close(tmp_path, monkeypatch):
    """With buffered durability, closing says so when what was acknowledged is not on disk."""
    store = EventStore.open(tmp_path / "h", durability="buffered")
    store.create("s")
    group = store.log.group

    def refused(work):
        def full(stage):
            work(stage)
            raise StoreFull("no room")

        return group(full)

    monkeypatch.setattr(store.log, "group", refused)
    store.append("s", message(0, 0))
    with pytest.raises(StoreUnavailable, match="were lost"):
        store.close()


def test_who_came_after_what_was_lost_is_kept(tmp_path, monkeypatch):
    """An append that waits while a commit fails that it is no part of goes into the next one."""
    store = EventStore.open(tmp_path / "h", durability="buffered")
    store.create("s")
    store.flush()
    group, kept, begun = store.log.group, [], threading.Event()
    late = threading.Thread(target=lambda: kept.append(store.append("s", message(0, 1))))

    def refused(work):
        def full(stage):
            work(stage)
            monkeypatch.undo()
            late.start()
            begun.set()
            while not store.engine.writer._queue:
                time.sleep(0.001)
            raise StoreFull("no room")

        return group(full)

    monkeypatch.setattr(store.log, "group", refused)
    store.append("s", message(0, 0))
    assert begun.wait(60)
    late.join()
    assert [receipt.version for receipt in kept] == [1]
    with pytest.raises(StoreUnavailable, match="were lost"):
        store.close()
