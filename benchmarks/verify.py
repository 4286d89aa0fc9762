"""verify: the full deep verification of a store."""

import time
from functools import partial

from eventstore.audit.verify import verify

from .harness import Bench, Result, at_least
from .ours import Ours
from .race import Lane

EVENTS, EVENTS_QUICK = 500_000, 4_000
SMALL, SMALL_QUICK = 100_000, 2_000
EVENTS_A_SECOND = 300_000


def run(bench: Bench) -> Result:
    """Measure events a second, of stores with one message and with one conversation an append."""
    sizes = bench.size(EVENTS, EVENTS_QUICK), bench.size(SMALL, SMALL_QUICK)
    single, single_small = (bench.ours(bench.stock("turns", size)) for size in sizes)
    whole, whole_small = (bench.ours(bench.stock("imports", size)) for size in sizes)
    lanes = [
        Lane("ours", "ours", partial(_verified, single)),
        Lane("imported", "figure", partial(_verified, whole)),
        Lane("small", "figure", partial(_verified, single_small)),
        Lane("small, imported", "figure", partial(_verified, whole_small)),
    ]
    result = bench.compare(
        lanes,
        what="verify --deep (one message an append; imported: one conversation)",
        unit="events/s",
        better="higher",
    )
    result.reach = [
        at_least(">= 300 k events/s, one message an append", result.ours, EVENTS_A_SECOND),
        at_least(">= 300 k events/s, imported", result.figures["imported"], EVENTS_A_SECOND),
    ]
    result.note = f"large: {sizes[0]:,} events, as replay_all has; small: {sizes[1]:,}"
    return result


def _verified(ours: Ours) -> float:
    start = time.perf_counter()
    report = verify(ours.store, deep=True)
    taken = time.perf_counter() - start
    if report.findings:
        raise RuntimeError(f"the store is not sound: {report.findings[0].what}")
    return report.size / taken
