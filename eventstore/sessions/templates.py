"""Templates: named beginnings of sessions, kept as facts; and presets, which are built in.

Invariants: a template is one value in the context of an archived session of type "template", so
that a change of it is one fact and its past can be replayed; it is copied when a session is
created, which nothing that happens to the template later changes; where its session is deleted
or erased, the template is gone and its name is free; presets are read-only, and their names are
taken.
"""

import re
from contextlib import suppress
from typing import Any

import msgspec

from projections import SessionState, Views

from ..errors import InvalidEvent, KeyShredded, SessionDeleted, SessionExists
from ..ids import check_name
from ..log.base import Receipt
from ..messages import Json, check_json
from ..patch import assigned
from ..store import EventStore
from .external import newest_number
from .limits import check_max_bytes
from .session import CURRENT
from .settings import DAY_SECONDS

PREFIX = "template"
TYPE = "template"
VALUE = "template"
"""The context key that holds the template in its session."""

_OF_TEMPLATE = re.compile(rf"{PREFIX}(?:-[1-9][0-9]*)?:(.+)", re.DOTALL)


class Template(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A beginning: what create(template=) copies where the caller says nothing else.

    `ttl` in seconds; `max_bytes` of payloads; a limit that is None is left to the settings.
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
        names = sorted(filter(None, (_name(row.session) for row in page)))
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


def _name(session: str) -> str | None:
    """Return the name of the template that a session is of, None for other sessions."""
    found = _OF_TEMPLATE.fullmatch(session)
    return found and found[1]


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
