"""Commands that move facts: files in and out, whole stores to and from copies.

Invariants: a file that is no conversation of a known kind is refused before a store is made for
it; an output file or copy appears whole or not at all, and overwrites nothing unasked.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryDirectory
from typing import Annotated

import msgspec
import typer
from rich.text import Text

from .. import EventStore, InvalidEvent, StoreUnavailable
from ..audit.trust import LAST_NOTE, audit_directory, read_note
from ..care import backup as copies
from ..care.comparing import compare as copies_compared
from ..errors import counted
from ..interchange import (
    CHAT,
    EVENTS,
    FORMATS,
    Imported,
    detect_format,
    export_chat,
    export_chat_lines,
    export_events,
    export_markdown,
    import_file,
)
from ..log.base import Head
from .app import CARE, NO, START, AtPosition, AtTime, AtVersion, command
from .audit import export_tree, tell_written
from .drawing import done, pairs, plain, printable, whole
from .terminal import Terminal, written

JSON, MARKDOWN = "json", "markdown"
OUTPUTS = (EVENTS, JSON, CHAT, MARKDOWN)

STDIN = Path("-")
"""Names what comes in on stdin instead of a file."""


@command(START, "import")
def import_(
    terminal: Terminal,
    files: Annotated[
        list[Path], typer.Argument(help="Files to import; - is stdin.", show_default=False)
    ],
    format: Annotated[  # noqa: A002
        str, typer.Option(metavar="NAME", help=f"auto, {', '.join(FORMATS)}.")
    ] = "auto",
    name: Annotated[
        str | None, typer.Option(help="Begins the names of sessions; else the file's name does.")
    ] = None,
    actor: Annotated[str | None, typer.Option(help="Who brings it; else this user.")] = None,
) -> None:
    """Import conversations: our own JSONL, chat, ShareGPT, ChatGPT's export, tau-bench."""
    if format != "auto" and format not in FORMATS:
        raise InvalidEvent(f"--format takes auto, {', '.join(FORMATS)}, not {format!r}")
    with ExitStack() as stack:
        named = [stack.enter_context(_spooled()) if file == STDIN else file for file in files]
        kinds = [detect_format(file) if format == "auto" else format for file in named]
        store = stack.enter_context(terminal.writing(creates=True))
        for given, file, kind in zip(files, named, kinds, strict=True):
            found = _import_one(terminal, store, file, kind, name, actor)
            _tell_imported(terminal, given, kind, found)


@contextmanager
def _spooled() -> Iterator[Path]:
    """Keep what comes in on stdin in a file of this user's own while it is imported.

    Files are read twice: once to find whatever is wrong before anything is written.
    """
    with TemporaryDirectory(prefix="eventstore-") as place:
        file = Path(place) / "stdin"
        with file.open("wb") as out:
            copyfileobj(sys.stdin.buffer, out)
        yield file


def _import_one(
    terminal: Terminal,
    store: EventStore,
    file: Path,
    kind: str,
    name: str | None,
    actor: str | None,
) -> Imported:
    done = 0
    with terminal.progress(f"importing {printable(file.name)}") as advance:

        def more(messages: int) -> None:
            nonlocal done
            done += messages
            advance(done)

        return import_file(store, file, kind, name=name, progress=more, actor=actor)


def _tell_imported(terminal: Terminal, file: Path, kind: str, found: Imported) -> None:
    branches = counted(found.branches, "branch", "branches")
    told = f"{counted(found.sessions, 'session')}, {branches}, {counted(found.messages, 'message')}"
    shown = "stdin" if file == STDIN else file.name
    line = Text.assemble(("✓ ", "green"), (printable(shown), "bold"), (f" ({kind})", "dim"))
    document = {"file": str(file), "format": kind, **msgspec.to_builtins(found)}
    terminal.answer(document, whole(line.append(f"  {told}")))


# -- out -------------------------------------------------------------------------------


@command(START)
def export(
    terminal: Terminal,
    sessions: Annotated[
        list[str] | None, typer.Argument(help="Sessions; as jsonl, none means the whole store.")
    ] = None,
    format: Annotated[  # noqa: A002
        str,
        typer.Option(
            metavar="NAME",
            help="jsonl (every fact), json (one document a session), chat (messages as JSON "
            "lines) or markdown.",
        ),
    ] = EVENTS,
    at_version: AtVersion = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write this file; else stdout.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    tiles: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The tree under the last signed head, for auditors."),
    ] = None,
) -> None:
    """Export facts, messages, transcripts, or the tree as static tiles."""
    if tiles is not None:
        export_tree(terminal, tiles)
        return
    if format not in OUTPUTS:
        raise InvalidEvent(f"--format takes {', '.join(OUTPUTS)}, not {format!r}")
    if format == EVENTS and at_version is not None:
        raise InvalidEvent("--at-version goes with the formats json, chat and markdown")
    if format == MARKDOWN and terminal.json and output is None:
        raise InvalidEvent("markdown is no JSON; leave --json out, or export --format json")
    if format != EVENTS and not sessions:
        raise InvalidEvent(f"name the sessions to export as {format}")
    with terminal.reading() as store, terminal.progress("exporting") as advance:
        pieces = _pieces(store, format, sessions, at_version)
        total = len(sessions or ()) if format != EVENTS else None if sessions else store.head().size
        done = 0
        with written(output, force=force) as out:
            for done, piece in enumerate(pieces, 1):
                out.write(piece)
                advance(done, total)
    what = "fact" if format == EVENTS else "session"
    tell_written(terminal, output, counted(done if format == EVENTS else len(sessions or ()), what))


def _pieces(
    store: EventStore, kind: str, sessions: list[str] | None, at_version: int | None
) -> Iterator[bytes]:
    """Return what is written, piece by piece; what does not exist is raised for at once."""
    if kind == EVENTS:
        return export_events(store, sessions or None)
    for session in sessions or ():
        store.version(session)
    return (
        piece
        for session in sessions or ()
        for piece in _session_pieces(store, kind, session, at_version)
    )


def _session_pieces(
    store: EventStore, kind: str, session: str, at_version: int | None
) -> Iterable[bytes]:
    if kind == CHAT:
        return export_chat_lines(store, session, at_version=at_version)
    if kind == JSON:
        return [msgspec.json.encode(export_chat(store, session, at_version=at_version)) + b"\n"]
    return [export_markdown(store, session, at_version=at_version).encode()]


# -- copies ----------------------------------------------------------------------------


@command(CARE)
def backup(
    terminal: Terminal,
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="A new or empty directory.")],
    incremental: Annotated[
        bool, typer.Option("--incremental", help="Add to the backup there only what is new.")
    ] = False,
) -> None:
    """Copy the whole store while it is in use, or add to a copy what came since."""
    with terminal.reading() as store, terminal.progress("copying"):
        head = copies.backup(store, destination, incremental=incremental)
    _tell_copy(terminal, destination, head)


@command(CARE)
def restore(
    terminal: Terminal,
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A backup.", show_default=False)],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="A new or empty directory.")],
    reason: Annotated[str, typer.Option(help="Why; its first fact says so.")] = copies.REASON,
    head: Annotated[
        Path | None,
        typer.Option(metavar="NOTE", help="Last known head; else that in DEST.audit."),
    ] = None,
    at_position: AtPosition = None,
    at_time: AtTime = None,
) -> None:
    """Make a new store out of a backup, up to any moment: a new origin, which says of what."""
    moment = copies.Moment(at_position, at_time)
    note = read_note(head or audit_directory(destination) / LAST_NOTE)
    if head is not None and note is None:
        raise StoreUnavailable(f"{head}: no such file")
    with terminal.progress("copying"):
        head_now = copies.restore(source, destination, moment=moment, reason=reason, head=note)
    _tell_copy(terminal, destination, head_now)


@command(CARE)
def compare(
    terminal: Terminal,
    original: Annotated[Path, typer.Argument(metavar="A", help="A store.", show_default=False)],
    copy: Annotated[Path, typer.Argument(metavar="B", help="A backup, or a store made of one.")],
) -> None:
    """Check that B is sound and that A begins with its facts; exit 1 names what is not."""
    with EventStore.open(original, read_only=True) as opened, terminal.progress("comparing"):
        found = copies_compared(opened, copy)
    document = {"equal": found.equal, **msgspec.to_builtins(found)}
    mark = ("✓ equal", "bold green") if found.equal else ("✗ different", "bold red")
    told = f"  {counted(found.size, 'fact')}, {original} has {found.behind:,} more"
    lines = [plain(f"  {each}", "red") for each in found.findings]
    terminal.answer(document, Text.assemble(mark, plain(told)), *lines)
    if not found.equal:
        raise typer.Exit(NO)


def _tell_copy(terminal: Terminal, destination: Path, head: Head) -> None:
    document = {"path": str(destination), "size": head.size, "root": head.root.hex()}
    told = done(f"{destination}: {counted(head.size, 'fact')}")
    terminal.answer(document, told, pairs([("root", head.root.hex())]))
