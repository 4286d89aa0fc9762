"""python -m benchmarks [NAME...] [--quick] [--json FILE] [--plot DIR] [--report FILE] [--as-is].

Invariants: every name asked for is in the output, as a result or as missing with the reason;
exit 0 when all ran, 1 when one is missing, 2 on wrong usage.
"""

import argparse
import importlib
import os
import sys
import tempfile
import time
import warnings
from contextlib import nullcontext
from pathlib import Path

from . import NAMES, data, plots, report
from .awake import awake
from .harness import Bench, Result

QUICK_SECONDS, FULL_SECONDS = 48.0, 8.0
"""Of a quick run in all, set-up included; of a full run the rounds of one benchmark."""

EVENTS, EVENTS_QUICK = 1_000_000, 20_000
"""The large store of open, views_catch_up, growth and memory."""


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks that are asked for and write what is asked for."""
    options = _options(arguments)
    warnings.simplefilter("ignore")  # peers warn of their own affairs
    results = []
    steady = not (options.smoke or options.as_is)
    folder = tempfile.TemporaryDirectory(prefix="benchmarks-", dir=options.dir)
    with folder as place, awake() if steady else nullcontext([]) as idlers:
        bench = Bench(
            data.load(),
            Path(place),
            quick=options.quick or options.smoke,
            smoke=options.smoke,
            steady=steady,
            seconds=FULL_SECONDS,
            events=options.events or (EVENTS_QUICK if options.quick or options.smoke else EVENTS),
        )
        names = options.names or NAMES
        bench.over = time.perf_counter() + (0 if options.smoke else QUICK_SECONDS)
        for number, name in enumerate(names):  # each gets its share of the time that is left
            now = time.perf_counter()
            bench.until = now + (bench.over - now) / (len(names) - number)
            results.append(measured(name, bench))
            print(report.text(results[-1]), flush=True)
        about = report.about(bench, _processors(bench, awake=bool(idlers)))
    _write(options, results, about)
    return 1 if any(each.missing for each in results) else 0


def _processors(bench: Bench, *, awake: bool) -> str:
    """Return in words how processors were treated."""
    if not bench.steady:
        return "as the system has them"
    alone = ", ".join(map(str, sorted(bench.nearest)))
    where = f"; one caller alone runs beside the disk, on number {alone}" if alone else ""
    return ("kept awake" if awake else "not kept awake") + where


def measured(name: str, bench: Bench) -> Result:
    """Run one benchmark; what stops it is told as the reason why it is missing."""
    start = time.perf_counter()
    try:
        result: Result = importlib.import_module(f"{__package__}.{name}").run(bench)
        result.skipped |= bench.skipped
    except Exception as error:  # noqa: BLE001 - the other benchmarks still run
        result = Result(name=name, missing=f"{type(error).__name__}: {error}")
    finally:
        bench.end()
    result.name, result.seconds = name, time.perf_counter() - start
    return result


def _write(options: argparse.Namespace, results: list[Result], about: dict[str, str]) -> None:
    if options.json:
        report.write_json(options.json, results)
    drawn: list[str] = []
    if options.plot:
        try:
            drawn = plots.draw(results, options.plot)
        except ImportError:
            print("no pictures: matplotlib is not installed", file=sys.stderr)
    if options.report:
        folder = options.report.parent.resolve()
        linked = [Path(os.path.relpath(options.plot.resolve() / each, folder)) for each in drawn]
        options.report.write_text(report.markdown(results, about, map(Path.as_posix, linked)))
    unmet = [(each.name, bound) for each in results for bound in each.reach if not bound.reached]
    bounds = sum(len(each.reach) for each in results)
    print(f"\n{len(results)} benchmarks, {bounds - len(unmet)} of {bounds} bounds reached")
    for name in (each.name for each in results if each.missing):
        print(f"missing: {name}")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Our figures, the peers' and the limit's."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="small sizes, within 60 s in all")
    parser.add_argument("--smoke", action="store_true", help="token sizes: does it run at all?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="write pictures (PNG)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write a Markdown report")
    parser.add_argument(
        "--dir", type=Path, default=Path(), metavar="DIR", help="disk to measure; default: here"
    )
    parser.add_argument(
        "--as-is",
        action="store_true",
        help="leave processors to the system, see awake.py and beside.py",
    )
    parser.add_argument("--events", type=int, metavar="N", help="size of the large store")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark called {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if not options.dir.is_dir():
        parser.error(f"{options.dir} is no directory")
    return options


if __name__ == "__main__":
    sys.exit(main())
