"""ShareGPT, the shape that many datasets have: who speaks is `from`, what is said is `value`.

    {"conversations": [{"from": "human", "value": "..."}, ...], "id": ..., "system": ...}
    [conversation, ...], or JSON lines with a conversation each

Invariants: what is said comes in untouched, under the role that its speaker has elsewhere; a
speaker that the role does not tell is kept as `from`, what else a turn or a conversation carries
beside it; a `system` of the conversation is its first message.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import InvalidEvent
from ..messages import Json
from ..store import EventStore
from .chat import Placed, named, values_of, whole_of
from .intake import Imported, Progress, Whole, take_in

TURNS = "conversations"
"""The key under which a conversation has its turns."""

_PLAIN = {"human": "user", "gpt": "assistant"}

_ROLES = {
    **_PLAIN,
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
    "tool_response": "tool",
}
"""Speakers by other names than their role; all others have a role of their own name."""


def import_sharegpt(
    store: EventStore,
    path: Path,
    *,
    name: str | None = None,
    progress: Progress | None = None,
    actor: str | None = None,
) -> Imported:
    """Import every conversation of a file as one session, named as import_chat() names them.

    Raises InvalidEvent and SessionExists, both before anything is written.
    """
    stem = name or path.stem
    return take_in(store, lambda: _wholes(path, stem), progress, actor)


def _wholes(path: Path, stem: str) -> Iterator[Whole]:
    for placed, name in named(values_of(path), stem):
        yield whole_of(path, _as_chat(placed), name)


def _as_chat(placed: Placed) -> Placed:
    """Return a conversation with its turns as messages."""
    where, value = placed
    if not isinstance(value, dict) or not isinstance(value.get(TURNS), list):
        raise InvalidEvent(f"{where} is no conversation: it has no list of {TURNS}")
    rest: dict[str, Any] = dict(value)
    turns = enumerate(rest.pop(TURNS), 1)
    messages = [_message(turn, f"{where}, turn {number}") for number, turn in turns]
    if isinstance(rest.get("system"), str) and rest["system"]:
        messages.insert(0, {"role": "system", "content": rest.pop("system")})
    return where, {**rest, "messages": messages}


def _message(turn: Json, where: str) -> dict[str, Json]:
    if not isinstance(turn, dict):
        raise InvalidEvent(f"{where} is no object")
    if "role" in turn and "from" not in turn:  # some keep chat under this key
        return turn
    rest = dict(turn)
    speaker = rest.pop("from", None)
    if not isinstance(speaker, str) or "value" not in rest:
        raise InvalidEvent(f"{where} does not say `from` whom, or no `value`")
    role = _ROLES.get(speaker, speaker)
    told = {} if speaker in (role, *_PLAIN) else {"from": speaker}
    return {"role": role, "content": rest.pop("value"), **told, **rest}
