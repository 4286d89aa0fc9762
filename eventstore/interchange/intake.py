"""Whole sessions on their way in: looked through first, then committed many at a time.

Invariants: everything that was brought is read and checked before the first fact is written; a
session comes with all its facts or not at all, whatever stops the import; their order in the log
is the order they were brought in.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from ..engine.requests import Part
from ..errors import EventStoreError, EventTooLarge, InvalidEvent, SessionExists
from ..events import BranchCreated, Event, MessageAppended
from ..ids import check_name
from ..limits import APPEND_BYTES_MAX, APPEND_EVENTS_MAX, EVENT_BYTES_MAX, MIB
from ..log.base import NO_STREAM, Append, Log, Stage
from ..log.codec import encode_all
from ..log.plan import pack_appends
from ..messages import Json, Message
from ..store import EventStore

COMMIT_EVENTS = 5_000
"""Sessions are gathered up to so many events, then they share one commit."""

COMMIT_BYTES = 4 * MIB
"""Or up to so many bytes of payloads."""

PACK_EVENTS = 1_000
"""So many are packed at once: their payloads are still in the processor's own cache, which saves a
tenth of what they take to encode and pack, and no lead or transaction is held up by it."""

ENVELOPE_BYTES = 64
"""More than a message's payload has besides the message."""

Progress = Callable[[int], None]
"""Is told how many more messages are in."""


class Imported(msgspec.Struct, frozen=True):
    """What an import brought; `sessions` are those that are no branches."""

    sessions: int = 0
    branches: int = 0
    messages: int = 0
    events: int = 0


class Whole(msgspec.Struct, frozen=True):
    """All of one session to be: `opening` facts, checked messages, their times in ns or None.

    No times at all where no message has one.
    """

    session: str
    opening: Sequence[Event]
    messages: Sequence[dict[str, Json]]
    times: Sequence[int | None]


def take_in(
    store: EventStore,
    read: Callable[[], Iterable[Whole]],
    progress: Progress | None = None,
    actor: str | None = None,
) -> Imported:
    """Import what `read()` gives, which is asked twice: to look it through, and to write it.

    Raises SessionExists before anything is written. An error after that (the disk is full,
    another process took a name) says how many whole sessions are in.
    """
    check_writable(store)
    _look_through(store, read())
    intake = _Intake(store, progress, actor)
    with _told(intake):
        for whole in read():
            intake.add(whole)
        intake.commit()
    return intake.imported


def check_writable(store: EventStore) -> None:
    """Raise what a command would if nothing may be written; let what was said be visible."""
    store.engine.check_writable()
    store.flush()


def check_new(log: Log, session: str) -> None:
    """Raise SessionExists where the name is taken."""
    if log.tail(session) is not None:
        raise SessionExists(session)


def _look_through(store: EventStore, wholes: Iterable[Whole]) -> None:
    seen: set[str] = set()
    for whole in wholes:
        if check_name(whole.session, "session id") in seen:
            raise SessionExists(whole.session, "comes twice in what is imported")
        seen.add(whole.session)
        check_new(store.log, whole.session)
        with _placed(f"session {whole.session!r}"):
            encode_all(whole.opening)
        if not _fits(whole.messages):
            for number, said in enumerate(_said(store, whole), 1):
                with _placed(f"session {whole.session!r}, message {number}"):
                    encode_all([said])


def _fits(messages: Sequence[dict[str, Json]]) -> bool:
    """Return True where each of the messages can be stored, as even all of them could be as one."""
    try:
        return len(msgspec.msgpack.encode(messages)) + ENVELOPE_BYTES <= EVENT_BYTES_MAX
    except (UnicodeEncodeError, OverflowError, TypeError, RecursionError):
        return False


def _said(store: EventStore, whole: Whole) -> list[MessageAppended]:
    return [MessageAppended(Message(each), store.count_tokens(each)) for each in whole.messages]


@contextmanager
def _placed(where: str) -> Iterator[None]:
    """Have an error say where what it is about stands."""
    try:
        yield
    except InvalidEvent as error:
        error.args = (f"{where}: {error}",)
        raise


@contextmanager
def _told(intake: "_Intake") -> Iterator[None]:
    """Have an error say what is in already, so that nobody has to guess."""
    try:
        yield
    except EventStoreError as error:
        done = intake.imported
        if done.events:
            whole = f"{done.sessions + done.branches} whole sessions"
            error.args = (f"{error}; {whole} ({done.messages} messages) were imported before",)
        raise


class _Intake:
    """Sessions drafted here, gathered, and committed together."""

    def __init__(self, store: EventStore, progress: Progress | None, actor: str | None) -> None:
        self.imported = Imported()
        self._store, self._log, self._engine = store, store.log, store.engine
        self._actor = actor or store.engine.actor
        self._progress = progress
        self._keys: dict[str, int] = {}
        self._waiting: list[Append] = []
        self._sum = Imported()
        self._bytes = self._loose = 0

    def add(self, whole: Whole) -> None:
        """Draft a session, and commit what has gathered once that is enough."""
        said = _said(self._store, whole)
        events = [*whole.opening, *said]
        try:
            appends = self._drafted(events, whole, APPEND_EVENTS_MAX)
        except EventTooLarge:  # no event is, so it is too many bytes for one append
            appends = self._drafted(events, whole, APPEND_BYTES_MAX // EVENT_BYTES_MAX)
        self._waiting += appends
        self._bytes += sum(each.weight for append in appends for each in append.drafts)
        branch = isinstance(whole.opening[0], BranchCreated)
        new = Imported(not branch, branch, len(said), len(whole.opening) + len(said))
        self._sum = _added(self._sum, new)
        self._loose += new.events
        if self._loose >= PACK_EVENTS:
            self._pack()
        if self._sum.events >= COMMIT_EVENTS or self._bytes >= COMMIT_BYTES:
            self.commit()

    def _drafted(self, events: list[Event], whole: Whole, most: int) -> list[Append]:
        """Return a session as appends of `most` events."""
        times = [*[None] * len(whole.opening), *whole.times] if whole.times else ()
        appends = []
        for start in range(0, len(events), most):
            part = slice(start, start + most)
            expected = start - 1 if start else NO_STREAM
            made = Part(whole.session, events[part], expected, times[part])
            drafts, versions, _ = self._engine.encoder.drafted([made], self._keys)
            appends.append(Append(drafts, versions, self._actor))
        return appends

    def _pack(self) -> None:
        pack_appends(self._waiting, self._log.codec)
        self._loose = 0

    def commit(self) -> None:
        """Write what has gathered: one transaction, all of it or nothing."""
        if not self._waiting:
            return
        self._pack()
        self._engine.writer.transaction(self._write)
        self.imported = _added(self.imported, self._sum)
        if self._progress:
            self._progress(self._sum.messages)
        self._waiting, self._sum, self._bytes = [], Imported(), 0
        self._keys.clear()

    def _write(self, stage: Stage) -> None:
        for append in self._waiting:  # first all of them: in memory nothing is taken back
            if append.drafts[0].creates:
                check_new(self._log, append.drafts[0].session)
        for outcome in stage(self._waiting, self._engine.now()):
            if isinstance(outcome, EventStoreError):
                raise outcome


def _added(one: Imported, other: Imported) -> Imported:
    return Imported(
        one.sessions + other.sessions,
        one.branches + other.branches,
        one.messages + other.messages,
        one.events + other.events,
    )
