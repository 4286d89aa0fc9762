"""Child processes that walk along stretches of one log, each with a core of its own.

Invariants: what they find is handed out in the order of the log, whoever found it first; a child
that dies, hangs or can't be started only costs time, since whoever asks walks himself where there
is no answer; none of them outlives its crew, and none its parent: they end with their input.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import msgspec

from ..errors import UNDECODABLE
from ..log.lmdb import LmdbLog
from . import stretches
from .stretches import Task
from .structure import child_environment
from .walk import Stretch

EVENTS_MIN = 100_000
"""A smaller log is walked in a second; a child needs 0.25 s of a core before it has begun."""

WORKERS_MAX = 8
"""Processes that share a log, this one among them; each takes some 50 MB."""

ANSWER_SECONDS_MAX = 120.0
"""How long to wait for a stretch that is being walked elsewhere."""


def workers_for(log: LmdbLog, size: int, wanted: int | None = None) -> int:
    """Return how many processes to take for so many events: by default as many as pay.

    1 for an encrypted log: its keys are handed to nobody.
    """
    if log.codec.seal is not None:
        return 1
    if wanted is None:
        wanted = len(os.sched_getaffinity(0)) if size >= EVENTS_MIN else 1
    return min(wanted, WORKERS_MAX)


class Crew:
    """The children and whoever asks, who share tasks in their order."""

    def __init__(self, log: LmdbLog, tasks: Sequence[Task]) -> None:
        self._log, self._tasks = log, tasks
        self._unclaimed = iter(range(len(tasks)))
        self._found: dict[int, Stretch | None] = {}
        self._change = threading.Condition()
        self._children: list[subprocess.Popen[bytes]] = []
        self._leaders: list[threading.Thread] = []

    def start(self, count: int) -> None:
        """Start children, as many as there can be."""
        command = [sys.executable, "-m", stretches.__name__, str(self._log.env.path)]
        for _ in range(count):
            with suppress(OSError):
                child = subprocess.Popen(  # noqa: S603 - this interpreter, our own module
                    command,
                    env=child_environment(),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
                self._children.append(child)
                self._leaders.append(threading.Thread(target=self._lead, args=(child,)))
                self._leaders[-1].start()

    def found(self, index: int) -> Stretch | None:
        """Return what is known of the stretch of a task; meanwhile walk along others.

        None where it is not known to be sound, and always where there are no children.
        """
        if not self._children:
            return None
        while index not in self._found:
            claimed = self._claim()
            if claimed is None:
                return self._awaited(index)
            self._tell(claimed, stretches.walked(self._log, self._tasks[claimed]))
        return self._found.pop(index)

    def stop(self) -> None:
        """End all children at once."""
        for child in self._children:
            child.kill()
        for leader in self._leaders:  # each waits for its child
            leader.join()

    def _claim(self) -> int | None:
        with self._change:
            return next(self._unclaimed, None)

    def _tell(self, index: int, found: Stretch | None) -> None:
        with self._change:
            self._found[index] = found
            self._change.notify_all()

    def _awaited(self, index: int) -> Stretch | None:
        with self._change:
            self._change.wait_for(lambda: index in self._found, ANSWER_SECONDS_MAX)
            return self._found.pop(index, None)

    def _lead(self, child: subprocess.Popen[bytes]) -> None:
        """Give one child tasks until there are no more, or it fails."""
        with suppress(OSError), child:
            while (index := self._claim()) is not None:
                found = None
                try:
                    found = _asked(child, self._tasks[index])
                except (OSError, *UNDECODABLE):
                    return
                finally:
                    self._tell(index, found)


def _asked(child: subprocess.Popen[bytes], task: Task) -> Stretch | None:
    """Return what a child finds; raises OSError or ValueError where it finds no more."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(msgspec.json.encode(task) + b"\n")
    child.stdin.flush()
    return msgspec.json.decode(child.stdout.readline(), type=Stretch | None)


@contextmanager
def crew(log: LmdbLog, tasks: Sequence[Task], workers: int) -> Iterator[Crew]:
    """Share tasks with `workers - 1` children, who are gone when the block ends."""
    made = Crew(log, tasks)
    try:
        made.start(workers - 1)
        yield made
    finally:
        made.stop()
