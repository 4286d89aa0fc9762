"""What a log remembers of its newest commit, so that the next one needs no look at the disk.

Invariants: what Newest holds is as of one commit of this process, and is used only where LMDB's
newest is that one: otherwise somebody else has written since, and the disk is asked. Of commits
that settle after a later one began nothing is remembered. What is read of the newest commit of ours
is remembered with it. What Seen holds is as of one count of erasures.
"""

import threading
from typing import NamedTuple

import msgspec

from ..audit.tree import Frontier
from .base import Tail
from .frame import Frame

TAILS_CACHED_MAX = 10_000
NEVER = -1
"""The number of no commit."""


class Edge(msgspec.Struct, frozen=True):
    """Where a log ends: what a plan builds on, whatever its streams."""

    frontier: Frontier
    recorded_at: int
    next_ref: int
    any_erased: bool
    erasures: int


class Seen(NamedTuple):
    """What reads know: the commit they looked at, its erasure count, frames remembered since."""

    commit: int
    erasures: int
    frames: dict[int, Frame]


class Newest:
    """The edge and the newest places of streams, as of this process's newest commit."""

    def __init__(self) -> None:
        self._edge: Edge | None
        self._tails: dict[str, Tail]
        self._lock, self._begun = threading.Lock(), NEVER
        self.forget()

    def forget(self) -> None:
        """Know nothing: a commit failed, or somebody else has written."""
        self._commit = self._coming = NEVER
        self._edge, self._tails = None, {}

    def begun(self, number: int) -> Edge | None:
        """Return the edge that transaction `number` builds on, None where another wrote it."""
        with self._lock:
            self._begun = number
            if self._commit != number - 1:
                self.forget()
            return self._edge

    def ending(self, number: int) -> None:
        """Take note of the number that a transaction gets if its commit succeeds.

        One that changed nothing gets none: the next commit, perhaps another's, has that number.
        """
        self._coming = number

    def settle(self, number: int, edge: Edge, tails: dict[str, Tail]) -> None:
        """Remember what a transaction that is durable now has changed."""
        with self._lock:  # else the next one's first look could fall into the midst of this
            if self._begun == number:
                known = {} if len(self._tails) > TAILS_CACHED_MAX else self._tails
                known.update(tails)
                self._tails, self._edge, self._commit = known, edge, number

    def learn(self, number: int, session: str, tail: Tail) -> None:
        """Remember a stream's newest place, as read in commit `number`, where that is ours."""
        with self._lock:
            if number == self._commit and len(self._tails) <= TAILS_CACHED_MAX:
                self._tails[session] = tail

    def staged_on(self, session: str) -> Tail | None:
        """Return a stream's newest place, for the transaction that has begun()."""
        return self._tails.get(session)

    def tail(self, newest: int, session: str) -> Tail | None:
        """Return a stream's newest place where the `newest` commit is ours, and settled."""
        return self._tails.get(session) if newest == self._commit else None

    def erasures(self, newest: int) -> int | None:
        """Return the erasure count where the `newest` commit is ours, and settled."""
        edge = self._edge if newest == self._commit else None  # one that came between is newer
        return edge.erasures if edge else None

    def settled_tail(self, newest: int, session: str) -> Tail | None:
        """Like tail(), but also where LMDB has our own next commit and settle() is about to come.

        Whoever reads facts must not use this: they may be newer than it.
        """
        return self._tails.get(session) if newest in (self._commit, self._coming) else None
