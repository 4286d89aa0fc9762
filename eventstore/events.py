"""The schema of facts: frozen structs in the past tense, grouped by what they are about.

Invariants: an event is small and never holds full state; its payload says its own type
(field `type`); what a command decided (which messages, which values) stands in the event,
so that replay needs no rules, no clock and no randomness. A field may be added with a
default; any other change is a new schema number and a step in upcast.py.
"""

from typing import Any

import msgspec

from .messages import Json, Message


class Event(msgspec.Struct, frozen=True, tag=True, tag_field="type", omit_defaults=True, gc=False):
    """Base of all facts."""


class Span(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A run of visible lines: messages `start <= number < stop` of one stream.

    A message's number counts the messages of its own stream from 0. With `note` set the span
    is one line, the summary inside the event at version `start`, and stop is start + 1.
    """

    session: str
    start: int
    stop: int
    note: bool = False


# -- life of a session -----------------------------------------------------------------


class SessionCreated(Event, frozen=True):
    """Version 0 of a session. `ttl` in seconds, `expires_at` in ns since the epoch."""

    metadata: dict[str, Json] = {}
    context: dict[str, Json] = {}
    user: str | None = None
    ttl: float | None = None
    expires_at: int | None = None
    max_messages: int | None = None
    token_limit: int | None = None
    template: str | None = None


class SessionClosed(Event, frozen=True):
    """The conversation is over; it takes no more messages until reopened."""

    reason: str | None = None


class SessionReopened(Event, frozen=True):
    """A closed or archived session is active again."""


class SessionArchived(Event, frozen=True):
    """Put away: readable, closed, out of the usual lists."""

    reason: str | None = None


class SessionDeleted(Event, frozen=True):
    """Gone for reads of the present; its past stays replayable."""

    reason: str | None = None


class TtlExtended(Event, frozen=True):
    """The session lives `ttl` seconds from now on: until `expires_at` (ns), or for ever."""

    ttl: float | None = None
    expires_at: int | None = None


# -- messages --------------------------------------------------------------------------


class MessageAppended(Event, frozen=True):
    """A line was said; `tokens` as counted when it was appended."""

    message: Message
    tokens: int = 0


class MessagesPruned(Event, frozen=True):
    """Exactly these lines are hidden from now on: `count` of them, `tokens` in all."""

    spans: list[Span]
    count: int
    tokens: int = 0
    reason: str | None = None


class HistorySummarized(Event, frozen=True):
    """The lines of `spans` are shown as one message, `summary`, of `tokens` tokens."""

    summary: dict[str, Json]
    spans: list[Span]
    count: int
    tokens_before: int = 0
    tokens: int = 0


class SessionRewound(Event, frozen=True):
    """From here on the state is what it was at `to_version` of this stream.

    A legal hold is no state to go back from: `held` says whether one stands.
    """

    to_version: int
    held: bool = False


# -- branches --------------------------------------------------------------------------


class BranchCreated(Event, frozen=True):
    """Version 0 of a branch: it starts as `parent` was at `at_version`."""

    parent: str
    at_version: int
    name: str | None = None
    description: str | None = None


class BranchMerged(Event, frozen=True):
    """`source` as of `source_version` came into `into`, whose version `into_version` this is.

    The fact stands in both streams. In `into`, `hidden` lines go, `brought` lines come, by
    reference, and the values of the patches apply; `tokens` is the change of the visible total.
    In `source` it is a marker. `base` holds the (session, version) that each side was compared
    with, the source's first; it is empty where the two share no past.
    """

    source: str
    into: str
    source_version: int
    into_version: int
    strategy: str
    base: list[tuple[str, int]] = []
    on_conflict: str = "error"
    brought: list[Span] = []
    hidden: list[Span] = []
    metadata: dict[str, Json] = {}
    context: dict[str, Json] = {}
    tokens: int = 0
    summary: dict[str, Json] | None = None
    summary_tokens: int = 0


# -- values ----------------------------------------------------------------------------


class MetadataUpdated(Event, frozen=True):
    """A JSON merge patch (RFC 7396) on the metadata; null removes a key."""

    patch: dict[str, Json]


class ContextSet(Event, frozen=True):
    """One context variable has this value now; null removes it."""

    key: str
    value: Any = None


# -- what the agent did ----------------------------------------------------------------


class ToolCallRecorded(Event, frozen=True):
    """A tool ran, for statistics and audit."""

    name: str
    arguments: Any = None
    result: Any = None
    call_id: str | None = None
    error: str | None = None
    duration_ms: float | None = None


class ErrorRecorded(Event, frozen=True):
    """Something failed while the session ran."""

    kind: str
    text: str = ""
    detail: Any = None


class Custom(Event, frozen=True):
    """The user's own fact: `name` is theirs, `data` any JSON."""

    name: str
    data: Any = None


# -- keys, erasure, holds --------------------------------------------------------------


class Redacted(Event, frozen=True):
    """What stood at `version` of this stream is hidden everywhere, in the past too."""

    version: int
    reason: str | None = None


class LegalHoldSet(Event, frozen=True):
    """Nothing may be erased, redacted, pruned or expired until the hold is cleared.

    It covers the session it stands in; in the system stream, all sessions of `user`.
    """

    reason: str | None = None
    user: str | None = None


class LegalHoldCleared(Event, frozen=True):
    """The hold on the session, or on the sessions of `user`, is over."""

    reason: str | None = None
    user: str | None = None


class KeyCreated(Event, frozen=True):
    """Payloads from here on are sealed with key `key`; `digest` commits to it, in hex."""

    key: int
    digest: str


class EraseRequested(Event, frozen=True):
    """Everything said in this session goes, and `keys` with it; only facts about that follow.

    `dependents` are the (session, lines) that showed lines of it and lose them.
    """

    keys: list[int]
    reason: str | None = None
    dependents: list[tuple[str, int]] = []


class KeyShredded(Event, frozen=True):
    """The keys are destroyed; what they sealed can't be read by anybody."""

    keys: list[int]
    reason: str | None = None


AnyEvent = (
    SessionCreated
    | SessionClosed
    | SessionReopened
    | SessionArchived
    | SessionDeleted
    | TtlExtended
    | MessageAppended
    | MessagesPruned
    | HistorySummarized
    | SessionRewound
    | BranchCreated
    | BranchMerged
    | MetadataUpdated
    | ContextSet
    | ToolCallRecorded
    | ErrorRecorded
    | Custom
    | Redacted
    | LegalHoldSet
    | LegalHoldCleared
    | KeyCreated
    | KeyShredded
    | EraseRequested
)
