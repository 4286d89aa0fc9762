"""Arguments of commands, checked: what callers give becomes what facts hold, or one error.

Invariants: nothing here is written or looked up; whatever is wrong is InvalidEvent, which shows
the beginning of what was given.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

from .. import events as ev
from ..clock import to_ns
from ..errors import InvalidEvent, brief
from ..ids import check_name
from ..limits import DURATION_MS_MAX, TTL_SECONDS_MAX
from ..messages import Json, Message, check_json, check_message
from .requests import Ground


def messages(given: object) -> list[dict[str, Json]]:
    """Return the fields of one message or of each of a list."""
    if isinstance(given, (dict, Message)):
        return [check_message(given)]
    return list(map(check_message, listed(given)))


def listed(messages: object) -> list[dict[str, Json] | Message]:
    """Return the messages of a list; one message is none."""
    if type(messages) is not list and (
        isinstance(messages, (str, bytes)) or not isinstance(messages, Iterable)
    ):
        raise InvalidEvent(f"a message must be a dict or Message, not {type(messages).__name__}")
    return list(messages)


def times(
    given: datetime | int | Sequence[datetime | int | None] | None, count: int
) -> list[int | None]:
    """Return a time in ns or None for each of `count` messages, nothing where none was given."""
    if given is None:
        return []
    times = list(given) if isinstance(given, Sequence) else [given] * count
    if len(times) != count:
        raise InvalidEvent(f"occurred_at has {len(times)} times for {count} messages")
    return [None if each is None else to_ns(each) for each in times]


def names(messages: object) -> list[str]:
    """Return ids of messages."""
    if isinstance(messages, (str, bytes)) or not isinstance(messages, Iterable):
        raise InvalidEvent(f"messages must be a list of ids, not {brief(messages)}")
    return [check_name(each, "message id") for each in messages]


def spans(lines: object) -> list[ev.Span]:
    """Return lines as a list of spans."""
    if not isinstance(lines, Sequence) or not all(isinstance(each, ev.Span) for each in lines):
        raise InvalidEvent(f"lines must be a list of Span, not {brief(lines)}")
    return list(lines)


def checked_dict(value: object, what: str) -> dict[str, Json]:
    """Return a dict that is JSON."""
    if type(value) is not dict:
        raise InvalidEvent(f"{what} must be a dict, not {type(value).__name__}")
    check_json(value, what)
    return value


def summary(summary: object) -> dict[str, Json]:
    """Return the fields of a summary; a text is one of the system."""
    if isinstance(summary, str):
        summary = {"role": "system", "content": summary}
    return check_message(summary)


def text(value: object) -> str | None:
    """Return a text or None."""
    if value is not None and type(value) is not str:
        raise InvalidEvent(f"text expected, not {type(value).__name__}")
    return value


def check_choice(value: object, choices: Sequence[str], what: str) -> None:
    """Raise InvalidEvent unless the value is one of the choices."""
    if value not in choices:
        raise InvalidEvent(f"{what} must be one of {', '.join(choices)}, not {brief(value)}")


def check_number(value: object, what: str, low: int) -> None:
    """Raise InvalidEvent unless the value is a whole number of 63 bits, from `low` on."""
    if type(value) is not int or not low <= value < 1 << 63:
        raise InvalidEvent(f"{what} must be a whole number from {low} on, not {brief(value)}")


def check_limit(value: object, what: str) -> None:
    """Raise InvalidEvent unless the value is None or a whole number above 0."""
    if value is not None and (type(value) is not int or not 0 < value < 1 << 63):
        raise InvalidEvent(f"{what} must be a whole number above 0, not {brief(value)}")


def milliseconds(duration_ms: float | None) -> float | None:
    """Return a checked duration; a float, since 60 and 60.0 would be other bytes on disk."""
    if duration_ms is None:
        return None
    if not _is_number(duration_ms) or not 0 <= duration_ms <= DURATION_MS_MAX:
        raise InvalidEvent(
            f"duration_ms must be 0 to {DURATION_MS_MAX}, or None, not {brief(duration_ms)}"
        )
    return float(duration_ms)


def seconds(ttl: float | None) -> float | None:
    """Return a checked time to live, as a float for the same reason."""
    if ttl is None:
        return None
    if not _is_number(ttl) or not 0 < ttl <= TTL_SECONDS_MAX:
        allowed = f"above 0 and up to {TTL_SECONDS_MAX:,} seconds, or None"
        raise InvalidEvent(f"ttl must be {allowed}, not {brief(ttl)}")
    return float(ttl)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def expiry(ground: Ground, ttl: float | None) -> int | None:
    """Return when a time to live that begins now ends, in ns since the epoch."""
    return None if ttl is None else ground.now() + int(ttl * 1_000_000_000)
