"""statistics_rebuild: the statistics of the whole store, from zero."""

import time
from functools import partial

from projections import Statistics

from .harness import Bench, Result, at_least, lanes_of
from .ours import Ours
from .race import Lane
from .replay_all import EVENTS, EVENTS_QUICK, PEERS, PEERS_QUICK, rate

EVENTS_A_SECOND = 1_000_000


def run(bench: Bench) -> Result:
    """Measure events a second, of stores with one message and with one conversation an append."""
    size = bench.size(EVENTS, EVENTS_QUICK)
    single = bench.ours(bench.stock("turns", size))
    whole = bench.ours(bench.stock("imports", size))
    lanes = [
        Lane("ours", "ours", partial(_rebuilt, single)),
        Lane("imported", "figure", partial(_rebuilt, whole)),
    ]
    messages = bench.data.messages(bench.size(PEERS, PEERS_QUICK))
    others = bench.filled(bench.others("replay", ["lmdb"]), "all", messages)
    lanes += lanes_of(others, lambda each: rate(each, len(messages)))
    result = bench.compare(
        lanes,
        what="Statistics.of(store) (one message an append; imported: one conversation)",
        unit="events/s",
        better="higher",
    )
    result.reach = [
        at_least(">= 1 M events/s, one message an append", result.ours, EVENTS_A_SECOND),
        at_least(">= 1 M events/s, imported", result.figures["imported"], EVENTS_A_SECOND),
    ]
    result.note = "limit: a walk over the rows of one message each, nothing counted"
    return result


def _rebuilt(ours: Ours) -> float:
    start = time.perf_counter()
    events = Statistics.of(ours.store).events
    return events / (time.perf_counter() - start)
