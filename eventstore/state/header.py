"""A session's header: all of its state but the messages, folded from facts.

Invariants: its size does not grow with the number of messages, only with the number of runs that
pruning, summaries and merges cut them into; evolve() needs the payload of
no message; it may change and return the header it is given, so whoever keeps one keeps a
copy(); of its values only the spans are changed in place, all others are replaced. Forks and
rewinds are resolved by lineage.py before the fold: here they only change what the header calls
itself.
"""

from collections.abc import Callable
from sys import intern
from typing import Any

import msgspec

from .. import events as ev
from ..events import Span
from ..log.format import MESSAGE, TYPE_CODES
from ..log.frame import Frame
from ..log.recorded import Recorded
from ..patch import assigned, patched
from ..spans import extended, length, minus, replaced

REVISION = 3
"""Raised when evolve() changes, so that snapshots of older code are left alone."""


_Step = Callable[["SessionHeader", Any, Recorded], None]


class MergePoint(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The last merge with another session: the states, theirs and ours, that both sides had in.

    After this session took `other` in, those are other as it was, and what became of us. After
    other took this session in, both are this session as it was: more of other did not come here.
    """

    their_session: str
    their_version: int
    session: str
    version: int


class SessionHeader(msgspec.Struct):
    """State at one version of one session.

    `spans` is the visible list; `tokens` are those of the visible lines; `appended`,
    `tool_calls` and `errors` count what this lineage holds; times are ns since the epoch. `held`
    says whether the session itself is under legal hold; `users_held`, in the system stream, whose
    sessions are.
    """

    session: str = ""
    version: int = -1
    position: int = -1
    status: str = "active"
    metadata: dict[str, Any] = {}
    context: dict[str, Any] = {}
    spans: list[Span] = []
    tokens: int = 0
    appended: int = 0
    tool_calls: int = 0
    errors: int = 0
    user: str | None = None
    ttl: float | None = None
    expires_at: int | None = None
    max_messages: int | None = None
    token_limit: int | None = None
    template: str | None = None
    parent: str | None = None
    at_version: int | None = None
    name: str | None = None
    description: str | None = None
    depth: int = 0
    created_at: int = 0
    updated_at: int = 0
    merges: dict[str, MergePoint] = {}
    held: bool = False
    users_held: list[str] = []

    @property
    def messages(self) -> int:
        """Number of visible lines."""
        return length(self.spans)

    def copy(self) -> "SessionHeader":
        """Return an equal header that further folding of this one doesn't touch."""
        made = msgspec.structs.replace(self)
        made.spans, made.merges = list(self.spans), dict(self.merges)
        made.metadata, made.context = dict(self.metadata), dict(self.context)
        made.users_held = list(self.users_held)
        return made

    def share(self) -> None:
        """Let go of what thousands of kept headers need only once: empty values.

        That is a sixth of what a header takes. Folding replaces these values and changes none.
        """
        self.metadata, self.context = self.metadata or _EMPTY, self.context or _EMPTY
        self.merges, self.users_held = self.merges or _EMPTY, self.users_held or _NOBODY
        self.status = intern(self.status)


_EMPTY: dict[str, Any] = {}
_NOBODY: list[str] = []
"""What headers that are kept share; copy() gives nobody hold of them."""


def evolve(header: SessionHeader, recorded: Recorded) -> SessionHeader:
    """Return the state after one more event."""
    frame, index = recorded.frame, recorded.index
    code = recorded.type_code
    if code == MESSAGE:
        return _messages_appended(header, frame, index, index + 1)
    step = _STEPS.get(code)
    if step is not None:
        event = recorded.structure
        if event is not None or code in _COUNTED:  # else it was erased, and nothing is left of it
            step(header, event, recorded)
    if recorded.version == 0:
        header.created_at = frame.recorded_at
    return _moved(header, frame, index)


def evolve_frame(header: SessionHeader, frame: Frame, first: int, last: int) -> SessionHeader:
    """Return the state after the frame's events of versions `first..last`.

    Frames of nothing but messages are taken as a whole; that this equals evolve() one by one
    is a law that tests hold it to.
    """
    if frame.only_messages:
        low, high = max(first - frame.version, 0), min(last - frame.version + 1, frame.count)
        return _messages_appended(header, frame, low, high)
    for recorded in frame.recorded(first, last):
        header = evolve(header, recorded)
    return header


def _messages_appended(header: SessionHeader, frame: Frame, low: int, high: int) -> SessionHeader:
    start = frame.message_number(low)
    tokens = sum([row[2] for row in frame.rows(low, high)])
    extended(header.spans, frame.session, start, start + high - low)
    header.appended += high - low
    header.tokens += tokens
    return _moved(header, frame, high - 1)


def _moved(header: SessionHeader, frame: Frame, index: int) -> SessionHeader:
    header.session = frame.session
    header.version = frame.version + index
    header.position = frame.position + index
    header.updated_at = frame.recorded_at
    return header


# -- one step per kind of event; what is not here changes nothing but the place ---------------


def _created(header: SessionHeader, event: ev.SessionCreated, _: Recorded) -> None:
    for field in ("user", "ttl", "expires_at", "max_messages", "token_limit", "template"):
        setattr(header, field, getattr(event, field))
    header.metadata, header.context = dict(event.metadata), dict(event.context)


def _branched(header: SessionHeader, event: ev.BranchCreated, _: Recorded) -> None:
    header.parent, header.at_version = event.parent, event.at_version
    header.name, header.description = event.name, event.description
    header.depth += 1
    header.status = "active"
    header.held = False


def _merged(header: SessionHeader, event: ev.BranchMerged, recorded: Recorded) -> None:
    own = recorded.session
    if event.source == own:
        point = MergePoint(own, event.source_version, own, event.source_version)
        header.merges = {**header.merges, event.into: point}
        return
    header.spans = minus(header.spans, event.hidden) + event.brought
    if event.summary is not None:
        header.spans.append(Span(own, recorded.version, recorded.version + 1, note=True))
    header.metadata = assigned(header.metadata, event.metadata)
    header.context = assigned(header.context, event.context)
    header.tokens += event.tokens
    theirs = event.source, event.source_version
    point = MergePoint(*theirs, own, recorded.version)
    header.merges = {**header.merges, event.source: point}


def _pruned(header: SessionHeader, event: ev.MessagesPruned, _: Recorded) -> None:
    header.spans = minus(header.spans, event.spans)
    header.tokens -= event.tokens


def _summarized(header: SessionHeader, event: ev.HistorySummarized, recorded: Recorded) -> None:
    note = Span(recorded.session, recorded.version, recorded.version + 1, note=True)
    header.spans = replaced(header.spans, event.spans, note)
    header.tokens += event.tokens - event.tokens_before


def _metadata(header: SessionHeader, event: ev.MetadataUpdated, _: Recorded) -> None:
    header.metadata = patched(header.metadata, event.patch)


def _context(header: SessionHeader, event: ev.ContextSet, _: Recorded) -> None:
    header.context = assigned(header.context, {event.key: event.value})


def _tool_call(header: SessionHeader, _: ev.ToolCallRecorded | None, __: Recorded) -> None:
    header.tool_calls += 1


def _error(header: SessionHeader, _: ev.ErrorRecorded | None, __: Recorded) -> None:
    header.errors += 1


def _rewound(header: SessionHeader, event: ev.SessionRewound, _: Recorded) -> None:
    header.held = event.held


def _held(header: SessionHeader, event: ev.LegalHoldSet, _: Recorded) -> None:
    if event.user is None:
        header.held = True
    elif event.user not in header.users_held:
        header.users_held = [*header.users_held, event.user]


def _released(header: SessionHeader, event: ev.LegalHoldCleared, _: Recorded) -> None:
    if event.user is None:
        header.held = False
    else:
        header.users_held = [user for user in header.users_held if user != event.user]


def _ttl(header: SessionHeader, event: ev.TtlExtended, _: Recorded) -> None:
    header.ttl, header.expires_at = event.ttl, event.expires_at


def _status(status: str) -> _Step:
    def step(header: SessionHeader, _: Any, __: Recorded) -> None:
        header.status = status

    return step


_STEPS_BY_TYPE: dict[type[ev.Event], _Step] = {
    ev.SessionCreated: _created,
    ev.BranchCreated: _branched,
    ev.BranchMerged: _merged,
    ev.MessagesPruned: _pruned,
    ev.HistorySummarized: _summarized,
    ev.MetadataUpdated: _metadata,
    ev.ContextSet: _context,
    ev.ToolCallRecorded: _tool_call,
    ev.ErrorRecorded: _error,
    ev.TtlExtended: _ttl,
    ev.SessionClosed: _status("closed"),
    ev.SessionReopened: _status("active"),
    ev.SessionArchived: _status("archived"),
    ev.SessionDeleted: _status("deleted"),
    ev.EraseRequested: _status("erased"),
    ev.SessionRewound: _rewound,
    ev.LegalHoldSet: _held,
    ev.LegalHoldCleared: _released,
}
_STEPS = {TYPE_CODES[kind]: step for kind, step in _STEPS_BY_TYPE.items()}
_COUNTED = {TYPE_CODES[kind] for kind in (ev.ToolCallRecorded, ev.ErrorRecorded)}
"""Steps that need no more than that it happened."""
