"""The structure of LMDB files, walked byte by byte in a process of its own.

Invariants: whatever a file holds, whoever asks lives on and gets an answer in bounded time; the
walk itself is in walker.py, and only what it leaves open is looked at here, as bytes.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

from ..files import unavailable
from ..log.environment import allocate_lock_file
from . import walker
from .pages import FILE, PageError, complaints
from .report import Finding

SECONDS_MIN = 120.0
"""A walk may always take that long."""

BYTES_PER_SECOND_MIN = 4 << 20
"""And longer for larger files: as if the disk gave no more than this."""


def environments(path: Path) -> list[Path]:
    """Return the LMDB environments in a store's directory, without what is being made there."""
    with unavailable(path):
        found = sorted(each.parent for each in path.glob(f"*/{FILE}"))
    return [each for each in found if not each.name.startswith(".")]


def check_structure(path: Path) -> list[Finding]:
    """Return what is wrong with the pages of every LMDB environment below a directory.

    Raises StoreFull where the disk has no room for the lock file that LMDB reads with.
    """
    places = environments(path)
    for each in places:
        allocate_lock_file(each)
    seconds = SECONDS_MIN + sum(_size(each) for each in places) / BYTES_PER_SECOND_MIN
    # -P: the program's own directory has modules that nobody should find by their bare names
    command = [sys.executable, "-P", walker.__file__, *map(str, places)]
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, our own file
            command, env=child_environment(), capture_output=True, check=False, timeout=seconds
        )
        walked = ast.literal_eval(done.stdout.decode())
        found = [what for pair in zip(places, walked, strict=True) for what in problems(*pair)]
    except subprocess.TimeoutExpired:
        found = [f"walking the pages took longer than {seconds:.0f} s"]
    except (ValueError, SyntaxError):  # it did not come to its last line
        found = [f"walking the pages ended with {ending(done.returncode)}"]
    return [Finding(-1, what) for what in found]


def problems(path: Path, walked: list[str]) -> list[str]:
    """Return what is wrong with one environment, of which a walk said what it found."""
    try:
        found = walked or complaints(path)
    except (PageError, OSError) as error:
        found = [str(error)]
    return [f"{path.name}/{FILE}: {what}" for what in found]


def _size(path: Path) -> int:
    return (path / FILE).stat().st_size


def child_environment() -> dict[str, str]:
    """Return the variables of a child that finds the same modules as this process."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(each or "." for each in sys.path)}


def ending(code: int) -> str:
    """Return how a child process ended, in words."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"
