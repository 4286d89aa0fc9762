"""The processor beside the disk, where whoever waits for it alone runs while we measure.

A disk with one queue, as virtual machines mostly have, reports what is done to one processor,
whoever asked. A bare commit of LMDB takes 0.21 ms there and 0.33 on the other one here, and which
of them a caller gets is the scheduler's whim: the same figure, a half larger in every second run.
Disks with a queue for each processor answer where they were asked. So where one caller at a time
waits for the disk, all threads of the run are on the processor that a sync is quickest from; it
holds for us, the peers and the limits alike. Where many callers work all processors are used.

Invariants: everything runs where it ran before as soon as the block ends, whatever happens.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

THREADS = Path("/proc/self/task")
PAGE = bytes(4096)
ROUNDS, SYNCS = 5, 10


def choice() -> bool:
    """Return True where threads can be told where to run, and there is a choice."""
    known = hasattr(os, "sched_setaffinity") and THREADS.is_dir()
    return known and len(os.sched_getaffinity(0)) > 1


@contextmanager
def beside(place: Path) -> Iterator[int | None]:
    """Run all threads on the processor beside the disk of a directory inside the block.

    Yields its number, None where there is no choice.
    """
    if not choice():
        yield None
        return
    allowed = os.sched_getaffinity(0)
    try:
        times = sync_times(place, allowed)
        nearest = min(times, key=times.__getitem__)
        _run_on({nearest})
        yield nearest
    finally:
        _run_on(allowed)


def sync_times(place: Path, processors: set[int]) -> dict[int, float]:
    """Return the median seconds of one page written and synced, from each processor, in turns."""
    taken: dict[int, list[float]] = {each: [] for each in sorted(processors)}
    with tempfile.TemporaryFile(dir=place) as file:
        for _ in range(ROUNDS):
            for processor, times in taken.items():
                os.sched_setaffinity(0, {processor})
                times += [_synced(file.fileno()) for _ in range(SYNCS)]
    return {processor: median(times) for processor, times in taken.items()}


def _synced(file: int) -> float:
    start = time.perf_counter()
    os.pwrite(file, PAGE, 0)
    os.fdatasync(file)
    return time.perf_counter() - start


def _run_on(processors: set[int]) -> None:
    for thread in THREADS.iterdir():
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(int(thread.name), processors)
