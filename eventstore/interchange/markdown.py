"""A session as a transcript for people: Markdown with times, tool calls and results.

Invariants: it shows the visible messages and nothing that is hidden; a code fence is longer than
any run of backticks inside it, so no text can break out of its block.
"""

import re
from collections.abc import Iterator
from datetime import UTC

import msgspec

from projections import SessionState

from ..clock import to_datetime
from ..errors import counted
from ..messages import Json, Message
from ..state.transcript import Transcript
from ..store import EventStore

_sorted = msgspec.json.Encoder(order="sorted")


def export_markdown(store: EventStore, session: str, *, at_version: int | None = None) -> str:
    """Return the transcript of a session, now or at a version.

    Raises SessionNotFound, SessionDeleted (only for now) and InvalidEvent.
    """
    state = SessionState.of(store, session, at_version=at_version)
    lines = Transcript(store.log, state.header.spans).lines(0, len(state.messages))
    blocks = [f"# {session}", *_summary(state)]
    for number, (_, recorded, message) in enumerate(lines, 1):
        when = recorded.recorded_at if recorded.occurred_at is None else recorded.occurred_at
        blocks.append(f"## {number}. {_speaker(message)} · {_moment(when)}")
        blocks += _blocks(message)
    return "\n\n".join(blocks) + "\n"


def _summary(state: SessionState) -> Iterator[str]:
    messages, tokens = counted(len(state.messages), "message"), counted(state.tokens, "token")
    yield f"{messages}, {tokens}, {state.status}."
    if state.metadata:
        yield "\n".join(
            f"- **{key}**: {value if isinstance(value, str) else _text(value)}"
            for key, value in state.metadata.items()
        )


def _speaker(message: Message) -> str:
    return f"{message.role or 'nobody'} ({message.name})" if message.name else message.role


def _moment(ns: int) -> str:
    return to_datetime(ns).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _blocks(message: Message) -> Iterator[str]:
    """Iterate over what a message says: text, parts of other kinds, calls of tools."""
    if message.text:
        tool = message.role in ("tool", "function")
        yield _fenced(message.text, "") if tool else message.text
    parts = message.content if isinstance(message.content, list) else []
    for part in parts:
        if isinstance(part, dict) and not isinstance(part.get("text"), str):
            yield _fenced(_text(part), "json")
    calls = message.tool_calls if isinstance(message.tool_calls, list) else []
    for call in calls:
        yield from _call(call)


def _call(call: Json) -> Iterator[str]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        yield _fenced(_text(call), "json")
        return
    yield f"Calls `{function.get('name')}`:"
    arguments = function.get("arguments")
    yield _fenced(arguments if isinstance(arguments, str) else _text(arguments), "json")


def _text(value: Json) -> str:
    return _sorted.encode(value).decode()


def _fenced(text: str, language: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(longest + 1, 3)
    return f"{fence}{language}\n{text}\n{fence}"
