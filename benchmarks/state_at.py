"""state_at: a session's state and its last 50 messages, at a random past version.

No peer has it; what it costs before any snapshot exists is told beside it.
"""

import shutil
import time

from projections import SessionState

from . import state_now
from .harness import Bench, Result


def run(bench: Bench) -> Result:
    """Measure p50 within rounds of 20 reads, for three lengths of session."""
    result = state_now.race(bench, past=True)
    result.what = "state and last 50 messages at a random past version of a session of 1,000"
    result.figures["first read, no snapshot (ms)"] = _first_read(bench)
    return result


def _first_read(bench: Bench) -> float:
    """Return ms of the first read at the middle of the longest session by a store like new."""
    size = state_now.sizes(bench)[2]
    place = bench.folder("fresh")
    ignored = shutil.ignore_patterns("snapshots", "views")
    shutil.copytree(bench.stock("long", size), place, ignore=ignored, dirs_exist_ok=True)
    store = bench.ours(place).store
    start = time.perf_counter()
    SessionState.of(store, state_now.SESSION, at_version=size // 2).messages[-state_now.LAST :]
    return (time.perf_counter() - start) * 1e3
