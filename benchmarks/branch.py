"""branch: a branch at the middle of a session, whatever its length."""

from collections.abc import Iterator
from functools import partial
from itertools import count
from statistics import median

from .harness import Bench, Result, at_most, lanes_of, times
from .peers import Contender
from .race import Lane
from .state_now import SESSION

SIZES, SIZES_QUICK = (10, 1_000, 100_000), (10, 1_000, 10_000)
BRANCHES = 5
FLAT = 1.3


def run(bench: Bench) -> Result:
    """Measure p50 within rounds of five branches, next to append_one in the same store."""
    lengths = [bench.size(*each) for each in zip(SIZES, SIZES_QUICK, strict=True)]
    stores = [bench.ours(bench.stock("long", each)) for each in lengths]
    names = (f"b{number}" for number in count())
    lanes = []
    for number, (ours, length) in enumerate(zip(stores, lengths, strict=True)):
        label, kind = ("ours", "ours") if number == 1 else (f"{length:,} messages", "figure")
        lanes.append(Lane(label, kind, partial(_branches, ours, length, names)))  # type: ignore[arg-type]
    stores[1].store.create("other")
    message = bench.data.flat[:1]
    appends = [partial(stores[1].append, "other", message)] * BRANCHES
    lanes.append(Lane("append_one", "figure", lambda: median(stores[1].clock(appends)) * 1e6))
    others = bench.filled(bench.others("branch"), SESSION, bench.data.messages(lengths[1]))
    lanes += lanes_of(others, lambda each: _branches(each, lengths[1], names))
    result = bench.compare(
        lanes,
        what="branch at the middle of a session of 1,000",
        unit="us",
        better="lower",
        alone=True,
    )
    short, long = (result.figures[f"{lengths[number]:,} messages"] for number in (0, 2))
    append = times(result.ours, result.figures, "append_one")
    result.reach = [
        at_most("<= 1.2x append_one", append, 1.2),
        at_most(f"flat: {lengths[2]:,} messages <= {FLAT}x {lengths[0]:,}", long / short, FLAT),
    ]
    assert result.ours is not None
    points = zip(lengths, (short, result.ours, long), strict=True)
    result.series = {"branch": [(float(x), y) for x, y in points]}
    return result


def _branches(contender: Contender, length: int, names: Iterator[str]) -> float:
    back = getattr(contender, "branched", None)
    taken = []
    for _ in range(BRANCHES):
        name = next(names)
        taken += contender.clock([partial(contender.branch, SESSION, length // 2, name)])
        if back is not None:
            contender.clock([partial(back, SESSION)])
    return median(taken) * 1e6
