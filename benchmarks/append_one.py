"""append_one: one durable append of one message to a session of 1,000."""

from functools import partial
from statistics import median

from .harness import Bench, Result, at_least, at_most, lanes_of, times
from .peers import Contender

SESSION = "s"
MESSAGES = 1_000


def run(bench: Bench) -> Result:
    """Measure p50 within rounds of 20 appends, in a quick run of 10."""
    filled = bench.data.messages(bench.size(MESSAGES, MESSAGES))
    contenders = bench.filled([bench.ours(), *bench.others("append")], SESSION, filled)
    messages, count = bench.data.stream(), bench.size(20, 10)

    def measure(contender: Contender) -> float:
        batch = [contender.prepared(SESSION, [next(messages)]) for _ in range(count)]
        calls = [partial(contender.append, SESSION, each) for each in batch]
        return median(contender.clock(calls)) * 1e6

    result = bench.compare(
        lanes_of(contenders, measure),
        what="p50 of one durable append of one message to a session of 1,000",
        unit="us",
        better="lower",
        alone=True,
    )
    limit = times(result.ours, result.limit, "lmdb")
    session = result.ratio.get("SQLiteSession")
    result.reach = [
        at_most("<= 1.25x a bare LMDB one-put durable commit", limit, 1.25),
        at_least("faster than SQLiteSession (its time over ours > 1)", session, 1.0),
    ]
    if bench.quick:
        result.note = "google-adk appends to a session of 100"
    return result
