"""Commands that look at views: lists, branch trees, comparisons, origins, numbers.

Invariants: nothing is written and no store is made; a view is caught up before it answers.
"""

from collections.abc import Collection
from typing import Annotated

import msgspec
import typer

from projections import BranchTree, Statistics
from projections import blame as blame_of
from projections import diff as diff_of
from projections.catalog import LISTED, ORDERS, STATUSES
from projections.diff import Side

from .. import EventStore, InvalidEvent
from ..clock import system_clock
from ..sessions import Hit, SessionManager
from ..sessions.questions import SEARCH_HITS
from ..sessions.settings import COUNT_MAX
from .app import NO, READ, AtPosition, AtTime, AtVersion, Session, command
from .charts import statistics_blocks
from .terminal import Terminal, parse_number, write_lines
from .trees import blame_table, diff_blocks, hits_table, sessions_table, tree_drawing
from .writes import parse_pairs

SHOWN_FIRST = 50
"""Sessions that `sessions` lists on a screen unless told otherwise."""

Where = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Only with this metadata; may be repeated."),
]
Statuses = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help=f"{', '.join(STATUSES)}; else the first two."),
]


@command(READ)
def sessions(
    terminal: Terminal,
    user: Annotated[str | None, typer.Option(help="Only this user's.")] = None,
    where: Where = None,
    status: Statuses = None,
    order: Annotated[
        str, typer.Option(metavar="NAME", help=f"{', '.join(ORDERS)}; with - for descending.")
    ] = "-updated_at",
    limit: Annotated[
        int | None,
        typer.Option("--limit", "-n", min=1, help=f"At most; on a screen {SHOWN_FIRST}."),
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="Every session, however many.")] = False,  # noqa: A002
) -> None:
    """List sessions and branches, newest first."""
    chosen = _statuses(status)
    most = limit or (SHOWN_FIRST if terminal.limited else None)
    with terminal.viewing() as views:
        page = views.sessions(
            user=user,
            where=parse_pairs(where or []),
            status=chosen,
            order=order,
            limit=None if all else most,
        )
    if terminal.json:
        write_lines(row.to_dict() for row in page)
        return
    terminal.draw(sessions_table(terminal.pen, page, terminal.out.width, system_clock()))
    if page.next is not None:
        terminal.remark(f"the first {most}; --limit and --all show more")


def _statuses(given: list[str] | None) -> Collection[str]:
    unknown = sorted(set(given or ()) - set(STATUSES))
    if unknown:
        raise InvalidEvent(f"--status takes {', '.join(STATUSES)}, not {unknown[0]!r}")
    return given or LISTED


@command(READ)
def search(
    terminal: Terminal,
    text: Annotated[str, typer.Argument(help="What to look for, in any case.", show_default=False)],
    user: Annotated[str | None, typer.Option(help="Only in this user's sessions.")] = None,
    where: Where = None,
    status: Statuses = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", "-n", min=1, help=f"At most; on a screen {SEARCH_HITS}."),
    ] = None,
) -> None:
    """Find a text in what sessions show and in their metadata; exit 1 where it is nowhere."""
    chosen = _statuses(status)
    most = limit or (SEARCH_HITS if terminal.limited else None)
    with (
        terminal.looking() as store,
        SessionManager(store) as manager,
        terminal.progress("searching"),
    ):
        hits = manager.search(
            text,
            user=user,
            where=parse_pairs(where or []),
            status=chosen,
            limit=most and min(most + 1, COUNT_MAX),  # one more says that there are more
        )
    found = hits[:most]
    if terminal.json:
        write_lines(map(_hit_document, found))
    elif found:
        terminal.draw(hits_table(terminal.pen, found))
    if len(hits) > len(found):
        terminal.remark(f"the first {most}; --limit shows more")
    if not found:
        raise typer.Exit(NO)


def _hit_document(found: Hit) -> dict[str, object]:
    message = found.message and {"id": found.message.id, **found.message.fields}
    return {**msgspec.structs.asdict(found), "message": message}


@command(READ)
def tree(
    terminal: Terminal,
    session: Session,
    at_time: AtTime = None,
    at_position: AtPosition = None,
) -> None:
    """Draw the tree of branches that a session is in, and the merges between them."""
    if at_time is None and at_position is None:
        with terminal.viewing() as views:
            found = views.tree(session)
    else:
        with terminal.reading() as store:
            found = BranchTree.of(store, session, at_position=at_position, at_time=at_time)
    terminal.answer(
        found.to_dict(), *[tree_drawing(terminal.pen, found, root, session) for root in found.roots]
    )


@command(READ)
def diff(
    terminal: Terminal,
    a: Annotated[str, typer.Argument(help="A session, or SESSION@VERSION.", show_default=False)],
    b: Annotated[str, typer.Argument(help="Another, or another moment.", show_default=False)],
) -> None:
    """Compare two sessions, branches or moments."""
    with terminal.reading() as store:
        found = diff_of(store, parse_side(store, a), parse_side(store, b))
        terminal.answer(
            found.to_dict() if terminal.json else None, *diff_blocks(terminal.pen, found)
        )


@command(READ)
def blame(terminal: Terminal, session: Session, at_version: AtVersion = None) -> None:
    """Name the fact behind each message and value of a session."""
    with terminal.reading() as store:
        found = blame_of(store, session, at_version)
    terminal.answer(found.to_dict() if terminal.json else None, blame_table(terminal.pen, found))


@command(READ)
def stats(
    terminal: Terminal,
    session: Annotated[str | None, typer.Argument(help="One session; else all.")] = None,
    at_version: AtVersion = None,
    at_time: AtTime = None,
    at_position: AtPosition = None,
) -> None:
    """Count what happened in the store or in one session, now or up to a past moment."""
    if session is None and at_version is None and at_time is None and at_position is None:
        with terminal.viewing() as views:
            found = views.statistics()
    else:
        with terminal.reading() as store, terminal.progress("counting"):
            found = Statistics.of(
                store, session, at_version=at_version, at_position=at_position, at_time=at_time
            )
    terminal.answer(found.to_dict(), *statistics_blocks(terminal.pen, found))


def parse_side(store: EventStore, text: str) -> Side:
    """Return a session, or a (session, version), where no session has the whole text as name."""
    session, sep, version = text.rpartition("@")
    number = parse_number(version)
    if not sep or number is None:
        return text
    sealed = store.log.codec.locked  # and then shown by pseudonyms, none of which has an "@"
    return (session, number) if sealed or not store.exists(text) else text
