"""Everything that can go wrong, as one tree; each error carries its numbers.

    EventStoreError
    +-- SessionNotFound(session)
    +-- SessionExists(session)
    +-- SessionDeleted(session)
    +-- SessionExpired(session, expired_at)
    +-- VersionConflict(session, expected, actual)
    +-- KeyReused(key)                     same idempotency key, other content
    +-- MergeConflict(paths)
    +-- DepthExceeded(depth, limit)
    +-- IterationsExceeded(session, limit) the agent asked for tools again and again
    +-- InvalidEvent(reason)               bad input: nothing was written
    |   +-- EventTooLarge(size, limit)     in bytes
    |   `-- SessionClosed(session, status) closed or archived: takes no messages
    +-- StoreUnavailable(reason)           the directory, its locks or its disk
    |   +-- StoreLocked
    |   +-- StoreFull
    |   `-- FormatTooNew(found, known)
    +-- Corruption(position, what)         damage found, named, never returned as data
    +-- RollbackDetected(reason)
    +-- ProofError(reason)
    +-- KeyShredded(session)
    `-- LegalHold(session)

A message says what happened, with which numbers, and what to do about it.
Bugs are assertions, never errors of this tree.
"""

import time

UNDECODABLE = (ValueError, RecursionError)
"""What decoding raises for bytes that were never encoded here; not of the tree."""


BRIEF_CHARACTERS = 200
"""What a message shows of a value that was given, at most."""


def counted(count: int, noun: str, nouns: str = "") -> str:
    """Return a number and its noun: 1 message, 2 messages."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def brief(value: object) -> str:
    """Return what a message shows of a value that was given: the beginning of its repr."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - too many digits, too deep, or a repr that fails
        return f"<{type(value).__name__}>"
    return text if len(text) <= BRIEF_CHARACTERS else f"{text[:BRIEF_CHARACTERS]}..."


class EventStoreError(Exception):
    """Root of the tree: catch this to catch everything the store raises on purpose."""


class SessionNotFound(EventStoreError):
    """No session of that name was ever created in this store, or names can't be read: `why`.

    `early` where it was asked for at a moment before it was created.
    """

    def __init__(self, session: str, why: str = "", *, early: bool = False) -> None:
        self.session = session
        what = "does not exist; check the name, or create it first"
        if early:
            what = "did not exist yet at that moment; name a later one"
        if why:
            what = f"can't be found by name: {why}"
        super().__init__(f"session {brief(session)} {what}")


class SessionExists(EventStoreError):
    """The name is taken, by a session or by a branch."""

    def __init__(self, session: str, what: str = "exists already; choose another name") -> None:
        self.session = session
        super().__init__(f"session {session!r} {what}")


class SessionDeleted(EventStoreError):
    """The session was deleted; its past can still be replayed with an explicit moment."""

    def __init__(self, session: str) -> None:
        self.session = session
        super().__init__(
            f"session {session!r} is deleted; only its past can be read (at_version, at_time)"
        )


class SessionExpired(EventStoreError):
    """The session's time to live is over (`expired_at`, ns since the epoch)."""

    def __init__(self, session: str, expired_at: int) -> None:
        self.session, self.expired_at = session, expired_at
        when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(expired_at // 10**9))
        super().__init__(
            f"session {session!r} expired at {when}; extend_ttl() makes it usable again"
        )


class VersionConflict(EventStoreError):
    """Somebody wrote to the session since the caller last looked."""

    def __init__(self, session: str, expected: object, actual: int | None) -> None:
        self.session, self.expected, self.actual = session, expected, actual
        found = "does not exist" if actual is None else f"is at version {actual}"
        super().__init__(
            f"expected session {session!r} at {brief(expected)}, but it {found}; "
            "read it again and retry"
        )


class KeyReused(EventStoreError):
    """An idempotency key came back with other content."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"key {key!r} was used before with other content; use a fresh key")


class MergeConflict(EventStoreError):
    """Both sides changed the same keys differently; `paths` names them, sorted."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths
        choice = "choose on_conflict='ours' or on_conflict='theirs'"
        super().__init__(f"both sides changed {', '.join(paths)}; {choice}")


class DepthExceeded(EventStoreError):
    """A branch of a branch of a branch went deeper than the store allows."""

    def __init__(self, depth: int, limit: int) -> None:
        self.depth, self.limit = depth, limit
        super().__init__(f"branch would be {depth} deep, the limit is {limit}")


class IterationsExceeded(EventStoreError):
    """An agent was asked `limit` times in one turn and still gave no answer."""

    def __init__(self, session: str, limit: int) -> None:
        self.session, self.limit = session, limit
        super().__init__(
            f"the agent of session {session!r} gave no answer in {limit} iterations; "
            f"resume(max_iterations=) goes on with more"
        )


class InvalidEvent(EventStoreError):
    """The input can't become a fact; nothing was written."""


class EventTooLarge(InvalidEvent):
    """An event or an append is over its limit, both in bytes."""

    def __init__(self, size: int, limit: int, what: str = "event") -> None:
        self.size, self.limit = size, limit
        super().__init__(f"{what} of {size} bytes is over the limit of {limit} bytes")


class SessionClosed(InvalidEvent):
    """The session was closed or archived (`status`): it takes no messages until it is reopened."""

    def __init__(self, session: str, status: str) -> None:
        self.session, self.status = session, status
        super().__init__(f"session {session!r} is {status}; reopen it first")


class StoreUnavailable(EventStoreError):
    """The store can't be opened or used: the message names the directory and the reason."""


class StoreLocked(StoreUnavailable):
    """Another owner holds the store in a way that can't be shared."""


class StoreFull(StoreUnavailable):
    """No room on the disk or in the map; reads go on, writes continue once there is room."""


class FormatTooNew(StoreUnavailable):
    """The store was written by a newer release than this one."""

    def __init__(self, found: int, known: int) -> None:
        self.found, self.known = found, known
        super().__init__(f"store has format {found}, this release reads up to {known}; upgrade it")


class Corruption(EventStoreError):
    """Stored bytes are not what was written; `position` is -1 where no event is hit."""

    def __init__(self, position: int, what: str, do: str = "run 'eventstore verify'") -> None:
        self.position, self.what = position, what
        where = f"position {position}" if position >= 0 else "the store"
        super().__init__(f"damage at {where}: {what}; {do}")


class RollbackDetected(EventStoreError):
    """The log is older than, or other than, a head that was signed for it."""


class ProofError(EventStoreError):
    """A proof doesn't prove what it claims."""


class KeyShredded(EventStoreError):
    """The session's payloads were destroyed on purpose, or their key is `lost` and may return.

    With a version it is about one payload, which may have been redacted alone.
    """

    def __init__(
        self, session: str, why: str = "", *, version: int | None = None, lost: bool = False
    ) -> None:
        self.session, self.lost = session, lost
        whose, what = f"the payloads of session {session!r}", f"were erased{why}"
        if version is not None:
            whose = f"version {version} of session {session!r} was redacted, or all its payloads"
        if lost:
            what = "can't be opened: this keyring, an older copy, lacks their key; use a newer one"
        super().__init__(f"{whose} {what}")


class LegalHold(EventStoreError):
    """A legal hold forbids it."""

    def __init__(self, session: str) -> None:
        self.session = session
        super().__init__(f"session {session!r} is under legal hold; clear the hold first")
