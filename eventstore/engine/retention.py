"""Commands about what must go and what must stay: redact, erase and legal holds.

Invariants: what goes is recorded before it goes, in the very append or in one that is resumed;
whether a hold forbids it is looked at when the command is decided; doing it again changes nothing
and gives the first receipt.
"""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar, Unpack

from .. import events as ev
from ..errors import InvalidEvent
from ..ids import check_name
from . import checks
from .erasure import erasure
from .redaction import redaction
from .requests import KNOWN, Ground, Options, Part, Request, request
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
        summaries: bool = False,
        **options: Unpack[Options],
    ) -> Result:
        """Hide a message, or a summary, everywhere and for all times, and destroy its payload.

        `message` is its id, or its version in the session's own stream; the version of a fact that
        changed metadata or set a context value means these values: there were none then. Tool
        calls, errors and facts of your own go by version, too. What a branch or a merge shows by
        reference is redacted in the stream it was said in; the receipt tells. With `summaries` so
        are those that were made of it, in all sessions, or nothing is. By default they stay: they
        stand for much else, and what goes is gone for good. EventStore.quoting() names them. The
        entry and every proof stay; in a plain store so do pieces of it until `compact`, in free
        pages and in a dictionary that was trained before (see EventStore.trained). Raises
        InvalidEvent, LegalHold, SessionNotFound, KeyShredded.
        """
        why = checks.text(reason)
        return self._submit(redaction(session, message, why, options, summaries=summaries))

    def erase(
        self,
        session: str,
        *,
        reason: str,
        cascade: bool = False,
        summaries: bool = False,
        **options: Unpack[Options],
    ) -> Result:
        """Destroy all that was said in a session, and its key: for good, in an encrypted store.

        Its facts keep their places, types, sizes and times; every old proof verifies. Where other
        sessions show lines of it, are branches of it or took it in by a merge, it is refused unless
        `cascade` is set; then they stay, and lose those lines and what else a merge brought. With
        `summaries` they also lose the summaries that they made of them (see EventStore.quoting).
        From then on every command on it and every read of it raises KeyShredded. Raises
        InvalidEvent, LegalHold, SessionNotFound and StoreUnavailable.
        """
        why = check_name(reason, "reason")
        return self._submit(erasure(session, why, options, cascade=cascade, summaries=summaries))

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
        return self._hold(ev.LegalHoldSet(checks.text(reason), user), session, options)

    def clear_hold(
        self,
        session: str | None = None,
        *,
        user: str | None = None,
        reason: str | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """End a hold on a session, or on all sessions of a user; other holds go on."""
        return self._hold(ev.LegalHoldCleared(checks.text(reason), user), session, options)

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
