"""sessions: what a session manager for chat bots promises, and what ours takes for the same.

The promises are those of the third system in the feature table (docs/features.md). Ours are
durable: create, add and the summary return after their fsync. What that costs alone, on the disk
and in the minute of the run, the limit says: one bare commit of LMDB. The 500 kB are that manager's
memory; what 1,000 messages take on the disk is shown beside it, and promised by nobody.
"""

import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import count, islice
from statistics import median
from time import perf_counter

from eventstore.sessions import SessionManager, Settings

from .data import Message
from .harness import Bench, Reach, Result, at_least, lanes_of
from .peers import Contender
from .race import Lane

PROMISES = {
    "create": (5.0, "ms"),
    "add message": (10.0, "ms"),
    "context": (20.0, "ms"),
    "cached lookup": (1.0, "ms"),
    "summary of 50": (100.0, "ms"),
    "memory of 1,000 messages": (500.0, "kB"),
}
TIMES = 10.0
"""How many times better than its promise each figure is to be."""

SESSIONS, SESSIONS_QUICK = 20, 4
"""Sessions that are added to and read in turn, of MESSAGES each."""

MESSAGES = 1_000
CALLS, CALLS_QUICK = 20, 10
SUMMARISED, SUMMARIES = 72, 3
"""Messages of a session of which the older 70 % are 50, and such sessions a round."""

STORED, STORED_QUICK = 100_000, 5_000
"""Messages whose bytes on disk are counted."""

SETTINGS = Settings(token_limit=None, summaries=False, cleanup=False)


def run(bench: Bench) -> Result:
    """Measure p50 within rounds of 20 calls, in a quick run of 10; sizes are taken once."""
    manager = SessionManager(bench.ours().store, SETTINGS)
    bench.at_end(manager.close)
    work = Work(bench, manager)
    result = bench.compare(
        [
            Lane("ours", "ours", work.create),
            Lane("add message", "figure", work.add),
            Lane("context", "figure", work.context),
            Lane("cached lookup", "figure", work.lookup),
            Lane("summary of 50", "figure", work.summary),
            *lanes_of(bench.others("append", only={"lmdb"}), work.bare),
        ],
        what="create a session, durably",
        unit="ms",
        better="lower",
        alone=True,
    )
    result.figures |= {
        "disk of 1,000 messages": disk(bench),
        "memory of 1,000 messages": memory(manager, list(work.long)),
    }
    found = {"create": result.ours, **result.figures}
    result.reach = [kept(name, found[name]) for name in PROMISES]
    result.figures |= {f"{name}, p95": value for name, value in work.slow().items()}
    result.note = (
        f"p50 in ms, sizes in kB, bounds are promise over ours; sessions of {MESSAGES:,} messages;"
        " context: the last 20, just after an append; summary: its append included; disk: one"
        f" message an append, {bench.data.message_bytes:.0f} B of JSON each, all in; memory: what a"
        " manager keeps of sessions it has just read; limit: one bare durable commit"
    )
    return result


def kept(name: str, value: float | None) -> Reach:
    """Return by how many times a figure is better than its promise."""
    promise, unit = PROMISES[name]
    times = promise / value if value else None
    return at_least(f"{name}: {TIMES:.0f}x better than {promise:g} {unit}", times, TIMES)


class Work:
    """What is timed, a round of calls each; `long` sessions have MESSAGES, and more to come."""

    def __init__(self, bench: Bench, manager: SessionManager) -> None:
        self._manager, self._calls = manager, bench.size(CALLS, CALLS_QUICK)
        self._number = count()
        self._times: dict[str, list[float]] = {}
        messages = bench.data.messages(MESSAGES)
        self.long = {
            self._filled(messages): islice(bench.data.stream(), MESSAGES, None)
            for _ in range(bench.size(SESSIONS, SESSIONS_QUICK))
        }
        self._short, self._bare = messages[:SUMMARISED], bench.data.stream()

    def create(self) -> float:
        """Create sessions with user, metadata and a limit."""
        given = ({"title": f"talk {number}", "type": "dm"} for number in self._taken())
        create = partial(self._manager.create, user="u7", max_messages=100)
        return self._p50("create", [partial(create, metadata=each) for each in given])

    def add(self) -> float:
        """Add a message to each of the long sessions in turn."""
        return self._p50("add message", self._turns())

    def context(self) -> float:
        """Build the context of sessions that were just added to."""
        for add in self._turns():
            add()
        build = self._manager.build_context
        return self._p50("context", [partial(build, each) for each in self._names()])

    def lookup(self) -> float:
        """Look up sessions that the cache knows."""
        names = self._names()
        for each in names:
            self._manager.get(each)
        return self._p50("cached lookup", [partial(self._manager.get, each) for each in names])

    def summary(self) -> float:
        """Summarise the older 50 messages of fresh sessions."""
        names = [self._filled(self._short) for _ in range(SUMMARIES)]
        return self._p50(
            "summary of 50", [partial(self._manager.summarize, each) for each in names]
        )

    def bare(self, limit: Contender) -> float:
        """Commit one message at a time to a table, and nothing else."""
        batch = [limit.prepared("s", [next(self._bare)]) for _ in range(self._calls)]
        calls = [partial(limit.append, "s", each) for each in batch]
        return median(limit.clock(calls)) * 1e3

    def slow(self) -> dict[str, float]:
        """Return the p95 over all rounds, the first included, in ms."""
        return {name: sorted(found)[len(found) * 95 // 100] for name, found in self._times.items()}

    def _filled(self, messages: Sequence[Message]) -> str:
        name = self._manager.create().name
        self._manager.add_messages(name, messages)
        self._manager.get(name)  # one who adds message by message has looked at it all the while
        return name

    def _taken(self) -> Iterator[int]:
        return (next(self._number) for _ in range(self._calls))

    def _names(self) -> list[str]:
        names = list(self.long)
        return [names[number % len(names)] for number in self._taken()]

    def _turns(self) -> list[Callable[[], object]]:
        add = self._manager.add_message
        return [partial(add, each, next(self.long[each])) for each in self._names()]

    def _p50(self, name: str, calls: Iterable[Callable[[], object]]) -> float:
        found = []
        for call in calls:
            start = perf_counter()
            call()
            found.append((perf_counter() - start) * 1e3)
        self._times.setdefault(name, []).extend(found)
        return median(found)


def disk(bench: Bench) -> float:
    """Return kB on disk of 1,000 messages, one an append."""
    size = bench.size(STORED, STORED_QUICK)
    stored = bench.ours(bench.stock("turns", size))
    return stored.disk_bytes() / sum(map(len, bench.data.covering(size)))


def memory(manager: SessionManager, names: Sequence[str]) -> float:
    """Return kB that another manager of the same store keeps of 1,000 messages it has shown."""
    tracemalloc.start()
    try:
        with SessionManager(manager.store, SETTINGS) as other:
            before = tracemalloc.get_traced_memory()[0]
            for name in names:
                other.get(name)
                other.build_context(name)
            held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    return held / 1e3 / len(names)
