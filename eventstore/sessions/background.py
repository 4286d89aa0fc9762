"""Background: one thread beside a store, which works from start() until stop().

Invariants: there is at most one thread at a time; stop() returns when it is done, and so does the
closing of its store and the interpreter's end; an object that was stopped is known to nobody, so
that a store outlives any number of them.
"""

import atexit
import threading
from abc import ABC, abstractmethod
from typing import Self

from ..store import EventStore


class Background(ABC):
    """What works beside a store; a context manager that starts and stops. `name` is the thread's.

    Whoever inherits says what is to be done in _work(), and in _wake() how a wait in it ends.
    """

    def __init__(self, store: EventStore, name: str) -> None:
        self._store, self._name = store, name
        self._lock = threading.Lock()
        self._halt = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """True while the background thread is alive."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def start(self) -> None:
        """Start the background thread; does nothing while it runs."""
        with self._lock:
            if self.running:
                return
            self._halt = threading.Event()
            self._thread = threading.Thread(
                target=self._work, args=(self._halt,), name=self._name, daemon=True
            )
            self._thread.start()
            self._store.on_close(self.stop)
            atexit.register(self.stop)

    def stop(self) -> None:
        """Stop after the work at hand and return when the thread is done; idempotent."""
        with self._lock:
            self._halt.set()
            thread, self._thread = self._thread, None
            self._store.off_close(self.stop)
            atexit.unregister(self.stop)
        self._wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    def _work(self, halt: threading.Event) -> None:
        """Work until `halt` is set."""

    def _wake(self) -> None:  # noqa: B027 - most work waits for nothing but `halt`
        """End a wait for anything but `halt`, which is set."""
