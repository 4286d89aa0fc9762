"""Counts of what was tried, told at the end of the run."""

import pytest

COUNTS = pytest.StashKey[dict[str, int]]()


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
