"""EventStore: commands in, facts out, over one directory or in memory.

Invariants: a command returns when its facts are durable (see `durability`); readers never block
writers and hold no transaction between pages; what a command acknowledged, every later read of
this store sees; the async face in aio.py runs on the very same engine.
"""

import getpass
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, suppress
from datetime import datetime
from functools import partial
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, Unpack, overload

from .aio import AsyncStore
from .audit.trust import check_not_lost, reason_for_distrust
from .clock import Clock, system_clock, to_ns
from .engine import reading
from .engine.commands import Commands
from .engine.erasure import resume
from .engine.fitting import Fitter, learnt
from .engine.origins import beginning, lacks_reasons, origin_key
from .engine.quoting import Quote
from .engine.redaction import quoting
from .engine.requests import Options, Request
from .engine.runner import Engine
from .engine.subscription import Signal, Subscription
from .engine.system import READ
from .errors import (
    EventStoreError,
    InvalidEvent,
    StoreUnavailable,
    brief,
)
from .files import checked_path
from .ids import SYSTEM, check_name
from .keyring import Keyring
from .limits import BRANCH_DEPTH_MAX, BUFFERED_INTERVAL_MS, MAP_BYTES_DEFAULT
from .log.base import Head, Log, Receipt
from .log.format import MARKER, RAW
from .log.memory import MemoryLog
from .log.recorded import Recorded
from .log.seal import LOCKED
from .log.vault import STORE_KEY
from .messages import Json, TokenCounter, checked_counter, count_tokens
from .place.directory import check_no_backup, describe, ensure_store
from .place.opening import (
    check_apart,
    check_number,
    check_volume,
    own_log,
    trusted_directory,
)
from .state.caches import drop_stale
from .state.lineage import Headers
from .state.snapshots import MemorySnapshots, Snapshots, disk_snapshots


class EventStore(Commands[Receipt]):
    """The history of sessions as facts; safe for many threads, tasks and processes."""

    def __init__(
        self,
        log: Log,
        snapshots: Snapshots,
        *,
        path: Path | None = None,
        store: str = "",
        origin: str = "",
        clock: Clock = system_clock,
        actor: str | None = None,
        max_depth: int = BRANCH_DEPTH_MAX,
        count_tokens: TokenCounter = count_tokens,
        interval_ms: int = 0,
        read_only: bool = False,
        record_reads: bool = False,
        distrust: EventStoreError | None = None,
    ) -> None:
        check_number(max_depth, "max_depth", 0)
        if actor:
            check_name(actor, "actor")
        self.log, self.path, self.id = log, path, store
        self.origin = origin or store
        self.distrust = distrust
        refusal = StoreUnavailable("the store is open read-only") if read_only else distrust
        if log.codec.locked:
            refusal = refusal or StoreUnavailable(LOCKED)
        self.read_only = refusal is not None
        forget = _keep_all if path is None or refusal else partial(drop_stale, path)
        self.headers = Headers(log, snapshots, forget)
        self.count_tokens = checked_counter(count_tokens)
        self._record_reads = record_reads
        self._signal = Signal()
        self.engine = Engine(
            log,
            self.headers,
            clock,
            notify=self._signal.notify,
            interval_ms=interval_ms,
            actor=actor or process_actor(),
            max_depth=max_depth,
            refusal=refusal,
        )
        self._on_close: list[Callable[[], None]] = []
        self.fitter: Fitter | None = None
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
        keyring: Keyring | None = None,
        clock: Clock = system_clock,
        actor: str | None = None,
        max_depth: int = BRANCH_DEPTH_MAX,
        count_tokens: TokenCounter = count_tokens,
        trust: str | os.PathLike[str] | None = None,
        record_reads: bool = False,
        train: bool = True,
    ) -> Self:
        """Open the store in a directory, made on first use.

        `sync` acknowledges after the fsync. `buffered` acknowledges before it and commits, fully
        synced, within BUFFERED_INTERVAL_MS: a crash loses at most what that interval held.
        `keyring` makes a new store an encrypted one, and opens one that is: without it that shows
        pseudonyms instead of names, what stands in heads, and no payload; it can't be written.
        `map_size` in bytes; `actor` stands for commands that name none, by default the process's
        user. `trust` is the directory outside the store that keeps its last signed head, by
        default `<path>.audit` where there is one: if the log does not lead on from that head, the
        store can be read, `distrust` says why, and every command raises it (RollbackDetected).
        With `record_reads` each read of a session through this object is a fact of the system
        stream, with the actor, before its caller gets anything. With `train` a plain store makes
        compression dictionaries of what is said in it, in the background, where they pay
        (engine/fitting.py). An erasure that was interrupted is completed, and a store restored
        to a moment says what was redacted after it. Raises StoreUnavailable, FormatTooNew and
        Corruption.
        """
        if record_reads and read_only:
            raise InvalidEvent("reads can't be recorded in a store that is open read-only")
        if durability not in ("sync", "buffered") or compression not in ("zstd", "none"):
            raise InvalidEvent("durability is 'sync' or 'buffered', compression 'zstd' or 'none'")
        check_number(map_size, "map_size", 1)
        place = checked_path(path, "path")
        check_apart(keyring, place, read_only=read_only)
        trusted = trusted_directory(place, trust)
        check_volume(place, read_only=read_only)
        if not read_only:
            check_no_backup(place)
            check_not_lost(place / MARKER, trusted)
            ensure_store(place, starter_dictionary(), encrypted=keyring is not None)
        marker = describe(place)
        store = marker["store"]
        origin, restored = marker["origin"], marker["restored"]
        log = own_log(place, store, keyring, map_size=map_size, read_only=read_only)
        with ExitStack() as undo:
            undo.callback(log.close)
            if compression == "none":
                log.codec.current = RAW
            found = reason_for_distrust(log, origin, restored.get("origin"), trusted)
            in_memory = read_only or found is not None or log.codec.locked
            opened = cls(
                log,
                MemorySnapshots() if in_memory else disk_snapshots(place, log, log.erasures()),
                path=place,
                store=store,
                origin=origin,
                clock=clock,
                actor=actor,
                max_depth=max_depth,
                count_tokens=count_tokens,
                interval_ms=BUFFERED_INTERVAL_MS if durability == "buffered" else 0,
                read_only=read_only,
                record_reads=record_reads,
                distrust=found,
            )
            undo.callback(opened.close)
            opened._begin(keyring, restored)
            if train and not (opened.read_only or opened.encrypted or log.codec.current == RAW):
                opened.fitter = Fitter(log, opened.engine.writer.exclusive)
            undo.pop_all()
        return opened

    def _begin(self, keyring: Keyring | None, restored: dict[str, Json]) -> None:
        """Check the keys, note what a restored store has to say first, complete erasures."""
        if keyring is not None and not self.read_only:
            self.check_keys(keyring)
        writable = not (self.read_only or self.log.codec.locked)
        if restored and writable and self.log.receipt_of(origin_key(self.origin)) is None:
            self.engine.first = partial(self._record_origin, restored)
            if lacks_reasons(self.log, restored):
                self.begin_origin()
        if writable:
            resume(self.engine)

    @classmethod
    def in_memory(
        cls,
        *,
        clock: Clock = system_clock,
        actor: str | None = None,
        max_depth: int = BRANCH_DEPTH_MAX,
        count_tokens: TokenCounter = count_tokens,
        record_reads: bool = False,
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
            record_reads=record_reads,
        )

    def __repr__(self) -> str:
        place = "in memory" if self.path is None else repr(str(self.path))
        return f"<EventStore {place}{', read-only' if self.read_only else ''}>"

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
            self._close_writers()
        finally:
            while self._on_close:
                self._on_close.pop()()
            self.headers.close()
            self.log.close()
        return None

    def _close_writers(self) -> None:
        try:
            if self.fitter is not None:
                self.fitter.close()  # a dictionary that is being trained is kept
        finally:
            self.engine.writer.close()

    def on_close(self, release: Callable[[], None]) -> None:
        """Have `release` called when the store is closed: for views kept beside the log."""
        self._on_close.append(release)

    def off_close(self, release: Callable[[], None]) -> None:
        """Take back what on_close() was told, if it is not taken back yet."""
        with suppress(ValueError):
            self._on_close.remove(release)

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
        start = max(reading.checked_place(first, "from_version"), 0)
        end = newest if last is None else min(reading.checked_place(last, "to_version"), newest)
        self.note_read(session, "events", end)
        return reading.stream_pages(self.log, session, start, end, reverse=reverse)

    def all(
        self,
        from_position: int = 0,
        *,
        limit: int | None = None,
        types: Collection[str] | None = None,
    ) -> Iterator[Recorded]:
        """Iterate over the whole log; `types` are names such as "MessageAppended"."""
        return reading.flat(self.log_pages(from_position, types), limit)

    def log_pages(self, position: int, types: Collection[str] | None) -> Iterator[reading.Page]:
        """Return the pages behind all()."""
        start = reading.checked_place(position, "from_position")
        self.flush()
        self.note_read(None, "log")
        return reading.log_pages(self.log, start, types)

    def event(self, position: int) -> Recorded:
        """Return the event at a position. Raises InvalidEvent where there is none."""
        self.flush()
        size = self.log.size()
        if not 0 <= reading.checked_place(position, "position") < size:
            raise InvalidEvent(f"positions go from 0 to {size - 1}, not {brief(position)}")
        frames = self.log.read_all(position, frames_max=1)
        found = Recorded(frames[0], position - frames[0].position)
        self.note_read(found.session, "event", found.version)
        return found

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
            raise self.log.codec.missing(session)
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

    def quoting(self, session: str, message: str | int | None = None) -> list[Quote]:
        """Return the summaries that were made of a message and can still be read, oldest first.

        Each as (session, version, position): in the session itself, its branches, those that it was
        merged into, now or in the past; summaries of summaries too. `message` is its id, or its
        version in the session's own stream; without it, what other sessions made of all of this
        one, erased or not. Takes 1 to 3 us an event from the message on. Raises InvalidEvent,
        SessionNotFound, KeyShredded.
        """
        self.flush()
        return quoting(self.engine, session, message)

    def subscribe(self, from_position: int = 0, *, follow: bool = True) -> Subscription:
        """Return an iterator over the log from a position on, which waits for more."""
        position = reading.checked_place(from_position, "from_position")
        self.note_read(None, "log")

        def fetch() -> reading.Page:
            nonlocal position
            self.flush()
            page = next(reading.log_pages(self.log, position), [])
            position = page[-1].position + 1 if page else position
            return page

        return Subscription(fetch, self._signal, follow=follow)

    def follow(self, session: str, from_version: int = 0) -> Subscription:
        """Return an iterator over one session's events that waits for more."""
        version = max(reading.checked_place(from_version, "from_version"), 0)
        self.note_read(session, "events", self.version(session))

        def fetch() -> reading.Page:
            nonlocal version
            self.flush()
            tail = self.log.tail(session)
            last = tail.version if tail else -1
            page = next(reading.stream_pages(self.log, session, version, last), [])
            version = page[-1].version + 1 if page else version
            return page

        return Subscription(fetch, self._signal, follow=True)

    def note_read(self, session: str | None, what: str, version: int | None = None) -> None:
        """Record, in a store opened with `record_reads`, what is handed out: call it before that.

        `what` is a state, events, one event, or the whole log; durable when it returns.
        """
        if self._record_reads:
            self.record_system(READ, {"session": session, "what": what, "version": version})

    # -- care ----------------------------------------------------------------------------

    @property
    def encrypted(self) -> bool:
        """True for a store that was made with a keyring."""
        return self.log.codec.seal is not None

    def check_keys(self, keyring: Keyring) -> None:
        """Raise StoreUnavailable unless the keyring opens the first fact, made if it is due."""
        seal = self.log.codec.seal
        assert seal is not None
        if self.log.tail(SYSTEM) is None:
            digest = seal.opened().commitment(STORE_KEY)
            assert digest is not None, "an unlocked keyring has the store's own key"
            self.engine.found(digest)
        try:
            self.log.read_stream(SYSTEM, 0, frames_max=1)[0].event(0)
        except EventStoreError as error:
            raise StoreUnavailable(f"{keyring.path} does not open this store: {error}") from None

    def begin_origin(self) -> None:
        """Record which origin a restored store goes on from, as else its first command does."""
        self.engine.begin()

    def _record_origin(self, restored: dict[str, Json]) -> None:
        self._submit(beginning(self.origin, restored))

    def flush(self) -> None:
        """Return once everything acknowledged so far is durable."""
        self.engine.check_process()
        self.engine.writer.flush()

    @property
    def trained(self) -> bool:
        """True where a dictionary was made of what was said here.

        It may hold pieces of what was redacted since, until `compact` makes another.
        """
        return self.log.codec.trained

    def train_dictionary(self) -> int:
        """Train a compression dictionary on this store's newest events; returns its number.

        New events use it; old ones keep naming theirs. It is made of pieces of what was said: what
        is redacted later may be among them until `compact` has made another. Raises InvalidEvent
        with too few events.
        """
        self.engine.check_writable()
        if self.encrypted:
            raise InvalidEvent("an encrypted store is not trained: dictionaries hold what was said")
        self.flush()
        return self.log.add_dictionary(learnt(self.log))


def _keep_all(_: int) -> None:
    """Delete nothing: there is nothing on disk, or it may not be changed."""


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
