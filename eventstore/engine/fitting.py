"""Fitting compression to a store: dictionaries of its own, made as it grows and where they pay.

    at 500 events, and each time the log has doubled, a thread
        takes over the dictionary that another process has made since it looked, or else
        looks again 250 events later where fewer than 250 payloads are there to learn from, or else
        reads the newest events, trains a dictionary on seven eighths of them
        and keeps it where it saves enough on the others

Invariants: what is redacted or erased when it is read is not learnt; what is read for it is bounded
in events and in bytes; events that are there keep the dictionary they name; of two processes that
train at once one adds a dictionary, and both go on with it; a failure costs nothing but size.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import islice
from random import Random

from ..errors import EventStoreError, InvalidEvent
from ..limits import KIB, MIB
from ..log.base import POSITION_MAX, Log
from ..log.codec import COMPRESS_BYTES_MIN, Codec, train
from ..log.format import STARTER
from ..log.lmdb import LmdbLog
from ..log.recorded import Recorded
from .reading import log_pages

FITTING_EVENTS_MIN = 500
"""Events of a log that has its first dictionary tried."""

FITTING_GROWTH = 2
"""How many times as many it has when the next one is tried: a tenth of a second of one core."""

FITTING_PAYLOADS_MIN = 250
"""Payloads that are worth a try, and the events from a look that found fewer to the next one.

Until then each event is counted once, 5 us of a core. Twice as many would save 6 bytes of 105.
"""

FITTING_EVENTS_MAX = 5_000
"""Newest events that are read for it: 25 ms of Python, all else lets go of the GIL."""

HELD_OUT = 8
"""Of so many samples one is not trained on: it tells whether the dictionary pays."""

SAVED_SHARE_MIN = 0.1
"""Of the bytes that these take with the dictionary at hand, what a new one must save."""

TRAINING_EVENTS_MAX = 20_000
"""Newest events that a dictionary is trained on."""

TRAINING_BYTES_MAX = 16 * MIB
"""Or so many bytes of them: training takes 20 ms a MiB of one core, and lets go of the GIL."""

SAMPLE_BYTES_MAX = 64 * KIB
"""What counts of one payload, so that a few large ones don't stand for all."""


def samples(log: Log, events_max: int) -> list[bytes]:
    """Return payloads of the newest events that are compressed at all, in an order of chance.

    What was erased is left out. Raises Corruption where one is damaged.
    """
    kept, size, end = deque[bytes](), 0, log.size()
    for each in _compressible(log, max(end - events_max, 0), end):
        kept.append(each.frame.opened(each.index)[2][:SAMPLE_BYTES_MAX])
        size += len(kept[-1])
        while size > TRAINING_BYTES_MAX:
            size -= len(kept.popleft())
    mixed = [*kept]
    Random(0).shuffle(mixed)  # noqa: S311 - no secret: sessions mixed, as zstd likes it
    return mixed


def _compressible(log: Log, first: int, end: int) -> Iterator[Recorded]:
    """Iterate over events whose payloads count, in short transactions; the log may grow on."""
    for page in log_pages(log, first):
        for each in page:
            if each.position >= end:
                return
            if each.size >= COMPRESS_BYTES_MIN and not each.erased:
                yield each


def fitted(payloads: Sequence[bytes], codec: Codec, events: int) -> bytes | None:
    """Return a dictionary made of some payloads, None where it would not pay on the others.

    It pays where they take SAVED_SHARE_MIN less than as `codec` compresses them now, and `events`
    of their kind would save more than its own bytes. Pure.
    """
    held = payloads[::HELD_OUT]
    try:
        made = train([each for index, each in enumerate(payloads) if index % HELD_OUT])
    except InvalidEvent:  # too few, or too short
        return None
    now = stored_bytes(held, codec)
    saved = now - stored_bytes(held, Codec({STARTER: made}.get, STARTER))
    pays = saved >= now * SAVED_SHARE_MIN and saved * events >= len(made) * len(held)
    return made if pays else None


def stored_bytes(payloads: Sequence[bytes], codec: Codec) -> int:
    """Return how many bytes payloads take as a codec compresses them."""
    return sum(len(stored) for _, stored in codec.compress_all(payloads))


def step_after(size: int) -> int:
    """Return the size at which a log that has `size` events tries its next dictionary."""
    step = FITTING_EVENTS_MIN
    while step <= size:
        step *= FITTING_GROWTH
    return step


def learnt(log: Log) -> bytes:
    """Return a dictionary of a log's newest events. Raises InvalidEvent with too few of them."""
    return train(samples(log, TRAINING_EVENTS_MAX))


class Fitter:
    """Fits the dictionary of a plain log on disk, in a thread that is there only while it works.

    `alone` leads the log's writer, so that the thread has its turn however busy that is.
    """

    def __init__(self, log: LmdbLog, alone: Callable[[], AbstractContextManager[object]]) -> None:
        self._log, self._alone = log, alone
        self._lock, self._closed = threading.Lock(), False
        self._thread: threading.Thread | None = None
        self._newest = log.renew()
        self._looked = self._payloads = 0
        self._watch(step_after(log.size()))

    def _watch(self, size: int) -> None:
        self._log.watch(size, self._begin)

    def _begin(self) -> None:
        """Have the thread work from now on; the commit that calls this goes on meanwhile."""
        with self._lock:
            if self._closed or (self._thread and self._thread.is_alive()):
                return
            self._watch(POSITION_MAX)
            thread = threading.Thread(target=self._work, name="eventstore-fitter", daemon=True)
            with suppress(RuntimeError):  # the interpreter is ending, or has no room for a thread
                thread.start()
                self._thread = thread

    def _work(self) -> None:
        # After damage, a full disk or a full memory whoever opens the log next watches it again.
        with suppress(EventStoreError, MemoryError):
            self._watch(self._fit())

    def _fit(self) -> int:
        """Do what is due, and return the size at which to look again."""
        before, self._newest = self._newest, self._log.renew()
        if self._newest == before:
            if not self._enough():
                return self._looked + FITTING_PAYLOADS_MIN
            self._make()
        return step_after(self._log.size())

    def _enough(self) -> bool:
        """Return True once enough payloads were counted, on from where the last look ended."""
        end = self._log.size()
        found = _compressible(self._log, max(self._looked, end - FITTING_EVENTS_MAX), end)
        self._payloads += sum(1 for _ in islice(found, FITTING_PAYLOADS_MIN))
        self._looked = end
        return self._payloads >= FITTING_PAYLOADS_MIN

    def _make(self) -> None:
        """Keep a dictionary of the newest events where it pays."""
        read = samples(self._log, FITTING_EVENTS_MAX)
        made = fitted(read, self._log.codec, self._log.size())
        if made is not None:
            with self._alone():
                self._newest = self._log.add_dictionary(made, self._newest + 1)

    def wait(self) -> None:
        """Return when nothing is being trained."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def close(self) -> None:
        """Return when nothing is being trained, nor will be; idempotent."""
        with self._lock:
            self._closed = True
        self.wait()
