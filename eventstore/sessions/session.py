"""Session: what a manager tells about a session, without its messages.

Invariants: a snapshot of one moment, yours to change; it equals the store's own fold at that
version, whether it comes from the cache or not; times are ns since the epoch.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypedDict, Unpack

import msgspec

from projections import SessionState

from ..log.base import Receipt
from ..messages import Json
from ..state.header import SessionHeader
from ..store import EventStore
from .cache import HeaderCache

CURRENT = "current"
"""The context key on a root session that says which of its branches is current."""


class Moment(TypedDict, total=False):
    """A past moment, named in one way at most; none means now."""

    at_version: int | None
    at_position: int | None
    at_time: datetime | int | None


class Session(msgspec.Struct, kw_only=True):
    """A session's header: `messages` and `tokens` are those of its visible lines.

    `name` is what every method takes as `session`; `expired` is true when `expires_at` had come
    as this was read; `external` is what find_by() goes by; `max_bytes` limits the payloads of
    the visible messages; `parent`, `at_version`, `branch_name` and `description` say where a
    branch came from; `current` names the branch that switch() chose, on a root session.
    """

    name: str
    version: int
    position: int
    status: str
    expired: bool = False
    user: str | None
    metadata: dict[str, Json]
    context: dict[str, Json]
    messages: int
    tokens: int
    tool_calls: int
    errors: int
    created_at: int
    updated_at: int
    ttl: float | None
    expires_at: int | None
    max_messages: int | None
    token_limit: int | None
    template: str | None
    parent: str | None
    at_version: int | None
    depth: int
    branch_name: str | None
    description: str | None

    @property
    def external(self) -> dict[str, Json]:
        """Interface, user, chat and conversation that the session belongs to, where known."""
        found = self.metadata.get("external")
        return found if isinstance(found, dict) else {}

    @property
    def max_bytes(self) -> int | None:
        """Payload bytes of the visible messages that the session takes, None for no limit."""
        found = self.metadata.get("max_bytes")
        return found if isinstance(found, int) else None

    @property
    def current(self) -> str | None:
        """The branch that was switched to, None for the root itself and on branches."""
        found = self.context.get(CURRENT) if self.parent is None else None
        return found if isinstance(found, str) else None

    @property
    def usable(self) -> bool:
        """True where the session takes messages: active and not expired."""
        return self.status == "active" and not self.expired

    def to_dict(self) -> dict[str, Json]:
        """Return it as plain JSON."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


_SHARED = set(Session.__struct_fields__) & set(SessionHeader.__struct_fields__) - {"name"}
_GIVEN = ("metadata", "context", "user", "max_messages", "token_limit", "template")
"""What a creation without a time to live says of a session."""
_encode = msgspec.msgpack.Encoder().encode
_decode: Callable[[bytes], Session] = msgspec.msgpack.Decoder(Session).decode


def _encoded(header: SessionHeader) -> bytes:
    fields = {field: getattr(header, field) for field in _SHARED}
    names = {"name": header.session, "branch_name": header.name}
    return _encode({**names, "messages": header.messages, **fields})


_NEW: dict[str, Any] = msgspec.msgpack.decode(_encoded(SessionHeader()))
"""What a session is before anything is said of it."""


class SessionReader:
    """Reads sessions through the cache."""

    def __init__(self, store: EventStore, cache: HeaderCache) -> None:
        self._store, self._cache = store, cache

    def get(self, session: str, **moment: Unpack[Moment]) -> Session:
        """Return a session now, or at a past moment.

        Raises SessionNotFound, SessionDeleted, KeyShredded and InvalidEvent.
        """
        if any(value is not None for value in moment.values()):
            header = SessionState.of(self._store, session, **moment).header
            return self._dated(_decode(_encoded(header)))
        version, count = self._store.version(session), self._store.log.erasures()
        data = self._cache.get(session, version, count)
        if data is None:
            return self._read(session, count)
        self._store.note_read(session, "state", version)
        return self._dated(_decode(data))

    def made(self, receipt: Receipt, facts: Mapping[str, Any]) -> Session:
        """Return a session that was just made with what EventStore.create takes.

        Mostly the facts tell all, without reading: that would cost a third of a creation more. It
        is not cached: the first message makes it another version.
        """
        if receipt.duplicate or facts["ttl"] is not None or facts["messages"]:
            return self.branched(receipt.session)
        told = {
            "name": receipt.session,
            "version": receipt.version,
            "position": receipt.position,
            "created_at": receipt.recorded_at,
            "updated_at": receipt.recorded_at,
        }
        given = {field: facts[field] for field in _GIVEN}
        return self._dated(_decode(_encode({**_NEW, **told, **given})))

    def branched(self, session: str) -> Session:
        """Return a session that was just made and that only reading tells of, as of a branch."""
        return self._read(session, self._store.log.erasures())

    def _read(self, session: str, count: int) -> Session:
        """Read a session and keep it, as true for an erasure count of before."""
        header = SessionState.of(self._store, session).header
        data = _encoded(header)
        self._cache.put(header.session, header.version, count, data)
        return self._dated(_decode(data))

    def _dated(self, session: Session) -> Session:
        ends = session.expires_at
        session.expired = ends is not None and self._store.engine.now() >= ends
        return session
