"""Numbers as pictures: bars, sparklines, and the statistics of a store or session.

Invariants: nothing here reads or writes; a picture is as wide as it is told and fits 80 columns.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from projections import Statistics

from ..clock import when
from ..errors import counted
from .drawing import Pen, pairs, size, table

BAR_WIDTH, SPARK_WIDTH = 40, 60
BARS_MAX = 12
"""Rows of a ranking on a screen; how many are rarer it says."""

_SPARKS = "▁▂▃▄▅▆▇█"


def bar(value: float, largest: float, width: int = BAR_WIDTH) -> str:
    """Return a bar of at most `width` characters, to half of one; nothing only for zero."""
    halves = round(value / largest * width * 2) if largest > 0 else 0
    halves = max(halves, 1) if value > 0 else 0
    return "━" * (halves // 2) + "╸" * (halves % 2)


def bars(pen: Pen, counts: Mapping[str, float], style: str = "cyan") -> Table:
    """Draw one bar a name, the largest first."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, min_width=18)
    grid.add_column(justify="right", style="dim", no_wrap=True, min_width=9)
    grid.add_column(no_wrap=True, style=style)
    largest = max(counts.values(), default=0)
    ranked = sorted(counts.items(), key=lambda each: -each[1])
    shown = pen.most(ranked, BARS_MAX)
    for name, value in shown:
        grid.add_row(Text(pen.line(name, 22)), f"{value:,.0f}", bar(value, largest))
    if len(shown) < len(ranked):
        grid.add_row(Text(f"… {len(ranked) - len(shown):,} more", "dim"), "", "")
    return grid


def sparkline(values: Sequence[float], width: int = SPARK_WIDTH) -> str:
    """Return the values as one line of small bars; neighbours share one when there are many."""
    shown = _gathered(values, width)
    largest = max(shown, default=0)
    if largest <= 0:
        return _SPARKS[0] * len(shown)
    return "".join(_SPARKS[min(int(value / largest * 8), 7)] for value in shown)


def _gathered(values: Sequence[float], width: int) -> list[float]:
    if len(values) <= width:
        return list(values)
    edges = [index * len(values) // width for index in range(width + 1)]
    return [sum(values[low:high]) for low, high in pairwise(edges)]


def statistics_blocks(pen: Pen, found: Statistics) -> list[RenderableType]:
    """Draw statistics: numbers, then who spoke, what happened, when, with which tools."""
    blocks: list[RenderableType] = [_numbers(found)]
    if found.by_role:
        blocks += ["", Text("messages by role", "bold"), bars(pen, found.by_role)]
    if found.by_type:
        blocks += ["", Text("facts by type", "bold"), bars(pen, found.by_type, "green")]
    if len(found.days) > 1:
        blocks += ["", Text("messages by day", "bold"), days_line(found.days)]
    if found.tools:
        blocks += ["", Text("tools", "bold"), _tools(pen, found)]
    if found.errors:
        blocks += ["", Text("errors", "bold"), bars(pen, found.errors, "red")]
    return blocks


def _numbers(found: Statistics) -> Table:
    states = {name: getattr(found, name) for name in ("active", "closed", "archived", "deleted")}
    told = ", ".join(f"{count:,} {name}" for name, count in states.items() if count)
    changes = (
        counted(found.branches, "branch", "branches"),
        counted(found.merges, "merge"),
        counted(found.summaries, "summary", "summaries"),
    )
    rows: list[tuple[str, RenderableType]] = [
        ("facts", f"{found.events:,}, {size(found.bytes)} before compression"),
        ("sessions", f"{found.sessions:,} ({told})"),
        ("messages", f"{found.messages:,}, {found.messages_per_session:,.1f} a session"),
        ("tokens", f"{found.tokens_in:,} in, {found.tokens_out:,} out"),
        ("changes", ", ".join(changes)),
        ("pruned", f"{counted(found.pruned, 'message')} in {counted(found.prunes, 'prune')}"),
    ]
    if found.first_at is not None and found.last_at is not None:
        rows.append(("recorded", f"{when(found.first_at)} to {when(found.last_at)}"))
    return pairs(rows)


def days_line(days: Mapping[str, int]) -> Text:
    """Draw messages by day as a sparkline between its first and its last day."""
    ordered = sorted(days)
    counts = [days[day] for day in ordered]
    told = f"{ordered[0]} to {ordered[-1]}: {counted(len(ordered), 'day')} with messages"
    return Text.assemble(
        (sparkline(counts), "cyan"), (f"\n{told}, at most {max(counts):,} on one", "dim")
    )


def _tools(pen: Pen, found: Statistics) -> Table:
    drawn = table("tool", "calls", "errors", "ms a call", numbers=("calls", "errors", "ms a call"))
    ranked = sorted(found.tools.items(), key=lambda each: -each[1].calls)
    shown = pen.most(ranked, BARS_MAX)
    for name, use in shown:
        mean = f"{use.duration_ms / use.calls:,.1f}" if use.duration_ms else "-"
        drawn.add_row(Text(pen.line(name, 40)), f"{use.calls:,}", f"{use.errors:,}", mean)
    if len(shown) < len(ranked):
        drawn.add_row(Text(f"… {len(ranked) - len(shown):,} more", "dim"), "", "", "")
    return drawn
