"""What is whole in a log's file, found without LMDB and whatever else is damaged.

What no tree leads to may never have been a fact: a commit that failed, or that a power loss cut
off, leaves rows on free pages that are as whole as any. loose.py and naming.py judge them.

Invariants: a frame is found only where its checksum holds at its position, a name, a reference or
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
from ..audit.tree import HASH_BYTES, Frontier
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
    ERASED_KEY,
    EVENT_ROW,
    FRAME_HEAD_BYTES,
    FRAME_NAMES,
    FRAMES,
    HEAD_KEY,
    KEY_ROW,
    KEYS,
    META,
    NAMED,
    POSITION,
    REF,
    REFS,
    SESSION_NAME,
    STORE_ID_KEY,
    TILES,
)
from ..log.frame import Frame
from ..log.rows import checked_value, head_of, kept_ref, tile_key

TRIES_MAX = 200_000
"""How often in all frames without a readable key are tried at positions that are missing."""

FRAME_BYTES_MAX = 2 * APPEND_BYTES_MAX

ZSTD_MAGIC = b"\x37\xa4\x30\xec"
"""How a dictionary begins, RFC 8878."""

META_PAGES = (0, 1)

READ_BYTES = 1 << 20
_FRAME = re.compile(rb"\x01(?=[\x00-\x07])")
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


class Survey:
    """What is to be known of all frames that the tree leads to before any is carried."""

    def __init__(self) -> None:
        self.gaps = Gaps()
        """Positions that it leads to no frame for."""
        self.damaged: dict[int, Frame] = {}
        """By their positions those frames whose heads are whole and whose events are not all."""
        self.names: dict[int, bytes] = {}
        """What first frames say that references stand for, as rows of references have it."""
        self.used: dict[int, bytes] = {}
        """The kinds of the names that frames refer to, by their references."""

    def note(self, frame: Frame) -> None:
        """Take note of one frame."""
        if not is_whole(frame):
            self.damaged[frame.position] = frame
        self.used |= references_in(frame)
        if not frame.version:
            self.names[frame.session_ref] = SESSION_NAME + frame.kept_session


class Salvage:
    """The log in one damaged file; use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self._file = PageFile(path)
        self.file_bytes = self._file.size
        self._tables: dict[bytes, Tree] = {}
        self.size = 0
        """How many events the log had, as far as that is known."""
        self.edge = Frontier()
        """What the commit whose tree is followed says of its leaves, of none where that is lost."""
        known, follows = None, False
        metas = sorted(self._metas(), key=lambda each: each.commit)
        for meta in metas:
            known, tables = self._edge(meta), self._file.tables(meta)
            follows = self._lead_on(known, tables)
            if follows:
                self._tables |= tables
                self.edge = known or self.edge
                self.size = self.edge.size
        both = len(metas) == len(META_PAGES)  # else the one that is lost may be the newer
        self.size_known = both and known is not None
        """False where the log may have had more events than anything that is left says."""
        self.may_end = known is not None and not both
        """True where the commit that is followed may be the newest: nothing says that it is not."""
        self._is_newest = both and follows

    def _lead_on(self, edge: Frontier | None, tables: dict[bytes, Tree]) -> bool:
        """Return True where the next commit by its number is no older; that may be damaged too."""
        if not self._tables or edge is not None:
            return not self._tables or (edge is not None and edge.size >= self.size)
        return FRAMES in tables and tables[FRAMES].entries >= self._tables[FRAMES].entries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _metas(self) -> Iterator[Meta]:
        for index in META_PAGES:
            with suppress(PageError):
                yield self._file.meta(index)

    def _edge(self, meta: Meta) -> Frontier | None:
        """Return the frontier of the log as a commit's tree head has it, None where it is lost."""
        found = _head(self._file.get(meta.main, HEAD_KEY))
        return found and found[1]

    def heads(self) -> list[tuple[int, Frontier]]:
        """Return the heads anywhere in the file that go further than what is followed.

        They come newest first, each behind the time of its newest event.
        """
        rows = {row for key, row in self._leaf_rows() if key == HEAD_KEY}
        heads = [head for head in map(_head, rows) if head and head[1].size > self.size]
        return sorted(heads, key=lambda each: (each[0], each[1].size), reverse=True)

    def tile(self, level: int, index: int) -> bytes | None:
        """Return the kept root of a full subtree of 2**level leaves, None where there is none."""
        found = self._row(TILES, tile_key(level, index))
        return found if found and len(found) == HASH_BYTES else None

    # -- small tables ------------------------------------------------------------------------

    def store(self) -> str | None:
        """Return the store's id as the log has it."""
        value = checked(self._meta_row(STORE_ID_KEY))
        return value.decode(errors="replace") if value else None

    def encrypted(self) -> bool:
        """Return True where the log says that it is encrypted."""
        return checked(self._meta_row(ENCRYPTED_KEY)) is not None

    def is_erased(self, ref: int) -> bool:
        """Return True where the tree has a row that says that a session's erasure has begun."""
        return checked(self._row(META, ERASED_KEY + REF.pack(ref))) is not None

    def _meta_row(self, key: bytes) -> bytes | None:
        found = self._row(META, key)
        if checked(found) is not None:
            return found
        rows = (row for known, row in self._leaf_rows() if known == key)
        return next((row for row in rows if checked(row) is not None), None)

    def dictionaries(self) -> dict[int, bytes]:
        """Return the compression dictionaries that are whole, by their numbers."""
        found = dict(_numbers(self._rows(DICTIONARIES), ZSTD_MAGIC))
        if found and len(found) == self._tables[DICTIONARIES].entries:
            return found
        loose: dict[int, set[bytes]] = {}
        for number, content in _numbers(self._leaf_rows(), ZSTD_MAGIC):
            loose.setdefault(number, set()).add(content)  # one may be of a commit that never was
        return {number: each.pop() for number, each in loose.items() if len(each) == 1} | found

    def actors(self) -> dict[int, bytes]:
        """Return the rows of actors that the tree leads to, by their references."""
        return dict(_numbers(self._rows(ACTORS), ACTOR_NAME))

    def loose_names(self, wanted: Iterable[int]) -> dict[int, set[bytes]]:
        """Return all that any page says these numbers stand for, whether a tree leads there or not.

        What never was committed may say other names than what was.
        """
        found: dict[int, set[bytes]] = {number: set() for number in wanted}
        actors = _numbers(self._loose_actors(), ACTOR_NAME)
        for number, name in chain(actors, _names(self._leaf_rows())) if found else ():
            if number in found:
                found[number].add(name)
        return found

    def references(self) -> dict[int, bytes]:
        """Return the names that the tree of references leads to, by their numbers."""
        return dict(_names(self._rows(REFS)))

    def keyed(self, key: bytes) -> tuple[int, bytes] | None:
        """Return what the index of keys has for a kept key, None where that is lost.

        That is the first position of its append, and what it was asked to do.
        """
        row = checked(self._row(KEYS, key))
        if row is None or len(row) != KEY_ROW.size:
            return None
        position, content = KEY_ROW.unpack(row)
        return int(position), bytes(content)

    def _row(self, table: bytes, key: bytes) -> bytes | None:
        """Return what a tree leads to, None where it is lost."""
        return self._file.get(self._tables[table], key) if table in self._tables else None

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

    def survey(self, codec: Codec) -> Survey:
        """Look at all frames that the tree leads to, and at how far the log may have gone."""
        found, position = Survey(), 0
        for frame in self.reached(codec):
            found.gaps.add(position, frame.position)
            position = frame.last_position + 1
            found.note(frame)
        self.size = max(self.size, position)
        end = self.size if self._is_all() else max(self.size, self._end(codec))
        found.gaps.add(position, end)
        return found

    def _is_all(self) -> bool:
        """Return True where nothing can be behind the end of what is followed.

        A tree says how many rows it has, so that the newest is all there even without its head.
        """
        if self.size_known or not (self._is_newest and FRAMES in self._tables):
            return self.size_known
        return self._tables[FRAMES].entries == sum(1 for _ in self._rows(FRAMES))

    def _end(self, codec: Codec) -> int:
        """Return what a log that has lost a head is no larger than: behind the last frame."""
        rows = chain(self._leaf_rows(), (row for _, *row in self._loose_frames()))
        frames = (_frame(raw, key, codec) for key, raw in rows)
        return max((frame.last_position + 1 for frame in frames if frame), default=0)

    def loose(self, survey: Survey, codec: Codec) -> list[Frame]:
        """Return all different frames anywhere in the file that would stand in gaps.

        Whole copies of damaged ones, whose heads say what they are copies of, take their places.
        """
        found: dict[int, list[Frame]] = {}
        left, wanted = TRIES_MAX, survey.gaps.stretches or survey.damaged
        for offset, key, raw in self._loose_frames() if wanted else ():
            frame = _frame(raw, key, codec)
            if frame is None and left > 0 and not offset % 2:  # LMDB's own places are even
                frame, tried = _tried(raw, survey, codec, left)
                left -= tried
            if frame is None:
                continue
            damaged = survey.damaged.get(frame.position)
            if damaged is not None and is_same(damaged, frame) and is_whole(frame):
                survey.damaged[frame.position] = frame
            if survey.gaps.hold(frame.position, frame.last_position + 1):
                here = found.setdefault(frame.position, [])
                if all(each.raw != frame.raw for each in here):
                    here.append(frame)
        return list(chain.from_iterable(found.values()))

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


def worth(frame: Frame) -> tuple[bool, int]:
    """Return what makes a copy better than others: to be whole, then to have lost most payloads.

    Nothing else ever changes in a frame, so that is the newest one.
    """
    return is_whole(frame), sum(map(frame.erased, range(frame.count)))


def is_same(one: Frame, other: Frame) -> bool:
    """Return True for copies of one frame: its head's checksum covers those of its bodies."""
    same_head = one.raw[:FRAME_HEAD_BYTES] == other.raw[:FRAME_HEAD_BYTES]
    return same_head and one.position == other.position


def references_in(frame: Frame) -> dict[int, bytes]:
    """Return the kinds of the names that a frame refers to, by their references."""
    session = {frame.session_ref: SESSION_NAME}
    return {**session, frame.actor_ref: ACTOR_NAME} if frame.actor_ref else session


def _numbers(rows: Iterable[tuple[bytes, bytes]], begins: bytes) -> Iterator[tuple[int, bytes]]:
    """Iterate over the values of rows with a number for a key that are whole and begin like this.

    A page of one table that stands where another's should has rows that are as whole.
    """
    for key, row in rows:
        if len(key) == REF.size and (value := checked(row, key)) and value.startswith(begins):
            yield int(REF.unpack(key)[0]), value


def _names(rows: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Iterate over the names of rows of references that are whole, behind their numbers."""
    for name, row in rows:
        ref = kept_ref(name, row) if name[:1] in (SESSION_NAME, ACTOR_NAME) else None
        if ref is not None:
            yield int(REF.unpack(ref)[0]), name


def checked(row: bytes | None, number: bytes = b"") -> bytes | None:
    """Return the value of a row with a checksum, None where it is missing or damaged."""
    try:
        return checked_value(row, "a row", number)
    except Corruption:
        return None


def _head(row: bytes | None) -> tuple[int, Frontier] | None:
    """Return the time of the newest event and the frontier that a head has, None for a lost one."""
    try:
        frontier, time, _ = head_of(row)
    except Corruption:
        return None
    return time, frontier


def _frame(raw: bytes, key: bytes, codec: Codec) -> Frame | None:
    """Return the frame of a row, None where head and key don't fit together."""
    try:
        return Frame(raw, POSITION.unpack(key)[0], codec) if len(key) == POSITION.size else None
    except Corruption:
        return None


def _tried(raw: bytes, survey: Survey, codec: Codec, limit: int) -> tuple[Frame | None, int]:
    """Return the frame whose position is missing but not known, and how many were tried."""
    tried = 0
    gaps = (range(*stretch) for stretch in survey.gaps.stretches)
    damaged = (each.last_position for each in survey.damaged.values())
    for last in chain(damaged, chain.from_iterable(gaps)):
        tried += 1
        frame = _frame(raw, POSITION.pack(last), codec)
        if frame is not None or tried >= limit:
            return frame, tried
    return None, tried
