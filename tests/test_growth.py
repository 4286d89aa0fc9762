"""Growth: what is paid for an append, a read and an opening does not depend on how much there is.

The long variant takes GROWTH_EVENTS events, ten million by default; `pytest -m long -s` shows its
table. Times are shown, not asserted: that is what benchmarks are for.
"""

import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import median
from typing import NamedTuple

import pytest

from eventstore import EventStore
from projections import SessionState, Views

STEPS = 10
"""Rows of the table: so many times the store is closed, opened and looked at."""

APPEND, SESSION = 50, 1_000
"""Messages of one append, and of one session."""

FAST = STEPS * SESSION
LONG = int(os.environ.get("GROWTH_EVENTS", "10000000")) // FAST * FAST

READS = 100

LINEAR = 1.25
"""How much more bytes an event of any step may take than one of the second: pages fill unevenly."""


class Row(NamedTuple):
    """What a step showed: bytes of the log's file, and times in seconds."""

    events: int
    size: int
    rate: float
    event: float
    state: float
    open: float
    views: float

    def __str__(self) -> str:
        return (
            f"{self.events:>12,} {self.size / 1e6:>10,.1f} MB {self.rate:>10,.0f} /s "
            f"{self.event * 1e6:>8.1f} us {self.state * 1e6:>8.1f} us {self.open * 1e3:>8.2f} ms "
            f"{self.views * 1e6:>8.2f} us"
        )


HEAD = (
    f"{'events':>12} {'log file':>13} {'appended':>13} {'event p50':>11} {'state p50':>11} "
    f"{'open':>11} {'views/event':>11}"
)


def line(number: int) -> dict:
    """Return the message with a number; about half of it compresses away."""
    words = Random(number).choices(("append", "log", "tool", "answer", "page", "root"), k=12)
    return {"role": "user", "content": f"{number}: {' '.join(words)}"}


def append_up_to(store: EventStore, first: int, last: int) -> None:
    """Append the messages of a step, each session's behind each other."""
    for number in range(first, last, APPEND):
        lines = [line(each) for each in range(number, min(number + APPEND, last))]
        if number % SESSION == 0:
            store.create(f"s{number // SESSION}")
        store.append(f"s{number // SESSION}", lines)


def timed(act: Callable[[], object]) -> float:
    """Return how long something takes, in seconds."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def check_some(store: EventStore, messages: int, chance: Random) -> tuple[float, float]:
    """Assert that events and states anywhere are as written; return how long each took (p50)."""
    events, states = [], []
    for _ in range(READS):
        number = chance.randrange(messages)
        session, version = f"s{number // SESSION}", number % SESSION + 1
        start = time.perf_counter()
        found = next(store.events(session, version))
        events.append(time.perf_counter() - start)
        assert found.event.message.content == line(number)["content"]
        start = time.perf_counter()
        newest = SessionState.of(store, session).messages[-1:]
        states.append(time.perf_counter() - start)
        last = min(number // SESSION * SESSION + SESSION, messages) - 1
        assert [each.content for each in newest] == [line(last)["content"]]
    return median(events), median(states)


def step(path: Path, first: int, last: int, chance: Random, *, train: bool) -> Row:
    """Open the store, append, and look at all that may not get slower."""
    opening = timed(lambda: EventStore.open(path).close())
    with EventStore.open(path, durability="buffered", train=train) as store:
        appending = timed(lambda: append_up_to(store, first, last))
        store.flush()
        events = store.head().size
        views = timed(lambda: Views(store).statistics())
        event, state = check_some(store, last, chance)
    size = (path / "log" / "data.mdb").stat().st_size
    count = last - first
    return Row(events, size, count / appending, event, state, opening, views / count)


@pytest.mark.parametrize("messages", [FAST, pytest.param(LONG, marks=pytest.mark.long)])
def test_a_store_grows_by_what_is_appended(tmp_path, messages):
    """However large the store, what was written is read back, and the file grows linearly."""
    chance, rows = Random(7), []
    print(f"\n{HEAD}")
    for number in range(STEPS):
        first, last = messages * number // STEPS, messages * (number + 1) // STEPS
        # A dictionary is as large as a step of the small store, and comes in whichever is slow.
        rows.append(step(tmp_path / "h", first, last, chance, train=messages > FAST))
        print(rows[-1], flush=True)
    grown = [after.size - before.size for before, after in pairwise(rows)]
    assert max(grown) <= LINEAR * grown[0]
