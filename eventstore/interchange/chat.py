"""Plain chat, as OpenAI-style programs keep it: JSON and JSON lines, in and out.

    {"messages": [...], "id": ..., "metadata": {...}}     one conversation
    [message, ...]                                        one conversation
    [conversation, ...]                                   several
    JSON lines                                            a conversation or a message a line
    {"_type": "metadata", "metadata": ...}                a line that speaks for the messages
                                                          around it, as bots in Go keep a session

Invariants: a message goes in and comes out untouched; a time that it carries (`timestamp`,
`created_at` or `ts`: ISO 8601, UTC where no zone is given, or seconds since the epoch) becomes
the event's occurred_at besides; what else a conversation carries is kept as metadata.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any

import msgspec

from projections import SessionState

from ..clock import to_ns
from ..errors import InvalidEvent
from ..events import SessionCreated
from ..ids import check_name
from ..messages import Json, check_json, check_message
from ..patch import assigned, patched
from ..store import EventStore
from .intake import Imported, Progress, Whole, take_in
from .sources import Lines, decoded, first_values, numbered, read_document, top_decoder

NAME_KEYS = ("session", "session_id", "conversation_id", "id")
"""Where a conversation's name is looked for, in this order."""

TIME_KEYS = ("timestamp", "created_at", "ts")
"""Where a message's time is looked for, in this order."""

_TIME_KEYS = frozenset(TIME_KEYS)

_HEADING = "metadata"
"""The `_type` of a line that is about the session and no message."""

MILLISECONDS_FROM = 100_000_000_000
"""A number from here on counts milliseconds: as seconds it would be after the year 5100."""

_any: msgspec.json.Decoder[Any] = msgspec.json.Decoder()

Placed = tuple[str, Json]
"""A decoded value, and where it stands."""


def import_chat(
    store: EventStore,
    path: Path,
    *,
    name: str | None = None,
    progress: Progress | None = None,
    actor: str | None = None,
) -> Imported:
    """Import every conversation of a file as one session.

    A session is called what the conversation calls itself; else `name` (by default the file's
    name without its ending), with the conversation's number from 1 where there are several.
    Raises InvalidEvent and SessionExists, both before anything is written.
    """
    stem = name or path.stem
    return take_in(store, lambda: _conversations(path, stem), progress, actor)


def import_conversations(
    store: EventStore,
    conversations: Mapping[str, list[dict[str, Json]]],
    *,
    metadata: dict[str, Json] | None = None,
    progress: Progress | None = None,
    actor: str | None = None,
) -> Imported:
    """Import conversations that are in memory: the name of each session, and its messages.

    All of them get the same `metadata`. It is the fastest way in: they share commits, and each
    comes with all its messages or not at all. Raises InvalidEvent and SessionExists, both before
    anything is written.
    """
    shared = patched({}, _dict(metadata, "the import", "metadata"))
    wholes = [_named(name, messages, shared) for name, messages in conversations.items()]
    return take_in(store, lambda: wholes, progress, actor)


def _named(name: str, messages: Json, metadata: dict[str, Json]) -> Whole:
    session = check_name(name, "session id")
    if not isinstance(messages, list):
        raise InvalidEvent(f"conversation {session!r} is no list of messages")
    checked = checked_messages(messages, f"conversation {session!r}")
    return Whole(session, [SessionCreated(metadata=metadata)], checked, times_of(checked))


def _conversations(path: Path, stem: str) -> Iterator[Whole]:
    values = values_of(path)
    start = list(islice(values, 1))
    values = chain(start, values)
    if start and (is_message(start[0][1]) or is_heading(start[0][1])):
        yield whole_of(path, (str(path.name), _gathered(values)), stem)
        return
    for placed, name in named(values, stem):
        yield whole_of(path, placed, name)


def named(values: Iterator[Placed], stem: str) -> Iterator[tuple[Placed, str]]:
    """Iterate over conversations with the name of each that has none: `stem`, and its number."""
    start = list(islice(values, 2))
    for number, placed in enumerate(chain(start, values), 1):
        yield placed, stem if len(start) == 1 else f"{stem}-{number}"


def is_message(value: Json) -> bool:
    """Return True for what has a role and is no conversation."""
    return isinstance(value, dict) and "role" in value and "messages" not in value


def is_heading(value: Json) -> bool:
    """Return True for the line that says what a file of messages is about."""
    if not isinstance(value, dict) or "messages" in value:
        return False
    return value.get("_type") == _HEADING


def values_of(path: Path) -> Iterator[Placed]:
    """Iterate over the conversations, or the messages, that a file is made of: one or more."""
    first, more = first_values(path)
    if first is not None and more:
        for number, line in numbered(Lines(path)):
            where = f"{path.name} line {number}"
            yield where, decoded(line, where, _any)
        return
    top = decoded(read_document(path), path.name, top_decoder)
    if isinstance(top, dict):
        yield path.name, {key: decoded(value, path.name, _any) for key, value in top.items()}
        return
    if not top:
        raise InvalidEvent(f"{path.name} holds no conversation")
    for number, raw in enumerate(top, 1):
        where = f"{path.name} entry {number}"
        yield where, decoded(raw, where, _any)


def _gathered(values: Iterator[Placed]) -> Json:
    """Return the conversation that a file of messages is, with what its heading says of it."""
    heading: dict[str, Json] = {}
    messages: list[Json] = []
    for where, value in values:
        if isinstance(value, dict) and is_heading(value):
            heading |= value
        elif is_message(value):
            messages.append(value)
        else:
            raise InvalidEvent(f"{where} is no message, unlike what came before")
    named = {"session": heading.pop("key")} if "key" in heading else {}
    heading.pop("_type", None)
    return {**named, **heading, "messages": messages}


def whole_of(path: Path, placed: Placed, name: str) -> Whole:
    """Return a conversation as the facts of one session, everything in it checked."""
    where, value = placed
    rest = {"messages": value} if isinstance(value, list) else value
    if not isinstance(rest, dict) or not isinstance(rest.get("messages"), list):
        raise InvalidEvent(f"{where} is no conversation: it has no list of messages")
    rest = dict(rest)
    messages = checked_messages(rest.pop("messages"), where)
    session, created = opening_of(path, where, rest, name)
    return Whole(session, [created], messages, times_of(messages))


def opening_of(
    path: Path, where: str, rest: dict[str, Json], name: str
) -> tuple[str, SessionCreated]:
    """Return a conversation's name and how its session begins, by what it carries beside it."""
    rest = dict(rest)
    given = [rest.pop(key) for key in NAME_KEYS if isinstance(rest.get(key), (str, int))]
    session = check_name(str(given[0]) if given else name, f"{where}: session id")
    metadata, context = (_dict(rest.pop(key, None), where, key) for key in ("metadata", "context"))
    metadata = {"source": path.name, **_dict(rest, where, "conversation"), **metadata}
    return session, SessionCreated(metadata=patched({}, metadata), context=assigned({}, context))


def checked_messages(messages: list[Json], where: str) -> list[dict[str, Json]]:
    """Return the messages if each can be a fact and says its role."""
    for number, message in enumerate(messages, 1):
        try:
            role = check_message(message).get("role")
        except InvalidEvent as error:
            raise InvalidEvent(f"{where}, message {number}: {error}") from None
        if role is None:
            raise InvalidEvent(f"{where}, message {number}: a message must say its role")
    return messages


def _dict(value: Json, where: str, what: str) -> dict[str, Json]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidEvent(f"{where}: {what} must be an object")
    check_json(value, f"{where}: {what}")
    return value


def times_of(messages: list[dict[str, Json]]) -> list[int | None]:
    """Return the time that each message carries, none at all where no message does."""
    if all(map(_TIME_KEYS.isdisjoint, messages)):  # mostly so, and quicker than to look for each
        return []
    return [time_of(each) for each in messages]


def time_of(message: dict[str, Json]) -> int | None:
    """Return the time that a message carries, in ns, or None where it says none we can read."""
    given = next((message[key] for key in TIME_KEYS if message.get(key) is not None), None)
    try:
        if isinstance(given, str):
            moment = datetime.fromisoformat(given)
            return to_ns(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
        if isinstance(given, (int, float)) and not isinstance(given, bool):
            seconds = given / 1_000 if abs(given) >= MILLISECONDS_FROM else given
            return to_ns(round(seconds * 1_000_000) * 1_000)
    except (ValueError, OverflowError, InvalidEvent):
        return None  # free text in a field of that name is no reason to refuse a conversation
    return None


# -- and out ---------------------------------------------------------------------------


def export_chat(
    store: EventStore, session: str, *, at_version: int | None = None
) -> dict[str, Json]:
    """Return `session`, `metadata`, `context` and the visible `messages`, now or at a version.

    Raises SessionNotFound, SessionDeleted (only for now) and InvalidEvent.
    """
    state = SessionState.of(store, session, at_version=at_version)
    return {
        "session": session,
        "metadata": state.metadata,
        "context": state.context,
        "messages": [message.to_dict() for message in state.messages],
    }


def export_chat_lines(
    store: EventStore, session: str, *, at_version: int | None = None
) -> Iterator[bytes]:
    """Iterate over the visible messages as JSON lines; no more than a page is in memory."""
    state = SessionState.of(store, session, at_version=at_version)
    return (msgspec.json.encode(message.fields) + b"\n" for message in state.messages)
