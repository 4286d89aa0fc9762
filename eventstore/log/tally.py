"""A tally of messages by what the heads of their frames say, without a payload being looked at.

Most frames of an agent that saves each message as it is said hold one message and nothing
special: a lone message. Invariants: to be counted as one it passes every check that Frame makes
of heads; whatever does not pass, damage too, is handed back, and Frame says what it is.
"""

from collections.abc import Iterator, Mapping
from itertools import islice

from xxhash import xxh3_64_intdigest

from ..clock import DAY_NS
from ..ids import SYSTEM
from ..messages import ROLES
from .format import (
    FRAME_FORMAT,
    FRAME_HEAD,
    FRAME_HEAD_BYTES,
    LONE_HEADS,
    OCCURRED,
    ONLY_MESSAGES,
    POSITION,
)
from .frame import Frame

Row = tuple[bytes, bytes]
"""A row of the table of frames: its last position, the frame."""

Times = tuple[int, int]
"""The first and the last time, ns."""

_COVERED_BYTES, _HEADS_BYTES = FRAME_HEAD.size, LONE_HEADS.size
_heads, _position = LONE_HEADS.unpack_from, POSITION.unpack


class Tally:
    """Messages and tokens by the code of their role, payload bytes, and messages by day.

    `recorded` holds the first and the last recorded time, `moments` those that callers gave, else
    recorded ones; in ns, and None while nothing is counted. Days are counted from the epoch, in
    UTC.
    """

    def __init__(self) -> None:
        self.said, self.tokens, self.bytes = [0] * len(ROLES), [0] * len(ROLES), 0
        self.days: dict[int, int] = {}
        self.recorded: Times | None = None
        self.moments: Times | None = None

    def take(
        self, rows: Iterator[Row], position: int, last: int, names: Mapping[int, str]
    ) -> tuple[int, Row | None]:
        """Count lone messages `position..last`; return the place and row of what is none.

        The row is None at the end. One loop for all of it, 1.0 us a message: with calls, and
        with a Frame for each, it would be 2.8.
        """
        said, tokens, days, start = self.said, self.tokens, self.days, position
        size = began = ended = 0
        other: Row | None = None
        for row in islice(rows, last + 1 - position):
            key, raw = row
            if len(raw) < _HEADS_BYTES:
                other = row
                break
            (
                layout, frame_flags, count, session, actor, _, _, key_bytes, correlation, causation,
                _, _, time, checksum, end, bytes_, tokens_, _, _, flags, role, _, _, _,
            ) = _heads(raw)  # fmt: skip
            covered = raw[:_COVERED_BYTES] + raw[FRAME_HEAD_BYTES:_HEADS_BYTES]
            if (
                layout != FRAME_FORMAT
                or frame_flags != ONLY_MESSAGES
                or count != 1
                or key_bytes
                or correlation
                or causation
                or flags
                or names.get(session, SYSTEM) == SYSTEM
                or (actor and actor not in names)
                or len(raw) != _HEADS_BYTES + end
                or _position(key)[0] != position
                or xxh3_64_intdigest(covered, position) != checksum
            ):
                other = row
                break
            said[role] += 1
            tokens[role] += tokens_
            size += bytes_
            day = time // DAY_NS
            days[day] = days.get(day, 0) + 1
            if position == start:
                began = time
            ended = time
            position += 1
        self.bytes += size
        if position > start:
            self._date((began, ended), (began, ended))
        return position, other

    def add(self, frame: Frame, first: int, last: int) -> None:
        """Count versions `first..last` of a frame of nothing but messages."""
        low, high = max(first - frame.version, 0), min(last - frame.version + 1, frame.count)
        said, tokens, size, marks = self.said, self.tokens, 0, 0
        for _, bytes_, tokens_, _, _, flags, role, _, _, _ in frame.rows(low, high):
            said[role] += 1
            tokens[role] += tokens_
            size += bytes_
            marks |= flags
        self.bytes += size
        at = frame.recorded_at
        if marks & OCCURRED:
            given = [frame.occurred_at(index) for index in range(low, high)]
            moments = [at if each is None else each for each in given]
            for moment in moments:
                self.days[moment // DAY_NS] = self.days.get(moment // DAY_NS, 0) + 1
            self._date((at, at), (min(moments), max(moments)))
        else:
            self.days[at // DAY_NS] = self.days.get(at // DAY_NS, 0) + high - low
            self._date((at, at), (at, at))

    def _date(self, recorded: Times, moments: Times) -> None:
        """Widen the first and the last time by these."""
        self.recorded = _widened(self.recorded, recorded)
        self.moments = _widened(self.moments, moments)


def _widened(known: Times | None, more: Times) -> Times:
    return (min(known[0], more[0]), max(known[1], more[1])) if known else more
