"""Commands that keep a store well: make it, check it, explain it, save it, make it smaller.

Invariants: `verify` answers 0 for sound and 1 for a violation, and goes on after damage; a
repaired store appears whole or not at all.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import RenderableType
from rich.text import Text

from projections import Projection, Views, fold
from projections.branches import BranchesProjection
from projections.catalog import CatalogProjection
from projections.statistics import StatisticsProjection

from .. import EventStore, InvalidEvent
from ..audit.report import Finding, Report
from ..audit.trust import VERIFIED
from ..audit.verify import Verified, verify_directory
from ..care import compacting
from ..care import repair as repairing
from ..care.doctor import Diagnosis, diagnose
from ..errors import UNDECODABLE, counted
from ..files import put_durably
from ..place.presence import Owner
from ..state.caches import VIEWS, cache_directory
from .app import CARE, NO, START, command
from .audit import Keys, outside_of
from .drawing import done, pairs, plain, size, whole
from .terminal import Terminal


@command(START)
def init(
    terminal: Terminal,
    encrypt: Annotated[
        bool, typer.Option("--encrypt", help="Seal every payload with keys of --keyring.")
    ] = False,
) -> None:
    """Make an empty store, or leave the one that is there as it is."""
    if encrypt and terminal.keyring is None:
        raise InvalidEvent("--encrypt needs --keyring FILE, outside of the store")
    with terminal.writing(creates=True) as store:
        made = {"store": store.id, "path": str(terminal.path), "size": store.head().size}
    told = f"store {made['store']} at {terminal.path}"
    terminal.answer(made, done(told))


@command(CARE)
def verify(
    terminal: Terminal,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also decode every fact and replay every view.")
    ] = False,
    head: Annotated[
        list[Path] | None,
        typer.Option(metavar="NOTE", help="A signed head kept elsewhere; may be repeated."),
    ] = None,
    key: Keys = None,
    tiles: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Exported tiles: they name what was done.")
    ] = None,
    since_last: Annotated[
        bool, typer.Option("--since-last", help="Read only what the last run did not.")
    ] = False,
) -> None:
    """Check everything, also against heads kept outside; exit 1 names what is wrong."""
    outside = outside_of(terminal, head or [], key, tiles)
    with terminal.progress("verifying") as advance:
        report = verify_directory(
            terminal.path,
            deep=deep,
            progress=advance,
            outside=outside,
            since=_last_verified(terminal, deep=deep) if since_last else None,
            keyring=terminal.keys(),
        )
        if deep and report.sound:
            report = msgspec.structs.replace(report, findings=list(_check_views(terminal)))
    terminal.answer({"sound": report.sound, **msgspec.to_builtins(report)}, *report_blocks(report))
    if not report.sound:
        raise typer.Exit(NO)
    if since_last or terminal.audit.is_dir():
        _keep_verified(terminal, Verified(report.size, report.root, deep))


def _last_verified(terminal: Terminal, *, deep: bool) -> Verified | None:
    """Return how far the last run came, None where nothing says so or it looked less deep."""
    try:
        kept = msgspec.json.decode((terminal.audit / VERIFIED).read_bytes(), type=Verified)
    except FileNotFoundError:
        return None
    except (OSError, *UNDECODABLE) as error:
        terminal.warn(f"{terminal.audit / VERIFIED} can't be read, so all is verified: {error}")
        return None
    return kept if kept.deep or not deep else None


def _keep_verified(terminal: Terminal, verified: Verified) -> None:
    """Note, outside of the store, how far it was found sound."""
    try:
        terminal.audit.mkdir(parents=True, exist_ok=True)
        put_durably(terminal.audit / VERIFIED, msgspec.json.encode(verified) + b"\n")
    except OSError as error:
        terminal.remark(f"{terminal.audit / VERIFIED} can't be kept: {error.strerror}")


def _check_views(terminal: Terminal) -> Iterator[Finding]:
    """Compare each view that is kept beside the log with a full replay of the facts."""
    with terminal.reading() as store:
        views = cache_directory(terminal.path, VIEWS, store.log.erasures())
    if not views.is_dir() or not os.access(views, os.W_OK):
        return
    with terminal.writing() as store:
        yield from compare_views(store, Views(store))


COMPARISONS_MAX = 3
"""How often a view is compared: another process may take it further between two looks."""


def compare_views(store: EventStore, views: Views) -> Iterator[Finding]:
    """Find the views that differ from a full replay."""
    recipes: tuple[Projection[Any], ...] = (
        CatalogProjection(store.headers),
        BranchesProjection(store.log),
        StatisticsProjection(store.headers),
    )
    for recipe in recipes:
        if not any(_as_replayed(store, views, recipe) for _ in range(COMPARISONS_MAX)):
            what = f"view {recipe.name!r} differs from a full replay; delete {VIEWS}/ to remake it"
            yield Finding(-1, what)


def _as_replayed(store: EventStore, views: Views, recipe: Projection[Any]) -> bool:
    """Return whether a view holds what a replay gives, of as many facts as it has by now."""
    kept, size = views.state(recipe.name), views.checkpoint(recipe.name)
    replayed = fold(store, recipe, at_position=size - 1) if size else recipe.initial()
    return bool(kept == replayed)


def report_blocks(report: Report) -> list[RenderableType]:
    """Draw what a verification found."""
    counts = {name: count for name, count in report.checked.items() if count}
    checked = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    rows: list[tuple[str, RenderableType]] = [("checked", checked)] if checked else []
    if report.sound:
        rows.append(("root", report.root))
        verdict = Text.assemble(("✓ sound", "bold green"), f"  {counted(report.size, 'fact')}")
        return [verdict, pairs(rows)]
    found = len(report.findings) + report.unlisted
    verdict = Text.assemble(("✗ not sound", "bold red"), f"  {counted(found, 'finding')}")
    lines: list[RenderableType] = [plain(f"  {finding}", "red") for finding in report.findings]
    if report.unlisted:
        lines.append(Text(f"  and {report.unlisted:,} more", "red"))
    return [verdict, *lines, pairs(rows)]


# -- the state of the files ------------------------------------------------------------


@command(CARE)
def doctor(terminal: Terminal) -> None:
    """Say what state the store's files are in and what to do; exit 1 where that is urgent."""
    found = diagnose(terminal.path, terminal.audit)
    document = {"healthy": found.healthy, **msgspec.to_builtins(found)}
    terminal.answer(document, *diagnosis_blocks(found))
    if not found.healthy:
        raise typer.Exit(NO)


def diagnosis_blocks(found: Diagnosis) -> list[RenderableType]:
    """Draw what the doctor found."""
    verdict = ("✓ healthy", "bold green") if found.healthy else ("✗ needs care", "bold red")
    rows: list[tuple[str, RenderableType]] = [("store", plain(f"{found.store} at {found.path}"))]
    if found.size is not None:
        rows += [("holds", counted(found.size, "fact")), ("root", found.root or "")]
    signed = "no head" if found.signed is None else counted(found.signed.size, "fact")
    free = found.volume.free_bytes
    disk = "" if free is None else f", {size(free)} free"
    rows += [("signed", signed), ("disk", plain(f"{found.volume.kind}{disk}"))]
    rows += [
        (each.name, f"{size(each.used_bytes)} used of a map of {size(each.map_bytes)}")
        for each in found.files
    ]
    rows += [("open in", plain(_owner(each))) for each in found.alive]
    rows += [("died in", plain(_owner(each))) for each in found.dead]
    rows += [
        ("reads", f"process {each.process}, {each.behind} commits ago") for each in found.readers
    ]
    advice = [
        plain(f"  {each.what}: {each.do}", "red" if each.urgent else "yellow")
        for each in found.advice
    ]
    return [Text.assemble(verdict), *advice, pairs(rows)]


def _owner(owner: Owner) -> str:
    how = "to read" if owner.read_only else "to write"
    return f"{owner}, {how}" + (f": {owner.command}" if owner.command else "")


@command(CARE)
def compact(terminal: Terminal) -> None:
    """Give free pages back to the disk; the store must not be open anywhere."""
    with terminal.progress("compacting"):
        made = compacting.compact(terminal.path)
    lines = [f"{each.name}: {size(each.before)} -> {size(each.after)}" for each in made]
    terminal.answer({"files": msgspec.to_builtins(made)}, *map(done, lines))


@command(CARE)
def repair(
    terminal: Terminal,
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A damaged store.")],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="A new or empty directory.")],
) -> None:
    """Save what is whole in a damaged store into a new one; exit 1 names what is missing."""
    with terminal.progress("repairing"):
        report = repairing.repair(source, destination, keyring=terminal.keys())
    document = {"path": str(destination), "whole": report.whole, **msgspec.to_builtins(report)}
    terminal.answer(document, *_repaired_blocks(destination, report))
    if not report.whole:
        raise typer.Exit(NO)


def _repaired_blocks(destination: Path, report: repairing.Repaired) -> list[RenderableType]:
    """Draw what a repair kept, and what it could not."""
    kept = f"{destination}: {report.kept:,} of {counted(report.events, 'fact')} kept"
    mark = ("✓ ", "green") if report.whole else ("✗ ", "red")
    lost = [f"lost: positions {start} to {stop - 1}" for start, stop in report.positions]
    lost += [
        f"placeholders: session {each.session!r}, versions {each.first} to {each.last}"
        for each in report.sessions
    ]
    lost += [] if report.size_known else ["there may have been more: the log's own size is lost"]
    lost += [f"its name is lost: {each!r}" for each in report.unnamed]
    lost += [f"unproven: positions {each.first} to {each.last}" for each in report.unproven]
    lost += [f"a name that nothing proves: {each!r}" for each in report.unproven_names]
    lines = [plain(f"  {each}", "red") for each in lost]
    return [whole(Text.assemble(mark, plain(kept))), *lines, pairs([("root", report.root)])]


@command(CARE)
def train_dictionary(terminal: Terminal) -> None:
    """Train compression on the newest facts now, and not when the store has doubled next.

    What is redacted later may be part of it until the next `compact`.
    """
    with terminal.writing() as store, terminal.progress("training"):
        number = store.train_dictionary()
    told = f"dictionary {number} for what is recorded from now on"
    terminal.answer({"dictionary": number}, done(told))
