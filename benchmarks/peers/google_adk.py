"""google-adk's SqliteSessionService: a connection per call, a rollback journal and FULL."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from ..data import Message
from .base import AsyncContender

APP, USER = "benchmarks", "user"


class GoogleAdk(AsyncContender):
    """One file; a message is an event whose text is the message's JSON."""

    name: ClassVar[str] = "google-adk sqlite"
    module: ClassVar[str] = "google.adk.sessions.sqlite_session_service"
    package: ClassVar[str] = "google-adk"
    sqlite: ClassVar[bool] = True
    slow: ClassVar[bool] = True

    def __init__(self, place: Path) -> None:
        from google.adk.sessions.sqlite_session_service import SqliteSessionService

        super().__init__(place)
        self._service = SqliteSessionService(str(place / "sessions.db"))
        self._sessions: dict[str, Any] = {}

    async def begin(self, session: str) -> object:
        """Create the session."""
        self._sessions[session] = await self._service.create_session(
            app_name=APP, user_id=USER, session_id=session
        )
        return None

    def prepared(self, session: str, messages: Sequence[Message]) -> Any:  # noqa: ARG002
        """Return events."""
        from google.adk.events.event import Event
        from google.genai.types import Content, Part

        texts = [(each.get("role") or "user", msgspec.json.encode(each)) for each in messages]
        return [
            Event(author=role, content=Content(role=role, parts=[Part(text=text.decode())]))
            for role, text in texts
        ]

    async def append(self, session: str, prepared: Any) -> Any:
        """Append event by event: it has no other way."""
        for event in prepared:
            await self._service.append_event(self._sessions[session], event)

    async def full(self, session: str) -> int:
        """Read a session with all its events."""
        found = await self._service.get_session(app_name=APP, user_id=USER, session_id=session)
        return len(found.events) if found else 0

    async def tail(self, session: str, count: int) -> int:
        """Read a session with its last events."""
        from google.adk.sessions.base_session_service import GetSessionConfig

        found = await self._service.get_session(
            app_name=APP,
            user_id=USER,
            session_id=session,
            config=GetSessionConfig(num_recent_events=count),
        )
        return len(found.events) if found else 0
