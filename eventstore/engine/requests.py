"""Requests: what every command becomes on its way to the log.

Invariants: a request is checked when it is made; it says which sessions it needs and in what
state, how to decide its facts, and what makes a repeated key the same command again.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypedDict

import msgspec
from xxhash import xxh3_128_digest

from ..errors import InvalidEvent, brief
from ..events import Event
from ..ids import check_session, optional_name
from ..log.base import ANY, Expected, Log, Receipt
from ..log.shredding import Shred
from ..state.lineage import Headers

KNOWN, PRESENT, LIVING, OPEN = "known", "present", "living", "open"
"""What a command needs of its session: not erased; not deleted either; not expired; active."""


class Options(TypedDict, total=False):
    """What every command takes besides its own arguments.

    `expected`: ANY, NO_STREAM or the version last seen; `key`: idempotency key; who and why.
    """

    expected: Expected | int
    key: str | None
    actor: str | None
    correlation_id: str | None
    causation_id: str | None


_OPTIONS = frozenset(Options.__annotations__)
_NAMES = (
    ("key", "key"),
    ("actor", "actor"),
    ("correlation_id", "correlation id"),
    ("causation_id", "causation id"),
)
"""The options that are names, and what errors call them."""


_NO_DIGEST = bytes(16)
"""The content of a command without a key."""


class Part(msgspec.Struct, frozen=True):
    """Events for one stream; `expected` is what the decision was based on.

    `salts` are given, 16 bytes an event, only where events are carried over from elsewhere;
    `shreds` are payloads that go in the same transaction.
    """

    session: str
    events: Sequence[Event]
    expected: Expected | int = ANY
    occurred: Sequence[int | None] = ()
    salts: bytes = b""
    shreds: tuple[Shred, ...] = ()


class Ground(Protocol):
    """What a command may look at when it decides."""

    log: Log
    headers: Headers
    max_depth: int

    def now(self) -> int:
        """Return the time in ns since the epoch."""


class Runner(Ground, Protocol):
    """What goes on after a command's facts are on disk."""

    def run(self, request: "Request") -> Receipt:
        """Run a request to its receipt."""


class Request(msgspec.Struct, frozen=True):
    """One command on its way: `needs` names each session it depends on and its state.

    `decide` makes the parts; where `reads_state` is set it runs while nobody in any process can
    commit. Such a request may also have `look`, which runs before that and takes long, so that
    `decide` has to take up only what came since; `known`, which finds the receipt of the same
    command done before, under whatever key; and `finish`, which does what follows from its facts,
    also when they were there before.
    """

    needs: dict[str, str]
    content: bytes
    decide: Callable[[Ground], list[Part]]
    reads_state: bool
    known: Callable[[Ground], Receipt | None] | None = None
    finish: Callable[[Runner], None] | None = None
    look: Callable[[Ground], None] | None = None
    expected: Expected | int = ANY
    key: str | None = None
    actor: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None


def request(
    needs: Sequence[tuple[str, str]],
    content: Sequence[object],
    decide: Callable[[Ground], list[Part]],
    options: Options,
    *,
    reads_state: bool = False,
    known: Callable[[Ground], Receipt | None] | None = None,
    finish: Callable[[Runner], None] | None = None,
    look: Callable[[Ground], None] | None = None,
) -> Request:
    """Return a checked request; `content` is what makes a repeated key the same command."""
    for session, _ in needs:
        check_session(session)
    if options:
        _check_options(options)
    digest = _digest(content) if options.get("key") else _NO_DIGEST
    return Request(dict(needs), digest, decide, reads_state, known, finish, look, **options)


def _check_options(options: Options) -> None:
    """Raise InvalidEvent for what an option can't be, TypeError for one that there is not."""
    checked_expected(options.get("expected", ANY))
    unknown = options.keys() - _OPTIONS
    if unknown:
        raise TypeError(f"unknown option {', '.join(sorted(unknown))}")
    for name, what in _NAMES:
        optional_name(options.get(name), what)  # type: ignore[arg-type]  # mypy sees all options


def checked_expected(expected: Expected | int) -> Expected | int:
    """Return it if it is ANY, NO_STREAM or an integer. Raises InvalidEvent."""
    if isinstance(expected, bool) or not isinstance(expected, (Expected, int)):
        raise InvalidEvent(f"expected must be ANY, NO_STREAM or a version, not {brief(expected)}")
    return expected


def _digest(content: Sequence[object]) -> bytes:
    try:
        return xxh3_128_digest(msgspec.msgpack.encode(content))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidEvent(f"the command can't be stored: {error}") from None
