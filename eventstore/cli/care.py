"""Commands that keep a store well: make it, check it, copy it, fit its compression.

Invariants: `verify` answers 0 for sound and 1 for a violation, and goes on after damage; a backup
or a restored store appears whole or not at all.
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

from .. import EventStore
from ..audit.report import Finding, Report
from ..audit.verify import verify_directory
from ..directory import VIEWS
from .app import CARE, NO, START, command
from .drawing import counted, pairs, plain
from .terminal import Terminal


@command(START)
def init(terminal: Terminal) -> None:
    """Make an empty store, or leave the one that is there as it is."""
    with EventStore.open(terminal.path) as store:
        made = {"store": store.id, "path": str(terminal.path), "size": store.head().size}
    told = f"store {made['store']} at {terminal.path}"
    terminal.answer(made, Text.assemble(("✓ ", "green"), plain(told)))


@command(CARE)
def verify(
    terminal: Terminal,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also decode every fact and replay every view.")
    ] = False,
) -> None:
    """Check everything: frames, indexes, times, the whole tree; exit 1 names what is wrong."""
    with terminal.progress("verifying") as advance:
        report = verify_directory(terminal.path, deep=deep, progress=advance)
        if deep and report.sound:
            report = msgspec.structs.replace(report, findings=list(_check_views(terminal.path)))
    terminal.answer({"sound": report.sound, **msgspec.to_builtins(report)}, *report_blocks(report))
    if not report.sound:
        raise typer.Exit(NO)


def _check_views(path: Path) -> Iterator[Finding]:
    """Compare each view that is kept beside the log with a full replay of the facts."""
    if not (path / VIEWS).is_dir() or not os.access(path / VIEWS, os.W_OK):
        return
    with EventStore.open(path) as store:
        yield from compare_views(store, Views(store))


def compare_views(store: EventStore, views: Views) -> Iterator[Finding]:
    """Find the views that differ from a full replay."""
    recipes: tuple[Projection[Any], ...] = (
        CatalogProjection(store.headers),
        BranchesProjection(store.log),
        StatisticsProjection(store.headers),
    )
    for recipe in recipes:
        if views.state(recipe.name) != fold(store, recipe):
            what = f"view {recipe.name!r} differs from a full replay; delete {VIEWS}/ to remake it"
            yield Finding(-1, what)


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
    verdict = Text.assemble(("✗ damaged", "bold red"), f"  {counted(found, 'finding')}")
    lines: list[RenderableType] = [plain(f"  {finding}", "red") for finding in report.findings]
    if report.unlisted:
        lines.append(Text(f"  and {report.unlisted:,} more", "red"))
    return [verdict, *lines, pairs(rows)]


@command(CARE)
def train_dictionary(terminal: Terminal) -> None:
    """Train compression on this store's newest facts; new ones get smaller."""
    with terminal.writing() as store:
        number = store.train_dictionary()
    terminal.answer({"dictionary": number}, Text.assemble(("✓ ", "green"), f"dictionary {number}"))
