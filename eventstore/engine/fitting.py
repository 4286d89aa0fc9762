"""Fitting compression to a store: what a dictionary of its own is trained on.

Invariants: nothing that was redacted or erased is ever learnt; what is read for it is bounded in
events and in bytes; events that are there keep the dictionary they name.
"""

from collections import deque
from collections.abc import Iterator
from random import Random

from ..limits import KIB, MIB
from ..log.base import Log
from ..log.codec import train
from .reading import log_pages

TRAINING_EVENTS_MAX = 20_000
"""Newest events that a dictionary is trained on."""

TRAINING_BYTES_MAX = 16 * MIB
"""Or so many bytes of them: training takes 50 ms a MiB of one core, and lets go of the GIL."""

SAMPLE_BYTES_MAX = 64 * KIB
"""What counts of one payload, so that a few large ones don't stand for all."""


def samples(log: Log) -> list[bytes]:
    """Return payloads of the newest events that are not erased, in an order of chance.

    Raises Corruption where one is damaged.
    """
    kept, size = deque[bytes](), 0
    for payload in _payloads(log, max(log.size() - TRAINING_EVENTS_MAX, 0)):
        kept.append(payload[:SAMPLE_BYTES_MAX])
        size += len(kept[-1])
        while size > TRAINING_BYTES_MAX:
            size -= len(kept.popleft())
    mixed = [*kept]
    Random(0).shuffle(mixed)  # noqa: S311 - no secret: sessions mixed, as zstd likes it
    return mixed


def _payloads(log: Log, first: int) -> Iterator[bytes]:
    for page in log_pages(log, first):
        for each in page:
            if not each.erased:
                yield each.frame.opened(each.index)[2]


def learnt(log: Log) -> bytes:
    """Return a dictionary of a log's newest events. Raises InvalidEvent with too few of them."""
    return train(samples(log))
