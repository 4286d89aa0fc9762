"""What is whole in a log's file, found without LMDB and whatever else is damaged.

Invariants: a frame is taken only where its checksum holds at its position, a name, a reference or
a dictionary only where its own does; what the tree of the newest commit leads to comes first, so
that nothing a later fact erased comes back from an old page; memory grows with names and with
damage, not with what is whole.
"""

import re
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Self

from ..audit.pages import LEAF, Meta, PageError, PageFile, Tree, page_kind
from ..errors import Corruption
from ..limits import APPEND_BYTES_MAX, APPEND_EVENTS_MAX
from ..log.codec import Codec
from ..log.format import (
    ACTOR_NAME,
    ACTORS,
    CHECKED_FRAME_HEAD,
    CHECKSUM,
    DICTIONARIES,
    ENCRYPTED_KEY,
    EVENT_ROW,
    FRAME_HEAD_BYTES,
    FRAME_NAMES,
    FRAMES,
    HEAD_KEY,
    HEAD_ROW,
    KEY_ROW,
    KEYS,
    META,
    NAMED,
    POSITION,
    REF,
    REFS,
    SESSION_NAME,
    STORE_KEY,
)
from ..log.frame import Frame
from ..log.rows import checked_value, kept_ref

TRIES_MAX = 200_000
"""How often in all frames without a readable key are tried at positions that are missing."""

FRAME_BYTES_MAX = 2 * APPEND_BYTES_MAX

ZSTD_MAGIC = b"\x37\xa4\x30\xec"
"""How a dictionary begins, RFC 8878."""

META_PAGES = (0, 1)

READ_BYTES = 1 << 20
_FRAME = re.compile(rb"\x01(?=[\x00-\x03])")
"""How a frame goes on behind its checksum: its format, then its flags, which may look like that of
another."""
_ACTOR = re.compile(rb"\x00{4}(?=" + REF.size.to_bytes(2, sys.byteorder) + rb".{12}a)", re.DOTALL)
"""How a node of the table of actors goes on behind its low size, see pages.py: the rest of that, no
flags, the size of the key; then there are the key, a checksum and the kind of the name."""
_ACTOR_AHEAD = 18
_BEHIND_HEADS_BYTES = EVENT_ROW.size + FRAME_NAMES.size


class Gaps:
    """Stretches of positions `start <= position < stop`, in order."""

    def __init__(self) -> None:
        self.stretches: list[tuple[int, int]] = []

    def add(self, start: int, stop: int) -> None:
        """Note a stretch behind all others."""
        if self.stretches and self.stretches[-1][1] == start:
            start = self.stretches.pop()[0]
        if start < stop:
            self.stretches.append((start, stop))

    def hold(self, start: int, stop: int) -> bool:
        """Return True where all of a stretch is within one of these."""
        index = bisect_right(self.stretches, start, key=lambda each: each[0]) - 1
        return index >= 0 and stop <= self.stretches[index][1]


class Salvage:
    """The log in one damaged file; use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self._file = PageFile(path)
        self._tables: dict[bytes, Tree] = {}
        self.size = 0
        metas = list(self._metas())
        for meta in metas:
            tables = self._file.tables(meta)
            size = self._events(meta) or 0
            if not self._tables or size > self.size:  # a newer number may be the damage
                self._tables, self.size = {**self._tables, **tables}, size
        newest = max(metas, key=lambda each: each.commit, default=None)
        both = len(metas) == len(META_PAGES)  # else the one that is lost may be the newer
        known = None if newest is None else self._events(newest)
        self.size_known = both and known is not None
        """False where the log may have had more events than anything that is left says."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(None, None, None)

    def _metas(self) -> Iterator[Meta]:
        for index in META_PAGES:
            with suppress(PageError):
                yield self._file.meta(index)

    def _events(self, meta: Meta) -> int | None:
        """Return the size of the log as a commit's tree head has it, None where that is lost."""
        value = checked(self._file.get(meta.main, HEAD_KEY))
        return int(HEAD_ROW.unpack_from(value)[0]) if value else None

    # -- small tables ------------------------------------------------------------------------

    def store(self) -> str | None:
        """Return the store's id as the log has it."""
        value = checked(self._meta_row(STORE_KEY))
        return value.decode(errors="replace") if value else None

    def encrypted(self) -> bool:
        """Return True where the log says that it is encrypted."""
        return checked(self._meta_row(ENCRYPTED_KEY)) is not None

    def _meta_row(self, key: bytes) -> bytes | None:
        found = self._file.get(self._tables[META], key) if META in self._tables else None
        if checked(found) is not None:
            return found
        rows = (row for known, row in self._leaf_rows() if known == key)
        return next((row for row in rows if checked(row) is not None), None)

    def dictionaries(self) -> dict[int, bytes]:
        """Return the compression dictionaries that are whole, by their numbers."""
        found = _numbered(self._rows(DICTIONARIES), ZSTD_MAGIC)
        if found and len(found) == self._tables[DICTIONARIES].entries:
            return found
        return {**_numbered(self._leaf_rows(), ZSTD_MAGIC), **found}

    def actors(self) -> dict[int, bytes]:
        """Return the rows of actors that the tree leads to, by their references."""
        return _numbered(self._rows(ACTORS), ACTOR_NAME)

    def lost_names(self, wanted: set[int]) -> dict[int, bytes]:
        """Return names that neither a first frame nor the tree of actors has any more.

        The table from names to references says them, and where that lost them too an old page may.
        """
        if not wanted:
            return {}
        found = _numbered(self._loose_actors(), ACTOR_NAME) | _named(self._leaf_rows())
        found |= self.references()
        return {number: row for number, row in found.items() if number in wanted}

    def references(self) -> dict[int, bytes]:
        """Return the names that the tree of references leads to, by their numbers."""
        return _named(self._rows(REFS))

    def content(self, key: bytes) -> bytes | None:
        """Return what the index of keys has for a kept key, None where that is lost."""
        row = checked(self._file.get(self._tables[KEYS], key)) if KEYS in self._tables else None
        return bytes(KEY_ROW.unpack(row)[1]) if row and len(row) == KEY_ROW.size else None

    def _rows(self, table: bytes) -> Iterator[tuple[bytes, bytes]]:
        if table in self._tables:
            yield from self._file.rows(self._tables[table])

    # -- frames ------------------------------------------------------------------------------

    def reached(self, codec: Codec) -> Iterator[Frame]:
        """Iterate over the frames that the tree leads to, in the order of their positions."""
        position = 0
        for key, raw in self._rows(FRAMES):
            frame = _frame(raw, key, codec)
            if frame is not None and frame.position >= position:
                position = frame.last_position + 1
                yield frame

    def gaps(self, codec: Codec) -> Gaps:
        """Return the positions that the tree leads to no whole frame for."""
        gaps, position = Gaps(), 0
        for frame in self.reached(codec):
            gaps.add(position, frame.position)
            position = frame.last_position + 1
            if not is_whole(frame):
                gaps.add(frame.position, position)
        self.size = max(self.size, position)
        if not position or not self.size_known:
            self.size = max(self.size, self._end(codec))
        gaps.add(position, self.size)
        return gaps

    def _end(self, codec: Codec) -> int:
        """Return the size of a log that has lost a head: behind the last frame anywhere."""
        rows = chain(self._leaf_rows(), (row for _, *row in self._loose_frames()))
        frames = (_frame(raw, key, codec) for key, raw in rows)
        return max((frame.last_position + 1 for frame in frames if frame), default=0)

    def found(self, gaps: Gaps, codec: Codec) -> dict[int, Frame]:
        """Return frames for missing positions, found anywhere in the file."""
        found: dict[int, Frame] = {}
        left = TRIES_MAX
        for offset, key, raw in self._loose_frames() if gaps.stretches else ():
            frame = _frame(raw, key, codec)
            if frame is None and left > 0 and not offset % 2:  # LMDB's own places are even
                frame, tried = _tried(raw, gaps, codec, left)
                left -= tried
            if frame is not None and gaps.hold(frame.position, frame.last_position + 1):
                known = found.setdefault(frame.position, frame)
                if known is not frame and _worth(frame) > _worth(known):
                    found[frame.position] = frame
        return found

    def _loose_frames(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Iterate over what may be frames: offset, what would be the key before it, and bytes."""
        for match in self._matches(_FRAME, 1):
            offset = match - CHECKSUM.size
            raw = self._framed(offset) if offset >= POSITION.size else None
            if raw is not None:
                yield offset, self._file.read(offset - POSITION.size, POSITION.size), raw

    def _loose_actors(self) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over what may be rows of actors."""
        for offset in self._matches(_ACTOR, _ACTOR_AHEAD):
            size = int.from_bytes(self._file.read(offset - 2, 2), sys.byteorder)
            row = self._file.read(offset + 6, REF.size + size)
            yield row[: REF.size], row[REF.size :]

    def _matches(self, pattern: re.Pattern[bytes], ahead: int) -> Iterator[int]:
        """Iterate over the offsets where a pattern matches that looks so many bytes ahead.

        No page is asked for: where bytes were lost none is at its place any more.
        """
        for start in range(0, self._file.size, READ_BYTES):
            block = self._file.read(start, READ_BYTES + ahead)
            found = (match.start() for match in pattern.finditer(block))
            yield from (start + at for at in found if at < READ_BYTES)

    def _framed(self, offset: int) -> bytes | None:
        """Return the bytes from an offset on that a frame beginning there would have."""
        head = self._file.read(offset, FRAME_HEAD_BYTES)
        if len(head) < FRAME_HEAD_BYTES:
            return None
        _, _, flags, count, _, version, *_ = CHECKED_FRAME_HEAD.unpack(head)
        if not (flags & NAMED or version) or not 0 < count <= APPEND_EVENTS_MAX:
            return None
        names_at = FRAME_HEAD_BYTES + count * EVENT_ROW.size
        last = self._file.read(offset + names_at - EVENT_ROW.size, _BEHIND_HEADS_BYTES)
        if len(last) < _BEHIND_HEADS_BYTES:  # no body is as short as that
            return None
        size = names_at + EVENT_ROW.unpack_from(last)[0]
        if flags & NAMED:
            _, *lengths = FRAME_NAMES.unpack_from(last, EVENT_ROW.size)
            if bool(version) == bool(lengths[-1]):
                return None
            size += FRAME_NAMES.size + sum(lengths)
        return self._file.read(offset, size) if size <= FRAME_BYTES_MAX else None

    def _leaf_rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over all rows in leaf pages, whether a tree leads to them or not."""
        for number in range(self._file.pages):
            page = self._file.page(number)
            for _, key, row in self._file.nodes(page) if page_kind(page) == LEAF else ():
                if row is not None:
                    yield key, row


def is_whole(frame: Frame) -> bool:
    """Return True where all events of a frame match their checksums."""
    with suppress(Corruption):
        for index in range(frame.count):
            frame.stored(index)
        return True
    return False


def _worth(frame: Frame) -> tuple[bool, int]:
    """Return what makes a copy better than others: to be whole, then to have lost most payloads.

    Nothing else ever changes in a frame, so that is the newest one.
    """
    return is_whole(frame), sum(map(frame.erased, range(frame.count)))


def is_same(one: Frame, other: Frame) -> bool:
    """Return True for copies of one frame: its head's checksum covers those of its bodies."""
    same_head = one.raw[:FRAME_HEAD_BYTES] == other.raw[:FRAME_HEAD_BYTES]
    return same_head and one.position == other.position


def _numbered(rows: Iterable[tuple[bytes, bytes]], *begins: bytes) -> dict[int, bytes]:
    """Return the values of rows that have a number for a key, are whole and begin like this.

    A page of one table that stands where another's should has rows that are as whole.
    """
    return {
        int(REF.unpack(key)[0]): value
        for key, row in rows
        if len(key) == REF.size and (value := checked(row, key)) and value.startswith(begins)
    }


def _named(rows: Iterable[tuple[bytes, bytes]]) -> dict[int, bytes]:
    """Return the names of rows of references that are whole, by their numbers."""
    found = dict[int, bytes]()
    for name, row in rows:
        ref = kept_ref(name, row) if name[:1] in (SESSION_NAME, ACTOR_NAME) else None
        if ref is not None:
            found[int(REF.unpack(ref)[0])] = name
    return found


def checked(row: bytes | None, number: bytes = b"") -> bytes | None:
    """Return the value of a row with a checksum, None where it is missing or damaged."""
    try:
        return checked_value(row, "a row", number)
    except Corruption:
        return None


def _frame(raw: bytes, key: bytes, codec: Codec) -> Frame | None:
    """Return the frame of a row, None where head and key don't fit together."""
    try:
        return Frame(raw, POSITION.unpack(key)[0], codec) if len(key) == POSITION.size else None
    except Corruption:
        return None


def _tried(raw: bytes, gaps: Gaps, codec: Codec, limit: int) -> tuple[Frame | None, int]:
    """Return the frame whose position is missing but not known, and how many were tried."""
    tried = 0
    for start, stop in gaps.stretches:
        for last in range(start, stop):
            tried += 1
            frame = _frame(raw, POSITION.pack(last), codec)
            if frame is not None or tried >= limit:
                return frame, tried
    return None, tried
