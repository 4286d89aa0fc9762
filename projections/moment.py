"""Moments: a place in the past, named by version, position or time.

Invariants: one name at most, none means now; a version or position that is not there yet is an
error, while a time from the newest event on means now, since what comes has later times; time
travel is exact, since recorded time never goes back along positions.
"""

from datetime import datetime

from eventstore import EventStore, InvalidEvent, SessionNotFound
from eventstore.engine.reading import version_at
from eventstore.errors import brief, counted
from eventstore.state.lineage import checked_version


def moment_position(
    store: EventStore,
    at_position: int | None = None,
    at_time: datetime | int | None = None,
) -> int:
    """Return the newest position at a moment of the whole store, -1 before the first event.

    Raises InvalidEvent, also for a position that is not there yet.
    """
    check_one_moment(at_position, at_time)
    store.flush()
    size = store.log.size()
    if at_time is not None:
        return store.position_at(at_time)
    if at_position is None:
        return size - 1
    if isinstance(at_position, bool) or not isinstance(at_position, int):
        raise InvalidEvent(f"a position must be an integer, not {brief(at_position)}")
    if at_position >= size:
        told = f"the log holds {counted(size, 'fact')}, the first at 0"
        raise InvalidEvent(f"there is no position {brief(at_position)} yet: {told}")
    return at_position


def moment_version(
    store: EventStore,
    session: str,
    at_version: int | None = None,
    at_position: int | None = None,
    at_time: datetime | int | None = None,
) -> int:
    """Return the newest version of a session at a moment.

    Raises SessionNotFound (also where the session did not exist yet) and InvalidEvent.
    """
    check_one_moment(at_version, at_position, at_time)
    if at_version is not None:
        return checked_version(store.log, session, at_version)
    if at_position is None and at_time is None:
        return store.version(session)
    version = version_at(store.log, session, moment_position(store, at_position, at_time))
    if version < 0:
        raise missing(store, session)
    return version


def missing(store: EventStore, session: str) -> SessionNotFound:
    """Return the error of a session that was not there at a moment: not yet, or never."""
    if store.log.tail(session) is None:
        return store.log.codec.missing(session)
    return SessionNotFound(session, early=True)


def check_one_moment(*names: object) -> None:
    """Raise InvalidEvent where a moment is named in more than one way."""
    if sum(name is not None for name in names) > 1:
        raise InvalidEvent("name one moment: at_version, at_position or at_time")
