"""Projection, the recipe of a view, and fold(), which follows it on demand.

Invariants: a recipe depends on nothing but the facts it is shown, in order, so that the same
facts always give the same state; evolve() may change and return the state it is given; a frame
as a whole gives the state that its events give one by one, which tests hold every fast path to.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

from eventstore import EventStore, InvalidEvent, Recorded
from eventstore.engine.reading import PAGE_FRAMES, type_codes
from eventstore.ids import SYSTEM
from eventstore.log.base import Log, frames_at
from eventstore.log.format import MESSAGE
from eventstore.log.frame import Frame
from eventstore.state.lineage import Segment, lineage

from .moment import check_one_moment, moment_position, moment_version

State = TypeVar("State")

Stretch = tuple[Frame, int, int]
"""A frame and the versions `first..last` (both included, cut to the frame) that count."""


class Projection(ABC, Generic[State]):
    """A recipe that turns facts into a view.

    `name` and `revision` say whose state it is: raise the revision when evolve() changes.
    `types` are the names of the event types it wants to see, None for all. The state of a
    `keyed` projection is a mutable mapping of str to rows, kept row by row and, for lists, in
    each of `orders`: name -> bytes of a row that sort. `row_type` is what msgspec rebuilds a kept
    state (or row) as; `Any` suits dicts, lists and scalars.

    Facts that were redacted or erased are left out, unless it is `about_erased` and can do with
    their heads and their structure.
    """

    name: ClassVar[str]
    revision: ClassVar[int] = 1
    types: ClassVar[frozenset[str] | None] = None
    keyed: ClassVar[bool] = False
    row_type: ClassVar[Any] = Any
    about_erased: ClassVar[bool] = False
    orders: ClassVar[Mapping[str, Callable[[Any], bytes]]] = {}

    @abstractmethod
    def initial(self) -> State:
        """Return the state before the first fact."""

    @abstractmethod
    def evolve(self, state: State, recorded: Recorded) -> State:
        """Return the state after one more fact; `recorded.event` is decoded when looked at."""

    def evolve_frame(self, state: State, frame: Frame, first: int, last: int) -> State:
        """Return the state after the frame's events of versions `first..last`.

        Override it where a whole frame is cheaper than its events one by one.
        """
        codes = self._codes
        if codes is not None and frame.only_messages and MESSAGE not in codes:
            return state
        for recorded in frame.recorded(first, last):
            wanted = codes is None or recorded.type_code in codes
            if wanted and (self.about_erased or not recorded.erased):
                state = self.evolve(state, recorded)
        return state

    def evolve_log(self, state: State, log: Log, last: int) -> State:
        """Return the state after the log up to and with position `last`.

        What is about the store itself is left out. Override it where of messages only heads are
        looked at, see Log.tally().
        """
        for frame, first, stop in log_stretches(log, last):
            state = self.evolve_frame(state, frame, first, stop)
        return state

    @cached_property
    def _codes(self) -> set[int] | None:
        return None if self.types is None else type_codes(self.types)


def fold(
    store: EventStore,
    projection: Projection[State],
    *,
    session: str | None = None,
    inherited: bool = False,
    at_version: int | None = None,
    at_position: int | None = None,
    at_time: datetime | int | None = None,
) -> State:
    """Return the projection's state over the whole log or one session, now or at a moment.

    Of a session the facts of its own stream are folded; with `inherited` the facts its state is
    made of: those of its ancestors up to the fork, and none that were rewound. Raises
    SessionNotFound and InvalidEvent.
    """
    store.flush()
    check_one_moment(at_version, at_position, at_time)
    state = projection.initial()
    if session is None:
        if at_version is not None or inherited:
            raise InvalidEvent("at_version and inherited need the session they are about")
        last = moment_position(store, at_position, at_time)
        return projection.evolve_log(state, store.log, last)
    version = moment_version(store, session, at_version, at_position, at_time)
    segments = [Segment(session, 0, version)]
    if inherited:
        _, segments = lineage(store.log, session, version)
    for frame, first, stop in segment_stretches(store.log, segments):
        state = projection.evolve_frame(state, frame, first, stop)
    return state


def log_stretches(log: Log, last: int) -> Iterator[Stretch]:
    """Iterate over the log up to and with position `last`, without what is about the store."""
    position = 0
    while position <= last:
        for frame in log.read_all(position, PAGE_FRAMES):
            if frame.position > last:
                return
            position = frame.last_position + 1
            if frame.session != SYSTEM:
                stop = frame.last_version - max(position - 1 - last, 0)
                yield frame, frame.version, stop


def segment_stretches(log: Log, segments: Iterable[Segment]) -> Iterator[Stretch]:
    """Iterate over the segments of a lineage, in order."""
    for segment in segments:
        version = segment.first
        while version <= segment.last:
            for frame in frames_at(log, segment.session, version, frames_max=PAGE_FRAMES):
                if frame.version > segment.last:
                    break
                yield frame, max(version, frame.version), min(segment.last, frame.last_version)
                version = frame.last_version + 1
