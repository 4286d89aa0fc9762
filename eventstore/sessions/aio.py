"""The session manager for coroutines: the same methods, run in threads, awaitable.

Invariants: nothing here decides or repeats anything: each coroutine runs the very method of the
manager, with its signature; the event loop never waits for a disk; a call whose caller was
cancelled still ends, as any command that was sent does.
"""

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from ..errors import StoreUnavailable
from .care import Care

P = ParamSpec("P")
R = TypeVar("R")


def awaited(
    method: Callable[Concatenate[Any, P], R],
) -> Callable[Concatenate["AsyncSessionManager", P], Coroutine[Any, Any, R]]:
    """Return a method of the manager as a coroutine method of its async face."""

    @wraps(method)
    async def call(face: "AsyncSessionManager", /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await face.run(partial(method, face.manager, *args, **kwargs))

    return call


class AsyncSessionManager:
    """`manager.aio`: every method of the manager as a coroutine."""

    def __init__(self, manager: Care, close: Callable[[], None]) -> None:
        self.manager, self._close = manager, close
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._released = False

    create = awaited(Care.create)
    find_or_create = awaited(Care.find_or_create)
    find_by = awaited(Care.find_by)
    get = awaited(Care.get)
    exists = awaited(Care.exists)
    list = awaited(Care.list)
    count = awaited(Care.count)
    search = awaited(Care.search)
    close_session = awaited(Care.close_session)
    reopen = awaited(Care.reopen)
    archive = awaited(Care.archive)
    delete = awaited(Care.delete)
    extend_ttl = awaited(Care.extend_ttl)

    add_message = awaited(Care.add_message)
    add_messages = awaited(Care.add_messages)
    get_messages = awaited(Care.get_messages)
    message_count = awaited(Care.message_count)
    truncate = awaited(Care.truncate)
    clear = awaited(Care.clear)
    record_tool_call = awaited(Care.record_tool_call)
    record_error = awaited(Care.record_error)

    update_metadata = awaited(Care.update_metadata)
    set_context = awaited(Care.set_context)
    get_context = awaited(Care.get_context)
    share = awaited(Care.share)
    template = awaited(Care.template)
    templates = awaited(Care.templates)
    templates_of = awaited(Care.templates_of)
    save_template = awaited(Care.save_template)
    save_as_template = awaited(Care.save_as_template)
    delete_template = awaited(Care.delete_template)

    branch = awaited(Care.branch)
    switch = awaited(Care.switch)
    current = awaited(Care.current)
    merge = awaited(Care.merge)
    compare = awaited(Care.compare)
    path = awaited(Care.path)
    tree = awaited(Care.tree)

    statistics = awaited(Care.statistics)
    health = awaited(Care.health)
    learned_ttl = awaited(Care.learned_ttl)
    build_context = awaited(Care.build_context)
    summarize = awaited(Care.summarize)
    plan_pruning = awaited(Care.plan_pruning)
    prune = awaited(Care.prune)
    cleanup = awaited(Care.cleanup)
    start = awaited(Care.start)
    stop = awaited(Care.stop)

    async def close(self) -> None:
        """Close the manager; a session is closed by close_session()."""
        await asyncio.to_thread(self._close)

    async def run(self, call: Callable[[], R]) -> R:
        """Return what `call` returns, run in one of the settings' `workers` threads."""
        with self._lock:
            if self._released:
                raise StoreUnavailable("the session manager is closed; open another one")
            if self._pool is None:
                workers = self.manager.settings.workers
                self._pool = ThreadPoolExecutor(workers, thread_name_prefix="eventstore-sessions")
            future = self._pool.submit(contextvars.copy_context().run, call)
        return await asyncio.wrap_future(future)

    def release(self) -> None:
        """Return when the calls at hand are done, and take no more; idempotent."""
        with self._lock:
            self._released, pool = True, self._pool
        if pool is not None:
            pool.shutdown()
