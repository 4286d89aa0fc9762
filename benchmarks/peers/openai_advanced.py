"""openai-agents' AdvancedSQLiteSession: SQLiteSession with turns, usage and branches."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from ..data import Message
from .openai_sqlite import OpenaiSqlite


class OpenaiAdvanced(OpenaiSqlite):
    """Branches are made at a user's turn and copy the structure of what lies before."""

    name: ClassVar[str] = "AdvancedSQLiteSession"

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._roles: dict[str, list[bool]] = {}

    def _made(self, session: str) -> Any:
        from agents.extensions.memory import AdvancedSQLiteSession

        place = self.place / "sessions.db"
        return AdvancedSQLiteSession(session_id=session, db_path=place, create_tables=True)

    def append(self, session: str, prepared: Sequence[Message]) -> Any:
        """Add items in one transaction, and remember where the user spoke."""
        self._roles.setdefault(session, []).extend(each.get("role") == "user" for each in prepared)
        return super().append(session, prepared)

    def branch(self, session: str, at: int, name: str) -> Any:
        """Branch at the user's turn nearest before message `at`."""
        turn = max(sum(self._roles[session][:at]), 1)
        return self._sessions[session].create_branch_from_turn(turn, name)

    def branched(self, session: str) -> Any:
        """Go back to the main branch, which branch() has left."""
        return self._sessions[session].switch_to_branch("main")
