"""state_full: all 5,000 messages of a session, read by a store that was just opened."""

from functools import partial
from pathlib import Path

import lmdb
import msgspec
import zstandard

from eventstore.store import starter_dictionary

from .data import Message
from .harness import Bench, Result, at_least, at_most, lanes_of, times
from .ours import Ours
from .peers import Contender
from .race import Lane

SESSION = "s"
MESSAGES = 5_000
FLOOR = "lmdb+zstd+msgspec"


def run(bench: Bench) -> Result:
    """Measure ms of one whole read, with nothing cached; opening is outside the clock."""
    size = bench.size(MESSAGES, MESSAGES)
    messages = bench.data.messages(size)
    single = bench.ours(bench.stock("long", size))
    whole = bench.ours()
    whole.fill(SESSION, messages)
    lanes = [
        Lane("ours", "ours", partial(_cold, single)),
        Lane("1,000 an append", "figure", partial(_cold, whole)),
        Lane(FLOOR, "limit", Floor(bench.folder("floor"), messages).read),
    ]
    others = bench.others("full")
    if bench.quick:
        late = {each.name: "too slow to fill in a quick run" for each in others if each.slow}
        bench.skipped |= late
        others = [each for each in others if each.name not in late]
    lanes += lanes_of(bench.filled(others, SESSION, messages), _read)
    result = bench.compare(
        lanes,
        what="all 5,000 messages of a session, just opened (one message an append)",
        unit="ms",
        better="lower",
    )
    session = result.ratio.get("SQLiteSession")
    floor = times(result.ours, result.limit, FLOOR)
    result.reach = [
        at_least("faster than SQLiteSession's read (its time over ours > 1)", session, 1.0),
        at_most(f"aim: <= 1.3x {FLOOR}", floor, 1.3),
    ]
    result.note = "eventsourcing recorder and sqlite decode nothing; langgraph reads one blob"
    return result


def _cold(ours: Ours) -> float:
    ours.shut()
    ours.reopen()
    return _read(ours)


def _read(contender: Contender) -> float:
    [taken] = contender.clock([partial(contender.full, SESSION)])
    return taken * 1e3


class Floor:
    """A row a message, compressed with our dictionary: walked over, decompressed, decoded."""

    def __init__(self, place: Path, messages: list[Message]) -> None:
        made = starter_dictionary()
        dictionary = zstandard.ZstdCompressionDict(made) if made else None
        compress = zstandard.ZstdCompressor(level=3, dict_data=dictionary).compress
        self._decompress = zstandard.ZstdDecompressor(dict_data=dictionary).decompress
        self._env = lmdb.open(str(place), map_size=1 << 30)
        rows = [compress(msgspec.msgpack.encode(each)) for each in messages]
        with self._env.begin(write=True) as txn:
            keyed = [(number.to_bytes(8, "big"), row) for number, row in enumerate(rows)]
            txn.cursor().putmulti(keyed, append=True)

    def read(self) -> float:
        """Return ms of one whole read."""
        from time import perf_counter

        decode = msgspec.msgpack.Decoder(dict).decode
        start = perf_counter()
        with self._env.begin() as txn:
            found = [decode(self._decompress(row)) for row in txn.cursor().iternext(keys=False)]
        taken = perf_counter() - start
        assert found
        return taken * 1e3
