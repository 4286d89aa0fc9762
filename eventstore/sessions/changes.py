"""Changes: everything that a session manager writes; each method is a sentence over commands.

Invariants: every change is a fact in the log, durable when the method returns (which is why
nothing here is called save); nothing is kept that replay could not rebuild; limits are checked
against the very version that an append follows, and find_or_create gives one session to however
many threads and processes ask at once.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Unpack

from msgspec import UNSET

from projections import SessionState

from ..engine.requests import Options
from ..errors import EventTooLarge, InvalidEvent, KeyReused, SessionExists, VersionConflict
from ..ids import check_name, check_session
from ..log.base import Receipt
from ..messages import Json, Message
from ..state.header import SessionHeader
from .checks import checked_id
from .creation import LIMITS, Left, Limits, NewSession, beginning
from .external import External, checked_external, external_key, generation_key, newest_generation
from .plans import Outcome, attempt
from .questions import Questions
from .session import CURRENT, Session
from .sharing import reference, resolved
from .sizes import payload_bytes
from .templates import Template, template_of
from .trimming import KeepCount

Said = dict[str, Json] | Message | Iterable[dict[str, Json] | Message]
"""One message or several."""

TRIMS_MAX = 8
"""How often a session over its limit is looked at again because somebody else wrote."""


class Changes(Questions):
    """The writing half of a SessionManager."""

    # -- sessions ------------------------------------------------------------------------

    def create(
        self,
        session: str | None = None,
        *,
        template: str | None = None,
        branch_from: str | None = None,
        at: int | str | None = None,
        user: str | int | None = None,
        metadata: dict[str, Json] | None = None,
        context: dict[str, Json] | None = None,
        ttl: float | Left | None = UNSET,
        max_messages: int | Left | None = UNSET,
        token_limit: int | Left | None = UNSET,
        max_bytes: int | Left | None = UNSET,
        external: External | None = None,
        **options: Unpack[Options],
    ) -> Session:
        """Start a session, with what the template and the settings say where nothing is given.

        `ttl` in seconds; limits of None are none; `external` is a key that find_by() finds it
        by (interface, user, chat, conversation), of which one usable session exists at a time.
        With `branch_from` it is a branch, as that session is now or was `at` a version or message
        id, which inherits all but a name. Raises SessionExists and InvalidEvent.
        """
        limits = Limits(ttl, max_messages, token_limit, max_bytes)
        key = None if external is None else checked_external(external)
        owner = (key or {}).get("user") if user is None else checked_id(user, "user")
        if branch_from is not None:
            if limits != Limits() or any((template, owner, metadata, context, external)):
                raise InvalidEvent("a branch inherits its values and limits; change them later")
            return self.branch(branch_from, at=at, session_id=session, **options)
        if at is not None:
            raise InvalidEvent("at says where a branch starts; name branch_from too")
        facts = self._beginning(template, limits, metadata, context, key)
        facts |= {"session": session, "user": owner}
        if key is None:
            return self._reader.made(self.store.create(**facts, **options), facts)
        made, fresh = self._generation(key, facts, options)
        if not fresh:
            raise SessionExists(made.name)
        return made

    def find_or_create(
        self,
        *,
        interface: str | None = None,
        user: str | int | None = None,
        chat: str | int | None = None,
        conversation: str | int | None = None,
        **create: Unpack[NewSession],
    ) -> Session:
        """Return the usable session of an external key, or a new one of that `user`.

        However many threads and processes ask at once, they get the same one; a session that
        was deleted, closed, archived or has expired is followed by a fresh one. What `create`
        says is for a new session alone. Raises InvalidEvent.
        """
        key = external_key(interface, user, chat, conversation)
        given: dict[str, Any] = dict(create)
        limits = Limits(**{name: given.pop(name) for name in LIMITS if name in given})
        values = (given.pop(name, None) for name in ("template", "metadata", "context"))
        template, metadata, context = values
        facts = self._beginning(template, limits, metadata, context, key)
        facts |= {"session": given.pop("session", None), "user": key.get("user")}
        return self._generation(key, facts, given)[0]

    def close_session(
        self, session: str, *, reason: str | None = None, **options: Unpack[Options]
    ) -> Receipt:
        """Record that the conversation is over; it takes no messages until reopened."""
        return self.store.close(check_session(session), reason=reason, **options)

    def reopen(self, session: str, **options: Unpack[Options]) -> Receipt:
        """Make a closed or archived session active again."""
        return self.store.reopen(session, **options)

    def archive(
        self, session: str, *, reason: str | None = None, **options: Unpack[Options]
    ) -> Receipt:
        """Put a session away: readable, out of the usual lists, no new messages."""
        return self.store.archive(session, reason=reason, **options)

    def delete(
        self, session: str, *, reason: str | None = None, **options: Unpack[Options]
    ) -> Receipt:
        """Delete a session: a fact like any other, after which only its past can be read."""
        return self.store.delete(session, reason=reason, **options)

    def extend_ttl(self, session: str, ttl: float | None, **options: Unpack[Options]) -> Receipt:
        """Let the session live `ttl` seconds from now, or for ever with None."""
        return self.store.extend_ttl(session, ttl, **options)

    # -- messages ------------------------------------------------------------------------

    def add_message(
        self,
        session: str,
        message: dict[str, Json] | Message,
        *,
        occurred_at: datetime | int | None = None,
        more: bool = False,
        **options: Unpack[Options],
    ) -> Receipt:
        """Add one message; see add_messages()."""
        return self.add_messages(session, [message], occurred_at=occurred_at, more=more, **options)

    def add_messages(
        self,
        session: str,
        messages: Said,
        *,
        occurred_at: datetime | int | Sequence[datetime | int | None] | None = None,
        more: bool = False,
        **options: Unpack[Options],
    ) -> Receipt:
        """Add messages as one atomic append, within the session's limits.

        Over `max_bytes` nothing is added and EventTooLarge raised; over `max_messages` the
        oldest ones that may go are pruned afterwards, as a fact of its own. `more` says that
        others belong to these and come at once: what is pruned or summarised waits for the last.
        """
        said = [*messages] if isinstance(messages, Iterator) else messages
        header = self.store.headers.now(session)
        if header.metadata.get("max_bytes") is None:
            receipt = self.store.append(session, said, occurred_at=occurred_at, **options)
        else:
            receipt = self._append_within(session, said, occurred_at, options)
        if not (receipt.duplicate or more):
            self._appended(header)
        return receipt

    def truncate(self, session: str, keep: int, **options: Unpack[Options]) -> Receipt:
        """Hide all but the newest `keep` visible messages, and what belongs to their tools."""
        return self.store.prune(session, keep_last=keep, reason="truncated", **options)

    def clear(self, session: str, **options: Unpack[Options]) -> Receipt:
        """Hide all messages and keep the summaries."""
        return self.store.clear(session, **options)

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
    ) -> Receipt:
        """Record that a tool ran, for statistics and audit."""
        return self.store.record_tool_call(
            session,
            name,
            arguments,
            result,
            call_id=call_id,
            error=error,
            duration_ms=duration_ms,
            **options,
        )

    def record_error(
        self,
        session: str,
        kind: str,
        text: str = "",
        detail: Json = None,
        **options: Unpack[Options],
    ) -> Receipt:
        """Record that something failed."""
        return self.store.record_error(session, kind, text, detail, **options)

    # -- values --------------------------------------------------------------------------

    def update_metadata(
        self, session: str, patch: dict[str, Json], **options: Unpack[Options]
    ) -> Receipt:
        """Apply a JSON merge patch to the metadata; None removes a key (RFC 7396)."""
        receipt = self.store.update_metadata(session, patch, **options)
        self.store.flush()  # a limit in it holds for what is said next
        return receipt

    def set_context(
        self, session: str, key: str, value: Json, /, **options: Unpack[Options]
    ) -> Receipt:
        """Set one context value; None removes it. `key=` is the idempotency key."""
        return self.store.set_context(session, key, value, **options)

    def share(
        self,
        session: str,
        key: str,
        /,
        with_session: str,
        *,
        name: str | None = None,
        **options: Unpack[Options],
    ) -> Receipt:
        """Let another session show a context value by reference, under its own or another name.

        Raises InvalidEvent where the value is missing or would refer to itself.
        """
        name, value = name or key, reference(session, key)
        resolved(self.store, value, behind=(with_session, name))
        return self.store.set_context(with_session, name, value, **options)

    def save_template(self, template: Template) -> Receipt:
        """Keep a template, in place of the one of that name. Raises InvalidEvent."""
        return self._templates.save(template)

    def save_as_template(self, session: str, name: str, description: str = "") -> Receipt:
        """Keep a session's values, limits and visible messages as a template."""
        state = SessionState.of(self.store, session)
        made = template_of(check_name(name, "template"), state, description)
        return self._templates.save(made)

    def delete_template(
        self, name: str, *, redact: bool = False, reason: str | None = None
    ) -> Receipt:
        """Drop a template; sessions that were made from it stay. Raises InvalidEvent.

        With `redact` for good, with all that was ever kept under that name, also if it was dropped
        before: each value as store.redact() does it, with the reason. Raises LegalHold.
        """
        return self._templates.redact(name, reason) if redact else self._templates.delete(name)

    # -- branches ------------------------------------------------------------------------

    def branch(
        self,
        session: str,
        name: str | None = None,
        *,
        at: int | str | None = None,
        description: str | None = None,
        session_id: str | None = None,
        **options: Unpack[Options],
    ) -> Session:
        """Start a branch of a session as it is now, or was at a version or message id.

        `name` is for people, `session_id` what methods take. Raises DepthExceeded.
        """
        receipt = self.store.branch(
            session, session_id, at=at, name=name, description=description, **options
        )
        return self._reader.branched(receipt.session)

    def switch(self, session: str, branch: str, **options: Unpack[Options]) -> Receipt:
        """Make a branch, or the root, the current one of the tree that `session` is in."""
        head = self._head(session)
        if self._head(branch) != head:
            raise InvalidEvent(f"session {branch!r} is not in the tree of {head!r}")
        chosen = None if self.get(branch).name == head else branch
        return self.store.set_context(head, CURRENT, chosen, **options)

    def merge(
        self,
        source: str,
        into: str,
        *,
        strategy: str = "append",
        on_conflict: str = "error",
        summary: str | dict[str, Json] | Message | None = None,
        **options: Unpack[Options],
    ) -> Receipt:
        """Bring what is new in `source` into another session; see EventStore.merge."""
        return self.store.merge(
            source,
            into=into,
            strategy=strategy,
            on_conflict=on_conflict,
            summary=summary,
            **options,
        )

    # -- inside --------------------------------------------------------------------------

    def _beginning(
        self,
        template: str | None,
        limits: Limits,
        metadata: dict[str, Json] | None,
        context: dict[str, Json] | None,
        external: External | None,
    ) -> dict[str, Any]:
        """Return what EventStore.create takes; of the template only what it is now."""
        base = None if template is None else self.template(template)
        return beginning(
            self.settings, base, limits, metadata=metadata, context=context, external=external
        )

    def _generation(
        self, key: External, facts: dict[str, Any], options: Any
    ) -> tuple[Session, bool]:
        """Return the usable session of a key and False, or a new one and True."""
        if options.get("key") is not None:
            raise InvalidEvent("a session of an external key has that as its idempotency key")
        while True:
            generation, name = newest_generation(self.store.log, key)
            found = self._usable(name)
            if found is not None:
                return found, False
            options = {**options, "key": generation_key(key, generation + 1)}
            try:
                receipt = self.store.create(**facts, **options)
            except KeyReused:  # somebody else was faster, with other arguments
                continue
            if not receipt.duplicate:
                return self._reader.made(receipt, facts), True

    def _append_within(
        self, session: str, messages: Said, occurred_at: Any, options: Options
    ) -> Receipt:
        """Append to a session with a limit in bytes, if it stays within that.

        The append expects the version that was weighed; where somebody wrote since, both are
        done again. What the key has brought in before needs no room.
        """
        key, given = options.get("key"), "expected" in options
        while True:
            version = self._weighed(session, messages, key)
            if not given:
                options["expected"] = version
            try:
                return self.store.append(session, messages, occurred_at=occurred_at, **options)
            except VersionConflict:
                if given:
                    raise

    def _weighed(self, session: str, messages: Said, key: str | None) -> int:
        """Return the version at which a session has room for messages. Raises EventTooLarge."""
        self.store.flush()
        count = self.store.log.erasures()
        header = self.store.headers.now(session)
        limit = header.metadata.get("max_bytes")
        size = self._sizes.of(session, header.spans, count)
        size += payload_bytes(messages, self.store.count_tokens)
        known = key is not None and self.store.log.receipt_of(key) is not None
        if isinstance(limit, int) and size > limit and not known:
            raise EventTooLarge(size, limit, f"session {session!r} with these messages")
        return header.version

    def _trim(self, session: str, keep: int) -> None:
        """Hide the oldest messages that may go where a session shows more than it is to."""
        policy = KeepCount(keep=keep, by_type={})
        for _ in range(TRIMS_MAX):
            step, outcome = policy.step(self.store, session), Outcome()
            if step is None:
                return
            attempt(self.store, step, outcome)
            if outcome.done or self.store.version(session) == step.version:
                return  # what was refused at its own version is so for good: a legal hold

    def _appended(self, header: SessionHeader) -> None:
        """Keep a session within its limits; `header` is of before the append."""
        if header.max_messages is not None:
            self._trim(header.session, header.max_messages)
