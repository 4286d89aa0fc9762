"""The catalogue: one row a session, for lists that don't fold every session they show.

Invariants: a row equals what the session's header says at the same version; messages and plain
values move a row by themselves, whatever changes the visible list asks the header; a page of a
list is cut by a total order, so that following its cursor shows no session twice.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping
from heapq import nlargest, nsmallest
from itertools import islice
from struct import Struct
from typing import Annotated, Any, ClassVar, cast

import msgspec
from xxhash import xxh3_128_digest

from eventstore import InvalidEvent, Recorded
from eventstore import events as ev
from eventstore.errors import UNDECODABLE, brief
from eventstore.ids import check_name
from eventstore.limits import NAME_BYTES_MAX
from eventstore.log.format import SHREDDED, TYPE_CODES
from eventstore.log.frame import Frame
from eventstore.messages import Json
from eventstore.patch import patched
from eventstore.state.header import SessionHeader
from eventstore.state.lineage import Headers

from .projection import Projection
from .shelf import Rows

ORDERS = ("updated_at", "created_at", "messages", "tokens", "session")
LISTED = ("active", "closed")
"""The statuses of the usual lists: archived sessions are put away, deleted ones are gone."""

STATUSES = (*LISTED, "archived", "deleted", "erased")
"""All statuses that a session can have."""

LIMIT_MAX = (1 << 63) - 2
"""Rows of a page, at most: one more is looked for, and counted in 63 bits."""

_ABSENT = object()
_TIME = Struct(">Q")
_Session = Annotated[str, msgspec.Meta(max_length=NAME_BYTES_MAX)]
_ValuePlace = tuple[str, Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)], _Session]
_NamePlace = tuple[str, str, _Session]
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


def user_digest(user: str | None) -> bytes:
    """Return the 16 bytes that rows of a user stand under; rows of others may, too."""
    return bytes(16) if user is None else xxh3_128_digest(user.encode())


def row_of(header: SessionHeader) -> CatalogRow:
    """Return the row that a header stands for."""
    return CatalogRow(**{field: getattr(header, field) for field in CatalogRow.__struct_fields__})


class CatalogProjection(Projection[MutableMapping[str, CatalogRow]]):
    """The recipe of the catalogue; `headers` answers where the visible list changed."""

    name: ClassVar[str] = "catalog"
    about_erased: ClassVar[bool] = True
    keyed: ClassVar[bool] = True
    row_type: ClassVar[Any] = CatalogRow
    orders: ClassVar[Mapping[str, Callable[[CatalogRow], bytes]]] = {
        "updated_at": lambda row: _TIME.pack(row.updated_at),
        "created_at": lambda row: _TIME.pack(row.created_at),
        "user/updated_at": lambda row: user_digest(row.user) + _TIME.pack(row.updated_at),
        "user/created_at": lambda row: user_digest(row.user) + _TIME.pack(row.created_at),
    }

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
        if step is None or recorded.erased:
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
        shown = [each[2] for each in frame.rows(low, high) if not each[5] & SHREDDED]
        row.messages += len(shown)
        row.tokens += sum(shown)
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

Place = tuple[Any, str]
"""Where a row stands in a list: the value it is ordered by, its session."""


class Selection(msgspec.Struct, frozen=True):
    """Which rows a list shows, in which order, from which place on, and how many a page."""

    user: str | None
    where: Mapping[str, Json]
    status: Collection[str]
    field: str
    down: bool
    limit: int | None
    place: Place | None

    def page(self, rows: Iterable[CatalogRow]) -> SessionPage:
        """Return the page out of rows that come as they like."""
        found = [row for row in rows if self.matches(row) and self._follows(row)]
        pick = nlargest if self.down else nsmallest
        wanted = len(found) if self.limit is None else self.limit + 1
        return self.cut(pick(wanted, found, key=self._place))

    def cut(self, rows: Iterable[CatalogRow]) -> SessionPage:
        """Return the page out of rows that come in order, from the place on."""
        wanted = None if self.limit is None else self.limit + 1
        found = list(islice((row for row in rows if self.matches(row)), wanted))
        if self.limit is None or len(found) <= self.limit:
            return SessionPage(found)
        return SessionPage(found[:-1], _cursor(self._order, self._place(found[-2])))

    def answer(self, rows: Rows) -> SessionPage:
        """Return the page out of a view's rows, in an order they are kept in if there is one."""
        order = self.field if self.user is None else f"user/{self.field}"
        if order not in CatalogProjection.orders:
            return self.page(row for _, row in rows.under(""))
        within = b"" if self.user is None else user_digest(self.user)
        place = None
        if self.place is not None:
            place = within + _TIME.pack(self.place[0]) + self.place[1].encode()
        return self.cut(rows.ordered(order, within, place, reverse=self.down))

    def matches(self, row: CatalogRow) -> bool:
        """Return True for a row that the list shows."""
        if row.status not in self.status or (self.user is not None and row.user != self.user):
            return False
        return all(row.metadata.get(key, _ABSENT) == value for key, value in self.where.items())

    @property
    def _order(self) -> str:
        return "-" * self.down + self.field

    def _place(self, row: CatalogRow) -> Place:
        return "" if self.field == "session" else getattr(row, self.field), row.session

    def _follows(self, row: CatalogRow) -> bool:
        if self.place is None:
            return True
        here = self._place(row)
        return here < self.place if self.down else here > self.place


def selection(
    user: str | None = None,
    where: Mapping[str, Json] | None = None,
    status: Collection[str] = LISTED,
    order: str = "-updated_at",
    limit: int | None = 50,
    after: str | None = None,
) -> Selection:
    """Return a checked selection; rows of one value go by session id.

    `where` names metadata keys and the values they must equal; `order` one of ORDERS, with `-`
    for the reverse; `after` the cursor of the page before; `status` one of STATUSES or several.
    Raises InvalidEvent.
    """
    if user is not None:
        check_name(user, "user")
    if not isinstance(where, Mapping | None):
        raise InvalidEvent(f"where must be a dict of metadata keys and values, not {brief(where)}")
    field = order.removeprefix("-") if type(order) is str else ""
    if field not in ORDERS:
        known = f"{', '.join(ORDERS)}, or one of them behind a -"
        raise InvalidEvent(f"order must be one of {known}, not {brief(order)}")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise InvalidEvent(f"limit must be a whole number above 0, or None, not {brief(limit)}")
    place = None if after is None else _opened_cursor(after, order)
    most = None if limit is None else min(limit, LIMIT_MAX)
    return Selection(user, where or {}, _statuses(status), field, field != order, most, place)


def _statuses(given: str | Collection[str]) -> Collection[str]:
    """Return statuses as a collection; a text is one. Raises InvalidEvent for unknown ones."""
    if not isinstance(given, Collection):
        raise InvalidEvent(f"status must be a collection of states, not {brief(given)}")
    found = (given,) if isinstance(given, str) else tuple(given)
    for each in found:
        if each not in STATUSES:
            raise InvalidEvent(f"status takes {', '.join(STATUSES)}, not {brief(each)}")
    return found


def _cursor(order: str, place: Place) -> str:
    return urlsafe_b64encode(msgspec.msgpack.encode((order, *place))).decode()


def _opened_cursor(cursor: str, order: str) -> Place:
    """Return the place a cursor stands for; raises InvalidEvent for one of another list."""
    kind: Any = _NamePlace if order.endswith("session") else _ValuePlace
    try:
        raw = urlsafe_b64decode(cursor)
        made = msgspec.msgpack.decode(raw, type=tuple[str, Any, _Session])[0]
        if made != order:
            raise InvalidEvent(f"the cursor belongs to a list by {brief(made)}, not by {order!r}")
        place = msgspec.msgpack.decode(raw, type=kind)[1:]
    except (TypeError, *UNDECODABLE):
        raise InvalidEvent(f"{brief(cursor)} is no cursor of this list") from None
    return cast("Place", place)
