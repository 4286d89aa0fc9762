"""The stage of the demo: steps that run one after the other, are timed, checked and told.

Invariants: a step whose check fails is told as failed and the demo goes on; memory is sampled
whenever a step reports progress, so that a peak between steps is seen too.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from rich.table import Table
from rich.text import Text

from .terminal import Advance, Terminal

WRONG_TOLD = 5
"""Failures that a step tells one by one."""

_STATUS = Path("/proc/self/status")


class Step(msgspec.Struct):
    """One step: what it says of itself, how long it took, what was wrong."""

    name: str
    says: str = ""
    seconds: float = 0.0
    wrong: list[str] = []
    """All that was not as it should be."""

    def check(self, held: object, problem: str) -> None:
        """Note the problem unless the check held."""
        if not held:
            self.wrong.append(problem)


class Stage:
    """Runs steps and draws a line for each."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.steps: list[Step] = []
        self.memory = Memory()
        self._begun = time.perf_counter()

    @property
    def held(self) -> bool:
        """True while every check held."""
        return not any(step.wrong for step in self.steps)

    @property
    def seconds(self) -> float:
        """How long the demo has been running."""
        return time.perf_counter() - self._begun

    @contextmanager
    def step(self, name: str, label: str) -> Iterator[tuple[Step, Advance]]:
        """Run one step; `label` is what its progress bar says."""
        step, begun = Step(name), time.perf_counter()
        with self.terminal.progress(label) as advance:

            def sampled(done: int, total: int | None = None) -> None:
                self.memory.sample()
                advance(done, total)

            yield step, sampled
        self.memory.sample()
        step.seconds = time.perf_counter() - begun
        self.steps.append(step)
        if not self.terminal.json:
            self.terminal.draw(_line(step), *[Text(f"    {w}", "red") for w in _told(step)])


def _line(step: Step) -> Table:
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(width=1)
    row.add_column(width=11, no_wrap=True)
    row.add_column(ratio=1)
    row.add_column(width=7, justify="right", style="dim")
    mark = Text("✗", "bold red") if step.wrong else Text("✓", "bold green")
    row.add_row(mark, Text(step.name, "bold"), Text(step.says), f"{step.seconds:.1f} s")
    return row


def _told(step: Step) -> list[str]:
    left = len(step.wrong) - WRONG_TOLD
    return step.wrong[:WRONG_TOLD] + ([f"and {left:,} more"] if left > 0 else [])


class Memory:
    """Private memory of this process in bytes, now and at its highest; 0 where nobody tells."""

    def __init__(self) -> None:
        self.peak = 0

    def sample(self) -> int:
        """Return what is in use now: resident, less what only maps files."""
        if not _STATUS.exists():
            return 0
        lines = (line.split() for line in _STATUS.read_text().splitlines())
        kib = {words[0]: int(words[1]) for words in lines if words[0] in ("VmRSS:", "RssFile:")}
        used = (kib["VmRSS:"] - kib["RssFile:"]) * 1_024
        self.peak = max(self.peak, used)
        return used
