"""The benchmarks run, say what they measured in the drawn shape, and never call a gap a pass."""

import importlib
import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from benchmarks import NAMES, data, plots, report
from benchmarks.__main__ import main, measured
from benchmarks.awake import awake, possible
from benchmarks.beside import beside, choice, sync_times
from benchmarks.harness import Bench, Result, at_least, at_most, ratio
from benchmarks.peers import PEERS, why_not
from benchmarks.race import Lane, Race

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory):
    """Give the JSON rows and the Markdown of a token run of three benchmarks."""
    place = tmp_path_factory.mktemp("smoke")
    disk = place / "disk"
    disk.mkdir()
    names = ["append_one", "replay_all", "state_now"]
    files = ["--json", str(place / "out.json"), "--report", str(place / "report.md")]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *names, "--smoke", "--dir", str(disk), *files],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not list(disk.iterdir())
    return names, json.loads((place / "out.json").read_text()), (place / "report.md").read_text()


def test_json_has_the_drawn_shape(smoke):
    """Each row has name, unit, ours, peers, limit and ratio, and a ratio above 1 is a win."""
    names, rows, _ = smoke
    assert [row["name"] for row in rows] == names
    for row in rows:
        assert row["unit"] in ("us", "events/s")
        assert row["missing"] is None
        assert row["ours"] > 0
        others = {**row["peers"], **row["limit"]}
        assert set(row["ratio"]) == set(others)
        for name, value in others.items():
            wins = row["ours"] < value if row["better"] == "lower" else row["ours"] > value
            assert (row["ratio"][name] > 1) == wins


def test_peers_are_named_whether_they_run_or_not(smoke):
    """Every peer that can append is in the row: with a figure, or with why it has none."""
    _, rows, _ = smoke
    row = rows[0]
    named = {*row["peers"], *row["limit"], *row["skipped"]}
    assert named == {kind.name for kind in PEERS}
    for kind in PEERS:
        if why_not(kind) is not None:
            assert row["skipped"][kind.name] == why_not(kind)


def test_the_limit_is_measured_beside_us(smoke):
    """LMDB needs no extra, so its figure is always there, with quartiles."""
    _, rows, _ = smoke
    low, high = rows[0]["spread"]["lmdb"]
    assert low <= rows[0]["limit"]["lmdb"] <= high


def test_bounds_are_told_one_by_one(smoke):
    """Each bound has words, a value, and reached, not reached or None for what was not measured."""
    _, rows, markdown = smoke
    for row in rows:
        assert row["reach"]
        for bound in row["reach"]:
            assert (bound["value"] is None) == (bound["reached"] is None)
            assert bound["target"] in markdown


def test_a_benchmark_that_cannot_run_is_missing(tmp_path: Path):
    """What stops a benchmark is the reason in its row, and it has no figure."""
    bench = Bench(_tiny(), tmp_path, quick=True, seconds=0, events=10, smoke=True)
    result = measured("there_is_none", bench)
    assert result.ours is None
    assert "there_is_none" in (result.missing or "")
    assert "MISSING" in report.text(result)
    assert "missing" in report.markdown([result], {}, [])


@pytest.mark.skipif(not possible(), reason="the system has no class below all others")
def test_processors_are_kept_awake_inside_the_block_alone():
    """One process of the lowest class runs on each processor, and none is left behind."""
    with awake() as idlers:
        assert len(idlers) == len(os.sched_getaffinity(0))
        assert all(os.sched_getscheduler(each) == os.SCHED_IDLE for each in idlers)
    for each in idlers:
        with pytest.raises(ProcessLookupError):
            os.kill(each, 0)


@pytest.mark.skipif(not choice(), reason="threads can't be told where to run")
def test_a_lone_caller_runs_beside_the_disk(tmp_path: Path):
    """Inside the block all threads are on one processor, behind it where they were before."""
    before, go_on = os.sched_getaffinity(0), threading.Event()
    other = threading.Thread(target=go_on.wait)
    other.start()
    try:
        with beside(tmp_path) as nearest:
            assert nearest in before
            assert other.native_id is not None
            for thread in (0, other.native_id):
                assert os.sched_getaffinity(thread) == {nearest}
        for thread in (0, other.native_id):
            assert os.sched_getaffinity(thread) == before
    finally:
        go_on.set()
        other.join()


@pytest.mark.skipif(not choice(), reason="threads can't be told where to run")
def test_the_disk_is_asked_from_each_processor(tmp_path: Path):
    """Every processor has its own time of a sync, and the probe leaves no file."""
    before = os.sched_getaffinity(0)
    with beside(tmp_path):
        times = sync_times(tmp_path, before)
    assert times.keys() == before
    assert all(each > 0 for each in times.values())
    assert list(tmp_path.iterdir()) == []


def test_every_name_is_a_benchmark():
    """Each of the fixed names is a module with run()."""
    for name in NAMES:
        assert callable(importlib.import_module(f"benchmarks.{name}").run)


def test_an_unknown_name_is_wrong_usage(capsys: pytest.CaptureFixture[str]):
    """A name that is none ends with 2 and the names there are."""
    with pytest.raises(SystemExit) as stopped:
        main(["append_two"])
    assert stopped.value.code == 2
    assert "append_one" in capsys.readouterr().err


def test_lanes_take_turns_and_the_first_round_is_thrown_away():
    """Every lane runs once a round, each round begins with another one, medians skip warm-up."""
    order: list[str] = []
    figures = {"a": iter([99.0, 1.0, 3.0, 2.0]), "b": iter([99.0, 5.0, 5.0, 5.0])}

    def lane(name: str) -> Lane:
        def measure() -> float:
            order.append(name)
            return next(figures[name])

        return Lane(name, "ours" if name == "a" else "peer", measure)

    race = Race([lane("a"), lane("b")], other_seconds=60)
    race.run(seconds=0, rounds_min=3)
    assert "".join(order) == "abbaabba"
    assert race.medians("ours", "peer") == {"a": 2.0, "b": 5.0}


def test_a_peer_that_fails_leaves_the_race_with_the_reason():
    """The others go on, and its name is in no median."""

    def broken() -> float:
        raise ValueError("disk on fire")

    race = Race([Lane("ours", "ours", lambda: 1.0), Lane("peer", "peer", broken)], 60)
    race.run(seconds=0, rounds_min=2)
    assert race.failed == {"peer": "failed: ValueError: disk on fire"}
    assert list(race.medians("ours", "peer", "limit")) == ["ours"]


def test_our_own_failure_is_never_left_out():
    """Where we fail there is no result: the error comes out."""

    def broken() -> float:
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        Race([Lane("ours", "ours", broken)], 60).run(seconds=0)


def test_ratios_and_bounds_point_the_right_way():
    """Better is above 1 for costs and for rates; what was not measured is not reached."""
    assert ratio(2.0, 4.0, "lower") == 2.0
    assert ratio(4.0, 2.0, "higher") == 2.0
    assert at_most("cost", 1.3, 1.25).reached is False
    assert at_least("rate", 1.3, 1.25).reached is True
    assert at_most("cost", None, 1.25).reached is None


def test_generated_data_is_the_same_every_time():
    """Without any data set the conversations are made, seeded, in the shape of a chat."""
    first, second = (list(data._generated(random.Random(data.SEED))) for _ in range(2))
    assert first == second
    assert {line["role"] for line in first[0]} == {"user", "assistant", "tool"}


def test_data_repeats_where_it_runs_out():
    """As many messages or conversations as asked for, in order, from the first on."""
    tiny = _tiny()
    assert [each["content"] for each in tiny.messages(5)] == ["a", "b", "c", "a", "b"]
    assert tiny.take(3) == [*tiny.conversations, tiny.conversations[0]]
    assert sum(map(len, tiny.covering(4))) >= 4


def test_pictures_are_drawn_of_what_there_is(tmp_path: Path):
    """Curves and bars become PNG files, and without either there is no picture."""
    pytest.importorskip("matplotlib")
    result = Result(
        name="growth",
        unit="us",
        ours=1.0,
        ratio={"lmdb": 0.5, "peer": 2.0},
        limit={"lmdb": 0.5},
        peers={"peer": 2.0},
        series={"append": [(10.0, 1.0), (1_000.0, 1.1)]},
    )
    assert plots.draw([result], tmp_path) == [plots.GROWTH, plots.BARS]
    for name in (plots.GROWTH, plots.BARS):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert plots.draw([Result(name="growth")], tmp_path / "none") == []


def test_results_survive_json(tmp_path: Path):
    """What was written is read back as the same results, so that pictures can be drawn later."""
    results = [Result(name="disk", unit="bytes", ours=200.0), Result(name="open", missing="why")]
    report.write_json(tmp_path / "out.json", results)
    assert msgspec.json.decode((tmp_path / "out.json").read_bytes(), type=list[Result]) == results


def _tiny() -> data.Data:
    lines = [{"role": "user", "content": each} for each in "abc"]
    return data.Data("tiny", [lines[:2], lines[2:]])
