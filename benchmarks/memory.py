"""memory: private memory of a process that imports, and of each session header it keeps cached.

Measured in child processes, as anonymous resident memory: pages of the map belong to the
system's cache, not to the process. Headers are counted from where the log remembers all the frames
that it ever does (FRAMES_CACHED_MAX), which take room once. Run as a module it is that child.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec

from eventstore import EventStore
from eventstore.log.streams import FRAMES_CACHED_MAX
from projections import SessionState

from . import data
from .harness import Bench, Result, at_most

STATUS = Path("/proc/self/status")
MIB_MAX, HEADER_BYTES_MAX = 200.0, 2_048
SESSIONS = 3_500
FIRST_SESSIONS = FRAMES_CACHED_MAX // 2
"""Together fewer than the headers a store keeps (limits.HEADERS_CACHED_MAX)."""
UNDER_WAY = 64
"""Conversations under way at once."""


def run(bench: Bench) -> Result:
    """Return the peak while importing and the bytes a cached header; one child each."""
    if not STATUS.is_file():
        return Result(name="", missing="it needs /proc/self/status, which only Linux has")
    size = bench.size(bench.events, min(bench.events, 20_000))
    place = bench.folder("memory")
    sessions = bench.size(SESSIONS, 1_000)
    before, peak = _child("importing", place, size, sessions)
    [per_header] = _child("reading", place, sessions)
    result = Result(
        name="",
        what=f"private memory while importing {size:,} messages",
        unit="MiB",
        ours=peak,
        figures={"before importing": before, "a cached header (bytes)": per_header},
        spread={"ours": (peak, peak)},
        rounds=1,
    )
    result.reach = [
        at_most(f"< {MIB_MAX:.0f} MiB while importing", peak, MIB_MAX),
        at_most(f"<= {HEADER_BYTES_MAX} bytes a cached header", per_header, HEADER_BYTES_MAX),
    ]
    result.note = f"anonymous resident memory, interpreter and data included; {sessions:,} headers"
    return result


def _child(what: str, place: Path, *counts: int) -> list[float]:
    command = [sys.executable, "-m", __name__, what, str(place), *map(str, counts)]
    found = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, check=False)
    if found.returncode:
        raise RuntimeError(f"the child ended with {found.returncode}: {found.stderr[-300:]!r}")
    return msgspec.json.decode(found.stdout, type=list[float])


def importing(place: Path, messages: int, sessions: int) -> list[float]:
    """Import, then add the sessions for reading(); return MiB before, MiB at most."""
    source = data.load()
    with EventStore.open(place) as store:
        before = _private()
        peak = asyncio.run(_imported(store, source.covering(messages)))
        for name in (*_names(FIRST_SESSIONS, "f"), *_names(sessions, "h")):
            store.create(name, metadata={"task": name, "source": source.source}, user="user-7")
            store.append(name, source.flat[:2])
    return [before / 2**20, peak / 2**20]


def reading(place: Path, sessions: int) -> list[float]:
    """Return the bytes that each session takes whose state is read, in a process that did no more.

    One that has imported gives its headers rooms that it has already.
    """
    with EventStore.open(place) as store:
        for name in _names(FIRST_SESSIONS, "f"):  # of two frames each
            SessionState.of(store, name)
        start = _private()
        for name in _names(sessions, "h"):
            SessionState.of(store, name)
        return [(_private() - start) / sessions]


def _names(count: int, mark: str) -> Iterator[str]:
    return (f"{mark}{number}" for number in range(count))


async def _imported(store: EventStore, conversations: list[data.Conversation]) -> int:
    """Import a few conversations at a time; return the most private bytes seen in between."""
    numbered, peak = iter(enumerate(conversations)), 0

    async def one(number: int, conversation: data.Conversation) -> None:
        await store.aio.create(f"c{number}", metadata={"number": number})
        await store.aio.append(f"c{number}", conversation)

    while some := list(islice(numbered, UNDER_WAY)):
        await asyncio.gather(*[one(*each) for each in some])
        peak = max(peak, _private())
    return peak


def _private() -> int:
    """Return the bytes of anonymous resident memory."""
    line = next(each for each in STATUS.read_text().splitlines() if each.startswith("RssAnon"))
    return int(line.split()[1]) << 10


if __name__ == "__main__":
    act = {"importing": importing, "reading": reading}[sys.argv[1]]
    found = act(Path(sys.argv[2]), *map(int, sys.argv[3:]))
    print(msgspec.json.encode(found).decode())
