"""Room in front of the writer: how much may wait at once, for callers that block and that await.

Invariants: what is inside never weighs more than the limit, but for one thing that alone is
heavier; room is given in the order it was asked for; a caller that goes away while it waits, or is
interrupted anywhere, leaves none behind it waiting.
"""

import asyncio
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

Loop = asyncio.AbstractEventLoop


class _Waiting(NamedTuple):
    """One that waits: what it weighs, and what wakes it once there is room."""

    weight: int
    wake: Callable[[], None]


class Room:
    """A limit in any unit; what enters is known by its identity until it leaves."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._weight = 0
        self._inside: dict[object, int] = {}
        self._waiting: dict[object, _Waiting] = {}
        self._lock = threading.RLock()

    def enter(self, who: object, weight: int) -> None:
        """Return once there is room; blocks."""
        try:
            if self.admits(who, weight):
                return
            turn = threading.Lock()
            turn.acquire()
            if not self.admits(who, weight, turn.release):
                turn.acquire()
        except BaseException:
            self.leave([who])
            raise

    async def enter_async(self, who: object, weight: int) -> None:
        """Like enter, for a coroutine that was not let in at once."""
        try:
            loop = asyncio.get_running_loop()
            turn: asyncio.Future[None] = loop.create_future()
            if not self.admits(who, weight, partial(self._wake, loop, turn, who)):
                await turn
        except BaseException:
            self.leave([who])
            raise

    def leave(self, those: Iterable[object]) -> None:
        """Give the room of those back who have any or wait for it; let in as many as fit."""
        with self._lock:
            for who in those:
                self._waiting.pop(who, None)
                if who in self._inside:  # from here on no call: no interrupt comes in between
                    self._weight -= self._inside[who]
                    del self._inside[who]
            self._let_in()

    def _let_in(self) -> None:
        """Let those in who are next, while they fit."""
        while self._waiting:
            who = next(iter(self._waiting))
            weight, wake = self._waiting[who]
            if not self._fits(weight):
                return
            del self._waiting[who]  # from here on no call before who waits knows
            self._inside[who] = weight
            self._weight += weight
            wake()

    def admits(self, who: object, weight: int, wake: Callable[[], None] | None = None) -> bool:
        """Let somebody in, or have them wait for `wake`, if they gave one."""
        with self._lock:
            if not self._waiting and self._fits(weight):
                self._inside[who] = weight
                self._weight += weight
                return True
            if wake is not None:
                self._waiting[who] = _Waiting(weight, wake)
            return False

    def _fits(self, weight: int) -> bool:
        return not self._weight or self._weight + weight <= self._limit

    def _wake(self, loop: Loop, turn: "asyncio.Future[None]", who: object) -> None:
        try:
            loop.call_soon_threadsafe(_grant, turn)
        except RuntimeError:  # its loop is closed: nobody waits there any more
            self.leave([who])


def _grant(turn: "asyncio.Future[None]") -> None:
    if not turn.done():  # else its caller was cancelled, and has left
        turn.set_result(None)
