"""Checks of what callers give: counts, seconds and ids, each one clear error.

Invariants: a value that passes is of the right type and in range; what is refused is an
InvalidEvent that names the value, what is allowed, and what came instead.
"""

from ..errors import InvalidEvent, brief
from ..ids import check_name
from ..limits import TTL_SECONDS_MAX
from .settings import COUNT_MAX


def check_whole(value: object, what: str, *, low: int = 0, or_none: bool = False) -> None:
    """Raise InvalidEvent unless a count is a whole number from `low` to COUNT_MAX."""
    if value is None and or_none:
        return
    if type(value) is not int or not low <= value <= COUNT_MAX:
        also = ", or None" if or_none else ""
        raise InvalidEvent(
            f"{what} must be a whole number, {low} to {COUNT_MAX:,}{also}, not {brief(value)}"
        )


def check_seconds(value: object, what: str, *, or_none: bool = False) -> None:
    """Raise InvalidEvent unless a time is above 0, up to TTL_SECONDS_MAX."""
    if value is None and or_none:
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value <= TTL_SECONDS_MAX:  # type: ignore[operator]
        also = ", or None" if or_none else ""
        raise InvalidEvent(
            f"{what} must be above 0, up to {TTL_SECONDS_MAX:,} seconds{also}, not {brief(value)}"
        )


def checked_id(value: object, what: str) -> str:
    """Return an id of the outside world as a text, which a 64-bit number becomes too.

    Raises InvalidEvent where it is no name.
    """
    number = type(value) is int and abs(value) < 1 << 64
    return check_name(str(value) if number else value, what)
