"""Every command of the store, written once for callers that block and callers that await.

Invariants: a command checks its input before anything is queued; it becomes one Request, which
the engine turns into one atomic append; the class is generic in what a caller gets back (a
Receipt, or an awaitable of one), so sync and async share every line.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Unpack

from .. import events as ev
from ..clock import to_ns
from ..errors import DepthExceeded, InvalidEvent, VersionConflict
from ..events import Event
from ..ids import check_name, check_session, fresh_id, optional_name
from ..log.base import ANY
from ..log.shredding import stripped
from ..messages import Json, Message, TokenCounter, check_json
from ..patch import assigned, patched
from ..state import decisions
from ..state.header import SessionHeader
from ..state.lineage import checked_version
from . import checks
from .requests import LIVING, OPEN, PRESENT, Ground, Options, Part, checked_expected, request
from .retention import Result, Retention
from .system import system_parts

_PLACE = attrgetter("version", "depth")


class Commands(Retention[Result]):
    """The commands of api.md; each returns a receipt once its facts are on disk."""

    count_tokens: TokenCounter

    # -- sessions ------------------------------------------------------------------------

    def create(
        self,
        session: str | None = None,
        *,
        metadata: dict[str, Json] | None = None,
        user: str | None = None,
        ttl: float | None = None,
        max_messages: int | None = None,
        token_limit: int | None = None,
        context: dict[str, Json] | None = None,
        template: str | None = None,
        messages: Iterable[dict[str, Json] | Message] = (),
        **options: Unpack[Options],
    ) -> Result:
        """Start a session; without a name it gets a UUIDv7 (the receipt tells). `ttl` in seconds.

        `messages` are its first ones, in the same atomic append. Raises SessionExists and
        InvalidEvent.
        """
        name = fresh_id() if session is None else check_session(session)
        optional_name(user, "user")
        optional_name(template, "template")
        ttl = checks.seconds(ttl)
        for limit, what in ((max_messages, "max_messages"), (token_limit, "token_limit")):
            checks.check_limit(limit, what)
        facts = {
            "metadata": patched({}, checks.checked_dict(metadata or {}, "metadata")),
            "context": assigned({}, checks.checked_dict(context or {}, "context")),
            "user": user,
            "ttl": ttl,
            "max_messages": max_messages,
            "token_limit": token_limit,
            "template": template,
        }
        fields = checks.messages(messages)
        first = self._said(fields)

        def decide(ground: Ground) -> list[Part]:
            created = ev.SessionCreated(**facts, expires_at=checks.expiry(ground, ttl))
            return [Part(name, [created, *first])]

        content = ["create", session, facts, fields]
        return self._submit(request([], content, decide, options))

    def close(
        self, session: str, *, reason: str | None = None, **options: Unpack[Options]
    ) -> Result:
        """Record that the conversation is over; it takes no messages until reopened."""
        return self._fact(session, ev.SessionClosed(checks.text(reason)), PRESENT, options)

    def reopen(self, session: str, **options: Unpack[Options]) -> Result:
        """Make a closed or archived session active again."""
        return self._fact(session, ev.SessionReopened(), PRESENT, options)

    def archive(
        self, session: str, *, reason: str | None = None, **options: Unpack[Options]
    ) -> Result:
        """Put a session away: readable, out of the usual lists, no new messages."""
        return self._fact(session, ev.SessionArchived(checks.text(reason)), PRESENT, options)

    def delete(
        self, session: str, *, reason: str | None = None, **options: Unpack[Options]
    ) -> Result:
        """Delete a session: a fact like any other, after which only its past can be read."""
        return self._fact(session, ev.SessionDeleted(checks.text(reason)), PRESENT, options)

    def extend_ttl(self, session: str, ttl: float | None, **options: Unpack[Options]) -> Result:
        """Let the session live `ttl` seconds from now, or for ever with None."""
        ttl = checks.seconds(ttl)

        def decide(ground: Ground) -> list[Part]:
            return [Part(session, [ev.TtlExtended(ttl, checks.expiry(ground, ttl))])]

        needs, content = [(session, PRESENT)], ["extend_ttl", session, ttl]
        return self._submit(request(needs, content, decide, options, reads_state=True))

    # -- messages ------------------------------------------------------------------------

    def append(
        self,
        session: str,
        messages: dict[str, Json] | Message | Iterable[dict[str, Json] | Message],
        *,
        occurred_at: datetime | int | Sequence[datetime | int | None] | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Add one message, or a list of them as one atomic append.

        `occurred_at`: the caller's own time, one for all or one a message. Raises InvalidEvent,
        EventTooLarge, SessionNotFound, SessionDeleted, SessionExpired and VersionConflict.
        """
        fields = checks.messages(messages)
        facts = self._said(fields)
        occurred = checks.times(occurred_at, len(facts))
        content = ["append", session, fields, occurred]
        part = Part(session, facts, ANY, occurred)
        return self._submit(request([(session, OPEN)], content, lambda _: [part], options))

    def prune(
        self,
        session: str,
        *,
        keep_last: int | None = None,
        messages: Sequence[str] | None = None,
        before: datetime | int | None = None,
        lines: Sequence[ev.Span] | None = None,
        reason: str | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Hide messages: all but the last N, the named ones, or those recorded before a time.

        Or the `lines` given, as Transcript.lines() names them. Tool calls and their results go
        or stay together whichever it is.
        """
        named = None if messages is None else checks.names(messages)
        moment = None if before is None else to_ns(before)
        exact = None if lines is None else checks.spans(lines)
        content: list[object] = ["prune", session, keep_last, named, moment, checks.text(reason)]
        content += [] if exact is None else [exact]

        def made(ground: Ground, header: SessionHeader) -> Event:
            ground.headers.check_free(session)
            return decisions.prune(ground.log, header, keep_last, named, moment, exact, reason)

        return self._fact_upon(session, made, content, options)

    def clear(self, session: str, **options: Unpack[Options]) -> Result:
        """Hide all messages and keep the summaries."""

        def made(ground: Ground, header: SessionHeader) -> Event:
            ground.headers.check_free(session)
            return decisions.clear(ground.log, header)

        return self._fact_upon(session, made, ["clear", session], options)

    def summarize(
        self,
        session: str,
        summary: str | dict[str, Json] | Message,
        *,
        upto: int | str | None = None,
        lines: Sequence[ev.Span] | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Show one summary in place of all messages up to a version or message id.

        Or in place of exactly the `lines` given, as Transcript.lines() names them; then it is the
        caller who keeps tool calls and their results together.
        """
        fields = checks.summary(summary)
        tokens = self.count_tokens(fields)
        exact = None if lines is None else checks.spans(lines)

        def made(ground: Ground, header: SessionHeader) -> Event:
            log, headers = ground.log, ground.headers
            return decisions.summarize(log, headers, header, fields, tokens, upto, exact)

        content = ["summarize", session, fields, upto] + ([] if exact is None else [exact])
        return self._fact_upon(session, made, content, options)

    def rewind(self, session: str, to_version: int, **options: Unpack[Options]) -> Result:
        """Make the state what it was at `to_version`; history stays and can be rewound to."""

        def made(ground: Ground, header: SessionHeader) -> Event:
            version = checked_version(ground.log, session, to_version)
            return ev.SessionRewound(version, header.held)

        return self._fact_upon(session, made, ["rewind", session, to_version], options)

    def undo(self, session: str, **options: Unpack[Options]) -> Result:
        """Rewind to before the last append; an undo can be undone."""

        def made(ground: Ground, header: SessionHeader) -> Event:
            return decisions.undo(ground.log, header)

        return self._fact_upon(session, made, ["undo", session], options)

    # -- branches ------------------------------------------------------------------------

    def branch(
        self,
        parent: str,
        session: str | None = None,
        *,
        at: int | str | None = None,
        name: str | None = None,
        description: str | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Start a branch of `parent` as it is now, or was at a version or message id.

        Costs the same whatever the parent's length. Raises DepthExceeded and SessionExists.
        """
        branch = fresh_id() if session is None else check_session(session)
        content = ["branch", parent, session, at, checks.text(name), checks.text(description)]

        seen = checked_expected(options.pop("expected", ANY))  # of the parent: the branch is new

        def decide(ground: Ground) -> list[Part]:
            version, depth = ground.headers.seen(parent, _PLACE)
            if seen is not ANY and seen != version:
                raise VersionConflict(parent, seen, version)
            if depth >= ground.max_depth:
                raise DepthExceeded(depth + 1, ground.max_depth)
            if at is not None:
                version = decisions.version_named(ground.log, ground.headers, parent, at)
            return [Part(branch, [ev.BranchCreated(parent, version, name, description)])]

        return self._submit(request([(parent, LIVING)], content, decide, options, reads_state=True))

    def merge(
        self,
        source: str,
        *,
        into: str,
        strategy: str = "append",
        on_conflict: str = "error",
        summary: str | dict[str, Json] | Message | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Bring what is new in `source` into another session, by reference.

        `strategy`: append, adopt, interleave or squash (which needs `summary`); `on_conflict`:
        error, ours or theirs, for metadata and context. Raises MergeConflict.
        """
        if source == into:
            raise InvalidEvent(f"session {source!r} can't be merged into itself")
        checks.check_choice(strategy, decisions.STRATEGIES, "strategy")
        checks.check_choice(on_conflict, decisions.CONFLICT_RULES, "on_conflict")
        if (summary is not None) != (strategy == "squash"):
            raise InvalidEvent("a summary goes with strategy 'squash', and only with it")
        fields = None if summary is None else checks.summary(summary)
        tokens = self.count_tokens(fields) if fields else 0

        def decide(ground: Ground) -> list[Part]:
            ours, theirs = ground.headers.now(into), ground.headers.now(source)
            fact = decisions.merge(
                ground.log, ground.headers, theirs, ours, strategy, on_conflict, fields, tokens
            )
            marker = stripped(fact)  # what is the target's own goes when the target goes
            assert marker is not None
            return [Part(into, [fact], ours.version), Part(source, [marker], theirs.version)]

        content = ["merge", source, into, strategy, on_conflict, fields]
        needs = [(into, OPEN), (source, LIVING)]
        return self._submit(request(needs, content, decide, options, reads_state=True))

    # -- values --------------------------------------------------------------------------

    def update_metadata(
        self, session: str, patch: dict[str, Json], **options: Unpack[Options]
    ) -> Result:
        """Apply a JSON merge patch to the metadata; None removes a key (RFC 7396)."""
        fact = ev.MetadataUpdated(checks.checked_dict(patch, "metadata patch"))
        return self._fact(session, fact, LIVING, options)

    def set_context(
        self, session: str, key: str, value: Json, /, **options: Unpack[Options]
    ) -> Result:
        """Set one context variable; None removes it. `key=` is the idempotency key."""
        check_name(key, "context key")
        check_json(value, f"context value of {key!r}")
        return self._fact(session, ev.ContextSet(key, value), LIVING, options)

    # -- what the agent did --------------------------------------------------------------

    def record_tool_call(
        self,
        session: str,
        name: str,
        arguments: Json = None,
        result: Json = None,
        *,
        call_id: str | None = None,
        error: str | None = None,
        duration_ms: float | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Record that a tool ran, for statistics and audit."""
        check_name(name, "tool name")
        check_json([arguments, result], "tool call")
        texts = checks.text(call_id), checks.text(error)
        millis = checks.milliseconds(duration_ms)
        fact = ev.ToolCallRecorded(name, arguments, result, *texts, millis)
        return self._fact(session, fact, LIVING, options)

    def record_error(
        self,
        session: str,
        kind: str,
        text: str = "",
        detail: Json = None,
        **options: Unpack[Options],
    ) -> Result:
        """Record that something failed."""
        check_name(kind, "error kind")
        check_json([text, detail], "error")
        fact = ev.ErrorRecorded(kind, checks.text(text) or "", detail)
        return self._fact(session, fact, LIVING, options)

    def record(
        self,
        session: str,
        type: str,  # noqa: A002 - the name that users know from the contract
        data: Json = None,
        **options: Unpack[Options],
    ) -> Result:
        """Record a fact of the user's own, which every projection passes on untouched."""
        check_name(type, "event type")
        check_json(data, f"data of {type!r}")
        return self._fact(session, ev.Custom(type, data), LIVING, options)

    def record_system(self, type: str, data: Json = None, **options: Unpack[Options]) -> Result:  # noqa: A002 - as in record()
        """Record a fact about the store as a whole, in a stream that is made with the first one."""
        check_name(type, "event type")
        check_json(data, f"data of {type!r}")
        fact = ev.Custom(type, data)

        def decide(ground: Ground) -> list[Part]:
            return system_parts(ground.log, [fact])

        return self._submit(request([], ["system", fact], decide, options, reads_state=True))

    def _said(self, fields: list[dict[str, Json]]) -> list[ev.MessageAppended]:
        """Return the facts of checked messages, their tokens counted."""
        count = self.count_tokens
        return [ev.MessageAppended(Message(each), count(each)) for each in fields]

    def _fact(self, session: str, fact: Event, needs: str, options: Options) -> Result:
        part = Part(session, [fact])
        content = [type(fact).__name__, session, fact]
        alone = needs == PRESENT  # a change of standing: what comes after it must see it
        return self._submit(
            request([(session, needs)], content, lambda _: [part], options, reads_state=alone)
        )

    def _fact_upon(
        self,
        session: str,
        made: Callable[[Ground, SessionHeader], Event],
        content: Sequence[object],
        options: Options,
    ) -> Result:
        """Record the one fact that is made of the session's newest state, and of no other."""

        def decide(ground: Ground) -> list[Part]:
            header = ground.headers.now(session)
            return [Part(session, [made(ground, header)], header.version)]

        needs = [(session, LIVING)]
        return self._submit(request(needs, content, decide, options, reads_state=True))
