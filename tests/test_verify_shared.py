"""Verify by many: what is found does not depend on how many processes looked, nor in which lane."""

import os
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
from facts import fill, told
from hypothesis import given
from hypothesis import strategies as st
from leaps import by_leaps, carefully, verified
from tampering import TAMPERINGS, Tables, Tamper, copied, last, rewritten, snapshots, tables

from eventstore import EventStore, Keyring
from eventstore.audit import crew, states, stretches
from eventstore.audit import walk as walks
from eventstore.audit.frames import Frames
from eventstore.audit.leaves import log_entries
from eventstore.audit.relations import Place
from eventstore.audit.report import Notes
from eventstore.audit.rows import Rows
from eventstore.audit.stretches import FRAME_EVENTS_MAX, Task, tasks_of
from eventstore.audit.tree import Frontier, leaf_hash, root_of
from eventstore.audit.verify import Verified, verify, verify_directory
from eventstore.log.format import FRAMES, KEYS, REF, STREAM_ROW, STREAMS, TILES
from eventstore.log.lmdb import LmdbLog
from eventstore.log.rows import tile_key


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the directory of a filled store: branches, merges, keys, ids, redactions, erasures."""
    place = tmp_path_factory.mktemp("shared") / "history"
    ticks = count(10**18, 10**6)
    with EventStore.open(place, clock=lambda: next(ticks), actor="user:1") as store:
        fill(store)
        for turn in range(30):
            for session in ("x", "y", "z"):
                if not turn:
                    store.create(session)
                store.append(
                    session, {"role": "user", "content": f"{turn}"}, key=f"{session}{turn}"
                )
            if turn % 10 == 7:
                store.redact("y", f"y#{turn - 3}", reason="asked for")
        store.branch("x", "x2", at=20)
        store.append("x2", [{"content": "more"}] * 40, correlation_id="c", causation_id="w")
        store.merge("x2", into="x")
    return place


@pytest.fixture(autouse=True)
def _short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretches, "STRETCH_BITS", 4)


@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_store_is_sound_in_every_way(
    made: Path, monkeypatch: pytest.MonkeyPatch, *, deep: bool
):
    """Leaps and the usual lane change nothing in the report, and most stretches are leapt over."""
    report = verified(made, deep=deep)
    assert report.sound
    leaping, leapt = by_leaps(made, monkeypatch, deep=deep)
    assert leaping == carefully(made, monkeypatch, deep=deep) == report
    assert leapt > report.size // 32


def test_a_stretch_may_begin_inside_an_append(tmp_path: Path):
    """A frame that goes on with one in another stretch is held to it, and the stretch is sound."""
    with EventStore.open(tmp_path / "history") as store:
        store.create("a")
        store.create("b")
        store.append("a", [{"content": "line"}] * 13)
        store.merge("b", into="a")
        store.append("a", [{"content": "line"}] * 15)
        begins = store.log.read_all(16, 1)[0]
        assert begins.position == 16 and begins.continues
        found = stretches.walked(store.log, Task(16, 32, store.head().size, deep=True))
    assert found is not None and (found.begin, found.end) == (16, 32)


@pytest.mark.parametrize("tamper", [each for each, _ in TAMPERINGS], ids=lambda each: each.__name__)
def test_tampering_is_told_in_the_same_words(
    history: Path, tamper: Tamper, monkeypatch: pytest.MonkeyPatch
):
    """Each tampering gives one report, finding by finding, however the log is walked."""
    with tables(history) as opened:
        tamper(opened)
    report = verified(history)
    assert not report.sound
    assert by_leaps(history, monkeypatch, deep=True)[0] == report
    assert carefully(history, monkeypatch, deep=True) == report
    assert by_leaps(history, monkeypatch, deep=False)[0] == verified(history, deep=False)


@given(st.data())
def test_damage_anywhere_is_told_in_the_same_words(made: Path, data: st.DataObject):
    """Altered bytes in any rows give one report, however the log is walked."""
    place = copied(made, made.parent / "altered")
    with tables(place) as opened:
        for table in data.draw(
            st.lists(st.sampled_from([FRAMES, KEYS, TILES, FRAMES]), max_size=4)
        ):
            key, value = data.draw(st.sampled_from(opened.rows(table)))
            opened.flip(table, key, data.draw(st.integers(0, len(value) - 1)))
    with pytest.MonkeyPatch.context() as patched:
        report = verified(place)
        assert by_leaps(place, patched, deep=True)[0] == report
        assert carefully(place, patched, deep=True) == report


def earlier(opened: Tables) -> None:
    """Have the frames of a stretch recorded before those in front of it."""
    for position in range(48, 64):
        rewritten(opened, position, 32, (10**18 + position).to_bytes(8, "big"))


def shifted(opened: Tables) -> None:
    """Let one version and one message of a session be missing where a stretch begins."""
    for position in range(48, 64):
        rewritten(opened, position, 16, (position + 1).to_bytes(4, "big"))
        rewritten(opened, position, 20, position.to_bytes(4, "big"))
        opened.delete(STREAMS, REF.pack(1), STREAM_ROW.pack(position, position))
    for position in range(48, 64):
        opened.put(STREAMS, REF.pack(1), STREAM_ROW.pack(position + 1, position))


def another_before(opened: Tables) -> None:
    """Let the first frame of a stretch name another position in front of it."""
    rewritten(opened, 48, 24, (40).to_bytes(8, "big"))


@pytest.mark.parametrize("tamper", [earlier, shifted, another_before])
def test_a_stretch_that_is_sound_by_itself_is_held_to_its_beginning(
    history: Path, tamper: Tamper, monkeypatch: pytest.MonkeyPatch
):
    """What only the end of the stretch before tells is told there, in the same words."""
    with tables(history) as opened:
        tamper(opened)
    with EventStore.open(history, read_only=True) as store:
        root = root_of([leaf_hash(entry) for entry in log_entries(store.log, 48, 64)])
    with tables(history) as opened:
        opened.put(TILES, tile_key(4, 3), root)
    with EventStore.open(history, read_only=True) as store:
        assert stretches.walked(store.log, Task(48, 64, store.head().size, deep=True)) is not None
    report = verified(history)
    assert "position 48: " in told(report)
    assert by_leaps(history, monkeypatch, deep=True)[0] == report


def test_where_the_tree_is_given_up_nothing_is_leapt_over(
    history: Path, monkeypatch: pytest.MonkeyPatch
):
    """Behind a hole that is too large for stand-ins the rest is walked, and found the same."""
    monkeypatch.setattr(walks, "STAND_INS_MAX", 5)
    with tables(history) as opened:
        for position in range(40, 60):
            opened.delete(FRAMES, last(position))
        opened.flip(FRAMES, last(130), -1)
    report = verified(history)
    assert "position 40: no frame holds" in told(report) and "position 130: " in told(report)
    assert by_leaps(history, monkeypatch, deep=True)[0] == report


def spoil(opened: Tables) -> None:
    """Damage a payload in the middle, a row of an index and a tile."""
    opened.flip(FRAMES, last(40), -1)
    key, row = opened.rows(STREAMS)[-3]
    opened.delete(STREAMS, key, row)
    opened.flip(TILES, tile_key(4, 20), 0)


@pytest.mark.parametrize("workers", [2, 3])
def test_processes_find_what_one_finds(history: Path, workers: int):
    """A sound and a damaged store give one report with one process and with more."""
    assert verified(history, workers=workers) == verified(history)
    with tables(history) as opened:
        spoil(opened)
    report = verified(history)
    assert len(report.findings) >= 3, told(report)
    assert verified(history, workers=workers) == report


def test_states_are_told_in_the_same_words_by_many(tmp_path: Path):
    """What is wrong with states is found and counted once, though they are looked at twice."""
    place = tmp_path / "history"
    with EventStore.open(place) as store:
        store.create("a")
        for _ in range(3):
            store.append("a", [{"content": "x"}] * 300)
            store.headers.at("a", store.version("a"))
    sound = verified(place)
    assert sound.sound and sound.checked["snapshots"] and sound.checked["states"]
    assert verified(place, workers=2) == sound
    with tables(place) as opened:
        opened.flip(TILES, tile_key(4, 2), 0)
    assert verified(place, workers=2) == verified(place)
    with snapshots(place) as rows:
        for _, value, put in rows:
            put(value[:-1] + bytes([value[-1] ^ 1]))
    report = verified(place)
    assert len(report.findings) == len(rows) + 1
    assert verified(place, workers=2) == report


def test_a_look_ahead_that_fails_only_costs_time(made: Path, monkeypatch: pytest.MonkeyPatch):
    """States that can't be looked at before the log was walked are looked at behind it."""
    looked = list[bool]()
    look = states._check_newest

    def failing(store: EventStore, notes: Notes) -> None:
        looked.append(True)
        if len(looked) == 1:
            raise RuntimeError
        look(store, notes)

    due = verified(made)
    monkeypatch.setattr(states, "_check_newest", failing)
    assert verified(made, workers=2) == due
    assert len(looked) == 2


def test_a_log_that_was_verified_before_is_shared_from_there_on(history: Path):
    """What follows an earlier verification is found as by one process."""
    with EventStore.open(history) as store:
        before = verify(store, deep=True, workers=1)
        store.append("z", [{"content": f"{n}"} for n in range(100)])
        store.append("z", {"content": "one"})
    since = Verified(before.size, before.root, deep=True)
    with EventStore.open(history, read_only=True) as store:
        alone = verify(store, deep=True, since=since, workers=1)
        assert alone.sound and alone.checked["events"] == 101
        assert verify(store, deep=True, since=since, workers=2) == alone


def test_a_damaged_frame_before_the_start_is_named(history: Path):
    """Where a session had come to is said by the last frame before the start: damage there too."""
    with EventStore.open(history) as store:
        place = store.append("z", {"content": "more"}).position
        head = store.head()
        store.append("z", {"content": "then"})
    since = Verified(head.size, head.root.hex(), deep=True)
    with tables(history) as opened:
        opened.flip(FRAMES, last(place), 45)
    with EventStore.open(history, read_only=True) as store:
        findings = verify(store, deep=True, since=since, workers=1).findings
    assert findings[0].position == place


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Give the children that crews start from now on."""
    children: list[subprocess.Popen[bytes]] = []
    begin = subprocess.Popen

    def noted(*args: object, **how: object) -> subprocess.Popen[bytes]:
        children.append(begin(*args, **how))
        return children[-1]

    monkeypatch.setattr(crew.subprocess, "Popen", noted)
    return children


def test_children_that_die_only_cost_time(
    history: Path, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
):
    """Where no child can do its work, all is found as by one process."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert verified(history, workers=3) == verified(history)
    assert len(started) == 2 and all(child.poll() for child in started)
    monkeypatch.setattr(sys, "executable", str(history / "missing"))
    assert verified(history, workers=3).sound


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_no_child_outlives_an_interrupted_verification(
    history: Path, started: list[subprocess.Popen[bytes]], error: type[BaseException]
):
    """Whatever stops the caller, his children are gone when he hears of it."""

    def stop(done: int, _: int) -> None:
        if done > 100:
            raise error

    with EventStore.open(history, read_only=True) as store, pytest.raises(error):
        verify(store, progress=stop, workers=3)
    assert [child.poll() is not None for child in started] == [True, True]


def test_progress_is_told_in_order(history: Path):
    """Positions only grow, up to the end, also where stretches are walked elsewhere."""
    told: list[tuple[int, int]] = []
    with EventStore.open(history, read_only=True) as store:
        size = verify(store, progress=lambda *each: told.append(each), workers=2).size
    assert told == sorted(told) and told[-1] == (size, size) and len(told) > size >> 5


def test_a_child_ends_with_its_input(history: Path):
    """A child whose parent is gone ends by itself, without an error."""
    child = subprocess.Popen(
        [sys.executable, "-m", stretches.__name__, str(history / "log")],
        stdin=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(60) == 0


def test_keys_are_handed_to_nobody(tmp_path: Path, started: list[subprocess.Popen[bytes]]):
    """An encrypted store is walked by one process, whatever is asked for."""
    keyring = Keyring.file(tmp_path / "keyring")
    with EventStore.open(tmp_path / "history", keyring=keyring) as store:
        store.create("s")
        store.append("s", [{"content": "secret"}] * 50)
        assert verify(store, deep=True, workers=4).sound
    assert not started


def test_a_small_store_is_walked_by_one_process(
    history: Path, started: list[subprocess.Popen[bytes]]
):
    """By default children are started only where that pays."""
    assert verify_directory(history, deep=True).sound
    assert not [child for child in started if stretches.__name__ in str(child.args)]


def test_the_index_tells_how_far_each_stream_had_come(made: Path):
    """Where each frame begins, the places by bisection are those that the frames before give."""
    with EventStore.open(made, read_only=True) as store:
        assert isinstance(store.log, LmdbLog)
        rows, due = Rows(store.log), dict[int, Place]()
        frames = Frames(rows, rows.size, Notes())
        position = 0
        while position < rows.size:
            assert {ref: each for ref, each in frames.places(position) if each[0]} == due
            assert all(frames.place(ref, position) == each for ref, each in due.items())
            frame = store.log.read_all(position, 1)[0]
            place = frame.last_version + 1, frame.next_number(), frame.last_position
            due[frame.session_ref] = place
            position = frame.last_position + 1
        assert frames.place(len(due) + 1_000, position) == (0, 0, -1)


@given(st.integers(0, 10_000), st.integers(0, 3_000))
def test_the_stretches_are_all_of_the_log(begin: int, more: int):
    """They follow on one another, each begins aligned, and the last one ends with the log."""
    step = 1 << stretches.STRETCH_BITS
    tasks = tasks_of(begin, begin + more, begin + more, deep=True)
    assert all(task.start % step == 0 and 0 < task.stop - task.start <= step for task in tasks)
    assert [task.stop for task in tasks[:-1]] == [task.start for task in tasks[1:]]
    assert not more or (tasks[0].start <= begin and tasks[-1].stop == begin + more)


def test_a_size_that_no_frames_can_hold_is_not_shared():
    """A head row that lies makes nobody count to 2**62."""
    assert tasks_of(0, 1 << 62, 10, deep=True) == []
    assert tasks_of(0, FRAME_EVENTS_MAX, 1, deep=True)


@given(st.integers(0, 200), st.integers(0, 6), st.integers(1, 5))
def test_a_subtree_joins_as_its_leaves_would(full: int, level: int, times: int):
    """Whole subtrees behind as many full ones give the same tree, and the same kept roots."""
    leaf = [bytes([number & 255]) * 32 for number in range(1 << level)]
    one, other = Frontier(), Frontier()
    for frontier in (one, other):
        frontier.extend(bytes(32) for _ in range(full << level))
    sub = Frontier()
    within = sub.extend(leaf)
    for _ in range(times):
        index = one.size >> level
        below = [
            (low, node_index + (index << level - low), node) for low, node_index, node in within
        ]
        assert sorted(below + one.join(level, sub.nodes[0])) == sorted(other.extend(leaf))
    assert (one.size, one.nodes) == (other.size, other.nodes)
