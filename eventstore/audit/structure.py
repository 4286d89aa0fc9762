"""The structure of LMDB files, walked byte by byte in a process of its own.

Invariants: no damaged page is touched through LMDB here, since that can kill a process; the walk
is py-lmdb's own verifier; a walk over a store in use is made on pages that a reader's slot pins,
so that what others write meanwhile is no damage.
"""

import os
import struct
import subprocess
import sys
from pathlib import Path

import lmdb
import msgspec
from lmdb.verify import VerifyError, verify

from ..directory import LOG
from .report import Finding

FILE = "data.mdb"

PAGE_BYTES_AT, COMMIT_AT = 40, 136
"""Where LMDB 0.9's meta page keeps the page size (u32), the last page and the commit (u64s)."""

META_READS = 5
"""A store in use may commit between the reading of one meta page and of the other."""

SECONDS_MIN = 120.0
"""A walk may always take that long."""

BYTES_PER_SECOND_MIN = 4 << 20
"""And longer for larger files: as if the disk gave no more than this."""


def environments(path: Path) -> list[Path]:
    """Return the LMDB environments in a store's directory."""
    return sorted(each.parent for each in path.glob(f"*/{FILE}"))


def check_structure(path: Path) -> list[Finding]:
    """Return what is wrong with the pages of every LMDB environment below a directory."""
    places = environments(path)
    seconds = SECONDS_MIN + sum(_size(each) for each in places) / BYTES_PER_SECOND_MIN
    command = [sys.executable, "-m", __name__, *map(str, places)]
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, this module
            command, env=child_environment(), capture_output=True, check=False, timeout=seconds
        )
        found = msgspec.json.decode(done.stdout, type=list[str])
    except subprocess.TimeoutExpired:
        found = [f"walking the pages took longer than {seconds:.0f} s"]
    except msgspec.MsgspecError:
        found = [f"walking the pages ended with {ending(done.returncode)}"]
    return [Finding(-1, what) for what in found]


def _size(path: Path) -> int:
    return (path / FILE).stat().st_size


def child_environment() -> dict[str, str]:
    """Return the variables of a child that finds the same modules as this process."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(each or "." for each in sys.path)}


def ending(code: int) -> str:
    """Return how a child process ended, in words."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _commits(file: Path) -> list[tuple[int, int]]:
    """Return (number of the commit, bytes that it uses) of both meta pages."""
    with file.open("rb") as opened:
        page_bytes = struct.unpack("=I", os.pread(opened.fileno(), 4, PAGE_BYTES_AT))[0]
        places = COMMIT_AT, page_bytes + COMMIT_AT
        found = [struct.unpack("=QQ", os.pread(opened.fileno(), 16, place)) for place in places]
    return [(number, (last + 1) * page_bytes) for last, number in found]


def _complaints(path: Path) -> list[str]:
    """Return what a sound walk does not show: a hidden commit, a cut in the midst of a value."""
    file = path / FILE
    for _ in range(META_READS):
        (one, _), (other, _) = commits = _commits(file)
        if abs(one - other) == 1 or one == other == 0:
            break
    else:
        return ["the two meta pages are not of consecutive commits, so one may be hidden"]
    used, size = max(commits)[1], _size(path)
    # Elsewhere the last pages may be free and never written; the log frees no page unwritten.
    return (
        [f"{used} bytes are in use, the file has {size}"]
        if path.name == LOG and size < used
        else []
    )


def _walked(path: Path) -> list[str]:
    """Return the problems of one environment; runs in the child."""
    environment = pinned = None
    try:
        environment = lmdb.open(str(path), readonly=True, create=False)
        pinned = environment.begin()  # its slot keeps all pages of this moment and later
    except lmdb.Error:
        pinned = None  # nobody can be writing to what can't be opened
    try:
        found: list[str] = verify(str(path), subdir=True)  # type: ignore[no-untyped-call]
    except (VerifyError, OSError) as error:
        found = [str(error)]
    if pinned is not None:
        pinned.abort()
    if environment is not None:
        environment.close()
    return [f"{path.name}/{FILE}: {what}" for what in found or _complaints(path)]


if __name__ == "__main__":
    problems = [problem for place in sys.argv[1:] for problem in _walked(Path(place))]
    sys.stdout.buffer.write(msgspec.json.encode(problems))
