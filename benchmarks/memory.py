"""memory: private memory of a process that imports, and of each session header it keeps cached.

Measured in child processes, as anonymous resident memory: pages of the map belong to the
system's cache, not to the process. Run as a module it is that child.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec

from eventstore import EventStore
from projections import SessionState

from . import data
from .harness import Bench, Result, at_most

STATUS = Path("/proc/self/status")
MIB_MAX, HEADER_BYTES_MAX = 200.0, 2_048
SESSIONS = 4_000
"""Fewer than the headers a store keeps (limits.HEADERS_CACHED_MAX)."""
UNDER_WAY = 64
"""Conversations under way at once."""


def run(bench: Bench) -> Result:
    """Return the peak while importing and the bytes a cached header; one child each."""
    if not STATUS.is_file():
        return Result(name="", missing="it needs /proc/self/status, which only Linux has")
    size = bench.size(bench.events, min(bench.events, 20_000))
    place = bench.folder("memory")
    sessions = bench.size(SESSIONS, 1_000)
    before, peak, per_header = _child(place, size, sessions)
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


def _child(place: Path, messages: int, sessions: int) -> tuple[float, float, float]:
    command = [sys.executable, "-m", __name__, str(place), str(messages), str(sessions)]
    found = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, check=False)
    if found.returncode:
        raise RuntimeError(f"the child ended with {found.returncode}: {found.stderr[-300:]!r}")
    return msgspec.json.decode(found.stdout, type=tuple[float, float, float])


def main(place: Path, messages: int, sessions: int) -> None:
    """Import, then read the states of many sessions; print MiB before, MiB at most, bytes each."""
    source = data.load()
    with EventStore.open(place) as store:
        before = _private()
        peak = asyncio.run(_imported(store, source.covering(messages)))
        for name in _names(store, sessions, "h"):
            store.create(name, metadata={"task": name, "source": source.source}, user="user-7")
            store.append(name, source.flat[:2])
    with EventStore.open(place) as store:
        states = (SessionState.of(store, name) for name in _names(store, sessions, "h"))
        SessionState.of(store, next(iter(_names(store, 1, "h"))))
        start = _private()
        for _ in states:
            pass
        per_header = (_private() - start) / sessions
    print(msgspec.json.encode((before / 2**20, peak / 2**20, per_header)).decode())


def _names(_: EventStore, count: int, mark: str) -> Iterator[str]:
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
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
