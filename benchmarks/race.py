"""The race: contenders take turns, round by round, and the rounds' medians are the figures.

Invariants: each round starts with another lane, so that what the machine does meanwhile hits all
alike; the first round is warm-up and thrown away; a peer that fails leaves the race with the
reason, but our own failure stops it; a peer that has used up its time sits out later rounds.
"""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

Kind = Literal["ours", "figure", "peer", "limit"]
Measure = Callable[[], float]

ROUNDS_MIN, ROUNDS_MAX = 3, 25
OTHERS = ("peer", "limit")


class Lane(NamedTuple):
    """One contender's place in a race: `measure` runs a round and returns its figure."""

    name: str
    kind: Kind
    measure: Measure


class Race:
    """Lanes, what each has found in its rounds, and why some are out.

    `other_seconds` is how long a peer or limit may take over all of its rounds.
    """

    def __init__(self, lanes: Sequence[Lane], other_seconds: float) -> None:
        self.lanes = list(lanes)
        self.found: dict[str, list[float]] = {lane.name: [] for lane in lanes}
        self.failed: dict[str, str] = {}
        self.rounds = 0
        self._spent = dict.fromkeys(self.found, 0.0)
        self._other_seconds = other_seconds

    def run(self, seconds: float, rounds_min: int = ROUNDS_MIN) -> None:
        """Warm up, then run rounds until so many seconds are over, and at least `rounds_min`."""
        gc.collect()
        gc.freeze()  # what set-up left behind must not make anybody's collections dearer
        try:
            start = time.perf_counter()
            self.round()
            self.found = {lane.name: [] for lane in self.lanes}
            for self.rounds in range(1, ROUNDS_MAX + 1):
                self.round()
                if self.rounds >= rounds_min and time.perf_counter() - start >= seconds:
                    break
        finally:
            gc.unfreeze()

    def round(self) -> None:
        """Let every lane run once, starting with another one each time."""
        first = self.rounds % len(self.lanes)
        for lane in self.lanes[first:] + self.lanes[:first]:
            if not self._sits_out(lane):
                self._measure(lane)
        self.lanes = [lane for lane in self.lanes if lane.name not in self.failed]

    def _sits_out(self, lane: Lane) -> bool:
        late = self._spent[lane.name] > self._other_seconds and lane.kind in OTHERS
        return late and bool(self.found[lane.name])

    def _measure(self, lane: Lane) -> None:
        start = time.perf_counter()
        try:
            self.found[lane.name].append(lane.measure())
        except Exception as error:
            if lane.kind not in OTHERS:
                raise
            self.failed[lane.name] = failure(error)
        self._spent[lane.name] += time.perf_counter() - start

    def medians(self, *kinds: Kind) -> dict[str, float]:
        """Return the median of each lane of these kinds."""
        chosen = [lane.name for lane in self.lanes if lane.kind in kinds]
        return {name: statistics.median(self.found[name]) for name in chosen}

    def spreads(self) -> dict[str, tuple[float, float]]:
        """Return the quartiles of each lane."""
        return {lane.name: quartiles(self.found[lane.name]) for lane in self.lanes}


def quartiles(rounds: Sequence[float]) -> tuple[float, float]:
    """Return the first and the third quartile, or the only value twice."""
    if len(rounds) < 2:
        return rounds[0], rounds[0]
    first, _, third = statistics.quantiles(rounds, n=4, method="inclusive")
    return first, third


def failure(error: Exception) -> str:
    """Return an error as one line."""
    return f"failed: {type(error).__name__}: {error}".splitlines()[0][:200]
