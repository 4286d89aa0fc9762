"""The store for coroutines: the same commands and readers, awaitable, on the same engine.

Invariants: nothing here decides anything; what a command was given is encoded at the call, and
whatever is wrong with it is raised by the await; thousands of concurrent callers share commits and
the event loop is entered once per commit; pages are read in a thread, so that the loop never waits
for a disk.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator
from datetime import datetime
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from .engine import reading
from .engine.commands import Commands
from .engine.quoting import Quote
from .engine.requests import Request
from .engine.runner import Engine
from .engine.subscription import Subscription
from .log.base import Head, Receipt
from .log.recorded import Recorded

if TYPE_CHECKING:
    from .store import EventStore

_END: reading.Page = []

Promise = Coroutine[Any, Any, Receipt]
"""What a command gives: a receipt when it is awaited."""


class AsyncStore(Commands[Promise]):
    """`store.aio`: every command as a coroutine, every reader as an async iterator."""

    def __init__(self, store: "EventStore", engine: Engine) -> None:
        self._store, self._engine = store, engine
        self.count_tokens = store.count_tokens

    def _submit(self, request: Request) -> Promise:
        # What reads no state is encoded now: the caller may change its message before the await.
        return self._engine.run_async(request, self._engine.drafted_now(request))

    async def events(
        self,
        session: str,
        from_version: int = 0,
        to_version: int | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
    ) -> AsyncIterator[Recorded]:
        """Iterate over one stream, both ends included. Raises SessionNotFound."""
        make = partial(self._store.event_pages, session, from_version, to_version, reverse=reverse)
        pages = await asyncio.to_thread(make)
        async for recorded in _flat(pages, limit):
            yield recorded

    async def all(
        self,
        from_position: int = 0,
        *,
        limit: int | None = None,
        types: Collection[str] | None = None,
    ) -> AsyncIterator[Recorded]:
        """Iterate over the whole log."""
        pages = await asyncio.to_thread(self._store.log_pages, from_position, types)
        async for recorded in _flat(pages, limit):
            yield recorded

    async def event(self, position: int) -> Recorded:
        """Return the event at a position."""
        return await asyncio.to_thread(self._store.event, position)

    async def head(self) -> Head:
        """Return the tree head."""
        return await asyncio.to_thread(self._store.head)

    async def exists(self, session: str) -> bool:
        """Return True if the session was ever created."""
        return await asyncio.to_thread(self._store.exists, session)

    async def version(self, session: str) -> int:
        """Return the newest version of a session."""
        return await asyncio.to_thread(self._store.version, session)

    async def position_at(self, moment: datetime | int) -> int:
        """Return the newest position recorded at or before a time, -1 where none was."""
        return await asyncio.to_thread(self._store.position_at, moment)

    async def sessions(self) -> AsyncIterator[str]:
        """Iterate over the names of all sessions and branches, in order."""
        for name in await asyncio.to_thread(lambda: list(self._store.sessions())):
            yield name

    async def quoting(self, session: str, message: str | int | None = None) -> list[Quote]:
        """Return the summaries that were made of a message, or of all that a session said."""
        return await asyncio.to_thread(self._store.quoting, session, message)

    def subscribe(self, from_position: int = 0, *, follow: bool = True) -> Subscription:
        """Return an async iterator over the log that waits for more."""
        return self._store.subscribe(from_position, follow=follow)

    def follow(self, session: str, from_version: int = 0) -> Subscription:
        """Return an async iterator over one session's events that waits for more."""
        return self._store.follow(session, from_version)

    async def flush(self) -> None:
        """Return once everything acknowledged so far is durable."""
        await asyncio.to_thread(self._store.flush)


async def _flat(pages: Iterator[reading.Page], limit: int | None) -> AsyncIterator[Recorded]:
    left = reading.checked_limit(limit)
    while (page := await asyncio.to_thread(next, pages, _END)) is not _END:
        for recorded in page:
            if left is not None:
                if left <= 0:
                    return
                left -= 1
            yield recorded


def _promised(command: Callable[..., Promise]) -> Callable[..., Promise]:
    """Return a command that never raises at the call: other coroutines made with it would be lost.

    That takes 0.1 us.
    """

    @wraps(command)
    def call(*args: Any, **options: Any) -> Promise:
        try:
            return command(*args, **options)
        except Exception as error:  # noqa: BLE001 - a caller's token counter may raise anything
            return _refusal(error)

    return call


async def _refusal(error: Exception) -> Receipt:
    raise error


for _name, _command in inspect.getmembers(Commands, inspect.isfunction):
    if not _name.startswith("_"):
        setattr(AsyncStore, _name, _promised(_command))
