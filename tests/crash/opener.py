"""Opens crash states in child processes, many one after another, and tells what each holds.

Run as a program this file is the child. One that dies takes only its state along: a new child
goes on with the next. A state is named by scenario, moment and variant, and by nothing else, so
that a failure can be repeated from its name.
"""

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from random import Random
from typing import NamedTuple

import xxhash
from disk import Disk, Image
from oracle import Facts, Model, check
from recorder import Recording

from eventstore.audit.report import Finding
from eventstore.audit.structure import child_environment, environments, problems
from eventstore.audit.walker import walked
from eventstore.care import backup
from eventstore.place import opening

CHILDREN = 2
SECONDS_MAX = 3_600.0

EVERYTHING, NOTHING = -2, -1
"""Variants: all that was asked for is on the disk, only what must be; others are seeds."""

MEMORY = Path("/dev/shm")
MEMORY_FREE_MIN = 1 << 30
"""Where images are written if there is so much room: what they cost most is waiting for disks."""

STORY = "story.pickle"
"""The file that tells the children what was recorded."""

SOUND, SAME = "", "same"
"""Verdicts: all laws hold; the state was there before with the same told."""


class State(NamedTuple):
    """The name of a crash state."""

    scenario: str
    moment: int
    variant: int


def write_story(work: Path, story: dict[str, tuple[Recording, Model]]) -> None:
    """Keep recordings and models for the children."""
    (work / STORY).write_bytes(pickle.dumps(story))


def verdicts(work: Path, states: Sequence[State]) -> dict[State, str]:
    """Return what is wrong with each state, by children side by side."""
    parts = [
        sorted(state for state in states if state.moment % CHILDREN == child)
        for child in range(CHILDREN)
    ]
    with ThreadPoolExecutor(CHILDREN) as pool:
        told = pool.map(lambda part: _told(work, part), parts)
    return {state: verdict for each in told for state, verdict in each.items()}


def _told(work: Path, states: list[State]) -> dict[State, str]:
    told: dict[State, str] = {}
    with tempfile.TemporaryDirectory(dir=_image_place(work)) as place:
        while len(told) < len(states):
            todo = [state for state in states if state not in told]
            done = subprocess.run(
                [sys.executable, __file__, str(work), place],
                input="\n".join(map(json.dumps, todo)),
                capture_output=True,
                check=False,
                text=True,
                timeout=SECONDS_MAX,
                env=child_environment(),
            )
            said = [json.loads(line) for line in done.stdout.splitlines()]
            told |= {State(*state): verdict for state, verdict in said}
            if len(said) < len(todo):
                assert done.returncode < 0, done.stderr
                told[todo[len(said)]] = f"opening it ended with signal {-done.returncode}"
    return told


def _image_place(work: Path) -> Path:
    """Return a directory in memory for the images, or `work` where there is not enough of it."""
    try:
        return MEMORY if shutil.disk_usage(MEMORY).free >= MEMORY_FREE_MIN else work
    except OSError:
        return work


# -- the child -------------------------------------------------------------------------------


def main(work: Path, place: Path) -> None:
    """Check the states named on standard input, in order; print a verdict for each."""
    story = pickle.loads((work / STORY).read_bytes())
    states = [State(*json.loads(line)) for line in sys.stdin]
    opening.check_structure = backup.check_structure = walked_here
    os.umask(0o077)  # as private files are made; modes are no part of an image
    for scenario, part in groupby(states, key=lambda state: state.scenario):
        recording, model = story[scenario]
        for state, verdict in judged(place / "root", recording, model, list(part)):
            print(json.dumps([state, verdict]), flush=True)


def walked_here(path: Path) -> list[Finding]:
    """Walk all pages in this process, which may die of them: one per state would take too long."""
    found = ((each, walked(str(each))) for each in environments(path))
    return [Finding(-1, what) for place, walk in found for what in problems(place, walk)]


def judged(
    place: Path, recording: Recording, model: Model, states: list[State]
) -> Iterator[tuple[State, str]]:
    """Iterate over the states of one recording and what is wrong with each."""
    disk, seen = Disk(recording), set()
    wanted = {moment: list(part) for moment, part in groupby(states, key=lambda each: each.moment)}
    for moment in disk.moments():
        for state in wanted.get(moment, []):
            image = image_of(disk, state)
            facts = Facts(list(disk.said), disk.settled, model)
            name = digest(image), facts.made, facts.size, len(facts.said)
            yield state, SAME if name in seen else verdict(place, image, facts)
            seen.add(name)


def image_of(disk: Disk, state: State) -> Image:
    """Return the image that a state names."""
    if state.variant == EVERYTHING:
        return disk.everything()
    return disk.nothing() if state.variant == NOTHING else disk.drawn(Random(repr(state)))


def digest(image: Image) -> bytes:
    """Return what tells one image from another."""
    found = xxhash.xxh3_128()
    for path, content in sorted(image.items()):
        found.update(f"{path}\0{-1 if content is None else len(content)}\0".encode())
        found.update(content or b"")
    return found.digest()


def verdict(place: Path, image: Image, facts: Facts) -> str:
    """Write an image, open it, and return what is wrong with it."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for path, content in sorted(image.items()):
        if content is None:
            (place / path).mkdir()
        else:
            (place / path).write_bytes(content)
    try:
        check(place, facts)
    except Exception:  # noqa: BLE001 - whatever it is, it is the verdict
        return traceback.format_exc()
    return SOUND


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
