"""From a request to a receipt: look, decide, encode, queue; the same for sync and async.

Invariants: a key that was seen answers before anything is looked at; a command that reads state
runs while nobody else in this process commits, and is decided anew when another process was
faster; errors of the tree come out as they are, and then nothing was written.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from functools import partial

from ..clock import Clock
from ..errors import (
    EventStoreError,
    InvalidEvent,
    KeyReused,
    KeyShredded,
    SessionDeleted,
    SessionExists,
    SessionExpired,
    SessionNotFound,
    StoreUnavailable,
    VersionConflict,
)
from ..events import KeyCreated
from ..ids import SYSTEM
from ..log.base import ANY, Append, Log, Outcome, Receipt, same_content
from ..log.vault import STORE_KEY
from ..state.lineage import Headers
from .encoder import Drafted, Encoder
from .requests import KNOWN, LIVING, OPEN, Request
from .system import system_parts
from .writer import Writer

DECISIONS_MAX = 1_000
"""How often a command is decided anew because other processes were faster."""


class Engine:
    """The write side of an open store."""

    def __init__(
        self,
        log: Log,
        headers: Headers,
        clock: Clock,
        *,
        notify: Callable[[], None],
        interval_ms: int,
        actor: str | None,
        max_depth: int,
        refusal: EventStoreError | None,
    ) -> None:
        self.log, self.headers = log, headers
        self.writer = Writer(log, clock, notify, interval_ms)
        self._pid = os.getpid()
        self._turn = 0
        self.max_depth = max_depth
        self.encoder = Encoder(log)
        self.first: Callable[[], None] | None = None
        self._beginning, self._begun = threading.RLock(), False
        self.actor = actor
        self._clock, self._refusal = clock, refusal

    def now(self) -> int:
        """Return the time in ns since the epoch."""
        return self._clock()

    def run(self, request: Request) -> Receipt:
        """Run a request to its receipt."""
        self.check_process()
        self.begin()
        if request.reads_state:
            receipt = self._run_alone(request)
            if request.finish is not None:
                request.finish(self)
            return receipt
        turn = self._turn
        append = self._decided(request)
        if isinstance(append, Receipt):
            return append
        receipt = _accepted(self.writer.submit(append, partial(self._recheck, request, turn)))
        if _creates(append):
            self.writer.flush()
        return receipt

    async def run_async(self, request: Request, drafted: Drafted | None) -> Receipt:
        """Run a request without blocking the event loop; `drafted` as drafted_now() gave it."""
        if drafted is None:
            return await asyncio.to_thread(self.run, request)
        self.check_process()
        if self.first is not None:
            await asyncio.to_thread(self.begin)
        turn = self._turn
        if self.headers.knows(request.needs):
            append = self._decided(request, drafted)
        else:
            append = await asyncio.to_thread(self._decided, request, drafted)
        if isinstance(append, Receipt):
            return append
        check = partial(self._recheck, request, turn)
        receipt = _accepted(await self.writer.submit_async(append, check))
        if _creates(append):
            await self.writer.flush_async()
        return receipt

    @property
    def forked(self) -> bool:
        """True in a child of the process that opened the store."""
        return os.getpid() != self._pid

    def check_process(self) -> None:
        """Refuse to go on in a forked child: locks and threads did not come along."""
        if self.forked:
            raise StoreUnavailable("the store was opened before a fork; use one opened afresh")

    def found(self, digest: bytes) -> None:
        """Begin the system stream of an encrypted store, where the keys that are made stand.

        `digest` commits to the store's own key. Another process may have been faster.
        """
        parts = system_parts(self.log, [KeyCreated(STORE_KEY, digest.hex())])
        drafts, expected, _ = self.encoder.drafted(parts)
        with self.writer.exclusive() as commit:
            outcome = commit(Append(drafts, expected, self.actor))
        if not isinstance(outcome, SessionExists):
            _accepted(outcome)

    def begin(self) -> None:
        """Run `first`, once, before anything else is written."""
        if self.first is not None:
            self.check_writable()
            with self._beginning:
                self._begin_alone()

    def _begin_alone(self) -> None:
        if self.first is None or self._begun:
            return
        self._begun = True  # its own command comes through here too, and passes
        try:
            self.first()
            self.first = None
        finally:
            self._begun = False

    def check_writable(self) -> None:
        """Raise why nothing may be written, where that is so."""
        if self._refusal is not None:
            raise self._refusal.with_traceback(None)

    def _run_alone(self, request: Request) -> Receipt:
        with self.writer.exclusive() as commit:
            for _ in range(DECISIONS_MAX):
                append = self._decided(request)
                if isinstance(append, Receipt):
                    return append
                outcome = commit(append)
                self._turn += 1
                if not _overtaken(outcome, request, append):
                    return _accepted(outcome)
        raise StoreUnavailable(f"other processes were faster {DECISIONS_MAX} times; retry")

    def _known(self, request: Request) -> Receipt | None:
        self.check_writable()
        found = self.log.receipt_of(request.key) if request.key else None
        if found is None:
            return request.known(self) if request.known else None
        content, receipt = found
        if not same_content(self.log.codec.names, request.content, content):
            raise KeyReused(request.key or "")
        return receipt

    def _recheck(self, request: Request, turn: int) -> None:
        """Look again, in the lead, where a command of this process ran alone since `turn`."""
        if turn != self._turn and not (request.key and self.log.receipt_of(request.key)):
            self._check_needs(request)

    def _decided(self, request: Request, drafted: Drafted | None = None) -> Append | Receipt:
        """Decide a request, or return the receipt of its key, which may come in meanwhile."""
        known = self._known(request)
        if known is not None:
            return known
        try:
            return self._append(request, drafted)
        except EventStoreError:
            known = self._known(request)
            if known is None:
                raise
            return known

    def drafted(self, request: Request) -> Drafted:
        """Decide a request and encode what it decided."""
        drafts, expected, shreds = self.encoder.drafted(request.decide(self))
        if request.expected is not ANY:
            expected = (request.expected, *expected[1:])
        return drafts, expected, shreds

    def drafted_now(self, request: Request) -> Drafted | None:
        """Encode a request at once: its caller may change what it gave before it is run.

        None where that has to wait: for state to be read, or because there is no key to seal with,
        of which run_async() says why.
        """
        if request.reads_state:
            return None
        try:
            return self.drafted(request)
        except (SessionNotFound, KeyShredded, StoreUnavailable):
            return None

    def _append(self, request: Request, drafted: Drafted | None) -> Append:
        """Check what the request needs, then decide it, unless that is done."""
        self._check_needs(request)
        drafts, expected, shreds = drafted or self.drafted(request)
        return Append(
            drafts=drafts,
            expected=expected,
            actor=request.actor or self.actor,
            correlation_id=request.correlation_id,
            causation_id=request.causation_id,
            key=request.key,
            content=request.content,
            shreds=shreds,
        )

    def _check_needs(self, request: Request) -> None:
        for session, needs in request.needs.items():
            self._check_standing(session, needs)

    def _check_standing(self, session: str, needs: str) -> None:
        status, expires_at, _ = self.headers.standing(session)
        if status == "erased":
            raise KeyShredded(session)
        if status == "deleted" and needs != KNOWN:
            raise SessionDeleted(session)
        if (
            needs in (LIVING, OPEN)
            and expires_at is not None
            and self.now() >= expires_at
            and not self.headers.held(session)
        ):
            raise SessionExpired(session, expires_at)
        if needs == OPEN and status != "active":
            raise InvalidEvent(f"session {session!r} is {status}; reopen it first")


def _creates(append: Append) -> bool:
    """Return True for a new session: later commands must see it, so "buffered" syncs it at once."""
    return any(draft.creates for draft in append.drafts)


def _overtaken(outcome: Outcome, request: Request, append: Append) -> bool:
    """Return True where the state decided from is old; a version the caller expects is not."""
    if isinstance(outcome, SessionExists):
        return outcome.session == SYSTEM
    if not isinstance(outcome, VersionConflict):
        return False
    return request.expected is ANY or outcome.session != append.drafts[0].session


def _accepted(outcome: Outcome) -> Receipt:
    if isinstance(outcome, EventStoreError):
        raise outcome
    return outcome
