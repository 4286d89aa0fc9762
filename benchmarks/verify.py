"""verify: the full deep verification of a store."""

import time
from functools import partial

from eventstore.audit.verify import verify

from .harness import Bench, Result, at_least
from .ours import Ours
from .race import Lane

EVENTS_A_SECOND = 300_000


def run(bench: Bench) -> Result:
    """Measure events a second, of stores with one message and with one conversation an append."""
    size = bench.size(100_000, 4_000)
    single = bench.ours(bench.stock("turns", size))
    whole = bench.ours(bench.stock("imports", size))
    lanes = [
        Lane("ours", "ours", partial(_verified, single)),
        Lane("imported", "figure", partial(_verified, whole)),
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
    return result


def _verified(ours: Ours) -> float:
    start = time.perf_counter()
    report = verify(ours.store, deep=True)
    taken = time.perf_counter() - start
    if report.findings:
        raise RuntimeError(f"the store is not sound: {report.findings[0].what}")
    return report.size / taken
