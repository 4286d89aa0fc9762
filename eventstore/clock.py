"""Time: nanoseconds since the Unix epoch as integers, read from a clock that is passed in.

The log never lets recorded time go backwards; that rule lives in log/plan.py, not here.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from .errors import InvalidEvent, brief

Clock = Callable[[], int]
"""Returns nanoseconds since the epoch."""

system_clock: Clock = time.time_ns

DAY_NS = 86_400 * 10**9

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NS_MAX = (1 << 63) - 1

NS_DIGITS = 19
"""Digits of a time in ns, from September 2001 on for as long as 64 bits last."""


def to_ns(moment: datetime | int) -> int:
    """Return a moment as ns since the epoch; a datetime without a zone is refused."""
    if isinstance(moment, bool) or not isinstance(moment, (int, datetime)):
        raise InvalidEvent(f"a time must be a datetime or integer ns, not {brief(moment)}")
    if isinstance(moment, int):
        ns = moment
    elif moment.tzinfo is None:
        raise InvalidEvent(f"time {moment} has no time zone; add one, such as Z or +01:00")
    else:
        ns = (moment - _EPOCH) // timedelta(microseconds=1) * 1_000
    if not -_NS_MAX <= ns <= _NS_MAX:
        raise InvalidEvent(f"time {brief(moment)} is out of the range of 64-bit nanoseconds")
    return ns


def to_datetime(ns: int) -> datetime:
    """Return ns since the epoch as an aware UTC datetime, cut to microseconds."""
    return _EPOCH + timedelta(microseconds=ns // 1_000)


def when(ns: int) -> str:
    """Return a time as people read it, UTC, to the second."""
    return to_datetime(ns).strftime("%Y-%m-%d %H:%M:%SZ")


def parse_time(text: str) -> int:
    """Return an ISO 8601 text (zone required, `Z` allowed) or ns of 19 digits as ns.

    A shorter number is refused: a year, a day or seconds were meant, and as ns it would be 1970.
    """
    with suppress(ValueError):
        if not text.lstrip("-").isdigit():
            return to_ns(datetime.fromisoformat(text))
        if len(text) == NS_DIGITS:
            return to_ns(int(text))
    raise InvalidEvent(
        f"{brief(text)} is no ISO 8601 time such as 2026-01-31T12:00:00Z, nor nanoseconds "
        f"since 1970, which have {NS_DIGITS} digits"
    )
