"""Statistics: what happened in the store or in one session, counted.

Invariants: it counts facts, so a rewound message counts and an inherited one counts where it was
said: the numbers of a store are the sums of its sessions'. Of messages only the heads are read;
the payloads of the rarer events are decoded where a number is in them.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, ClassVar, Self

import msgspec

from eventstore import EventStore, Recorded
from eventstore import events as ev
from eventstore.clock import DAY_NS, to_datetime
from eventstore.ids import SYSTEM
from eventstore.log.base import Log
from eventstore.log.format import CREATING, MESSAGE, TYPE_CODES
from eventstore.log.frame import Frame
from eventstore.log.lone import Tally, Times
from eventstore.messages import ROLES
from eventstore.state.lineage import Headers

from .fold import fold
from .projection import Projection, versions_within

ROLE_NAMES = tuple(role or "other" for role in ROLES)
_ASSISTANT = ROLES.index("assistant")
_MESSAGE_NAME = ev.MessageAppended.__name__
_BRANCH = TYPE_CODES[ev.BranchCreated]


class ToolUse(msgspec.Struct):
    """How often a tool ran, how often that failed, and how long it took in all, in ms."""

    calls: int = 0
    errors: int = 0
    duration_ms: float = 0.0


class Statistics(msgspec.Struct):
    """Counters over facts.

    `sessions` counts branches too and is the sum of `active`, `closed`, `archived`, `deleted` and
    `erased`. What was redacted or erased still counts, as far as its head tells.
    `tokens_out` are the assistant's, `tokens_in` everybody else's; `bytes` are payloads before
    compression; `pruned` messages were hidden by prunes, which with summaries made the context
    `tokens_reclaimed` tokens shorter. `first_at`, `last_at` are recorded times; messages have
    the time their caller gave, else their recorded one; all in ns. `days` are UTC dates.
    """

    events: int = 0
    bytes: int = 0
    sessions: int = 0
    active: int = 0
    closed: int = 0
    archived: int = 0
    deleted: int = 0
    erased: int = 0
    branches: int = 0
    merges: int = 0
    prunes: int = 0
    pruned: int = 0
    summaries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_reclaimed: int = 0
    first_at: int | None = None
    last_at: int | None = None
    first_message_at: int | None = None
    last_message_at: int | None = None
    by_type: dict[str, int] = {}
    by_role: dict[str, int] = {}
    days: dict[str, int] = {}
    tools: dict[str, ToolUse] = {}
    errors: dict[str, int] = {}

    @classmethod
    def of(
        cls,
        store: EventStore,
        session: str | None = None,
        *,
        at_version: int | None = None,
        at_position: int | None = None,
        at_time: datetime | int | None = None,
        workers: int | None = None,
    ) -> "Statistics":
        """Count the whole store or one session's own stream, now or at a moment.

        `workers` processes share a whole store, by default as many as there are cores where that
        pays. Raises SessionNotFound and InvalidEvent.
        """
        return fold(
            store,
            StatisticsProjection(store.headers),
            session=session,
            at_version=at_version,
            at_position=at_position,
            at_time=at_time,
            workers=workers,
        )

    @property
    def messages(self) -> int:
        """Messages appended."""
        return self.by_type.get(_MESSAGE_NAME, 0)

    @property
    def messages_per_session(self) -> float:
        """Messages appended a session, on average."""
        return self.messages / self.sessions if self.sessions else 0.0

    @property
    def duration(self) -> int:
        """Time between the first and the last message, in ns."""
        if self.first_message_at is None or self.last_message_at is None:
            return 0
        return self.last_message_at - self.first_message_at

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers, derived ones too, as plain JSON; days in order."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        plain["days"] = dict(sorted(self.days.items()))
        plain["messages"] = self.messages
        plain["messages_per_session"] = self.messages_per_session
        plain["duration"] = self.duration
        return plain


_SUMS = tuple(each.name for each in msgspec.structs.fields(Statistics) if each.type is int)
_COUNTS = tuple(
    each.name for each in msgspec.structs.fields(Statistics) if each.type == dict[str, int]
)


class StatisticsProjection(Projection[Statistics]):
    """The recipe of Statistics; of `headers` it asks a session's status before it changed."""

    name: ClassVar[str] = "statistics"
    revision: ClassVar[int] = 4
    about_erased: ClassVar[bool] = True
    row_type: ClassVar[Any] = Statistics

    def __init__(self, headers: Headers) -> None:
        self._headers = headers

    def initial(self) -> Statistics:
        """Return zeros."""
        return Statistics()

    def evolve(self, state: Statistics, recorded: Recorded) -> Statistics:
        """Count one event."""
        now = recorded.recorded_at
        _count(state, recorded.type, 1, recorded.size, (now, now))
        if recorded.type_code == MESSAGE:
            code = recorded.role_code
            _say(state, code, 1, recorded.tokens)
            occurred_at = recorded.occurred_at
            moment = now if occurred_at is None else occurred_at
            _date(state, (moment, moment), {moment // DAY_NS: 1})
            return state
        step = _STEPS.get(recorded.type_code)
        if recorded.type_code in CREATING:  # that it happened is all that counts
            _created(state, branches=recorded.type_code == _BRANCH)
        elif step is not None:
            event = recorded.structure
            if event is not None:  # else the numbers in it are gone
                step(state, event, recorded)
        elif recorded.type_code in _STATUS_CODES:
            self._change_status(state, recorded)
        return state

    def evolve_frame(self, state: Statistics, frame: Frame, first: int, last: int) -> Statistics:
        """Count a frame of nothing but messages by its heads alone."""
        if not frame.only_messages:
            return super().evolve_frame(state, frame, first, last)
        counted = Tally()
        counted.add(frame, first, last)
        _add(state, counted)
        return state

    def evolve_log(self, state: Statistics, log: Log, first: int, last: int) -> Statistics:
        """Count messages in a tally, a quarter of the cost, and then in the state."""
        counted, position = Tally(), first
        while position <= last:
            position, frames = log.tally(counted, position, last)
            for frame in frames:
                begin, stop = versions_within(frame, first, last)
                if frame.session == SYSTEM:
                    continue
                if frame.only_messages:
                    counted.add(frame, begin, stop)
                else:
                    state = self.evolve_frame(state, frame, begin, stop)
        _add(state, counted)
        return state

    def join(self, before: Statistics, after: Statistics) -> Statistics:
        """Add the numbers of both, and widen the times."""
        for name in _SUMS:
            setattr(before, name, getattr(before, name) + getattr(after, name))
        for name in _COUNTS:
            counts = getattr(before, name)
            for key, count in getattr(after, name).items():
                counts[key] = counts.get(key, 0) + count
        for name, used in after.tools.items():
            _use(before, name, used)
        _widen(before, after)
        return before

    @classmethod
    def on(cls, store: EventStore) -> Self:
        """Return the recipe, which asks this store for headers."""
        return cls(store.headers)

    def _change_status(self, state: Statistics, recorded: Recorded) -> None:
        """Move the session from one status to another; a rewind may bring any back."""
        before = self._headers.at(recorded.session, recorded.version - 1).status
        after = self._headers.at(recorded.session, recorded.version).status
        setattr(state, before, getattr(state, before) - 1)
        setattr(state, after, getattr(state, after) + 1)


def _add(state: Statistics, counted: Tally) -> None:
    if counted.recorded is None or counted.moments is None:
        return
    _count(state, _MESSAGE_NAME, sum(counted.said), counted.bytes, counted.recorded)
    for role, count in enumerate(counted.said):
        if count:
            _say(state, role, count, counted.tokens[role])
    _date(state, counted.moments, counted.days)


def _count(state: Statistics, kind: str, count: int, size: int, times: Times) -> None:
    state.events += count
    state.bytes += size
    state.by_type[kind] = state.by_type.get(kind, 0) + count
    state.first_at, state.last_at = _widened(state.first_at, state.last_at, times)


def _say(state: Statistics, code: int, count: int, tokens: int) -> None:
    name = ROLE_NAMES[code]
    state.by_role[name] = state.by_role.get(name, 0) + count
    if code == _ASSISTANT:
        state.tokens_out += tokens
    else:
        state.tokens_in += tokens


def _date(state: Statistics, times: Times, days: Mapping[int, int]) -> None:
    """Note when messages were said: the first and the last, and how many on each day."""
    first, last = state.first_message_at, state.last_message_at
    state.first_message_at, state.last_message_at = _widened(first, last, times)
    for number, count in days.items():
        day = _day(number)
        state.days[day] = state.days.get(day, 0) + count


def _widen(before: Statistics, after: Statistics) -> None:
    """Take in the first and last times of a later stretch."""
    if after.first_at is not None and after.last_at is not None:
        times = after.first_at, after.last_at
        before.first_at, before.last_at = _widened(before.first_at, before.last_at, times)
    if after.first_message_at is not None and after.last_message_at is not None:
        _date(before, (after.first_message_at, after.last_message_at), {})


def _widened(first: int | None, last: int | None, times: Times) -> Times:
    if first is None or last is None:
        return times
    return min(first, times[0]), max(last, times[1])


@lru_cache(maxsize=4_096)
def _day(number: int) -> str:
    """Return the ISO date of a day counted from the epoch."""
    return to_datetime(number * DAY_NS).date().isoformat()


# -- one step per kind of event that holds a number ------------------------------------------


def _created(state: Statistics, *, branches: int) -> None:
    state.sessions += 1
    state.active += 1
    state.branches += branches


def _merged(state: Statistics, event: ev.BranchMerged, recorded: Recorded) -> None:
    state.merges += event.into == recorded.session  # the fact stands in both streams


def _pruned(state: Statistics, event: ev.MessagesPruned, _: Recorded) -> None:
    state.prunes += 1
    state.pruned += event.count
    state.tokens_reclaimed += event.tokens


def _summarized(state: Statistics, event: ev.HistorySummarized, _: Recorded) -> None:
    state.summaries += 1
    state.tokens_reclaimed += event.tokens_before - event.tokens


def _tool_called(state: Statistics, event: ev.ToolCallRecorded, _: Recorded) -> None:
    _use(state, event.name, ToolUse(1, event.error is not None, event.duration_ms or 0.0))


def _use(state: Statistics, name: str, more: ToolUse) -> None:
    """Add up how a tool was used; times in whole us, so that their sum is the same in any order."""
    tool = state.tools.setdefault(name, ToolUse())
    tool.calls += more.calls
    tool.errors += more.errors
    micros = round(tool.duration_ms * 1_000) + round(more.duration_ms * 1_000)
    tool.duration_ms = micros / 1_000


def _failed(state: Statistics, event: ev.ErrorRecorded, _: Recorded) -> None:
    state.errors[event.kind] = state.errors.get(event.kind, 0) + 1


_STEP_OF: dict[type[ev.Event], Callable[[Statistics, Any, Recorded], None]] = {
    ev.BranchMerged: _merged,
    ev.MessagesPruned: _pruned,
    ev.HistorySummarized: _summarized,
    ev.ToolCallRecorded: _tool_called,
    ev.ErrorRecorded: _failed,
}
_STEPS = {TYPE_CODES[kind]: step for kind, step in _STEP_OF.items()}
_STATUS_CODES = {
    TYPE_CODES[kind]
    for kind in (
        ev.SessionClosed,
        ev.SessionReopened,
        ev.SessionArchived,
        ev.SessionDeleted,
        ev.SessionRewound,
        ev.EraseRequested,
    )
}
