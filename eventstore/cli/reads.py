"""Commands that look at facts and at the sessions they make, now or in the past.

Invariants: nothing is written and no store is made; other processes may write meanwhile; what
stands on the screen is one moment of the store.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Annotated, Any

import msgspec
import typer
from rich.text import Text

from projections import SessionState

from .. import EventStore, InvalidEvent, KeyShredded, Message, Recorded
from ..clock import system_clock, when
from ..engine.reading import checked_limit
from ..errors import counted
from ..events import EraseRequested, Span
from ..log.format import TYPE_CODES
from ..state.transcript import Transcript
from .app import READ, AtPosition, AtTime, AtVersion, Session, command
from .drawing import Pen, event_line, event_row, events_table, header_block, transcript_grid
from .terminal import Terminal, write_json, write_lines

SHOWN_LAST = 20
"""Messages that `show` prints for people unless told otherwise."""

PLACE = ("session", "version", "position", "recorded_at", "occurred_at", "actor")
"""What `show --json` says of the fact behind each message; times in ns."""

Line = tuple[Span, Recorded, Message]
"""A line of a transcript: its span, the event behind it, the message."""


@command(READ)
def show(
    terminal: Terminal,
    session: Session,
    at_version: AtVersion = None,
    at_time: AtTime = None,
    at_position: AtPosition = None,
    last: Annotated[
        int | None, typer.Option(min=0, help=f"Newest messages only; on a screen {SHOWN_LAST}.")
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="Every message.")] = False,  # noqa: A002
    times: Annotated[bool, typer.Option("--times", help="When each was recorded, UTC.")] = False,
) -> None:
    """Show a session, now or at any past moment."""
    with terminal.reading() as store:
        try:
            state = SessionState.of(
                store, session, at_version=at_version, at_position=at_position, at_time=at_time
            )
        except KeyShredded as gone:
            if gone.lost:
                raise
            raise KeyShredded(session, _erasure(store, session)) from None
        if last is None and terminal.limited and not all:
            last = SHOWN_LAST
        first = 0 if last is None else max(len(state.messages) - last, 0)
        lines = Transcript(store.log, state.header.spans).lines(first, len(state.messages))
        if terminal.json:
            write_json(_state_document(state, lines))
            return
        terminal.draw(header_block(state.header, store.version(session), system_clock()), "")
        if first:
            hidden = counted(first, "earlier message")
            terminal.draw(Text(f"{hidden}, shown with --all", "dim"))
        terminal.draw(
            transcript_grid(terminal.pen, placed(terminal.pen, session, lines, times=times))
        )


def _state_document(state: SessionState, lines: Iterable[Line]) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(state.header)
    document.pop("spans")
    document.pop("merges")
    document["message_count"] = len(state.messages)
    document["messages"], document["places"] = [], []
    for _, recorded, message in lines:
        document["messages"].append({"id": message.id, **message.fields})
        document["places"].append({each: getattr(recorded, each) for each in PLACE})
    return document


def placed(
    pen: Pen, session: str, lines: Iterable[Line], *, times: bool = False
) -> Iterator[tuple[str, Message]]:
    """Name each line by its version; by its session too where that is another one."""
    for span, recorded, message in lines:
        own = span.session == session
        place = str(recorded.version) if own else f"{pen.name(span.session, 16)}@{recorded.version}"
        yield f"{place}  {when(recorded.recorded_at)}" if times else place, message


# -- facts -----------------------------------------------------------------------------


@command(READ)
def log(
    terminal: Terminal,
    session: Annotated[str | None, typer.Argument(help="One session; else all.")] = None,
    start: Annotated[
        int, typer.Option("--from", metavar="N", min=0, help="From this version, or position.")
    ] = 0,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=0, help="Events.")] = None,
    type: Annotated[  # noqa: A002
        list[str] | None, typer.Option(metavar="NAME", help="Only such events; may be repeated.")
    ] = None,
    reverse: Annotated[
        bool, typer.Option("--reverse", "-r", help="Newest first (of one session).")
    ] = False,
) -> None:
    """List the facts of a session, or of the whole store, in order."""
    if reverse and session is None:
        raise InvalidEvent("--reverse goes with a session; tail shows the newest facts of all")
    with terminal.reading() as store:
        found = _facts(store, session, start, type, reverse=reverse)
        _print_facts(terminal, islice(found, checked_limit(limit)))


def _facts(
    store: EventStore, session: str | None, start: int, types: list[str] | None, *, reverse: bool
) -> Iterator[Recorded]:
    if session is None:
        return store.all(start, types=types or None)
    found = store.events(session, start, reverse=reverse)
    return (each for each in found if not types or each.type in types)


def _print_facts(terminal: Terminal, found: Iterable[Recorded]) -> None:
    if terminal.json:
        write_lines(fact_document(each) for each in found)
        return
    for page in _chunks(found, 500):
        drawn = events_table()
        for each in page:
            drawn.add_row(*event_row(terminal.pen, each))
        terminal.draw(drawn)


def _erasure(store: EventStore, session: str) -> str:
    """Return when, by whom and why a session was erased, as the end of a sentence."""
    for recorded in store.events(session, reverse=True):
        fact = recorded.event if recorded.type_code == TYPE_CODES[EraseRequested] else None
        if isinstance(fact, EraseRequested):
            return f" on {when(recorded.recorded_at)} by {recorded.actor}: {fact.reason}"
    return ""


def _chunks(found: Iterable[Recorded], count: int) -> Iterator[list[Recorded]]:
    source = iter(found)
    while chunk := list(islice(source, count)):
        yield chunk


def fact_document(recorded: Recorded) -> dict[str, Any]:
    """Return one fact with its place, for JSON."""
    return {
        "position": recorded.position,
        "session": recorded.session,
        "version": recorded.version,
        "type": recorded.type,
        "recorded_at": recorded.recorded_at,
        "occurred_at": recorded.occurred_at,
        "actor": recorded.actor,
        "correlation_id": recorded.correlation_id,
        "causation_id": recorded.causation_id,
        "key": recorded.key,
        "erased": recorded.erased,
        "event": recorded.structure,
    }


@command(READ)
def tail(
    terminal: Terminal,
    session: Annotated[str | None, typer.Argument(help="One session; else all.")] = None,
    count: Annotated[
        int, typer.Option("--last", "-n", min=0, help="Newest events first shown.")
    ] = 10,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Then print what comes, until Ctrl-C.")
    ] = False,
) -> None:
    """Print the newest facts, and with --follow those to come, of any process."""
    with terminal.reading() as store:
        for each in _newest(store, session, count, follow=follow):
            if terminal.json:
                write_json(fact_document(each))
            else:
                terminal.draw(event_line(terminal.pen, each))


def _newest(
    store: EventStore, session: str | None, count: int, *, follow: bool
) -> Iterable[Recorded]:
    if session is None:
        return store.subscribe(max(store.head().size - count, 0), follow=follow)
    start = max(store.version(session) + 1 - count, 0)
    return store.follow(session, start) if follow else store.events(session, start)
