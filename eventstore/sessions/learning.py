"""Learning: how long to keep sessions, from how long sessions like them were silent and went on.

Invariants: only facts are looked at, of each session no more than its newest FACTS_MAX; nothing
is kept; the same facts give the same answer; from too few pauses nothing is concluded.
"""

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise

from projections import CatalogRow

from ..errors import InvalidEvent, brief
from ..events import MessageAppended
from ..store import EventStore

SESSIONS_MAX, FACTS_MAX = 1_000, 1_000
"""The newest sessions, and the newest facts of each, that a manager learns from."""

PAUSES_MIN = 20
"""Fewer pauses say nothing about the next one."""


def learned_ttl(store: EventStore, rows: Iterable[CatalogRow], share: float) -> float | None:
    """Return the seconds within which that share of all pauses was over; None for too few.

    A pause is the time between two messages of a session that were not said at the same time;
    the silence that a session is in now is none, since nobody knows how long it will be. The
    answer is one of the pauses (the nearest-rank quantile). Raises InvalidEvent.
    """
    if type(share) not in (int, float) or not 0 < share <= 1:
        raise InvalidEvent(f"share must be a number above 0, up to 1, not {brief(share)}")
    found = sorted(pause for row in rows for pause in _pauses(store, row.session))
    if len(found) < PAUSES_MIN:
        return None
    return found[math.ceil(share * len(found)) - 1] / 1e9


def _pauses(store: EventStore, session: str) -> Iterator[int]:
    """Iterate over the pauses of a session's own messages, in ns."""
    newest = store.events(session, reverse=True, limit=FACTS_MAX)
    said = [
        recorded.recorded_at if recorded.occurred_at is None else recorded.occurred_at
        for recorded in newest
        if recorded.type == MessageAppended.__name__
    ]
    return (later - earlier for earlier, later in pairwise(sorted(said)) if later > earlier)
