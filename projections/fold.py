"""fold(), which follows a recipe on demand: over the whole log, one session, or a moment of either.

Invariants: what it gives is what the recipe gives event by event, whichever way is taken.
"""

from datetime import datetime
from typing import TypeVar

from eventstore import EventStore, InvalidEvent
from eventstore.errors import brief
from eventstore.state.lineage import Segment, lineage

from .moment import check_one_moment, moment_position, moment_version
from .projection import Projection, segment_pieces
from .stretches import folded_log

State = TypeVar("State")


def fold(
    store: EventStore,
    projection: Projection[State],
    *,
    session: str | None = None,
    inherited: bool = False,
    at_version: int | None = None,
    at_position: int | None = None,
    at_time: datetime | int | None = None,
    workers: int | None = None,
) -> State:
    """Return the projection's state over the whole log or one session, now or at a moment.

    Of a session the facts of its own stream are folded; with `inherited` the facts its state is
    made of: those of its ancestors up to the fork, and none that were rewound. A whole log is
    shared by `workers` processes where the projection can join(): by default as many as there are
    cores where that pays, and what is found does not depend on them. Raises SessionNotFound and
    InvalidEvent.
    """
    if not isinstance(projection, Projection):
        raise InvalidEvent(f"a Projection is expected, made already, not {brief(projection)}")
    store.flush()
    check_one_moment(at_version, at_position, at_time)
    if session is None:
        if at_version is not None or inherited:
            given = "inherited" if at_version is None else "at_version"
            raise InvalidEvent(f"{given} needs the session that it is about")
        last = moment_position(store, at_position, at_time)
        return folded_log(store, projection, last, workers)
    version = moment_version(store, session, at_version, at_position, at_time)
    segments = [Segment(session, 0, version)]
    if inherited:
        _, segments = lineage(store.log, session, version)
    state = projection.initial()
    for frame, first, stop in segment_pieces(store.log, segments):
        state = projection.evolve_frame(state, frame, first, stop)
    return state
