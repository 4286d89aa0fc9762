"""The catalogue: one row a session, for lists that don't fold every session they show.

Invariants: a row equals what the session's header says at the same version; messages and plain
values move a row by themselves, whatever changes the visible list asks the header; a page of a
list is cut by a total order, so that following its cursor shows no session twice.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping
from heapq import nlargest, nsmallest
from typing import Any, ClassVar

import msgspec

from eventstore import InvalidEvent, Recorded
from eventstore import events as ev
from eventstore.header import SessionHeader
from eventstore.lineage import Headers
from eventstore.log.format import TYPE_CODES
from eventstore.log.frame import Frame
from eventstore.messages import Json
from eventstore.patch import patched

from .projection import Projection

ORDERS = ("updated_at", "created_at", "messages", "tokens", "session")
LISTED = ("active", "closed")
"""The statuses of the usual lists: archived sessions are put away, deleted ones are gone."""

_ABSENT = object()
_CREATED = TYPE_CODES[ev.SessionCreated]


class CatalogRow(msgspec.Struct):
    """What lists show of a session: times in ns, `messages` and `tokens` of its visible lines."""

    session: str
    user: str | None = None
    status: str = "active"
    metadata: dict[str, Json] = {}
    name: str | None = None
    parent: str | None = None
    depth: int = 0
    created_at: int = 0
    updated_at: int = 0
    messages: int = 0
    tokens: int = 0
    version: int = -1
    expires_at: int | None = None

    def to_dict(self) -> dict[str, Json]:
        """Return the row as plain JSON."""
        plain: dict[str, Json] = msgspec.to_builtins(self)
        return plain


class SessionPage(msgspec.Struct, frozen=True):
    """One page of a list; `next` is the cursor of the page after it, None at the end."""

    rows: list[CatalogRow]
    next: str | None = None

    def __iter__(self) -> Iterator[CatalogRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def row_of(header: SessionHeader) -> CatalogRow:
    """Return the row that a header stands for."""
    return CatalogRow(**{field: getattr(header, field) for field in CatalogRow.__struct_fields__})


class CatalogProjection(Projection[MutableMapping[str, CatalogRow]]):
    """The recipe of the catalogue; `headers` answers where the visible list changed."""

    name: ClassVar[str] = "catalog"
    keyed: ClassVar[bool] = True
    row_type: ClassVar[Any] = CatalogRow

    def __init__(self, headers: Headers) -> None:
        self._headers = headers

    def initial(self) -> MutableMapping[str, CatalogRow]:
        """Return the empty catalogue."""
        return {}

    def evolve(
        self, state: MutableMapping[str, CatalogRow], recorded: Recorded
    ) -> MutableMapping[str, CatalogRow]:
        """Move one session's row on."""
        session, code = recorded.session, recorded.type_code
        step = _STEPS.get(code)
        if step is None:
            state[session] = row_of(self._headers.at(session, recorded.version))
            return state
        row = CatalogRow(session) if code == _CREATED else state[session]
        step(row, recorded)
        row.version, row.updated_at = recorded.version, recorded.recorded_at
        state[session] = row
        return state

    def evolve_frame(
        self, state: MutableMapping[str, CatalogRow], frame: Frame, first: int, last: int
    ) -> MutableMapping[str, CatalogRow]:
        """Move a row on by a frame of nothing but messages at once."""
        if not frame.only_messages:
            return super().evolve_frame(state, frame, first, last)
        low, high = max(first - frame.version, 0), min(last - frame.version + 1, frame.count)
        row = state[frame.session]
        row.messages += high - low
        row.tokens += sum([each[2] for each in frame.rows(low, high)])
        row.version, row.updated_at = frame.version + high - 1, frame.recorded_at
        state[frame.session] = row
        return state


# -- one step per kind of event that needs no header -----------------------------------------


def _message(row: CatalogRow, recorded: Recorded) -> None:
    row.messages += 1
    row.tokens += recorded.tokens


def _created(row: CatalogRow, recorded: Recorded) -> None:
    event = recorded.event
    assert isinstance(event, ev.SessionCreated)
    row.user, row.metadata, row.expires_at = event.user, event.metadata, event.expires_at
    row.created_at = recorded.recorded_at


def _metadata(row: CatalogRow, recorded: Recorded) -> None:
    event = recorded.event
    assert isinstance(event, ev.MetadataUpdated)
    row.metadata = patched(row.metadata, event.patch)


def _ttl(row: CatalogRow, recorded: Recorded) -> None:
    event = recorded.event
    assert isinstance(event, ev.TtlExtended)
    row.expires_at = event.expires_at


def _status(status: str) -> Callable[[CatalogRow, Recorded], None]:
    def step(row: CatalogRow, _: Recorded) -> None:
        row.status = status

    return step


def _place(_: CatalogRow, __: Recorded) -> None:
    """Change nothing but version and time."""


_STEP_OF: dict[type[ev.Event], Callable[[CatalogRow, Recorded], None]] = {
    ev.MessageAppended: _message,
    ev.SessionCreated: _created,
    ev.MetadataUpdated: _metadata,
    ev.TtlExtended: _ttl,
    ev.SessionClosed: _status("closed"),
    ev.SessionReopened: _status("active"),
    ev.SessionArchived: _status("archived"),
    ev.SessionDeleted: _status("deleted"),
    ev.ContextSet: _place,
    ev.ToolCallRecorded: _place,
    ev.ErrorRecorded: _place,
    ev.Custom: _place,
}
_STEPS = {TYPE_CODES[kind]: step for kind, step in _STEP_OF.items()}


# -- lists -----------------------------------------------------------------------------------


def select(
    rows: Iterable[CatalogRow],
    *,
    user: str | None = None,
    where: Mapping[str, Json] | None = None,
    status: Collection[str] = LISTED,
    order: str = "-updated_at",
    limit: int | None = 50,
    after: str | None = None,
) -> SessionPage:
    """Return a page of the rows that match, in order; ties go by session id.

    `where` names metadata keys and the values they must equal; `order` one of ORDERS, with `-`
    for descending; `after` the cursor of the page before. Raises InvalidEvent.
    """
    key, pick = _ordering(order)
    if limit is not None and (type(limit) is not int or limit < 1):
        raise InvalidEvent(f"limit must be a whole number above 0, or None, not {limit!r}")
    found: Iterable[CatalogRow] = (
        row for row in rows if row.status in status and _matches(row, user, where or {})
    )
    if after is not None:
        found = _beyond(found, key, _opened_cursor(after, order), ascending=pick is nsmallest)
    chosen = list(found)
    taken = pick(len(chosen) if limit is None else limit, chosen, key=key)
    more = len(taken) < len(chosen)
    return SessionPage(taken, _cursor(order, key(taken[-1])) if more else None)


Key = Callable[[CatalogRow], tuple[Any, ...]]
Pick = Callable[..., list[CatalogRow]]


def _ordering(order: str) -> tuple[Key, Pick]:
    """Return the sort key and whether its smallest or its largest rows come first."""
    field, down = order.removeprefix("-"), order.startswith("-")
    if field not in ORDERS:
        raise InvalidEvent(f"order must be one of {', '.join(ORDERS)}, or -one, not {order!r}")
    if field == "session":
        return lambda row: (row.session,), nlargest if down else nsmallest
    sign = -1 if down else 1
    return lambda row: (sign * getattr(row, field), row.session), nsmallest


def _matches(row: CatalogRow, user: str | None, where: Mapping[str, Json]) -> bool:
    if user is not None and row.user != user:
        return False
    return all(row.metadata.get(key, _ABSENT) == value for key, value in where.items())


def _beyond(
    rows: Iterable[CatalogRow], key: Key, place: tuple[Any, ...], *, ascending: bool
) -> Iterator[CatalogRow]:
    return (row for row in rows if (key(row) > place if ascending else key(row) < place))


def _cursor(order: str, place: tuple[Any, ...]) -> str:
    return urlsafe_b64encode(msgspec.msgpack.encode((order, *place))).decode()


def _opened_cursor(cursor: str, order: str) -> tuple[Any, ...]:
    """Return the place a cursor stands for; raises InvalidEvent for one of another list."""
    kinds = tuple[str, str] if order.endswith("session") else tuple[str, int, str]
    try:
        made, *place = msgspec.msgpack.decode(urlsafe_b64decode(cursor), type=kinds)
    except (ValueError, TypeError, msgspec.MsgspecError):
        raise InvalidEvent(f"{cursor!r} is no cursor of this list") from None
    if made != order:
        raise InvalidEvent(f"the cursor belongs to a list by {made}, not by {order}")
    return tuple(place)
