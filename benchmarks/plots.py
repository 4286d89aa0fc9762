"""Pictures of results: curves of what grows, and bars against the peers."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from .harness import Result

GROWTH, BARS = "growth.png", "peers.png"
BETTER, WORSE, LIMIT = "#3d8c5a", "#b5523b", "#8a8a8a"
DPI = 120


def draw(results: Sequence[Result], folder: Path) -> list[str]:
    """Write the pictures that the results give; return their names. Needs matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    if any(result.series for result in results):
        _growth(results, folder / GROWTH)
        drawn.append(GROWTH)
    if any(result.ratio for result in results):
        _bars([each for each in results if each.ratio], folder / BARS)
        drawn.append(BARS)
    return drawn


def _growth(results: Sequence[Result], path: Path) -> None:
    """Draw each benchmark's curves in a panel of its own, from zero, sizes on a log scale."""
    from matplotlib import pyplot as plt

    chosen = [result for result in results if result.series]
    columns = min(len(chosen), 3)
    rows = -(-len(chosen) // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(4.6 * columns, 3.4 * rows), squeeze=False, layout="constrained"
    )
    for panel in panels.flat[len(chosen) :]:
        panel.set_visible(False)
    for panel, result in zip(panels.flat, chosen, strict=False):
        _curves(panel, result)
    figure.suptitle("Cost by size: flat is the aim")
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def _curves(panel: Any, result: Result) -> None:
    for label, points in result.series.items():
        panel.plot(*zip(*points, strict=True), marker="o", label=label)
    sizes = sorted({size for points in result.series.values() for size, _ in points})
    top = max(cost for points in result.series.values() for _, cost in points)
    panel.set(xscale="log", ylim=(0, top * 1.2), title=result.name)
    panel.set_xlabel(f"{'messages in the session' if result.name in LONG else 'events stored'}")
    panel.set_ylabel(result.unit)
    panel.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
    panel.minorticks_off()
    panel.grid(alpha=0.3)
    if len(result.series) > 1:
        panel.legend(fontsize=8)


LONG = ("state_now", "state_at", "branch")
"""Benchmarks whose sizes are lengths of a session."""


def _bars(results: Sequence[Result], path: Path) -> None:
    """Draw every ratio, benchmark by benchmark, on a log scale around 1."""
    from matplotlib import pyplot as plt

    bars = [(result, name) for result in results for name in result.ratio]
    places = _places(bars)
    figure, panel = plt.subplots(figsize=(8, 0.2 * places[-1] + 1.6), layout="constrained")
    values = [result.ratio[name] for result, name in bars]
    colours = [_colour(result, name) for result, name in bars]
    panel.barh(places, [value - 1 for value in values], left=1, color=colours, height=0.8)
    for place, value in zip(places, values, strict=True):
        side, gap = ("left", 1.04) if value >= 1 else ("right", 0.96)
        panel.text(value * gap, place, f"{value:.2g}", ha=side, va="center", fontsize=7)
    for result in results:
        first = next(place for place, bar in zip(places, bars, strict=True) if bar[0] is result)
        across = panel.get_yaxis_transform()
        panel.text(0.01, first - 1, result.name, transform=across, va="center", weight="bold")
    panel.set_yticks(places, [name for _, name in bars], fontsize=8)
    panel.axvline(1, color="black", linewidth=0.8)
    panel.set(xscale="log", xlim=(min(values) / 3, max(values) * 2))
    panel.xaxis.set_major_formatter(lambda value, _: f"x{value:g}")
    panel.set_ylim(places[-1] + 0.8, -1.8)
    panel.set_title("Against each peer and, in grey, the limit: right of 1 we are better")
    panel.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def _places(bars: Sequence[tuple[Result, str]]) -> list[float]:
    """Return the height of each bar, with room for a name above each benchmark's."""
    places = [0.0]
    for before, after in pairwise(bars):
        places.append(places[-1] + (1.0 if before[0] is after[0] else 2.4))
    return places


def _colour(result: Result, name: str) -> str:
    if name in result.limit:
        return LIMIT
    return BETTER if result.ratio[name] >= 1 else WORSE
