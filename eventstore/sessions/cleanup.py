"""Cleanup: expired and inactive sessions end, a batch at a time, in the background or when asked.

Invariants: what ends, ends by a fact made from the version that was looked at, so a session that
goes on meanwhile is left for the next round; pinned and held sessions stay; one that can't be
ended is noted and stops nobody else; no more than a batch of sessions is in memory; a round that
is told to stop ends between two sessions.
"""

import threading
from collections.abc import Sequence
from typing import Literal

import msgspec

from projections import CatalogRow, Views

from ..clock import when
from ..errors import InvalidEvent, StoreUnavailable, brief
from ..messages import Json
from ..store import EventStore
from .background import Background
from .checks import check_seconds, check_whole
from .plans import Outcome, Plan, Refusal, Step, attempt
from .policies import Policy, Time, exempt, expired, listed, moment_ns

Ending = Literal["delete", "close", "archive"]
"""What becomes of expired sessions."""

INTERVAL_SECONDS = 3_600.0
"""From the end of one round to the start of the next."""

BATCH_SESSIONS = 100
"""Sessions that a round holds at a time."""

FAILURES_MAX = 100
"""Newest failures that statistics name."""


class CleanupStatistics(msgspec.Struct, frozen=True):
    """What cleanup did since it was made: counters, the newest failures, times in ns.

    `sessions` were looked at; `expired` and `inactive` ones were ended; `messages` and `tokens`
    left the visible totals, those of ended sessions included; `refused` steps were not done,
    mostly because a session went on; `broken` rounds ended early.
    """

    rounds: int = 0
    sessions: int = 0
    expired: int = 0
    inactive: int = 0
    messages: int = 0
    tokens: int = 0
    refused: int = 0
    broken: int = 0
    failures: list[Refusal] = []
    last_at: int | None = None

    def to_dict(self) -> dict[str, Json]:
        """Return the statistics as plain JSON."""
        plain: dict[str, Json] = msgspec.to_builtins(self)
        return plain


class Cleanup(Background):
    """Ends sessions of a store whose time is over, then applies policies, round after round.

    `expired`: what becomes of sessions past their time to live; `inactive_after`: seconds without
    a fact until an active session is closed, None for never; `policies` (pruning.py) are planned
    and applied after that, one by one; `interval` in seconds, `batch` in sessions. Raises
    InvalidEvent for values out of range.
    """

    def __init__(
        self,
        store: EventStore,
        views: Views,
        *,
        expired: Ending = "delete",
        inactive_after: float | None = None,
        policies: Sequence[Policy] = (),
        interval: float = INTERVAL_SECONDS,
        batch: int = BATCH_SESSIONS,
        actor: str | None = None,
    ) -> None:
        if expired not in ("delete", "close", "archive"):
            raise InvalidEvent(
                f"expired must be 'delete', 'close' or 'archive', not {brief(expired)}"
            )
        check_seconds(inactive_after, "inactive_after", or_none=True)
        check_seconds(interval, "interval")
        check_whole(batch, "batch", low=1)
        super().__init__(store, "eventstore-cleanup")
        self._views = views
        self._expired, self._inactive_after = expired, inactive_after
        self._policies, self._actor = tuple(policies), actor
        self._interval, self._batch = interval, batch
        self._statistics = CleanupStatistics()
        self._round = threading.Lock()

    @property
    def statistics(self) -> CleanupStatistics:
        """What was done since this cleanup was made."""
        return self._statistics

    # -- one round -----------------------------------------------------------------------

    def run_once(self, now: Time = None) -> Outcome:
        """Do one round, in this thread, as of `now`; one round at a time.

        Raises StoreUnavailable where the store takes no facts.
        """
        with self._round:
            return self._run(now, threading.Event())

    def plan(self, now: Time = None) -> Plan:
        """Return what ending sessions would do; policies make plans of their own."""
        moment = moment_ns(self._store, now)
        steps = (self._step(row, moment) for row in listed(self._views, self._batch))
        return Plan("Cleanup", [step for step in steps if step is not None])

    def _run(self, now: Time, halt: threading.Event) -> Outcome:
        """Do one round, or the part of it that comes before `halt` is set."""
        moment = moment_ns(self._store, now)
        outcome, ended, looked = Outcome(), [0, 0], 0
        try:
            for row in listed(self._views, self._batch):
                if halt.is_set():
                    break
                looked += 1
                step = self._step(row, moment)
                if step is not None and attempt(self._store, step, outcome, self._actor):
                    ended[expired(row, moment)] += 1
            for policy in self._policies:
                self._apply(policy, moment, outcome, halt)
        finally:
            self._count(outcome, ended, looked, moment)
        return outcome

    def _step(self, row: CatalogRow, moment: int) -> Step | None:
        """Return how a session ends, None where it goes on."""
        if expired(row, moment):
            action, why = self._expired, f"expired {when(row.expires_at or 0)}"
        elif self._is_idle(row, moment):
            action, why = "close", f"inactive since {when(row.updated_at)}"
        else:
            return None
        closed_already = action == "close" and row.status != "active"
        return None if closed_already or exempt(self._store, row) else _ending(row, action, why)

    def _is_idle(self, row: CatalogRow, moment: int) -> bool:
        if self._inactive_after is None:
            return False
        return moment - row.updated_at >= int(self._inactive_after * 1_000_000_000)

    def _apply(self, policy: Policy, moment: int, outcome: Outcome, halt: threading.Event) -> None:
        """Apply one policy's plan; one that can't be made is noted."""
        try:
            plan = policy.plan(self._store, self._views, now=moment)
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - policies may be foreign code
            outcome.refused.append(Refusal("", type(policy).__name__, str(error)))
            return
        for step in plan.steps:
            if halt.is_set():
                break
            attempt(self._store, step, outcome, self._actor)

    def _count(self, outcome: Outcome, ended: list[int], looked: int, moment: int) -> None:
        """Add a round; `ended` are the inactive sessions, then the expired ones."""
        before = self._statistics
        self._statistics = msgspec.structs.replace(
            before,
            rounds=before.rounds + 1,
            sessions=before.sessions + looked,
            expired=before.expired + ended[True],
            inactive=before.inactive + ended[False],
            messages=before.messages + outcome.messages,
            tokens=before.tokens + outcome.tokens,
            refused=before.refused + len(outcome.refused),
            failures=[*before.failures, *outcome.refused][-FAILURES_MAX:],
            last_at=moment,
        )

    # -- in the background ---------------------------------------------------------------

    def _work(self, halt: threading.Event) -> None:
        """Run a round now and after every interval; one that breaks is noted and the next comes."""
        while not halt.is_set():
            with self._round:
                try:
                    self._run(None, halt)
                except BaseException as error:  # noqa: BLE001 - policies may be foreign code
                    self._break(error)
            halt.wait(self._interval)

    def _break(self, error: BaseException) -> None:
        before, why = self._statistics, str(error) or type(error).__name__
        failures = [*before.failures, Refusal("", "cleanup", why)][-FAILURES_MAX:]
        self._statistics = msgspec.structs.replace(
            before, broken=before.broken + 1, failures=failures
        )


def _ending(row: CatalogRow, action: str, why: str) -> Step:
    """Return the step that ends a session; what only closes goes on being shown."""
    if action == "close":
        return Step(row.session, row.version, action, why)
    return Step(row.session, row.version, action, why, row.messages, row.tokens)
