"""SQLite without anybody in front: one table, WAL and FULL, bytes that are ready."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from ..data import Message
from .base import Contender


class RawSqlite(Contender):
    """Rows of (position, session, bytes), indexed by session."""

    name: ClassVar[str] = "sqlite WAL FULL"

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._connection = sqlite3.connect(place / "rows.db", check_same_thread=False)
        self._connection.executescript(
            """
            PRAGMA journal_mode = WAL;
            PRAGMA synchronous = FULL;
            CREATE TABLE rows (position INTEGER PRIMARY KEY, session TEXT, body BLOB);
            CREATE INDEX by_session ON rows (session);
            """
        )

    def prepared(self, session: str, messages: Sequence[Message]) -> Any:
        """Return rows."""
        return [(session, msgspec.json.encode(each)) for each in messages]

    def append(self, session: str, prepared: Any) -> Any:  # noqa: ARG002
        """Insert in one transaction."""
        with self._connection:
            self._connection.executemany("INSERT INTO rows (session, body) VALUES (?, ?)", prepared)

    def replay(self) -> int:
        """Read all rows."""
        return sum(1 for _ in self._connection.execute("SELECT * FROM rows ORDER BY position"))

    def full(self, session: str) -> int:
        """Read all rows of a session."""
        query = "SELECT body FROM rows WHERE session = ? ORDER BY position"
        return len(self._connection.execute(query, (session,)).fetchall())

    def tail(self, session: str, count: int) -> int:
        """Read the last rows of a session."""
        query = "SELECT body FROM rows WHERE session = ? ORDER BY position DESC LIMIT ?"
        return len(self._connection.execute(query, (session, count)).fetchall())

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
