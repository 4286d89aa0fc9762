"""replay_all: every event of a store, checked, decompressed and decoded to its type.

Ours is a fold that looks at every event, which all cores share where the log is large; `walk` is
store.all(), on one.
"""

import time
from functools import partial
from typing import ClassVar

from eventstore import Recorded
from projections import Projection, fold

from .harness import Bench, Result, at_least, lanes_of, times
from .ours import Ours
from .peers import Contender
from .race import Lane

RECORDER = "eventsourcing recorder"

EVENTS, EVENTS_QUICK = 500_000, 8_000
PEERS, PEERS_QUICK = 100_000, 4_000
"""How many events peers read: what they take for one does not depend on it."""


class Decoded(Projection[int]):
    """Counts events, having looked at each."""

    name: ClassVar[str] = "decoded"
    about_erased: ClassVar[bool] = True

    def initial(self) -> int:
        """Return 0."""
        return 0

    def evolve(self, state: int, recorded: Recorded) -> int:
        """Have one decoded."""
        return state + (recorded.event is not None)

    def join(self, before: int, after: int) -> int:
        """Add both counts."""
        return before + after


def run(bench: Bench) -> Result:
    """Measure events a second, of stores with one message and with one conversation an append."""
    size = bench.size(EVENTS, EVENTS_QUICK)
    single = bench.ours(bench.stock("turns", size))
    whole = bench.ours(bench.stock("imports", size))
    lanes = [
        Lane("ours", "ours", partial(_folded, single)),
        Lane("imported", "figure", partial(_folded, whole)),
        Lane("walk", "figure", partial(rate, single, single.store.head().size)),
        Lane("walk, imported", "figure", partial(rate, whole, whole.store.head().size)),
    ]
    messages = bench.data.messages(bench.size(PEERS, PEERS_QUICK))
    others = bench.filled(bench.others("replay"), "all", messages)
    lanes += lanes_of(others, lambda each: rate(each, len(messages)))
    result = bench.compare(
        lanes,
        what="every event, decoded (one message an append; imported: one conversation)",
        unit="events/s",
        better="higher",
    )
    one = times(result.ours, result.peers, RECORDER)
    imported = times(result.figures["imported"], result.peers, RECORDER)
    result.reach = [
        at_least(f">= 1.5x {RECORDER}'s raw read, one message an append", one, 1.5),
        at_least(f">= 1.5x {RECORDER}'s raw read, imported", imported, 1.5),
    ]
    result.note = (
        f"{RECORDER}, sqlite and lmdb hand out bytes and decode nothing; ours: a fold, by all cores"
        " from 500,000 events on; walk: store.all(), on one"
    )
    return result


def _folded(ours: Ours) -> float:
    start = time.perf_counter()
    events = fold(ours.store, Decoded())
    return events / (time.perf_counter() - start)


def rate(contender: Contender, events: int) -> float:
    """Return the events a second of one walk through everything."""
    [taken] = contender.clock([contender.replay])
    return events / taken
