"""The log in LMDB: one row per append in `frames`, one small index row beside it.

Invariants: commit() returns after LMDB's fsync; readers take a page in one short transaction
and hold none afterwards; what an index row says is checked against the frame it leads to, so a
damaged index raises Corruption instead of giving another session's facts.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple, cast

import lmdb

from ..audit.tree import HASH_BYTES, Frontier
from ..errors import Corruption, FormatTooNew, StoreUnavailable
from ..events import MessageAppended, Span
from ..limits import MAP_BYTES_DEFAULT, PAGE_BYTES_MAX, PAGE_EVENTS_MAX
from .base import (
    FORGOTTEN,
    NAMES_PAGE,
    Append,
    Head,
    Outcome,
    Plan,
    Receipt,
    Row,
    Stage,
    Tail,
    pack_appends,
    page,
    plan,
    receipt_again,
    session_row,
    version_of,
)
from .codec import Codec
from .environment import Environment, open_environment
from .erased import ErasedRows
from .format import (
    DICTIONARIES,
    ENCRYPTED,
    ENCRYPTED_KEY,
    FORMAT,
    FORMAT_KEY,
    FRAMES,
    HEAD_KEY,
    HEAD_ROW,
    KEY_NAME,
    KEY_ROW,
    KEYS,
    META,
    NAMES,
    POSITION,
    RAW,
    REF,
    REFS,
    SESSION_NAME,
    STARTER,
    STORE_KEY,
    STREAM_ROW,
    STREAMS,
    TABLES,
    TILE_KEY,
    TILES,
)
from .frame import Frame
from .listing import Listing
from .lone import Tally, lone_message
from .newest import Edge, Newest
from .rows import Bytes, checked_row, checked_value, kept_ref, ref_row
from .seal import Seal
from .shredding import Shred, hidden_lines, shredded
from .vault import Vault

FRAMES_CACHED_MAX, FRAME_CACHED_BYTES_MAX = 1_024, 4_096
"""Frames that a log remembers, and how large one may be: 4 MiB in all."""

PAGE_CACHED_FRAMES_MAX = 64
"""Larger pages of a stream are read past that memory: to fill it costs as much as the reading."""


def create_log(path: Path, store: str, starter: bytes | None, *, encrypted: bool = False) -> None:
    """Make an empty log in an empty directory, durable when it returns."""
    env = open_environment(path)
    try:
        tables = [env.table(name, dupfixed=name == STREAMS, create=True) for name in TABLES]
        meta, dictionaries = tables[TABLES.index(META)], tables[TABLES.index(DICTIONARIES)]
        with env.begin(write=True) as txn:
            txn.put(FORMAT_KEY, checked_row(REF.pack(FORMAT)), db=meta)
            txn.put(STORE_KEY, checked_row(store.encode()), db=meta)
            txn.put(HEAD_KEY, checked_row(HEAD_ROW.pack(0, 0)))
            if encrypted:
                txn.put(ENCRYPTED_KEY, checked_row(ENCRYPTED), db=meta)
            if starter:
                row = checked_row(starter, REF.pack(STARTER))
                txn.put(REF.pack(STARTER), row, db=dictionaries)
    finally:
        env.close()


class Seen(NamedTuple):
    """What reads know: the commit they looked at, its erasure count, frames remembered since."""

    commit: int
    erasures: int
    frames: dict[int, Frame]


class LmdbLog:
    """A Log in one directory; many threads and processes may use it at once.

    One that is encrypted shows pseudonyms and opens no payload until it is unlocked.
    """

    def __init__(
        self, path: Path, *, map_size: int = MAP_BYTES_DEFAULT, read_only: bool = False
    ) -> None:
        self.env: Environment = open_environment(path, map_size, read_only=read_only)
        self._closed = False
        self._on_close: list[Callable[[], None]] = []
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
            self.name_rows, self._refs = self.env.table(NAMES), self.env.table(REFS)
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
            last = txn.cursor(self._dictionaries)
            current = REF.unpack(last.key())[0] if last.last() else 1
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
            self.store = checked_value(txn.get(STORE_KEY, db=self._meta), "the store's id").decode()

    def _load_dictionary(self, number: int) -> bytes | None:
        with self.env.begin() as txn:
            row = txn.get(REF.pack(number), db=self._dictionaries)
        what = f"dictionary {number}"
        return None if row is None else checked_value(row, what, REF.pack(number))

    # -- writing -------------------------------------------------------------------------

    def commit(self, batch: Sequence[Append], now: int) -> list[Outcome]:
        """Decide and keep a batch; returns when LMDB has synced it."""
        pack_appends(batch, self.codec)  # before the transaction, which holds up other processes
        with self.group() as stage:
            return stage(batch, now)

    @contextmanager
    def group(self) -> Iterator[Stage]:
        """Open one transaction for several batches; they are durable when the block ends."""
        self._check_open()
        try:
            with self.env.begin(write=True) as txn:
                ground = _Ground(self, txn)

                def stage(batch: Sequence[Append], now: int) -> list[Outcome]:
                    pack_appends(batch, self.codec)
                    made = plan(batch, ground, now)
                    if made.frames:
                        self._put(txn, made)
                        ground.learn(made)
                    return made.outcomes

                yield stage
                number = txn.id()
                self.newest.ending(number)
        except BaseException:
            self._forget()
            raise
        if ground.changed:  # LMDB gives no number to a commit of nothing
            self._settle(ground, number)

    def _forget(self) -> None:
        """Drop what was learnt inside a transaction that did not become durable."""
        self._name_of, self._ref_of = {}, {}
        self.newest.forget()

    def _settle(self, ground: "_Ground", number: int) -> None:
        """Remember what a transaction that is durable now has changed."""
        if ground.refs:
            shown = self.codec.names.shown
            self._name_of.update((ref, shown(row[:1], row[1:])) for row, ref in ground.refs.items())
            self._ref_of.update(ground.refs)
        self.newest.settle(number, ground.edge, ground.tails)

    def _put(self, txn: lmdb.Transaction, made: Plan) -> None:
        """Write the rows of a plan; the frames go to the end of their tree."""
        frames = [(POSITION.pack(last), frame) for last, frame in made.frames]
        txn.cursor(self._frames).putmulti(frames, append=True)
        txn.cursor(self._streams).putmulti(made.streams)
        for row, ref in made.names.items():
            number = REF.pack(ref)
            txn.put(number, checked_row(row, number), db=self.name_rows)
            txn.put(row, ref_row(row, number), db=self._refs)
        for key, row in made.keys.items():
            txn.put(key, checked_row(row), db=self._keys)
        for level, index, node in made.tiles:
            txn.put(TILE_KEY.pack(level, index), node, db=self._tiles)
        head = HEAD_ROW.pack(made.frontier.size, made.recorded_at)
        txn.put(HEAD_KEY, checked_row(head + b"".join(made.frontier.nodes)))
        if made.erasing or made.shreds:
            self.gone.note(txn, made.erasing)
            self._erase_in(txn, made.shreds, begins=made.erases)

    # -- erasing -------------------------------------------------------------------------

    def shred(self, wanted: Shred) -> None:
        """Destroy payloads that are not gone yet; returns when LMDB has synced that."""
        self._check_open()
        with self.env.begin(write=True) as txn:
            self._erase_in(txn, [wanted])

    def _erase_in(
        self, txn: lmdb.Transaction, shreds: Sequence[Shred], *, begins: bool = False
    ) -> None:
        """Rewrite frames; what takes something away, or begins to, is counted."""
        changed = [self._shred_in(txn, wanted) for wanted in shreds]
        if any(changed) or begins:
            self.gone.raise_count(txn)

    def _shred_in(self, txn: lmdb.Transaction, wanted: Shred) -> bool:
        lines: list[Span] = []
        changed, ref = False, 0
        for frame in self._stream(txn, wanted.session, wanted.first, {}):
            if frame.version > wanted.last:
                break
            raw = shredded(frame, wanted)
            if raw != frame.raw:
                changed, ref = True, frame.session_ref
                txn.put(POSITION.pack(frame.last_position), raw, db=self._frames)
                made = self._adopted(txn, Frame(raw, frame.last_position, self.codec))
                lines += hidden_lines(made)
                self._forget_key(txn, frame)
        if lines:
            self.gone.hide(txn, wanted.session, ref, lines)
        return changed

    def _forget_key(self, txn: lmdb.Transaction, frame: Frame) -> None:
        if frame.kept_key:
            row = KEY_ROW.pack(frame.position, FORGOTTEN)
            txn.put(frame.kept_key, checked_row(row), db=self._keys)

    @property
    def erasures_seen(self) -> int:
        """The erasure count as of the newest read here."""
        return self._seen.erasures

    def erasures(self) -> int:
        """Return how often payloads were destroyed; costs no transaction while nobody writes."""
        self._check_open()
        if self.env.newest_commit() != self._seen.commit:
            with self.env.begin() as txn:
                self._look(txn)
        return self._seen.erasures

    def _look(self, txn: lmdb.Transaction) -> dict[int, Frame]:
        """Return the frames remembered that are as this reader's transaction sees them."""
        seen, commit = self._seen, txn.id()
        if commit == seen.commit:
            return seen.frames
        erasures = self.gone.count(txn)
        if erasures < seen.erasures:  # a reader that began before an erasure
            return {}
        frames = seen.frames if erasures == seen.erasures else {}
        self._seen = Seen(max(commit, seen.commit), erasures, frames)
        return frames

    def hidden(self) -> dict[str, list[Span]]:
        """Return, for each session, its lines that no list may show."""
        self._check_open()
        with self.env.begin() as txn:
            names = {ref: self._name(txn, ref) for ref in self.gone.hiding(txn)}
            return {name: self.gone.hidden(txn, name, ref) for ref, name in names.items()}

    def erasing(self) -> list[str]:
        """Return the sessions whose erasure is not complete."""
        self._check_open()
        with self.env.begin() as txn:
            erased = self.gone.erased(txn)
            return [self._name(txn, ref) for ref, pending in erased.items() if pending]

    def unerased(self, kept: Iterable[bytes]) -> list[str]:
        """Return which of these sessions, given by their names on disk, are here and not erased."""
        self._check_open()
        with self.env.begin() as txn:
            refs = (self.ref_in(txn, SESSION_NAME + each) for each in kept)
            here = [ref for ref in refs if ref is not None and not self.gone.is_erased(txn, ref)]
            return [self._name(txn, ref) for ref in here]

    # -- dictionaries --------------------------------------------------------------------

    def add_dictionary(self, dictionary: bytes) -> int:
        """Keep a dictionary and compress with it from now on."""
        self._check_open()
        with self.env.begin(write=True) as txn:
            cursor = txn.cursor(self._dictionaries)
            number = REF.unpack(cursor.key())[0] + 1 if cursor.last() else STARTER
            cursor.put(REF.pack(number), checked_row(dictionary, REF.pack(number)))
        if self.codec.current != RAW:
            self.codec.current = number
        return number

    # -- reading -------------------------------------------------------------------------

    def head(self) -> Head:
        """Return size, root and time."""
        self._check_open()
        with self.env.begin() as txn:
            frontier, recorded_at = self.edge(txn)
        return Head(frontier.size, frontier.root(), recorded_at)

    def size(self) -> int:
        """Return the number of events."""
        self._check_open()
        with self.env.begin() as txn:
            return self._size(txn)

    def _size(self, txn: lmdb.Transaction) -> int:
        row = checked_value(txn.get(HEAD_KEY), "the tree head")
        return int(HEAD_ROW.unpack_from(row)[0])

    def edge(self, txn: lmdb.Transaction) -> tuple[Frontier, int]:
        """Return the frontier and the time of the newest event."""
        value = checked_value(txn.get(HEAD_KEY), "the tree head")
        size, recorded_at = HEAD_ROW.unpack_from(value)
        nodes = value[HEAD_ROW.size :]
        starts = range(0, len(nodes), HASH_BYTES)
        return Frontier(size, [nodes[i : i + HASH_BYTES] for i in starts]), recorded_at

    def tiles(self, level: int, start: int, stop: int) -> list[bytes]:
        """Return the roots of the full subtrees `start <= index < stop` of 2**level leaves."""
        self._check_open()
        with self.env.begin() as txn:
            rows = [txn.get(TILE_KEY.pack(level, i), db=self._tiles) for i in range(start, stop)]
        if not all(rows):
            raise Corruption(start << level, f"a tile of level {level} from here on is missing")
        return [bytes(row) for row in rows if row]

    def ref_in(self, txn: lmdb.Transaction, row: bytes) -> int | None:
        """Return the reference of an interned name; names never change."""
        ref = self._ref_of.get(row)
        if ref is None and (found := txn.get(row, db=self._refs)) is not None:
            kept = kept_ref(row, found)
            if kept is None:
                what = f"the reference of {self._shown(row)!r} does not match its checksum"
                raise Corruption(-1, what)
            ref = self._ref_of[row] = int(REF.unpack(kept)[0])
        return ref

    def _session_ref(self, txn: lmdb.Transaction, session: str) -> Bytes | None:
        """Return a session's packed reference, unchecked: the frame that it leads to tells."""
        found = txn.get(session_row(self.codec.names, session), db=self._refs)
        return None if found is None else found[: REF.size]

    def tail(self, session: str) -> Tail | None:
        """Return the newest place in a stream."""
        self._check_open()
        # No transaction is needed where nobody wrote since we did. A commit of ours that LMDB has
        # and _settle() has not is read like another's: whoever read it already must find it here.
        known = self.newest.tail(self.env.newest_commit(), session)
        if known is not None:
            return known
        with self.env.begin() as txn:
            return self.tail_in(txn, session, self._look(txn))

    def settled_tail(self, session: str) -> Tail | None:
        """Return the newest place in a stream that callers have been told of, or a newer one."""
        self._check_open()
        known = self.newest.settled_tail(self.env.newest_commit(), session)
        return known or self.tail(session)

    def tail_in(self, txn: lmdb.Transaction, session: str, recent: dict[int, Frame]) -> Tail | None:
        """Return the newest place in a stream as this transaction sees it."""
        ref = self._session_ref(txn, session)
        if ref is None:
            return None
        cursor = txn.cursor(self._streams)
        if not (cursor.set_key(ref) and cursor.last_dup()):
            raise Corruption(-1, f"session {session!r} has no rows in the index")
        row = Row(*STREAM_ROW.unpack(cursor.value()))
        self._indexed(txn, txn.cursor(self._frames), session, row, recent)
        return Tail(REF.unpack(ref)[0], *row)

    def receipt_of(self, key: str) -> tuple[bytes, Receipt] | None:
        """Return the content digest and receipt of a key."""
        self._check_open()
        with self.env.begin() as txn:
            row = self.key_row_in(txn, self.codec.names.kept(KEY_NAME, key))
            if row is None:
                return None
            position, content = KEY_ROW.unpack(row)
            return content, self.receipt_in(txn, position)

    def key_row_in(self, txn: lmdb.Transaction, key: bytes) -> bytes | None:
        """Return the row of an idempotency key, checked against the frame it names."""
        found = txn.get(key, db=self._keys)
        if found is None:
            return None
        name = self.codec.names.public(key)
        row = checked_value(found, f"the row of key {name!r}")
        position = KEY_ROW.unpack(row)[0]
        frames = self._page(txn, position, 1)
        if not frames or frames[0].position != position or frames[0].kept_key != key:
            raise Corruption(position, f"the index of keys is wrong about {name!r}")
        return row

    def receipt_in(self, txn: lmdb.Transaction, position: int) -> Receipt:
        """Return the receipt of the append that starts at `position`, as a duplicate."""
        return receipt_again(self._page(txn, position, 1)[0])

    def read_all(self, position: int, frames_max: int | None = None) -> list[Frame]:
        """Return a page of frames from `position` on."""
        self._check_open()
        with self.env.begin() as txn:
            return self._page(txn, position, frames_max)

    def tally(self, counted: Tally, position: int, last: int) -> tuple[int, list[Frame]]:
        """Count the lone messages of a page; return where it ends and the frames of all else."""
        self._check_open()
        others: list[Frame] = []
        start, size = position, 0
        with self.env.begin() as txn:
            cursor = txn.cursor(self._frames)
            found = cursor.set_range(POSITION.pack(position))
            rows = cast("Iterator[tuple[bytes, bytes]]", iter(cursor if found else ()))
            page = islice(rows, PAGE_EVENTS_MAX)
            while position <= last and size < PAGE_BYTES_MAX:
                position, row = counted.take(page, position, last, self._name_of)
                if row is None:
                    break
                key, raw = row
                frame = self._adopted(txn, Frame(raw, _position(key), self.codec))
                if not frame.position <= position <= frame.last_position:
                    break
                others.append(frame)
                position, size = frame.last_position + 1, size + len(raw)
            if position == start:
                self._page(txn, position, 1)  # says what is missing here
        return position, others

    def _page(
        self, txn: lmdb.Transaction, position: int, frames_max: int | None = None
    ) -> list[Frame]:
        """Return a page of frames without a gap, so that a damaged tree of pages hides nothing.

        It does what page() and _adopted() do: their calls would cost a third more a frame.
        """
        cursor, codec, names = txn.cursor(self._frames), self.codec, self._name_of
        taken: list[Frame] = []
        size, enough = 0, position + PAGE_EVENTS_MAX
        found = cursor.set_range(POSITION.pack(position))
        rows = cast("Iterable[tuple[bytes, bytes]]", cursor if found else ())
        for key, raw in islice(rows, frames_max):
            frame = Frame(raw, POSITION.unpack(key)[0], codec)
            if not frame.position <= position <= frame.last_position:
                break
            session, actor = frame.session_ref, frame.actor_ref
            frame.session = names.get(session) or self._name(txn, session)
            frame.actor = (names.get(actor) or self._name(txn, actor)) if actor else None
            taken.append(frame)
            position = frame.last_position + 1
            size += len(raw)
            if position >= enough or size >= PAGE_BYTES_MAX:
                return taken
        if len(taken) != frames_max and position < self._size(txn):
            raise Corruption(position, "the frame that holds it is missing")
        return taken

    def read_stream(
        self, session: str, version: int, *, reverse: bool = False, frames_max: int | None = None
    ) -> list[Frame]:
        """Return a page of a stream's frames, from `version` on or back."""
        self._check_open()
        with self.env.begin() as txn:
            seen = self._look(txn)
            recent = seen if frames_max is not None and frames_max <= PAGE_CACHED_FRAMES_MAX else {}
            return page(self._stream(txn, session, version, recent, reverse=reverse), frames_max)

    def _stream(
        self,
        txn: lmdb.Transaction,
        session: str,
        version: int,
        recent: dict[int, Frame],
        *,
        reverse: bool = False,
    ) -> Iterator[Frame]:
        """Iterate over a stream's frames without a gap, so that a damaged index hides nothing."""
        frames = txn.cursor(self._frames)
        for row in self._index(txn, session, version, reverse=reverse):
            frame = self._indexed(txn, frames, session, row, recent)
            _check_holds(frame, version)
            yield frame
            version = frame.version - 1 if reverse else frame.last_version + 1
        self._check_whole(txn, session, version)

    def read_messages(
        self, session: str, version: int, frames_max: int
    ) -> list[MessageAppended | Frame]:
        """Return a page of a stream from `version` on, lone messages decoded."""
        if self.codec.seal:  # there a frame for each is the only way
            return [*self.read_stream(session, version, frames_max=frames_max)]
        self._check_open()
        with self.env.begin() as txn:
            self._look(txn)
            return self._messages(txn, session, version, frames_max)

    def _messages(
        self, txn: lmdb.Transaction, session: str, version: int, frames_max: int
    ) -> list[MessageAppended | Frame]:
        taken: list[MessageAppended | Frame] = []
        frames, names, size = txn.cursor(self._frames), self._name_of, 0
        found = cast("Callable[[bytes, bytes], bytes]", frames.get)
        for row in islice(self._index(txn, session, version), frames_max):
            raw = found(POSITION.pack(row[2]), b"")
            lone = lone_message(raw, row, session, names, self.codec) if row[0] == version else None
            if lone is not None:
                taken.append(lone)
                version += 1
            else:
                frame = self._indexed(txn, frames, session, row, {})
                _check_holds(frame, version)
                taken.append(frame)
                version = frame.last_version + 1
            size += len(raw)
            if size >= PAGE_BYTES_MAX:
                return taken
        if len(taken) != frames_max:
            self._check_whole(txn, session, version)
        return taken

    def _check_whole(self, txn: lmdb.Transaction, session: str, version: int) -> None:
        """Raise Corruption if a stream has a version behind which its index gave no more."""
        if 0 <= version <= self._newest(txn, session):
            raise Corruption(-1, f"version {version} of session {session!r} is missing")

    def _newest(self, txn: lmdb.Transaction, session: str) -> int:
        """Return the newest version that a stream's index names, -1 for no such stream."""
        ref = self._session_ref(txn, session)
        cursor = txn.cursor(self._streams)
        if ref is None:
            return -1
        if not (cursor.set_key(ref) and cursor.last_dup()):
            raise Corruption(-1, f"session {session!r} has no rows in the index")
        return Row(*STREAM_ROW.unpack(cursor.value())).version

    def _index(
        self, txn: lmdb.Transaction, session: str, version: int, *, reverse: bool = False
    ) -> Iterator[tuple[int, ...]]:
        """Iterate over a stream's index, as Row has it, from the frame that holds `version`."""
        ref = self._session_ref(txn, session)
        cursor = txn.cursor(self._streams)
        if ref is None or not cursor.set_range_dup(ref, STREAM_ROW.pack(version, 0, 0)):
            return iter(())
        rows = cursor.iterprev_dup() if reverse else cursor.iternext_dup()
        return map(STREAM_ROW.unpack, cast("Iterator[bytes]", rows))

    def _indexed(
        self,
        txn: lmdb.Transaction,
        frames: lmdb.Cursor,
        session: str,
        row: tuple[int, ...],
        recent: dict[int, Frame],
    ) -> Frame:
        """Return the frame that an index row leads to, and check that it is the right one.

        Small frames are remembered: a state is found by walking back and folded forward, and
        the second look costs a quarter of the first.
        """
        version, messages, position = row
        frame = recent.get(position)
        if frame is None:
            raw = cast("bytes | None", frames.get(POSITION.pack(position)))
            if raw is None:
                raise Corruption(position, f"the frame of version {version} is missing")
            frame = self._adopted(txn, Frame(raw, position, self.codec))
            if len(recent) >= FRAMES_CACHED_MAX:
                recent.clear()
            if len(raw) <= FRAME_CACHED_BYTES_MAX:
                recent[position] = frame
        if (
            frame.session != session
            or frame.last_version != version
            or frame.next_number() != messages
        ):
            raise Corruption(position, f"the index of session {session!r} is wrong here")
        return frame

    def locate(self, session: str, number: int) -> int:
        """Return the version of a message of the stream: bisection over its index."""
        self._check_open()
        with self.env.begin() as txn:
            recent = self._look(txn)
            tail = self.tail_in(txn, session, recent)
            if tail is None or number >= tail.messages:
                raise Corruption(-1, f"session {session!r} has no message {number}")
            # Mostly all events that are no messages are at one end: try from both ends first.
            low, high = number + 1, tail.version - (tail.messages - 1 - number)
            probe = low
            while low <= high:
                frame = next(self._stream(txn, session, probe, recent))
                if frame.number <= number < frame.next_number():
                    return version_of(frame, number)
                low = frame.last_version + 1 if frame.number <= number else low
                high = frame.version - 1 if frame.number > number else high
                probe = high if probe == number + 1 else (low + high) // 2
        raise Corruption(-1, f"message {number} of session {session!r} is missing")

    def sessions(self, after: str = "") -> list[str]:
        """Return a page of stream names in order."""
        self._check_open()
        if self.codec.seal:
            return self._sealed_sessions(after)
        found: list[str] = []
        with self.env.begin() as txn:
            cursor = txn.cursor(self._refs)
            if cursor.set_range(SESSION_NAME + after.encode() + (b"\x00" if after else b"")):
                for row, ref in cursor:
                    if row[:1] != SESSION_NAME or len(found) == NAMES_PAGE:
                        break
                    found.append(self._name(txn, REF.unpack_from(ref)[0]))
                    if found[-1].encode() != row[1:]:
                        raise Corruption(-1, f"session {found[-1]!r} is listed under another name")
        return found

    def _sealed_sessions(self, after: str) -> list[str]:
        """Return a page of names whose rows are in the order of their ciphertext."""
        with self._listed, self.env.begin() as txn:
            total = int(txn.stat(self._refs)["entries"])
            return self._listing.page(total, after, NAMES_PAGE, lambda: self._sealed_names(txn))

    def _sealed_names(self, txn: lmdb.Transaction) -> Iterator[str]:
        cursor = txn.cursor(self._refs)
        for row, ref in cursor if cursor.set_range(SESSION_NAME) else ():
            if row[:1] != SESSION_NAME:
                return
            name = self._shown(bytes(row))
            number = bytes(ref[: REF.size])
            found = txn.get(number, db=self.name_rows)
            if checked_value(found, f"session {name!r}", number) != row:
                raise Corruption(-1, f"session {name!r} is listed under another name")
            yield name

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

    def check_end(self) -> None:
        """Raise Corruption unless the tree head and the newest frame say the same."""
        with self.env.begin() as txn:
            frontier, recorded_at = self.edge(txn)
            last = txn.cursor(self._frames)
            size = _position(bytes(last.key())) + 1 if last.last() else 0
            if frontier.size != size or len(frontier.nodes) != size.bit_count():
                what = f"the tree head has size {frontier.size}, the frames end at {size}"
                raise Corruption(min(frontier.size, size), what)
            for frame in self._page(txn, size - 1) if size else ():
                if frame.recorded_at != recorded_at:
                    what = f"the tree head's time is {recorded_at}, not {frame.recorded_at}"
                    raise Corruption(frame.position, what)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")

    def _adopted(self, txn: lmdb.Transaction, frame: Frame) -> Frame:
        """Give a frame the names that its references stand for."""
        names, session, actor = self._name_of, frame.session_ref, frame.actor_ref
        frame.session = names.get(session) or self._name(txn, session)
        frame.actor = (names.get(actor) or self._name(txn, actor)) if actor else None
        return frame

    def _name(self, txn: lmdb.Transaction, ref: int) -> str:
        name = self._name_of.get(ref)
        if name is None:
            number = REF.pack(ref)
            row = checked_value(txn.get(number, db=self.name_rows), f"name {ref}", number)
            name = self._name_of[ref] = self._shown(row)
        return name

    def _shown(self, row: bytes) -> str:
        try:
            return self.codec.names.shown(row[:1], row[1:])
        except ValueError as error:
            raise Corruption(-1, f"a row of names can't be read: {error}") from None


class _Ground:
    """What plan() asks, answered inside the write transaction, staged batches included."""

    def __init__(self, log: LmdbLog, txn: lmdb.Transaction) -> None:
        self._log, self._txn = log, txn
        self.names = log.codec.names
        self._stand_on(log.newest.begun(txn.id()) or self._read_edge())
        self.tails: dict[str, Tail] = {}
        self.refs: dict[bytes, int] = {}
        self.changed = False

    def _read_edge(self) -> Edge:
        frontier, recorded_at = self._log.edge(self._txn)
        last = self._txn.cursor(self._log.name_rows)
        next_ref = REF.unpack(last.key())[0] + 1 if last.last() else 1
        return Edge(frontier, recorded_at, next_ref, self._log.gone.count(self._txn) > 0)

    def _stand_on(self, edge: Edge) -> None:
        self.edge = edge
        self.frontier, self.recorded_at, self.next_ref, self._any_erased = edge

    def learn(self, made: Plan) -> None:
        """Build on a plan whose rows are in the transaction."""
        self.changed = True
        self.tails.update(made.tails)
        self.refs.update(made.names)
        any_erased = self._any_erased or bool(made.erasing or made.shreds)
        self._stand_on(Edge(made.frontier, made.recorded_at, made.next_ref, any_erased))

    def tail(self, session: str) -> Tail | None:
        known = self.tails.get(session) or self._log.newest.staged_on(session)
        return known or self._log.tail_in(self._txn, session, {})

    def ref(self, row: bytes) -> int | None:
        return self.refs.get(row) or self._log.ref_in(self._txn, row)

    def key_row(self, key: bytes) -> bytes | None:
        return self._log.key_row_in(self._txn, key)

    def receipt_at(self, position: int) -> Receipt:
        return self._log.receipt_in(self._txn, position)

    def erased(self, ref: int) -> bool:
        return self._any_erased and self._log.gone.is_erased(self._txn, ref)


def _position(key: bytes) -> int:
    return int(POSITION.unpack(key)[0])


def _check_holds(frame: Frame, version: int) -> None:
    if not frame.version <= version <= frame.last_version:
        what = f"version {version} of {frame.session!r} is missing here"
        raise Corruption(frame.last_position, what)
