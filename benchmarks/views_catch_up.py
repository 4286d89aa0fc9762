"""views_catch_up: a kept view asked right after one new event, in a small and a large store."""

import time
from collections.abc import Callable
from functools import partial
from statistics import median

from projections import Views

from .harness import Bench, Result, at_most
from .ours import Ours
from .race import Lane

SMALL, SMALL_QUICK = 10_000, 2_000
QUESTIONS: dict[str, Callable[[Views], object]] = {
    "statistics": lambda views: views.statistics(),
    "tree": lambda views: views.tree("c0"),
    "sessions": lambda views: views.sessions(limit=50),
}
ASKED = 5
FLAT = 1.3


def run(bench: Bench) -> Result:
    """Measure p50 of each question within rounds of five; the new events are outside the clock."""
    sizes = bench.size(SMALL, SMALL_QUICK), bench.size(bench.events, bench.events)
    lanes = []
    for mark, size in zip(("small", "large"), sizes, strict=True):
        ours = bench.ours(bench.stock("imports", size))
        views = Views(ours.store)
        for name, ask in QUESTIONS.items():
            headline = name == "statistics" and mark == "large"
            label = "ours" if headline else f"{name}, {mark}"
            kind = "ours" if headline else "figure"
            ask(views)
            measure = partial(_asked, ours, partial(ask, views), bench.data.flat[0])
            lanes.append(Lane(label, kind, measure))  # type: ignore[arg-type]
    result = bench.compare(
        lanes,
        what=f"views.statistics() after 1 new event in a store of {sizes[1]:,}",
        unit="us",
        better="lower",
    )
    assert result.ours is not None
    for name in QUESTIONS:
        small = result.figures[f"{name}, small"]
        large = result.ours if name == "statistics" else result.figures[f"{name}, large"]
        result.reach += [
            at_most(f"{name}: < 1 ms (us)", large, 1_000.0),
            at_most(f"{name}: flat within {FLAT}x", large / small, FLAT),
        ]
        result.series[f"views: {name}"] = [(float(sizes[0]), small), (float(sizes[1]), large)]
    result.note = f"small: {sizes[0]:,} events, large: {sizes[1]:,}"
    return result


def _asked(ours: Ours, ask: Callable[[], object], message: dict[str, object]) -> float:
    taken = []
    for _ in range(ASKED):
        ours.store.append("c0", message)
        start = time.perf_counter()
        ask()
        taken.append(time.perf_counter() - start)
    return median(taken) * 1e6
