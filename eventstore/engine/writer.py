"""Group commit: whoever leads takes all that is queued into one transaction.

Invariants: one leader at a time; an append is acknowledged only after its commit is durable
(with `interval_ms` set: after it is staged, and the commit follows within the interval); a lone
caller leads itself, past the queue, and pays no thread hand-off; who finds a leader at work queues
up and is committed by the writer thread together with all others; order per caller is kept; what
waits is at most QUEUE_BYTES_MAX, so that callers faster than the disk wait instead of filling the
memory; an interrupt ends a wait or a commit of the main thread and nobody else's (lead.py says
where it may fall).
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from ..clock import Clock
from ..errors import StoreUnavailable
from ..limits import BATCH_APPENDS_MAX, BATCH_EVENTS_MAX, QUEUE_BYTES_MAX
from ..log.base import Append, Log, Outcome, Stage, T
from .lead import Bell, Lead
from .room import Loop, Room

TICKET_BYTES = 1 << 10
"""What an append weighs besides its encoded bytes."""

Notify = Callable[[], None]
"""Told that something is in the log that was not, before its callers are."""


class Ticket:
    """One append on its way: resolved once, waited for by a thread or by an event loop."""

    __slots__ = ("append", "failure", "future", "loop", "outcome", "weight", "_done")

    def __init__(self, append: Append, loop: Loop | None = None) -> None:
        self.append = append
        self.weight = TICKET_BYTES
        for draft in append.drafts:
            self.weight += draft.weight
        self.outcome: Outcome | None = None
        self.failure: Exception | None = None
        self.loop = loop
        self.future = loop.create_future() if loop else None
        self._done = None if loop else threading.Lock()
        if self._done:
            self._done.acquire()

    def resolve(self, outcome: Outcome | None, failure: Exception | None) -> None:
        """Wake the thread that waits; event loops are woken once per batch by the writer."""
        self.outcome, self.failure = outcome, failure
        if self._done:
            self._done.release()

    @property
    def resolved(self) -> bool:
        """True once the outcome or the failure is known."""
        return self.outcome is not None or self.failure is not None

    def wait(self) -> Outcome:
        """Return the outcome, or raise what stopped the commit."""
        assert self._done is not None, "a coroutine awaits its future"
        with self._done:
            return self.result()

    def result(self) -> Outcome:
        """Return the outcome of a resolved ticket, or raise what stopped the commit."""
        if self.failure is not None:
            raise self.failure
        assert self.outcome is not None
        return self.outcome


class Writer:
    """The queue in front of a log, its leader, and the thread that leads when callers queue."""

    def __init__(self, log: Log, clock: Clock, notify: Notify, interval_ms: int = 0) -> None:
        self._log, self._clock, self._notify = log, clock, notify
        self._interval = interval_ms / 1_000
        self._queue: deque[Ticket] = deque()
        self._room = Room(QUEUE_BYTES_MAX)
        self._lead, self._wake, self._hurry = Lead(), Bell(), False
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._lost: Exception | None = None

    # -- callers -------------------------------------------------------------------------

    def submit(self, append: Append) -> Outcome:
        """Return the outcome once the append is durable."""
        self._lead.check_free()
        try:
            return self._submitted(append)
        finally:  # whoever took the lead: Ctrl-C may come before anybody could note that it did
            try:  # noqa: SIM105 - and before suppress() or give_up() would begin
                self._lead.release()
            except RuntimeError:
                pass

    def _submitted(self, append: Append) -> Outcome:
        """Return the outcome, having led or not."""
        if not self._queue and not self._interval and self._lead.acquire(blocking=False):
            self._check_open()  # nobody waits: an eighth of an append's own work is saved
            return self._commit_alone(append)
        ticket = Ticket(append)
        try:
            self._room.enter(ticket, ticket.weight)
            self._enqueue(ticket)
        except BaseException:
            self._room.leave([ticket])
            raise
        if self._may_lead() and self._lead.acquire(blocking=False):
            while not ticket.resolved:
                self._commit_batch()
        elif not self._rouse():
            self._drain()
        return ticket.wait()

    def _may_lead(self) -> bool:
        """Return True in a thread that may commit for others: no interrupt leaves them waiting."""
        return not self._interval and threading.current_thread() is not threading.main_thread()

    async def submit_async(self, append: Append) -> Outcome:
        """Like submit, for a coroutine; a cancelled caller's append still lands."""
        ticket = Ticket(append, asyncio.get_running_loop())
        try:
            if not self._room.admits(ticket, ticket.weight):
                await self._room.enter_async(ticket, ticket.weight)
            self._enqueue(ticket)
        except BaseException:
            self._room.leave([ticket])
            raise
        if not self._rouse():
            self._drain()
        assert ticket.future is not None
        await ticket.future
        return ticket.result()

    def exclusive(self) -> Lead:
        """Return the lead to wait for: nobody else in this process commits in its block."""
        if self._interval:  # else nobody holds the lead while waiting for more
            self._hurry = True
            self._wake.ring()
        return self._lead

    def transaction(self, work: Callable[[Stage], T]) -> T:
        """Run `work` in a transaction of its own: meanwhile nobody in any process commits.

        What it stages is durable when this returns.
        """
        with self.exclusive():
            self._check_open()
            done = self._log.group(work)
            self._notify()
            return done

    def flush(self) -> None:
        """Return once everything acknowledged so far is durable."""
        if self._interval:
            with self.exclusive():
                self._check_lost()

    async def flush_async(self) -> None:
        """Like flush, for a coroutine."""
        if self._interval:
            await asyncio.to_thread(self.flush)

    def close(self) -> None:
        """Commit what is queued and stop the thread; idempotent."""
        self._closed = True
        with self._starting:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            self._wake.ring()
            thread.join()
        self._drain()
        self._check_lost()

    def _drain(self) -> None:
        """Commit all that is queued, in the thread that asks."""
        with self.exclusive():
            while self._queue:
                self._commit_batch()

    def _enqueue(self, ticket: Ticket) -> None:
        """Queue a ticket that has its room, which the leader gives back as it takes it."""
        self._check_open()
        if self._lost is not None:
            self._check_lost()
        self._queue.append(ticket)

    def _check_lost(self) -> None:
        """Raise, once, when facts that were acknowledged early could not be committed."""
        lost, self._lost = self._lost, None
        if lost is not None:
            raise StoreUnavailable(f"facts acknowledged before their sync were lost: {lost}")

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")

    # -- the leader ----------------------------------------------------------------------

    def _commit_alone(self, append: Append) -> Outcome:
        outcomes = self._log.commit([append], self._clock())
        self._notify()
        return outcomes[0]

    def _commit_batch(self) -> None:
        """Commit what is queued, up to the limits of a batch, and wake its callers."""
        batch: list[Ticket] = []
        outcomes: Sequence[Outcome] = ()
        failure: Exception | None = StoreUnavailable(
            "the commit was interrupted and may have happened; repeat it with a key to know"
        )
        try:
            self._take(batch)
            appends = [ticket.append for ticket in batch]
            if appends:
                outcomes = self._log.commit(appends, self._clock())
                self._notify()
            failure = None
        except Exception as error:  # noqa: BLE001 - every caller must hear of it, whatever it is
            failure = error
        finally:  # also when Ctrl-C hits the caller that leads: the others must not wait for ever
            _resolve(batch, outcomes, failure)

    def _take(self, batch: list[Ticket]) -> None:
        """Move tickets from the queue to the batch, up to its limits."""
        events = 0
        try:
            while self._queue and len(batch) < BATCH_APPENDS_MAX and events < BATCH_EVENTS_MAX:
                ticket = self._queue.popleft()
                batch.append(ticket)
                for draft in ticket.append.drafts:
                    events += draft.count
        finally:
            self._room.leave(batch)

    # -- the writer thread ---------------------------------------------------------------

    def _rouse(self) -> bool:
        """Have the writer thread look at the queue; False where there is none to do it."""
        if self._thread is None:
            self._start()
        self._wake.ring()  # it looks at the queue after it has heard that
        return self._thread is not None and not self._closed

    def _start(self) -> None:
        with self._starting:
            if self._thread is None and not self._closed:
                thread = threading.Thread(target=self._run, name="eventstore-writer", daemon=True)
                with suppress(RuntimeError):  # the interpreter is ending: callers lead themselves
                    thread.start()
                    self._thread = thread

    def _run(self) -> None:
        if not self._is_writer():
            return
        while self._queue or not self._closed:
            self._wake.wait()
            while self._queue:
                with self.exclusive():
                    if self._interval:
                        self._commit_group()
                    elif self._queue:
                        self._commit_batch()

    def _is_writer(self) -> bool:
        """Return False in a thread in whose place another was started, since that was cut short."""
        with self._starting:
            self._thread = self._thread or threading.current_thread()
            return self._thread is threading.current_thread()

    def _commit_group(self) -> None:
        """Acknowledge appends as they are staged; commit all of them when the interval is over."""
        deadline = time.monotonic() + self._interval
        batch: list[Ticket] = []
        acknowledged = False
        self._hurry = False

        def work(stage: Stage) -> None:
            nonlocal acknowledged
            while True:
                batch.clear()
                self._take(batch)
                appends = [ticket.append for ticket in batch]
                _resolve(batch, stage(appends, self._clock()), None)
                acknowledged = acknowledged or bool(batch)
                left = deadline - time.monotonic()
                if left <= 0 or self._hurry or self._closed:
                    break
                if not self._queue:
                    self._wake.wait(left)

        try:
            self._log.group(work)
        except Exception as failure:  # noqa: BLE001 - whoever was told otherwise hears it later
            self._lost = failure if acknowledged else self._lost
            if not (batch or acknowledged):  # it could not begin: who waits would wait for ever
                self._take(batch)
            _resolve([ticket for ticket in batch if not ticket.resolved], (), failure)
        self._notify()


def _resolve(
    batch: Sequence[Ticket], outcomes: Sequence[Outcome], failure: Exception | None
) -> None:
    """Hand out outcomes; each event loop is entered once, whatever the number of callers."""
    loops: dict[Loop, list[Ticket]] = {}
    for index, ticket in enumerate(batch):
        ticket.resolve(None if failure else outcomes[index], failure)
        if ticket.loop is not None:
            loops.setdefault(ticket.loop, []).append(ticket)
    for loop, tickets in loops.items():
        try:
            loop.call_soon_threadsafe(_wake_all, tickets)
        except RuntimeError:  # the loop was closed meanwhile: nobody waits there any more
            continue


def _wake_all(tickets: list[Ticket]) -> None:
    for ticket in tickets:
        if ticket.future is not None and not ticket.future.done():
            ticket.future.set_result(None)
