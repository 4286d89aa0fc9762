"""The limit in bytes: what a session's visible messages weigh, counted as little as possible.

Invariants: bytes are payloads before compression, as the facts themselves say; a count is kept
with the lines it is about and moved on by the lines that came and went, so it can't be stale;
it is exact after any rewind, merge or prune.
"""

import threading
from collections.abc import Iterable, Sequence

from cachetools import LRUCache

from ..errors import InvalidEvent, brief
from ..events import MessageAppended, Span
from ..log.base import Log
from ..log.codec import encode_all
from ..messages import Json, Message, TokenCounter, check_message
from ..spans import length, minus
from ..state.transcript import Transcript

COUNTS_MAX = 10_000
"""Sessions whose count is kept."""


class Sizes:
    """Payload bytes of visible lines; thread-safe."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._counts: LRUCache[str, tuple[int, list[Span], int]] = LRUCache(COUNTS_MAX)

    def of(self, session: str, spans: Sequence[Span], erasures: int) -> int:
        """Return the bytes of these lines of a session, in a log of so many erasures."""
        with self._lock:
            count, known, size = self._counts.get(session, (erasures, [], 0))
        if count != erasures:
            known, size = [], 0
        size += self._bytes(minus(spans, known)) - self._bytes(minus(known, spans))
        with self._lock:
            self._counts[session] = erasures, list(spans), size
        return size

    def _bytes(self, spans: Sequence[Span]) -> int:
        lines = Transcript(self._log, spans).lines(0, length(spans))
        return sum(recorded.size for _, recorded, _ in lines)


def payload_bytes(
    messages: dict[str, Json] | Message | Iterable[dict[str, Json] | Message],
    count_tokens: TokenCounter,
) -> int:
    """Return what messages will weigh as facts, their token counts included."""
    given = [messages] if isinstance(messages, (dict, Message)) else messages
    fields = [check_message(each) for each in given]
    facts = [MessageAppended(Message(each), count_tokens(each)) for each in fields]
    return sum(map(len, encode_all(facts))) if facts else 0


def check_max_bytes(limit: object) -> int | None:
    """Return a limit in bytes, None for none. Raises InvalidEvent."""
    if limit is not None and (type(limit) is not int or limit < 1):
        raise InvalidEvent(f"max_bytes must be a whole number above 0, or None, not {brief(limit)}")
    return limit
