"""Units: what of a conversation can only go or stay as a whole, and what may not go at all.

Invariants: a tool call and its results are one unit, so whatever is taken away by units leaves
no result without its call; a unit with a line that stays, stays; summaries, important
messages, the system prompt and a call that still waits for its result are exempt from everything
automatic; all of it follows from one moment of one session.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from projections import CatalogRow

from ..events import Span
from ..log.base import Log
from ..log.recorded import Recorded
from ..messages import Json, Message, calls_answered, calls_made
from ..state.header import SessionHeader
from ..state.transcript import Transcript, line_tokens
from .marks import is_important

PROMPT_ROLES = ("system", "developer")
"""The roles of the lines that open a conversation and say what the agent is."""


class Line(msgspec.Struct, frozen=True):
    """One visible line: `index` counts from the oldest, `at` in ns, `ttl` in seconds or None.

    `at` is the time that the caller gave, else the recorded one; `stays` says why the line is
    exempt, or is empty.
    """

    index: int
    span: Span
    id: str
    tokens: int
    at: int
    ttl: float | None
    stays: str


class Unit(msgspec.Struct):
    """Lines that go together: one message, or tool calls and their results, oldest first."""

    lines: list[Line]
    tools: bool = False
    stays: str = ""


def spared(row: CatalogRow | SessionHeader) -> bool:
    """Return True for a session that its metadata pins: nothing goes from it by itself."""
    return bool(row.metadata.get("pinned"))


def units_of(log: Log, header: SessionHeader) -> list[Unit]:
    """Return the visible lines of a session as units, in the order of their oldest lines.

    Reads every visible message once and keeps none of their contents.
    """
    groups, transcript, opening = _Groups(), Transcript(log, header.spans), True
    for index, (span, recorded, message) in enumerate(transcript.lines(0, len(transcript))):
        opening = opening and not span.note and message.role in PROMPT_ROLES
        line = _line(index, span, recorded, message, opening=opening)
        groups.add(line, message.role, calls_made(message.fields), calls_answered(message.fields))
    return groups.units()


def surplus(units: Sequence[Unit], keep: int) -> list[Unit]:
    """Return the units that go, oldest first, until no more than `keep` lines are left.

    More are left only where what stays is more.
    """
    over = sum(len(unit.lines) for unit in units) - keep
    gone = []
    for unit in units:
        if over <= 0:
            break
        if not unit.stays:
            gone.append(unit)
            over -= len(unit.lines)
    return gone


def lines_in(units: Iterable[Unit]) -> Iterator[Line]:
    """Iterate over the lines of units in the order of showing."""
    lines = [line for unit in units for line in unit.lines]
    return iter(sorted(lines, key=lambda line: line.index))


def _line(index: int, span: Span, recorded: Recorded, message: Message, *, opening: bool) -> Line:
    said_at = recorded.occurred_at
    return Line(
        index,
        span,
        message.id,
        line_tokens(recorded),
        recorded.recorded_at if said_at is None else said_at,
        _ttl(message.metadata),
        _stays(span, message, opening=opening),
    )


def _stays(span: Span, message: Message, *, opening: bool) -> str:
    if span.note:
        return "a summary"
    if is_important(message.fields):
        return "important"
    return "the system prompt" if opening else ""


def _ttl(metadata: Mapping[str, Json]) -> float | None:
    """Return the message's own time to live; what is no number above 0 is none."""
    ttl = metadata.get("ttl")
    if not isinstance(ttl, (int, float)) or isinstance(ttl, bool) or ttl <= 0:
        return None
    return float(ttl)


class _Groups:
    """Lines as they come, each joined to the calls that it answers."""

    def __init__(self) -> None:
        self._all: list[Unit] = []
        self._latest: dict[str, Unit] = {}
        self._waiting: dict[str, Unit] = {}

    def add(self, line: Line, role: str, made: set[str], answered: set[str]) -> None:
        """Take in the next line."""
        unit = self._joined([self._latest[call] for call in answered & self._latest.keys()])
        unit.lines.append(line)
        unit.tools = unit.tools or bool(made or answered)
        unit.stays = unit.stays or line.stays
        if role == "assistant" and not answered:  # it goes on without the results it asked for
            self._waiting.clear()
        self._waiting = {call: each for call, each in self._waiting.items() if call not in answered}
        for call in made:
            self._latest[call] = self._waiting[call] = unit

    def units(self) -> list[Unit]:
        """Return all units, those that wait for a result marked."""
        for unit in self._waiting.values():
            unit.stays = unit.stays or "waits for its result"
        return [unit for unit in self._all if unit.lines]

    def _joined(self, parts: list[Unit]) -> Unit:
        """Return one unit in place of those that a line answers calls of, or a new one."""
        if not parts:
            self._all.append(Unit([]))
            return self._all[-1]
        first, *others = sorted(parts, key=lambda unit: unit.lines[0].index)
        for other in others:
            if other is not first:
                self._absorb(first, other)
        return first

    def _absorb(self, unit: Unit, other: Unit) -> None:
        unit.lines = sorted(unit.lines + other.lines, key=lambda line: line.index)
        unit.stays = unit.stays or other.stays
        other.lines = []
        for calls in (self._latest, self._waiting):
            for call, each in calls.items():
                if each is other:
                    calls[call] = unit
