"""Turns: one question to an agent and what was recorded of it, read back from facts alone.

Invariants: the turns of a session have numbers 0, 1, 2, ... without gaps, each the idempotency
key of its question; whatever else a turn leaves has its own key made of that one and its place in
the turn, so that nothing is recorded twice, and the turn's id as its correlation id. Nothing is
kept beside the log: whoever goes on with a turn sees what a killed process saw.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Literal

import msgspec

from ..engine.quoting import lines_of
from ..events import (
    ErrorRecorded,
    HistorySummarized,
    MessageAppended,
    SessionRewound,
    Span,
    ToolCallRecorded,
)
from ..ids import message_id
from ..log.base import Log
from ..log.recorded import Recorded
from ..messages import Json, Message
from ..spans import minus
from ..store import EventStore
from .external import newest_number
from .shapes import Call, calls_in

SESSION_DIGITS = 32
"""Hex digits of a session's digest in the ids of its turns: 128 bits."""

State = Literal["answered", "interrupted", "failed", "undone"]


class Ran(msgspec.Struct, frozen=True):
    """What a tool gave, or how it failed."""

    result: Json
    error: str | None


class Pending(msgspec.Struct):
    """A tool call whose result the agent has not seen; `ran` is set once the tool ran."""

    place: int
    call: Call
    ran: Ran | None = None


class Turn(msgspec.Struct):
    """One question and what came of it so far.

    `id` is the correlation id of all its facts; `first` and `version` are the versions of its
    first and newest fact; `replies` counts what the agent gave; `waiting` are the calls of the
    newest reply that lack a result, by call id; `answer` is the reply that asked for no tools.
    `undone` says that the session was rewound to before the question, or that all there is of an
    unanswered turn was hidden (a policy that hides an answered one takes nothing back), `cut` that
    it was rewound to before the newest fact, `redacted` that a message of it is gone: nobody knows
    any more what that asked for. Of such a question only the role is left.
    """

    session: str
    number: int
    id: str
    line: Span
    question: Message
    first: int
    version: int
    replies: int = 0
    waiting: dict[str, Pending] = {}
    answer: Message | None = None
    failed: bool = False
    cut: bool = False
    redacted: bool = False
    undone: bool = False

    @property
    def state(self) -> State:
        """How it stands: `failed` after an error, `undone` where it was taken back or cut short.

        So is one without an answer, or with a redacted one, that lost a message by redaction.

        `interrupted` is one that somebody works at, or worked at when the process ended.
        """
        if self.undone or self.cut:
            return "undone"
        if self.answer is not None:
            return "answered"
        if self.redacted:
            return "undone"
        return "failed" if self.failed else "interrupted"

    def replied(self, reply: Message) -> None:
        """Take in what the agent gave: calls to run, or the answer."""
        self.replies += 1
        calls = enumerate(calls_in(reply.fields))
        self.waiting = {call.id: Pending(place, call) for place, call in calls}
        self.answer = None if self.waiting else reply


def turn_id(session: str, number: int) -> str:
    """Return the id of a turn, which is also the idempotency key of its question."""
    return f"turn:{sha256(session.encode()).hexdigest()[:SESSION_DIGITS]}:{number}"


def newest_turn(log: Log, session: str) -> int:
    """Return the number of the newest turn of a session, -1 before the first."""
    return newest_number(lambda number: log.receipt_of(turn_id(session, number)) is not None)


def read_turn(store: EventStore, session: str, number: int) -> Turn:
    """Return a turn as it is recorded; it reads what the session holds from its question on.

    Raises KeyShredded where the session was erased.
    """
    store.headers.check_readable(session)
    identity = turn_id(session, number)
    found = store.log.receipt_of(identity)
    assert found is not None, "the turn has begun"
    facts = list(store.events(session, found[1].first_version))
    turn = _begun(facts[0], number, identity)
    for recorded in facts[1:]:
        _take(turn, recorded)
    lost = turn.answer is None and _is_hidden(turn, facts, store.headers.now(session).spans)
    turn.undone = lost or _is_rewound(turn, facts)
    return turn


def _begun(first: Recorded, number: int, identity: str) -> Turn:
    [line], version = lines_of(first), first.version
    if first.erased:
        lost = Message({"role": first.role}, message_id(first.session, version))
        return Turn(first.session, number, identity, line, lost, version, version, redacted=True)
    event = first.event
    assert isinstance(event, MessageAppended)
    return Turn(first.session, number, identity, line, event.message, version, version)


def _is_rewound(turn: Turn, facts: Sequence[Recorded]) -> bool:
    """Return True where the session is what it was at a version before the question."""
    version = facts[-1].version
    for recorded in reversed(facts):
        if recorded.type == "SessionRewound" and recorded.version <= version:
            event = recorded.event
            assert isinstance(event, SessionRewound)
            version = event.to_version
    return version < turn.first


def _is_hidden(turn: Turn, facts: Sequence[Recorded], shown: Sequence[Span]) -> bool:
    """Return True where nothing of a turn is shown, and no summary stands for its question."""
    for recorded in facts:
        if recorded.type == "HistorySummarized":
            event = recorded.structure
            if isinstance(event, HistorySummarized) and not minus([turn.line], event.spans):
                return False
        own = recorded.correlation_id == turn.id and recorded.type == "MessageAppended"
        if own and not minus(lines_of(recorded), shown):
            return False
    return True


def _take(turn: Turn, recorded: Recorded) -> None:
    """Take in the next fact of the session, of the turn or not."""
    if recorded.correlation_id == turn.id:
        _take_own(turn, recorded)
    elif recorded.type == "SessionRewound":
        event = recorded.event
        assert isinstance(event, SessionRewound)
        turn.cut = event.to_version < turn.version


def _take_own(turn: Turn, recorded: Recorded) -> None:
    event = recorded.structure
    turn.version, turn.failed = recorded.version, isinstance(event, ErrorRecorded)
    if event is None:
        turn.redacted = True
    elif isinstance(event, ToolCallRecorded) and event.call_id in turn.waiting:
        turn.waiting[event.call_id].ran = Ran(event.result, event.error)
    elif isinstance(event, MessageAppended):
        if event.message.tool_call_id is not None:
            turn.waiting.pop(event.message.tool_call_id, None)
        else:
            turn.replied(event.message)
