"""LMDB's pages as bytes: what a file of LMDB 0.9 says, read without LMDB.

    page   pgno u64 | pad u16 | flags u16 | lower u16 | upper u16 | offsets of nodes u16 ...
    node   low u16 | high u16 | flags u16 | key size u16 | key | data, or its page u64
    meta   page head | magic, version u32 | address, map size u64 | 2 trees | last page, commit u64
    tree   pad u32 | flags, depth u16 | branch, leaf, overflow pages, entries, root u64

Invariants: whatever the bytes are, no call kills a process, goes on for ever or raises anything
but PageError; numbers are in this machine's order, as LMDB writes them.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

FILE, LOG = "data.mdb", "log"
"""LMDB's name for its file, and the directory of the log, which place/directory.py makes."""

BRANCH, LEAF, OVERFLOW, LEAF2 = 0x01, 0x02, 0x04, 0x20
"""Kinds of pages."""
BIG, SUBTREE, DUPLICATES = 0x01, 0x02, 0x04
"""Kinds of nodes in a leaf."""

DEPTH_MAX = 32
PAGE_BYTES_MIN, PAGE_BYTES_MAX = 256, 1 << 16
MAGIC = 0xBEEFC0DE

META_READS = 20
"""A store in use may commit between the reading of one meta page and of the other."""

_PAGE = struct.Struct("=QHHHH")
_NODE = struct.Struct("=HHHH")
_META = struct.Struct("=IIQQ48s48sQQ")
_TREE = struct.Struct("=IHHQQQQQ")
_NUMBER = struct.Struct("=Q")


class PageError(Exception):
    """The bytes are not what LMDB writes."""


class Tree(NamedTuple):
    """The record of one table: where its root page is, how many rows and pages it has."""

    entries: int
    root: int
    pages: int


class Meta(NamedTuple):
    """One of the two meta pages: what a commit says of the whole file."""

    commit: int
    page_bytes: int
    map_bytes: int
    last_page: int
    free: Tree
    main: Tree

    @property
    def used_bytes(self) -> int:
        """Bytes of the file up to the last page in use."""
        return (self.last_page + 1) * self.page_bytes


class Node(NamedTuple):
    """A row of a leaf; `data` is None where its overflow pages are beyond the file."""

    flags: int
    key: bytes
    data: bytes | None


class PageFile:
    """An LMDB data file, open for reading bytes."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._handle).st_size
        self.page_bytes = 4_096
        with suppress(PageError):
            self.page_bytes = self._meta(0).page_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)

    @property
    def pages(self) -> int:
        """How many pages the file has."""
        return self.size // self.page_bytes

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes of the file, fewer where it ends."""
        return os.pread(self._handle, size, offset) if 0 <= offset < self.size else b""

    def page(self, number: int) -> bytes:
        """Return one page."""
        found = self.read(number * self.page_bytes, self.page_bytes)
        if len(found) < self.page_bytes:
            raise PageError(f"page {number} is beyond the end of the file")
        return found

    # -- meta pages ----------------------------------------------------------------------

    def metas(self) -> list[Meta]:
        """Return both meta pages, the newer commit first, as they were at one moment."""
        for _ in range(META_READS):
            found = [self._meta(place) for place in (0, self.page_bytes)]
            if found == [self._meta(place) for place in (0, self.page_bytes)]:
                break
        return sorted(found, reverse=True)

    def meta(self, index: int) -> Meta:
        """Return meta page 0 or 1."""
        return self._meta(index * self.page_bytes)

    def _meta(self, place: int) -> Meta:
        raw = self.read(place + _PAGE.size, _META.size)
        if len(raw) < _META.size:
            raise PageError("the file is too short for its meta pages")
        magic, _, _, map_bytes, free, main, last_page, commit = _META.unpack(raw)
        page_bytes = _TREE.unpack(free)[0]  # LMDB keeps it where other trees have their pad
        if magic != MAGIC or not PAGE_BYTES_MIN <= page_bytes <= PAGE_BYTES_MAX:
            raise PageError("a meta page is not one of LMDB")
        return Meta(commit, page_bytes, map_bytes, last_page, _tree(free), _tree(main))

    # -- trees ---------------------------------------------------------------------------

    def nodes(self, page: bytes) -> list[Node]:
        """Return what can be read of the nodes of a leaf."""
        found = []
        for at in _offsets(page):
            low, high, flags, key_bytes = _NODE.unpack_from(page, at)
            start = at + _NODE.size
            data_at, size = start + key_bytes, low | high << 16
            if flags & BIG:
                data = self._big(page[data_at : data_at + _NUMBER.size], size)
            else:
                data = page[data_at : data_at + size] if data_at + size <= len(page) else None
            found.append(Node(flags, page[start:data_at], data))
        return found

    def _big(self, record: bytes, size: int) -> bytes | None:
        if len(record) < _NUMBER.size:
            return None
        offset = _NUMBER.unpack(record)[0] * self.page_bytes + _PAGE.size
        data = self.read(offset, size) if offset + size <= self.size else b""
        return data if len(data) == size else None

    def leaves(self, tree: Tree) -> Iterator[bytes]:
        """Iterate over the leaf pages of a tree in order, without those that can't be reached."""
        yield from self._leaves(tree.root, DEPTH_MAX, set())

    def _leaves(self, number: int, depth: int, seen: set[int]) -> Iterator[bytes]:
        if not depth or number in seen or not 1 < number < self.pages:
            return
        page = self.page(number)
        if page_number(page) != number:  # a page stands here that was written for another place
            return
        if page_kind(page) == LEAF:
            yield page
        elif page_kind(page) == BRANCH:
            seen.add(number)  # leaves are too many to be remembered; a branch leads to each once
            for child in _children(page):
                yield from self._leaves(child, depth - 1, seen)

    def rows(self, tree: Tree) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over keys and values that can be read, in the order of the tree."""
        for page in self.leaves(tree):
            for flags, key, data in self.nodes(page):
                if data is not None and not flags & (SUBTREE | DUPLICATES):
                    yield key, data

    def get(self, tree: Tree, wanted: bytes) -> bytes | None:
        """Return the value of a key, None where there is none or no way leads to it."""
        number = tree.root
        for _ in range(DEPTH_MAX):
            if not 1 < number < self.pages:
                return None
            page = self.page(number)
            if page_number(page) != number:
                return None
            if page_kind(page) == LEAF:
                return next((each.data for each in self.nodes(page) if each.key == wanted), None)
            if page_kind(page) != BRANCH or (child := _child(page, wanted)) is None:
                return None
            number = child
        return None

    def tables(self, meta: Meta) -> dict[bytes, Tree]:
        """Return the named tables of a commit, as far as they can be read."""
        nodes = (each for page in self.leaves(meta.main) for each in self.nodes(page))
        return {
            key: _tree(data)
            for flags, key, data in nodes
            if flags & SUBTREE and data is not None and len(data) == _TREE.size
        }


def page_kind(page: bytes) -> int:
    """Return the kind of a page: BRANCH, LEAF, OVERFLOW, or what else its flags say."""
    return int(_PAGE.unpack_from(page)[2])


def page_number(page: bytes) -> int:
    """Return the number that a page says it has."""
    return int(_PAGE.unpack_from(page)[0])


def _tree(record: bytes) -> Tree:
    _, _, _, branches, leaves, overflow, entries, root = _TREE.unpack(record)
    return Tree(entries, root, branches + leaves + overflow)


def _offsets(page: bytes) -> Iterator[int]:
    """Iterate over the places of a page's nodes that lie within it."""
    lower = min(_PAGE.unpack_from(page)[3], len(page))
    for (at,) in struct.iter_unpack("=H", page[_PAGE.size : lower & ~1]):
        if at + _NODE.size <= len(page):
            yield at


def _children(page: bytes) -> Iterator[int]:
    for at in _offsets(page):
        low, high, flags, _ = _NODE.unpack_from(page, at)
        yield low | high << 16 | flags << 32


def _child(page: bytes, wanted: bytes) -> int | None:
    """Return the child that a key is below: the last whose own key is not beyond it."""
    found = None
    for index, (at, child) in enumerate(zip(_offsets(page), _children(page), strict=True)):
        start, size = at + _NODE.size, _NODE.unpack_from(page, at)[3]
        if index and page[start : start + size] > wanted:
            break
        found = child
    return found


# -- what no walk shows ---------------------------------------------------------------------


def hides_a_commit(file: PageFile) -> str | None:
    """Return why a commit may be hidden behind an older one, None where both metas are in order."""
    for _ in range(META_READS):
        newer, older = file.metas()
        one, other = newer.commit, older.commit
        if one - other == 1 or one == other == 0:
            return None
    return "the two meta pages are not of consecutive commits, so one may be hidden"


def complaints(path: Path) -> list[str]:
    """Return what a sound walk does not show: a hidden commit, a cut in the midst of a value.

    Raises PageError where the meta pages can't be read, OSError where the file can't.
    """
    with PageFile(path / FILE) as file:
        hidden = hides_a_commit(file)
        used, size = file.metas()[0].used_bytes, (path / FILE).stat().st_size
    if hidden:
        return [hidden]
    # Elsewhere the last pages may be free and never written; the log frees no page unwritten.
    cut = path.name == LOG and size < used
    return [f"{used} bytes are in use, the file has {size}"] if cut else []
