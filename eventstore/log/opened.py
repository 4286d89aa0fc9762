"""A log in LMDB that is open: its tables, its codec, and the names that references stand for.

Invariants: names never change, so what is remembered of them holds for ever once it is durable,
and may be forgotten at any time; a log that is encrypted shows pseudonyms and opens no
payload until it is unlocked.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import lmdb

from ..errors import Corruption, FormatTooNew, StoreUnavailable
from ..limits import MAP_BYTES_DEFAULT, NAMES_REMEMBERED_MAX
from .base import POSITION_MAX, session_row
from .codec import Codec
from .environment import Environment, open_environment
from .erased import ErasedRows
from .format import (
    ACTORS,
    DICTIONARIES,
    ENCRYPTED_KEY,
    FORMAT,
    FORMAT_KEY,
    FRAMES,
    KEYS,
    META,
    POSITION,
    RAW,
    REF,
    REFS,
    SESSION_NAME,
    STARTER,
    STORE_ID_KEY,
    STREAM_ROW,
    STREAMS,
    TILES,
    ZSTD,
)
from .frame import Frame
from .listing import Listing
from .newest import Newest, Seen
from .rows import CHECKSUM_BYTES, Bytes, checked_row, checked_value, kept_ref
from .seal import Seal
from .vault import Vault

K = TypeVar("K")
V = TypeVar("V")


class OpenLog:
    """What reading and writing a log have in common; many threads and processes may use it."""

    def __init__(
        self, path: Path, *, map_size: int = MAP_BYTES_DEFAULT, read_only: bool = False
    ) -> None:
        self.env: Environment = open_environment(path, map_size, read_only=read_only)
        self._closed = False
        self._on_close: list[Callable[[], None]] = []
        self.watch(POSITION_MAX, _keep_still)
        try:
            self._open_tables()
        except BaseException:
            self.env.close()
            raise

    def _open_tables(self) -> None:
        try:
            self._meta = self.env.table(META)
            self.gone = ErasedRows(self._meta)
            self._check_format()
            self._frames, self._keys = self.env.table(FRAMES), self.env.table(KEYS)
            self._streams = self.env.table(STREAMS, dupfixed=True)
            self._refs, self._actors = self.env.table(REFS), self.env.table(ACTORS)
            self._tiles, self._dictionaries = self.env.table(TILES), self.env.table(DICTIONARIES)
        except (lmdb.NotFoundError, lmdb.ReadonlyError):
            raise StoreUnavailable(f"{self.env.path} holds no event log") from None
        except lmdb.Error as error:
            raise Corruption(-1, f"{self.env.path}: {error}") from error
        self._name_of: dict[int, str]
        self._ref_of: dict[bytes, int]
        self.newest = Newest()
        self._seen = Seen(-1, 0, {})
        self._forget()
        with self.env.begin() as txn:
            current = self._newest_dictionary(txn)
            encrypted = txn.get(ENCRYPTED_KEY, db=self._meta) is not None
        self.codec = Codec(self._load_dictionary, current, Seal() if encrypted else None)
        self._listing, self._listed = Listing(), threading.Lock()

    def unlock(self, vault: Vault) -> None:
        """Seal and open with a vault from now on, which is closed with the log."""
        assert self.codec.seal is not None, "only an encrypted log has anything to unlock"
        self.codec.seal.unlock(vault)
        self._forget()

    def _check_format(self) -> None:
        with self.env.begin() as txn:
            row = checked_value(txn.get(FORMAT_KEY, db=self._meta), "the format row")
            found = REF.unpack(row)[0]
            if found > FORMAT:
                raise FormatTooNew(found, FORMAT)
            store = checked_value(txn.get(STORE_ID_KEY, db=self._meta), "the store's id")
        try:
            self.store = store.decode()
        except UnicodeDecodeError:
            raise Corruption(-1, f"the store's id is no text: {store!r}") from None

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")

    def _forget(self) -> None:
        """Drop what was learnt inside a transaction that did not become durable."""
        self._name_of, self._ref_of = {}, {}
        self.newest.forget()

    def watch(self, size: int, grown: Callable[[], None]) -> None:
        """Have `grown` called after each commit of this process that leaves `size` events or more.

        It holds up whoever commits, so it only tells others.
        """
        self._watched, self._grown = size, grown

    def wait_applied(self, position: int) -> None:
        """Return at once: what is committed is readable."""

    def close(self) -> None:
        """Release the environment; idempotent."""
        if not self._closed:
            self._closed = True
            if self.codec.seal:
                self.codec.seal.close()
            self.env.close()
            for release in self._on_close:
                release()

    def on_close(self, release: Callable[[], None]) -> None:
        """Have `release` called once the environment is released."""
        self._on_close.append(release)

    # -- dictionaries --------------------------------------------------------------------

    def _newest_dictionary(self, txn: lmdb.Transaction) -> int:
        """Return the number of the newest dictionary that is not gone, ZSTD for none."""
        rows = txn.cursor(self._dictionaries).iterprev()
        return next((REF.unpack(key)[0] for key, row in rows if len(row) > CHECKSUM_BYTES), ZSTD)

    def _newest_number(self, txn: lmdb.Transaction) -> int:
        last = txn.cursor(self._dictionaries)
        return REF.unpack(last.key())[0] if last.last() else STARTER - 1

    def _compress_with(self, number: int) -> None:
        if self.codec.current != RAW:
            self.codec.current = number

    def renew(self) -> int:
        """Compress with the newest dictionary from now on, whoever made it.

        Returns the newest number ever given, be it that of one that is gone; STARTER at least.
        """
        self._check_open()
        with self.env.begin() as txn:
            current, newest = self._newest_dictionary(txn), self._newest_number(txn)
        self._compress_with(current)
        return max(newest, STARTER)

    def _load_dictionary(self, number: int) -> bytes | None:
        with self.env.begin() as txn:
            row = txn.get(REF.pack(number), db=self._dictionaries)
        what = f"dictionary {number}"
        return None if row is None else checked_value(row, what, REF.pack(number))

    def add_dictionary(self, dictionary: bytes, number: int | None = None) -> int:
        """Keep a dictionary, and compress with the newest from now on; returns the newest number.

        With `number` it gets that one, unless there is one as high: then another was faster, and
        nothing is kept. Numbers left out are those of dictionaries that are gone, like any whose
        bytes are b"".
        """
        self._check_open()
        with self.env.translating, self.env.write() as txn:
            newest = self._newest_number(txn)
            number = max(newest, STARTER) + 1 if number is None else number
            for each in range(newest + 1, number + 1):
                key = REF.pack(each)
                row = checked_row(dictionary if each == number else b"", key)
                txn.put(key, row, db=self._dictionaries)
            current = self._newest_dictionary(txn)
        self._compress_with(current)
        return max(newest, number)

    # -- names ---------------------------------------------------------------------------

    def ref_in(self, txn: lmdb.Transaction, row: bytes) -> int | None:
        """Return the reference of an interned name; names never change."""
        ref = self._ref_of.get(row)
        if ref is None and (found := txn.get(row, db=self._refs)) is not None:
            ref = int(REF.unpack(self._checked_ref(row, found))[0])
            remember(self._ref_of, {row: ref})
        return ref

    def _checked_ref(self, row: bytes, found: Bytes) -> bytes:
        kept = kept_ref(row, found)
        if kept is None:
            what = f"the reference of {self._shown(row)!r} does not match its checksum"
            raise Corruption(-1, what)
        return kept

    def _session_ref(self, txn: lmdb.Transaction, session: str) -> Bytes | None:
        """Return a session's packed reference, unchecked: the frame that it leads to tells."""
        found = txn.get(session_row(self.codec.names, session), db=self._refs)
        return None if found is None else found[: REF.size]

    def _adopted(self, txn: lmdb.Transaction, frame: Frame) -> Frame:
        """Give a frame the names that its references stand for."""
        names, session, actor = self._name_of, frame.session_ref, frame.actor_ref
        frame.session = names.get(session) or self._session(txn, frame)
        frame.actor = (names.get(actor) or self._name(txn, actor)) if actor else None
        return frame

    def _session(self, txn: lmdb.Transaction, frame: Frame) -> str:
        """Return the name of a frame's stream, which the first one of each says itself."""
        if frame.version:
            return self._name(txn, frame.session_ref)
        name = self._shown(SESSION_NAME + frame.kept_session)
        remember(self._name_of, {frame.session_ref: name})
        return name

    def _name(self, txn: lmdb.Transaction, ref: int) -> str:
        name = self._name_of.get(ref)
        if name is None:
            name = self._shown(self.name_row(txn, ref))
            remember(self._name_of, {ref: name})
        return name

    def name_row(self, txn: lmdb.Transaction, ref: int) -> bytes:
        """Return kind and kept name that a reference stands for. Raises Corruption.

        A session's is in its first frame; where that is lost all of `refs` are looked through.
        """
        kept = self.kept_name(txn, ref)
        if kept is not None:
            return kept
        number = REF.pack(ref)
        for name, found in txn.cursor(self._refs):
            if kept_ref(bytes(name), found) == number:
                return bytes(name)
        raise Corruption(-1, f"name {ref} is missing or does not match its checksum")

    def kept_name(self, txn: lmdb.Transaction, ref: int) -> bytes | None:
        """Do what name_row() does without a look through `refs`; None where that is needed."""
        number = REF.pack(ref)
        row = txn.get(number, db=self._actors)
        if row is not None:
            return checked_value(row, f"name {ref}", number)
        first = self.first_frame(txn, number)
        return None if first is None else SESSION_NAME + first.kept_session

    def first_frame(self, txn: lmdb.Transaction, number: bytes) -> Frame | None:
        """Return the first frame of a stream, without names; None where it is lost or damaged."""
        row = txn.get(number, db=self._streams)
        if row is None:
            return None
        position = STREAM_ROW.unpack(row)[1]
        with suppress(Corruption):
            raw = txn.get(POSITION.pack(position), db=self._frames)
            frame = Frame(bytes(raw or b""), position, self.codec)
            if (REF.pack(frame.session_ref), frame.version) == (number, 0):
                return frame
        return None

    def _shown(self, row: bytes) -> str:
        try:
            return self.codec.names.shown(row[:1], row[1:])
        except ValueError as error:
            raise Corruption(-1, f"a name can't be read: {error}") from None


def remember(known: dict[K, V], more: dict[K, V]) -> None:
    """Add what was learnt of names, in place; what is known goes where that would be too many.

    Whoever reads meanwhile misses a name, and looks it up: four times the work of a lone message
    where more names than that take turns, none where they come and go.
    """
    if len(known) + len(more) > NAMES_REMEMBERED_MAX:
        known.clear()
    known.update(more)


def _keep_still() -> None:
    """Tell nobody: nobody asked."""
