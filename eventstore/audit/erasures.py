"""What the walk finds gone: every payload that is missing needs a fact that says why.

Invariants: events come in the order of the log; what is kept in memory is runs of versions and of
lines, not single ones; which lines must be hidden, and which sessions count as erased, follows
from the frames, and the rows that say so are compared with it.
"""

from bisect import bisect_right
from collections.abc import Iterator

from ..events import AnyEvent, EraseRequested, KeyShredded, Redacted, Span
from ..log.format import ERASED_KEY, ERASURES_KEY, HIDDEN_KEY, REF, TYPE_CODES
from ..log.frame import Frame
from ..log.shredding import line_at
from .report import Notes

_ERASE_REQUESTED, _KEY_SHREDDED = TYPE_CODES[EraseRequested], TYPE_CODES[KeyShredded]

REASONS = frozenset((_ERASE_REQUESTED, _KEY_SHREDDED, TYPE_CODES[Redacted]))
"""Types of facts that say why something is gone."""


class Runs:
    """Numbers, as runs `start <= number < stop` in order that don't touch each other.

    Whatever the order in which they come, each is found by bisection: who redacts every second of
    a million messages must not have them looked through a million times.
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._stops, strict=True)

    def __contains__(self, number: int) -> bool:
        index = bisect_right(self._starts, number)
        return index > 0 and number < self._stops[index - 1]

    def add(self, number: int) -> None:
        """Put one number in."""
        if number in self:
            return
        starts, stops, index = self._starts, self._stops, bisect_right(self._starts, number)
        low = index - (index > 0 and stops[index - 1] == number)
        high = index + (index < len(starts) and starts[index] == number + 1)
        start, stop = min([number, *starts[low:high]]), max([number + 1, *stops[low:high]])
        starts[low:high], stops[low:high] = [start], [stop]

    def drop(self, number: int) -> None:
        """Take one number out."""
        if number not in self:
            return
        index = bisect_right(self._starts, number) - 1
        start, stop = self._starts[index], self._stops[index]
        left = [each for each in ((start, number), (number + 1, stop)) if each[0] < each[1]]
        self._starts[index : index + 1] = [start for start, _ in left]
        self._stops[index : index + 1] = [stop for _, stop in left]


class _Session:
    """What is gone of one session: versions, those that facts tell of, messages and notes."""

    def __init__(self, name: str) -> None:
        self.name, self.newest = name, -1
        self.gone, self.told, self.lines, self.notes = Runs(), Runs(), Runs(), Runs()

    def hidden(self) -> list[Span]:
        """Return the lines that no list may show."""
        return [Span(self.name, *run) for run in self.lines] + [
            Span(self.name, *run, note=True) for run in self.notes
        ]


class Erasures:
    """Collects what is gone, by the references of sessions."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self.erased: dict[int, bool] = {}
        """Whether an erasure is still going on."""
        self._sessions: dict[int, _Session] = {}

    @property
    def hidden(self) -> dict[int, list[Span]]:
        """The lines that no list may show, of each session that has such."""
        found = {ref: each.hidden() for ref, each in self._sessions.items()}
        return {ref: lines for ref, lines in found.items() if lines}

    def _of(self, frame: Frame) -> _Session:
        found = self._sessions.get(frame.session_ref)
        if found is None:
            found = self._sessions[frame.session_ref] = _Session(frame.session)
        return found

    def left(self, frame: Frame, index: int) -> None:
        """Take an event whose payload is gone."""
        session = self._of(frame)
        self._notes.checked["erased payloads"] += 1
        session.gone.add(frame.version + index)
        session.newest = frame.position + index
        line = line_at(frame, index)
        if line is not None:
            (session.notes if line.note else session.lines).add(line.start)

    def said(self, frame: Frame, code: int, event: AnyEvent | None) -> None:
        """Take a fact that may say why something is gone; `event` is None where it is sealed."""
        ref = frame.session_ref
        if code == _ERASE_REQUESTED:
            self.erased[ref] = True
            self._of(frame).gone = Runs()
        elif code == _KEY_SHREDDED:
            self.erased[ref] = False
        elif isinstance(event, Redacted):
            session = self._of(frame)
            if event.version not in session.gone and event.version not in session.told:
                what = f"version {event.version} of session {frame.session!r} is redacted by it"
                self._notes.add(frame.position, f"{what} and still has its payload")
            session.gone.drop(event.version)
            session.told.add(event.version)

    def finish(self) -> None:
        """Note the payloads that are gone without a reason; every fact could be read."""
        for session in self._sessions.values():
            for start, stop in session.gone:
                what = f"the payloads of versions {start} to {stop - 1} of session "
                what += f"{session.name!r} are gone and no fact says why"
                self._notes.add(session.newest, what)

    def rows(self) -> set[bytes]:
        """Return the keys in the table `meta` that there must be."""
        keys = {HIDDEN_KEY + REF.pack(ref) for ref in self.hidden}
        keys |= {ERASED_KEY + REF.pack(ref) for ref in self.erased}
        lost = any(each.newest >= 0 for each in self._sessions.values())
        return keys | {ERASURES_KEY} if keys or lost else keys
