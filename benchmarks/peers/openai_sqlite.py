"""openai-agents' SQLiteSession on a file: one JSON row per item, WAL and FULL."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from ..data import Message
from .base import AsyncContender


class OpenaiSqlite(AsyncContender):
    """One file; a session object per session."""

    name: ClassVar[str] = "SQLiteSession"
    module: ClassVar[str] = "agents"
    package: ClassVar[str] = "openai-agents"
    sqlite: ClassVar[bool] = True

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._sessions: dict[str, Any] = {}

    def _made(self, session: str) -> Any:
        from agents import SQLiteSession

        return SQLiteSession(session, self.place / "sessions.db")

    def begin(self, session: str) -> object:
        """Make the session object."""
        self._sessions[session] = self._made(session)
        return None

    def append(self, session: str, prepared: Sequence[Message]) -> Any:
        """Add items in one transaction."""
        return self._sessions[session].add_items(prepared)

    async def full(self, session: str) -> int:
        """Read a session, decoded."""
        return len(await self._sessions[session].get_items())

    async def tail(self, session: str, count: int) -> int:
        """Read the last items of a session, decoded."""
        return len(await self._sessions[session].get_items(limit=count))

    def leave(self, session: str) -> object:
        """Close the session object and its connections."""
        self._sessions.pop(session).close()
        return None

    def shut(self) -> None:
        """Close every session object."""
        for each in self._sessions.values():
            each.close()
        self._sessions.clear()

    def reopen(self) -> Any:
        """Make a session object on the same file."""
        self.begin("another")

    def close(self) -> None:
        """Close every session object and the loop."""
        self.shut()
        super().close()
