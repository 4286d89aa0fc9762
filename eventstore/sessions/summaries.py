"""Summaries: the older part of a long conversation becomes one short message, in the background.

Invariants: what is summarised follows from one moment of a session (covering.py); a summary is
one fact that names the very lines it stands for, and these stay in the log; appends wait for
nothing here; a summariser that fails is recorded as a fact and asked again when the session has
gone on and the backoff is over, never twice for the same lines; pinned sessions and those under
legal hold are left alone, unless somebody asks; a session that goes on while its summary is
written gets it all the same, unless the lines it covers have changed: then it is planned again.
"""

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import msgspec
from cachetools import LRUCache

from projections import SessionState

from ..errors import EventStoreError, InvalidEvent, KeyShredded, VersionConflict, brief
from ..events import Span
from ..log.base import Receipt
from ..messages import Json, Message
from ..state.hidden import settled
from ..state.transcript import Transcript
from ..store import EventStore
from .background import Background
from .covering import Rules, SummaryPlan, is_due, plan_summary, still_holds
from .digests import clipped, extract
from .policies import exempt
from .units import units_of

Summarizer = Callable[[list[Message]], str | Awaitable[str]]
"""Writes a summary of messages, oldest first; earlier summaries may be among them."""

GATHER_SECONDS = 0.05
"""How long the worker lets appends gather before it looks at their sessions."""

BACKOFF_SECONDS, BACKOFF_SECONDS_MAX = 1.0, 300.0
"""From a failure to the next attempt: doubled by each further one, up to the second."""

PLANS_MAX = 10
"""How often one summary is planned anew because its lines changed while it was written."""

CONFLICTS_MAX = 100
"""How often a summary is recorded anew because the session went on just then."""

FAILURES_KEPT_MAX = 10_000
"""Sessions whose failures are remembered for the backoff."""

ERROR_KIND = "SummaryFailed"
ERROR_CHARACTERS_MAX = 1_000


class SummaryStatistics(msgspec.Struct, frozen=True):
    """What was done so far; `messages` are covered, `tokens` left the visible totals."""

    made: int = 0
    failed: int = 0
    messages: int = 0
    tokens: int = 0

    def to_dict(self) -> dict[str, Json]:
        """Return the statistics as plain JSON."""
        plain: dict[str, Json] = msgspec.to_builtins(self)
        return plain


def backoff_seconds(failures: int) -> float:
    """Return how long to wait after so many failures in a row, at least one."""
    return min(BACKOFF_SECONDS * 2.0 ** min(failures - 1, 32), BACKOFF_SECONDS_MAX)


class _Failure(msgspec.Struct, frozen=True):
    """The lines that a summariser failed at, how often in a row, and when it may try again."""

    spans: list[Span]
    count: int
    not_before: float


_NEVER = _Failure([], 0, 0.0)


class _Stopped(Exception):
    """The worker was told to stop while a summary was being written."""


class _Failed(Exception):
    """The summariser raised `error`, which is recorded."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        super().__init__(str(error))


class Summaries(Background):
    """Writes the summaries of a store's sessions.

    `summarizer` is called with the covered messages, oldest first, and returns text or an
    awaitable of it; what is longer than allowed is cut. Without one, the text is extracted (see
    digests.py). An awaitable runs in an event loop of the worker's own. stop() waits for a
    summariser that blocks, and cancels one that awaits.
    """

    def __init__(
        self,
        store: EventStore,
        summarizer: Summarizer | None = None,
        rules: Rules | None = None,
        *,
        actor: str | None = None,
    ) -> None:
        if summarizer is not None and not callable(summarizer):
            raise InvalidEvent(f"a summarizer is a callable, not {brief(summarizer)}")
        super().__init__(store, "eventstore-summaries")
        self._summarizer = summarizer
        self.rules, self._actor = rules or Rules(), actor
        self._statistics = SummaryStatistics()
        self._failures: LRUCache[str, _Failure] = LRUCache(FAILURES_KEPT_MAX)
        self._waiting: dict[str, float] = {}
        self._busy = False
        self._changed = threading.Condition()

    @property
    def statistics(self) -> SummaryStatistics:
        """What was done since this object was made."""
        return self._statistics

    # -- one session ---------------------------------------------------------------------

    def plan(self, session: str) -> SummaryPlan | None:
        """Return what a summary would cover now, due or not, None where there is too little.

        Raises SessionNotFound and SessionDeleted.
        """
        return self._plan(session, msgspec.structs.replace(self.rules, messages_min=2))

    def _plan(self, session: str, rules: Rules) -> SummaryPlan | None:
        def planned() -> SummaryPlan | None:
            header = SessionState.of(self._store, session).header
            return plan_summary(header, units_of(self._store.log, header), rules)

        return settled(self._store.log, planned)

    def summarize_now(self, session: str) -> Receipt | None:
        """Summarise the older part of a session in this thread, due or not.

        Returns None where there is too little to cover. Raises what the summariser raises, after
        recording it as an error of the session, and what store.summarize() raises. An awaitable
        runs in an event loop of its own, so this thread must not be in one.
        """
        for _ in range(PLANS_MAX):
            plan = self.plan(session)
            if plan is None:
                return None
            try:
                receipt = self._carried_out(plan, None)
            except _Failed as failed:
                raise failed.error from None
            if receipt is not None:
                return receipt
        raise InvalidEvent(f"session {session!r} changed {PLANS_MAX} times under its summary")

    def _carried_out(self, plan: SummaryPlan, halt: threading.Event | None) -> Receipt | None:
        """Have a plan's summary written and record it, or None where its lines have changed."""
        try:
            messages = list(Transcript(self._store.log, plan.spans))
        except KeyShredded:  # one was redacted since, and nothing failed
            return None
        try:
            text = self._written(plan, messages, halt)
        except _Stopped:
            raise
        except BaseException as error:  # foreign code: it may well raise SystemExit
            self._record_failure(plan.session, plan.version, error, plan.messages)
            raise _Failed(error) from error
        receipt = self._recorded(plan, text)
        if receipt is not None:
            self._count_success(plan, text)
        return receipt

    def _written(
        self, plan: SummaryPlan, messages: list[Message], halt: threading.Event | None
    ) -> str:
        count = self._store.count_tokens
        if self._summarizer is None:
            return extract(messages, plan.tokens_max, count)
        answer = self._summarizer(messages)
        text: object = answer
        if inspect.isawaitable(answer):
            text = asyncio.run(_awaited(answer, halt))
        if not isinstance(text, str) or not text.strip():
            raise InvalidEvent(f"the summarizer gave {text!r}; it must give text")
        return clipped(_clean(text), plan.tokens_max, count)

    def _recorded(self, plan: SummaryPlan, text: str) -> Receipt | None:
        """Record a summary, also where the session went on but its lines did not change."""
        version = plan.version
        for _ in range(CONFLICTS_MAX):
            try:
                return self._store.summarize(
                    plan.session, text, lines=plan.spans, expected=version, actor=self._actor
                )
            except (VersionConflict, InvalidEvent) as error:  # it went on, or lines are gone
                version, holds = settled(self._store.log, partial(self._held_by, plan))
                if not holds:
                    break
                if isinstance(error, InvalidEvent):
                    raise
        return None

    def _held_by(self, plan: SummaryPlan) -> tuple[int, bool]:
        """Return the version of a plan's session now, and whether the plan still holds."""
        header = SessionState.of(self._store, plan.session).header
        return header.version, still_holds(plan, units_of(self._store.log, header))

    def _count_success(self, plan: SummaryPlan, text: str) -> None:
        saved = plan.tokens - self._store.count_tokens({"role": "system", "content": text})
        with self._changed:
            self._failures.pop(plan.session, None)
            done = self._statistics
            self._statistics = SummaryStatistics(
                done.made + 1, done.failed, done.messages + plan.messages, done.tokens + saved
            )

    def _record_failure(
        self, session: str, version: int, error: BaseException, messages: int = 0
    ) -> None:
        """Record what went wrong as a fact; a session that takes no facts any more is let be."""
        header = self._store.headers.at(session, version)
        with self._changed:
            count = self._failures.get(session, _NEVER).count + 1
            again = time.monotonic() + backoff_seconds(count)
            self._failures[session] = _Failure(header.spans, count, again)
            done = self._statistics
            self._statistics = msgspec.structs.replace(done, failed=done.failed + 1)
        text = _clean(f"{type(error).__name__}: {error}")
        detail = {"version": version, "messages": messages, "failures": count}
        try:
            self._store.record_error(
                session, ERROR_KIND, text[:ERROR_CHARACTERS_MAX], detail, actor=self._actor
            )
        except EventStoreError:
            return

    # -- in the background ---------------------------------------------------------------

    def notice(self, session: str) -> None:
        """Say that a session has new messages; costs next to nothing, and nothing when stopped."""
        if self._thread is not None and session not in self._waiting:
            self._notice(session)

    def _notice(self, session: str, at: float = 0.0) -> None:
        with self._changed:
            self._waiting.setdefault(session, at)
            self._changed.notify_all()

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Return True once all that was noticed was looked at, False after `timeout` seconds.

        Sessions that wait for their backoff are not waited for, and nothing is after stop().
        """
        with self._changed:
            return self._changed.wait_for(lambda: not (self._busy or self._ready()), timeout)

    def stop(self) -> None:
        """Stop after the summary at hand and return when the thread is done; idempotent."""
        super().stop()
        with self._changed:  # nobody is left to look at what waits
            self._waiting.clear()
            self._busy = False
            self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _work(self, halt: threading.Event) -> None:
        """Look at the sessions that were noticed, batch by batch, until told to stop."""
        while not halt.is_set():
            for session in self._taken(halt):
                if halt.is_set():
                    return
                try:
                    self._look(session, halt)
                except _Stopped:
                    return
                except (_Failed, EventStoreError):  # a fact by now, or the session is gone
                    continue
                except BaseException as error:  # noqa: BLE001 - token counters are foreign, too
                    with suppress(EventStoreError):
                        self._record_failure(session, self._store.version(session), error)

    def _taken(self, halt: threading.Event) -> list[str]:
        """Wait until there are sessions to look at, let more gather, and take them."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            while not (self._ready() or halt.is_set()):
                soonest = min(self._waiting.values(), default=None)
                self._changed.wait(None if soonest is None else soonest - time.monotonic())
        halt.wait(GATHER_SECONDS)
        with self._changed:
            ready = self._ready()
            self._waiting = {each: at for each, at in self._waiting.items() if each not in ready}
            self._busy = bool(ready)
        return ready

    def _ready(self) -> list[str]:
        """Return the sessions whose time has come, in the order they were noticed."""
        now = time.monotonic()
        return [session for session, at in self._waiting.items() if at <= now]

    def _look(self, session: str, halt: threading.Event) -> None:
        """Summarise a session if that is due and has not just failed; then look again."""
        header = SessionState.of(self._store, session).header
        with self._changed:
            failure = self._failures.get(session, _NEVER)
        if not is_due(header, self.rules) or exempt(self._store, header):
            return
        if failure.spans == header.spans:
            return
        if failure.not_before > time.monotonic():
            self._notice(session, failure.not_before)
            return
        plan = self._plan(session, self.rules)
        if plan is not None:
            self._carried_out(plan, halt)
            self._notice(session)


def _clean(text: str) -> str:
    """Return the text without lone surrogates, which no fact can hold."""
    return text.encode(errors="replace").decode()


async def _awaited(answer: Awaitable[str], halt: threading.Event | None) -> str:
    """Return the answer; raises _Stopped, and cancels it, when the worker is told to stop."""
    task = asyncio.ensure_future(answer)
    while not task.done():
        await asyncio.wait([task], timeout=None if halt is None else GATHER_SECONDS)
        if halt is not None and halt.is_set() and not task.done():
            task.cancel()
            raise _Stopped
    return task.result()
