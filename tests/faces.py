"""The session manager's two faces, called alike, and what tests of it say and read."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from eventstore.sessions import SessionManager, Settings
from eventstore.sessions.aio import AsyncSessionManager

PLAIN = Settings(token_limit=None)
SECONDS_MAX = 60


class Awaiting:
    """The async face, called like the sync one: each call is awaited in one event loop."""

    def __init__(self, manager: SessionManager, runner: asyncio.Runner) -> None:
        self._manager, self._runner = manager, runner

    def __getattr__(self, name):
        if not hasattr(AsyncSessionManager, name):
            return getattr(self._manager, name)
        method = getattr(self._manager.aio, name)
        return lambda *args, **kwargs: self._runner.run(method(*args, **kwargs))


def said(text: str, **fields) -> dict:
    """Return a message of a user."""
    return {"role": "user", "content": text, **fields}


def texts(messages) -> list[str]:
    """Return what messages say."""
    return [message.text for message in messages]


def shown(manager, session: str) -> list[str]:
    """Return what a session shows."""
    return texts(manager.get_messages(session))


def in_threads(count: int, job) -> list:
    """Run job(0), job(1), ... at once and return what they return."""
    start = threading.Barrier(count)
    with ThreadPoolExecutor(count) as pool:
        tasks = [pool.submit(lambda n=n: (start.wait(), job(n))[1]) for n in range(count)]
        return [task.result(SECONDS_MAX) for task in tasks]
