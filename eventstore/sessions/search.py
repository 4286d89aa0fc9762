"""Search: where a text stands in messages, metadata and titles.

Invariants: only what is visible is searched, newest session first and newest message first in
it; a message that several branches show is found once; case does not matter. There is no index:
the cost is that of reading what is searched, a page at a time.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import accumulate

import msgspec

from projections import CatalogRow, SessionState

from ..errors import InvalidEvent, KeyShredded, SessionDeleted, brief
from ..messages import Json, Message
from ..state.transcript import Transcript
from ..store import EventStore

EXCERPT_CHARACTERS = 60
"""Shown on either side of what was found."""

LINES_PAGE = 256


class Hit(msgspec.Struct, frozen=True):
    """A place where the text stands: `message` is None and `key` is set for metadata."""

    session: str
    excerpt: str
    message: Message | None = None
    key: str | None = None


def search(store: EventStore, rows: Iterable[CatalogRow], text: str) -> Iterator[Hit]:
    """Iterate over the places in these sessions, in their order. Raises InvalidEvent."""
    if type(text) is not str or not text.strip():
        raise InvalidEvent(f"a text to search for is expected, not {brief(text)}")
    return _hits(store, rows, text.casefold())


def _hits(store: EventStore, rows: Iterable[CatalogRow], text: str) -> Iterator[Hit]:
    seen: set[int] = set()
    for row in rows:
        yield from _in_metadata(row, text)
        yield from _in_messages(store, row.session, text, seen)


def _in_metadata(row: CatalogRow, text: str) -> Iterator[Hit]:
    for key, value in row.metadata.items():
        shown = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        if text in key.casefold() or text in shown.casefold():
            yield Hit(row.session, _excerpt(shown, text), key=key)


def _in_messages(store: EventStore, session: str, text: str, seen: set[int]) -> Iterator[Hit]:
    erasures = -1
    while erasures != store.log.erasures():  # else it is gone since the rows were taken
        erasures = store.log.erasures()
        with suppress(SessionDeleted, KeyShredded):  # or a line of it: then the others are left
            yield from _in_lines(store, session, text, seen)
            return


def _in_lines(store: EventStore, session: str, text: str, seen: set[int]) -> Iterator[Hit]:
    header = SessionState.of(store, session).header
    lines = Transcript(store.log, header.spans)
    for stop in range(len(lines), 0, -LINES_PAGE):
        for _, recorded, message in reversed([*lines.lines(max(stop - LINES_PAGE, 0), stop)]):
            if recorded.position not in seen:
                seen.add(recorded.position)
                shown = _shown(message)
                if text in shown.casefold():
                    yield Hit(session, _excerpt(shown, text), message)


def _shown(message: Message) -> str:
    """Return what can be found of a message: its text and its own metadata."""
    parts: list[Json] = [message.text, *message.metadata.values()]
    return "\n".join(part for part in parts if isinstance(part, str))


def _excerpt(shown: str, text: str) -> str:
    """Return what stands around the first place, on one line."""
    at = _unfolded(shown, max(shown.casefold().find(text), 0))
    low, high = max(at - EXCERPT_CHARACTERS, 0), at + len(text) + EXCERPT_CHARACTERS
    return " ".join(shown[low:high].split())


def _unfolded(shown: str, place: int) -> int:
    """Return which character stands at a place of the text without case, where ß is two."""
    ends = accumulate(len(each.casefold()) for each in shown)
    return next((index for index, end in enumerate(ends) if end > place), 0)
