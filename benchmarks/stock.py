"""Our stores that several benchmarks read, built outside every clock through the public API.

Shapes: `turns` holds one message an append, as an agent that saves each message makes it, over
sessions of one conversation each; `imports` one conversation an append, as an import makes it;
`long` one session of `size` messages called "s", one message an append.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from eventstore import EventStore

from .data import Conversation, Data

CALLERS = 1_000
"""Appends under way at once while building; they share commits."""

AT_ONCE = 16
"""Sessions whose messages are interleaved."""

Work = Coroutine[Any, Any, Any]


def turns(place: Path, data: Data, size: int) -> None:
    """Store at least `size` messages one by one, the sessions interleaved by sixteens."""
    with EventStore.open(place) as store:
        one_by_one(store, data.covering(size), 0)


def one_by_one(store: EventStore, conversations: Sequence[Conversation], first: int) -> None:
    """Append conversations a message at a time, as sessions c<first> and on, some at once."""
    names = [f"c{first + number}" for number in range(len(conversations))]
    run(store.aio.create(name) for name in names)
    for start in range(0, len(names), AT_ONCE):
        some, lines = names[start : start + AT_ONCE], conversations[start : start + AT_ONCE]
        run(
            store.aio.append(name, message)
            for line in zip_longest(*lines)
            for name, message in zip(some, line, strict=True)
            if message is not None
        )


def imports(place: Path, data: Data, size: int) -> None:
    """Store at least `size` messages, a conversation an append."""
    with EventStore.open(place) as store:
        for start in range(0, len(conversations := data.covering(size)), CALLERS):
            chosen = range(start, min(start + CALLERS, len(conversations)))
            run(store.aio.create(f"c{number}") for number in chosen)
            run(store.aio.append(f"c{number}", conversations[number]) for number in chosen)


def long(place: Path, data: Data, size: int) -> None:
    """Store one session of `size` messages, one by one."""
    with EventStore.open(place) as store:
        store.create("s")
        run(store.aio.append("s", message) for message in data.messages(size))


SHAPES: dict[str, Callable[[Path, Data, int], None]] = {
    "turns": turns,
    "imports": imports,
    "long": long,
}


def run(work: Iterable[Work]) -> None:
    """Run coroutines, so many at a time, in the order in which they come."""

    async def all_of_it() -> None:
        under_way: list[Work] = []
        for each in work:
            under_way.append(each)
            if len(under_way) == CALLERS:
                await asyncio.gather(*under_way)
                under_way = []
        await asyncio.gather(*under_way)

    asyncio.run(all_of_it())
