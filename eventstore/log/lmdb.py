"""The log in LMDB: one row per append in `frames`, one small index row beside it.

Invariants: commit() returns after LMDB's fsync; a batch is packed before its transaction, which
holds up other processes; what goes is rewritten in the transaction that says so. How it is opened
and read stands in opened.py, streams.py and reads.py.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import lmdb

from ..events import Span
from .base import FORGOTTEN, Append, Outcome, Receipt, Stage, T, Tail
from .environment import open_environment
from .format import (
    ACTOR_NAME,
    DICTIONARIES,
    ENCRYPTED,
    ENCRYPTED_KEY,
    FORMAT,
    FORMAT_KEY,
    HEAD_KEY,
    HEAD_ROW,
    KEY_ROW,
    META,
    POSITION,
    REF,
    STARTER,
    STORE_ID_KEY,
    STREAMS,
    TABLES,
)
from .frame import Frame
from .newest import Edge
from .opened import remember
from .plan import Plan, pack_appends, plan
from .reads import Reads
from .rows import checked_row, ref_row, tile_key
from .shredding import Shred, hidden_lines, shredded


def create_log(path: Path, store: str, starter: bytes | None, *, encrypted: bool = False) -> None:
    """Make an empty log in an empty directory, durable when it returns."""
    with closing(open_environment(path)) as env:
        tables = [env.table(name, dupfixed=name == STREAMS, create=True) for name in TABLES]
        meta, dictionaries = tables[TABLES.index(META)], tables[TABLES.index(DICTIONARIES)]
        with env.translating, env.write() as txn:
            txn.put(FORMAT_KEY, checked_row(REF.pack(FORMAT)), db=meta)
            txn.put(STORE_ID_KEY, checked_row(store.encode()), db=meta)
            txn.put(HEAD_KEY, checked_row(HEAD_ROW.pack(0, 0, 0)))
            if encrypted:
                txn.put(ENCRYPTED_KEY, checked_row(ENCRYPTED), db=meta)
            if starter:
                row = checked_row(starter, REF.pack(STARTER))
                txn.put(REF.pack(STARTER), row, db=dictionaries)


class LmdbLog(Reads):
    """A Log in one directory; many threads and processes may use it at once."""

    def commit(self, batch: Sequence[Append], now: int) -> list[Outcome]:
        """Decide and keep a batch; returns when LMDB has synced it."""
        pack_appends(batch, self.codec)  # before the transaction, which holds up other processes
        return self._durably(lambda ground: ground.keep(batch, now))

    def group(self, work: Callable[[Stage], T]) -> T:
        """Run `work` in one transaction for several batches, durable when this returns."""

        def staging(ground: "_Ground") -> T:
            def stage(batch: Sequence[Append], now: int) -> list[Outcome]:
                pack_appends(batch, self.codec)
                return ground.keep(batch, now)

            return work(stage)

        return self._durably(staging)

    def _durably(self, work: Callable[["_Ground"], T]) -> T:
        """Run `work` in one transaction, and remember what it changed once that is durable."""
        self._check_open()
        ground = None
        try:
            with self.env.translating, self.env.write() as txn:
                ground = _Ground(self, txn)
                done = work(ground)
                if ground.changed:  # a commit of nothing leaves its number to whoever is next
                    self.newest.ending(ground.number)
            if ground.changed:
                self._settle(ground)
                if ground.edge.frontier.size >= self._watched:
                    self._grown()
        except BaseException:
            if ground is None or ground.changed:
                self._forget()
            raise
        return done

    def _settle(self, ground: "_Ground") -> None:
        """Remember what a transaction that is durable now has changed."""
        if ground.refs:
            shown = self.codec.names.shown
            new = {ref: shown(row[:1], row[1:]) for row, ref in ground.refs.items()}
            remember(self._name_of, new)
            remember(self._ref_of, ground.refs)
        self.newest.settle(ground.number, ground.edge, ground.tails)

    def put(self, txn: lmdb.Transaction, made: Plan) -> None:
        """Write the rows of a plan; the frames go to the end of their tree."""
        txn.cursor(self._frames).putmulti(made.frames, append=True)
        txn.cursor(self._streams).putmulti(made.streams)
        for row, ref in made.names.items():
            number = REF.pack(ref)
            txn.put(row, ref_row(row, number), db=self._refs)
            if row.startswith(ACTOR_NAME):  # a session's name stands in its first frame
                txn.put(number, checked_row(row, number), db=self._actors)
        for key, row in made.keys.items():
            txn.put(key, checked_row(row), db=self._keys)
        for level, index, node in made.tiles:
            txn.put(tile_key(level, index), node, db=self._tiles)
        head = HEAD_ROW.pack(made.frontier.size, made.recorded_at, made.next_ref - 1)
        txn.put(HEAD_KEY, checked_row(head + b"".join(made.frontier.nodes)))
        if made.erasing or made.shreds:
            self.gone.note(txn, made.erasing)
            self._erase_in(txn, made.shreds, begins=made.erases)

    # -- erasing -------------------------------------------------------------------------

    def shred(self, wanted: Shred) -> None:
        """Destroy payloads that are not gone yet; returns when LMDB has synced that."""
        self._check_open()
        with self.env.translating, self.env.write() as txn:
            self._erase_in(txn, [wanted])

    def _erase_in(
        self, txn: lmdb.Transaction, shreds: Sequence[Shred], *, begins: bool = False
    ) -> None:
        """Rewrite frames; what takes something away, or begins to, is counted."""
        changed = [self._shred_in(txn, wanted) for wanted in shreds]
        if any(changed) or begins:
            self.gone.raise_count(txn)

    def _shred_in(self, txn: lmdb.Transaction, wanted: Shred) -> bool:
        lines = list[Span]()
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


class _Ground:
    """What plan() asks, answered inside the write transaction, staged batches included."""

    def __init__(self, log: LmdbLog, txn: lmdb.Transaction) -> None:
        self._log, self._txn = log, txn
        self.number = txn.id()
        self.names = log.codec.names
        self.edge = log.newest.begun(self.number) or self._read_edge()
        self.tails: dict[str, Tail] = {}
        self.refs: dict[bytes, int] = {}
        self.changed = False

    def _read_edge(self) -> Edge:
        frontier, recorded_at = self._log.edge(self._txn)
        next_ref = self._log.newest_ref(self._txn) + 1
        erasures = self._log.gone.count(self._txn)
        return Edge(frontier, recorded_at, next_ref, erasures > 0, erasures)

    def keep(self, batch: Sequence[Append], now: int) -> list[Outcome]:
        """Decide a batch that is packed, write its rows, and let the next one build on it."""
        made = plan(batch, self, now)
        if made.frames:
            self.changed = True
            self._log.put(self._txn, made)
            self._learn(made)
        return made.outcomes

    def _learn(self, made: Plan) -> None:
        """Build on a plan whose rows are in the transaction."""
        self.tails.update(made.tails)
        self.refs.update(made.names)
        any_erased, erasures = self.edge.any_erased, self.edge.erasures
        if made.erasing or made.shreds:
            any_erased, erasures = True, self._log.gone.count(self._txn)
        self.edge = Edge(made.frontier, made.recorded_at, made.next_ref, any_erased, erasures)

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
        return self.edge.any_erased and self._log.gone.is_erased(self._txn, ref)
