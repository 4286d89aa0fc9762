"""Redaction: what one fact says goes for good, on request with the summaries that were made of it.

Invariants: what a message's name means, what goes with it and whether a hold forbids that is
decided while nobody else can write; all of it goes in one append, or nothing does; each payload
that goes has its own fact in its own stream, which stays.
"""

from collections.abc import Iterable
from contextlib import suppress

from .. import events as ev
from ..errors import EventStoreError, InvalidEvent, VersionConflict
from ..ids import parse_message_id
from ..log.base import ANY, Log, Receipt, fact_at, facts_of, receipt_again
from ..log.format import MESSAGE, NOTES, TYPE_CODES
from ..log.recorded import Recorded
from ..log.shredding import TOLD, Shred
from ..messages import Json
from ..spans import minus
from ..state.decisions import find_line
from ..state.lineage import checked_version
from .quoting import Quote, Quoting, lines_of
from .requests import KNOWN, Ground, Options, Part, Request, Runner, checked_expected, request

_SINGLE = {TYPE_CODES[kind] for kind in (*TOLD, ev.ContextSet, ev.MetadataUpdated)}
"""Types of facts that a fold can do without: what they say can go."""


def redaction(
    session: str, message: str | int, reason: str | None, options: Options, *, summaries: bool
) -> Request:
    """Return the request that takes what one fact says away for good.

    With `summaries` also what the store knows to be made of it.
    """
    seen = checked_expected(options.pop("expected", ANY))  # of the session, not of the stream
    made = _Made(wanted=summaries)

    def look(ground: Ground) -> None:
        with suppress(EventStoreError):  # decide() raises it
            made.of(ground.log, *said_at(ground, session, message))

    def known(ground: Ground) -> Receipt | None:
        if ground.log.tail(session) is None or not ground.log.erasures():
            return None
        stream, version = said_at(ground, session, message)
        ground.headers.check_readable(stream)
        done = redaction_of(ground.log, stream, version)
        return None if done and made.of(ground.log, stream, version) else done

    def decide(ground: Ground) -> list[Part]:
        newest = ground.headers.now(session).version
        if seen is not ANY and seen != newest:
            raise VersionConflict(session, seen, newest)
        stream, version = said_at(ground, session, message)
        check_redactable(ground.log, stream, version)
        quotes = made.of(ground.log, stream, version)
        for each in {session, stream, *(quote.session for quote in quotes)}:
            ground.headers.check_free(each)
        said = redaction_of(ground.log, stream, version) is None
        going = [Shred(stream, version, version)] if said else []
        return redacting([*going, *map(shred_of, quotes)], reason)

    def finish(runner: Runner) -> None:
        runner.headers.erasures()

    return request(
        [(session, KNOWN)],
        ["redact", session, message, reason, *(["summaries"] if summaries else [])],
        decide,
        options,
        reads_state=True,
        known=known,
        finish=finish,
        look=look if summaries else None,
    )


class _Made:
    """The summaries that go with a message; the log is read once, however often it is asked."""

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._looked: dict[tuple[str, int], Quoting] = {}

    def of(self, log: Log, session: str, version: int) -> list[Quote]:
        """Return those of the message at a place, none where they are not wanted."""
        if not self._wanted:
            return []
        place = session, version
        if place not in self._looked:
            self._looked[place] = Quoting.of_message(log, session, version)
        return self._looked[place].read_on(log)


def shred_of(quote: Quote) -> Shred:
    """Return what takes a summary away."""
    return Shred(quote.session, quote.version, quote.version)


def redacting(going: Iterable[Shred], reason: str | None) -> list[Part]:
    """Return the parts that take single payloads away, and say so: one for each stream."""
    streams: dict[str, list[Shred]] = {}
    for shred in going:
        streams.setdefault(shred.session, []).append(shred)
    return [
        Part(session, [ev.Redacted(each.first, reason) for each in shreds], shreds=tuple(shreds))
        for session, shreds in streams.items()
    ]


def quoting(ground: Ground, session: str, message: str | int | None) -> list[Quote]:
    """Return the summaries that were made of a message; without one, those of all of a session.

    Raises SessionNotFound, InvalidEvent and KeyShredded.
    """
    if message is None:
        return Quoting.of_session(ground.log, session).read_on(ground.log)
    stream, version = said_at(ground, session, message)
    ground.headers.check_readable(stream)
    check_redactable(ground.log, stream, version)
    return Quoting.of_message(ground.log, stream, version).read_on(ground.log)


def said_at(ground: Ground, session: str, message: str | int) -> tuple[str, int]:
    """Return (stream, version) of the fact that a session shows, or showed, as this message.

    `message` is an id, or a version of the session's own stream. An id of the form
    `session#version` is found whether it is shown or not, unless the message there came with an id
    of its own: then another one may have come with this. Raises InvalidEvent.
    """
    log = ground.log
    if not isinstance(message, str):
        return session, checked_version(log, session, message)
    made = parse_message_id(message)
    if made is not None and _belongs(ground, session, *made):
        return made
    span, version = find_line(log, ground.headers.now(session), message)
    return span.session, version


def _belongs(ground: Ground, session: str, stream: str, version: int) -> bool:
    """Return True if a place is in the session's own stream, or a line of it that came from one."""
    tail = ground.log.tail(stream)
    if tail is None or version > tail.version:
        return False
    recorded = fact_at(ground.log, stream, version)
    if recorded.type_code not in {MESSAGE, *NOTES} or _has_own_id(recorded):
        return False
    shown = ground.headers.whole(session).spans
    return stream == session or not minus(lines_of(recorded), shown)


def _has_own_id(recorded: Recorded) -> bool:
    """Return True for a line that came with an id; of one that is gone nobody can tell."""
    if recorded.erased:
        return False
    event = recorded.event
    fields = event.message.fields if isinstance(event, ev.MessageAppended) else _summary_of(event)
    return bool(fields.get("id"))


def _summary_of(event: ev.AnyEvent) -> dict[str, Json]:
    assert isinstance(event, (ev.HistorySummarized, ev.BranchMerged))
    return event.summary or {}


def check_redactable(log: Log, session: str, version: int) -> None:
    """Raise InvalidEvent unless the fact there says something that can go by itself."""
    recorded = fact_at(log, session, version)
    code = recorded.type_code
    shown = code in NOTES and (recorded.erased or _shows_summary(recorded))
    if not (shown or code in _SINGLE):
        raise InvalidEvent(
            f"version {version} of session {session!r} is a {recorded.type}; "
            "only messages, summaries, changes of values, tool calls, errors and facts of your own "
            "can be redacted"
        )


def _shows_summary(recorded: Recorded) -> bool:
    event = recorded.event
    if isinstance(event, ev.BranchMerged):
        return event.into == recorded.session and event.summary is not None
    return True


def redaction_of(log: Log, session: str, version: int) -> Receipt | None:
    """Return the receipt of the redaction of one fact, None where there was none.

    None too where its payload is gone and no fact says so: in a copy of the time before, made
    later. Raises KeyShredded where its session was erased.
    """
    if not fact_at(log, session, version).erased:
        return None
    for recorded in facts_of(log, session, version + 1, ev.Redacted):
        fact = recorded.event
        if isinstance(fact, ev.Redacted) and fact.version == version:
            return receipt_again(recorded.frame)
    return None
