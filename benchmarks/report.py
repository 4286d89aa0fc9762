"""What people and machines read: text per benchmark, JSON in the drawn shape, Markdown.

Invariants: nothing is left out: every name, every peer that did not run and why, every bound
that was not reached or could not be told; numbers are never rounded in the JSON.
"""

import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from .harness import Bench, Reach, Result
from .peers import PEERS
from .peers.base import version_of

MARKS = {True: "reached", False: "NOT REACHED", None: "not measured"}
OWN = ("session-eventstore", "lmdb", "msgspec", "zstandard", "xxhash", "cryptography")


# -- text --------------------------------------------------------------------------------


def text(result: Result) -> str:
    """Return what is printed of one benchmark."""
    if result.missing:
        return f"\n{result.name}: MISSING: {result.missing}"
    head = f"\n{result.name} · {result.what} · {result.unit}, {result.better} is better"
    lines = [f"{head} · {result.rounds} rounds, {result.seconds:.1f} s"]
    lines += [_line(result, "ours", result.ours)]
    lines += [_line(result, name, value) for name, value in result.figures.items()]
    lines += [_line(result, name, value) for name, value in result.peers.items()]
    lines += [_line(result, name, value, "limit ") for name, value in result.limit.items()]
    lines += [f"    {name}: {why}" for name, why in result.skipped.items()]
    lines += [f"    {_bound(each)}" for each in result.reach]
    lines += [f"    ({result.note})"] if result.note else []
    return "\n".join(lines)


def _line(result: Result, name: str, value: float | None, mark: str = "") -> str:
    low, high = result.spread.get(name, (value, value))
    times = f"  we are x{result.ratio[name]:.2f}" if name in result.ratio else ""
    spread = f"({number(low)} .. {number(high)})"
    return f"  {mark + name:30} {number(value):>12} {spread:>26}{times}"


def _bound(each: Reach) -> str:
    value = "" if each.value is None else f": {number(each.value)}"
    return f"{MARKS[each.reached]}: {each.target}{value}"


def number(value: float | None) -> str:
    """Return a number with three digits that count."""
    if value is None:
        return "-"
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


# -- machines ----------------------------------------------------------------------------


def write_json(path: Path, results: Sequence[Result]) -> None:
    """Write the results as a JSON array, a row per benchmark."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")


# -- Markdown ----------------------------------------------------------------------------


def about(bench: Bench, processors: str) -> dict[str, str]:
    """Return where, when and with what the figures were taken."""
    peers = {kind.package for kind in PEERS if kind.package}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} CPUs, {_cpu()}, {platform.machine()}",
        "processors": processors,
        "system": f"{platform.system()} {platform.release()}, {_file_system(bench.place)}",
        "Python": platform.python_version(),
        "versions": ", ".join(f"{name} {version_of(name)}" for name in OWN),
        "peers": ", ".join(f"{name} {version_of(name)}" for name in sorted(peers)),
        "data": f"{bench.data.source}, {bench.data.message_bytes:.0f} B of JSON a message",
        "run": "quick" if bench.quick else f"full, {bench.events:,} events in the large store",
    }


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown CPU"


def _file_system(place: Path) -> str:
    """Return the type of the file system that holds a directory."""
    mounts = Path("/proc/mounts")
    rows = [line.split() for line in mounts.read_text().splitlines()] if mounts.is_file() else []
    target = str(place.resolve())
    over = [row for row in rows if Path(target).is_relative_to(row[1])]
    return max(over, key=lambda row: len(row[1]))[2] if over else "unknown file system"


def markdown(results: Sequence[Result], where: dict[str, str], pictures: Iterable[str]) -> str:
    """Return the report that docs/performance.md includes."""
    lines = ["# Figures", ""]
    lines += [f"* **{name}**: {value}" for name, value in where.items()]
    lines += ["", "Ratios: above 1 we are better. Medians of interleaved rounds; in brackets the"]
    lines += ["quartiles. Made by `python -m benchmarks --report FILE`.", ""]
    lines += ["| benchmark | ours | peers | limit |", "|---|---|---|---|"]
    lines += [_row(each) for each in results]
    lines += ["", "## What to reach first", ""]
    lines += ["| benchmark | bound | value | |", "|---|---|---|---|"]
    lines += [
        f"| `{result.name}` | {each.target} | {number(each.value)} | {MARKS[each.reached]} |"
        for result in results
        for each in result.reach
    ]
    lines += ["", "## Further figures", ""]
    lines += [_further(each) for each in results if each.figures or each.note]
    lines += [""]
    lines += [f"![{Path(picture).stem}]({picture})" for picture in pictures]
    return "\n".join(lines).rstrip() + "\n"


def _row(result: Result) -> str:
    if result.missing:
        return f"| `{result.name}` | missing: {result.missing} | | |"
    low, high = result.spread.get("ours", (result.ours, result.ours))
    ours = f"{number(result.ours)} {result.unit} ({number(low)} .. {number(high)})"
    others = f"{_others(result, result.peers)} | {_others(result, result.limit)}"
    return f"| `{result.name}`: {result.what} | {ours} | {others} |"


def _others(result: Result, others: dict[str, float]) -> str:
    return "<br>".join(
        f"{name} {number(value)} (x{result.ratio[name]:.2f})" for name, value in others.items()
    )


def _further(result: Result) -> str:
    figures = ", ".join(f"{name} {number(value)}" for name, value in result.figures.items())
    return f"* `{result.name}`, {result.unit}: {'; '.join(filter(None, (figures, result.note)))}"
