"""Eviction: which sessions go first when all of them together are over a limit.

Invariants: limits are on the sessions that are listed, active or closed, branches included;
pinned and held ones count and stay; a session goes as a whole, archived or deleted, by a fact;
ties go by the session's name.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import msgspec

from projections import CatalogRow, Views

from ..clock import when
from ..errors import InvalidEvent, brief, counted
from ..store import EventStore
from .checks import check_whole
from .plans import Plan, Step
from .policies import Time, listed, moment_ns
from .units import spared

End = Literal["archive", "delete"]
"""What becomes of a session that goes: out of the lists, or gone for reads of the present."""

HOUR_NS = 3_600 * 10**9

Rank = Callable[[CatalogRow, int], tuple[float, str]]
"""Says of a session, at a time in ns, how soon it goes (the lowest first), and why."""


class _Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits on all listed sessions together, and what becomes of those over them."""

    max_sessions: int | None = None
    max_messages: int | None = None
    max_tokens: int | None = None
    then: End = "archive"

    def __post_init__(self) -> None:
        for what in ("max_sessions", "max_messages", "max_tokens"):
            check_whole(getattr(self, what), what, or_none=True)
        if self.then not in ("archive", "delete"):
            raise InvalidEvent(f"then must be 'archive' or 'delete', not {brief(self.then)}")

    def over(self, sessions: int, messages: int, tokens: int) -> list[str]:
        """Return what these totals are over, in words."""
        totals = (
            (sessions, self.max_sessions, "session"),
            (messages, self.max_messages, "message"),
            (tokens, self.max_tokens, "token"),
        )
        return [
            f"{counted(total - limit, noun)} over the limit of {limit:,}"
            for total, limit, noun in totals
            if limit is not None and total > limit
        ]


class LRU(_Limits, frozen=True, kw_only=True):
    """Sessions go whose newest fact is oldest, until the limits hold."""

    def plan(self, store: EventStore, views: Views, *, now: Time = None) -> Plan:
        """Return which sessions would go."""
        return _evicted("LRU", self, store, views, moment_ns(store, now), _last_used)


class LFU(_Limits, frozen=True, kw_only=True):
    """Sessions go that are used least often, until the limits hold.

    Reads are no facts, so the log knows of use what was written: without `accesses` the measure
    is facts an hour since the session was created (one younger than an hour counts as that old).
    `accesses` gives the reads of a session by whatever counts them, such as a cache.
    """

    accesses: Callable[[str], int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accesses is not None and not callable(self.accesses):
            raise InvalidEvent(f"accesses must be a callable or None, not {brief(self.accesses)}")

    def plan(self, store: EventStore, views: Views, *, now: Time = None) -> Plan:
        """Return which sessions would go."""
        rank = _facts_an_hour if self.accesses is None else _reads(self.accesses)
        return _evicted("LFU", self, store, views, moment_ns(store, now), rank)


class Size(_Limits, frozen=True, kw_only=True):
    """The largest sessions go, by the tokens of their visible messages, until the limits hold."""

    def plan(self, store: EventStore, views: Views, *, now: Time = None) -> Plan:
        """Return which sessions would go."""
        return _evicted("Size", self, store, views, moment_ns(store, now), _weight)


class TTL(_Limits, frozen=True, kw_only=True):
    """Expired sessions go; then, until the limits hold, those that expire next."""

    def plan(self, store: EventStore, views: Views, *, now: Time = None) -> Plan:
        """Return which sessions would go."""
        moment = moment_ns(store, now)
        return _evicted("TTL", self, store, views, moment, _expiry, due=moment)


# -- how soon a session goes -----------------------------------------------------------------


def _last_used(row: CatalogRow, _: int) -> tuple[float, str]:
    return row.updated_at, f"last used {when(row.updated_at)}"


def _facts_an_hour(row: CatalogRow, moment: int) -> tuple[float, str]:
    facts, hours = row.version + 1, max((moment - row.created_at) / HOUR_NS, 1.0)
    return facts / hours, f"{counted(facts, 'fact')} in {hours:,.1f} h"


def _reads(accesses: Callable[[str], int]) -> Rank:
    def rank(row: CatalogRow, _: int) -> tuple[float, str]:
        count = accesses(row.session)
        return count, counted(count, "read")

    return rank


def _weight(row: CatalogRow, _: int) -> tuple[float, str]:
    return -row.tokens, f"{counted(row.tokens, 'token')} in {counted(row.messages, 'message')}"


def _expiry(row: CatalogRow, moment: int) -> tuple[float, str]:
    if row.expires_at is None:
        return math.inf, "never expires"
    word = "expired" if row.expires_at <= moment else "expires"
    return row.expires_at, f"{word} {when(row.expires_at)}"


# -- letting them go -------------------------------------------------------------------------


class _Candidate(NamedTuple):
    """A session that may go: lowest first."""

    rank: float
    session: str
    version: int
    messages: int
    tokens: int
    why: str


def _evicted(
    title: str,
    limits: _Limits,
    store: EventStore,
    views: Views,
    moment: int,
    rank: Rank,
    due: float = -math.inf,
) -> Plan:
    """Plan to let sessions go by rank: those up to `due` anyway, others while over a limit."""
    candidates, totals = _candidates(views, moment, rank)
    steps: list[Step] = []
    for place, session, version, messages, tokens, why in candidates:
        if place > due and not limits.over(*totals):
            break
        if not store.headers.held(session):
            steps.append(Step(session, version, limits.then, why, messages, tokens))
            totals = totals[0] - 1, totals[1] - messages, totals[2] - tokens
    return Plan(title, steps, [f"{each}: the rest is exempt" for each in limits.over(*totals)])


def _candidates(
    views: Views, moment: int, rank: Rank
) -> tuple[list[_Candidate], tuple[int, int, int]]:
    """Return the sessions that may go, and how many sessions, messages and tokens there are."""
    found: list[_Candidate] = []
    sessions = messages = tokens = 0
    for row in listed(views):
        sessions, messages, tokens = sessions + 1, messages + row.messages, tokens + row.tokens
        if not spared(row):
            place, why = rank(row, moment)
            numbers = row.version, row.messages, row.tokens
            found.append(_Candidate(place, row.session, *numbers, why))
    return sorted(found), (sessions, messages, tokens)
