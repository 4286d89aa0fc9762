"""Projection, the recipe of a view, and the pieces of frames that it is shown.

Invariants: a recipe depends on nothing but the facts it is shown, in order, so that the same
facts always give the same state; evolve() may change and return the state it is given; a frame
as a whole gives the state that its events give one by one, which tests hold every fast path to.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar, Generic, Self, TypeVar

from eventstore import EventStore, Recorded
from eventstore.engine.reading import PAGE_FRAMES, type_codes
from eventstore.ids import SYSTEM
from eventstore.log.base import Log, frames_at, frames_between
from eventstore.log.format import MESSAGE
from eventstore.log.frame import Frame
from eventstore.state.lineage import Segment

State = TypeVar("State")

Piece = tuple[Frame, int, int]
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
        codes, evolve, about_erased = self._codes, self.evolve, self.about_erased
        if codes is not None and frame.only_messages and MESSAGE not in codes:
            return state
        for recorded in frame.recorded(first, last):
            wanted = codes is None or recorded.type_code in codes
            if wanted and (about_erased or not recorded.erased):
                state = evolve(state, recorded)
        return state

    def evolve_log(self, state: State, log: Log, first: int, last: int) -> State:
        """Return the state after positions `first..last` of the log.

        What is about the store itself is left out. Override it where of messages only heads are
        looked at, see Log.tally().
        """
        for frame, begin, stop in log_pieces(log, first, last):
            state = self.evolve_frame(state, frame, begin, stop)
        return state

    def join(self, before: State, after: State) -> State:
        """Return the state after two stretches of the log, each of which began with initial().

        Override it where that can be told: then all cores fold a large log together. It may change
        and return `before`; `after` is rebuilt by msgspec as `row_type`. Nothing calls the default,
        since `joins` tells of it.
        """
        raise NotImplementedError

    @classmethod
    def on(cls, store: EventStore) -> Self:  # noqa: ARG003 - for recipes that ask the store
        """Return the recipe for a store, as another process makes it: by default without arguments.

        Override it where it takes any.
        """
        return cls()

    @property
    def joins(self) -> bool:
        """True where states can be joined, and another process can make this very recipe."""
        kind = type(self)
        own = vars(self).keys() - {"_codes"}  # which follow from the class
        anew = not own or kind.on.__func__ is not Projection.on.__func__  # type: ignore[attr-defined]
        return anew and kind.join is not Projection.join and not self.keyed

    @cached_property
    def _codes(self) -> set[int] | None:
        return None if self.types is None else type_codes(self.types)


def log_pieces(log: Log, first: int, last: int) -> Iterator[Piece]:
    """Iterate over positions `first..last` of the log, without what is about the store."""
    for frame in frames_between(log, first, last + 1, PAGE_FRAMES):
        if frame.session == SYSTEM:
            continue
        if first <= frame.position and frame.last_position <= last:
            yield frame, frame.version, frame.last_version
        else:
            yield frame, *versions_within(frame, first, last)


def versions_within(frame: Frame, first: int, last: int) -> tuple[int, int]:
    """Return the first and the last version of a frame at positions `first..last`."""
    begin = frame.version + max(first - frame.position, 0)
    return begin, frame.last_version - max(frame.last_position - last, 0)


def segment_pieces(log: Log, segments: Iterable[Segment]) -> Iterator[Piece]:
    """Iterate over the segments of a lineage, in order."""
    for segment in segments:
        version = segment.first
        while version <= segment.last:
            for frame in frames_at(log, segment.session, version, frames_max=PAGE_FRAMES):
                if frame.version > segment.last:
                    break
                yield frame, max(version, frame.version), min(segment.last, frame.last_version)
                version = frame.last_version + 1
