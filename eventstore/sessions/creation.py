"""Creation: what a new session begins with, out of arguments, template and settings.

Invariants: an argument wins over the template, the template over the settings; an argument of
None is an answer, one that is left out is not; nothing is written here.
"""

from collections.abc import Mapping
from typing import Any, TypedDict

import msgspec
from msgspec import UNSET, UnsetType

from ..errors import InvalidEvent
from ..log.base import Expected
from ..messages import Json
from ..patch import assigned, patched
from .external import External
from .settings import Settings
from .sizes import check_max_bytes
from .templates import Template

Left = UnsetType
"""The type of an argument that was left out."""


class NewSession(TypedDict, total=False):
    """What create() and find_or_create() take besides the keys that find a session.

    `ttl` in seconds; `max_messages`, `token_limit` and `max_bytes` are about visible messages;
    None means no limit.
    """

    session: str | None
    template: str | None
    metadata: dict[str, Json] | None
    context: dict[str, Json] | None
    ttl: float | None
    max_messages: int | None
    token_limit: int | None
    max_bytes: int | None
    expected: Expected | int
    actor: str | None
    correlation_id: str | None
    causation_id: str | None


class Limits(msgspec.Struct, frozen=True):
    """The limits that an argument may have left out."""

    ttl: float | Left | None = UNSET
    max_messages: int | Left | None = UNSET
    token_limit: int | Left | None = UNSET
    max_bytes: int | Left | None = UNSET


LIMITS = Limits.__struct_fields__


def beginning(
    settings: Settings,
    template: Template | None,
    limits: Limits,
    *,
    metadata: dict[str, Json] | None,
    context: dict[str, Json] | None,
    external: External | None,
) -> dict[str, Any]:
    """Return what EventStore.create takes. Raises InvalidEvent."""
    base = template or Template(name="none")
    max_bytes = check_max_bytes(
        _first(limits.max_bytes, base.max_bytes, settings.max_session_bytes)
    )
    marks = {"external": external, "max_bytes": max_bytes}
    shown = patched(base.metadata, _given(metadata, "metadata"))
    return {
        "metadata": assigned(shown, {key: each for key, each in marks.items() if each is not None}),
        "context": assigned(base.context, _given(context, "context")),
        "ttl": _first(limits.ttl, base.ttl, settings.ttl),
        "max_messages": _first(limits.max_messages, base.max_messages, settings.max_messages),
        "token_limit": _first(limits.token_limit, base.token_limit, settings.token_limit),
        "template": template.name if template else None,
        "messages": base.messages,
    }


def _first(argument: Any, template: Any, setting: Any) -> Any:
    if argument is not UNSET:
        return argument
    return setting if template is None else template


def _given(values: object, what: str) -> Mapping[str, Json]:
    if values is None:
        return {}
    if type(values) is not dict:
        raise InvalidEvent(f"{what} must be a dict, not {type(values).__name__}")
    return values
