"""salamander-db: an embedded event log in Rust, driven with `durability="sync"`.

Its fork() is not measured: with 0.2.0 a dozen forks of a log of 1,000 events end in a checksum
error, so that a median of many has no meaning.
"""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from ..data import Message
from .base import Contender

PAGE_BATCHES = 1_000
FEED_SECONDS = 30.0


class Salamander(Contender):
    """One database; a session is a namespace."""

    name: ClassVar[str] = "salamander-db"
    module: ClassVar[str] = "salamander"
    package: ClassVar[str] = "salamander-db"

    def __init__(self, place: Path) -> None:
        import salamander

        super().__init__(place)
        self._open = salamander.open
        self.reopen()
        self._sessions: dict[str, int] = {}

    def prepared(self, session: str, messages: Sequence[Message]) -> Any:  # noqa: ARG002
        """Return the descriptors that its append takes."""
        return [{"body": each} for each in messages]

    def append(self, session: str, prepared: Any) -> Any:
        """Append one atomic batch and sync it."""
        self._db.append_batch(session, prepared, durability="sync")
        self._sessions[session] = self._sessions.get(session, 0) + len(prepared)

    def replay(self) -> int:
        """Read everything by its feed, decoded; namespace by namespace it is slower."""
        total = sum(self._sessions.values())
        feed = self._db.watch(start=0, page_batches=PAGE_BATCHES, timeout=FEED_SECONDS)
        events = sum(1 for _ in islice(feed, total))
        feed.close()
        return events

    def full(self, session: str) -> int:
        """Read a namespace, decoded."""
        return len(self._db.replay(session))

    def reopen(self) -> Any:
        """Open the database anew."""
        self._db = self._open(str(self.place / "log"))

    def close(self) -> None:
        """Close the database."""
        self._db.close()
