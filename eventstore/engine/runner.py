"""From a request to a receipt: look, decide, encode, queue; the same for sync and async.

Invariants: a key that was seen answers before anything is looked at; a command that reads state is
decided while nobody in any process can commit; one that does not lands only where its session still
has the standing it was found to have; errors of the tree come out as they are, and then nothing was
written.
"""

import asyncio
import os
import threading
from collections.abc import Callable

from ..clock import Clock
from ..errors import (
    EventStoreError,
    KeyReused,
    KeyShredded,
    SessionClosed,
    SessionDeleted,
    SessionExists,
    SessionExpired,
    SessionNotFound,
    StoreUnavailable,
)
from ..events import KeyCreated
from ..log.base import ANY, Append, Log, Outcome, Overtaken, Receipt, Stage, same_content
from ..log.vault import STORE_KEY
from ..state.lineage import Headers
from .encoder import Drafted, Encoder
from .requests import KNOWN, LIVING, OPEN, Request
from .system import system_parts
from .writer import Writer


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
        self._acknowledges_early = interval_ms > 0
        self._pid = os.getpid()
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
        if self.first is not None:
            self.begin()
        if request.reads_state:
            receipt = self._run_alone(request)
            if request.finish is not None:
                request.finish(self)
            return receipt
        append = self._decided(request)
        if isinstance(append, Receipt):
            return append
        outcome = self.writer.submit(append)
        if isinstance(outcome, Overtaken):
            return self._run_alone(request, append)
        receipt = _accepted(outcome)
        if self._acknowledges_early and _creates(append):
            self.writer.flush()
        return receipt

    async def run_async(self, request: Request, drafted: Drafted | None) -> Receipt:
        """Run a request without blocking the event loop; `drafted` as drafted_now() gave it."""
        if drafted is None:
            return await asyncio.to_thread(self.run, request)
        self.check_process()
        if self.first is not None:
            await asyncio.to_thread(self.begin)
        if self.headers.knows(request.needs):
            append = self._decided(request, drafted)
        else:
            append = await asyncio.to_thread(self._decided, request, drafted)
        if isinstance(append, Receipt):
            return append
        outcome = await self.writer.submit_async(append)
        if isinstance(outcome, Overtaken):
            return await asyncio.to_thread(self._run_alone, request, append)
        receipt = _accepted(outcome)
        if self._acknowledges_early and _creates(append):
            await self.writer.flush_async()
        return receipt

    @property
    def forked(self) -> bool:
        """True in a child of the process that opened the store."""
        return os.getpid() != self._pid

    def check_process(self) -> None:
        """Refuse to go on in a forked child: locks and threads did not come along."""
        if os.getpid() != self._pid:
            raise StoreUnavailable("the store was opened before a fork; use one opened afresh")

    def found(self, digest: bytes) -> None:
        """Begin the system stream of an encrypted store, where the keys that are made stand.

        `digest` commits to the store's own key. Another process may have been faster.
        """
        parts = system_parts(self.log, [KeyCreated(STORE_KEY, digest.hex())])
        drafts, expected, _ = self.encoder.drafted(parts)
        append = Append(drafts, expected, self.actor)
        [outcome] = self.writer.transaction(lambda stage: stage([append], self.now()))
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

    def _run_alone(self, request: Request, overtaken: Append | None = None) -> Receipt:
        """Decide a request, or check anew what was decided, while nobody else can commit."""
        self.check_writable()  # else the transaction is refused first, in other words
        if request.look is not None:
            request.look(self)
        drafted = None
        if overtaken is not None:
            drafted = overtaken.drafts, overtaken.expected, overtaken.shreds

        def work(stage: Stage) -> Outcome:
            append = self._decided(request, drafted)
            return append if isinstance(append, Receipt) else stage([append], self.now())[0]

        return _accepted(self.writer.transaction(work))

    def _known(self, request: Request) -> Receipt | None:
        self.check_writable()
        found = self.log.receipt_of(request.key) if request.key else None
        if found is None:
            return request.known(self) if request.known else None
        content, receipt = found
        if not same_content(self.log.codec.names, request.content, content):
            raise KeyReused(request.key or "")
        return receipt

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
        others = None
        for session, needs in request.needs.items():
            others = self._check_standing(session, needs)
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
            others=None if request.reads_state else others,
        )

    def _check_standing(self, session: str, needs: str) -> int:
        """Check what a session must be; return how many events but messages it has."""
        status, expires_at, others = self.headers.standing(session)
        if status == "active" and expires_at is None:
            return others
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
            raise SessionClosed(session, status)
        return others


def _creates(append: Append) -> bool:
    """Return True for a new session: later commands must see it, so "buffered" syncs it at once."""
    return any(draft.creates for draft in append.drafts)


def _accepted(outcome: Outcome) -> Receipt:
    if isinstance(outcome, EventStoreError):
        raise outcome
    return outcome
