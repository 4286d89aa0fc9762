"""A file of events, looked through before its first fact is written.

Invariants: what passes can be written and verified: streams are whole from version 0 and in
order, names and times can be kept, numbers and words are such as commands record, a merge is there
in both streams, and whatever else an event refers to (a parent, lines that it hides) is in the file
before it, or in the store; nothing in it says that something was redacted or erased; the survey
writes nothing.
"""

from collections.abc import Iterable

from ..engine import checks
from ..errors import InvalidEvent, KeyReused, brief
from ..events import (
    AnyEvent,
    BranchCreated,
    BranchMerged,
    ContextSet,
    Custom,
    EraseRequested,
    ErrorRecorded,
    HistorySummarized,
    KeyCreated,
    KeyShredded,
    LegalHoldCleared,
    LegalHoldSet,
    MessageAppended,
    MessagesPruned,
    Redacted,
    SessionCreated,
    SessionRewound,
    Span,
    ToolCallRecorded,
    TtlExtended,
)
from ..ids import SYSTEM, check_name, optional_name
from ..limits import APPEND_BYTES_MAX, TTL_SECONDS_MAX
from ..log.base import Log
from ..log.format import CREATING, TYPE_CODES
from ..log.shredding import stripped
from ..messages import TOKENS_MAX, check_message
from ..spans import length
from ..state.decisions import CONFLICT_RULES, STRATEGIES
from .intake import Imported, check_new
from .lines import Line, Numbered, check_commitment, content_of, event_of
from .shown import Shown

TIME_MAX = (1 << 63) - 1
"""Nanoseconds since the epoch that a store can keep, up to the year 2262."""

EXPIRY_MAX = TIME_MAX + TTL_SECONDS_MAX * 1_000_000_000
"""The latest end of a session that begins by then."""


_FORGETS = (Redacted, EraseRequested, KeyShredded)
"""What comes with a loss of payloads, and is forged where the file has all of them."""


class Survey:
    """What a file holds; `whole` says that it is a log from its first position on, no gap.

    Where it isn't, or the log was encrypted with keys that are not in the file, what stands in the
    system stream is about another store and stays there.
    """

    def __init__(self, log: Log) -> None:
        self.whole = True
        self._system = 0
        self.branches = 0
        self.size = 0
        self._log = log
        self._position = -1
        self._recorded_at = 0
        self._bytes = 0
        self._keys: set[str] = set()
        self._versions: dict[str, int] = {}
        self._messages: dict[str, int] = {}
        self._notes: set[tuple[str, int]] = set()
        self._shown = Shown(log)

    def found(self, *, carried: bool) -> Imported:
        """Return what an import of the file brings: `carried` says that it is all of the file."""
        sessions = len(self._versions) - self.branches - (SYSTEM in self._versions)
        events = self.size if carried else self.size - self._system
        return Imported(sessions, self.branches, sum(self._messages.values()), events)

    def check_free(self) -> None:
        """Raise SessionExists or KeyReused where the store has one of the file's names."""
        for session in self._versions:
            if session != SYSTEM:
                check_new(self._log, session)
        for key in self._keys:
            if self._log.receipt_of(key) is not None:
                raise KeyReused(key)

    def take(self, append: list[Numbered]) -> None:
        """Look through one append. Raises InvalidEvent, SessionExists and KeyReused."""
        number, first = append[0]
        self._check_envelope(number, first)
        self._bytes = 0
        events = [self._checked(*each) for each in append]
        if any(isinstance(event, BranchMerged) for event in events):
            self._check_halves(append, events)

    def _checked(self, number: int, line: Line) -> AnyEvent:
        """Return the event of a line that may stand where it stands."""
        self._check_order(number, line)
        event = event_of(number, line)
        self._bytes += check_commitment(number, line, event)
        if self._bytes > APPEND_BYTES_MAX:
            raise InvalidEvent(f"line {number}: its append is over {APPEND_BYTES_MAX} bytes")
        try:
            self._check_event(line, event)
            _check_words(event)
            _check_numbers(event)
            self._shown.take(line, event)
        except InvalidEvent as error:
            raise InvalidEvent(f"line {number}: {error}") from None
        self._count(line, event)
        return event

    def _check_halves(self, append: list[Numbered], events: list[AnyEvent]) -> None:
        """Raise unless the append is a merge: a fact in one stream, its marker in the other."""
        number, event = append[0][0], events[0]
        sessions = [line.session for _, line in append]
        merged = isinstance(event, BranchMerged) and [event.into, event.source]
        if sessions != merged or stripped(events[1]) != stripped(event):
            found = next(each for each in events if isinstance(each, BranchMerged))
            raise InvalidEvent(
                f"line {number}: {brief(found.source)} was merged into {brief(found.into)}; a merge"
                " is in the file for both of them, or for none: export both"
            )

    def _check_envelope(self, number: int, line: Line) -> None:
        """Check what all lines of an append share, and its key."""
        for what in ("actor", "correlation_id", "causation_id", "key"):
            optional_name(getattr(line, what), f"line {number}: {what}")
        content_of(number, line)
        if line.key is not None:
            if line.key in self._keys:
                raise KeyReused(line.key)
            if line.session != SYSTEM:
                self._keys.add(line.key)
        if not 0 <= line.recorded_at <= TIME_MAX:
            raise InvalidEvent(f"line {number}: recorded_at must be ns from 0 to {TIME_MAX}")
        self.whole = self.whole and line.recorded_at >= self._recorded_at
        self._recorded_at = line.recorded_at

    def _check_order(self, number: int, line: Line) -> None:
        """Check that positions rise and that the stream goes on where it stopped."""
        if line.occurred_at is not None and not -TIME_MAX <= line.occurred_at <= TIME_MAX:
            raise InvalidEvent(f"line {number}: occurred_at must be ns in 64 bits")
        if line.position <= self._position:
            raise InvalidEvent(f"line {number}: position {line.position} comes too late")
        self.whole = self.whole and line.position == self._position + 1
        self._position = line.position
        version = self._versions.get(line.session, -1) + 1
        if line.version != version:
            raise InvalidEvent(
                f"line {number}: session {brief(line.session)} goes on with version {line.version}"
                f" instead of {version}; export it whole"
            )
        if version == 0:
            check_name(line.session, f"line {number}: session id")
            if line.session != SYSTEM:
                check_new(self._log, line.session)

    def _check_event(self, line: Line, event: AnyEvent) -> None:
        """Check what the event refers to."""
        if (TYPE_CODES[type(event)] in CREATING) != (line.version == 0):
            raise InvalidEvent(f"{line.type} can't be version {line.version} of a session")
        if isinstance(event, _FORGETS):
            raise InvalidEvent(f"{line.type}: what is gone no file of events carries")
        if line.session != SYSTEM and _is_of_store(event):
            raise InvalidEvent(f"{line.type}: that is for the store to say, not for a session")
        if isinstance(event, BranchCreated):
            self._check_moment(line.session, event.parent, event.at_version)
        elif isinstance(event, SessionRewound):
            if not 0 <= event.to_version < line.version:
                target = event.to_version
                raise InvalidEvent(f"version {target} does not come before this {line.type}")
        elif isinstance(event, (MessagesPruned, HistorySummarized)):
            self._check_spans(line.session, event.spans)
            if length(event.spans) != event.count:
                raise InvalidEvent(
                    f"{line.type} of {event.count} lines names {length(event.spans)}"
                )
        elif isinstance(event, BranchMerged):
            self._check_merge(line, event)

    def _check_merge(self, line: Line, event: BranchMerged) -> None:
        if event.into == line.session and event.into_version == line.version:
            self._check_moment(line.session, event.source, event.source_version)
            self._check_spans(line.session, [*event.brought, *event.hidden])
            for session, version in event.base:
                if session != line.session or version >= line.version:
                    self._check_moment(line.session, session, version)
        elif event.source != line.session or event.source_version != line.version - 1:
            raise InvalidEvent(f"a merge into {brief(event.into)} can't stand here")

    def _check_moment(self, session: str, other: str, version: int) -> None:
        """Raise unless `other`, which `session` builds on, has that version."""
        last = self._versions.get(other)
        if last is None or other == session:
            tail = self._log.tail(other) if other else None
            last = tail.version if tail else None
        if last is None:
            raise InvalidEvent(
                f"session {session!r} builds on {brief(other)}, which is neither in the file nor in"
                " the store; export it too"
            )
        if not 0 <= version <= last:
            raise InvalidEvent(
                f"session {session!r} builds on version {version} of {brief(other)}, which has"
                f" 0-{last}"
            )

    def _check_spans(self, session: str, spans: Iterable[Span]) -> None:
        for span in spans:
            if span.session in self._versions:
                known, notes = self._messages[span.session], self._notes
                is_note = (span.session, span.start) in notes
            else:
                tail = self._log.tail(span.session) if span.session else None
                known, is_note = (tail.messages if tail else 0), tail is not None
            sound = span.stop == span.start + 1 and is_note if span.note else span.stop <= known
            if not (0 <= span.start < span.stop and sound):
                raise InvalidEvent(
                    f"session {session!r} refers to messages {span.start} to {span.stop} of"
                    f" {brief(span.session)}, which are neither in the file nor in the store"
                )

    def _count(self, line: Line, event: AnyEvent) -> None:
        self.size += 1
        self._system += line.session == SYSTEM
        self.whole = self.whole and not isinstance(event, KeyCreated)
        self.branches += isinstance(event, BranchCreated)
        self._versions[line.session] = line.version
        said = self._messages.get(line.session, 0)
        self._messages[line.session] = said + isinstance(event, MessageAppended)
        noted = isinstance(event, BranchMerged) and event.into == line.session and event.summary
        if noted or isinstance(event, HistorySummarized):
            self._notes.add((line.session, line.version))


def _is_of_store(event: AnyEvent) -> bool:
    """Return True for a fact that only the system stream may hold."""
    holds = isinstance(event, (LegalHoldSet, LegalHoldCleared)) and event.user is not None
    return holds or isinstance(event, KeyCreated)


def _check_words(event: AnyEvent) -> None:
    """Raise InvalidEvent for a name, a choice or a summary that no command would have recorded."""
    if isinstance(event, SessionCreated):
        optional_name(event.user, "user")
        optional_name(event.template, "template")
    elif isinstance(event, (LegalHoldSet, LegalHoldCleared)):
        optional_name(event.user, "user")
    elif isinstance(event, ContextSet):
        check_name(event.key, "context key")
    elif isinstance(event, ToolCallRecorded):
        check_name(event.name, "tool name")
    elif isinstance(event, ErrorRecorded):
        check_name(event.kind, "error kind")
    elif isinstance(event, Custom):
        check_name(event.name, "event type")
    elif isinstance(event, HistorySummarized):
        check_message(event.summary)
    elif isinstance(event, BranchMerged):
        checks.check_choice(event.strategy, STRATEGIES, "strategy")
        checks.check_choice(event.on_conflict, CONFLICT_RULES, "on_conflict")
        if event.summary is not None:
            check_message(event.summary)


def _check_numbers(event: AnyEvent) -> None:
    """Raise InvalidEvent for a number that no command would have recorded.

    Those that follow from lines are compared with these, see shown.py.
    """
    if isinstance(event, MessageAppended):
        _check_within(event.tokens, 0, TOKENS_MAX, "tokens")
    elif isinstance(event, (SessionCreated, TtlExtended)):
        _check_life(event)
    elif isinstance(event, ToolCallRecorded):
        checks.milliseconds(event.duration_ms)
    elif isinstance(event, HistorySummarized):
        _check_within(event.tokens, 0, TOKENS_MAX, "tokens")
    elif isinstance(event, BranchMerged):
        most = 0 if event.summary is None else TOKENS_MAX
        _check_within(event.summary_tokens, 0, most, "summary_tokens")


def _check_life(event: SessionCreated | TtlExtended) -> None:
    """Check until when a session lives, and its limits."""
    checks.seconds(event.ttl)
    if event.expires_at is not None:
        _check_within(event.expires_at, 0, EXPIRY_MAX, "expires_at")
    if isinstance(event, SessionCreated):
        checks.check_limit(event.max_messages, "max_messages")
        checks.check_limit(event.token_limit, "token_limit")


def _check_within(number: int, least: int, most: int, what: str) -> None:
    if not least <= number <= most:
        raise InvalidEvent(f"{what} must be {least} to {most}, not {number}")
