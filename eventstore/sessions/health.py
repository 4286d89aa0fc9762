"""Health: whether a store can be used, told without writing to it.

Invariants: it reads one event, asks the file system, and answers in plain JSON; what is wrong is
said in `problems`, never raised.
"""

import os
import shutil
import time
from pathlib import Path

from ..errors import EventStoreError
from ..messages import Json
from ..place.directory import LOG
from ..store import EventStore

FREE_BYTES_MIN = 64 << 20
"""Less room than this on the store's disk is a problem."""


def health(store: EventStore) -> dict[str, Json]:
    """Return the state of a store.

    `ok`, `problems` (texts), `path` or None in memory, `writable`, `events`, `newest_at` in ns,
    `bytes` on disk, `free_bytes` of its disk, and `read_ms`, how long reading the newest event
    took.
    """
    problems: list[str] = []
    found: dict[str, Json] = {"path": str(store.path) if store.path else None}
    found |= {"writable": not store.read_only, "events": 0, "newest_at": None, "read_ms": None}
    found |= {"bytes": None, "free_bytes": None}
    try:
        found |= _read(store)
    except EventStoreError as error:
        problems.append(str(error))
    if store.path is not None:
        found |= _disk(store.path, problems, read_only=store.read_only)
    return {"ok": not problems, "problems": problems, **found}


def _read(store: EventStore) -> dict[str, Json]:
    began = time.perf_counter_ns()
    head = store.head()
    if head.size:
        store.event(head.size - 1)
    took = (time.perf_counter_ns() - began) / 1e6
    return {"events": head.size, "newest_at": head.recorded_at or None, "read_ms": took}


def _disk(path: Path, problems: list[str], *, read_only: bool) -> dict[str, Json]:
    try:
        size = sum(each.stat().st_blocks * 512 for each in path.rglob("*") if each.is_file())
        free = shutil.disk_usage(path).free
    except OSError as error:
        problems.append(f"{path} can't be read: {error.strerror}")
        return {"writable": False}
    writable = not read_only and os.access(path / LOG, os.W_OK)
    if not (writable or read_only):
        problems.append(f"{path} can't be written to")
    if free < FREE_BYTES_MIN:
        problems.append(f"{free} bytes are free on the disk of {path}; make room")
    return {"writable": writable, "bytes": size, "free_bytes": free}
