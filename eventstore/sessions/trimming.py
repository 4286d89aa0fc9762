"""Trimming: which messages go from sessions that stay, a small policy for each reason.

Invariants: messages go by units, oldest first, so no result is left without its call; what is
exempt counts and stays; sessions that are pinned, held, archived, deleted or expired are not
looked into; one session's messages are read at a time, and their contents are not kept.
"""

import math
from collections.abc import Callable, Mapping

import msgspec

from projections import CatalogRow, Views

from ..clock import when
from ..errors import EventStoreError, InvalidEvent, brief, counted
from ..messages import Message
from ..spans import joined
from ..state.header import SessionHeader
from ..state.transcript import Transcript
from ..store import EventStore
from .checks import check_seconds, check_whole
from .plans import Drop, Plan, Step, step_of
from .policies import Time, expired, listed, moment_ns, open_to_policies, swept
from .units import Unit, lines_in, spared, surplus, units_of

PRESERVED = {"dm": 100, "group": 50}
"""How many newest messages sessions of a type (`metadata.type`) keep."""


class KeepCount(msgspec.Struct, frozen=True, kw_only=True):
    """The oldest messages go until a session shows so many.

    `by_type` says how many by the session's `metadata.type`, `keep` how many all others show,
    None for all of them. What is exempt counts and stays, and so does what was said last, with
    its tool calls and results, unless nothing is to be kept.
    """

    keep: int | None = None
    by_type: dict[str, int] = msgspec.field(default_factory=PRESERVED.copy)

    def __post_init__(self) -> None:
        check_whole(self.keep, "keep", or_none=True)
        _check_kept(self.by_type, "by_type")

    def plan(self, store: EventStore, views: Views, *, now: Time = None) -> Plan:
        """Return which messages would go."""
        rows = (row for row in listed(views) if row.messages > self._count(row))
        return swept("KeepCount", self, store, rows, now)

    def step(self, store: EventStore, session: str, *, now: Time = None) -> Step | None:
        """Return what would go from one session, None where nothing would."""
        header = open_to_policies(store, session, now)
        if header is None or header.messages <= self._count(header):
            return None
        keep, units = int(self._count(header)), units_of(store.log, header)
        if keep:  # else a session full of exempt messages would lose each new one at once
            newest = max(units, key=lambda unit: unit.lines[-1].index)
            newest.stays = newest.stays or "said last"
        return _cut_step(header, units, keep)

    def _count(self, row: CatalogRow | SessionHeader) -> float:
        """Return how many messages a session shows at most."""
        fallback = math.inf if self.keep is None else self.keep
        found = _of_type(row, self.by_type)
        return fallback if found is None else found


class MessageTTL(msgspec.Struct, frozen=True, kw_only=True):
    """Messages go whose time is over: `metadata.ttl` seconds, else `default`, None for ever.

    Time counts from when the message was said (`occurred_at`), else recorded. A tool call goes
    with its results as soon as the time of one of them is over. Reads every visible message.
    """

    default: float | None = None

    def __post_init__(self) -> None:
        check_seconds(self.default, "default", or_none=True)

    def plan(self, store: EventStore, views: Views, *, now: Time = None) -> Plan:
        """Return which messages would go."""
        return swept("MessageTTL", self, store, listed(views), now)

    def step(self, store: EventStore, session: str, *, now: Time = None) -> Step | None:
        """Return what would go from one session, None where nothing would."""
        header, moment = open_to_policies(store, session, now), moment_ns(store, now)
        if header is None:
            return None
        drops = []
        for unit in units_of(store.log, header):
            ends = [self._end(line.at, line.ttl) for line in unit.lines]
            if not unit.stays and min(ends) <= moment:
                why = f"its time was over {when(int(min(ends)))}"
                drops += [(line, Drop(line.id, line.tokens, why)) for line in unit.lines]
        drops.sort(key=lambda drop: drop[0].index)
        why = "messages whose time is over"
        return step_of(session, header.version, why, drops) if drops else None

    def _end(self, at: int, own: float | None) -> float:
        """Return when a message's time is over, in ns."""
        seconds = self.default if own is None else own
        return math.inf if seconds is None else at + int(seconds * 1_000_000_000)


class TotalMessages(msgspec.Struct, frozen=True, kw_only=True):
    """The oldest messages of the longest sessions go until all sessions show so many together.

    Every session is cut to the same length, the largest that fits; sessions of a type keep as
    many as `preserve` says (by `metadata.type`), and nobody loses what is exempt.
    """

    limit: int
    preserve: dict[str, int] = msgspec.field(default_factory=PRESERVED.copy)

    def __post_init__(self) -> None:
        check_whole(self.limit, "limit")
        _check_kept(self.preserve, "preserve")

    def plan(self, store: EventStore, views: Views, *, now: Time = None) -> Plan:
        """Return which messages would go; reads the messages of the sessions that are cut."""
        moment = moment_ns(store, now)
        counts: dict[str, tuple[int, int]] = {}  # session -> what it shows, what it keeps anyway
        for row in listed(views):
            closed = spared(row) or expired(row, moment)
            preserved = min(row.messages, _of_type(row, self.preserve) or 0)
            counts[row.session] = row.messages, row.messages if closed else preserved
        made: dict[str, tuple[int, Step | None]] = {}
        while True:
            level = _level(counts, self.limit)
            cuts = [name for name, (count, floor) in counts.items() if count > max(level, floor)]
            unread = [name for name in cuts if name not in made]
            for name in unread:
                made[name] = level, self._cut(store, name, level, moment, counts)
            if not unread:
                break
        steps = [
            made[name][1]
            if made[name][0] == level
            else self._cut(store, name, level, moment, counts)
            for name in cuts
        ]
        over = sum(max(floor, min(count, level)) for count, floor in counts.values()) - self.limit
        remarks = [f"{counted(over, 'message')} over the limit stay: exempt or preserved"]
        found = [step for step in steps if step is not None]
        return Plan(f"TotalMessages, {self.limit:,}", found, remarks if over > 0 else [])

    def _cut(
        self,
        store: EventStore,
        session: str,
        level: int,
        moment: int,
        counts: dict[str, tuple[int, int]],
    ) -> Step | None:
        """Cut one session to a level, and note what it keeps anyway now that it was read."""
        header = open_to_policies(store, session, moment)
        if header is None:
            counts[session] = counts[session][0], counts[session][0]
            return None
        preserved = min(header.messages, _of_type(header, self.preserve) or 0)
        units = units_of(store.log, header)
        staying = sum(len(unit.lines) for unit in units if unit.stays)
        counts[session] = header.messages, max(preserved, staying)
        return _cut_step(header, units, max(level, preserved))


def _level(counts: Mapping[str, tuple[int, int]], limit: int) -> int:
    """Return the largest length that all sessions may have and be within the limit, or 0."""
    low, high = 0, max((count for count, _ in counts.values()), default=0)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(max(floor, min(count, middle)) for count, floor in counts.values()) <= limit:
            low = middle
        else:
            high = middle - 1
    return low


class Compact(msgspec.Struct, frozen=True, kw_only=True):
    """The older messages of long sessions go into a summary that `summarizer` writes.

    Sessions of more than `over` visible tokens keep their `keep` newest messages and what is
    exempt. The summariser is asked while the plan is made, once a session, so that the plan says
    exactly what comes back; where it fails, that session is left out and a remark says so.
    """

    summarizer: Callable[[list[Message]], str]
    over: int = 4_000
    keep: int = 10

    def __post_init__(self) -> None:
        check_whole(self.over, "over")
        check_whole(self.keep, "keep")

    def plan(self, store: EventStore, views: Views, *, now: Time = None) -> Plan:
        """Return which messages would become summaries."""
        steps, remarks = [], []
        for row in listed(views):
            try:
                step = self.step(store, row.session, now=now) if row.tokens > self.over else None
            except Exception as error:
                if isinstance(error, EventStoreError) and not isinstance(error, InvalidEvent):
                    raise
                remarks.append(f"session {row.session!r} is left out: {error}")
                continue
            steps += [step] if step is not None else []
        return Plan("Compact", steps, remarks)

    def step(self, store: EventStore, session: str, *, now: Time = None) -> Step | None:
        """Return one session's summary to come, None where none is due.

        Raises what the summariser raises, and InvalidEvent where it gives no text.
        """
        header = open_to_policies(store, session, now)
        if header is None or header.tokens <= self.over:
            return None
        lines = list(lines_in(surplus(units_of(store.log, header), self.keep)))
        if not lines:
            return None
        covered = joined(line.span for line in lines)
        summary = self.summarizer(Transcript(store.log, covered)[:])
        if type(summary) is not str or not summary.strip():
            raise InvalidEvent(f"the summariser gave {summary!r}; it must give text")
        why = f"older than the newest {self.keep:,}, summarised"
        drops = [(line, Drop(line.id, line.tokens, why)) for line in lines]
        tokens = store.count_tokens({"role": "system", "content": summary})
        return step_of(session, header.version, why, drops, summary=summary, summary_tokens=tokens)


# -- shared ----------------------------------------------------------------------------------


def _cut_step(header: SessionHeader, units: list[Unit], keep: int) -> Step | None:
    """Return the step that lets the oldest messages go until no more than `keep` are left."""
    why = f"older than the newest {keep:,}"
    drops = [(line, Drop(line.id, line.tokens, why)) for line in lines_in(surplus(units, keep))]
    return step_of(header.session, header.version, why, drops) if drops else None


def _check_kept(counts: object, what: str) -> None:
    if not isinstance(counts, Mapping):
        raise InvalidEvent(f"{what} says how many messages by type, in a dict; not {brief(counts)}")
    for kind, count in counts.items():
        check_whole(count, f"{what}[{kind!r}]")


def _of_type(row: CatalogRow | SessionHeader, counts: Mapping[str, int]) -> int | None:
    kind = row.metadata.get("type")
    return counts.get(kind) if isinstance(kind, str) else None
