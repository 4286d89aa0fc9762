"""Driving: one generator of steps, run by a thread that waits or by an event loop that doesn't.

Invariants: what steps yield is a call of foreign code, and they get back its result, awaited where
it can be, or its exception, raised where it was yielded; the rest of a step is our own work, which
an event loop leaves to threads; steps that have begun end, also when their caller is cancelled.
In one lane one caller at a time goes on, the others in the order in which they came; who would
close a circle of waits is refused.
"""

import asyncio
import inspect
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from ..errors import InvalidEvent
from ..store import EventStore

R = TypeVar("R")

Call = partial[Any]
"""Foreign code with its arguments; it may be a coroutine function."""

Steps = Generator[Call, Any, R]


class _Outcome(NamedTuple):
    value: Any
    error: BaseException | None


Run = Callable[[Callable[[], _Outcome]], Coroutine[Any, Any, _Outcome]]
"""Runs a blocking call in a thread."""


def _outcome(call: Callable[[], Any]) -> _Outcome:
    """Return what a call gives or raises; a future could not carry a StopIteration."""
    try:
        return _Outcome(call(), None)
    except BaseException as error:  # noqa: BLE001 - it is raised again where it belongs
        return _Outcome(None, error)


# -- a thread that waits ---------------------------------------------------------------------


def drive(steps: Steps[R]) -> R:
    """Run steps in this thread; awaitables run in an event loop of their own."""
    runner = asyncio.Runner()  # not entered: it makes a loop only when it runs something
    try:
        return _driven(steps, runner)
    finally:
        runner.close()


def _driven(steps: Steps[R], runner: asyncio.Runner) -> R:
    move: Callable[[], Call] = partial(next, steps)
    while True:
        try:
            call = move()
        except StopIteration as end:
            found: R = end.value
            return found
        try:
            value = _waited(call(), runner)
        except BaseException as error:  # noqa: BLE001 - the steps say what becomes of it
            move = partial(steps.throw, error)
        else:
            move = partial(steps.send, value)


def _waited(found: Any, runner: asyncio.Runner) -> Any:
    """Return the result behind what may be an awaitable."""
    if not inspect.isawaitable(found):
        return found
    with suppress(RuntimeError):
        asyncio.get_running_loop()
        if inspect.iscoroutine(found):
            found.close()
        raise InvalidEvent("this thread runs an event loop; await the method of `.aio` instead")
    return runner.run(_awaited(found))


async def _awaited(found: Awaitable[Any]) -> Any:
    return await found


# -- an event loop that doesn't --------------------------------------------------------------


async def drive_async(steps: Steps[R], run: Run) -> R:
    """Run steps from an event loop: coroutine functions in it, all else in threads."""
    move: Callable[[], Call] = partial(next, steps)
    while True:
        try:
            done = await _whole(run(partial(_outcome, move)))
        except asyncio.CancelledError as error:
            move = partial(steps.throw, error)
            continue
        if isinstance(done.error, StopIteration):
            found: R = done.error.value
            return found
        if done.error is not None:
            raise done.error
        value, failure = await _called(done.value)
        move = partial(steps.send, value) if failure is None else partial(steps.throw, failure)


async def _whole(work: Coroutine[Any, Any, _Outcome]) -> _Outcome:
    """Return what the work gives; it ends before a cancellation goes on."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():  # also where the caller is cancelled again meanwhile
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        raise


async def _called(call: Call) -> _Outcome:
    """Return what foreign code gives or raises: coroutine functions run here, else in threads."""
    function: Any = call.func
    here = any(map(inspect.iscoroutinefunction, (function, function.__call__)))
    try:
        done = _Outcome(call(), None) if here else await asyncio.to_thread(_outcome, call)
        if inspect.isawaitable(done.value):
            return _Outcome(await done.value, None)
    except BaseException as error:  # noqa: BLE001 - the steps say what becomes of it
        return _Outcome(None, error)
    return done


# -- one at a time ---------------------------------------------------------------------------

_held: ContextVar[frozenset[Future[None]]] = ContextVar("held", default=frozenset())
"""The tickets on which the code at hand was let in: it can't wait for itself."""


_Queue = deque[Future[None]]

_entered: dict[Future[None], tuple[frozenset[Future[None]], _Queue]] = {}
"""All tickets of all lanes: those that their owner held before, and the queue they stand in."""

_lock = threading.Lock()
"""Guards all lanes: a circle may go through the lanes of several stores."""


def _waits_for(queue: _Queue, held: frozenset[Future[None]]) -> bool:
    """Return True where somebody in a queue waits, over however many others, for one of `held`."""
    reached, ahead = set[Future[None]](), list(queue)
    while ahead:
        ticket = ahead.pop()
        if ticket in held:
            return True
        if ticket not in reached:
            reached.add(ticket)
            for inner, (outer, line) in _entered.items():
                if ticket in outer:  # it goes on once this one has had its turn
                    ahead += islice(line, line.index(inner))
    return False


class Lanes:
    """Lets one caller at a time into each lane; a ticket is done when it is its turn."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}

    def enter(self, lane: str) -> Future[None]:
        """Return a ticket to wait for. Raises InvalidEvent where the wait would never end."""
        ticket, held = Future[None](), _held.get()
        with _lock:
            queue = self._queues.get(lane, deque())
            if not held.isdisjoint(queue):
                raise InvalidEvent(f"a turn of session {lane!r} can't wait for another one of it")
            if held and _waits_for(queue, held):
                raise InvalidEvent(
                    f"a turn of session {lane!r} waits for the turn that asks it; "
                    "both would wait for ever"
                )
            self._queues[lane] = queue
            _entered[ticket] = held, queue
            queue.append(ticket)
            if len(queue) == 1:
                ticket.set_result(None)
        return ticket

    def leave(self, lane: str, ticket: Future[None]) -> None:
        """Give a ticket back, used or not, and let the next one in."""
        with _lock:
            queue = self._queues[lane]
            queue.remove(ticket)
            del _entered[ticket]
            if not queue:
                del self._queues[lane]
            elif not queue[0].done():
                with suppress(InvalidStateError):  # cancelled just now: its owner leaves, too
                    queue[0].set_result(None)

    def alone(self, lane: str, steps: Steps[R]) -> R:
        """Run steps in this thread when it is their turn in the lane."""
        ticket = self.enter(lane)
        token = _held.set(_held.get() | {ticket})
        try:
            ticket.result()
            return drive(steps)
        finally:
            _held.reset(token)
            self.leave(lane, ticket)

    async def alone_async(self, lane: str, steps: Steps[R], run: Run) -> R:
        """Run steps from an event loop when it is their turn in the lane."""
        ticket = self.enter(lane)
        token = _held.set(_held.get() | {ticket})
        try:
            await asyncio.wrap_future(ticket)
            return await drive_async(steps, run)
        finally:
            _held.reset(token)
            self.leave(lane, ticket)


_of_stores: WeakKeyDictionary[EventStore, Lanes] = WeakKeyDictionary()
_of_stores_lock = threading.Lock()


def lanes_of(store: EventStore) -> Lanes:
    """Return the lanes of an open store, one a session, which live as long as it does."""
    with _of_stores_lock:
        return _of_stores.setdefault(store, Lanes())
