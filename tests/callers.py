"""Callers at once: threads and processes, what they say, and whether all of it is there."""

import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from eventstore import EventStore
from eventstore.audit.verify import verify

SECONDS_MAX = 60
"""How long a thread or process may take before it counts as hung."""


def message(caller: int, number: int) -> dict[str, object]:
    """Return the message that a caller says as its n-th."""
    return {"role": "user", "content": f"line {number} of caller {caller}", "by": [caller, number]}


def in_threads(jobs: Sequence[Callable[[], object]]) -> list[object]:
    """Run all jobs at once; return what they return, in order, or raise what one of them raised."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        start = threading.Barrier(len(jobs))
        tasks = [pool.submit(lambda job=job: (start.wait(), job())[1]) for job in jobs]
        return [task.result(SECONDS_MAX) for task in tasks]


def check_whole(store: EventStore, said: dict[str, Counter]) -> None:
    """Assert that a sound, dense log holds exactly these messages, in their callers' order."""
    events = list(store.all())
    assert [each.position for each in events] == list(range(store.head().size))
    versions, lines = defaultdict(list), defaultdict(list)
    for each in events:
        versions[each.session].append(each.version)
        if each.type == "MessageAppended":
            lines[each.session].append(tuple(each.event.message.fields["by"]))
    for session, found in versions.items():
        assert found == list(range(len(found))) and store.version(session) == len(found) - 1
    assert {session: Counter(found) for session, found in lines.items()} == said
    for found in lines.values():
        for caller in {caller for caller, _ in found}:
            own = [number for by, number in found if by == caller]
            assert own == sorted(own), f"caller {caller}'s lines came out of order"
    assert verify(store).findings == []


def started(path: Path, script: str, *arguments: object) -> subprocess.Popen:
    """Start a Python child that works on the store at `path`."""
    command = [sys.executable, "-c", script, str(path), *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
