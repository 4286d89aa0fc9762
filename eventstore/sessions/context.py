"""The context window: what a model is to see of a session, now or at any past moment.

Invariants: the system prompt and important messages are always in it, or there is no window; no
tool result is in it without its call and no call without its results; its tokens, as they were
counted when each message was appended, never exceed the budget; messages keep their order and are
as they came in; the same moment always gives the same window. What is read is what is shown and a
little around it, whatever the session's length.

What goes in, until the budget is used up:

1. the system prompt (the messages of role `system` or `developer` that open the session) and all
   messages marked `{"metadata": {"important": true}}`;
2. summaries, the newest first;
3. the newest of the others, at most `last`, and the calls and results that belong to them; the
   first that does not fit ends the window.

A call that lacks a result (its turn was interrupted) and a result that lacks its call are left
out, whatever they are: no provider takes them. They are none of the `last`; after ORPHANS_MAX of
them the window ends too.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import takewhile

import msgspec

from projections import SessionState

from ..errors import InvalidEvent, counted
from ..events import Span
from ..messages import Json, Message
from ..spans import index_of, minus
from ..state.header import SessionHeader
from ..state.hidden import settled
from ..store import EventStore
from . import shapes
from .checks import check_whole
from .marks import marks_of
from .shown import ShownLines
from .units import PROMPT_ROLES

LAST_DEFAULT = 20
"""Messages of a window at most, besides what is always in it and summaries."""

ORPHANS_MAX = 100
"""Calls without results, and results without calls, that are passed over for older messages."""

BAR_CHARACTERS = 24

_PARTS = {
    "system": "system prompt",
    "important": "important",
    "summary": "summaries",
    "recent": "recent",
}
_REASONS = {
    "budget": "over the budget",
    "last": "older than the last {last}",
    "summaries": "summaries not asked for or over the budget",
    "orphans": "calls without results, or results without calls",
}


class Chosen(msgspec.Struct, frozen=True):
    """A message of the window, and why: system, important, summary or recent.

    `index` is its place in the session's visible list; a call or result that came along with
    another message has that one's reason.
    """

    index: int
    why: str
    tokens: int
    message: Message


class Left(msgspec.Struct, frozen=True):
    """How much was left out and why: budget, last, summaries or orphans."""

    why: str
    messages: int
    tokens: int


class Window(msgspec.Struct, frozen=True):
    """What a model sees of one moment of a session; `print(window)` draws it.

    `max_tokens` is the budget, None for none; `position` is that of the session's newest fact.
    """

    session: str
    version: int
    position: int
    max_tokens: int | None
    last: int | None
    chosen: list[Chosen]
    left: list[Left]

    @property
    def messages(self) -> list[Message]:
        """The messages in order, as they came in."""
        return [each.message for each in self.chosen]

    @property
    def tokens(self) -> int:
        """The tokens of the window."""
        return sum(each.tokens for each in self.chosen)

    def to_openai(self) -> list[dict[str, Json]]:
        """Return the window as OpenAI's chat completions take it: `messages=`."""
        return shapes.to_openai([each.fields for each in self.messages])

    def to_anthropic(self) -> dict[str, Json]:
        """Return the window as Anthropic's API takes it: {"messages": ...}, and "system" if any."""
        return shapes.to_anthropic([each.fields for each in self.messages])

    def to_dict(self) -> dict[str, Json]:
        """Return the window as plain JSON, messages as they came in."""
        messages = [
            {"id": each.message.id, "why": each.why, "tokens": each.tokens}
            | {"message": each.message.to_dict()}
            for each in self.chosen
        ]
        return {
            "session": self.session,
            "version": self.version,
            "position": self.position,
            "max_tokens": self.max_tokens,
            "tokens": self.tokens,
            "messages": messages,
            "left": msgspec.to_builtins(self.left),
        }

    def __len__(self) -> int:
        return len(self.chosen)

    def __str__(self) -> str:
        return "\n".join(_drawn(self))


def build_context(
    store: EventStore,
    session: str,
    max_tokens: int | None = None,
    last: int | None = LAST_DEFAULT,
    include_summaries: bool = True,  # noqa: FBT001, FBT002 - the name is the contract
    at_version: int | None = None,
    at_position: int | None = None,
    at_time: datetime | int | None = None,
    always: Sequence[Span] = (),
) -> Window:
    """Return what a model is to see of a session, now or at one past moment.

    `max_tokens` is the budget, by default the session's own token_limit, else none; `last` the
    most messages besides system prompt, important ones and summaries, None for no limit.
    `always` are lines that count as important here, where they are shown at all.
    Raises SessionNotFound, SessionDeleted (only when asked for now) and InvalidEvent, also where
    the system prompt and the important messages alone are over the budget.
    """
    check_whole(max_tokens, "max_tokens", low=1, or_none=True)
    check_whole(last, "last", or_none=True)

    def read() -> Window:
        state = SessionState.of(
            store, session, at_version=at_version, at_position=at_position, at_time=at_time
        )
        return _window(store, state.header, max_tokens, last, always, summaries=include_summaries)

    return settled(store.log, read)


def _window(
    store: EventStore,
    header: SessionHeader,
    max_tokens: int | None,
    last: int | None,
    always: Sequence[Span],
    *,
    summaries: bool,
) -> Window:
    """Return the window of a session at one moment."""
    session = header.session
    budget = header.token_limit if max_tokens is None else max_tokens
    filling = _Filling(ShownLines(store.log, header), budget)
    notes = _notes(header.spans)
    marked = {*marks_of(store).among(header.spans), *_places(header.spans, always)}
    prompt = _prompt(filling.lines, notes)
    filling.take_always(session, prompt, marked)
    if summaries:
        filling.take_summaries(notes)
    stopped = filling.take_recent(marked.union(prompt, notes), last)
    return Window(
        session=session,
        version=header.version,
        position=header.position,
        max_tokens=budget,
        last=last,
        chosen=filling.chosen(),
        left=filling.left(header, notes, stopped),
    )


def check_room(
    store: EventStore, session: str, question: dict[str, Json], max_tokens: int | None = None
) -> None:
    """Raise InvalidEvent where a window that must hold a new message is over the budget.

    So it is where that alone has more tokens, or with the system prompt and important messages.
    """
    store.flush()
    header = store.headers.now(session)
    budget = header.token_limit if max_tokens is None else max_tokens
    if budget is not None:
        filling = _Filling(ShownLines(store.log, header), budget, store.count_tokens(question))
        prompt = _prompt(filling.lines, _notes(header.spans))
        filling.take_always(session, prompt, {*marks_of(store).among(header.spans)})


def _notes(spans: Sequence[Span]) -> list[int]:
    """Return the indexes of the summaries in the visible list."""
    found, at = [], 0
    for span in spans:
        if span.note:
            found.append(at)
        at += span.stop - span.start
    return found


def _places(spans: Sequence[Span], lines: Iterable[Span]) -> list[int]:
    """Return the indexes of one-line spans in the visible list, of those that are in it."""
    return [index_of(spans, line) for line in lines if not minus([line], spans)]


def _prompt(lines: ShownLines, notes: Iterable[int]) -> list[int]:
    """Return the indexes of the system prompt: the messages of its roles that open the session."""
    first_note = min(notes, default=len(lines))
    opening = takewhile(lambda each: lines[each].message.role in PROMPT_ROLES, range(first_note))
    return list(opening)


class _Filling:
    """A window being filled: which lines are taken, and how many tokens are left."""

    def __init__(self, lines: ShownLines, budget: int | None, tokens: int = 0) -> None:
        self.lines, self._budget, self._tokens = lines, budget, tokens
        self._taken: dict[int, str] = {}
        self._orphans: set[int] = set()

    def take_always(self, session: str, prompt: list[int], marked: set[int]) -> None:
        """Take what is always in a window. Raises InvalidEvent where that is over the budget."""
        for index in prompt:
            self._take(self._new(index), "system")
        for index in marked.difference(prompt):
            self._take(self._new(index), "important")
        if self._budget is not None and self._tokens > self._budget:
            raise InvalidEvent(
                f"what is always in a window of session {session!r} (system prompt, important "
                f"messages, an agent's question) has {self._tokens} tokens, the budget is "
                f"{self._budget}; raise max_tokens or mark less"
            )

    def take_summaries(self, notes: Sequence[int]) -> None:
        """Take the newest summaries that fit."""
        for index in reversed(notes):
            new = self._new(index)
            if not self._fits(new):
                return
            self._take(new, "summary")

    def take_recent(self, fixed: set[int], last: int | None) -> str:
        """Take the newest lines that fit; return what ended it: last or budget."""
        count = passed = 0
        for index in (each for each in reversed(range(len(self.lines))) if each not in fixed):
            if count == last or passed > ORPHANS_MAX:
                return "last"
            new = self._new(index)
            if index in self._orphans:
                passed += 1
                continue
            if not self._fits(new):
                return "budget"
            self._take(new, "recent")
            count += 1
        return "last"

    def _new(self, index: int) -> list[int]:
        """Return the lines that this one would bring into the window; of an orphan none."""
        if index in self._taken:
            return []
        group = self.lines.group(index)
        if not group.whole:
            self._orphans.add(index)
            return []
        return [each for each in group.indexes if each not in self._taken]

    def _fits(self, new: Iterable[int]) -> bool:
        more = sum(self.lines[each].tokens for each in new)
        return self._budget is None or self._tokens + more <= self._budget

    def _take(self, new: Iterable[int], why: str) -> None:
        for each in new:
            self._taken[each] = why
            self._tokens += self.lines[each].tokens

    def chosen(self) -> list[Chosen]:
        """Return what was taken, in the order of showing."""
        lines = [self.lines[index] for index in sorted(self._taken)]
        return [Chosen(at.index, self._taken[at.index], at.tokens, at.message) for at in lines]

    def left(self, header: SessionHeader, notes: Iterable[int], stopped: str) -> list[Left]:
        """Return what was not taken; of the lines nobody looked at, from the header's totals."""
        notes = [each for each in notes if each not in self._taken and each not in self._orphans]
        known = [self._left("summaries", notes), self._left("orphans", self._orphans)]
        messages = len(self.lines) - len(self._taken) - sum(each.messages for each in known)
        tokens = header.tokens - self._tokens - sum(each.tokens for each in known)
        return [each for each in (Left(stopped, messages, tokens), *known) if each.messages]

    def _left(self, why: str, indexes: Iterable[int]) -> Left:
        lines = [self.lines[index] for index in indexes]
        return Left(why, len(lines), sum(line.tokens for line in lines))


# -- drawing ---------------------------------------------------------------------------------


def _drawn(window: Window) -> Iterator[str]:
    """Iterate over the lines of the drawing: a bar for each part, then what was left out."""
    total = window.tokens if window.max_tokens is None else window.max_tokens
    of = "" if window.max_tokens is None else f" of {window.max_tokens:,}"
    session = "".join(char if char.isprintable() else "\ufffd" for char in window.session)
    messages = counted(len(window), "message")
    yield f"{session}@{window.version}: {messages}, {window.tokens:,}{of} tokens"
    for part, name in _PARTS.items():
        chosen = [each for each in window.chosen if each.why == part]
        if chosen:
            yield _row(name, len(chosen), sum(each.tokens for each in chosen), total)
    if window.max_tokens is not None:
        yield _row("free", None, window.max_tokens - window.tokens, total)
    for left in window.left:
        reason = _REASONS[left.why].format(last=window.last)
        yield f"left out: {counted(left.messages, 'message')}, {left.tokens:,} tokens, {reason}"


def _row(name: str, messages: int | None, tokens: int, total: int) -> str:
    filled = round(BAR_CHARACTERS * tokens / total) if total else 0
    bar = ("█" if messages is not None else "░") * filled
    count = "" if messages is None else f"{messages:,}"
    return f"  {name:<13} {bar:<{BAR_CHARACTERS}} {count:>7} {tokens:>10,}"
