"""EventStore: commands in, facts out, over one directory or in memory.

Invariants: a command returns when its facts are durable (see `durability`); readers never block
writers and hold no transaction between pages; what a command acknowledged, every later read of
this store sees; the async face in aio.py runs on the very same engine.
"""

import getpass
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Literal, Self, Unpack, overload

from .aio import AsyncStore
from .audit.trust import check_not_lost, reason_for_distrust
from .clock import Clock, system_clock
from .engine.answers import Answers
from .engine.checks import check_number
from .engine.erasure import forget_outlived, resume
from .engine.fitting import Fitter, learnt
from .engine.origins import beginning, lacks_reasons, origin_key
from .engine.requests import Options, Request
from .engine.runner import Engine
from .engine.subscription import Signal
from .errors import EventStoreError, InvalidEvent, StoreUnavailable, brief
from .files import checked_path
from .ids import SYSTEM, check_name
from .keyring import Keyring
from .limits import BRANCH_DEPTH_MAX, BUFFERED_INTERVAL_MS, MAP_BYTES_DEFAULT
from .log.base import Log, Receipt
from .log.format import MARKER, RAW
from .log.memory import MemoryLog
from .log.seal import LOCKED
from .log.vault import STORE_KEY
from .messages import Json, TokenCounter, checked_counter, count_tokens
from .place.directory import check_no_backup, describe, ensure_store
from .place.opening import check_apart, check_volume, own_log, trusted_directory
from .state.caches import drop_stale
from .state.lineage import Headers
from .state.snapshots import MemorySnapshots, Snapshots, disk_snapshots


class EventStore(Answers):
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
        self.record_reads = record_reads
        self.signal = Signal()
        self.engine = Engine(
            log,
            self.headers,
            clock,
            notify=self.signal.notify,
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
            given = f"not {brief(durability)} and {brief(compression)}"
            raise InvalidEvent(
                f"durability is 'sync' or 'buffered', compression 'zstd' or 'none', {given}"
            )
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
            snapshots: Snapshots = MemorySnapshots()
            if in_memory:
                forget_outlived(log)
            else:
                snapshots = disk_snapshots(place, log, log.erasures())
            undo.callback(snapshots.close)
            opened = cls(
                log,
                snapshots,
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
        if self.read_only:
            return
        if keyring is not None:
            self.check_keys(keyring)
        if restored and self.log.receipt_of(origin_key(self.origin)) is None:
            self.engine.first = partial(self._record_origin, restored)
            if lacks_reasons(self.log, restored):
                self.begin_origin()
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

    def __exit__(self, *_: object) -> None:
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
