"""The formats that can be imported: told apart by what is in the file, not by its name.

Invariants: telling decodes the outermost value and at most one more; a file that is none of them
is refused with one sentence.
"""

import os
from pathlib import Path
from typing import Any

import msgspec

from ..errors import InvalidEvent, brief
from ..files import checked_path
from ..store import EventStore
from .chat import import_chat, is_heading, is_message
from .chatgpt import MAPPING, import_chatgpt
from .chitchat import import_chitchat
from .intake import Imported, Progress
from .jsonl import import_events
from .sharegpt import TURNS, import_sharegpt
from .sources import Lines, Top, decoded, first_values, read_document, top_decoder
from .tau import import_tau

EVENTS, CHAT, TAU, CHITCHAT = "jsonl", "chat", "tau", "chitchat"
SHAREGPT, CHATGPT = "sharegpt", "chatgpt"

FORMATS = (EVENTS, CHAT, SHAREGPT, CHATGPT, TAU, CHITCHAT)
"""Our own JSONL, by the name it is exported under; OpenAI-style JSON or JSON lines; ShareGPT; the
data export of ChatGPT; tau-bench; the chitchat dataset."""

_IMPORTERS = {
    CHAT: import_chat,
    SHAREGPT: import_sharegpt,
    CHATGPT: import_chatgpt,
    TAU: import_tau,
    CHITCHAT: import_chitchat,
}

_any = msgspec.json.Decoder()


def import_file(
    store: EventStore,
    path: str | os.PathLike[str],
    format: str = "auto",  # noqa: A002 - the name of the option that users know
    *,
    name: str | None = None,
    progress: Progress | None = None,
    actor: str | None = None,
) -> Imported:
    """Import a file in one of FORMATS, or in the one that it turns out to have.

    `name` stands for the file's name in the names of sessions; it and `actor` say nothing in our
    own format, whose events have both already. Raises InvalidEvent, SessionExists, KeyReused.
    """
    if format != "auto" and format not in FORMATS:
        raise InvalidEvent(f"format must be auto, {', '.join(FORMATS)}, not {brief(format)}")
    file = checked_path(path, "path")
    found = detect_format(file) if format == "auto" else format
    if found == EVENTS:
        _check_events(file)
        return import_events(store, Lines(file), progress=progress)
    return _IMPORTERS[found](store, file, name=name, progress=progress, actor=actor)


def detect_format(path: Path) -> str:
    """Return which of FORMATS a file has; raises InvalidEvent where it has none."""
    top, _ = first_values(path)
    if top is None:
        top = decoded(read_document(path), path.name, top_decoder)
    found = _format_of(top, path.name)
    if found is None:
        known = "chat, ShareGPT, ChatGPT's export, tau-bench or chitchat"
        raise InvalidEvent(f"{path.name} is JSON, but neither our events nor {known}")
    return found


def _check_events(path: Path) -> None:
    """Raise InvalidEvent for JSON lines of somebody else: this format has a name like theirs."""
    top, _ = first_values(path)
    if top is not None and not _is_event(top):
        raise InvalidEvent(
            f"{path.name} is JSON lines, but none of ours; leave the format out and it is found"
        )


def _is_event(top: Top) -> bool:
    return isinstance(top, dict) and top.keys() >= {"position", "session", "version", "event"}


def _format_of(top: Top, where: str) -> str | None:
    if _is_event(top):
        return EVENTS
    if isinstance(top, dict):
        found = CHAT if _is_heading(top, where) else _conversation_of(top)
        return found or (CHITCHAT if _has_turns(top, where) else None)
    first = decoded(top[0], f"{where} entry 1", _any) if top else None
    if not isinstance(first, dict):
        return CHAT if isinstance(first, list) else None
    return TAU if "traj" in first else _conversation_of(first)


def _conversation_of(value: dict[str, Any]) -> str | None:
    """Return the format of an object that is a conversation or a message by its keys."""
    if "messages" in value or is_message(value):
        return CHAT
    if TURNS in value:
        return SHAREGPT
    return CHATGPT if MAPPING in value else None


def _is_heading(top: dict[str, msgspec.Raw], where: str) -> bool:
    return "_type" in top and is_heading({"_type": decoded(top["_type"], where, _any)})


def _has_turns(top: dict[str, msgspec.Raw], where: str) -> bool:
    """Return True for a table of conversations whose messages stand in turns."""
    first = next(iter(top.values()), None)
    value = decoded(first, where, _any) if first is not None else None
    turns = value.get("messages") if isinstance(value, dict) else None
    return isinstance(turns, list) and all(isinstance(turn, list) for turn in turns)
