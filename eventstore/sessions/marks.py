"""Marks: where the important messages of a store are, so that nobody reads it all to find them.

Invariants: what a message says of itself never changes, so the marks of a stream only grow and
hold for every branch and every past moment alike; a stream is scanned once per process, up to
what is looked at, and later only what was added; all of it is a cache that a new scan rebuilds.
"""

import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

from cachetools import LRUCache

from ..events import MessageAppended, Span
from ..log.base import Log, frames_at
from ..log.frame import Frame
from ..messages import Json
from ..store import EventStore

STREAMS_MAX = 4_096
"""Streams whose marks are kept in memory."""

FRAMES_PAGE = 512

_WORD = b"important"
"""A payload without this word is not decoded: its message can't be marked."""

_Known = tuple[int, list[int]]
"""Messages scanned so far, and the numbers of the important ones among them, sorted."""


def is_important(fields: Mapping[str, Json]) -> bool:
    """Return True if a message's metadata marks it as important."""
    metadata = fields.get("metadata")
    return isinstance(metadata, dict) and bool(metadata.get("important"))


class Marks:
    """The important messages of a log; safe for many threads."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._known: LRUCache[str, _Known] = LRUCache(STREAMS_MAX)

    def among(self, spans: Sequence[Span]) -> list[int]:
        """Return the indexes, in the visible list, of the important messages, oldest first."""
        found, at = [], 0
        for span in spans:
            if not span.note:
                numbers = self._numbers(span.session, span.stop)
                low, high = bisect_left(numbers, span.start), bisect_left(numbers, span.stop)
                found += [at + number - span.start for number in numbers[low:high]]
            at += span.stop - span.start
        return found

    def _numbers(self, session: str, stop: int) -> list[int]:
        """Return the numbers of a stream's important messages, known at least up to `stop`."""
        with self._lock:
            scanned, numbers = self._known.get(session, (0, []))
        if scanned < stop:
            numbers = numbers + self._scan(session, scanned, stop)
            with self._lock:
                if self._known.get(session, (0, []))[0] < stop:
                    self._known[session] = stop, numbers
        return numbers

    def _scan(self, session: str, start: int, stop: int) -> list[int]:
        """Return the numbers of the important messages `start <= number < stop`."""
        found, number = [], start
        version = self._log.locate(session, start)
        while number < stop:
            frames_max = min(stop - number, FRAMES_PAGE)
            for frame in frames_at(self._log, session, version, frames_max=frames_max):
                for index in frame.message_indexes(number, stop):
                    if _is_marked(frame, index):
                        found.append(number)
                    number += 1
                version = frame.last_version + 1
        return found


def _is_marked(frame: Frame, index: int) -> bool:
    if frame.erased(index) or _WORD not in frame.opened(index)[2]:
        return False
    event = frame.event(index)
    assert isinstance(event, MessageAppended)
    return is_important(event.message.fields)


_of_stores: WeakKeyDictionary[EventStore, Marks] = WeakKeyDictionary()
_of_stores_lock = threading.Lock()


def marks_of(store: EventStore) -> Marks:
    """Return the marks of an open store, which live as long as it does."""
    with _of_stores_lock:
        return _of_stores.setdefault(store, Marks(store.log))
