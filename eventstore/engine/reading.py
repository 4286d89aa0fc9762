"""Reading facts in bounded pages: each page is one short transaction, none stays open.

Invariants: pages are lists of Recorded in the order asked for; a reader sees every event that
was committed when it took its page and never one twice; damage raises Corruption.
"""

from collections.abc import Collection, Iterator
from itertools import chain, islice

from ..errors import InvalidEvent, brief
from ..log.base import POSITION_MAX, Log, frames_at
from ..log.format import TYPE_CODES
from ..log.recorded import Recorded

Page = list[Recorded]

PAGE_FRAMES = 256
"""Frames in one page: with 2,048 they fall out of the processor's cache, and cost a sixth more."""

_CODES = {kind.__name__: code for kind, code in TYPE_CODES.items()}


def stream_pages(
    log: Log, session: str, first: int, last: int, *, reverse: bool = False
) -> Iterator[Page]:
    """Iterate over versions `first..last` of a stream, newest first with `reverse`."""
    version = last if reverse else first
    while first <= version <= last:
        page: Page = []
        for frame in frames_at(log, session, version, reverse=reverse, frames_max=PAGE_FRAMES):
            if frame.last_version < first or frame.version > last:
                break
            page += frame.recorded(first, min(last, version) if reverse else last, reverse=reverse)
            version = frame.version - 1 if reverse else frame.last_version + 1
        if not page:
            return
        yield page


def log_pages(log: Log, position: int, types: Collection[str] | None = None) -> Iterator[Page]:
    """Iterate over the log from `position` on; `types` are names of event types to keep."""
    codes = None if types is None else type_codes(types)
    position = min(max(position, 0), POSITION_MAX)  # a reader that is sent further waits there
    while frames := log.read_all(position, PAGE_FRAMES):
        page: Page = []
        for frame in frames:
            if frame.count == 1:  # so is mostly every frame: a list each would cost a tenth more
                if codes is None or frame.row(0)[3] in codes:
                    page.append(Recorded(frame, 0))
            else:
                found = frame.recorded(frame.version + max(position - frame.position, 0))
                page += (each for each in found if codes is None or each.type_code in codes)
            position = frame.last_position + 1
        yield page


def type_codes(types: Collection[str]) -> set[int]:
    """Return the codes of event types; raises InvalidEvent for a name that is none."""
    if isinstance(types, str) or not isinstance(types, Collection):
        raise InvalidEvent(f"types must be a collection of names, not {brief(types)}")
    unknown = [name for name in types if type(name) is not str or name not in _CODES]
    if unknown:
        raise InvalidEvent(f"no such event type: {brief(unknown[0])}")
    return {_CODES[name] for name in types}


def flat(pages: Iterator[Page], limit: int | None) -> Iterator[Recorded]:
    """Iterate over the events of pages, at most `limit`. Raises InvalidEvent below 0."""
    return islice(chain.from_iterable(map(_drained, pages)), checked_limit(limit))


def _drained(page: Page) -> Iterator[Recorded]:
    page.reverse()
    while page:
        yield page.pop()


def checked_limit(limit: int | None) -> int | None:
    """Return a limit of events, None for none. Raises InvalidEvent below 0."""
    if limit is None:
        return None
    if type(limit) is not int or limit < 0:
        raise InvalidEvent(f"limit must be a whole number from 0 on, not {brief(limit)}")
    return min(limit, POSITION_MAX)


def checked_place(place: int, what: str) -> int:
    """Return a version or position to read from or to. Raises InvalidEvent for no whole number."""
    if type(place) is not int:
        raise InvalidEvent(f"{what} must be a whole number, not {brief(place)}")
    return place


def position_at(log: Log, moment: int) -> int:
    """Return the newest position recorded at or before `moment` (ns), -1 where none was.

    Bisection: recorded time never decreases along positions.
    """
    low, high = 0, log.size()
    while low < high:
        middle = (low + high) // 2
        frame = log.read_all(middle, frames_max=1)[0]
        if frame.recorded_at <= moment:
            low = frame.last_position + 1
        else:
            high = frame.position
    return low - 1


def version_at(log: Log, session: str, position: int) -> int:
    """Return the newest version of a stream at or before `position`, -1 where none was.

    Bisection over the stream: positions increase with versions.
    """
    tail = log.tail(session)
    if tail is None:
        return -1
    low, high = 0, tail.version + 1
    while low < high:
        middle = (low + high) // 2
        frame = frames_at(log, session, middle, frames_max=1)[0]
        if frame.last_position <= position:
            low = frame.last_version + 1
        elif frame.position > position:
            high = frame.version
        else:
            return frame.version + (position - frame.position)
    return low - 1
