"""The lead: which thread of a process commits; and the bell that its writer thread hears.

Invariants: one leader at a time, and who waits for the lead is next, however busy its holder is;
wherever an interrupt falls, the lead is given up. What a signal handler raises comes out in the
main thread as a function begins, a call ends or a loop turns, nowhere else. So `with` has no hole
where __exit__ is written in C, as that of a lock is; it has one where it is written in Python, and
two around a generator. threading's Event and Condition are of that kind, and not used here.
"""

import threading
from _thread import RLock

from ..errors import StoreUnavailable


class Lead(RLock):  # type: ignore[misc]  # a stub calls it final; it may be inherited from
    """`with lead:` waits for it in turn; or acquire(blocking=False) and at the end release()."""

    def __init__(self) -> None:
        self._turn = threading.RLock()

    def __enter__(self) -> bool:  # type: ignore[override]  # and __exit__ stays as it is, in C
        """Wait in turn. Raises StoreUnavailable where this thread leads already."""
        self.check_free()
        try:
            with self._turn:
                self.acquire()
        except BaseException:
            self.give_up()
            raise
        return True

    def check_free(self) -> None:
        """Raise StoreUnavailable where this thread leads already: inside of its own commit."""
        if self._is_owned():  # type: ignore[attr-defined]  # a stub leaves it out
            raise StoreUnavailable(
                "a signal handler or finalizer can't write into a store that its own thread is "
                "writing into; have it tell another thread"
            )

    def give_up(self) -> None:
        """Release the lead if this thread has it."""
        try:
            self.release()
        except RuntimeError:
            return


class Bell:
    """Wakes the one thread that waits for it, now or as soon as it waits; rings don't add up."""

    def __init__(self) -> None:
        self._silence = threading.Lock()
        self._silence.acquire()

    def ring(self) -> None:
        """Wake who waits, or who waits next."""
        if self._silence.locked():
            try:
                self._silence.release()
            except RuntimeError:
                return  # two rang at once

    def wait(self, seconds: float = -1) -> None:
        """Return once it has rung since the last time, or after so many seconds."""
        self._silence.acquire(timeout=seconds)
