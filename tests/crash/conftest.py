"""A directory on a disk, and counts of what was tried, told at the end of the run."""

import tempfile
from pathlib import Path

import pytest

DISK = "/var/tmp"
"""What is kept here outlives a reboot, so that no system has it in memory."""

COUNTS = pytest.StashKey[dict[str, int]]()


@pytest.fixture
def on_disk():
    """Give a directory whose writes take the time of a disk, for what is to be met within one."""
    with tempfile.TemporaryDirectory(dir=DISK) as place:
        yield Path(place)


@pytest.fixture
def tally(request: pytest.FixtureRequest):
    """Give a function that adds to a count by its name."""
    counts = request.config.stash.setdefault(COUNTS, {})

    def add(what: str, count: int) -> None:
        counts[what] = counts.get(what, 0) + count

    return add


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    """Print the counts."""
    for what, count in config.stash.get(COUNTS, {}).items():
        terminalreporter.write_line(f"{count:,} {what}")
