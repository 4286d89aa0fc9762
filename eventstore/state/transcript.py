"""The visible messages of a session, read page by page when somebody looks.

Invariants: a Sequence of Message, oldest first; the last N cost O(N) whatever the length; it
shows one moment and doesn't move when the session goes on; a summary is one message of role
`system` whose metadata says what it covers.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import overload

from ..errors import Corruption, counted
from ..events import BranchMerged, HistorySummarized, MessageAppended, Span
from ..ids import message_id
from ..log.base import Log, fact_at, frames_at
from ..log.format import MESSAGE
from ..log.frame import Frame
from ..log.recorded import Recorded
from ..messages import Json, Message
from ..spans import cut, length

PAGE_FRAMES = 256


class Transcript(Sequence[Message]):
    """Messages behind a list of spans; slices are lists, and only what is asked for is read."""

    def __init__(self, log: Log, spans: Sequence[Span]) -> None:
        self._log, self._spans = log, spans
        self._length = length(spans)

    def __repr__(self) -> str:
        return f"<Transcript of {counted(self._length, 'message')}>"

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> list[Message]: ...
    def __getitem__(self, index: int | slice) -> Message | list[Message]:
        if isinstance(index, slice):
            start, stop, step = index.indices(self._length)
            if step == 1:
                return list(self._messages(start, stop))
            return [self[each] for each in range(start, stop, step)]
        if not -self._length <= index < self._length:
            raise IndexError(f"message {index} of {self._length}")
        index %= self._length
        return next(self._messages(index, index + 1))

    def __iter__(self) -> Iterator[Message]:
        return self._messages(0, self._length)

    def _messages(self, start: int, stop: int) -> Iterator[Message]:
        """Iterate over messages alone, in a third of the time that lines() takes."""
        return chain.from_iterable(self._runs(start, stop))

    def _runs(self, start: int, stop: int) -> Iterator[Iterable[Message]]:
        for span in cut(self._spans, start, stop):
            if span.note:
                yield [note_message(fact_at(self._log, span.session, span.start))]
            else:
                yield from _said(self._log, span)

    def lines(self, start: int, stop: int) -> Iterator[tuple[Span, Recorded, Message]]:
        """Iterate over lines as (span of that one line, event behind it, message)."""
        for span in cut(self._spans, start, stop):
            if span.note:
                recorded = fact_at(self._log, span.session, span.start)
                yield span, recorded, note_message(recorded)
                continue
            number = span.start
            for frame, indexes in _run(self._log, span):
                for index in indexes:
                    recorded = Recorded(frame, index)
                    line = Span(span.session, number, number + 1)
                    yield line, recorded, _message(recorded)
                    number += 1


def _said(log: Log, span: Span) -> Iterator[Iterable[Message]]:
    """Iterate over a run of messages, in runs as they are read."""
    number, version = span.start, log.locate(span.session, span.start)
    while number < span.stop:
        frames_max = min(span.stop - number, PAGE_FRAMES)
        page = log.read_messages(span.session, version, frames_max)
        if not page:
            raise Corruption(-1, f"session {span.session!r} lacks version {version}")
        for each in page:
            if isinstance(each, Frame):
                indexes = each.message_indexes(number, span.stop)
                yield from _decoded(each, indexes)
                number, version = number + len(indexes), each.last_version + 1
            else:
                yield each[: span.stop - number]
                number, version = number + len(each), version + len(each)


def _decoded(frame: Frame, indexes: Sequence[int]) -> Iterator[Iterable[Message]]:
    """Iterate over messages of a frame, in runs: plain ones together, all others one by one."""
    while indexes:
        some, indexes = indexes[:PAGE_FRAMES], indexes[PAGE_FRAMES:]
        plain = frame.plain_messages(some[0], some[-1] + 1)
        yield plain
        yield _one_by_one(frame, some[len(plain) :])


def _message(recorded: Recorded) -> Message:
    """Return the message that an event is; raises Corruption where it is none."""
    event = recorded.event
    if not isinstance(event, MessageAppended):
        raise Corruption(recorded.position, "a message was expected here")
    return event.message


def _one_by_one(frame: Frame, indexes: Iterable[int]) -> Iterator[Message]:
    for index in indexes:
        yield _message(Recorded(frame, index))


def _run(log: Log, span: Span) -> Iterator[tuple[Frame, Sequence[int]]]:
    """Iterate over the frames behind a run of messages, with the indexes of these messages."""
    number, version = span.start, log.locate(span.session, span.start)
    while number < span.stop:
        frames_max = min(span.stop - number, PAGE_FRAMES)
        for frame in frames_at(log, span.session, version, frames_max=frames_max):
            indexes = frame.message_indexes(number, span.stop)
            yield frame, indexes
            number += len(indexes)
            version = frame.last_version + 1


def note_message(recorded: Recorded) -> Message:
    """Return a summary as the message it is shown as."""
    event = recorded.event
    if isinstance(event, HistorySummarized):
        covers: Json = {"messages": event.count, "tokens": event.tokens_before}
        summary = event.summary
    elif isinstance(event, BranchMerged) and event.summary is not None:
        covers, summary = {"session": event.source, "upto": event.source_version}, event.summary
    else:
        raise Corruption(recorded.position, "a summary was expected here")
    given = summary.get("metadata")
    metadata = {**(given if isinstance(given, dict) else {}), "summary": covers}
    fields = {"role": "system", "content": "", **summary, "metadata": metadata}
    return Message(fields, summary.get("id") or message_id(recorded.session, recorded.version))


def tokens_of(log: Log, spans: Sequence[Span]) -> int:
    """Return the tokens of these lines; of messages only the heads are read."""
    return sum(_tokens(log, span) for span in spans)


def _tokens(log: Log, span: Span) -> int:
    if span.note:
        return line_tokens(fact_at(log, span.session, span.start))
    return sum(frame.row(index)[2] for frame, indexes in _run(log, span) for index in indexes)


def line_tokens(recorded: Recorded) -> int:
    """Return the tokens of a line: of a message as its head says, of a summary as its event."""
    if recorded.type_code == MESSAGE:
        return recorded.tokens
    event = recorded.structure
    if isinstance(event, HistorySummarized):
        return event.tokens
    return event.summary_tokens if isinstance(event, BranchMerged) else 0
