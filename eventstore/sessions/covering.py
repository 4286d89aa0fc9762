"""Covering: when a summary is due, and exactly which lines it will stand for.

Invariants: everything here is a function over one moment of a session; what is covered is whole
units (units.py), so no tool call is parted from its results; the system prompt, important
messages and a call that still waits for its result are never covered; a summary is at most half
as long as what it covers.

Summaries stack: earlier ones stay beside the new one until together they would fill half of what
starts a summary; then the next one covers them too.
"""

from collections.abc import Sequence

import msgspec

from ..errors import InvalidEvent, brief
from ..events import Span
from ..spans import joined, minus
from ..state.header import SessionHeader
from .checks import check_whole
from .units import Line, Unit

COVERED_MIN = 2
"""Messages that are worth a summary."""

STACK_SHARE = 0.5
"""Of the tokens that start a summary: what stacked summaries may fill."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """When a summary is due and what it covers.

    `at`: share of the session's token_limit, from 0 to 1, that its visible tokens must reach;
    `share`: the older part of the messages that is covered; `messages_min`: fewer messages are
    left alone; `tokens_max`: length of a summary at most. Raises InvalidEvent.
    """

    at: float = 0.7
    share: float = 0.7
    messages_min: int = 10
    tokens_max: int = 500

    def __post_init__(self) -> None:
        for name in ("at", "share"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 < value <= 1:
                raise InvalidEvent(f"{name} must be a number above 0, up to 1, not {brief(value)}")
        for name, least in (("messages_min", 2), ("tokens_max", 1)):
            check_whole(getattr(self, name), name, low=least)


class SummaryPlan(msgspec.Struct, frozen=True):
    """What a summary is to cover: `messages` lines of `tokens` tokens, at a session's version."""

    session: str
    version: int
    spans: list[Span]
    messages: int
    tokens: int
    tokens_max: int


def is_due(header: SessionHeader, rules: Rules) -> bool:
    """Return True where a session is full and long enough for a summary."""
    limit = header.token_limit
    full = limit is not None and header.tokens >= rules.at * limit
    return full and header.messages >= rules.messages_min


def plan_summary(header: SessionHeader, units: Sequence[Unit], rules: Rules) -> SummaryPlan | None:
    """Return what a summary would cover now, None where there is too little to cover."""
    movable = [unit for unit in units if not unit.stays]
    if sum(len(unit.lines) for unit in movable) < rules.messages_min:
        return None
    older = _older(movable, rules.share)
    lines = sorted(older + _stacked(header, units, rules), key=lambda line: line.index)
    tokens = sum(line.tokens for line in lines)
    tokens_max = min(rules.tokens_max, tokens // 2)
    if len(older) < COVERED_MIN or not tokens_max:
        return None
    spans = joined(line.span for line in lines)
    return SummaryPlan(header.session, header.version, spans, len(lines), tokens, tokens_max)


def still_holds(plan: SummaryPlan, units: Sequence[Unit]) -> bool:
    """Return True where the lines of a plan are all still there, and no unit is cut by it."""
    found = 0
    for unit in units:
        covered = [not minus([line.span], plan.spans) for line in unit.lines]
        found += sum(covered)
        if any(covered) and not all(covered):
            return False
    return found == plan.messages


def _older(movable: Sequence[Unit], share: float) -> list[Line]:
    """Return the older part of the lines, to the nearest unit; the newest unit always stays."""
    room = share * sum(len(unit.lines) for unit in movable)
    taken: list[Line] = []
    for unit in movable[:-1]:
        if len(taken) + len(unit.lines) / 2 > room:
            break
        taken += unit.lines
    return taken


def _stacked(header: SessionHeader, units: Sequence[Unit], rules: Rules) -> list[Line]:
    """Return the earlier summaries where they have become too many, else nothing."""
    lines = [line for unit in units for line in unit.lines if line.span.note]
    tokens = sum(line.tokens for line in lines) + rules.tokens_max
    limit = header.token_limit
    return lines if limit is not None and tokens > STACK_SHARE * rules.at * limit else []
