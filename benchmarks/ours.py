"""Our store as a contender: the public API with its defaults, nothing else."""

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from eventstore import EventStore
from projections import SessionState

from .data import Message
from .peers.base import Contender


class Ours(Contender):
    """An EventStore in a directory."""

    name: ClassVar[str] = "ours"
    kind: ClassVar = "ours"

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.reopen()

    def begin(self, session: str) -> object:
        """Create the session."""
        return self.store.create(session)

    def append(self, session: str, prepared: Sequence[Message]) -> Any:
        """Append all in one atomic call."""
        return self.store.append(session, prepared)

    def replay(self) -> object:
        """Read every event, checked and decoded."""
        return deque((recorded.event for recorded in self.store.all()), maxlen=0)

    def full(self, session: str) -> int:
        """Read the state and all its messages."""
        return len(list(SessionState.of(self.store, session).messages))

    def tail(self, session: str, count: int) -> int:
        """Read the state and its last messages."""
        return len(SessionState.of(self.store, session).messages[-count:])

    def branch(self, session: str, at: int, name: str) -> Any:
        """Branch at a version."""
        return self.store.branch(session, name, at=at)

    def reopen(self) -> Any:
        """Open the directory anew."""
        self.store, self._closed = EventStore.open(self.place), False

    def close(self) -> None:
        """Close the store, once."""
        if not self._closed:
            self.store.close()
        self._closed = True
