"""EventStore: commands in, facts out, over one directory or in memory.

Invariants: a command returns when its facts are durable (see `durability`); readers never block
writers and hold no transaction between pages; what a command acknowledged, every later read of
this store sees; the async face in aio.py runs on the very same engine.
"""

import getpass
import os
from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Literal, Self, Unpack, overload

from . import reading
from .aio import AsyncStore
from .clock import Clock, system_clock, to_ns
from .commands import Commands
from .directory import LOG, SNAPSHOTS, check_store, ensure_store
from .engine import Engine
from .errors import Corruption, InvalidEvent, SessionNotFound, StoreUnavailable
from .limits import BRANCH_DEPTH_MAX, BUFFERED_INTERVAL_MS, MAP_BYTES_DEFAULT
from .ids import SYSTEM
from .lineage import Headers
from .log.base import Head, Log, Receipt
from .log.codec import train
from .log.format import RAW
from .log.frame import Recorded
from .log.lmdb import LmdbLog
from .log.memory import MemoryLog
from .messages import TokenCounter, count_tokens
from .requests import Options, Request
from .snapshots import MemorySnapshots, Snapshots, disk_snapshots
from .subscription import Signal, Subscription

TRAINING_EVENTS_MAX = 20_000
"""Newest events that a dictionary is trained on."""


class EventStore(Commands[Receipt]):
    """The history of sessions as facts; safe for many threads, tasks and processes."""

    def __init__(
        self,
        log: Log,
        snapshots: Snapshots,
        *,
        path: Path | None = None,
        store: str = "",
        clock: Clock = system_clock,
        actor: str | None = None,
        max_depth: int = BRANCH_DEPTH_MAX,
        count_tokens: TokenCounter = count_tokens,
        interval_ms: int = 0,
        read_only: bool = False,
    ) -> None:
        self.log, self.path, self.id = log, path, store
        self.read_only = read_only
        self.headers = Headers(log, snapshots)
        self.count_tokens = count_tokens
        self._snapshots = snapshots
        self._signal = Signal()
        self.engine = Engine(
            log,
            self.headers,
            clock,
            notify=self._signal.notify,
            interval_ms=interval_ms,
            actor=actor or process_actor(),
            max_depth=max_depth,
            read_only=read_only,
        )
        self._on_close: list[Callable[[], None]] = []
        self.aio = AsyncStore(self, self.engine)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        durability: Literal["sync", "buffered"] = "sync",
        compression: Literal["zstd", "none"] = "zstd",
        map_size: int = MAP_BYTES_DEFAULT,
        read_only: bool = False,
        clock: Clock = system_clock,
        actor: str | None = None,
        max_depth: int = BRANCH_DEPTH_MAX,
        count_tokens: TokenCounter = count_tokens,
    ) -> Self:
        """Open the store in a directory, made on first use.

        `sync` acknowledges after the fsync. `buffered` acknowledges before it and commits, fully
        synced, within BUFFERED_INTERVAL_MS: a crash loses at most what that interval held.
        `map_size` in bytes; `actor` stands for commands that name none, by default the process's
        user. Raises StoreUnavailable, FormatTooNew and Corruption.
        """
        if durability not in ("sync", "buffered") or compression not in ("zstd", "none"):
            raise InvalidEvent("durability is 'sync' or 'buffered', compression 'zstd' or 'none'")
        place = Path(path)
        if not read_only:
            ensure_store(place, starter_dictionary())
        store = check_store(place)
        log = LmdbLog(place / LOG, map_size=map_size, read_only=read_only)
        if log.store != store and not read_only:  # verify reads it, and says so
            log.close()
            raise Corruption(-1, f"the log is of store {log.store!r}, {place} is store {store!r}")
        if compression == "none":
            log.codec.current = RAW
        snapshots = MemorySnapshots() if read_only else disk_snapshots(place / SNAPSHOTS)
        return cls(
            log,
            snapshots,
            path=place,
            store=store,
            clock=clock,
            actor=actor,
            max_depth=max_depth,
            count_tokens=count_tokens,
            interval_ms=BUFFERED_INTERVAL_MS if durability == "buffered" else 0,
            read_only=read_only,
        )

    @classmethod
    def in_memory(
        cls,
        *,
        clock: Clock = system_clock,
        actor: str | None = None,
        max_depth: int = BRANCH_DEPTH_MAX,
        count_tokens: TokenCounter = count_tokens,
    ) -> Self:
        """Return a store with the same contract that lives as long as the object."""
        log = MemoryLog(starter_dictionary())
        return cls(
            log,
            MemorySnapshots(),
            clock=clock,
            actor=actor,
            max_depth=max_depth,
            count_tokens=count_tokens,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @overload
    def close(self) -> None: ...
    @overload
    def close(
        self, session: str, *, reason: str | None = None, **options: Unpack[Options]
    ) -> Receipt: ...
    def close(
        self,
        session: str | None = None,
        *,
        reason: str | None = None,
        **options: Unpack[Options],
    ) -> Receipt | None:
        """Close a session, as a fact; without a session, release the store (idempotent)."""
        if session is not None:
            return super().close(session, reason=reason, **options)
        if self.engine.forked:  # what was opened is the parent's, and so is closing it
            return None
        try:
            self.engine.writer.close()
        finally:
            while self._on_close:
                self._on_close.pop()()
            self._snapshots.close()
            self.log.close()
        return None

    def on_close(self, release: Callable[[], None]) -> None:
        """Have `release` called when the store is closed: for views kept beside the log."""
        self._on_close.append(release)

    def _submit(self, request: Request) -> Receipt:
        return self.engine.run(request)

    # -- reading facts -------------------------------------------------------------------

    def events(
        self,
        session: str,
        from_version: int = 0,
        to_version: int | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[Recorded]:
        """Iterate over one stream, both ends included. Raises SessionNotFound."""
        pages = self.event_pages(session, from_version, to_version, reverse=reverse)
        return reading.flat(pages, limit)

    def event_pages(
        self, session: str, first: int, last: int | None, *, reverse: bool
    ) -> Iterator[reading.Page]:
        """Return the pages behind events()."""
        newest = self.version(session)
        end = newest if last is None else min(last, newest)
        return reading.stream_pages(self.log, session, max(first, 0), end, reverse=reverse)

    def all(
        self,
        from_position: int = 0,
        *,
        limit: int | None = None,
        types: Collection[str] | None = None,
    ) -> Iterator[Recorded]:
        """Iterate over the whole log; `types` are names such as "MessageAppended"."""
        self.flush()
        return reading.flat(reading.log_pages(self.log, max(from_position, 0), types), limit)

    def event(self, position: int) -> Recorded:
        """Return the event at a position. Raises InvalidEvent where there is none."""
        self.flush()
        size = self.log.size()
        if not 0 <= position < size:
            raise InvalidEvent(f"positions go from 0 to {size - 1}, not {position}")
        frames = self.log.read_all(position, frames_max=1)
        return Recorded(frames[0], position - frames[0].position)

    def head(self) -> Head:
        """Return the tree head: size, root and time of the newest event."""
        self.flush()
        return self.log.head()

    def exists(self, session: str) -> bool:
        """Return True if the session was ever created."""
        self.flush()
        return self.log.tail(session) is not None

    def version(self, session: str) -> int:
        """Return the newest version of a session. Raises SessionNotFound."""
        self.flush()
        tail = self.log.tail(session)
        if tail is None:
            raise SessionNotFound(session)
        return tail.version

    def position_at(self, moment: datetime | int) -> int:
        """Return the newest position recorded at or before a time, -1 where none was."""
        self.flush()
        return reading.position_at(self.log, to_ns(moment))

    def sessions(self) -> Iterator[str]:
        """Iterate over the names of all sessions and branches, in order."""
        self.flush()
        after = ""
        while names := self.log.sessions(after):
            yield from (name for name in names if name != SYSTEM)
            after = names[-1]

    def subscribe(self, from_position: int = 0, *, follow: bool = True) -> Subscription:
        """Return an iterator over the log from a position on, which waits for more."""
        position = from_position

        def fetch() -> reading.Page:
            nonlocal position
            self.flush()
            page = next(reading.log_pages(self.log, position), [])
            position = page[-1].position + 1 if page else position
            return page

        return Subscription(fetch, self._signal, follow=follow)

    def follow(self, session: str, from_version: int = 0) -> Subscription:
        """Return an iterator over one session's events that waits for more."""
        self.version(session)
        version = max(from_version, 0)

        def fetch() -> reading.Page:
            nonlocal version
            self.flush()
            tail = self.log.tail(session)
            last = tail.version if tail else -1
            page = next(reading.stream_pages(self.log, session, version, last), [])
            version = page[-1].version + 1 if page else version
            return page

        return Subscription(fetch, self._signal, follow=True)

    # -- care ----------------------------------------------------------------------------

    def flush(self) -> None:
        """Return once everything acknowledged so far is durable."""
        self.engine.check_process()
        self.engine.writer.flush()

    def train_dictionary(self) -> int:
        """Train a compression dictionary on this store's newest events; returns its number.

        New events use it; old ones keep naming theirs. Raises InvalidEvent with too few events.
        """
        if self.read_only:
            raise StoreUnavailable("the store is open read-only")
        self.flush()
        first = max(self.log.size() - TRAINING_EVENTS_MAX, 0)
        samples = [each.frame.opened(each.index)[2] for each in self.all(first)]
        Random(0).shuffle(samples)  # noqa: S311 - no secret: sessions mixed, as zstd likes it
        return self.log.add_dictionary(train(samples))


def starter_dictionary() -> bytes | None:
    """Return the dictionary that ships with the package."""
    found = files("eventstore.log").joinpath("starter.zdict")
    return found.read_bytes() if found.is_file() else None


def process_actor() -> str:
    """Return the name of the process's user, as commands record it."""
    try:
        return f"user:{getpass.getuser()}"
    except (OSError, KeyError):  # no name for this uid, as in some containers
        return f"uid:{os.getuid()}"
