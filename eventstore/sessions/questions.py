"""Questions: everything that a session manager answers without writing.

Invariants: each answer is the store's or a view's, for the newest state or for the moment that
was asked about; only the headers of sessions come through the cache, which is never stale.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from itertools import islice
from typing import Any, Unpack

from projections import BranchTree, Diff, SessionPage, SessionState, Statistics, Views, diff
from projections.branches import root_session
from projections.catalog import LISTED
from projections.diff import Side
from projections.moment import moment_position

from ..errors import KeyShredded, SessionDeleted
from ..ids import check_name
from ..messages import Json, Message
from ..state.hidden import settled
from ..state.lineage import checked_version, fork_of
from ..store import EventStore
from .cache import HeaderCache
from .checks import check_whole, checked_id
from .external import EXTERNAL_PARTS, External, external_key, newest_generation
from .health import health
from .learning import SESSIONS_MAX, learned_ttl
from .search import Hit, search
from .session import CURRENT, Moment, Session, SessionReader
from .settings import Settings
from .sharing import resolved
from .sizes import Sizes
from .templates import Template, Templates, made_of, name_of

SEARCH_HITS = 20

Names = list[str]
Messages = list[Message]
Hits = list[Hit]
TemplateList = list[Template]
"""Named here, since a class with a method `list` can't say list[...] below it."""


class Questions:
    """The reading half of a SessionManager."""

    def __init__(self, store: EventStore, settings: Settings) -> None:
        self.store, self.settings = store, settings
        self.views = Views(store)
        self.cache = HeaderCache(settings.cache_sessions, settings.cache_bytes, settings.cache_ttl)
        self._reader = SessionReader(store, self.cache)
        self._templates = Templates(store, self.views)
        self._sizes = Sizes(store.log)

    # -- sessions ------------------------------------------------------------------------

    def get(self, session: str, *, follow: bool = False, **moment: Unpack[Moment]) -> Session:
        """Return a session without its messages, now or at a past moment.

        `follow` goes to the branch that switch() chose. Raises SessionNotFound, SessionDeleted
        and InvalidEvent; an expired session is returned and says so.
        """
        return self._reader.get(self.current(session) if follow else session, **moment)

    def exists(self, session: str) -> bool:
        """Return True if the session was created and not deleted."""
        return self.store.exists(session) and self._living(session) is not None

    def find_by(
        self,
        *,
        interface: str | None = None,
        user: str | int | None = None,
        chat: str | int | None = None,
        conversation: str | int | None = None,
    ) -> Session | None:
        """Return the usable session of an external key, None where there is none.

        A key of fewer parts than the session was made with finds the newest that has them all;
        branches are found by their root.
        """
        key = external_key(interface, user, chat, conversation)
        found = self._usable(newest_generation(self.store.log, key)[1])
        if found is not None or len(key) == len(EXTERNAL_PARTS):
            return found
        page = self.views.sessions(status=("active",), limit=None)
        names = (row.session for row in page if row.parent is None and _has(row.metadata, key))
        return next(filter(None, map(self._usable, names)), None)

    def list(
        self,
        user: str | int | None = None,
        where: Mapping[str, Json] | None = None,
        *,
        order: str = "-updated_at",
        limit: int | None = 50,
        offset: int = 0,
        after: str | None = None,
        status: Collection[str] = LISTED,
    ) -> SessionPage:
        """Return a page of rows; `after` is the `next` of the page before, `offset` skips rows.

        `where` names metadata keys and the values they must equal; `order` is updated_at,
        created_at, messages, tokens or session, with `-` for descending. By default neither
        archived nor deleted ones. A user who is a number is that number as a text, here as in
        find_by() and create(). Raises InvalidEvent.
        """
        check_whole(limit, "limit", or_none=True)
        check_whole(offset, "offset")
        upto = limit + offset if type(limit) is int else limit
        page = self.views.sessions(
            user=_user(user), where=where, status=status, order=order, limit=upto, after=after
        )
        return SessionPage(page.rows[offset:], page.next)

    def count(
        self,
        user: str | int | None = None,
        where: Mapping[str, Json] | None = None,
        *,
        status: Collection[str] = LISTED,
    ) -> int:
        """Return how many sessions list() would show in all."""
        return len(self.views.sessions(user=_user(user), where=where, status=status, limit=None))

    def search(
        self,
        text: str,
        *,
        user: str | int | None = None,
        where: Mapping[str, Json] | None = None,
        status: Collection[str] = LISTED,
        limit: int | None = SEARCH_HITS,
    ) -> Hits:
        """Return where a text stands in visible messages and metadata, newest first.

        Reads what it searches. Raises InvalidEvent.
        """
        check_whole(limit, "limit", or_none=True)
        rows = self.views.sessions(user=_user(user), where=where, status=status, limit=None)
        return [*islice(search(self.store, rows, text), limit)]

    # -- messages ------------------------------------------------------------------------

    def get_messages(
        self,
        session: str,
        limit: int | None = None,
        offset: int = 0,
        *,
        newest_first: bool = False,
        **moment: Unpack[Moment],
    ) -> Messages:
        """Return visible messages, oldest first, or from the newest back; reads only those.

        Raises SessionNotFound, SessionDeleted and InvalidEvent.
        """
        check_whole(limit, "limit", or_none=True)
        check_whole(offset, "offset")

        def read() -> Messages:
            messages = SessionState.of(self.store, session, **moment).messages
            length = len(messages)
            stop = length if limit is None else min(offset + limit, length)
            if newest_first:
                return [*messages[length - stop : max(length - offset, 0)]][::-1]
            return [*messages[offset:stop]]

        return settled(self.store.log, read)

    def message_count(self, session: str, **moment: Unpack[Moment]) -> int:
        """Return the number of visible messages, summaries included."""
        return self.get(session, **moment).messages

    # -- values --------------------------------------------------------------------------

    def get_context(
        self, session: str, key: str, default: Json = None, **moment: Unpack[Moment]
    ) -> Json:
        """Return a context value; one that is shared is read where it belongs, at that moment.

        Raises InvalidEvent for a key that is no name, and where what it refers to is missing or
        goes in a circle.
        """
        check_name(key, "context key")
        found = self.get(session, **moment)
        if key not in found.context:
            return default
        return resolved(self.store, found.context[key], self._cut(found, moment), (session, key))

    def template(self, name: str) -> Template:
        """Return a template or preset. Raises InvalidEvent."""
        return self._templates.get(name)

    def templates(self) -> TemplateList:
        """Return the presets, then the templates by name."""
        return self._templates.all()

    def templates_of(self, session: str, version: int | None = None) -> Names:
        """Return the templates that have something of a session, by name, dropped ones too.

        Those that save_as_template() made of it, or of a session that had lines or values of it;
        not those that delete_template(redact=True) took away. It may be deleted or erased. With
        the version of a message, a summary or a change of values in its own stream, redacted or
        not, only those that may have that, or a summary made of it. Raises
        SessionNotFound and InvalidEvent.
        """
        self.store.flush()
        log = self.store.log
        checked_version(log, session, 0 if version is None else version)
        return sorted({str(name_of(each)) for each in made_of(log, session, version)})

    # -- branches ------------------------------------------------------------------------

    def current(self, session: str) -> str:
        """Return the branch that switch() chose in the tree of a session, else its root.

        A branch that is gone since counts as not chosen. Where the root is gone, each branch that
        is left of it heads a tree of its own, with choices of its own.
        """
        head = self._head(session)
        chosen = self.get(head).context.get(CURRENT)
        if isinstance(chosen, str) and self.exists(chosen) and self._head(chosen) == head:
            return chosen
        return head

    def path(self, session: str) -> Names:
        """Return the names from the root to a session, both included."""
        return self.tree(session).path(session)

    def tree(self, session: str) -> BranchTree:
        """Return the tree that a session is in: branches and merges; it draws itself."""
        return self.views.tree(session)

    def compare(self, a: Side, b: Side) -> Diff:
        """Return what two sessions, branches or moments share and what each has alone.

        Each side is a session, a (session, version) or a SessionState.
        """
        return diff(self.store, a, b)

    # -- figures -------------------------------------------------------------------------

    def statistics(self, session: str | None = None) -> dict[str, Json]:
        """Return the numbers of one session, or of the store with those of the cache, as JSON.

        Those of the store also count sessions `by_type` and `by_interface`; see
        projections.Statistics for the others and their units.
        """
        if session is not None:
            return Statistics.of(self.store, session).to_dict()
        rows = self.views.sessions(limit=None).rows
        kept = self.cache.statistics()
        fields = {field: getattr(kept, field) for field in kept.__struct_fields__}
        return {
            **self.views.statistics().to_dict(),
            "by_type": dict(Counter(_text(row.metadata.get("type")) for row in rows)),
            "by_interface": dict(Counter(_interface(row.metadata) for row in rows)),
            "cache": {**fields, "rate": kept.rate},
        }

    def learned_ttl(
        self,
        user: str | int | None = None,
        where: Mapping[str, Json] | None = None,
        *,
        share: float = 0.99,
    ) -> float | None:
        """Return a time to live in seconds, learned from sessions such as these.

        So long were `share` of the pauses after which one of them went on, or shorter; None where
        there were too few to tell. For create(ttl=), extend_ttl() or the setting inactive_after.
        Raises InvalidEvent.
        """
        every = ("active", "closed", "archived")
        rows = self.views.sessions(user=_user(user), where=where, status=every, limit=SESSIONS_MAX)
        return learned_ttl(self.store, rows, share)

    def health(self) -> dict[str, Json]:
        """Return whether the store can be used, by reading alone; see health.py."""
        return health(self.store)

    # -- inside --------------------------------------------------------------------------

    def _living(self, session: str) -> Session | None:
        try:
            return self._reader.get(session)
        except (SessionDeleted, KeyShredded):
            return None

    def _head(self, session: str) -> str:
        """Return the root of a session, or where that is gone, what is left closest to it."""
        root = root_session(self.store.log, session)
        if self._living(root) is not None:
            return root
        head = above = session
        while (fork := fork_of(self.store.log, above)) is not None:
            above = fork[0]
            head = head if self._living(above) is None else above
        return head

    def _usable(self, session: str | None) -> Session | None:
        found = None if session is None else self._living(session)
        return found if found is not None and found.usable else None

    def _cut(self, found: Session, moment: Moment) -> int | None:
        """Return the position up to which other sessions are read, None for now."""
        if moment.get("at_version") is not None:
            return found.position
        position, time = moment.get("at_position"), moment.get("at_time")
        if position is None and time is None:
            return None
        return moment_position(self.store, position, time)


def _has(metadata: Mapping[str, Json], key: External) -> bool:
    external = metadata.get("external")
    return isinstance(external, dict) and key.items() <= external.items()


def _user(user: str | int | None) -> str | None:
    return None if user is None else checked_id(user, "user")


def _interface(metadata: Mapping[str, Json]) -> str:
    external = metadata.get("external")
    return _text(external.get("interface") if isinstance(external, dict) else None)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "none"
