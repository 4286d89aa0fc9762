"""Crash states: whatever a power loss leaves of the files, nothing acknowledged is lost.

A real writer runs under strace; from what it asked of the system each state that its disk could
be in is made again, at every moment, and opened.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from disk import Disk
from opener import EVERYTHING, NOTHING, SAME, SOUND, State, verdicts, write_story
from oracle import Model
from recorder import Call, Recording, Said, Sync, Write, record
from scenarios import SCENARIOS
from tools import traced

FAST, LONG = 1, 16
"""States of a moment at most: with everything, with nothing that is unsure, the others drawn."""

STATES_MIN = {FAST: 500, LONG: 10_000}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Recording]]:
    """Give the directory in which the writer worked, and what it asked for in each scenario."""
    traced()
    base = tmp_path_factory.mktemp("crash").resolve()
    return base, record(Path(__file__).with_name("scenarios.py"), base, SCENARIOS)


def states_of(name: str, recording: Recording, count: int) -> list[State]:
    """Return the states of every moment since the scenario began."""
    disk, found = Disk(recording), []
    for moment in disk.moments():
        if "start" in disk.said:
            all_of_them = range(EVERYTHING, EVERYTHING + count)
            variants = likely(disk, moment) if count == FAST else all_of_them
            found += [State(name, moment, variant) for variant in variants]
    return found


def likely(disk: Disk, moment: int) -> list[int]:
    """Return at most one variant: what is unsure is lost once something was told, else drawn."""
    if isinstance(disk.change, Said):
        return [NOTHING]
    if disk.change is None or moment % 5 > 1:
        return []  # what ended made nothing new possible
    return [EVERYTHING if moment % 10 == 0 else 0]


def said(recording: Recording) -> list[str]:
    """Return all that a writer said."""
    disk = Disk(recording)
    return [disk.said for _ in disk.moments()][-1]


def told_of(finished: Path, name: str, recording: Recording) -> tuple[Recording, Model]:
    """Return a recording and the model of what it wrote."""
    return recording, Model.of(finished / name, said(recording))


def test_the_disk_is_modelled_as_it_is(recorded):
    """With everything kept, the rebuilt files are byte for byte those that the writer left."""
    base, recordings = recorded
    assert list(recordings) == list(SCENARIOS)
    for name, recording in recordings.items():
        disk = Disk(recording)
        assert "end" in [disk.said for _ in disk.moments()][-1]
        image = disk.everything()
        for path, content in image.items():
            real = base / name / path
            assert real.is_dir() if content is None else real.read_bytes() == content, real
        left = {str(each.relative_to(base / name)) for each in (base / name).rglob("*")}
        assert {each for each in left if not each.endswith("lock.mdb")} == set(image)


@pytest.mark.parametrize("count", [FAST, pytest.param(LONG, marks=pytest.mark.long)])
def test_no_crash_loses_what_was_acknowledged(recorded, tmp_path, tally, count):
    """Every state opens with all that was acknowledged, no append in part, sound and of use."""
    base, recordings = recorded
    finished = Path(shutil.copytree(base, tmp_path / "finished"))
    story = {name: told_of(finished, name, each) for name, each in recordings.items()}
    write_story(tmp_path, story)
    states = [each for name, found in recordings.items() for each in states_of(name, found, count)]
    told = verdicts(tmp_path, states)
    broken = {state: what for state, what in told.items() if what not in (SOUND, SAME)}
    for name in recordings:
        verdict = [what for state, what in told.items() if state.scenario == name]
        tally(f"crash states of {name}", len(verdict) - verdict.count(SAME))
    assert not broken, f"{len(broken)} states, such as " + "\n".join(
        f"{state}: {what}" for state, what in list(broken.items())[:3]
    )
    distinct = sum(what == SOUND for what in told.values())
    tally("crash states", distinct)
    assert distinct >= STATES_MIN[count]


def test_a_writer_that_never_syncs_is_found_out(recorded, tmp_path):
    """The same writer without its syncs loses what it acknowledged, and the oracle says so."""
    base, recordings = recorded
    recording, model = told_of(base, "appends", recordings["appends"])
    recording = replace(recording, calls=[unsynced(call) for call in recording.calls])
    write_story(tmp_path, {"appends": (recording, model)})
    states = states_of("appends", recording, count=1)[-30:]
    told = verdicts(tmp_path, states)
    assert sum(what not in (SOUND, SAME) for what in told.values()) > len(states) // 4


def unsynced(call: Call) -> Call:
    """Return a call that makes nothing of the log durable."""
    if isinstance(call.change, Sync):
        return Call(call.begin, call.end, Sync(-1))
    if isinstance(call.change, Write):
        return Call(call.begin, call.end, replace(call.change, synced=False))
    return call
