"""append_concurrent: 64 callers, each awaiting its durable receipt, each with its own session."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from .harness import Bench, Result, at_least, times
from .ours import Ours
from .peers import Contender
from .race import Lane

CALLERS = 64
TOGETHER = ("eventsourcing", "salamander-db", "SQLiteSession", "lmdb")
"""Peers that promise to take many callers at once, and the limit."""


def run(bench: Bench) -> Result:
    """Measure appends a second: of tasks, of threads, and of one caller alone."""
    each_appends = bench.size(20, 10)
    ours = bench.ours()
    lanes = [
        Lane("ours", "ours", _tasks(bench, ours, each_appends)),
        Lane("threads", "figure", _threads(bench, ours, each_appends, "t")),
        Lane("one caller", "figure", _alone(bench, ours, each_appends * 4)),
    ]
    for other in bench.others("append", TOGETHER):
        if other.kind == "limit":
            lanes.append(Lane(other.name, "limit", _batches(bench, other, each_appends)))
        else:
            few = bench.size(each_appends, 2)
            lanes.append(Lane(other.name, "peer", _threads(bench, other, few, "t")))
    result = bench.compare(
        lanes,
        what="64 callers, each awaiting its durable receipt (asyncio tasks; see also threads)",
        unit="appends/s",
        better="higher",
    )
    tasks = times(result.ours, result.figures, "one caller")
    threads = times(result.figures["threads"], result.figures, "one caller")
    result.reach = [
        at_least(">= 12x one caller, asyncio", tasks, 12),
        at_least(">= 6x one caller, threads", threads, 6),
    ]
    result.note = (
        "limit: 64 puts in one commit; peers: threads, SQLiteSession tasks; a session per caller"
    )
    return result


def _names(mark: str) -> list[str]:
    return [f"{mark}{number}" for number in range(CALLERS)]


def _tasks(bench: Bench, ours: Ours, each_appends: int) -> Callable[[], float]:
    names, messages = _names("a"), bench.data.messages(CALLERS * each_appends)
    for name in names:
        ours.begin(name)

    async def caller(index: int) -> None:
        for message in messages[index::CALLERS]:
            await ours.store.aio.append(names[index], message)

    async def callers() -> None:
        await asyncio.gather(*[caller(index) for index in range(CALLERS)])

    loop = asyncio.new_event_loop()
    bench.at_end(loop.close)

    def measure() -> float:
        [taken] = ours.clock([lambda: loop.run_until_complete(callers())])
        return CALLERS * each_appends / taken

    return measure


def _threads(
    bench: Bench, contender: Contender, each_appends: int, mark: str
) -> Callable[[], float]:
    names, messages = _names(mark), bench.data.messages(CALLERS * each_appends)
    contender.clock([partial(contender.begin, name) for name in names])

    def calls(index: int) -> list[Callable[[], Any]]:
        name = names[index]
        batch = [contender.prepared(name, [each]) for each in messages[index::CALLERS]]
        return [partial(contender.append, name, each) for each in batch]

    def measure() -> float:
        return CALLERS * each_appends / contender.together([calls(i) for i in range(CALLERS)])

    return measure


def _alone(bench: Bench, ours: Ours, appends: int) -> Callable[[], float]:
    ours.begin("alone")
    calls = [partial(ours.append, "alone", [each]) for each in bench.data.messages(appends)]
    return lambda: appends / sum(ours.clock(calls))


def _batches(bench: Bench, limit: Contender, commits: int) -> Callable[[], float]:
    messages = bench.data.messages(CALLERS)

    def measure() -> float:
        batches = [limit.prepared("", messages) for _ in range(commits)]
        taken = limit.clock([partial(limit.append, "", each) for each in batches])
        return CALLERS * commits / sum(taken)

    return measure
