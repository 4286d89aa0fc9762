"""langgraph's SqliteSaver: a checkpoint of all messages per step, and the step's writes."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from ..data import Message
from .base import Contender

CHANNEL = "messages"
TASK = "task"


class LanggraphSaver(Contender):
    """A thread per session; an append is put() and put_writes(), as one step of a graph does."""

    name: ClassVar[str] = "langgraph SqliteSaver"
    module: ClassVar[str] = "langgraph.checkpoint.sqlite"
    package: ClassVar[str] = "langgraph-checkpoint-sqlite"
    sqlite: ClassVar[bool] = True
    per_message: ClassVar[bool] = True

    def __init__(self, place: Path) -> None:
        from langgraph.checkpoint.base import empty_checkpoint
        from langgraph.checkpoint.sqlite import SqliteSaver

        super().__init__(place)
        self._empty = empty_checkpoint
        self._connection = sqlite3.connect(place / "checkpoints.db", check_same_thread=False)
        self._saver = SqliteSaver(self._connection)
        self._saver.setup()
        self._heads: dict[str, Any] = {}
        self._messages: dict[str, list[Message]] = {}
        self._middles: dict[str, Any] = {}

    def append(self, session: str, prepared: Sequence[Message]) -> Any:
        """Put a checkpoint with all messages so far, and the writes that led to it."""
        messages = [*self._messages.get(session, []), *prepared]
        self._messages[session] = messages
        head = self._heads.get(session) or _config(session)
        self._heads[session] = self._put(head, messages)
        self._saver.put_writes(self._heads[session], [(CHANNEL, list(prepared))], TASK)

    def _put(self, config: Any, messages: list[Message]) -> Any:
        checkpoint = self._empty()
        checkpoint["channel_values"] = {CHANNEL: messages}
        return self._saver.put(config, checkpoint, {"source": "loop", "step": len(messages)}, {})

    def full(self, session: str) -> int:
        """Read the newest checkpoint, decoded."""
        found = self._saver.get_tuple(_config(session))
        return len(found.checkpoint["channel_values"][CHANNEL]) if found else 0

    def tail(self, session: str, count: int) -> int:
        """Read the newest checkpoint, which holds all messages, and take the last."""
        found = self._saver.get_tuple(_config(session))
        return len(found.checkpoint["channel_values"][CHANNEL][-count:]) if found else 0

    def branch(self, session: str, at: int, name: str) -> Any:  # noqa: ARG002
        """Fork as `update_state` on an old checkpoint does: read it and put a copy under it."""
        middle = self._middles.get(session)
        if middle is None:
            middle = self._middles[session] = self._put(
                _config(session), self._messages[session][:at]
            )
        found = self._saver.get_tuple(middle)
        assert found is not None
        self._put(middle, found.checkpoint["channel_values"][CHANNEL])

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _config(session: str) -> Any:
    return {"configurable": {"thread_id": session, "checkpoint_ns": ""}}
