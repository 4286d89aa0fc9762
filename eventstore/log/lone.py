"""Lone messages, counted and read without a Frame for each.

Most frames of an agent that saves each message as it is said hold one message and nothing
special: no key, no ids, no flags. Invariants: what is taken for one here passes every check that
Frame makes; whatever does not pass, damage too, is left to Frame, which says what it is.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice

from xxhash import xxh3_64_intdigest

from ..audit.entry import SALT_BYTES
from ..clock import DAY_NS
from ..ids import SYSTEM
from ..limits import KIB
from ..messages import ROLES, Message
from .codec import SCHEMA_OF, Codec
from .format import (
    CHECKSUM,
    EVENT_HEAD,
    EVENT_ROW,
    FRAME_HEAD_BYTES,
    FRAME_NAMES,
    LONE,
    LONE_COUNTS,
    LONE_MESSAGE,
    LONE_NAMED,
    MESSAGE,
    OCCURRED,
    POSITION,
    STREAM_ROW,
    U32_MAX,
)
from .frame import Frame
from .recorded import Recorded

Row = tuple[bytes, bytes]
"""A row of the table of frames: its last position, the frame."""

Place = tuple[int, ...]
"""A row of a stream's index: last version and last position of a frame."""

Times = tuple[int, int]
"""The first and the last time, ns."""

LONE_BYTES_MAX = 16 * KIB
"""Larger payloads are decoded one by one, when they are looked at."""

_COVERED_AT = CHECKSUM.size
_BARE_AT = FRAME_HEAD_BYTES + EVENT_ROW.size
_NAMED_AT = _BARE_AT + FRAME_NAMES.size
"""Where the body begins in a lone message: of nobody in particular, and of an actor."""
_FRAME_BYTES_MAX = _NAMED_AT + SALT_BYTES + LONE_BYTES_MAX
_EVENT_HEAD_END = FRAME_HEAD_BYTES + EVENT_HEAD.size
_KIND = MESSAGE << 8 | SCHEMA_OF[MESSAGE]
_place, _KEY_AT = STREAM_ROW.unpack, STREAM_ROW.size - POSITION.size
_heads, _counted, _position = LONE_MESSAGE.unpack_from, LONE_COUNTS.unpack_from, int.from_bytes
_digest = xxh3_64_intdigest
_ROLES_END = len(ROLES)


def lone_messages(
    rows: Iterator[tuple[bytes, bytes]],
    session: str,
    version: int,
    names: Mapping[int, str],
    codec: Codec,
) -> tuple[list[Message], Place | None]:
    """Return a session's lone messages from `version` on, as long as its index leads to such.

    And the row of the index that leads to what is none, None at the end. Raises what UNDECODABLE
    names where a payload is damaged, whichever. One loop for all of it takes a fifth less than a
    call for each, and two fifths less than a Frame and its event.
    """
    numbers: list[int] = []
    stored: list[bytes] = []
    sizes: list[int] = []
    first = version
    other: Place | None = None
    known = -1  # the stream's reference
    for row, raw in rows:
        last, position = _place(row)
        try:
            (
                checksum, start, session_ref, at, end, size,
                kind, flags, dictionary, event_checksum, actor, lengths,
            ) = _heads(raw)  # fmt: skip
        except struct.error:
            other = last, position
            break
        bodies_at = _BARE_AT if start == LONE else _NAMED_AT
        if (
            (start != LONE and (start != LONE_NAMED or lengths or actor not in names))
            or flags
            or kind != _KIND
            or not 0 < size <= LONE_BYTES_MAX
            or (session_ref != known and names.get(session_ref) != session)
            or not at == last == version
            or len(raw) != bodies_at + end
            or _digest(raw[_COVERED_AT:bodies_at], position) != checksum
            or _digest(raw[FRAME_HEAD_BYTES:_EVENT_HEAD_END] + raw[bodies_at:]) & U32_MAX
            != event_checksum
        ):
            other = last, position
            break
        known = session_ref
        numbers.append(dictionary)
        stored.append(raw[bodies_at + SALT_BYTES :])
        sizes.append(size)
        version += 1
    return codec.messages(numbers, stored, sizes, session, first), other


def read_ahead(
    rows: Iterator[bytes], found: Callable[[bytes, bytes], bytes]
) -> Iterator[tuple[bytes, bytes]]:
    """Give rows of an index with the frames they lead to, no bytes where a frame is missing.

    `found` gives the frame behind a key, or its second argument. It is asked for all of them at
    once, a twentieth less than in turn, up to a frame that is too large for a lone message: so what
    is read ahead has a bound.
    """
    return chain.from_iterable(_stretches(rows, found))


def _stretches(
    rows: Iterator[bytes], found: Callable[[bytes, bytes], bytes]
) -> Iterator[Iterable[tuple[bytes, bytes]]]:
    places: list[bytes] = []
    frames: list[bytes] = []
    for row in rows:
        raw = found(row[_KEY_AT:], b"")
        places.append(row)
        frames.append(raw)
        if len(raw) > _FRAME_BYTES_MAX:
            yield zip(places, frames, strict=True)
            places, frames = [], []
    yield zip(places, frames, strict=True)


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

        The row is None at the end. One loop for all of it, 0.9 us a message: with calls, and
        with a Frame for each, it would be 2.8.
        """
        said, tokens, days, first = self.said, self.tokens, self.days, position
        size = began = ended = midnight = tomorrow = 0
        since, same = position, -1  # said on one day from there on; the session of the row before
        other: Row | None = None
        for key, raw in islice(rows, last + 1 - position):
            try:
                (
                    checksum, start, session, time, end, bytes_,
                    tokens_, flags, role, actor, lengths,
                ) = _counted(raw)  # fmt: skip
            except struct.error:
                other = key, raw
                break
            bodies_at = _BARE_AT if start == LONE else _NAMED_AT
            if (
                (start != LONE and (start != LONE_NAMED or lengths or actor not in names))
                or flags
                or (session != same and names.get(session, SYSTEM) == SYSTEM)
                or role >= _ROLES_END
                or _position(key) != position
                or len(raw) != bodies_at + end
                or _digest(raw[_COVERED_AT:bodies_at], position) != checksum
            ):
                other = key, raw
                break
            same = session
            said[role] += 1
            tokens[role] += tokens_
            size += bytes_
            if time >= tomorrow or time < midnight:
                _add(days, midnight, position - since)
                midnight, since = time - time % DAY_NS, position
                tomorrow, began = midnight + DAY_NS, began or time
            ended = time
            position += 1
        self.bytes += size
        if position > first:
            _add(days, midnight, position - since)
            self._date((began, ended), (began, ended))
        return position, other

    def add(self, frame: Frame, first: int, last: int) -> None:
        """Count versions `first..last` of a frame of nothing but messages; raises Corruption."""
        low, high = max(first - frame.version, 0), min(last - frame.version + 1, frame.count)
        said, tokens, size, marks = self.said, self.tokens, 0, 0
        for index, row in enumerate(frame.rows(low, high), low):
            _, bytes_, tokens_, _, _, flags, role, _, _ = row
            if role >= _ROLES_END:
                role = Recorded(frame, index).role_code  # says that there is no such role
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


def _add(days: dict[int, int], midnight: int, count: int) -> None:
    """Count messages of the day that begins at a time."""
    if count:
        days[midnight // DAY_NS] = days.get(midnight // DAY_NS, 0) + count


def _widened(known: Times | None, more: Times) -> Times:
    return (min(known[0], more[0]), max(known[1], more[1])) if known else more
