"""What the sessions of a file show, line by line: what is hidden, covered or moved must be there.

Invariants: a fact may hide, cover or move only lines that its session shows, each once, and says
their tokens as they are counted, so that every state adds up; what a session showed is known at
every version, by the runs of lines after each fact that changed more than their end.
"""

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from ..engine.quoting import lines_at
from ..errors import InvalidEvent
from ..events import (
    AnyEvent,
    BranchCreated,
    BranchMerged,
    HistorySummarized,
    MessageAppended,
    MessagesPruned,
    SessionCreated,
    SessionRewound,
    Span,
)
from ..log.base import Log
from ..spans import extended, length, minus, replaced
from ..state.transcript import tokens_of
from .lines import Line


class _Stream:
    """What one session showed when; a message takes 4 bytes, any other fact too.

    `tokens` are those of its messages, by number, `notes` those of summaries, by version; `others`
    are the versions of all that is no message; `points` are (version, messages of its own by then,
    lines).
    """

    def __init__(self, lines: list[Span]) -> None:
        self.tokens, self.others = array("I"), array("I")
        self.notes: dict[int, int] = {}
        self.points = [(0, 0, lines)]

    def shown_at(self, session: str, version: int) -> list[Span]:
        """Return the lines at a version; the caller owns the list."""
        at = bisect_right(self.points, version, key=lambda point: point[0]) - 1
        _, before, lines = self.points[at]
        lines, number = [*lines], version + 1 - bisect_right(self.others, version)
        if number > before:
            extended(lines, session, before, number)
        return lines


class Shown:
    """The sessions of a file as far as it was read; others are looked up in the store."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._streams: dict[str, _Stream] = {}

    def take(self, line: Line, event: AnyEvent) -> None:
        """Take in the next event of a session. Raises InvalidEvent."""
        session, version = line.session, line.version
        if isinstance(event, SessionCreated):
            self._streams[session] = _Stream([])
        elif isinstance(event, BranchCreated):
            self._streams[session] = _Stream(self._at(event.parent, event.at_version))
        stream = self._streams[session]
        if isinstance(event, MessageAppended):
            stream.tokens.append(event.tokens)
            return
        stream.others.append(version)
        lines = self._changed(session, version, event)
        if lines is not None:
            stream.points.append((version, len(stream.tokens), lines))

    def _at(self, session: str, version: int) -> list[Span]:
        stream = self._streams.get(session)
        if stream is None:
            return lines_at(self._log, session, version)
        return stream.shown_at(session, version)

    def _changed(self, session: str, version: int, event: AnyEvent) -> list[Span] | None:
        """Return what a session shows after an event, None where that changes nothing."""
        if isinstance(event, SessionRewound):
            return self._at(session, event.to_version)
        if not isinstance(event, (MessagesPruned, HistorySummarized, BranchMerged)):
            return None
        now, note = self._at(session, version), Span(session, version, version + 1, note=True)
        if isinstance(event, MessagesPruned):
            _check_shown(now, event.spans)
            _check_sum(event.tokens, self._tokens(event.spans), "tokens")
            return minus(now, event.spans)
        if isinstance(event, HistorySummarized):
            _check_shown(now, event.spans)
            _check_sum(event.tokens_before, self._tokens(event.spans), "tokens_before")
            self._streams[session].notes[version] = event.tokens
            return replaced(now, event.spans, note)
        if event.into == session:
            self._check_merge(now, event)
            self._streams[session].notes[version] = event.summary_tokens
            noted = [] if event.summary is None else [note]
            return [*minus(now, event.hidden), *event.brought, *noted]
        return None

    def _check_merge(self, now: list[Span], event: BranchMerged) -> None:
        _check_shown(now, event.hidden)
        theirs = self._at(event.source, event.source_version)
        left = minus(now, event.hidden)
        if minus(event.brought, [*now, *theirs]) or minus(event.brought, left) != event.brought:
            raise InvalidEvent("it brings lines that its source does not show, or that are there")
        if _has_twins(event.brought):
            raise InvalidEvent("it brings a line twice")
        found = self._tokens(event.brought) - self._tokens(event.hidden) + event.summary_tokens
        _check_sum(event.tokens, found, "tokens")

    def _tokens(self, spans: Sequence[Span]) -> int:
        return sum(self._tokens_in(span) for span in spans)

    def _tokens_in(self, span: Span) -> int:
        stream = self._streams.get(span.session)
        if stream is None:
            return tokens_of(self._log, [span])
        if span.note:
            return stream.notes[span.start]
        return sum(stream.tokens[span.start : span.stop])


def _check_shown(now: Sequence[Span], spans: Sequence[Span]) -> None:
    """Raise InvalidEvent unless all these lines are shown, and each is named once."""
    if length(now) - length(minus(now, spans)) != length(spans):
        raise InvalidEvent("it names lines that the session does not show, or one twice")


def _check_sum(tokens: int, found: int, what: str) -> None:
    if tokens != found:
        raise InvalidEvent(f"{what} must be {found}, as its lines have it, not {tokens}")


def _has_twins(spans: Sequence[Span]) -> bool:
    """Return True where a line is in the spans twice."""
    ordered = sorted(spans, key=lambda span: (span.session, span.note, span.start))
    return any(
        (one.session, one.note) == (other.session, other.note) and other.start < one.stop
        for one, other in pairwise(ordered)
    )
