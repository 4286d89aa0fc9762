"""What a benchmark uses and what it hands back: data, folders, contenders, races, results.

Invariants: a figure is the median of its rounds, its spread their quartiles; a ratio above 1
means that we are better; what could not be told is None, never a pass; folders are on the disk
that is measured, and gone when the run is over.
"""

import shutil
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Literal

import msgspec

from . import stock
from .beside import beside
from .data import Conversation, Data, Message
from .ours import Ours
from .peers import PEERS, Contender, why_not
from .race import ROUNDS_MIN, Lane, Measure, Race, failure

Better = Literal["lower", "higher"]

OTHER_SECONDS, OTHER_SECONDS_QUICK = 20.0, 0.7
"""How long a peer may take over all its rounds; the one under way is finished."""

FILL_QUICK_MAX = 100
"""Messages that a contender which is slow to fill gets in a quick run."""

FILL_CONVERSATIONS, FILL_QUICK_CONVERSATIONS = 200, 5
"""Conversations that a slow contender gets, in a full and in a quick run."""


class Reach(msgspec.Struct):
    """One thing to reach: the bound in words, our value, and whether it holds.

    `reached` is None where it could not be told, for want of a peer for example.
    """

    target: str
    value: float | None
    reached: bool | None


class Result(msgspec.Struct, kw_only=True):
    """What one benchmark found; `missing` says why where it found nothing.

    `figures` are further numbers of ours; `spread` holds the quartiles of every number;
    `series` are curves of [x, y] points by label; `skipped` says which peers did not run and why.
    """

    name: str
    what: str = ""
    unit: str = ""
    better: Better = "lower"
    ours: float | None = None
    peers: dict[str, float] = {}
    limit: dict[str, float] = {}
    ratio: dict[str, float] = {}
    figures: dict[str, float] = {}
    spread: dict[str, tuple[float, float]] = {}
    reach: list[Reach] = []
    series: dict[str, list[tuple[float, float]]] = {}
    skipped: dict[str, str] = {}
    note: str = ""
    rounds: int = 0
    seconds: float = 0.0
    missing: str | None = None


class Bench:
    """What a benchmark may use: its data, fresh folders, contenders, and the race.

    `steady` is for races on processors that were made ready (awake.py, beside.py); `nearest` are
    those that lone callers ran on.
    """

    def __init__(
        self,
        data: Data,
        place: Path,
        *,
        quick: bool,
        seconds: float,
        events: int,
        smoke: bool,
        steady: bool = False,
    ) -> None:
        self.data, self.place = data, place
        self.quick, self.smoke, self.steady = quick, smoke, steady
        self.seconds, self.events = seconds, events
        self.until = self.over = 0.0
        self.skipped: dict[str, str] = {}
        self.nearest = set[int]()
        self._closing: list[Callable[[], object]] = []
        self._folders = 0
        self._stock: dict[tuple[str, int], Path] = {}

    def size(self, full: int, quick: int) -> int:
        """Return a size: of the full run, of the quick one, or a token one for a smoke test."""
        return min(quick, 200) if self.smoke else quick if self.quick else full

    def folder(self, label: str = "folder") -> Path:
        """Return an empty directory on the disk that is measured."""
        self._folders += 1
        made = self.place / f"{self._folders:03}-{label}"
        made.mkdir()
        return made

    # -- contenders ----------------------------------------------------------------------

    def ours(self, place: Path | None = None) -> Ours:
        """Return our store, opened with its defaults in a directory or in an empty one."""
        made = Ours(place or self.folder("ours"))
        self.at_end(made.close)
        return made

    def at_end(self, close: Callable[[], object]) -> None:
        """Have `close` called when the benchmark is over."""
        self._closing.append(close)

    def others(self, ability: str, only: Collection[str] | None = None) -> list[Contender]:
        """Return every peer and limit that is installed and has this ability."""
        made: list[Contender] = []
        for kind in PEERS:
            if not hasattr(kind, ability) or (only is not None and kind.name not in only):
                continue
            try:
                reason = why_not(kind)
                if reason is None:
                    made.append(kind(self.folder(kind.__name__)))
                    self.at_end(made[-1].close)
            except Exception as error:  # noqa: BLE001 - a peer's failure is a line in the report
                reason = failure(error)
            if reason is not None:
                self.skipped[kind.name] = reason
        return made

    def filled(
        self, contenders: Iterable[Contender], session: str, messages: Sequence[Message]
    ) -> list[Contender]:
        """Start a session with these messages; return those that did not fail at it."""
        few = messages[:FILL_QUICK_MAX]

        def fill(each: Contender) -> bool:
            chosen = few if each.slow and self.quick else messages
            return self.guarded(each, lambda: each.fill(session, chosen))

        return [each for each in contenders if fill(each)]

    def guarded(self, contender: Contender, act: Callable[[], object]) -> bool:
        """Do something with a contender; when a peer fails at it, say so and return False."""
        try:
            act()
        except Exception as error:
            if contender.kind == "ours":
                raise
            self.skipped[contender.name] = failure(error)
            return False
        return True

    def stock(self, shape: str, size: int) -> Path:
        """Return the directory of one of our stores, built once a run; see stock.py."""
        key = shape, size
        if key not in self._stock:
            made = self.folder(f"stock-{shape}-{size}")
            stock.SHAPES[shape](made, self.data, size)
            self._stock[key] = made
        return self._stock[key]

    def conversations(self, contender: Contender, taken: list[Conversation]) -> list[Conversation]:
        """Return what a contender is to store, which is less where that takes it minutes."""
        if not contender.slow and not contender.per_message:
            return taken
        return taken[: FILL_QUICK_CONVERSATIONS if self.quick else FILL_CONVERSATIONS]

    def end(self) -> None:
        """Close what the benchmark opened and delete its folders, but for the stock."""
        while self._closing:
            with suppress(Exception):  # a peer that can't close is nobody's result
                self._closing.pop()()
        self.skipped = {}
        kept = set(self._stock.values())
        for folder in self.place.iterdir():
            if folder not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    # -- the race ------------------------------------------------------------------------

    def compare(
        self,
        lanes: Sequence[Lane],
        *,
        what: str,
        unit: str,
        better: Better,
        once: bool = False,
        alone: bool = False,
    ) -> Result:
        """Race the lanes and put their medians, spreads and ratios into a result.

        With `once` there is one round and no warm-up: for what does not vary. `alone` is for lanes
        of one caller that waits for the disk: they run beside it, see beside.py.
        """
        race = Race(lanes, OTHER_SECONDS_QUICK if self.quick else OTHER_SECONDS)
        with beside(self.place) if alone and self.steady else nullcontext() as nearest:
            self.nearest |= set() if nearest is None else {nearest}
            if once:
                race.round()
            elif self.quick:
                race.run(self.until - time.perf_counter(), 1 if self.late() else ROUNDS_MIN)
            else:
                race.run(self.seconds)
        self.skipped |= race.failed
        [ours] = race.medians("ours").values()
        others = race.medians("peer", "limit")
        return Result(
            name="",
            what=what,
            unit=unit,
            better=better,
            ours=ours,
            peers=race.medians("peer"),
            limit=race.medians("limit"),
            ratio={name: ratio(ours, value, better) for name, value in others.items()},
            figures=race.medians("figure"),
            spread=race.spreads(),
            rounds=race.rounds or 1,
        )

    def late(self) -> bool:
        """Return True where a quick run has used up its time, set-up included."""
        return time.perf_counter() > self.over


def lanes_of(contenders: Iterable[Contender], measure: Callable[[Contender], float]) -> list[Lane]:
    """Return one lane per contender, all measured alike."""

    def bound(contender: Contender) -> Measure:
        return lambda: measure(contender)

    return [Lane(each.name, each.kind, bound(each)) for each in contenders]


def ratio(ours: float, other: float, better: Better) -> float:
    """Return how many times better we are."""
    return other / ours if better == "lower" else ours / other


def at_most(target: str, value: float | None, bound: float) -> Reach:
    """Return whether a value stays within its bound."""
    return Reach(target, value, None if value is None else value <= bound)


def at_least(target: str, value: float | None, bound: float) -> Reach:
    """Return whether a value comes up to its bound."""
    return Reach(target, value, None if value is None else value >= bound)


def times(ours: float | None, found: Mapping[str, float], name: str) -> float | None:
    """Return `ours / found[name]`, None where the other was not measured."""
    other = found.get(name)
    return None if ours is None or not other else ours / other
