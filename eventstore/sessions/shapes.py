"""Shapes: one conversation as OpenAI's chat completions and as Anthropic's messages take it.

Invariants: messages that came in either shape go out in both; what goes out obeys the provider's
rules, whatever came in: each call is answered right after it and each result has its call
(others are dropped), ids, metadata and other remarks of our own stay here; for Anthropic the
system text stands apart, roles alternate, the first is the user's and no text is empty. Nothing
is changed in what came in. Sources: the two providers' public API references.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ..errors import InvalidEvent, brief
from ..messages import Json
from .units import PROMPT_ROLES

Fields = Mapping[str, Json]
Part = dict[str, Any]

OPENING = "(The conversation began earlier.)"
"""What the user is made to say first where a window opens with the assistant."""

_DATA = "data:"
_THOUGHTS = ("thinking", "redacted_thinking")
_OPENAI_PARTS = ("text", "image_url", "input_audio", "file", "refusal")
_OPENAI_ROLES = ("system", "developer", "user", "assistant")


class Call(msgspec.Struct, frozen=True):
    """A tool call: `arguments` is a JSON object as text, as the model wrote it."""

    id: str
    name: str
    arguments: str


class Turn(msgspec.Struct):
    """A message taken apart: what was said, the calls made and the results brought, by call id.

    `said` is a string or a list of parts of either shape, without calls and results; `tools` is
    set where there were any, so that what is left of them may be nothing.
    """

    role: str
    said: str | list[Part]
    name: str | None
    calls: list[Call]
    results: dict[str, Part]
    tools: bool


def to_openai(messages: Iterable[Fields]) -> list[dict[str, Json]]:
    """Return messages as chat completions take them. Raises InvalidEvent for what is no dict."""
    made: list[dict[str, Json]] = []
    for turn, results in _answered(_turns(messages)):
        if turn.said or turn.calls or not turn.tools:
            made.append(_openai(turn))
        made += [
            {"role": "tool", "tool_call_id": call, "content": _openai_content(result, texts=True)}
            for call, result in results.items()
        ]
    return made


def to_anthropic(messages: Iterable[Fields]) -> dict[str, Json]:
    """Return {"system": text, "messages": [...]}; without a system text, without that key.

    Raises InvalidEvent for what is no dict.
    """
    system: list[str] = []
    made: list[dict[str, Json]] = []
    for turn, results in _answered(_turns(messages)):
        if turn.role in PROMPT_ROLES:
            system += _texts(turn.said)
        else:
            role = "assistant" if turn.role == "assistant" else "user"
            _say(made, role, [*_anthropic_parts(turn.said), *map(_tool_use, turn.calls)])
        _say(made, "user", [_tool_result(*each) for each in results.items()])
    if made and made[0]["role"] == "assistant":
        made.insert(0, {"role": "user", "content": [{"type": "text", "text": OPENING}]})
    return {"system": "\n\n".join(system), "messages": made} if system else {"messages": made}


def calls_in(message: Fields) -> list[Call]:
    """Return the tool calls that a message asks for, in either shape; those without id are none."""
    return _turn(message).calls


# -- taking messages apart -------------------------------------------------------------------


def _turns(messages: Iterable[Fields]) -> list[Turn]:
    if not isinstance(messages, Iterable):
        raise InvalidEvent(f"messages are a list of dicts, not {brief(messages)}")
    return list(map(_turn, messages))


def _turn(fields: Fields) -> Turn:
    if not isinstance(fields, Mapping):
        raise InvalidEvent(f"a message is a dict as it was recorded, not {fields!r:.100}")
    content, results = fields.get("content"), {}
    answers = fields.get("tool_call_id")
    if isinstance(answers, str):
        results[answers], content = {"content": content}, None
    parts = _listed(content) if isinstance(content, list) else []
    for part in parts:
        if _kind(part) == "tool_result" and isinstance(part.get("tool_use_id"), str):
            results[part["tool_use_id"]] = part
    kept = [part for part in parts if _kind(part) not in ("tool_use", "tool_result")]
    calls = list({call.id: call for call in _calls(fields, parts)}.values())
    role, name = fields.get("role"), fields.get("name")
    return Turn(
        role="assistant" if calls else role if isinstance(role, str) else "",
        said=kept if isinstance(content, list) else _as_text(content, ""),
        name=name if isinstance(name, str) else None,
        calls=calls,
        results=results,
        tools=bool(calls or results),
    )


def _listed(content: Sequence[Json]) -> list[Part]:
    """Return parts as objects; a text that stands alone becomes a part of that type."""
    made: list[Part] = []
    for part in content:
        if isinstance(part, dict) and _kind(part) not in ("", "text"):
            made.append(part)
        else:
            given = part.get("text") if isinstance(part, dict) else part
            rest = part if isinstance(part, dict) else {}
            made.append({**rest, "type": "text", "text": _as_text(given, "")})
    return made


def _calls(fields: Fields, parts: Sequence[Part]) -> Iterator[Call]:
    """Iterate over the calls of a message, those with an id, in either shape."""
    given = fields.get("tool_calls")
    for call in given if isinstance(given, list) else ():
        if isinstance(call, dict) and isinstance(call.get("id"), str):
            function = call.get("function")
            function = function if isinstance(function, dict) else call  # as bots in Go keep them
            arguments = _as_text(function.get("arguments", function.get("params")), "{}")
            yield Call(call["id"], _as_text(function.get("name"), ""), arguments)
    for part in parts:
        if _kind(part) == "tool_use" and isinstance(part.get("id"), str):
            arguments = _as_text(part.get("input"), "{}")
            yield Call(part["id"], _as_text(part.get("name"), ""), arguments)


def _answered(turns: Sequence[Turn]) -> Iterator[tuple[Turn, dict[str, Part]]]:
    """Iterate over the turns, each with the results of its calls in their order.

    A result belongs to the newest call of its id before it; of several the newest counts. Calls
    without a result are dropped, and so are results without a call.
    """
    found: list[dict[str, Part]] = []
    latest: dict[str, dict[str, Part]] = {}
    for turn in turns:
        for call, result in turn.results.items():
            if call in latest:
                latest[call][call] = result
        found.append({})
        latest |= {call.id: found[-1] for call in turn.calls}
    for turn, results in zip(turns, found, strict=True):
        turn.calls = [call for call in turn.calls if call.id in results]
        yield turn, {call.id: results[call.id] for call in turn.calls}


# -- OpenAI ----------------------------------------------------------------------------------


def _openai(turn: Turn) -> dict[str, Json]:
    role = turn.role if turn.role in _OPENAI_ROLES else "user"
    content = _openai_content({"content": turn.said})
    made: dict[str, Json] = {"role": role, "content": content or (None if turn.calls else "")}
    if turn.name:
        made["name"] = turn.name
    if turn.calls:
        made["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in turn.calls
        ]
    return made


def _openai_content(holder: Part, *, texts: bool = False) -> str | list[Part]:
    """Return content as OpenAI takes it; with `texts`, as a tool message may have it."""
    content = holder.get("content")
    if not isinstance(content, list):
        return _as_text(content, "")
    parts = [_openai_part(part) for part in _listed(content) if _kind(part) not in _THOUGHTS]
    return [part if not texts or _kind(part) == "text" else _stand_in(part) for part in parts]


def _openai_part(part: Json) -> Part:
    kind = _kind(part)
    if kind in _OPENAI_PARTS:
        return {key: value for key, value in part.items() if key != "cache_control"}
    if kind == "image" and (url := _image_url(part.get("source"))):
        return {"type": "image_url", "image_url": {"url": url}}
    return _stand_in(part)


def _image_url(source: Json) -> str | None:
    """Return where an Anthropic picture is, its bytes inside the address where they are given."""
    if not isinstance(source, dict):
        return None
    if source.get("type") == "base64":
        return f"{_DATA}{source.get('media_type')};base64,{source.get('data')}"
    url = source.get("url")
    return url if isinstance(url, str) else None


# -- Anthropic -------------------------------------------------------------------------------


def _say(made: list[dict[str, Json]], role: str, parts: list[Part]) -> None:
    """Add parts to the last message if it has that role, else as a new one."""
    if parts and made and made[-1]["role"] == role:
        made[-1]["content"] += parts
    elif parts:
        made.append({"role": role, "content": parts})


def _tool_use(call: Call) -> Part:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call.arguments)}


def _input(arguments: str) -> dict[str, Json]:
    """Return arguments as an object; text that is none stands under the key `arguments`."""
    try:
        found = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        found = arguments
    return found if isinstance(found, dict) else {"arguments": found}


def _tool_result(call: str, result: Part) -> Part:
    content = result.get("content")
    said = _anthropic_parts(content) if isinstance(content, list) else _as_text(content, "")
    made = {"type": "tool_result", "tool_use_id": call, "content": said}
    return made | {"is_error": True} if result.get("is_error") else made


def _anthropic_parts(said: str | list[Part]) -> list[Part]:
    if isinstance(said, str):
        return [{"type": "text", "text": said}] if said.strip() else []
    parts = [_anthropic_part(part) for part in _listed(said)]
    return [part for part in parts if _kind(part) != "text" or part["text"].strip()]


def _anthropic_part(part: Part) -> Part:
    """Return a part as Anthropic takes it; parts that OpenAI does not have pass as they are."""
    kind = _kind(part)
    if kind == "refusal":
        return {"type": "text", "text": _as_text(part.get("refusal"), "")}
    if kind == "image_url":
        return _image(part.get("image_url")) or _stand_in(part)
    return _stand_in(part) if kind in ("input_audio", "file") else part


def _image(given: Json) -> Part | None:
    """Return OpenAI's picture as Anthropic's: its bytes, or its address."""
    url = given.get("url") if isinstance(given, dict) else given
    if not isinstance(url, str):
        return None
    kind, comma, data = url.removeprefix(_DATA).partition(";base64,")
    if url.startswith(_DATA) and comma:
        source = {"type": "base64", "media_type": kind, "data": data}
    else:
        source = {"type": "url", "url": url}
    return {"type": "image", "source": source}


# -- both ------------------------------------------------------------------------------------


def _texts(said: str | list[Part]) -> list[str]:
    """Return the texts that are not empty."""
    parts = _anthropic_parts(said)
    return [part["text"] for part in parts if _kind(part) == "text"]


def _kind(part: Json) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    return kind if isinstance(kind, str) else ""


def _stand_in(part: Json) -> Part:
    """Return a text in place of a part that the provider has no word for."""
    return {"type": "text", "text": f"[{_kind(part)} that can't be shown here]"}


def _as_text(value: Json, nothing: str) -> str:
    """Return text as it is, None as `nothing`, and any other JSON as its text."""
    if value is None:
        return nothing
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
