"""Quoting: the summaries that were made of a line, wherever in the log they stand.

Invariants: what a summary stands for is what its fact says, so that whether it is shown does not
matter, now or ever: what was rewound, or deleted with its session, is found too; a summary of a
summary is one of all that went into it; one that was made when a line had been redacted was not
made of it; what is found can still be read.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .. import events as ev
from ..errors import KeyShredded
from ..events import Span
from ..log.base import Log, frames_at, frames_between
from ..log.format import MESSAGE, TYPE_CODES
from ..log.recorded import Recorded
from ..spans import minus
from ..state.header import SessionHeader
from ..state.lineage import fold_segments, lineage

NOTES = frozenset(TYPE_CODES[kind] for kind in (ev.HistorySummarized, ev.BranchMerged))
"""Types of facts that may be shown as a summary."""

_TOLD = NOTES | {TYPE_CODES[ev.Redacted]}


class Quote(NamedTuple):
    """A summary that was made of a line and can still be read: where its fact stands."""

    session: str
    version: int
    position: int


def fact_at(log: Log, session: str, version: int) -> Recorded:
    """Return a fact that is known to be there."""
    frame = frames_at(log, session, version, frames_max=1)[0]
    return Recorded(frame, version - frame.version)


def line_of(recorded: Recorded) -> Span:
    """Return the line that a message, or a fact with a summary, is shown as."""
    note = recorded.type_code != MESSAGE
    start = recorded.version if note else recorded.number
    return Span(recorded.session, start, start + 1, note)


def quotes_of_message(log: Log, session: str, version: int) -> list[Quote]:
    """Return the summaries that were made of one message, or of one summary."""
    recorded = fact_at(log, session, version)
    return _quotes(log, [line_of(recorded)], recorded.position)


def quotes_of_session(log: Log, session: str) -> list[Quote]:
    """Return the summaries that others made of what is said in a session. It must exist."""
    tail = log.tail(session)
    assert tail is not None
    first = frames_at(log, session, 0, frames_max=1)[0].position
    notes = (each for each in _facts(log, first) if each.session == session)
    lines = [line_of(each) for each in notes if each.type_code in NOTES]
    found = _quotes(log, [Span(session, 0, tail.messages), *lines], first)
    return [quote for quote in found if quote.session != session]


def _quotes(log: Log, lines: Sequence[Span], position: int) -> list[Quote]:
    """Return the summaries of any of these lines, none of which is older than a position.

    One way along the log: a summary comes after all that it is made of. It takes 1 to 3 us an
    event; of messages only the heads of their frames are looked at.
    """
    told, found = list(lines), []
    for recorded in _facts(log, position):
        if recorded.type_code not in NOTES:
            told = minus(told, _hidden_by(log, recorded, told))
        elif minus(told, _stood_for(log, recorded)) != told:
            told.append(line_of(recorded))
            found.append(recorded)
    going = set(log.erasing())  # their payloads go anyway
    left = [each for each in found if not (each.erased or each.session in going)]
    return [Quote(each.session, each.version, each.position) for each in left]


def _facts(log: Log, position: int) -> Iterator[Recorded]:
    """Iterate over what may be a summary or take one away, from a position on."""
    for frame in frames_between(log, position):
        if not frame.only_messages:
            yield from (each for each in frame.recorded() if each.type_code in _TOLD)


def _hidden_by(log: Log, recorded: Recorded, told: Sequence[Span]) -> list[Span]:
    """Return the line that a redaction hides: what is summarised later is not made of it."""
    if all(span.session != recorded.session for span in told):
        return []
    fact = recorded.event
    assert isinstance(fact, ev.Redacted)
    return [line_of(fact_at(log, recorded.session, fact.version))]


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
    theirs = _lines_at(log, merge.source, merge.source_version)
    return minus(theirs, _lines_at(log, *merge.base[0])) if merge.base else theirs


def _lines_at(log: Log, session: str, version: int) -> list[Span]:
    """Return the lines of a state, with those that are hidden since."""
    return fold_segments(log, SessionHeader(), lineage(log, session, version)[1])[0].spans
