"""Commands that change a session: each is one command of the store and prints its receipt.

Invariants: one invocation is one atomic append; what comes in on stdin is read and checked as a
whole before anything is written.
"""

import sys
from typing import Annotated, Any

import typer

from .. import EventStore, InvalidEvent, Receipt
from ..clock import parse_time
from ..engine.requests import Options
from ..ids import check_name
from ..messages import Json
from ..sessions import SessionManager
from ..sessions.creation import Limits, beginning
from .app import BRANCHES, LIFE, WRITE, Session, mutation
from .terminal import parse_json, parse_number, read_stdin

SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

Reason = Annotated[str | None, typer.Option(help="Why; kept with the fact.")]
Pairs = Annotated[
    list[str],
    typer.Argument(metavar="KEY=VALUE...", help="VALUE is JSON, else text; null removes the key."),
]


# -- sessions --------------------------------------------------------------------------


@mutation(LIFE, creates=True)
def create(
    store: EventStore,
    options: Options,
    session: Annotated[str | None, typer.Argument(help="Its name; else a fresh UUID.")] = None,
    meta: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Metadata; may be repeated.")
    ] = None,
    context: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Context; may be repeated.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Whose session it is.")] = None,
    ttl: Annotated[str | None, typer.Option(help="Time to live: 90, 30m, 12h, 7d.")] = None,
    max_messages: Annotated[int | None, typer.Option(help="Messages to keep.")] = None,
    token_limit: Annotated[int | None, typer.Option(help="Tokens of the context.")] = None,
    template: Annotated[str | None, typer.Option(help="Copy what this template says.")] = None,
) -> Receipt:
    """Start a session; makes the store too where there is none."""
    seconds = parse_seconds(ttl) if ttl else None
    limits = {"ttl": seconds, "max_messages": max_messages, "token_limit": token_limit}
    values = {"metadata": parse_pairs(meta or []), "context": parse_pairs(context or [])}
    facts: dict[str, Any] = {**limits, **values}
    if template is not None:
        facts = _from_template(store, template, limits, values)
    return store.create(session, user=user, **facts, **options)


def _from_template(
    store: EventStore, name: str, limits: dict[str, Any], values: dict[str, dict[str, Json]]
) -> dict[str, Any]:
    """Return what a session begins with; an option wins over the template, that over settings."""
    given = Limits(**{limit: value for limit, value in limits.items() if value is not None})
    with SessionManager(store) as manager:
        return beginning(manager.settings, manager.template(name), given, external=None, **values)


@mutation(LIFE)
def close(store: EventStore, options: Options, session: Session, reason: Reason = None) -> Receipt:
    """End a session: it takes no messages until reopened."""
    return store.close(session, reason=reason, **options)


@mutation(LIFE)
def reopen(store: EventStore, options: Options, session: Session) -> Receipt:
    """Make a closed or archived session active again."""
    return store.reopen(session, **options)


@mutation(LIFE)
def archive(
    store: EventStore, options: Options, session: Session, reason: Reason = None
) -> Receipt:
    """Put a session away: readable, out of the usual lists."""
    return store.archive(session, reason=reason, **options)


@mutation(LIFE)
def delete(store: EventStore, options: Options, session: Session, reason: Reason = None) -> Receipt:
    """Delete a session: from then on only its past can be read."""
    return store.delete(session, reason=reason, **options)


@mutation(LIFE)
def extend_ttl(
    store: EventStore,
    options: Options,
    session: Session,
    ttl: Annotated[str, typer.Argument(help="From now on: 90, 30m, 12h, 7d, or never.")],
) -> Receipt:
    """Let a session live longer, or for ever."""
    return store.extend_ttl(session, None if ttl == "never" else parse_seconds(ttl), **options)


# -- messages --------------------------------------------------------------------------


@mutation(WRITE)
def append(
    store: EventStore,
    options: Options,
    session: Session,
    role: Annotated[str, typer.Option(help="Who speaks.")] = "user",
    content: Annotated[
        str | None, typer.Option(help="What is said; else stdin is read as JSON messages.")
    ] = None,
    at: Annotated[
        int | None,
        typer.Option(
            "--occurred-at",
            metavar="TIME",
            parser=parse_time,
            help="When it was said, ISO 8601 or ns.",
        ),
    ] = None,
) -> Receipt:
    """Add one message, or JSON lines (or a JSON array) from stdin as one atomic append."""
    messages = parse_messages(_stdin()) if content is None else [_message(role, content)]
    if not messages:
        raise InvalidEvent("standard input holds no messages")
    return store.append(session, messages, occurred_at=at, **options)


@mutation(WRITE)
def prune(
    store: EventStore,
    options: Options,
    session: Session,
    keep_last: Annotated[int | None, typer.Option(help="Hide all but the newest N.")] = None,
    message: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Hide this one; may be repeated.")
    ] = None,
    before: Annotated[
        int | None,
        typer.Option(metavar="TIME", parser=parse_time, help="Hide what was recorded before."),
    ] = None,
    reason: Reason = None,
) -> Receipt:
    """Hide messages from the view; nothing leaves the history."""
    if sum((keep_last is not None, bool(message), before is not None)) != 1:
        raise InvalidEvent("prune takes exactly one of --keep-last, --message and --before")
    chosen = message or None
    return store.prune(
        session, keep_last=keep_last, messages=chosen, before=before, reason=reason, **options
    )


@mutation(WRITE)
def summarize(
    store: EventStore,
    options: Options,
    session: Session,
    summary: Annotated[str, typer.Argument(help="The text that stands for them.")],
    upto: Annotated[str, typer.Option(help="Up to this version or message id.")],
) -> Receipt:
    """Show one summary in place of the messages up to a place."""
    return store.summarize(session, summary, upto=parse_place(upto), **options)


@mutation(WRITE)
def meta(store: EventStore, options: Options, session: Session, pairs: Pairs) -> Receipt:
    """Change metadata: a JSON merge patch."""
    return store.update_metadata(session, parse_pairs(pairs), **options)


@mutation(WRITE)
def set_context(
    store: EventStore,
    options: Options,
    session: Session,
    pair: Annotated[str, typer.Argument(metavar="KEY=VALUE", help="VALUE is JSON, else text.")],
) -> Receipt:
    """Set one context variable; null removes it."""
    ((key, value),) = parse_pairs([pair]).items()
    return store.set_context(session, key, value, **options)


# -- what the agent did ----------------------------------------------------------------


@mutation(WRITE)
def record(
    store: EventStore,
    options: Options,
    session: Session,
    type: Annotated[str, typer.Argument(help="Name of your kind of fact.")],  # noqa: A002
    data: Annotated[str | None, typer.Argument(help="Any JSON.")] = None,
) -> Receipt:
    """Record a fact of your own."""
    return store.record(session, type, _json(data, "data"), **options)


@mutation(WRITE)
def record_tool_call(
    store: EventStore,
    options: Options,
    session: Session,
    name: Annotated[str, typer.Argument(help="Name of the tool.")],
    arguments: Annotated[str | None, typer.Option(help="Its arguments, JSON.")] = None,
    result: Annotated[str | None, typer.Option(help="What it gave, JSON.")] = None,
    call_id: Annotated[str | None, typer.Option(help="Id of the call.")] = None,
    error: Annotated[str | None, typer.Option(help="How it failed.")] = None,
    duration_ms: Annotated[float | None, typer.Option(help="How long it took.")] = None,
) -> Receipt:
    """Record that a tool ran."""
    return store.record_tool_call(
        session,
        name,
        _json(arguments, "--arguments"),
        _json(result, "--result"),
        call_id=call_id,
        error=error,
        duration_ms=duration_ms,
        **options,
    )


@mutation(WRITE)
def record_error(
    store: EventStore,
    options: Options,
    session: Session,
    kind: Annotated[str, typer.Argument(help="What kind of failure.")],
    text: Annotated[str, typer.Argument(help="What happened.")] = "",
    detail: Annotated[str | None, typer.Option(help="More, as JSON.")] = None,
) -> Receipt:
    """Record that something failed."""
    return store.record_error(session, kind, text, _json(detail, "--detail"), **options)


# -- branches and the past -------------------------------------------------------------


@mutation(BRANCHES)
def branch(
    store: EventStore,
    options: Options,
    parent: Annotated[str, typer.Argument(help="Session or branch to start from.")],
    session: Annotated[str | None, typer.Argument(help="Its name; else a fresh UUID.")] = None,
    at: Annotated[str | None, typer.Option(help="Version or message id; else now.")] = None,
    name: Annotated[str | None, typer.Option(help="A title for people.")] = None,
    description: Annotated[str | None, typer.Option(help="What it is for.")] = None,
) -> Receipt:
    """Start a branch, now or at any past moment; costs the same for any length."""
    place = None if at is None else parse_place(at)
    return store.branch(parent, session, at=place, name=name, description=description, **options)


@mutation(BRANCHES)
def merge(
    store: EventStore,
    options: Options,
    source: Annotated[str, typer.Argument(help="Branch whose news are wanted.")],
    into: Annotated[str, typer.Option(help="Session that takes them.", show_default=False)],
    strategy: Annotated[
        str, typer.Option(metavar="NAME", help="append, adopt, interleave or squash.")
    ] = "append",
    on_conflict: Annotated[
        str, typer.Option(metavar="RULE", help="error, ours or theirs, for changed values.")
    ] = "error",
    summary: Annotated[str | None, typer.Option(help="The one message of a squash.")] = None,
) -> Receipt:
    """Bring what is new in a branch into a session."""
    return store.merge(
        source, into=into, strategy=strategy, on_conflict=on_conflict, summary=summary, **options
    )


@mutation(BRANCHES)
def rewind(
    store: EventStore,
    options: Options,
    session: Session,
    to_version: Annotated[
        int, typer.Argument(metavar="VERSION", help="The version to be as.", show_default=False)
    ],
) -> Receipt:
    """Make a session what it was; history stays and can be rewound to."""
    return store.rewind(session, to_version, **options)


@mutation(BRANCHES)
def undo(store: EventStore, options: Options, session: Session) -> Receipt:
    """Take the last change back; an undo can be undone."""
    return store.undo(session, **options)


# -- what is typed ---------------------------------------------------------------------


def parse_messages(text: str) -> list[dict[str, Json]]:
    """Return the messages of JSON lines, or of one JSON array. Raises InvalidEvent."""
    if text.lstrip().startswith("["):
        found = parse_json(text, "standard input")
        return found if isinstance(found, list) else [found]
    return [
        parse_json(line, f"line {number} of standard input")
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]


def parse_pairs(pairs: list[str]) -> dict[str, Json]:
    """Return KEY=VALUE pairs; a value that is no JSON is text. Raises InvalidEvent."""
    found = {}
    for pair in pairs:
        key, sep, value = pair.partition("=")
        if not sep:
            raise InvalidEvent(f"KEY=VALUE expected, not {pair!r}")
        found[check_name(key, "the KEY of KEY=VALUE")] = _json_or_text(value)
    return found


def parse_place(text: str) -> int | str:
    """Return a version where the text is a number, else a message id."""
    number = parse_number(text)
    return text if number is None else number


def parse_seconds(text: str) -> float:
    """Return seconds of a text such as 90, 1.5h or 7d. Raises InvalidEvent."""
    number, unit = (text[:-1], SECONDS[text[-1]]) if text[-1:] in SECONDS else (text, 1)
    try:
        return float(number) * unit
    except ValueError:
        raise InvalidEvent(f"a time such as 90, 30m, 12h or 7d is expected, not {text!r}") from None


def _json_or_text(text: str) -> Json:
    try:
        return parse_json(text, "value")
    except InvalidEvent:
        return text


def _json(text: str | None, what: str) -> Json:
    return None if text is None else parse_json(text, what)


def _message(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def _stdin() -> str:
    if sys.stdin.isatty():
        raise InvalidEvent("give --content TEXT, or JSON messages on stdin")
    return read_stdin()
