"""replay_all: every event of a store, checked, decompressed and decoded to its type."""

from functools import partial

from .harness import Bench, Result, at_least, lanes_of, times
from .peers import Contender
from .race import Lane

RECORDER = "eventsourcing recorder"


def run(bench: Bench) -> Result:
    """Measure events a second, of stores with one message and with one conversation an append."""
    size = bench.size(100_000, 8_000)
    single = bench.ours(bench.stock("turns", size))
    whole = bench.ours(bench.stock("imports", size))
    lanes = [
        Lane("ours", "ours", partial(rate, single, single.store.head().size)),
        Lane("imported", "figure", partial(rate, whole, whole.store.head().size)),
    ]
    messages = bench.data.messages(bench.size(size, size // 2))
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
    result.note = f"{RECORDER}, sqlite and lmdb hand out bytes and decode nothing"
    return result


def rate(contender: Contender, events: int) -> float:
    """Return the events a second of one walk through everything."""
    [taken] = contender.clock([contender.replay])
    return events / taken
