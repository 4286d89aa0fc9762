"""Templates: named beginnings of sessions, kept as facts; and presets, which are built in.

Invariants: a template is one value in the context of an archived session of type "template", so
that a change of it is one fact and its past can be replayed; it is copied when a session is
created, which nothing that happens to the template later changes; one that was made of a session
says so; where its session is deleted or erased, the template is gone and its name is free; presets
are read-only, and their names are taken.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from projections import SessionState, Views

from ..engine.quoting import Quoting, lines_at, lines_of, sources_of
from ..engine.redaction import redaction_of
from ..errors import InvalidEvent, KeyShredded, SessionDeleted, SessionExists
from ..events import AnyEvent, ContextSet, MetadataUpdated
from ..ids import check_name
from ..log.base import Log, Receipt, fact_at, facts_of
from ..log.format import TYPE_CODES
from ..log.recorded import Recorded
from ..messages import Json, check_json
from ..patch import assigned
from ..spans import minus
from ..store import EventStore
from .external import newest_number
from .session import CURRENT
from .settings import DAY_SECONDS
from .sizes import check_max_bytes

PREFIX = "template"
TYPE = "template"
VALUE = "template"
"""The context key that holds the template in its session."""

_VALUES = {TYPE_CODES[kind] for kind in (ContextSet, MetadataUpdated)}
_OF_TEMPLATE = re.compile(rf"{PREFIX}(?:-[1-9][0-9]*)?:(.+)", re.DOTALL)


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The session that a template was made of, and at which version."""

    session: str
    version: int


class Template(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A beginning: what create(template=) copies where the caller says nothing else.

    `ttl` in seconds; `max_bytes` of payloads; a limit that is None is left to the settings.
    `origin` is where save_as_template() took it from.
    """

    name: str
    description: str = ""
    metadata: dict[str, Json] = {}
    context: dict[str, Json] = {}
    messages: list[dict[str, Json]] = []
    ttl: float | None = None
    token_limit: int | None = None
    max_messages: int | None = None
    max_bytes: int | None = None
    origin: Origin | None = None

    def to_dict(self) -> dict[str, Json]:
        """Return it as plain JSON."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


PRESETS = {
    preset.name: preset
    for preset in (
        Template(
            name="dm",
            description="A conversation of two: pruning keeps its newest 100 messages.",
            metadata={"type": "dm"},
        ),
        Template(
            name="group",
            description="A conversation of many: pruning keeps its newest 50 messages.",
            metadata={"type": "group"},
        ),
        Template(
            name="bot",
            description="A bot's conversation: 4,000 tokens, gone 24 hours after it began.",
            metadata={"type": "bot"},
            ttl=DAY_SECONDS,
            token_limit=4_000,
        ),
    )
}


class Templates:
    """The templates of a store; safe for many threads and processes."""

    def __init__(self, store: EventStore, views: Views) -> None:
        self._store, self._views = store, views

    def get(self, name: str) -> Template:
        """Return a preset or a template as it is now. Raises InvalidEvent."""
        check_name(name, "template")
        found = PRESETS.get(name) or self._kept(name)
        if found is None:
            known = ", ".join(each.name for each in self.all())
            raise InvalidEvent(f"there is no template {name!r}; there are {known}")
        return found

    def all(self) -> list[Template]:
        """Return the presets, then the templates by name."""
        page = self._views.sessions(
            where={"type": TYPE}, status=("archived",), order="session", limit=None
        )
        names = sorted(filter(None, (name_of(row.session) for row in page)))
        kept = map(self._kept, names)
        return [*PRESETS.values(), *(each for each in kept if each is not None)]

    def save(self, template: Template) -> Receipt:
        """Keep a template, in place of the one of that name. Raises InvalidEvent."""
        value = _checked(template).to_dict()
        name = check_name(template.name, "template")
        if name in PRESETS:
            raise InvalidEvent(f"{name!r} is a preset, which can't be changed; choose another name")
        session, state = self._newest(name)
        if state is None:
            with suppress(SessionExists):
                self._store.create(session, metadata={"type": TYPE, "title": name})
        receipt = self._store.set_context(session, VALUE, value)
        if SessionState.of(self._store, session).status != "archived":
            self._store.archive(session, reason="a template is no conversation")
        return receipt

    def delete(self, name: str) -> Receipt:
        """Drop a template, as a fact; sessions made from it stay. Raises InvalidEvent."""
        if check_name(name, "template") in PRESETS:
            raise InvalidEvent(f"{name!r} is a preset, which can't be deleted")
        self.get(name)
        return self._store.set_context(self._newest(name)[0], VALUE, None)

    def redact(self, name: str, reason: str | None) -> Receipt:
        """Destroy all that was ever kept under a name, dropped or not; sessions made of it stay.

        A fact for each value, one after the other; again, it gives the first receipt. Raises
        InvalidEvent and LegalHold.
        """
        if check_name(name, "template") in PRESETS:
            raise InvalidEvent(f"{name!r} is a preset, which can't be deleted")
        number = newest_number(lambda each: self._store.exists(_session(name, each)))
        sessions = [_session(name, each) for each in range(number + 1)]
        values = [each for session in sessions for each in _values(self._store.log, session)]
        if not values:
            raise InvalidEvent(f"nothing was kept as template {name!r}")
        for each in values:
            receipt = self._store.redact(each.session, each.version, reason=reason)
        return receipt

    def _kept(self, name: str) -> Template | None:
        state = self._newest(name)[1]
        value = None if state is None else state.context.get(VALUE)
        return None if value is None else _read(value, name)

    def _newest(self, name: str) -> tuple[str, SessionState | None]:
        """Return the session of a template and its state; where it is gone, the next and None."""
        number = newest_number(lambda each: self._store.exists(_session(name, each)))
        if number >= 0:
            session = _session(name, number)
            with suppress(SessionDeleted, KeyShredded):
                return session, SessionState.of(self._store, session)
        return _session(name, number + 1), None


def _session(name: str, number: int) -> str:
    """Return the session of a template; those from number 1 on follow ones that are gone."""
    return f"{PREFIX}:{name}" if number == 0 else f"{PREFIX}-{number}:{name}"


def made_of(log: Log, session: str, version: int | None = None) -> list[str]:
    """Return the sessions of templates that have something of a session, now or in their past.

    Those that were made of it, or of one that had lines or values of it; with a version, that of
    a message or a change of values, those that may have that, or a summary that was made of it.
    """
    names = [*_template_sessions(log)]
    said = _said_at(log, session, version) if names and version is not None else None
    return [
        name
        for name in names
        if any(_is_of(log, each, session, said) for each in _values(log, name))
    ]


def name_of(session: str) -> str | None:
    """Return the name of the template that a session is of, None for other sessions."""
    found = _OF_TEMPLATE.fullmatch(session)
    return found and found[1]


def _template_sessions(log: Log) -> Iterator[str]:
    """Iterate over the names of sessions that may be of templates."""
    after = PREFIX
    while names := log.sessions(after):
        for name in names:
            if not name.startswith(PREFIX):
                return
            if name_of(name) is not None:
                yield name
        after = names[-1]


def _values(log: Log, session: str) -> list[Recorded]:
    """Return the facts that set a template in its session, redacted or not."""
    return [each for each in facts_of(log, session, 0, ContextSet) if _is_value(each.structure)]


def _is_value(event: AnyEvent | None) -> bool:
    return isinstance(event, ContextSet) and event.key == VALUE


class _Said(NamedTuple):
    """What one fact says, and the position of its redaction, which no template has it after."""

    recorded: Recorded
    gone_at: int | None

    @classmethod
    def at(cls, log: Log, session: str, version: int) -> "_Said":
        """Return it for a fact that is there."""
        done = redaction_of(log, session, version)
        return cls(fact_at(log, session, version), None if done is None else done.position)

    def is_in(self, log: Log, origin: Origin, position: int) -> bool:
        """Return True where a template of that origin, kept at a position, may have it."""
        if self.gone_at is not None and self.gone_at < position:
            return False
        if self.recorded.type_code not in _VALUES:
            lines = lines_of(self.recorded)
            shown = lines_at(log, origin.session, origin.version)
            return bool(lines) and not minus(lines, shown)
        own = origin.session == self.recorded.session
        return not own or self.recorded.version <= origin.version


def _said_at(log: Log, session: str, version: int) -> list[_Said]:
    """Return a fact and the summaries that were ever made of it, in which its words may stand."""
    places = [(session, version)]
    if lines_of(fact_at(log, session, version)):
        made = Quoting.of_message(log, session, version).ever(log)
        places += [(each.session, each.version) for each in made]
    return [_Said.at(log, *place) for place in places]


def _is_of(log: Log, recorded: Recorded, session: str, said: list[_Said] | None) -> bool:
    """Return True where a template can be read that was made of something that a session said."""
    event = recorded.structure
    assert isinstance(event, ContextSet)
    try:
        origin = msgspec.convert(event.value, Template).origin
    except msgspec.ValidationError:  # no template, or none any more
        return False
    if origin is None:
        return False
    tail = log.tail(origin.session)
    known = tail is not None and 0 <= origin.version <= tail.version
    of_it = origin.session == session or (
        known and session in sources_of(log, origin.session, origin.version)
    )
    if not of_it or said is None:
        return of_it
    return known and any(each.is_in(log, origin, recorded.position) for each in said)


def template_of(name: str, state: SessionState, description: str = "") -> Template:
    """Return a template that begins as this state is: values, limits and visible messages."""
    header = state.header
    given = {**state.metadata, "external": None, "max_bytes": None}
    return Template(
        name=name,
        description=description,
        metadata=assigned({}, given),
        context=assigned({}, {**state.context, CURRENT: None}),
        messages=[message.to_dict() for message in state.messages],
        ttl=header.ttl,
        token_limit=header.token_limit,
        max_messages=header.max_messages,
        max_bytes=state.metadata.get("max_bytes"),
        origin=Origin(header.session, header.version),
    )


def _read(value: Json, name: str) -> Template:
    """Return the template that plain JSON stands for. Raises InvalidEvent."""
    try:
        return msgspec.convert(value, Template)
    except msgspec.ValidationError as error:
        raise InvalidEvent(f"template {name!r} is none: {error}") from None


def _checked(template: object) -> Template:
    """Return a template that a session could begin with. Raises InvalidEvent."""
    if not isinstance(template, Template):
        raise InvalidEvent(f"a Template is expected, not {type(template).__name__}")
    for part, what in ((template.metadata, "metadata"), (template.context, "context")):
        check_json(part, f"{what} of template {template.name!r}")
    try:
        found = _read(template.to_dict(), template.name)
    except TypeError as error:  # what has no JSON at all
        raise InvalidEvent(f"template {template.name!r} is none: {error}") from None
    with EventStore.in_memory() as rehearsal:
        rehearsal.create(
            metadata=found.metadata,
            context=found.context,
            messages=found.messages,
            ttl=found.ttl,
            max_messages=found.max_messages,
            token_limit=found.token_limit,
        )
    check_max_bytes(found.max_bytes)
    return found
