"""A message: the JSON object a caller gave, untouched, with the fields everybody asks for.

Invariants: `Message.to_dict()` equals what came in, key for key; everything in it is JSON
(None, bool, 64-bit int, finite float, str, list, dict with str keys), nested at most
NESTING_DEPTH_MAX deep. Both OpenAI's shape (`tool_calls`, `tool_call_id`) and Anthropic's
(`tool_use` and `tool_result` parts) are understood where tools must stay with their results.
"""

import copy
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from .errors import InvalidEvent, brief
from .ids import parse_message_id
from .limits import NESTING_DEPTH_MAX

Json = Any
"""None, bool, int, float, str, list or dict of these; `Any`, since mypy has no JSON."""

ROLES = ("", "system", "user", "assistant", "tool", "developer", "function")
"""Roles with a code in the event header; any other role is kept in the payload alone."""

_ROLE_CODES: dict[str, int] = {role: code for code, role in enumerate(ROLES)}


class Message(msgspec.Struct, frozen=True, gc=False):
    """One line of a conversation: `fields` as given, and the id it goes by."""

    fields: dict[str, Json]
    id: str = ""

    @property
    def role(self) -> str:
        """Who speaks: user, assistant, system, tool, ... or "" where nobody said."""
        return str(self.fields.get("role") or "")

    @property
    def content(self) -> Json:
        """A string, a list of parts, or None."""
        return self.fields.get("content")

    @property
    def name(self) -> str | None:
        """The speaker's or the tool's name."""
        return self.fields.get("name")

    @property
    def tool_calls(self) -> Json:
        """The calls an assistant asks for, in OpenAI's shape, or None."""
        return self.fields.get("tool_calls")

    @property
    def tool_call_id(self) -> str | None:
        """The call that this message answers, in OpenAI's shape."""
        return self.fields.get("tool_call_id")

    @property
    def model(self) -> str | None:
        """The model that wrote it."""
        return self.fields.get("model")

    @property
    def usage(self) -> Json:
        """Token counts as the provider reported them."""
        return self.fields.get("usage")

    @property
    def metadata(self) -> dict[str, Json]:
        """The caller's own remarks: `ttl`, `important`, `category`, ..."""
        found = self.fields.get("metadata")
        return found if isinstance(found, dict) else {}

    @property
    def text(self) -> str:
        """All text of the content, parts joined by newlines."""
        return text_of(self.fields)

    def to_dict(self) -> dict[str, Json]:
        """Return a deep copy of what came in."""
        return copy.deepcopy(self.fields)


TokenCounter = Callable[[Mapping[str, Json]], int]
"""Counts the tokens of one message."""

TOKENS_MAX = (1 << 32) - 1
"""The most that a message's stored count can say."""


def check_message(value: object) -> dict[str, Json]:
    """Return the fields of a dict or Message; raise InvalidEvent unless it can be a fact."""
    fields = _own_fields(value) if isinstance(value, Message) else value
    if type(fields) is not dict:
        raise InvalidEvent(f"a message must be a dict or Message, not {type(value).__name__}")
    _check_dict(fields, "message", NESTING_DEPTH_MAX)
    role, given = fields.get("role"), fields.get("id")
    if role is not None and type(role) is not str:
        raise InvalidEvent(f"message role must be a string, not {type(role).__name__}")
    if given is not None and (type(given) is not str or not given):
        raise InvalidEvent(f"message id must be a string that is not empty, not {brief(given)}")
    return fields


def _own_fields(message: Message) -> dict[str, Json]:
    """Return the fields with the id it was given; an id that the store made is made anew."""
    given = message.id and "id" not in message.fields and parse_message_id(message.id) is None
    return {**message.fields, "id": message.id} if given else message.fields


def check_json(value: object, what: str, room: int = NESTING_DEPTH_MAX) -> None:
    """Raise InvalidEvent, starting with `what`, unless `value` is JSON of bounded depth."""
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return
    if kind is dict:
        _check_dict(value, what, room)  # type: ignore[arg-type]
    elif kind is list:
        _check_room(what, room)
        for each in value:  # type: ignore[attr-defined]
            check_json(each, what, room - 1)
    elif kind is int:
        if not -(1 << 63) <= value < 1 << 64:  # type: ignore[operator]
            raise InvalidEvent(f"{what} holds an integer of more than 64 bits")
    elif kind is not float:
        raise InvalidEvent(
            f"{what} holds a value of type {kind.__name__}, which JSON does not have"
        )
    elif not math.isfinite(value):  # type: ignore[arg-type]
        raise InvalidEvent(f"{what} holds {value}, which JSON does not have")


def _check_dict(value: dict[Any, object], what: str, room: int) -> None:
    if room <= 0:
        _check_room(what, room)
    for key, each in value.items():
        if type(key) is not str:
            raise InvalidEvent(f"{what} has the key {key!r}; JSON keys are strings")
        if type(each) is not str and each is not None:
            check_json(each, what, room - 1)


def _check_room(what: str, room: int) -> None:
    if room <= 0:
        raise InvalidEvent(f"{what} is nested deeper than {NESTING_DEPTH_MAX} levels")


def role_code(fields: Mapping[str, Json]) -> int:
    """Return the header code of the message's role, 0 for none or one without a code."""
    role = fields.get("role")
    return _ROLE_CODES.get(role, 0) if type(role) is str else 0


def text_of(fields: Mapping[str, Json]) -> str:
    """Return the text of a message's content, the text parts joined by newlines."""
    content = fields.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = (part.get("text") if isinstance(part, dict) else part for part in content)
    return "\n".join(part for part in parts if isinstance(part, str))


def texts_read(fields: Mapping[str, Json]) -> list[str]:
    """Return all that counts as read by a model: text, tool-call arguments and tool results."""
    texts = [text_of(fields)]
    calls = fields.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        arguments = function.get("arguments") if isinstance(function, dict) else None
        texts += [arguments] if isinstance(arguments, str) else []
    if not isinstance(fields.get("content"), list):  # no parts, and no need to look for them twice
        return texts
    for part in _parts(fields, "tool_use"):
        texts += [json.dumps(part["input"], ensure_ascii=False)] if "input" in part else []
    return texts + [text_of(part) for part in _parts(fields, "tool_result")]


def count_tokens(fields: Mapping[str, Json]) -> int:
    """Estimate tokens: the characters of texts_read(), by four, rounded up.

    Roles, names, ids, pictures and what a provider adds for each message count nothing.
    """
    content = fields.get("content")
    if isinstance(content, str) and fields.get("tool_calls") is None:
        return (len(content) + 3) // 4
    return (sum(map(len, texts_read(fields))) + 3) // 4


def checked_counter(counter: TokenCounter) -> TokenCounter:
    """Return a counter that is held to whole numbers from 0 to TOKENS_MAX.

    Another count would fail where many appends are packed together, and take the others along.
    It raises InvalidEvent.
    """
    if counter is count_tokens:
        return counter

    def count(fields: Mapping[str, Json]) -> int:
        found = counter(fields)
        if type(found) is not int or not 0 <= found <= TOKENS_MAX:
            raise InvalidEvent(
                f"the token counter said {brief(found)}; it must say a whole number, "
                f"0 to {TOKENS_MAX}"
            )
        return found

    return count


def calls_made(fields: Mapping[str, Json]) -> set[str]:
    """Return the ids of the tool calls that this message asks for."""
    calls = fields.get("tool_calls") if isinstance(fields.get("tool_calls"), list) else None
    made = [call.get("id") for call in calls or () if isinstance(call, dict)]
    made += [part.get("id") for part in _parts(fields, "tool_use")]
    return {each for each in made if isinstance(each, str)}


def calls_answered(fields: Mapping[str, Json]) -> set[str]:
    """Return the ids of the tool calls that this message brings results of."""
    answered = [fields.get("tool_call_id")]
    answered += [part.get("tool_use_id") for part in _parts(fields, "tool_result")]
    return {each for each in answered if isinstance(each, str)}


def _parts(fields: Mapping[str, Json], kind: str) -> list[dict[str, Json]]:
    content = fields.get("content")
    if not isinstance(content, list):
        return []
    return [part for part in content if isinstance(part, dict) and part.get("type") == kind]
