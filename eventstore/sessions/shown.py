"""Shown lines: a look at some of a session's visible lines, and at what must go with them.

Invariants: lines are read a small page at a time, when looked at, and none twice; a tool call
belongs to the results that follow it up to the next call of the same id, as everywhere in the
store; what is looked for and not found within GROUP_LINES_MAX lines counts as not there, so that
a look costs the same in a session of any length.
"""

from collections.abc import Iterable
from itertools import islice

import msgspec

from ..events import Span
from ..log.base import Log
from ..messages import Message, calls_answered, calls_made
from ..state.header import SessionHeader
from ..state.transcript import Transcript, line_tokens

PAGE_LINES = 24
"""Lines that are read at a time, counted from the newest: the usual window is one look."""

GROUP_LINES_MAX = 1_000
"""How many lines before a result its call may stand, and after a call its results."""


class Shown(msgspec.Struct, frozen=True):
    """One visible line: `index` counts from the oldest; `made`, `answered` are tool call ids."""

    index: int
    span: Span
    message: Message
    tokens: int
    made: frozenset[str]
    answered: frozenset[str]


class Group(msgspec.Struct, frozen=True):
    """Lines that share tool calls, oldest first; `whole` if no call or result is missing."""

    indexes: list[int]
    whole: bool


class ShownLines:
    """The visible lines of one moment of a session, by index."""

    def __init__(self, log: Log, header: SessionHeader) -> None:
        self._transcript = Transcript(log, header.spans)
        self._read: dict[int, Shown] = {}

    def __len__(self) -> int:
        return len(self._transcript)

    def __getitem__(self, index: int) -> Shown:
        if index not in self._read:
            stop = len(self) - (len(self) - 1 - index) // PAGE_LINES * PAGE_LINES
            start = max(stop - PAGE_LINES, 0)
            lines = self._transcript.lines(start, stop)
            for place, (span, recorded, message) in enumerate(lines, start):
                made, answered = calls_made(message.fields), calls_answered(message.fields)
                tokens = line_tokens(recorded)
                self._read[place] = Shown(
                    place, span, message, tokens, frozenset(made), frozenset(answered)
                )
        return self._read[index]

    def group(self, index: int) -> Group:
        """Return the lines that can only be shown together with this one."""
        members, todo, whole = {index}, [index], True
        while todo:
            line = self[todo.pop()]
            calls = {call: self._call_of(line, call) for call in line.answered}
            results, answered = self._results_of(line)
            whole = whole and None not in calls.values() and answered == line.made
            found = {each for each in calls.values() if each is not None} | results
            todo += found - members
            members |= found
        return Group(sorted(members), whole)

    def _call_of(self, line: Shown, call: str) -> int | None:
        """Return the index of the newest line before this one that makes the call."""
        first = max(line.index - GROUP_LINES_MAX, 0)
        before = range(line.index - 1, first - 1, -1)
        return next((index for index in before if call in self[index].made), None)

    def _results_of(self, line: Shown) -> tuple[set[int], frozenset[str]]:
        """Return the indexes of the first results of this line's calls, and the calls they answer.

        A call of the same id that is made again ends the search for that one.
        """
        found: set[int] = set()
        waiting = set(line.made)
        answered: set[str] = set()
        for later in self._after(line) if waiting else ():
            if waiting & later.answered:
                found.add(later.index)
                answered |= waiting & later.answered
            waiting -= later.answered | later.made
            if not waiting:
                break
        return found, frozenset(answered)

    def _after(self, line: Shown) -> Iterable[Shown]:
        return islice(map(self.__getitem__, range(line.index + 1, len(self))), GROUP_LINES_MAX)
