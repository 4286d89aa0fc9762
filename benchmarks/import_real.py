"""import_real: real conversations through the public API, each a session of its own."""

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import count
from statistics import median
from typing import Any

from eventstore.interchange import import_conversations

from .data import Conversation
from .harness import Bench, Result, at_most, times
from .ours import Ours
from .peers import Contender
from .race import Lane

REPEAT = 20
UNDER_WAY = 256
"""Conversations under way at once where tasks bring them in; they share commits."""

IMPORTERS = ("eventsourcing", "salamander-db", "SQLiteSession", "sqlite WAL FULL", "lmdb")
PEERS, PEERS_QUICK = 400, 30
"""Conversations a round for peers, some of which take minutes over all of them."""


def run(bench: Bench) -> Result:
    """Measure messages a second over whole imports, next to append_bulk on the same messages."""
    full = len(bench.data.conversations) * REPEAT
    conversations = bench.data.take(bench.size(full, 100))
    ours = bench.ours()
    some = conversations[: bench.size(PEERS, PEERS_QUICK)]
    lanes = [
        Lane("ours", "ours", _imported(ours, conversations)),
        Lane("tasks", "figure", _tasks(bench, ours, conversations)),
        Lane("one caller", "figure", _alone(ours, some)),
        Lane("append_bulk", "figure", _bulk(ours, conversations)),
    ]
    others = bench.others("append", IMPORTERS)
    for each in others:
        calls = _commits(each, some) if each.kind == "limit" else _batches(each, some)
        lanes.append(Lane(each.name, each.kind, calls))
    result = bench.compare(
        lanes,
        what=f"{len(conversations)} conversations, a session and an append each",
        unit="messages/s",
        better="higher",
    )
    share = times(result.figures["append_bulk"], {"ours": result.ours or 0.0}, "ours")
    result.reach = [at_most("<= 1.3x the time per byte of append_bulk", share, 1.3)]
    result.note = (
        f"ours: import_conversations(); `tasks`: create + append by {UNDER_WAY} tasks;"
        " `one caller`: the same calls one by one;"
        " peers: an append a conversation, one by one; limit: commits of 1,000 messages"
    )
    return result


def _imported(ours: Ours, conversations: list[Conversation]) -> Callable[[], float]:
    rounds = count()

    def everything() -> None:
        mark = next(rounds)
        named = {f"f{mark}-{index}": each for index, each in enumerate(conversations)}
        import_conversations(ours.store, named, metadata={"source": "file"})

    return _rate(ours, conversations, lambda: [everything])


def _tasks(bench: Bench, ours: Ours, conversations: list[Conversation]) -> Callable[[], float]:
    store, rounds = ours.store, count()
    loop = asyncio.new_event_loop()
    bench.at_end(loop.close)

    async def one(name: str, conversation: Conversation) -> None:
        await store.aio.create(name, metadata={"source": bench.data.source})
        await store.aio.append(name, conversation)

    async def everything() -> None:
        mark = next(rounds)
        for start in range(0, len(conversations), UNDER_WAY):
            some = conversations[start : start + UNDER_WAY]
            names = [f"i{mark}-{start + index}" for index in range(len(some))]
            await asyncio.gather(*map(one, names, some))

    return _rate(ours, conversations, lambda: [lambda: loop.run_until_complete(everything())])


def _alone(ours: Ours, conversations: list[Conversation]) -> Callable[[], float]:
    store, rounds = ours.store, count()

    def everything() -> None:
        mark = next(rounds)
        for index, conversation in enumerate(conversations):
            store.create(f"o{mark}-{index}", metadata={"source": "file"})
            store.append(f"o{mark}-{index}", conversation)

    return _rate(ours, conversations, lambda: [everything])


def _bulk(ours: Ours, conversations: list[Conversation]) -> Callable[[], float]:
    """Return append_bulk's figure on these very messages."""
    thousands = _thousands(conversations)
    whole = [each for each in thousands if len(each) == len(thousands[0])]
    ours.begin("bulk")

    def measure() -> float:
        taken = ours.clock([partial(ours.append, "bulk", each) for each in whole])
        return len(whole[0]) / median(taken)

    return measure


def _batches(contender: Contender, conversations: list[Conversation]) -> Callable[[], float]:
    rounds = count()

    def calls() -> list[Callable[[], Any]]:
        mark, made = next(rounds), list[Callable[[], Any]]()
        for index, conversation in enumerate(conversations):
            name = f"i{mark}-{index}"
            made.append(partial(contender.begin, name))
            made.append(partial(contender.append, name, contender.prepared(name, conversation)))
            made.append(partial(contender.leave, name))
        return made

    return _rate(contender, conversations, calls)


def _commits(limit: Contender, conversations: list[Conversation]) -> Callable[[], float]:
    def calls() -> list[Callable[[], Any]]:
        thousands = _thousands(conversations)
        return [partial(limit.append, "", limit.prepared("", each)) for each in thousands]

    return _rate(limit, conversations, calls)


def _thousands(conversations: list[Conversation]) -> list[Conversation]:
    flat = [message for each in conversations for message in each]
    return [flat[start : start + 1_000] for start in range(0, len(flat), 1_000)]


def _rate(
    contender: Contender,
    conversations: list[Conversation],
    calls: Callable[[], list[Callable[[], Any]]],
) -> Callable[[], float]:
    messages = sum(map(len, conversations))
    return lambda: messages / sum(contender.clock(calls()))
