"""growth: what an append costs in a small and in a large store."""

from functools import partial
from itertools import count
from statistics import median

from .harness import Bench, Result, at_most
from .ours import Ours
from .race import Lane

SMALL, SMALL_QUICK = 10_000, 2_000
APPENDS = 20
FLAT = 1.3


def run(bench: Bench) -> Result:
    """Measure p50 within rounds of 20 appends, in stores of growing size, in turns."""
    small, large = bench.size(SMALL, SMALL_QUICK), bench.size(bench.events, bench.events)
    sizes = [small]
    while sizes[-1] * 10 < large:
        sizes.append(sizes[-1] * 10)
    if large > small:
        sizes.append(large)
    lanes = []
    for size in sizes:
        ours = bench.ours(bench.stock("imports", size))
        ours.begin("growing")
        label, kind = ("ours", "ours") if size == large else (f"{size:,} events", "figure")
        lanes.append(Lane(label, kind, partial(_appends, ours, bench, count())))  # type: ignore[arg-type]
    result = bench.compare(
        lanes,
        what=f"p50 of a durable append in a store of {large:,} events",
        unit="us",
        better="lower",
        alone=True,
    )
    assert result.ours is not None
    found = {size: result.figures.get(f"{size:,} events", result.ours) for size in sizes}
    grown = found[large] / found[small]
    result.reach = [at_most(f"{large:,} events <= {FLAT}x {small:,}", grown, FLAT)]
    result.series = {"append": [(float(size), found[size]) for size in sizes]}
    return result


def _appends(ours: Ours, bench: Bench, numbers: "count[int]") -> float:
    messages = [[bench.data.flat[next(numbers) % len(bench.data.flat)]] for _ in range(APPENDS)]
    return median(ours.clock([partial(ours.append, "growing", each) for each in messages])) * 1e6
