"""Subscriptions: catch up with what is in the log, then follow what comes.

Invariants: every event once and in order, from any position, also those of other processes; a
slow subscriber holds nothing back and nobody's memory, since it reads pages from the log; a reader
that is cancelled, or gives up waiting, leaves what was being read for it to the next one; close()
ends the iteration from any thread.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Self

from ..limits import POLL_INTERVAL_MS
from ..log.recorded import Recorded
from .lead import Bell

Fetch = Callable[[], list[Recorded]]
"""Returns the next page and moves on; an empty one when there is nothing new."""


class Signal:
    """Wakes who waits for a commit of this process."""

    def __init__(self) -> None:
        self._bells: dict[Bell, None] = {}
        self._loops: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    def notify(self) -> None:
        """Wake all; costs nothing when nobody waits."""
        for bell in list(self._bells) if self._bells else ():
            bell.ring()
        for event, loop in list(self._loops.items()) if self._loops else ():
            try:
                loop.call_soon_threadsafe(event.set)
            except RuntimeError:  # that loop is closed
                self._loops.pop(event, None)

    def wait(self, seconds: float) -> None:
        """Block until the next commit, at most so long."""
        bell = Bell()
        self._bells[bell] = None
        try:
            bell.wait(seconds)
        finally:
            self._bells.pop(bell, None)

    async def wait_async(self, seconds: float) -> None:
        """Like wait, for a coroutine."""
        event = asyncio.Event()
        self._loops[event] = asyncio.get_running_loop()
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            return
        finally:
            self._loops.pop(event, None)


class Subscription:
    """An iterator over facts as they come, and its context manager; both sync or async."""

    def __init__(self, fetch: Fetch, signal: Signal, *, follow: bool) -> None:
        self._fetch, self._signal, self._follow = fetch, signal, follow
        self._page: deque[Recorded] = deque()
        self._reading: asyncio.Task[bool] | None = None
        self._filling = threading.Lock()
        self._closed = False

    def close(self) -> None:
        """End the iteration, at the latest after the next poll."""
        self._closed = True
        self._signal.notify()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Recorded:
        while not self._closed:
            if self._page:
                return self._page.popleft()
            if self._refill():
                continue
            if not self._follow:
                break
            self._signal.wait(POLL_INTERVAL_MS / 1_000)
        raise StopIteration

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Recorded:
        while not self._closed:
            if self._page:
                return self._page.popleft()
            if await self._refill_async():
                continue
            if not self._follow:
                break
            await self._signal.wait_async(POLL_INTERVAL_MS / 1_000)
        raise StopAsyncIteration

    def _refill(self) -> bool:
        """Return whether there was a page to read; somebody may have taken all of it since."""
        with self._filling:
            if not self._page:  # else another reader was waited for, and its page is this one's
                self._page.extend(self._fetch())
            return bool(self._page)

    async def _refill_async(self) -> bool:
        """Wait for the page that is being read, by whoever began that, else have one read.

        A reader that gives up leaves it to the next, so that one thread reads for all of them.
        """
        reading, loop = self._reading, asyncio.get_running_loop()
        if reading is None or reading.done() or reading.get_loop() is not loop:
            reading = self._reading = loop.create_task(asyncio.to_thread(self._refill))
        return await asyncio.shield(reading)
