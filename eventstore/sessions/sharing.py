"""Shared context: a value of one session that another shows by reference, not by copy.

Invariants: a reference is the value {"$ref": {"session": S, "key": K}}; what it stands for is
read at the very moment the reader asked about; a reference to nothing and a circle of references
are errors that say so, when one is made and when one is read.
"""

from typing import Any

from projections import SessionState

from ..errors import InvalidEvent
from ..ids import check_name
from ..messages import Json
from ..store import EventStore

REF = "$ref"


def reference(session: str, key: str) -> dict[str, Json]:
    """Return the value that stands for another session's."""
    return {REF: {"session": session, "key": check_name(key, "context key")}}


def referred(value: Json) -> tuple[str, str] | None:
    """Return the (session, key) that a value refers to, None where it is a plain value."""
    ref = value.get(REF) if isinstance(value, dict) and len(value) == 1 else None
    if not isinstance(ref, dict) or set(ref) != {"session", "key"}:
        return None
    session, key = ref["session"], ref["key"]
    return (session, key) if isinstance(session, str) and isinstance(key, str) else None


def resolved(
    store: EventStore,
    value: Json,
    at_position: int | None = None,
    behind: tuple[str, str] | None = None,
) -> Json:
    """Return the plain value behind one that may be a reference, now or at a position.

    `behind` is the (session, key) that refers to it, which must not come again. Raises
    InvalidEvent for a circle or a missing value, SessionNotFound and SessionDeleted.
    """
    seen = [behind] if behind else []
    while (place := referred(value)) is not None:
        if place in seen:
            circle = " -> ".join(f"{session}.{key}" for session, key in [*seen, place])
            raise InvalidEvent(f"the context goes in a circle: {circle}")
        seen.append(place)
        value = _value(store, *place, at_position)
    return value


def _value(store: EventStore, session: str, key: str, at_position: int | None) -> Any:
    context = SessionState.of(store, session, at_position=at_position).context
    if key not in context:
        raise InvalidEvent(f"session {session!r} has no context value {key!r} to refer to")
    return context[key]
