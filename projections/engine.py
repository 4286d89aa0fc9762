"""Views: states of projections kept beside the log, moved on by the events that came since.

Invariants: a state and its checkpoint are written in one transaction; a query first catches its
view up with everything that was in the log when it began, so it sees what its caller wrote; one
process applies at a time, and each begins where the checkpoint says; a view of another log, one
ahead of the log or one that is damaged is built anew, never used; readers keep the old state
until the new one is complete; what was kept before an erasure is never read again.
"""

import threading
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Self, TypeVar

import msgspec
from xxhash import xxh3_128_digest

from eventstore import Corruption, EventStore, InvalidEvent, StoreFull, StoreUnavailable
from eventstore.errors import brief
from eventstore.ids import SYSTEM, check_name
from eventstore.log.base import frames_between
from eventstore.log.frame import Frame
from eventstore.messages import Json
from eventstore.state.caches import VIEWS, cache_directory

from .branches import BranchesProjection, BranchTree, root_session, tree_of, tree_prefix
from .catalog import LISTED, CatalogProjection, SessionPage, selection
from .projection import Projection
from .shelf import (
    Damage,
    Index,
    LmdbShelf,
    MemoryShelf,
    Retired,
    RowCoder,
    Rows,
    Shelf,
    Table,
    Tables,
)
from .statistics import Statistics, StatisticsProjection

APPLY_EVENTS_MAX = 50_000
"""Events that a view takes in with one transaction, rounded up to a whole frame."""

ATTEMPTS_MAX = 3
"""How often a query builds its view anew before it gives the damage up."""

CHECKPOINTS = b"checkpoints"
STATE = b"state"
"""The key of the one row of a projection that is not keyed."""

Answer = TypeVar("Answer")


class Checkpoint(msgspec.Struct, frozen=True, array_like=True):
    """How far a view has come: it holds the first `size` events of the log called `store`.

    `mark` is the xxh3-128 of the frame that ends there: its salts are random, so that no other
    log has it at this place. `rows` says how many rows the state has, `table` which of the two
    tables has them.
    """

    store: str
    size: int = 0
    mark: bytes = b""
    rows: int = 0
    table: int = 0


class _View:
    """A registered projection: the names of its tables, and how its state is kept."""

    def __init__(self, projection: Projection[Any]) -> None:
        self.projection = projection
        self.name = projection.name
        self.key = f"{projection.name}/{projection.revision}".encode()
        self.building = self.key + b"/building"
        self.tables = (self.key + b"/0", self.key + b"/1")
        self.indexes = tuple(table + b"/orders" for table in self.tables)
        self._coder = RowCoder(projection.row_type)

    def state(self, tables: Tables, checkpoint: Checkpoint) -> Any:
        """Return the state in a table; raises Damage where rows are missing."""
        table = tables(self.tables[checkpoint.table])
        if table.count() != checkpoint.rows:
            raise Damage(f"{table.count()} rows instead of {checkpoint.rows}")
        if self.projection.orders:
            index = Index(tables(self.indexes[checkpoint.table]), self.projection.orders)
            if index.table.count() != checkpoint.rows * len(index.orders):
                raise Damage(f"{index.table.count()} entries for {checkpoint.rows} rows")
            return Rows(table, self._coder, index)
        if self.projection.keyed:
            return Rows(table, self._coder)
        if not checkpoint.rows:
            return self.projection.initial()
        row = table.get(STATE)
        if row is None:
            raise Damage("the state is not where it belongs")
        return self._coder.open(STATE, row)

    def evolve(self, table: Table, state: Any, frame: Frame) -> Any:
        """Return the state after a frame; raises Damage where that fails over damaged rows."""
        try:
            return self.projection.evolve_frame(state, frame, frame.version, frame.last_version)
        except Exception:  # whatever a projection makes of a row that is not where it belongs
            for key, row in table.scan(b""):
                self._coder.open(key, row)
            raise

    def add_tables(self, shelf: Shelf) -> None:
        """Make the tables that the view is kept in."""
        for table in (*self.tables, *(self.indexes if self.projection.orders else ())):
            shelf.add(table)

    def clear(self, tables: Tables, number: int) -> None:
        """Empty one of the two tables."""
        tables(self.tables[number]).clear()
        if self.projection.orders:
            tables(self.indexes[number]).clear()

    def save(self, table: Table, state: Any) -> None:
        """Write a state back."""
        if isinstance(state, Rows):
            state.save()
        else:
            table.put(STATE, self._coder.seal(STATE, state))


class Views:
    """Views of one store: the catalogue, the trees, the statistics and your own.

    Kept in `views/` of the store's directory and shared by all processes; in memory for a store
    that is there too, is encrypted or is open read-only, and where its disk is full. Safe for many
    threads; closed with its store.
    """

    def __init__(self, store: EventStore) -> None:
        self._store, self._log = store, store.log
        self._views: dict[str, _View] = {}
        self._swap = threading.Lock()
        self._erasures = store.log.erasures()
        self._shelf = self._new_shelf(self._erasures)
        store.on_close(self.close)
        self._checkpoints = RowCoder(Checkpoint)
        self.register(CatalogProjection(store.headers))
        self.register(BranchesProjection(store.log))
        self.register(StatisticsProjection(store.headers))

    def _new_shelf(self, erasures: int) -> Shelf:
        """Open where views of an erasure count are kept, with the tables of all of them."""
        path = self._store.path
        if path is None or self._store.read_only or self._log.codec.seal is not None:
            return self._furnished(MemoryShelf())
        try:
            return self._furnished(LmdbShelf(cache_directory(path, VIEWS, erasures)))
        except StoreFull:
            return self._furnished(MemoryShelf())

    def _furnished(self, shelf: Shelf) -> Shelf:
        """Return a shelf with the tables of all views, which is closed where they can't be made."""
        try:
            shelf.add(CHECKPOINTS)
            for view in self._views.values():
                view.add_tables(shelf)
        except BaseException:
            shelf.close()
            raise
        return shelf

    def _renew(self) -> None:
        """Begin anew where payloads were destroyed since: what is kept may hold them."""
        while (erasures := self._log.erasures()) > self._erasures:
            with self._swap:
                if erasures > self._erasures:
                    self._swap_in(erasures)

    def _swap_in(self, erasures: int) -> None:
        try:
            shelf = self._new_shelf(erasures)
        except (OSError, StoreUnavailable):
            if self._log.erasures() == erasures:
                raise
            return  # it was deleted under our hands: there is a newer count
        old, self._shelf, self._erasures = self._shelf, shelf, erasures
        old.retire()

    # -- questions -----------------------------------------------------------------------

    def sessions(
        self,
        *,
        user: str | None = None,
        where: Mapping[str, Json] | None = None,
        status: Collection[str] = LISTED,
        order: str = "-updated_at",
        limit: int | None = 50,
        after: str | None = None,
    ) -> SessionPage:
        """Return a page of the catalogue; by default what is neither archived nor deleted.

        `where` names metadata keys and the values they must equal; `order` is updated_at,
        created_at, messages, tokens or session, with `-` for descending; `after` the `next` of
        the page before. By time it looks at rows until the page is full, otherwise at every
        row. Raises InvalidEvent.
        """
        wanted = selection(user, where, status, order, limit, after)

        def read(rows: Any, _: Checkpoint) -> SessionPage:
            return wanted.answer(rows)

        return self._query(self._views[CatalogProjection.name], read)

    def statistics(self) -> Statistics:
        """Return the statistics of the whole store."""
        found: Statistics = self.state(StatisticsProjection.name)
        return found

    def tree(self, session: str) -> BranchTree:
        """Return the tree that a session is in. Raises SessionNotFound."""
        self._store.flush()
        prefix = tree_prefix(root_session(self._log, session))

        def read(rows: Any, checkpoint: Checkpoint) -> BranchTree:
            found = [row for _, row in rows.under(prefix)]
            if sum(row.members for row in found) != len(found):
                raise Damage(f"{len(found)} rows are not the tree of {session!r}")
            return tree_of(self._store, found, checkpoint.size - 1)

        return self._query(self._views[BranchesProjection.name], read)

    def state(self, name: str) -> Any:
        """Return the state of a registered projection, yours to change; a dict of a keyed one."""

        def read(state: Any, _: Checkpoint) -> Any:
            return dict(state.under("")) if isinstance(state, Rows) else state

        return self._query(self._view(name), read)

    def checkpoint(self, name: str) -> int:
        """Return how many events a view holds, without catching it up."""
        view = self._view(name)
        self._renew()
        try:
            with self._shelf.begin() as tables:
                found = self._checkpoint(tables, view.key)
        except Retired:
            return self.checkpoint(name)
        except Damage:
            return 0
        return found.size if found else 0

    # -- care ----------------------------------------------------------------------------

    def register(self, projection: Projection[Any]) -> None:
        """Keep a projection's state from now on; its name must be free. Raises InvalidEvent."""
        if not isinstance(projection, Projection):
            raise InvalidEvent(f"a Projection is expected, not {brief(projection)}")
        name = check_name(getattr(projection, "name", None), "projection name")
        if name in self._views:
            raise InvalidEvent(f"a projection called {name!r} is registered already")
        view = _View(projection)
        with self._swap:
            view.add_tables(self._shelf)
            self._views[name] = view

    def rebuild(self, name: str) -> None:
        """Build a view anew from the facts, beside the old one, and swap."""
        view = self._view(name)
        self._store.flush()
        self._renew()
        damages = 0
        while damages < ATTEMPTS_MAX:
            try:
                self._start_over(view)
                self._build(view)
            except Retired:
                continue
            except Damage:
                damages += 1
                continue
            return
        raise self._given_up(view)

    def close(self) -> None:
        """Release the views; idempotent, and done when the store is closed."""
        self._store.off_close(self.close)
        self._shelf.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- catching up ---------------------------------------------------------------------

    def _view(self, name: object) -> _View:
        if not isinstance(name, str) or name not in self._views:
            raise InvalidEvent(
                f"no projection called {brief(name)}; there are {', '.join(self._views)}"
            )
        return self._views[name]

    def _query(self, view: _View, read: Callable[[Any, Checkpoint], Answer]) -> Answer:
        """Catch a view up and read it: in memory from now on, once the disk is full."""
        self._store.flush()
        self._renew()
        try:
            return self._answered(view, read)
        except StoreFull:  # which is for writers to mind: reading goes on
            with self._swap:
                old, self._shelf = self._shelf, self._furnished(MemoryShelf())
            old.retire()
        return self._answered(view, read)

    def _answered(self, view: _View, read: Callable[[Any, Checkpoint], Answer]) -> Answer:
        """Catch a view up and read it; a damaged one is built anew first."""
        damages = 0
        while damages < ATTEMPTS_MAX:
            shelf = self._shelf
            try:
                self._catch_up(view)
                with self._shelf.begin() as tables:
                    checkpoint = self._checkpoint(tables, view.key)
                    if checkpoint is not None:  # else another process starts over just now
                        return read(view.state(tables, checkpoint), checkpoint)
            except Retired:
                continue
            except Damage:
                self.rebuild(view.name)
            damages += shelf is self._shelf  # else it was swapped meanwhile: after an erasure
        raise self._given_up(view)

    def _given_up(self, view: _View) -> Corruption:
        return Corruption(
            -1, f"view {view.name!r} stays damaged; the directory {VIEWS!r} may be deleted"
        )

    def _catch_up(self, view: _View) -> None:
        """Apply what is in the log now, a bounded transaction at a time."""
        with self._shelf.begin() as tables:
            checkpoint = self._usable(tables, view.key)  # read before the log's size, which grows
        target = self._log.size()
        while checkpoint is None or checkpoint.size < target:
            if checkpoint is None:
                self._build(view)
            checkpoint = self._shelf.write(partial(self._go_on, view, target))

    def _go_on(self, view: _View, target: int, tables: Tables) -> Checkpoint | None:
        """Take a state one transaction further; returns where it is, None where it is of no use."""
        checkpoint = self._usable(tables, view.key)
        if checkpoint is not None and checkpoint.size < target:
            checkpoint = self._applied(tables, view, checkpoint, target)
            self._note(tables, view.key, checkpoint)
        return checkpoint

    def _start_over(self, view: _View) -> None:
        """Begin a new state in the table that is not in use."""

        def clear(tables: Tables) -> None:
            current = self._usable(tables, view.key)
            fresh = Checkpoint(self._store.id, table=1 - current.table if current else 0)
            view.clear(tables, fresh.table)
            self._note(tables, view.building, fresh)

        self._shelf.write(clear)

    def _build(self, view: _View) -> None:
        """Go on with the new state until it is complete; several processes may help."""
        with self._shelf.begin() as tables:
            begun = self._usable(tables, view.building)
        if begun is None:
            self._start_over(view)
        target = self._log.size()
        while not self._shelf.write(partial(self._built, view, target)):
            continue

    def _built(self, view: _View, target: int, tables: Tables) -> bool:
        """Take the new state one transaction further; swap it in and return True at the end."""
        checkpoint = self._usable(tables, view.building)
        if checkpoint is None:  # another process has swapped it in
            return True
        current = self._usable(tables, view.key)
        goal = max(target, current.size if current else 0)  # what was seen stays seen
        checkpoint = self._applied(tables, view, checkpoint, goal)
        if checkpoint.size < goal:
            self._note(tables, view.building, checkpoint)
            return False
        self._note(tables, view.key, checkpoint)
        tables(CHECKPOINTS).delete(view.building)
        view.clear(tables, 1 - checkpoint.table)
        return True

    def _applied(
        self, tables: Tables, view: _View, checkpoint: Checkpoint, target: int
    ) -> Checkpoint:
        """Evolve the state by a bounded number of events and return how far it has come."""
        table = tables(view.tables[checkpoint.table])
        state = view.state(tables, checkpoint)
        newest = None
        stop = min(target, checkpoint.size + APPLY_EVENTS_MAX)
        for frame in frames_between(self._log, checkpoint.size, stop):
            newest = frame
            if frame.session != SYSTEM:
                state = view.evolve(table, state, frame)
        if newest is None:
            return checkpoint
        view.save(table, state)
        size = newest.last_position + 1
        return Checkpoint(self._store.id, size, _mark(newest), table.count(), checkpoint.table)

    # -- checkpoints ---------------------------------------------------------------------

    def _checkpoint(self, tables: Tables, key: bytes) -> Checkpoint | None:
        row = tables(CHECKPOINTS).get(key)
        if row is None:
            return None
        found: Checkpoint = self._checkpoints.open(key, row)
        return found

    def _note(self, tables: Tables, key: bytes, checkpoint: Checkpoint) -> None:
        tables(CHECKPOINTS).put(key, self._checkpoints.seal(key, checkpoint))

    def _usable(self, tables: Tables, key: bytes) -> Checkpoint | None:
        """Return a checkpoint if the log goes on from there: it is intact and of this very log."""
        try:
            found = self._checkpoint(tables, key)
        except Damage:
            return None
        if found is None or found.store != self._store.id:
            return None
        if found.size == 0:
            return found
        frames = self._log.read_all(found.size - 1, frames_max=1)
        return found if frames and _ends_there(frames[0], found) else None


def _ends_there(frame: Frame, checkpoint: Checkpoint) -> bool:
    return frame.last_position == checkpoint.size - 1 and _mark(frame) == checkpoint.mark


def _mark(frame: Frame) -> bytes:
    return xxh3_128_digest(frame.raw)
