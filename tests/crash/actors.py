"""Processes that work on one store at once, made and killed on request.

Run as a program this file is their parent: it has everything loaded and no store open, so that a
process is made by a fork in a millisecond. All say what they did in lines of one pipe: what a
process had said is in it before the word that the process is gone.
"""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import NoReturn

from eventstore import EventStore
from eventstore.audit.structure import child_environment
from projections import SessionState

SESSIONS = ("s0", "s1", "s2")
THREADS = 2
"""Threads of each process that writes."""

PAUSE_SECONDS = 0.005
"""How long a reader rests after each look, for it would starve those who write."""

SEEN_EVERY = 5
"""A subscriber says so every so many events."""


def say(*words: object) -> None:
    """Print a line with one call, which no other process's line can part."""
    os.write(1, json.dumps(words).encode() + b"\n")


def fail(name: str, error: BaseException | None) -> NoReturn:
    """Say why a process ends that never should, and end it."""
    say(name, "failed", 0, "".join(traceback.format_exception(error)))
    os._exit(1)


# -- what they do ----------------------------------------------------------------------------


def write(name: str, path: str, start: int) -> None:
    """Append for ever, from threads that share commits; say each receipt."""
    store = EventStore.open(path)
    with ThreadPoolExecutor(THREADS) as pool:
        for each in range(THREADS):
            pool.submit(write_some, store, name, count(start + each, THREADS)).add_done_callback(
                lambda done: fail(name, done.exception())
            )


def write_some(store: EventStore, name: str, numbers: Iterable[int]) -> None:
    """Append with these numbers; prune, branch and merge now and then."""
    for number in numbers:
        parts = 1 + number % 3
        text = f"{name} said {number} " * (number % 40)
        lines = [{"content": text, "by": [name, number, part, parts]} for part in range(parts)]
        receipt = store.append(SESSIONS[number % 3], lines, key=f"{name}.{number}")
        say(name, "said", number, receipt.position)
        if number % 20 == 19:
            store.prune(SESSIONS[number % 3], keep_last=10)
        if number % 20 == 9:
            store.branch(SESSIONS[number % 3], f"{name}.{number}")
            store.merge(f"{name}.{number}", into=SESSIONS[number % 3])


def read(name: str, path: str, size: int) -> None:
    """Read the newest states for ever; the log never gets shorter."""
    with EventStore.open(path, read_only=True) as store:
        while True:
            head = store.head()
            assert head.size >= size, f"{head.size} events after {size}"
            size = head.size
            for session in SESSIONS:
                state = SessionState.of(store, session)
                assert len(state.messages[-5:]) <= state.version
            say(name, "read", size)
            time.sleep(PAUSE_SECONDS)


def follow(name: str, path: str, start: int) -> None:
    """Follow the log for ever; each event comes once and in order."""
    with EventStore.open(path) as store:
        for position, recorded in zip(count(start), store.subscribe(start), strict=False):
            assert recorded.position == position
            if position % SEEN_EVERY == SEEN_EVERY - 1:
                say(name, "seen", position + 1)


ROLES: dict[str, Callable[[str, str, int], None]] = {
    "writer": write,
    "second": write,
    "reader": read,
    "subscriber": follow,
}


def main(path: str) -> None:
    """Make and kill processes as the lines of standard input ask for."""
    alive: dict[str, int] = {}
    for line in sys.stdin:
        asked, name, start = json.loads(line)
        if asked == "kill":
            os.kill(alive[name], signal.SIGKILL)
            _, status = os.waitpid(alive.pop(name), 0)
            say(name, "gone", os.waitstatus_to_exitcode(status))
            continue
        child = os.fork()
        if child == 0:
            try:
                ROLES[name](name, path, start)
            except BaseException as error:  # noqa: BLE001 - whatever it is, the test must hear of it
                fail(name, error)
        alive[name] = child
    for child in alive.values():
        os.kill(child, signal.SIGKILL)


# -- for the test ----------------------------------------------------------------------------


class Actors:
    """The processes of one store and what they said: the last number of each, and all receipts."""

    def __init__(self, path: str) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, __file__, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=child_environment(),
        )
        self.receipts: dict[int, tuple[str, int]] = {}
        self.newest = dict.fromkeys(ROLES, 0)
        self.lines = dict.fromkeys(ROLES, 0)

    def start(self, name: str) -> None:
        """Start a process, which goes on from where the last of its name was."""
        self._ask("start", name, self.newest[name])

    def kill(self, name: str) -> None:
        """Kill a process with signal 9, and hear all that it had said."""
        self._ask("kill", name, 0)
        while (heard := self.hear())[:2] != [name, "gone"]:
            continue
        assert heard[2] == -signal.SIGKILL, f"{name} ended by itself with {heard[2]}"

    def wait(self, name: str, lines: int) -> None:
        """Hear until a process has said so many lines more."""
        goal = self.lines[name] + lines
        while self.lines[name] < goal:
            self.hear()

    def hear(self) -> list:
        """Return the next line of any process."""
        line = self._parent.stdout.readline()
        assert line, self._parent.stderr.read()
        name, what, number, *rest = heard = json.loads(line)
        assert what != "failed", f"{name}: {rest[0]}"
        if what != "gone":
            self.lines[name] += 1
            self.newest[name] = max(self.newest[name], number + (what == "said"))
        if what == "said":
            self.receipts[rest[0]] = (name, number)
        return heard

    def close(self) -> None:
        """End all processes."""
        self._parent.communicate(timeout=60)

    def _ask(self, what: str, name: str, start: int) -> None:
        self._parent.stdin.write(json.dumps([what, name, start]) + "\n")
        self._parent.stdin.flush()


if __name__ == "__main__":
    main(sys.argv[1])
