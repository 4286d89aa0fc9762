"""append_bulk: 1,000 messages an append, with all that a default store does."""

from functools import partial
from itertools import count
from statistics import median

from .harness import Bench, Result, at_least, lanes_of
from .peers import Contender

MESSAGES, APPENDS = 1_000, 3


def run(bench: Bench) -> Result:
    """Measure messages a second: the median of three appends a round, to fresh sessions."""
    size = bench.size(MESSAGES, MESSAGES)
    everybody = [bench.ours(), *bench.others("append")]
    contenders = [each for each in everybody if not each.slow]
    messages, numbers = bench.data.stream(), count()

    def measure(contender: Contender) -> float:
        names = [f"s{next(numbers)}" for _ in range(APPENDS)]
        contender.clock([partial(contender.begin, name) for name in names])
        chunks = [[next(messages) for _ in range(size)] for _ in names]
        batches = [contender.prepared(*each) for each in zip(names, chunks, strict=True)]
        calls = [partial(contender.append, *each) for each in zip(names, batches, strict=True)]
        taken = contender.clock(calls)
        contender.clock([partial(contender.leave, name) for name in names])
        return size / median(taken)

    result = bench.compare(
        lanes_of(contenders, measure),
        what="1,000 messages an append: compressed, checksummed, hashed, indexed, durable",
        unit="messages/s",
        better="higher",
    )
    recorder = result.ratio.get("eventsourcing recorder")
    result.reach = [
        at_least(">= 1.0x eventsourcing, dicts in", result.ratio.get("eventsourcing"), 1.0),
        at_least(">= 1.0x eventsourcing recorder, given ready bytes", recorder, 1.0),
    ]
    result.note = "google-adk has no append of many; langgraph writes one checkpoint, a single blob"
    return result
