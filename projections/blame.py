"""blame(): which fact put each visible message and each value where it is.

Invariants: it follows the lineage that the state is folded from, so rewinds, branches and merges
count as they do there; a value belongs to the newest fact that changed it or a part of it; a
message belongs to the fact that said it, and where a merge brought it, the merge is named too.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import msgspec

from eventstore import EventStore, Message, Recorded
from eventstore import events as ev
from eventstore.events import Span
from eventstore.messages import Json
from eventstore.patch import assigned, changes, patched
from eventstore.spans import length, minus
from eventstore.state.header import SessionHeader
from eventstore.state.hidden import settled
from eventstore.state.lineage import lineage
from eventstore.state.transcript import Transcript

from .projection import segment_pieces
from .session import SessionState


class Origin(msgspec.Struct, frozen=True):
    """A fact and its place: who recorded what, where and when (ns)."""

    position: int
    session: str
    version: int
    type: str
    recorded_at: int
    actor: str | None = None


class BlamedMessage(msgspec.Struct, frozen=True):
    """A visible message, the fact that said it, and the newest merge that brought it here."""

    message: Message
    origin: Origin
    merge: Origin | None = None


class Blame(msgspec.Struct, frozen=True):
    """The facts behind one moment of a session: messages in order, values by top-level key."""

    session: str
    version: int
    messages: list[BlamedMessage]
    metadata: dict[str, Origin]
    context: dict[str, Origin]

    def to_dict(self) -> dict[str, Json]:
        """Return it as plain JSON, messages as they came in."""
        messages = [
            {
                "id": each.message.id,
                "message": each.message.to_dict(),
                "origin": msgspec.to_builtins(each.origin),
                "merge": msgspec.to_builtins(each.merge),
            }
            for each in self.messages
        ]
        return {
            "session": self.session,
            "version": self.version,
            "messages": messages,
            "metadata": msgspec.to_builtins(self.metadata),
            "context": msgspec.to_builtins(self.context),
        }


def blame(store: EventStore, session: str, at_version: int | None = None) -> Blame:
    """Return the facts behind a session as it is now, or was at a version of its own stream.

    Costs a look at every event head of the lineage and at every visible message. Raises
    SessionNotFound, SessionDeleted (only when asked for now) and InvalidEvent.
    """
    return settled(store.log, partial(_blamed, store, session, at_version))


def _blamed(store: EventStore, session: str, at_version: int | None) -> Blame:
    header = SessionState.of(store, session, at_version=at_version).header
    sources = _Sources()
    _, segments = lineage(store.log, session, header.version)
    for frame, first, last in segment_pieces(store.log, segments):
        if not frame.only_messages:
            for recorded in frame.recorded(first, last):
                sources.note(recorded)
    return Blame(
        session=session,
        version=header.version,
        messages=_messages(store, header, sources.merges),
        metadata=sources.metadata.origins,
        context=sources.context.origins,
    )


def _messages(
    store: EventStore, header: SessionHeader, merges: list[tuple[list[Span], Origin]]
) -> list[BlamedMessage]:
    lines = Transcript(store.log, header.spans).lines(0, header.messages)
    return [
        BlamedMessage(message, origin_of(recorded), _bringer(span, merges))
        for span, recorded, message in lines
    ]


def _bringer(line: Span, merges: Iterable[tuple[list[Span], Origin]]) -> Origin | None:
    """Return the merge that brought a line; `merges` has the newest first."""
    return next((merge for brought, merge in merges if not minus([line], brought)), None)


def origin_of(recorded: Recorded) -> Origin:
    """Return the place of a fact."""
    return Origin(
        position=recorded.position,
        session=recorded.session,
        version=recorded.version,
        type=recorded.type,
        recorded_at=recorded.recorded_at,
        actor=recorded.actor,
    )


class _Values:
    """Metadata or context while it is folded, and the fact behind each of its keys."""

    def __init__(self) -> None:
        self.now: dict[str, Json] = {}
        self.origins: dict[str, Origin] = {}

    def become(self, values: dict[str, Json], recorded: Recorded) -> None:
        """Take over new values; keys that differ belong to this fact."""
        for key in changes(self.now, values):
            self.origins.pop(key, None)
            if key in values:
                self.origins[key] = origin_of(recorded)
        self.now = values


class _Sources:
    """What is known after a part of the lineage; merges newest first."""

    def __init__(self) -> None:
        self.metadata, self.context = _Values(), _Values()
        self.merges: list[tuple[list[Span], Origin]] = []

    def note(self, recorded: Recorded) -> None:
        """Take one more fact into account."""
        if recorded.type not in _TELLING:
            return
        event: Any = recorded.structure
        if event is None:
            return
        if isinstance(event, ev.SessionCreated):
            self.metadata.become(event.metadata, recorded)
            self.context.become(event.context, recorded)
        elif isinstance(event, ev.MetadataUpdated):
            self.metadata.become(patched(self.metadata.now, event.patch), recorded)
        elif isinstance(event, ev.ContextSet):
            changed = assigned(self.context.now, {event.key: event.value})
            self.context.become(changed, recorded)
        elif event.into == recorded.session:
            self._merge(event, recorded)

    def _merge(self, event: ev.BranchMerged, recorded: Recorded) -> None:
        self.metadata.become(assigned(self.metadata.now, event.metadata), recorded)
        self.context.become(assigned(self.context.now, event.context), recorded)
        woven = event.hidden  # interleaving takes own lines out and puts them back in order
        brought = minus(event.brought, woven)
        if length(brought):
            self.merges.insert(0, (brought, origin_of(recorded)))


_TELLING = {
    kind.__name__
    for kind in (ev.SessionCreated, ev.MetadataUpdated, ev.ContextSet, ev.BranchMerged)
}
