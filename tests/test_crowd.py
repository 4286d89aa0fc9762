"""Crowds: more callers than threads should be, fair turns, and nobody who fills the memory.

What many callers write and in which order is test_concurrency.py's; here it is how long they wait,
and what waits for them.
"""

import asyncio
import subprocess
import sys
import threading
from collections import Counter
from math import ceil

import pytest

from eventstore import EventStore
from eventstore.audit.verify import verify
from eventstore.engine.room import Room
from eventstore.engine.writer import TICKET_BYTES, Writer
from eventstore.limits import BATCH_APPENDS_MAX, QUEUE_BYTES_MAX

SECONDS_MAX = 60
COMMITS_MAX = 100
"""Nobody waits for more of them."""


def line(caller: int, number: int) -> dict[str, object]:
    """Return a message that says whose it is."""
    return {"role": "user", "content": f"line {number}", "by": [caller, number]}


class Counted:
    """A store whose commits are counted, and for each append how many it waited for its own."""

    def __init__(self, store: EventStore) -> None:
        self.store, self.commits = store, 0
        self.waits: list[int] = []
        self._asked: dict[str | None, int] = {}
        self._commit = store.log.commit
        store.log.commit = self._counted

    def _counted(self, appends, now) -> list:
        outcomes = self._commit(appends, now)
        self.commits += 1
        asked = [self._asked.pop(each.correlation_id, self.commits) for each in appends]
        self.waits += [self.commits - before for before in asked]
        return outcomes

    def append(self, caller: int, number: int) -> None:
        self._asked[name := f"{caller}-{number}"] = self.commits
        self.store.append("s", line(caller, number), correlation_id=name)

    async def append_async(self, caller: int, number: int) -> None:
        self._asked[name := f"{caller}-{number}"] = self.commits
        await self.store.aio.append("s", line(caller, number), correlation_id=name)


def check_all(store: EventStore, callers: int, each: int) -> None:
    """Assert that every line of every caller is there once."""
    said = Counter(
        tuple(found.event.message.fields["by"])
        for found in store.events("s")
        if found.type == "MessageAppended"
    )
    assert said == Counter((caller, n) for caller in range(callers) for n in range(each))


def test_a_thousand_threads_wait_for_few_commits(disk):
    """1,000 threads at once: all are served, and none waits for more than 100 commits."""
    disk.create("s")
    counted = Counted(disk)
    start = threading.Barrier(1_000)

    def caller(index: int) -> None:
        start.wait(SECONDS_MAX)
        counted.append(index, 0)

    threads = [threading.Thread(target=caller, args=(index,)) for index in range(1_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS_MAX)
    check_all(disk, 1_000, 1)
    assert max(counted.waits) <= COMMITS_MAX
    assert verify(disk).sound


def test_a_thousand_tasks_wait_for_few_commits(disk):
    """1,200 tasks that queue while the disk is slow share commits: none waits for many of them."""
    disk.create("s")
    counted = Counted(disk)

    async def everybody() -> None:
        go_on = stall(disk)
        tasks = [asyncio.create_task(counted.append_async(index, 0)) for index in range(1_200)]
        await until(lambda: len(disk.engine.writer._queue) == 1_200)
        go_on.set()
        await asyncio.gather(*tasks)

    asyncio.run(everybody())
    check_all(disk, 1_200, 1)
    assert max(counted.waits) <= counted.commits == ceil(1_200 / BATCH_APPENDS_MAX)


def test_a_decision_is_not_starved_by_a_crowd(disk):
    """A command that reads state waits for few commits while 50 threads append on and on."""
    disk.create("s")
    disk.create("other")
    counted = Counted(disk)
    done = threading.Event()

    def crowd(index: int) -> None:
        for number in range(10_000):
            if done.is_set():
                return
            counted.append(index, number)

    threads = [threading.Thread(target=crowd, args=(index,)) for index in range(50)]
    for thread in threads:
        thread.start()
    waits = []
    for number in range(10):
        before = counted.commits
        disk.rewind("other", number)
        waits.append(counted.commits - before)
    done.set()
    for thread in threads:
        thread.join(SECONDS_MAX)
    assert max(waits) <= COMMITS_MAX


WRITER = """
import sys
from eventstore import EventStore
with EventStore.open(sys.argv[1]) as store:
    for number in range(5):
        store.append("s", {"role": "user", "content": "x", "by": [int(sys.argv[2]), number]})
"""


def test_eight_processes_write_what_one_would(disk):
    """Eight processes at once on one session: every line once, in its writer's order, sound."""
    disk.create("s")
    command = [sys.executable, "-c", WRITER, str(disk.path)]
    children = [subprocess.Popen([*command, str(index)]) for index in range(8)]
    assert [child.wait(SECONDS_MAX) for child in children] == [0] * 8
    check_all(disk, 8, 5)
    said = [found.event.message.fields["by"] for found in disk.events("s", 1)]
    for caller in range(8):
        assert [number for by, number in said if by == caller] == list(range(5))
    assert verify(disk).sound


# -- bounded queues --------------------------------------------------------------------------


async def until(told) -> None:
    """Let other tasks run until something is so."""
    while not told():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0.001)


def stall(store: EventStore) -> threading.Event:
    """Have the log stand still, as a slow disk does, until the event that is returned is set."""
    go_on, begun = threading.Event(), threading.Event()

    def lead() -> None:
        with store.engine.writer.exclusive():
            begun.set()
            go_on.wait(SECONDS_MAX)

    threading.Thread(target=lead).start()
    assert begun.wait(SECONDS_MAX)
    return go_on


def test_a_producer_faster_than_the_disk_waits(disk):
    """While nothing is committed, what is queued stays below the limit; then all of it lands."""
    disk.create("s")
    text = "x" * (1 << 20)
    count = 2 * QUEUE_BYTES_MAX // (1 << 20)
    disk.log.codec.current = 0  # uncompressed, so that an append weighs what it says

    async def produce() -> int:
        go_on = stall(disk)
        tasks = [asyncio.create_task(disk.aio.append("s", {"content": text})) for _ in range(count)]
        writer: Writer = disk.engine.writer
        await until(lambda: writer._room._waiting)
        queued = sum(ticket.weight for ticket in writer._queue)
        go_on.set()
        await asyncio.gather(*tasks)
        return queued

    queued = asyncio.run(produce())
    assert QUEUE_BYTES_MAX / 2 < queued <= QUEUE_BYTES_MAX
    assert disk.version("s") == count


def test_threads_wait_for_room_in_the_order_they_came(disk):
    """Callers that block are let in as room is given back, and every one of them is served."""
    disk.create("s")
    go_on = stall(disk)
    writer = disk.engine.writer
    writer._room = Room(10 * TICKET_BYTES)
    threads = [
        threading.Thread(target=disk.append, args=("s", line(index, 0))) for index in range(60)
    ]
    for thread in threads:
        thread.start()
    while len(writer._queue) < 5:
        threading.Event().wait(0.001)
    assert sum(ticket.weight for ticket in writer._queue) <= 10 * TICKET_BYTES
    go_on.set()
    for thread in threads:
        thread.join(SECONDS_MAX)
    check_all(disk, 60, 1)


def test_room_is_given_in_the_order_it_was_asked_for():
    """A light one never overtakes a heavy one that came before it; one alone may be too heavy."""
    room, entered = Room(10), []

    async def visit(name: str, weight: int) -> None:
        await room.enter_async(name, weight)
        entered.append(name)

    async def story() -> None:
        await room.enter_async("first", 25)  # alone, and over the limit
        tasks = [asyncio.create_task(visit(*each)) for each in [("a", 9), ("b", 2), ("c", 1)]]
        await asyncio.sleep(0)
        assert entered == []
        room.leave(["first"])
        await asyncio.sleep(0.01)
        assert entered == ["a"]
        tasks[1].cancel()
        await asyncio.gather(tasks[1], return_exceptions=True)
        room.leave(["a"])
        await asyncio.gather(tasks[0], tasks[2])
        assert entered == ["a", "c"]

    asyncio.run(story())


# -- subscribers -----------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_slow_subscriber_holds_up_nobody(disk, asynchronous):
    """One that never reads on costs no writer anything and keeps no more than one page."""
    disk.create("s")
    disk.append("s", [line(0, number) for number in range(2_500)])
    size = disk.head().size

    async def slow() -> int:
        subscription = disk.aio.subscribe()
        await anext(subscription)
        return write()

    def write() -> int:
        for number in range(200):
            disk.append("s", line(1, number))
        return disk.head().size - size

    if asynchronous:
        assert asyncio.run(slow()) == 200
        return
    with disk.subscribe() as subscription:
        assert next(subscription).position == 0
        assert write() == 200
        rest = [next(subscription).position for _ in range(size + 199)]
    assert rest == list(range(1, size + 200))
