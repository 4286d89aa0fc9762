"""What openings are tried with: a store with lines in it, and tools that may be missing."""

import shutil
import subprocess
from pathlib import Path

from eventstore import EventStore

LINE = {"role": "user", "content": "a line of some words " * 5}


def fill(place: Path, messages: int = 5) -> EventStore:
    """Open a store and append to it; it stays open."""
    store = EventStore.open(place)
    if not store.exists("s"):
        store.create("s")
    for _ in range(messages):
        store.append("s", LINE)
    return store


def works(command: list[str]) -> bool:
    """Return True where a tool is there and may do that."""
    found = shutil.which(command[0]) is not None
    return found and not subprocess.run(command, check=False, capture_output=True).returncode
