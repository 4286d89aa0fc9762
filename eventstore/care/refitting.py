"""Refitting: a log's rows as compaction writes them where dictionaries hold what was redacted.

    1. the dictionaries that were trained go; empty rows keep their numbers taken
    2. a new one is trained on the newest events that are left, under the next number
    3. payloads that named one of the old are compressed anew

Invariants: an entry and so every proof stays, for a leaf commits to the payload before compression;
a payload is checked before it is compressed anew, and a damaged one raises Corruption; what named
none of the dictionaries that go keeps every byte.
"""

from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path

from ..audit.entry import SALT_BYTES
from ..engine.fitting import learnt
from ..errors import InvalidEvent
from ..log.codec import Codec
from ..log.environment import Environment
from ..log.format import (
    DICTIONARIES,
    FRAMES,
    OCCURRED,
    OCCURRED_TIME,
    POSITION,
    REF,
    SHREDDED,
    STARTER,
    ZSTD,
)
from ..log.frame import Frame
from ..log.lmdb import LmdbLog
from ..log.rows import Bytes, checked_row
from ..log.shredding import rebuilt
from .carrying import dictionaries_of

Row = tuple[Bytes, Bytes]


class Refit:
    """What becomes of the rows of one log."""

    def __init__(self, log: LmdbLog) -> None:
        known = dictionaries_of(log)
        self._gone = {number for number in known if number > STARTER}
        self._number, self._made = max(known) + 1, b""
        with suppress(InvalidEvent):  # too few events are left
            self._made = learnt(log)
        else_used = STARTER if known.get(STARTER) else ZSTD
        current = self._number if self._made else else_used
        self._codec = Codec({**known, self._number: self._made}.get, current)

    def rows(self, table: bytes, rows: Iterable[Row]) -> Iterable[Row]:
        """Iterate over the rows of a table, of which there stay as many. Raises Corruption."""
        if table == FRAMES:
            return map(self._frame, rows)
        return map(self._dictionary, rows) if table == DICTIONARIES else rows

    def _frame(self, row: Row) -> Row:
        last = POSITION.unpack(row[0])[0]
        return row[0], repacked(Frame(bytes(row[1]), last, self._codec), self._gone)

    def _dictionary(self, row: Row) -> Row:
        number = bytes(row[0])
        gone = REF.unpack(number)[0] in self._gone
        return (number, checked_row(b"", number)) if gone else row

    def add(self, made: Environment) -> None:
        """Put the new dictionary, where there is one, into the new file."""
        number = REF.pack(self._number)
        if self._made:
            with made.translating, made.write() as txn:
                row = checked_row(self._made, number)
                txn.put(number, row, db=made.table(DICTIONARIES))


def refit_of(place: Path) -> Refit | None:
    """Return how the log in a directory is refitted, None where it need not be.

    That is where nothing was destroyed, or nothing trained: an encrypted log never is.
    """
    with closing(LmdbLog(place, read_only=True)) as log:
        return Refit(log) if log.codec.trained and log.erasures() else None


def repacked(frame: Frame, gone: set[int]) -> bytes:
    """Return a frame's bytes with no payload left that a dictionary which goes has compressed.

    They are compressed as the frame's codec does it now. Raises Corruption where one is damaged.
    """
    indexes = [
        index
        for index, row in enumerate(frame.rows())
        if row[7] in gone and not row[5] & SHREDDED  # of what is shredded nothing is compressed
    ]
    if not indexes:
        return frame.raw
    packed = frame.codec.compress_all([frame.opened(index)[2] for index in indexes])
    events = [frame.stored(index) for index in range(frame.count)]
    for index, (number, stored) in zip(indexes, packed, strict=True):
        row, body = events[index]
        before = SALT_BYTES + (OCCURRED_TIME.size if row[5] & OCCURRED else 0)
        events[index] = (*row[:7], number, *row[8:]), body[:before] + stored
    return rebuilt(frame, events)
