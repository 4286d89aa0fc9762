"""What every policy is made of: how it is asked and what it may look at.

Invariants: a policy writes nothing; it reads the catalogue a page at a time; it leaves alone
what is exempt, and the messages of sessions that are archived, deleted or expired.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import partial
from typing import Protocol

from projections import CatalogRow, Views

from ..clock import to_ns
from ..state.header import SessionHeader
from ..state.hidden import settled
from ..store import EventStore
from .plans import Plan, Step
from .units import spared

Time = datetime | int | None
"""A time as commands take it: aware, or ns since the epoch; None is now, by the store's clock."""

ROWS_PAGE = 500
"""Rows of the catalogue that are held at a time."""


class Policy(Protocol):
    """What every policy here can do."""

    def plan(self, store: EventStore, views: Views, *, now: Time = None) -> Plan:
        """Return what would go; nothing is written."""


class SessionPolicy(Policy, Protocol):
    """What a policy over messages can do besides: look at one session alone."""

    def step(self, store: EventStore, session: str, *, now: Time = None) -> Step | None:
        """Return what would go from one session, None where nothing would."""


def listed(views: Views, page: int = ROWS_PAGE) -> Iterator[CatalogRow]:
    """Iterate over the sessions that are active or closed, oldest first, a page at a time."""
    after = None
    while True:
        found = views.sessions(order="created_at", limit=page, after=after)
        yield from found
        if found.next is None:
            return
        after = found.next


def swept(
    title: str, policy: SessionPolicy, store: EventStore, rows: Iterable[CatalogRow], now: Time
) -> Plan:
    """Return the plan of a policy that looks at these sessions one by one, at one time."""
    moment = moment_ns(store, now)
    steps = (
        settled(store.log, partial(policy.step, store, row.session, now=moment)) for row in rows
    )
    return Plan(title, [step for step in steps if step is not None])


def open_to_policies(store: EventStore, session: str, now: Time) -> SessionHeader | None:
    """Return a session's header now, None where policies must leave its messages alone.

    Raises SessionNotFound.
    """
    store.flush()
    header = store.headers.now(session)
    closed = header.status not in ("active", "closed") or expired(header, moment_ns(store, now))
    return None if closed or exempt(store, header) else header


def exempt(store: EventStore, row: CatalogRow | SessionHeader) -> bool:
    """Return True for a session from which nothing goes by itself: pinned or under legal hold."""
    return spared(row) or store.headers.held(row.session)


def expired(row: CatalogRow | SessionHeader, moment: int) -> bool:
    """Return True where a session's time to live is over."""
    return row.expires_at is not None and row.expires_at <= moment


def moment_ns(store: EventStore, now: Time) -> int:
    """Return a time in ns; None is the store's clock."""
    return store.engine.now() if now is None else to_ns(now)
