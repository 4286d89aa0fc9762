"""Contender: the face by which a benchmark drives us, a peer or a limit; sync and async alike.

Abilities are methods that a contender has or has not: `append` (durable when it returns),
`replay` (read all of the store), `full` and `tail` (read a session or its last messages),
`branch`, and `reopen` after `shut`. A call is a function without arguments; an AsyncContender's
calls return awaitables, which are timed inside its own event loop.
"""

import asyncio
import importlib.util
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Literal

from ..data import Message

Call = Callable[[], Any]

FILL_MESSAGES = 1_000
"""Messages in one append while filling."""


class Contender:
    """Somebody who stores messages in a directory of its own.

    `module` and `package` name what must be installed; `slow` is set where filling takes
    milliseconds a message, so that quick runs fill less; `per_message` where each message is a step
    of its own that keeps all before it.
    """

    name: ClassVar[str]
    kind: ClassVar[Literal["ours", "peer", "limit"]] = "peer"
    module: ClassVar[str] = ""
    package: ClassVar[str] = ""
    sqlite: ClassVar[bool] = False
    slow: ClassVar[bool] = False
    per_message: ClassVar[bool] = False

    # Abilities: declared here, there only where a contender has them.
    replay: Callable[[], Any]
    full: Callable[[str], Any]
    tail: Callable[[str, int], Any]
    branch: Callable[[str, int, str], Any]
    branched: Callable[[str], Any]
    reopen: Callable[[], Any]

    def __init__(self, place: Path) -> None:
        self.place = place

    def begin(self, session: str) -> object:
        """Start a session; many need no such thing."""

    def prepared(self, session: str, messages: Sequence[Message]) -> Any:  # noqa: ARG002
        """Return what append() takes; outside the clock."""
        return messages

    def append(self, session: str, prepared: Any) -> Any:
        """Store messages durably."""
        raise NotImplementedError

    def leave(self, session: str) -> object:
        """Be done with a session; many need no such thing."""

    def fill(self, session: str, messages: Sequence[Message]) -> None:
        """Start a session and store messages, as fast as this contender likes."""
        chunks = [
            self.prepared(session, messages[start : start + FILL_MESSAGES])
            for start in range(0, len(messages), FILL_MESSAGES)
        ]
        begin = partial(self.begin, session)
        self.clock([begin, *(partial(self.append, session, chunk) for chunk in chunks)])

    def clock(self, calls: Sequence[Call]) -> list[float]:
        """Make the calls one after the other; return the seconds that each took."""
        taken = []
        for call in calls:
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
        return taken

    def together(self, callers: Sequence[Sequence[Call]]) -> float:
        """Let all callers make their calls at once, one thread each; return the seconds."""
        failures: list[BaseException] = []
        ready = threading.Barrier(len(callers) + 1)

        def run(calls: Sequence[Call]) -> None:
            ready.wait()
            try:
                for call in calls:
                    call()
            except BaseException as error:  # noqa: BLE001 - told to whoever measures
                failures.append(error)

        threads = [threading.Thread(target=run, args=(calls,)) for calls in callers]
        for thread in threads:
            thread.start()
        ready.wait()
        start = time.perf_counter()
        for thread in threads:
            thread.join()
        taken = time.perf_counter() - start
        if failures:
            raise failures[0]
        return taken

    def shut(self) -> None:
        """Close, to be opened again by reopen(); outside the clock."""
        self.close()

    def close(self) -> None:
        """Release everything; afterwards the bytes on disk are final."""

    def disk_bytes(self) -> int:
        """Return the bytes that the closed files take on disk."""
        files = [each for each in self.place.rglob("*") if each.is_file()]
        return sum(each.stat().st_blocks * 512 for each in files)


class AsyncContender(Contender):
    """A contender whose calls return awaitables."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.loop = asyncio.new_event_loop()

    def run(self, call: Call) -> Any:
        """Make one call and wait for it."""
        return self.loop.run_until_complete(_awaited(call))

    def clock(self, calls: Sequence[Call]) -> list[float]:
        """Make the calls one after the other, inside the loop."""

        async def clocked() -> list[float]:
            taken = []
            for call in calls:
                start = time.perf_counter()
                await _awaited(call)
                taken.append(time.perf_counter() - start)
            return taken

        return self.loop.run_until_complete(clocked())

    def together(self, callers: Sequence[Sequence[Call]]) -> float:
        """Let all callers make their calls at once, one task each; return the seconds."""

        async def caller(calls: Sequence[Call]) -> None:
            for call in calls:
                await _awaited(call)

        async def all_callers() -> float:
            start = time.perf_counter()
            await asyncio.gather(*[caller(calls) for calls in callers])
            return time.perf_counter() - start

        return self.loop.run_until_complete(all_callers())

    def close(self) -> None:
        """Stop the loop and its threads."""
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


async def _awaited(call: Call) -> Any:
    found = call()
    return await found if hasattr(found, "__await__") else found


def why_not(kind: type[Contender]) -> str | None:
    """Return why a contender can't run here, None where it can."""
    if kind.module and not _installed(kind.module):
        return f"{kind.package} is not installed"
    if kind.sqlite and _synchronous() != FULL:
        return "this SQLite does not sync each commit by default: another durability class"
    return None


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


FULL = 2
"""SQLite's `PRAGMA synchronous` that syncs each commit."""


def _synchronous() -> int:
    connection = sqlite3.connect(":memory:")
    try:
        return int(connection.execute("PRAGMA synchronous").fetchone()[0])
    finally:
        connection.close()


def version_of(package: str) -> str:
    """Return the installed version of a package, or a dash."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "-"
