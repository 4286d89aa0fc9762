"""What a store tells of its facts: one by one, in pages, as they come.

Invariants: what a command acknowledged, every later read of this store sees, so each waits for what
is not durable yet; no transaction is held between pages; with `record_reads` what is handed out is
recorded before.
"""

from collections.abc import Collection, Iterator
from datetime import datetime

from ..clock import to_ns
from ..errors import InvalidEvent, StoreUnavailable, brief
from ..ids import SYSTEM
from ..log.base import Head, Log, Receipt, tail_of
from ..log.recorded import Recorded
from ..log.seal import LOCKED
from . import reading
from .commands import Commands
from .quoting import Quote
from .redaction import quoting
from .runner import Engine
from .subscription import Signal, Subscription
from .system import READ


class Answers(Commands[Receipt]):
    """A store that can be read, for callers that block."""

    log: Log
    engine: Engine
    signal: Signal
    record_reads: bool

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
        """Return True if the session was ever created.

        Raises StoreUnavailable where that can't be told: the names are sealed, the keyring is not
        at hand.
        """
        self.flush()
        found = self.log.tail(session) is not None
        if not found and self.log.codec.locked:
            raise StoreUnavailable(LOCKED)
        return found

    def version(self, session: str) -> int:
        """Return the newest version of a session. Raises SessionNotFound."""
        self.flush()
        return tail_of(self.log, session).version

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

        return Subscription(fetch, self.signal, follow=follow)

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

        return Subscription(fetch, self.signal, follow=True)

    def note_read(self, session: str | None, what: str, version: int | None = None) -> None:
        """Record, in a store opened with `record_reads`, what is handed out: call it before that.

        `what` is a state, events, one event, or the whole log; durable when it returns.
        """
        if self.record_reads:
            self.record_system(READ, {"session": session, "what": what, "version": version})

    def flush(self) -> None:
        """Return once everything acknowledged so far is durable."""
        self.engine.check_process()
        self.engine.writer.flush()
