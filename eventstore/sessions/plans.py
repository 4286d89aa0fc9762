"""Plans: what a policy would take away and why, as a value; then the facts that do so.

Invariants: making a plan writes nothing; each step becomes one atomic fact on one session, made
from the version that the step names, and is refused where the session went on since; what was
done is what the plan said, line for line and token for token; a plan that is applied again
writes nothing new.
"""

from collections.abc import Callable, Iterable, Sequence

import msgspec
from xxhash import xxh3_128_hexdigest

from ..errors import EventStoreError, InvalidEvent, StoreUnavailable, brief, counted
from ..events import Span
from ..log.base import Receipt
from ..messages import Json
from ..spans import joined
from ..store import EventStore
from .units import Line

ACTIONS = ("prune", "summarize", "close", "archive", "delete")

ROWS_SHOWN_MAX = 100
"""Rows of a drawn plan; the rest is counted."""

NAME_CHARACTERS_MAX, WHY_CHARACTERS_MAX = 32, 72
"""How much of a name and of a reason a drawn row shows."""


class Drop(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message that goes; `of` is the one that says the same, `similarity` is 0 to 1."""

    message: str
    tokens: int
    why: str
    of: str | None = None
    similarity: float | None = None


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """One fact to come: what happens to a session as it is at `version`.

    `action` is one of ACTIONS. `messages` and `tokens` leave the visible total; `drops` names the
    messages of a prune or a summary and `spans` says where they are; `summary` takes their place.
    """

    session: str
    version: int
    action: str
    why: str
    messages: int = 0
    tokens: int = 0
    drops: list[Drop] = []
    spans: list[Span] = []
    summary: str | None = None

    @property
    def key(self) -> str:
        """Return the idempotency key: the same step has the same one, whoever applies it."""
        return f"plan:{xxh3_128_hexdigest(msgspec.msgpack.encode(self))}"


class Refusal(msgspec.Struct, frozen=True):
    """A step that was not done, and why."""

    session: str
    action: str
    why: str


class Outcome(msgspec.Struct):
    """What became of steps; `repeated` of those done were there already."""

    done: list[Step] = []
    refused: list[Refusal] = []
    repeated: int = 0

    @property
    def messages(self) -> int:
        """Messages that left the visible total."""
        return sum(step.messages for step in self.done)

    @property
    def tokens(self) -> int:
        """Tokens that left the visible total."""
        return sum(step.tokens for step in self.done)

    def to_dict(self) -> dict[str, Json]:
        """Return it as plain JSON, totals included."""
        plain: dict[str, Json] = msgspec.to_builtins(self)
        return plain | {"messages": self.messages, "tokens": self.tokens}

    def __str__(self) -> str:
        lines = [f"done: {_totals(self.done)}"]
        if self.repeated:
            lines.append(f"{self.repeated} of these had been done before")
        lines += [
            f"refused: {shown(each.action, 12)} {shown(each.session, NAME_CHARACTERS_MAX)}: "
            f"{shown(each.why, 2 * WHY_CHARACTERS_MAX)}"
            for each in self.refused[:ROWS_SHOWN_MAX]
        ]
        if len(self.refused) > ROWS_SHOWN_MAX:
            lines.append(f"and {len(self.refused) - ROWS_SHOWN_MAX} more were refused")
        return "\n".join(lines)


class Plan(msgspec.Struct, frozen=True):
    """What a policy would do, step by step; `remarks` say what it can't reach.

    `print(plan)` draws it; to_dict() is for machines; apply() does it.
    """

    title: str
    steps: list[Step]
    remarks: list[str] = []

    @property
    def messages(self) -> int:
        """Messages that would leave the visible total."""
        return sum(step.messages for step in self.steps)

    @property
    def tokens(self) -> int:
        """Tokens that would leave the visible total."""
        return sum(step.tokens for step in self.steps)

    def apply(self, store: EventStore, *, actor: str | None = None) -> Outcome:
        """Do the steps, each on its own; one whose session went on since is refused, and said so.

        Raises StoreUnavailable where the store takes no facts at all; what was done until then
        is done, and applying the plan again goes on from there.
        """
        outcome = Outcome()
        for step in self.steps:
            attempt(store, step, outcome, actor)
        return outcome

    def to_dict(self) -> dict[str, Json]:
        """Return the plan as plain JSON, totals included."""
        plain: dict[str, Json] = msgspec.to_builtins(self)
        return plain | {"messages": self.messages, "tokens": self.tokens}

    def __str__(self) -> str:
        rows = [row for step in self.steps for row in _rows(step)]
        lines = [shown(self.title, 2 * WHY_CHARACTERS_MAX), *_table(rows[:ROWS_SHOWN_MAX])]
        if len(rows) > ROWS_SHOWN_MAX:
            lines.append(f"and {len(rows) - ROWS_SHOWN_MAX} more rows")
        lines += [shown(remark, 2 * WHY_CHARACTERS_MAX) for remark in self.remarks]
        return "\n".join([*lines, f"to go: {_totals(self.steps)}"])


def step_of(
    session: str,
    version: int,
    why: str,
    drops: Sequence[tuple[Line, Drop]],
    *,
    summary: str | None = None,
    summary_tokens: int = 0,
) -> Step:
    """Return the step that hides these messages, or shows a summary in their place."""
    return Step(
        session=session,
        version=version,
        action="prune" if summary is None else "summarize",
        why=why,
        messages=len(drops) - (summary is not None),
        tokens=sum(line.tokens for line, _ in drops) - summary_tokens,
        drops=[drop for _, drop in drops],
        spans=joined(line.span for line, _ in drops),
        summary=summary,
    )


# -- doing it --------------------------------------------------------------------------------


def attempt(store: EventStore, step: Step, outcome: Outcome, actor: str | None = None) -> bool:
    """Do one step, note in `outcome` what became of it and return whether it was done.

    Raises StoreUnavailable.
    """
    try:
        receipt = _done(store, step, actor)
    except StoreUnavailable:
        raise
    except EventStoreError as error:
        outcome.refused.append(Refusal(step.session, step.action, str(error)))
        return False
    outcome.done.append(step)
    outcome.repeated += receipt.duplicate
    return True


def _done(store: EventStore, step: Step, actor: str | None) -> Receipt:
    """Issue the fact of a step, unless its session went on since."""
    session, version, key = step.session, step.version, step.key
    if step.action == "prune":
        return store.prune(
            session, lines=step.spans, reason=step.why, expected=version, key=key, actor=actor
        )
    if step.action == "summarize":
        return store.summarize(
            session, step.summary or "", lines=step.spans, expected=version, key=key, actor=actor
        )
    ends: dict[str, Callable[..., Receipt]] = {
        "close": store.close,
        "archive": store.archive,
        "delete": store.delete,
    }
    if step.action not in ends:
        raise InvalidEvent(
            f"a step's action is one of {', '.join(ACTIONS)}, not {brief(step.action)}"
        )
    return ends[step.action](session, reason=step.why, expected=version, key=key, actor=actor)


# -- drawing ---------------------------------------------------------------------------------


def shown(text: str, width: int) -> str:
    """Return text that can't command a terminal, on one line of at most `width` characters."""
    line = "".join(char if char.isprintable() else "\ufffd" for char in text)
    return line if len(line) <= width else f"{line[: width - 1]}…"


def _totals(steps: Sequence[Step]) -> str:
    found = {action: sum(step.action == action for step in steps) for action in ACTIONS}
    parts = [f"{action} {counted(count, 'session')}" for action, count in found.items() if count]
    messages, tokens = sum(s.messages for s in steps), sum(s.tokens for s in steps)
    sums = f"{counted(messages, 'message')}, {counted(tokens, 'token')} come back"
    return f"{', '.join(parts)}: {sums}" if parts else "nothing"


def _rows(step: Step) -> Iterable[tuple[str, str, str, str, str]]:
    """Return the row of a step, and one for each message that has a reason of its own."""
    yield step.session, step.action, str(step.messages), str(step.tokens), step.why
    for drop in step.drops:
        if drop.why != step.why:
            yield f"  {drop.message}", "", "", str(drop.tokens), drop.why


def _table(rows: Sequence[tuple[str, str, str, str, str]]) -> list[str]:
    if not rows:
        return []
    cells = [("session", "what", "messages", "tokens", "why")]
    for name, *middle, why in rows:
        what, messages, tokens = middle
        short = shown(name, NAME_CHARACTERS_MAX), shown(why, WHY_CHARACTERS_MAX)
        cells.append((short[0], what, messages, tokens, short[1]))
    first, second, third, fourth = (max(len(row[at]) for row in cells) for at in range(4))
    return [
        f"{a:<{first}}  {b:<{second}}  {c:>{third}}  {d:>{fourth}}  {e}" for a, b, c, d, e in cells
    ]
