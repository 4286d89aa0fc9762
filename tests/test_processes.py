"""Several processes: they share one store and lose nothing, and forks are told to open anew."""

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Callable

import pytest
from callers import SECONDS_MAX, check_whole, in_threads, message, started

from eventstore import EventStore, StoreUnavailable
from eventstore.audit.verify import verify
from projections.session import SessionState

# -- several processes -----------------------------------------------------------------------

WORKER = """
import sys
from eventstore import EventStore, VersionConflict

path, caller, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with EventStore.open(path) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(count):
        line = {"content": "x" * (number % 50), "by": [caller, number]}
        session = ("shared", f"own{caller}")[number % 2]
        print(store.append(session, line).position)
        if number % 10 == 0:
            store.append("keys", {"content": "k", "by": [0, number]}, key=f"k{number}")
            store.prune("shared", keep_last=10)
            store.rewind("shared", store.version("shared"))
"""


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_one_store(tmp_path, processes):
    """Several processes on one store: dense positions, order per caller, one event per key."""
    with EventStore.open(tmp_path / "h") as store:
        for name in ("shared", "keys", *(f"own{index}" for index in range(processes))):
            store.create(name)
        children = [started(tmp_path / "h", WORKER, i, 40) for i in range(processes)]
        for child in children:
            assert child.stdout.readline() == "ready\n", child.stderr.read()
        for child in children:
            child.stdin.write("go\n")
            child.stdin.flush()
        followed = store.subscribe()
        receipts = [
            [int(line) for line in child.communicate(timeout=60)[0].split()] for child in children
        ]
        assert [child.returncode for child in children] == [0] * processes
        assert all(own == sorted(own) and len(own) == 40 for own in receipts)
        numbers = range(40)
        said = {f"own{i}": Counter((i, n) for n in numbers if n % 2) for i in range(processes)}
        said["shared"] = Counter((i, n) for i in range(processes) for n in numbers if not n % 2)
        said["keys"] = Counter((0, n) for n in numbers if n % 10 == 0)
        check_whole(store, said)
        seen = []
        for recorded in followed:
            seen.append(recorded.position)
            if len(seen) == store.head().size:
                followed.close()
        assert seen == list(range(len(seen)))


CREATORS = """
import sys
from eventstore import EventStore

sys.stdin.readline()
with EventStore.open(sys.argv[1]) as store:
    print(store.id, store.create().version)
"""


def test_processes_may_create_one_store_at_once(tmp_path):
    """Processes that all open a store which does not exist yet end up in the same one."""
    children = [started(tmp_path / "h", CREATORS) for _ in range(4)]
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    said = [child.communicate(timeout=SECONDS_MAX) for child in children]
    assert [child.returncode for child in children] == [0] * 4, said
    assert len({out for out, _ in said}) == 1
    with EventStore.open(tmp_path / "h") as store:
        assert len(list(store.sessions())) == 4
    assert [each.name for each in tmp_path.iterdir()] == ["h"]


# -- forks -----------------------------------------------------------------------------------


def forked(act: Callable[[], None]) -> int:
    """Run `act` in a forked child; return its exit code, 0 where it raised nothing."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("durability", ["sync", "buffered"])
def test_a_forked_child_is_told_to_open_anew(tmp_path, durability):
    """The parent's store refuses all work in a child, at once and clearly; the parent goes on."""
    with EventStore.open(tmp_path / "h", durability=durability) as store:
        store.create("s")
        asyncio.run(store.aio.append("s", message(0, 0)))
        calls = (
            lambda: store.append("s", message(0, 1)),
            store.create,
            lambda: store.prune("s", keep_last=0),
            lambda: store.version("s"),
            lambda: list(store.all()),
            store.head,
            lambda: SessionState.of(store, "s"),
            lambda: asyncio.run(store.aio.append("s", message(0, 1))),
        )
        for call in calls:

            def refused(call: Callable[[], object] = call) -> None:
                with pytest.raises(StoreUnavailable, match="fork"):
                    call()

            assert forked(refused) == 0
        assert forked(store.close) == 0
        assert store.append("s", message(0, 2)).version == 2


def test_a_fork_in_the_middle_of_work(tmp_path):
    """Forked while threads write, a child is refused instead of waiting for their locks."""
    with EventStore.open(tmp_path / "h") as store:
        store.create("s")
        done = threading.Event()

        def write(index: int) -> None:
            number = 0
            while not done.is_set():
                store.append("s", message(index, number))
                number += 1

        def refused() -> None:
            for call in (store.create, lambda: store.append("s", {}), lambda: store.version("s")):
                with pytest.raises(StoreUnavailable, match="fork"):
                    call()

        def fork() -> list[int]:
            try:
                return [forked(refused) for _ in range(10)]
            finally:
                done.set()

        codes = in_threads([fork, *(lambda index=index: write(index) for index in range(3))])[0]
        assert codes == [0] * 10
        assert verify(store).findings == []


def test_a_forked_child_is_told_that_it_can_t_share(tmp_path):
    """A child can't open what its parent has open, and hears why; other stores it can."""
    with EventStore.open(tmp_path / "h") as store:
        store.create("s")

        def work() -> None:
            with pytest.raises(StoreUnavailable, match="forked"):
                EventStore.open(tmp_path / "h")
            with EventStore.open(tmp_path / "other") as own:
                own.create("s")
                own.append("s", message(1, 0))

        assert forked(work) == 0
        assert store.append("s", message(0, 0)).version == 1
        with EventStore.open(tmp_path / "other") as other:
            assert other.version("s") == 1


FORKER = """
import os, sys
from eventstore import EventStore

store = EventStore.open(sys.argv[1])
store.create("s")
for number in range(5):
    if os.fork() == 0:
        if number % 2:
            store.close()
        sys.exit(0)  # unlike os._exit, this takes all objects down
    assert os.wait()[1] == 0
    assert store.version("s") == number
    assert store.append("s", {"n": number}).version == number + 1
    assert len(list(store.events("s"))) == number + 2
print("sound")
"""


def test_a_child_that_ends_leaves_its_parent_alone(tmp_path):
    """Children that end in the ordinary way, objects freed, take nothing from the parent."""
    child = started(tmp_path / "h", FORKER)
    assert child.communicate(timeout=SECONDS_MAX) == ("sound\n", "")
