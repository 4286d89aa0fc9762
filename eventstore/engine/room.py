"""Room in front of the writer: how much may wait at once, for callers that block and that await.

Invariants: what is inside never weighs more than the limit, but for one thing that alone is
heavier; room is given in the order it was asked for; a caller that goes away while it waits
leaves none behind it waiting.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

Loop = asyncio.AbstractEventLoop


class _Waiting(NamedTuple):
    """One that waits: what it weighs, and what wakes it once there is room."""

    weight: int
    wake: Callable[[], None]


class Room:
    """A limit in any unit; enter() before and leave() after, with the same weight."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0
        self._waiting: deque[_Waiting] = deque()
        self._lock = threading.Lock()

    def enter(self, weight: int) -> None:
        """Return once there is room; blocks."""
        if self._admitted(weight):
            return
        turn = threading.Lock()
        turn.acquire()
        if not self._admitted(weight, turn.release):
            turn.acquire()

    async def enter_async(self, weight: int) -> None:
        """Like enter, for a coroutine."""
        if self._admitted(weight):
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        if self._admitted(weight, partial(self._wake, loop, turn, weight)):
            return
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it had just got the room
                self.leave(weight)
            raise

    def leave(self, weight: int) -> None:
        """Give room back, and let in as many of those who wait as fit."""
        with self._lock:
            self._inside -= weight
            woken = []
            while self._waiting and self._fits(self._waiting[0].weight):
                woken.append(self._waiting.popleft())
                self._inside += woken[-1].weight
        for each in woken:
            each.wake()

    def _admitted(self, weight: int, wake: Callable[[], None] | None = None) -> bool:
        """Let somebody in, or have them wait for `wake`, if they gave one."""
        with self._lock:
            if not self._waiting and self._fits(weight):
                self._inside += weight
                return True
            if wake is not None:
                self._waiting.append(_Waiting(weight, wake))
            return False

    def _fits(self, weight: int) -> bool:
        return not self._inside or self._inside + weight <= self._limit

    def _wake(self, loop: Loop, turn: "asyncio.Future[None]", weight: int) -> None:
        try:
            loop.call_soon_threadsafe(self._grant, turn, weight)
        except RuntimeError:  # its loop is closed: nobody waits there any more
            self.leave(weight)

    def _grant(self, turn: "asyncio.Future[None]", weight: int) -> None:
        if turn.done():  # its caller was cancelled
            self.leave(weight)
        else:
            turn.set_result(None)
