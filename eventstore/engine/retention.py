"""Commands about what must go and what must stay: redact, erase and legal holds.

Invariants: what goes is recorded before it goes, in the very append or in one that is resumed;
whether a hold forbids it is looked at when the command is decided; doing it again changes nothing
and gives the first receipt.
"""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar, Unpack

from .. import events as ev
from ..errors import InvalidEvent, VersionConflict
from ..ids import check_name
from ..log.base import ANY, Receipt
from ..log.shredding import Shred
from .erasure import check_redactable, complete, erase_request, erasure_of, redaction_of, said_at
from .requests import KNOWN, Ground, Options, Part, Request, Runner, checked_expected, request
from .system import system_parts

Result = TypeVar("Result")


class Retention(ABC, Generic[Result]):
    """The part of the commands that forgets, and that forbids to forget."""

    @abstractmethod
    def _submit(self, request: Request) -> Result:
        """Run a request."""

    def redact(
        self,
        session: str,
        message: str | int,
        *,
        reason: str | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Hide a message, or a summary, everywhere and for all times, and destroy its payload.

        `message` is its id, or its version in the session's own stream. One that a branch or a
        merge shows by reference is redacted in the stream it was said in; the receipt tells. Its
        entry and every proof stay; in a plain store so do pieces of it until `compact`, in free
        pages and in a dictionary that was trained before (see EventStore.trained). Raises
        InvalidEvent, LegalHold, SessionNotFound, KeyShredded.
        """
        content = ["redact", session, message, _text(reason)]
        seen = checked_expected(options.pop("expected", ANY))

        def known(ground: Ground) -> Receipt | None:
            if ground.log.tail(session) is None or not ground.log.erasures():
                return None
            stream, version = said_at(ground, session, message)
            ground.headers.check_readable(stream)
            return redaction_of(ground.log, stream, version)

        def decide(ground: Ground) -> list[Part]:
            newest = ground.headers.now(session).version
            if seen is not ANY and seen != newest:
                raise VersionConflict(session, seen, newest)
            stream, version = said_at(ground, session, message)
            check_redactable(ground.log, stream, version)
            for each in {session, stream}:
                ground.headers.check_free(each)
            shreds = (Shred(stream, version, version),)
            expected = newest if stream == session else ANY
            return [Part(stream, [ev.Redacted(version, reason)], expected, shreds=shreds)]

        def finish(runner: Runner) -> None:
            runner.headers.erasures()

        return self._submit(
            request(
                [(session, KNOWN)],
                content,
                decide,
                options,
                reads_state=True,
                known=known,
                finish=finish,
            )
        )

    def erase(
        self,
        session: str,
        *,
        reason: str,
        cascade: bool = False,
        **options: Unpack[Options],
    ) -> Result:
        """Destroy all that was said in a session, and its key: for good, in an encrypted store.

        Its facts keep their places, types, sizes and times; every old proof verifies. Where other
        sessions show lines of it, are branches of it or took it in by a merge, it is refused unless
        `cascade` is set; then they stay, and lose those lines and what else a merge brought. From
        then on every command on it and every read of it raises KeyShredded. Raises InvalidEvent,
        LegalHold, SessionNotFound and StoreUnavailable.
        """
        check_name(reason, "reason")

        def known(ground: Ground) -> Receipt | None:
            return erasure_of(ground, session)

        def decide(ground: Ground) -> list[Part]:
            return erase_request(ground, session, reason, cascade=cascade)

        def finish(runner: Runner) -> None:
            complete(runner, session, options)

        return self._submit(
            request(
                [(session, KNOWN)],
                ["erase", session, reason, cascade],
                decide,
                options,
                reads_state=True,
                known=known,
                finish=finish,
            )
        )

    def set_hold(
        self,
        session: str | None = None,
        *,
        user: str | None = None,
        reason: str | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Forbid to erase, redact, prune or expire a session, or all sessions of a user.

        The hold on a user covers sessions that are still to come. Raises InvalidEvent.
        """
        return self._hold(ev.LegalHoldSet(_text(reason), user), session, options)

    def clear_hold(
        self,
        session: str | None = None,
        *,
        user: str | None = None,
        reason: str | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """End a hold on a session, or on all sessions of a user; other holds go on."""
        return self._hold(ev.LegalHoldCleared(_text(reason), user), session, options)

    def _hold(
        self,
        fact: ev.LegalHoldSet | ev.LegalHoldCleared,
        session: str | None,
        options: Options,
    ) -> Result:
        if (session is None) == (fact.user is None):
            raise InvalidEvent("a hold is on a session or on a user: name one of them")
        if fact.user is not None:
            check_name(fact.user, "user")

        def decide(ground: Ground) -> list[Part]:
            if session is None:
                return system_parts(ground.log, [fact])
            return [Part(session, [fact])]

        needs = [] if session is None else [(session, KNOWN)]
        content = [type(fact).__name__, session, fact]
        return self._submit(request(needs, content, decide, options, reads_state=True))


def _text(value: object) -> str | None:
    if value is not None and type(value) is not str:
        raise InvalidEvent(f"text expected, not {type(value).__name__}")
    return value
