"""Quoting: the summaries that were made of a line, wherever in the log they stand.

Invariants: what a summary stands for is what its fact says, so that whether it is shown does not
matter, now or ever: what was rewound, or deleted with its session, is found too; a summary of a
summary is one of all that went into it; one that was made when a line had been redacted was not
made of it; what is found can still be read.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

from .. import events as ev
from ..errors import KeyShredded
from ..events import Span
from ..log.base import Log, fact_at, facts_of, frames_between, tail_of
from ..log.format import NOTES, TYPE_CODES
from ..log.frame import Frame
from ..log.recorded import Recorded
from ..log.shredding import line_at
from ..spans import minus
from ..state.header import SessionHeader
from ..state.lineage import Segment, fold_segments, lineage

_TOLD = NOTES | {TYPE_CODES[ev.Redacted]}


class Quote(NamedTuple):
    """A summary that was made of a line and can still be read: where its fact stands."""

    session: str
    version: int
    position: int


def lines_of(recorded: Recorded) -> list[Span]:
    """Return the line that a message, or a fact with a summary, is shown as; of others none."""
    line = line_at(recorded.frame, recorded.index)
    return [] if line is None else [line]


class Quoting:
    """The summaries that were made of some lines, as far as the log was read."""

    def __init__(self, lines: Sequence[Span], position: int, but: Sequence[str] = ()) -> None:
        self._told, self._position, self._but = list(lines), position, but
        self._found: list[tuple[str, int]] = []

    @classmethod
    def of_message(cls, log: Log, session: str, version: int) -> Self:
        """Return it for one message, or one summary."""
        recorded = fact_at(log, session, version)
        return cls(lines_of(recorded), recorded.position)

    @classmethod
    def of_session(cls, log: Log, session: str) -> Self:
        """Return it for all that a session says, its summaries too; they are not among those found.

        Raises SessionNotFound.
        """
        lines = [Span(session, 0, tail_of(log, session).messages)]
        for recorded in facts_of(log, session, 0, ev.HistorySummarized, ev.BranchMerged):
            lines += lines_of(recorded)
        return cls(lines, fact_at(log, session, 0).position, [session])

    def read_on(self, log: Log) -> list[Quote]:
        """Return those that can be read, in the order of the log, with what came since last time.

        One way along the log: a summary comes after all that it is made of. It takes 1 to 3 us an
        event; of messages only the heads of their frames are looked at.
        """
        facts, but = self.ever(log), {*self._but, *log.erasing()}  # where payloads go anyway
        return [
            Quote(each.session, each.version, each.position)
            for each in facts
            if each.session not in but and not each.erased
        ]

    def ever(self, log: Log) -> list[Recorded]:
        """Return the facts of all that were ever found, with those that can't be read any more."""
        for frame in frames_between(log, self._position):
            for recorded in _told_in(frame):
                self._take(log, recorded)
            self._position = frame.last_position + 1
        return [fact_at(log, *place) for place in self._found]

    def _take(self, log: Log, recorded: Recorded) -> None:
        if recorded.type_code not in NOTES:
            self._told = minus(self._told, _hidden_by(log, recorded, self._told))
        elif minus(self._told, _stood_for(log, recorded)) != self._told:
            self._told += lines_of(recorded)
            self._found.append((recorded.session, recorded.version))


def _told_in(frame: Frame) -> list[Recorded]:
    """Return what of a frame may be a summary or take one away."""
    if frame.only_messages:
        return []
    return [each for each in frame.recorded() if each.type_code in _TOLD]


def _hidden_by(log: Log, recorded: Recorded, told: Sequence[Span]) -> list[Span]:
    """Return the line that a redaction hides: what is summarised later is not made of it."""
    if all(span.session != recorded.session for span in told):
        return []
    fact = recorded.event
    assert isinstance(fact, ev.Redacted)
    return lines_of(fact_at(log, recorded.session, fact.version))


def _stood_for(log: Log, recorded: Recorded) -> list[Span]:
    """Return the lines that a fact's summary was made of, nothing where it has none."""
    try:
        event = recorded.structure
    except KeyShredded:  # erased, and nobody can read any more what it was made of
        return []
    if isinstance(event, ev.HistorySummarized):
        return event.spans
    if isinstance(event, ev.BranchMerged) and event.into == recorded.session:
        return [] if event.summary is None else _news(log, event)
    return []


def _news(log: Log, merge: ev.BranchMerged) -> list[Span]:
    """Return the lines of a merge's source that were new since the two sides last met."""
    theirs = lines_at(log, merge.source, merge.source_version)
    return minus(theirs, lines_at(log, *merge.base[0])) if merge.base else theirs


def lines_at(log: Log, session: str, version: int) -> list[Span]:
    """Return the lines of a state, with those that are hidden since."""
    return _folded(log, lineage(log, session, version)[1]).spans


def sources_of(log: Log, session: str, version: int) -> set[str]:
    """Return the sessions of which a state, which must exist, has lines or values; itself too."""
    segments = lineage(log, session, version)[1]
    header = _folded(log, segments)
    shown = {segment.session for segment in segments} | {span.session for span in header.spans}
    return shown | header.merges.keys()


def _folded(log: Log, segments: list[Segment]) -> SessionHeader:
    return fold_segments(log, SessionHeader(), segments)[0]
