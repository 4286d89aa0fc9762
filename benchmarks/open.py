"""open: opening a store that exists, small and large."""

import time
from functools import partial
from statistics import median

from .harness import Bench, Result, at_most, lanes_of
from .peers import Contender
from .race import Lane

SMALL, SMALL_QUICK = 10_000, 2_000
OPENINGS = 3
FLAT, MS_MAX = 1.3, 20.0


def run(bench: Bench) -> Result:
    """Measure ms of EventStore.open(); closing is outside the clock."""
    sizes = bench.size(SMALL, SMALL_QUICK), bench.size(bench.events, bench.events)
    small, large = (bench.ours(bench.stock("imports", each)) for each in sizes)
    lanes = [
        Lane("ours", "ours", partial(_opening, small)),
        Lane("large", "figure", partial(_opening, large)),
    ]
    others = bench.filled(bench.others("reopen"), "s", bench.data.messages(sizes[0]))
    lanes += lanes_of(others, _opening)
    result = bench.compare(
        lanes,
        what=f"open a store of {sizes[0]:,} events (large: {sizes[1]:,})",
        unit="ms",
        better="lower",
    )
    assert result.ours is not None
    found = result.figures["large"]
    result.reach = [
        at_most(f"< {MS_MAX:.0f} ms (large)", found, MS_MAX),
        at_most(f"flat: large <= {FLAT}x small", found / result.ours, FLAT),
    ]
    result.series = {"open": [(float(sizes[0]), result.ours), (float(sizes[1]), found)]}
    result.note = f"peers at {sizes[0]:,} messages"
    return result


def _opening(contender: Contender) -> float:
    taken = []
    for _ in range(OPENINGS):
        contender.shut()
        start = time.perf_counter()
        contender.reopen()
        taken.append(time.perf_counter() - start)
    return median(taken) * 1e3
