"""Child processes that work along stretches of one log, each with a core of its own.

Invariants: what they find is handed out in the order of the log, whoever found it first; a child
that dies, hangs or can't be started only costs time, since whoever asks works himself where there
is no answer; none of them outlives its crew, and none its parent: they end with their input.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Generic, TypeVar

import msgspec

from ..engine.checks import check_limit
from ..errors import UNDECODABLE
from .structure import child_environment

WORKERS_MAX = 8
"""Processes that share a log, this one among them; each takes some 50 MB."""

ANSWER_SECONDS_MAX = 120.0
"""How long to wait for a stretch that is worked on elsewhere."""

Task = TypeVar("Task")
Found = TypeVar("Found")


def workers_for(events: int, events_min: int, wanted: int | None = None) -> int:
    """Return how many processes to take for so many events: by default as many as pay.

    Fewer than `events_min` are done before a child has begun, which takes 0.25 s of a core. Raises
    InvalidEvent.
    """
    check_limit(wanted, "workers")
    if wanted is None:
        wanted = _cores() if events >= events_min else 1
    return min(wanted, WORKERS_MAX)


def _cores() -> int:
    """Return how many cores this process may use, as far as the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Crew(Generic[Task, Found]):
    """The children and whoever asks, who share tasks in their order.

    A child is the module `command[0]`, run with the other words. To each line of JSON that is a
    task it answers with a line of JSON that is an `answer` or null: what `work` returns here.
    """

    def __init__(
        self,
        command: Sequence[str],
        tasks: Sequence[Task],
        work: Callable[[Task], Found | None],
        answer: type[Found],
    ) -> None:
        self._command, self._tasks, self._work = command, tasks, work
        self._answers = msgspec.json.Decoder[Any](answer | None)
        self._unclaimed = iter(range(len(tasks)))
        self._found: dict[int, Found | None] = {}
        self._change = threading.Condition()
        self._children: list[subprocess.Popen[bytes]] = []
        self._leaders: list[threading.Thread] = []

    def start(self, count: int) -> None:
        """Start children, as many as there can be."""
        for _ in range(count):
            with suppress(OSError):
                child = subprocess.Popen(  # noqa: S603 - this interpreter, our own module
                    [sys.executable, "-m", *self._command],
                    env=child_environment(),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
                self._children.append(child)
                self._leaders.append(threading.Thread(target=self._lead, args=(child,)))
                self._leaders[-1].start()

    def found(self, index: int) -> Found | None:
        """Return what is found along the stretch of a task; meanwhile work along others.

        None where nothing is known of it, and always where there are no children.
        """
        if not self._children:
            return None
        while index not in self._found:
            claimed = self._claim()
            if claimed is None:
                return self._awaited(index)
            self._tell(claimed, self._work(self._tasks[claimed]))
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

    def _tell(self, index: int, found: Found | None) -> None:
        with self._change:
            self._found[index] = found
            self._change.notify_all()

    def _awaited(self, index: int) -> Found | None:
        with self._change:
            self._change.wait_for(lambda: index in self._found, ANSWER_SECONDS_MAX)
            return self._found.pop(index, None)

    def _lead(self, child: subprocess.Popen[bytes]) -> None:
        """Give one child tasks until there are no more, or it fails."""
        with suppress(OSError), child:
            while (index := self._claim()) is not None:
                found = None
                try:
                    found = self._asked(child, self._tasks[index])
                except (OSError, *UNDECODABLE):
                    return
                finally:
                    self._tell(index, found)

    def _asked(self, child: subprocess.Popen[bytes], task: Task) -> Found | None:
        """Return what a child finds; raises OSError or ValueError where it finds no more."""
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(msgspec.json.encode(task) + b"\n")
        child.stdin.flush()
        found: Found | None = self._answers.decode(child.stdout.readline())
        return found


@contextmanager
def crew(
    command: Sequence[str],
    tasks: Sequence[Task],
    work: Callable[[Task], Found | None],
    answer: type[Found],
    workers: int,
) -> Iterator[Crew[Task, Found]]:
    """Share tasks with `workers - 1` children, who are gone when the block ends."""
    made = Crew(command, tasks, work, answer)
    try:
        made.start(workers - 1)
        yield made
    finally:
        made.stop()


def answer_all(kind: type[Task], work: Callable[[Task], Found | None]) -> None:
    """Be a child: do what each line of standard input asks for, and answer with a line each."""
    with suppress(KeyboardInterrupt):
        for line in sys.stdin.buffer:
            found = work(msgspec.json.decode(line, type=kind))
            sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
            sys.stdout.buffer.flush()
