"""state_now: a session's state and its last 50 messages, as they are."""

import random
from functools import partial
from statistics import median

from projections import SessionState

from .harness import Bench, Result, at_most, lanes_of
from .ours import Ours
from .peers import Contender
from .peers.base import Call
from .race import Lane, Measure

SIZES, SIZES_QUICK = (100, 1_000, 100_000), (100, 1_000, 10_000)
LAST = 50
READS = 20
SESSION = "s"


def run(bench: Bench) -> Result:
    """Measure p50 within rounds of 20 reads, for three lengths of session."""
    result = race(bench, past=False)
    result.what = "state and last 50 messages of a session of 1,000"
    return result


def sizes(bench: Bench) -> tuple[int, ...]:
    """Return the lengths of session to measure: short, compared with peers, long."""
    return tuple(bench.size(*each) for each in zip(SIZES, SIZES_QUICK, strict=True))


def race(bench: Bench, *, past: bool) -> Result:
    """Measure reads now, or at random past versions, with peers reading what they can: now."""
    lanes: list[Lane] = []
    for number, size in enumerate(sizes(bench)):
        ours = bench.ours(bench.stock("long", size))
        compared = number == 1
        name = "ours" if compared else _label(size)
        lanes.append(Lane(name, "ours" if compared else "figure", _reads(ours, size, past=past)))
    if not past:
        messages = bench.data.messages(sizes(bench)[1])
        lanes += lanes_of(bench.filled(bench.others("tail"), SESSION, messages), _tails)
    result = bench.compare(lanes, what="", unit="us", better="lower")
    least, _, most = sizes(bench)
    short, long = (result.figures[_label(size)] for size in (least, most))
    result.reach = [
        at_most(f"p50 at {_label(most)} <= 2x p50 at {_label(least)}", long / short, 2.0),
        at_most(f"< 1 ms at {_label(most)} (us)", long, 1_000.0),
    ]
    assert result.ours is not None
    points = zip(sizes(bench), (short, result.ours, long), strict=True)
    result.series = {"state_at" if past else "state_now": [(float(x), y) for x, y in points]}
    return result


def _label(size: int) -> str:
    return f"{size:,} messages"


def _tails(contender: Contender) -> float:
    return _p50(contender, [partial(contender.tail, SESSION, LAST)] * READS)


def _reads(ours: Ours, size: int, *, past: bool) -> Measure:
    chance = random.Random(size)

    def read(version: int | None) -> None:
        SessionState.of(ours.store, SESSION, at_version=version).messages[-LAST:]

    def measure() -> float:
        versions = [chance.randint(1, size) if past else None for _ in range(READS)]
        return _p50(ours, [partial(read, version) for version in versions])

    return measure


def _p50(contender: Contender, calls: list[Call]) -> float:
    return median(contender.clock(calls)) * 1e6
