"""What an event says about other events, checked against the log as it stood at that moment.

Invariants: events come in the order of the log; what is kept in memory is three numbers for each
stream and the merges whose other half is still to come.
"""

from array import array
from collections.abc import Callable

from ..errors import EventStoreError
from ..events import (
    AnyEvent,
    BranchCreated,
    BranchMerged,
    HistorySummarized,
    MessagesPruned,
    Redacted,
    SessionRewound,
    Span,
)
from ..log.base import POSITION_MAX
from ..log.format import CREATING, TYPE_CODES
from ..log.frame import Frame
from ..log.recorded import Recorded
from ..log.shredding import stripped
from ..spans import length
from .report import Notes

MERGED = TYPE_CODES[BranchMerged]

Complaint = str | None
Place = tuple[int, int, int]
"""How far a stream has come: next version, messages, last position or -1."""

Named = Callable[[str], int | None]
"""Returns the reference of a session's name, None for no such session."""


NOWHERE: Place = 0, 0, -1
"""Where a stream stands that has not begun."""

REFS_A_STREAM = 8
"""References that arrays make room for, a stream that has begun: so many take less than a row of a
dict. Sessions share their numbers with actors, so some lie fallow."""

REFS_MIN = 1_024
"""And so many more."""


class Places:
    """The place of each stream, by its reference, in three numbers each.

    References are numbers from 1 on, so arrays hold them, in a tenth of the room; a reference that
    is far from all others, as where a walk begins, or where somebody made it up, stands in a dict.
    """

    def __init__(self) -> None:
        self._versions, self._messages, self._positions = array("q"), array("q"), array("q")
        self._far: dict[int, Place] = {}
        self._begun = 0

    def at(self, ref: int) -> Place:
        """Return how far a stream has come."""
        if ref in self._far:
            return self._far[ref]
        if ref >= len(self._versions):
            return NOWHERE
        return self._versions[ref], self._messages[ref], self._positions[ref]

    def fits(self, ref: int, place: Place) -> bool:
        """Return True if a stream has come just so far."""
        return self.at(ref) == place

    def move(self, ref: int, version: int, messages: int, position: int) -> None:
        """Note where a stream goes on."""
        self._begun += self.at(ref) == NOWHERE
        missing = ref + 1 - len(self._versions)
        far = missing > 0 and ref > self._begun * REFS_A_STREAM + REFS_MIN
        if far or ref in self._far or position > POSITION_MAX:
            self._far[ref] = version, messages, position
            return
        if missing > 0:
            self._versions.extend([0] * missing)
            self._messages.extend([0] * missing)
            self._positions.extend([-1] * missing)
        self._versions[ref], self._messages[ref] = version, messages
        self._positions[ref] = position


class Merges:
    """The two halves of each merge, which stand in two streams, in any order."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._halves: dict[tuple[str, int], tuple[BranchMerged, str, int]] = {}
        self._silent: set[str] = set()
        """Sessions of which a merge was erased that nobody could read any more."""

    def take(self, frame: Frame, index: int, event: AnyEvent | None) -> None:
        """Put a half to the other one, if that came before; `event` is None where it is gone."""
        if not isinstance(event, BranchMerged):
            self._silent.add(frame.session)
            return
        key, position = (event.into, event.into_version), frame.position + index
        half = self._halves.pop(key, None)
        if half is None:
            self._halves[key] = event, frame.session, position
        elif stripped(half[0]) != stripped(event) or half[1] == frame.session:
            self._notes.add(position, "BranchMerged: its two halves differ")

    def finish(self) -> None:
        """Note every merge of which only one half was seen."""
        for event, session, position in self._halves.values():
            other = event.into if session == event.source else event.source
            if other not in self._silent:
                self._notes.add(position, f"BranchMerged: no such fact in session {other!r}")


class Relations:
    """Forks, merges, rewinds and spans of lines, one event after the other."""

    def __init__(self, places: Places, named: Named, merges: Merges, notes: Notes) -> None:
        self._places, self._named, self._merges, self._notes = places, named, merges, notes

    def check(self, frame: Frame, index: int, event: AnyEvent | None) -> None:
        """Check an event that is no message, or what is left of any event that was erased."""
        position, version = frame.position + index, frame.version + index
        # Its own stream has come as far as the event before it.
        self._places.move(frame.session_ref, version, frame.message_number(index), position - 1)
        code = frame.row(index)[3]
        if (version == 0) != (code in CREATING):
            self._notes.add(position, f"{Recorded(frame, index).type} at version {version}")
        if code == MERGED:
            self._merges.take(frame, index, event)
        try:
            complaint = self._complaint(event, frame.session, version)
        except EventStoreError as error:
            self._notes.add_error(error, position)
        else:
            if complaint:
                self._notes.add(position, f"{type(event).__name__}: {complaint}")

    def _complaint(self, event: AnyEvent | None, session: str, version: int) -> Complaint:
        if isinstance(event, BranchCreated):
            return self._missing(event.parent, event.at_version)
        if isinstance(event, (SessionRewound, Redacted)):
            target = event.to_version if isinstance(event, SessionRewound) else event.version
            return None if 0 <= target < version else f"version {target} is not before it"
        if isinstance(event, (MessagesPruned, HistorySummarized)):
            return self._lines(event.spans, event.count)
        if isinstance(event, BranchMerged):
            return self._merge(event, session, version)
        return None

    def _missing(self, session: str, version: int) -> Complaint:
        """Say so if a session had no such version yet."""
        ref = self._named(session)
        known = 0 if ref is None else self._places.at(ref)[0]
        return None if 0 <= version < known else f"session {session!r} had no version {version}"

    def _lines(self, spans: list[Span], count: int) -> Complaint:
        """Say so if a span shows lines that there were not, or they are not `count`."""
        if length(spans) != count:
            return f"its spans show {length(spans)} lines instead of {count}"
        return next((each for each in map(self._line, spans) if each), None)

    def _line(self, span: Span) -> Complaint:
        if span.note:
            wrong = span.stop != span.start + 1
            return f"{span} is no one line" if wrong else self._missing(span.session, span.start)
        ref = self._named(span.session)
        known = 0 if ref is None else self._places.at(ref)[1]
        if not 0 <= span.start < span.stop <= known:
            return f"session {span.session!r} had no messages {span.start} to {span.stop - 1}"
        return None

    def _merge(self, event: BranchMerged, session: str, version: int) -> Complaint:
        if session not in {event.source, event.into}:
            return f"it stands in session {session!r}"
        if session == event.source:
            return self._missing(event.into, event.into_version)
        if event.into_version != version:
            return f"it calls itself version {event.into_version} instead of {version}"
        return self._missing(event.source, event.source_version) or self._lines(
            event.brought + event.hidden, length(event.brought) + length(event.hidden)
        )
