"""Recorded, an event with its place: a view into its frame.

Invariants: nothing is decoded before somebody looks; two are equal where all that they say is.
"""

from typing import TYPE_CHECKING

from ..errors import Corruption
from ..events import AnyEvent
from ..messages import ROLES
from .format import TYPES

if TYPE_CHECKING:
    from .frame import Frame


class Recorded:
    """An event with its place: a view into its frame that decodes when asked.

    `position` (in the log), `session`, `version` (in the session), `recorded_at` and
    `occurred_at` (ns since the epoch, the latter None unless the caller gave one), `actor`,
    `correlation_id`, `causation_id`, `key` (on the first event of an append), `event`.
    """

    __slots__ = ("_event", "frame", "index")

    def __init__(self, frame: "Frame", index: int) -> None:
        self.frame, self.index = frame, index
        self._event: AnyEvent | None = None

    @property
    def position(self) -> int:
        """Place in the log."""
        return self.frame.position + self.index

    @property
    def session(self) -> str:
        """The stream it belongs to."""
        return self.frame.session

    @property
    def version(self) -> int:
        """Place in the stream."""
        return self.frame.version + self.index

    @property
    def recorded_at(self) -> int:
        """Time of the commit, ns since the epoch; never goes backwards."""
        return self.frame.recorded_at

    @property
    def occurred_at(self) -> int | None:
        """The caller's own time, ns since the epoch."""
        return self.frame.occurred_at(self.index)

    @property
    def actor(self) -> str | None:
        """Who did it."""
        return self.frame.actor

    @property
    def correlation_id(self) -> str | None:
        """What it belongs to."""
        return self.frame.correlation_id

    @property
    def causation_id(self) -> str | None:
        """What caused it."""
        return self.frame.causation_id

    @property
    def key(self) -> str | None:
        """The idempotency key, on the first event of an append."""
        return None if self.index else self.frame.key

    @property
    def number(self) -> int:
        """How many messages of the stream come before it."""
        return self.frame.message_number(self.index)

    @property
    def type_code(self) -> int:
        """Number of the event's type on disk."""
        return self.frame.row(self.index)[3]

    @property
    def schema(self) -> int:
        """Number of the payload's schema."""
        return self.frame.row(self.index)[4]

    @property
    def tokens(self) -> int:
        """Tokens of a message, counted when it was appended."""
        return self.frame.row(self.index)[2]

    @property
    def size(self) -> int:
        """Bytes of the payload before compression."""
        return self.frame.row(self.index)[1]

    @property
    def role(self) -> str:
        """Role of a message, where it has a code; else the empty string."""
        return ROLES[self.role_code]

    @property
    def role_code(self) -> int:
        """Code of a message's role, 0 for none. Raises Corruption for an unknown one."""
        code = self.frame.row(self.index)[6]
        if code >= len(ROLES):
            raise Corruption(self.position, f"role {code} is none that this release knows")
        return code

    @property
    def type(self) -> str:
        """Name of the event's type; needs no decoding. Raises Corruption for an unknown one."""
        kind = TYPES.get(self.type_code)
        if kind is None:
            raise Corruption(
                self.position, f"type {self.type_code} is none that this release knows"
            )
        return kind.__name__

    @property
    def erased(self) -> bool:
        """True where the payload was redacted or erased; place, type and size are still known."""
        return self.frame.erased(self.index)

    @property
    def structure(self) -> AnyEvent | None:
        """What folds need: the event, of an erased one what nobody said, None for nothing."""
        return self.frame.structure(self.index) if self.erased else self.event

    @property
    def event(self) -> AnyEvent:
        """The typed event; raises KeyShredded where it was erased, Corruption where damaged."""
        event = self._event
        if event is None:
            event = self._event = self.frame.event(self.index)
        return event

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recorded) and _facts(self) == _facts(other)

    def __hash__(self) -> int:
        return hash((self.position, self.session, self.version))

    def __repr__(self) -> str:
        return f"<Recorded {self.position} {self.session!r}@{self.version} {self.type}>"


def _facts(recorded: Recorded) -> tuple[object, ...]:
    return (
        recorded.position,
        recorded.session,
        recorded.version,
        recorded.recorded_at,
        recorded.occurred_at,
        recorded.actor,
        recorded.correlation_id,
        recorded.causation_id,
        recorded.key,
        recorded.event,
    )
