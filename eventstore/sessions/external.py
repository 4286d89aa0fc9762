"""External keys: which session belongs to a chat, a user and an interface out there.

Invariants: an external key has generations 0, 1, 2, ..., each the idempotency key of one
creation, so that however many threads and processes ask at once, a generation is one session;
the next one begins only when the newest is no longer usable. Nothing is kept beside the log.
"""

from collections.abc import Callable, Mapping
from hashlib import sha256

import msgspec

from ..errors import InvalidEvent, brief
from ..log.base import Log
from .checks import checked_id

EXTERNAL_PARTS = ("interface", "user", "chat", "conversation")

External = dict[str, str]
"""The EXTERNAL_PARTS that are known."""


def external_key(
    interface: str | int | None = None,
    user: str | int | None = None,
    chat: str | int | None = None,
    conversation: str | int | None = None,
) -> External:
    """Return the parts that are given, as texts; ids that are numbers become texts too.

    Raises InvalidEvent where none is given or one is no name.
    """
    parts = dict(zip(EXTERNAL_PARTS, (interface, user, chat, conversation), strict=True))
    found = {what: _part(what, part) for what, part in parts.items() if part is not None}
    if not found:
        raise InvalidEvent(f"name the session by at least one of {', '.join(parts)}")
    return found


def checked_external(external: Mapping[str, str | int | None]) -> External:
    """Return the key that a dict of parts is. Raises InvalidEvent, also for other names."""
    if not isinstance(external, Mapping):
        raise InvalidEvent(
            f"external is a dict of {', '.join(EXTERNAL_PARTS)}, not {brief(external)}"
        )
    unknown = set(external) - set(EXTERNAL_PARTS)
    if unknown:
        raise InvalidEvent(f"external has {brief(unknown)}; it has {', '.join(EXTERNAL_PARTS)}")
    return external_key(*(external.get(part) for part in EXTERNAL_PARTS))


def _part(what: str, part: object) -> str:
    return checked_id(part, f"external {what}")


def generation_key(external: External, generation: int) -> str:
    """Return the idempotency key that creates a generation."""
    text = msgspec.json.encode(sorted(external.items()))
    return f"external:{sha256(text).hexdigest()}:{generation}"


def newest_generation(log: Log, external: External) -> tuple[int, str | None]:
    """Return the newest generation and its session, (-1, None) before the first."""
    found = newest_number(lambda number: _session(log, external, number) is not None)
    return found, None if found < 0 else _session(log, external, found)


def newest_number(exists: Callable[[int], bool]) -> int:
    """Return the largest number that exists, -1 where none does; there are no gaps from 0 on.

    Gallops, then bisects.
    """
    low, high = -1, 0
    while exists(high):
        low, high = high, 2 * high + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if exists(middle) else (low, middle)
    return low


def _session(log: Log, external: External, generation: int) -> str | None:
    found = log.receipt_of(generation_key(external, generation))
    return found[1].session if found else None
