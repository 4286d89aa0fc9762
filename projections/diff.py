"""diff(): what two sessions, branches or moments share, and what each has alone.

Invariants: a message is the same on both sides when it is the same fact, so what they share is
found in their spans and never read; the messages of one side are read when looked at.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from eventstore import EventStore, InvalidEvent, Message
from eventstore.errors import brief, counted
from eventstore.events import Span
from eventstore.messages import Json
from eventstore.patch import changes
from eventstore.spans import joined, length, minus
from eventstore.state.transcript import Transcript

from .session import SessionState

LINE_CHARACTERS_MAX = 72
"""How much of a message str() shows."""

Side = str | tuple[str, int] | SessionState
"""A session now, a session at a version, or a state taken before."""


class Change(msgspec.Struct, frozen=True):
    """A key whose value differs; None stands for a key that a side does not have."""

    a: Json
    b: Json


class Diff(msgspec.Struct, frozen=True):
    """What two moments share and what each has alone.

    `a` and `b` are (session, version); the first `common` visible messages are the same ones;
    `shared` counts all that both show, in whatever order; `only_a` and `only_b` are lazy.
    """

    a: tuple[str, int]
    b: tuple[str, int]
    common: int
    shared: int
    only_a: Sequence[Message]
    only_b: Sequence[Message]
    metadata: dict[str, Change]
    context: dict[str, Change]
    status: tuple[str, str]

    @property
    def same(self) -> bool:
        """True where both sides show the same messages in the same order, and equal values."""
        messages = self.common == self.shared and not self.only_a and not self.only_b
        return messages and not self.metadata and not self.context and len(set(self.status)) == 1

    def to_dict(self) -> dict[str, Json]:
        """Return it as plain JSON; reads the messages of either side."""
        return {
            "a": {"session": self.a[0], "version": self.a[1], "status": self.status[0]},
            "b": {"session": self.b[0], "version": self.b[1], "status": self.status[1]},
            "common": self.common,
            "shared": self.shared,
            "only_a": [{"id": message.id, **message.fields} for message in self.only_a],
            "only_b": [{"id": message.id, **message.fields} for message in self.only_b],
            "metadata": msgspec.to_builtins(self.metadata),
            "context": msgspec.to_builtins(self.context),
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"--- {self.a[0]}@{self.a[1]}"
        yield f"+++ {self.b[0]}@{self.b[1]}"
        messages = counted(self.common, "message")
        yield f"{messages} in common at the start, {self.shared} in all"
        yield from (f"- {_line(message)}" for message in self.only_a)
        yield from (f"+ {_line(message)}" for message in self.only_b)
        for field, found in (("metadata", self.metadata), ("context", self.context)):
            for key, change in found.items():
                yield f"{field}.{key}: {_text(change.a)} -> {_text(change.b)}"
        if self.status[0] != self.status[1]:
            yield f"status: {self.status[0]} -> {self.status[1]}"


def diff(store: EventStore, a: Side, b: Side) -> Diff:
    """Compare two sessions or branches, or two moments of one.

    Each side is a session id (as it is now), a (session, version) pair or a SessionState.
    Raises SessionNotFound, SessionDeleted and InvalidEvent.
    """
    ours, theirs = _state(store, a), _state(store, b)
    only_a = minus(ours.header.spans, theirs.header.spans)
    only_b = minus(theirs.header.spans, ours.header.spans)
    return Diff(
        a=(ours.session, ours.version),
        b=(theirs.session, theirs.version),
        common=common_prefix(ours.header.spans, theirs.header.spans),
        shared=ours.header.messages - length(only_a),
        only_a=Transcript(store.log, only_a),
        only_b=Transcript(store.log, only_b),
        metadata=_changed(ours.metadata, theirs.metadata),
        context=_changed(ours.context, theirs.context),
        status=(ours.status, theirs.status),
    )


def _state(store: EventStore, side: Any) -> SessionState:
    if isinstance(side, SessionState):
        return side
    if isinstance(side, str):
        return SessionState.of(store, side)
    if isinstance(side, tuple) and [type(part) for part in side] == [str, int]:
        return SessionState.of(store, side[0], at_version=side[1])
    raise InvalidEvent(f"a session id, a (session, version) or a state expected, not {brief(side)}")


def common_prefix(ours: Iterable[Span], theirs: Iterable[Span]) -> int:
    """Return how many lines two visible lists share at their start."""
    count = 0
    for left, right in zip(joined(ours), joined(theirs), strict=False):
        if (left.session, left.start, left.note) != (right.session, right.start, right.note):
            break
        count += min(left.stop, right.stop) - left.start
        if left.stop != right.stop:
            break
    return count


def _changed(ours: dict[str, Json], theirs: dict[str, Json]) -> dict[str, Change]:
    return {key: Change(ours.get(key), theirs.get(key)) for key in sorted(changes(ours, theirs))}


def _line(message: Message) -> str:
    """Return a message's role and the beginning of its text, on one line."""
    text = "".join(each if each.isprintable() else " " for each in message.text)
    text = " ".join(text.split())
    if len(text) > LINE_CHARACTERS_MAX:
        text = text[: LINE_CHARACTERS_MAX - 1] + "…"
    return f"{message.role or 'message'}: {text}"


def _text(value: Json) -> str:
    return "none" if value is None else msgspec.json.encode(value).decode()
