"""SessionState: a session as it is, or was at any version, position or time.

Invariants: the small header is folded, the messages are read when looked at; a state shows one
moment and doesn't move; at the newest version it is what every command decides from, since both
are the same fold (eventstore.state.header).
"""

import copy
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Self

from eventstore import EventStore, Message, SessionDeleted
from eventstore.clock import to_datetime
from eventstore.state.header import SessionHeader
from eventstore.state.transcript import Transcript

from .moment import moment_version


class SessionState:
    """One moment of one session: `header` and the lazy sequence `messages`."""

    def __init__(self, header: SessionHeader, messages: Sequence[Message]) -> None:
        self.header, self.messages = header, messages

    @classmethod
    def of(
        cls,
        store: EventStore,
        session: str,
        *,
        at_version: int | None = None,
        at_position: int | None = None,
        at_time: datetime | int | None = None,
    ) -> Self:
        """Return the state now, or at one past moment; costs the same for any length.

        Raises SessionNotFound (also where the session did not exist yet at that moment),
        SessionDeleted (only when asked for now), KeyShredded (whatever is asked for of an erased
        session) and InvalidEvent.
        """
        store.flush()
        if at_version is None and at_position is None and at_time is None:
            header = store.headers.now(session)
            if header.status == "deleted":
                raise SessionDeleted(session)
        else:
            version = moment_version(store, session, at_version, at_position, at_time)
            header = store.headers.at(session, version)
        store.headers.check_readable(session)
        store.note_read(session, "state", header.version)
        return cls(header, Transcript(store.log, header.spans))

    session = property(lambda self: self.header.session)
    version = property(lambda self: self.header.version)
    position = property(lambda self: self.header.position)
    status = property(lambda self: self.header.status)
    tokens = property(lambda self: self.header.tokens)
    user = property(lambda self: self.header.user)
    parent = property(lambda self: self.header.parent)
    created_at = property(lambda self: to_datetime(self.header.created_at))
    updated_at = property(lambda self: to_datetime(self.header.updated_at))

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata at this moment, yours to change."""
        return copy.deepcopy(self.header.metadata)

    @property
    def context(self) -> dict[str, Any]:
        """The context variables at this moment, yours to change."""
        return copy.deepcopy(self.header.context)

    def __repr__(self) -> str:
        return (
            f"<SessionState {self.session!r}@{self.version} {self.status}, "
            f"messages={len(self.messages)}, tokens={self.tokens}>"
        )
