"""Folds by many: the state is what one process gives, whoever folded which stretch."""

import subprocess
import sys
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from facts import fill
from hypothesis import given
from hypothesis import strategies as st
from recipes import Apart, Decoded, Places, Since
from tampering import last, tables

from eventstore import Corruption, EventStore, InvalidEvent, Keyring
from eventstore.audit import crew
from eventstore.audit.verify import verify
from eventstore.log.format import FRAMES
from projections import Projection, Statistics, ToolUse, fold, stretches
from projections.statistics import StatisticsProjection
from projections.stretches import Task

CHILDREN = 2


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the directory of a store that used every command."""
    place = tmp_path_factory.mktemp("folds") / "history"
    with EventStore.open(place) as store:
        fill(store)
        for duration in (0.1, 0.2, 0.3, 1e9 / 7, None):
            store.record_tool_call("a", "tool", duration_ms=duration)
        store.create("end", messages=[{"content": f"{n}"} for n in range(40)])
    return place


@pytest.fixture(scope="module")
def store(made: Path):
    """Give it opened."""
    with EventStore.open(made, read_only=True) as opened:
        yield opened


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Give the children that are started from now on, for stretches that are short."""
    children: list[subprocess.Popen[bytes]] = []
    begin: Any = subprocess.Popen

    def noted(*args: Any, **how: Any) -> subprocess.Popen[bytes]:
        children.append(begin(*args, **how))
        return children[-1]

    monkeypatch.setattr(crew.subprocess, "Popen", noted)
    monkeypatch.setattr(stretches, "STRETCH_EVENTS", 7)
    return children


@pytest.mark.parametrize("kind", [StatisticsProjection, Places, Decoded])
@given(data=st.data())
def test_stretches_join_to_the_whole(
    store: EventStore, kind: type[Projection[Any]], data: st.DataObject
):
    """Wherever the log is cut, within frames too, the states of its parts join to its state."""
    recipe, size = kind.on(store), store.head().size
    cuts = sorted(data.draw(st.sets(st.integers(1, size - 1), max_size=6)))
    parts = [
        msgspec.msgpack.decode(
            stretches._folded(store, recipe, Task(first, stop - 1)), type=kind.row_type
        )
        for first, stop in pairwise([0, *cuts, size])
    ]
    assert reduce(recipe.join, parts, recipe.initial()) == fold(store, recipe, workers=1)


@pytest.mark.parametrize(
    ("at", "kinds"),
    [
        (None, [StatisticsProjection, Places, Decoded]),
        (20, [Places]),
        (200, [Decoded]),
        *(
            pytest.param(at, [StatisticsProjection, Places, Decoded], marks=pytest.mark.long)
            for at in (20, 200)
        ),
    ],
)
def test_processes_find_what_one_finds(
    store: EventStore,
    at: int | None,
    kinds: list[type[Projection[Any]]],
    started: list[subprocess.Popen[bytes]],
):
    """Now and at a moment in the middle of an append, the state is that of one process."""
    for recipe in (kind.on(store) for kind in kinds):
        alone = fold(store, recipe, at_position=at, workers=1)
        assert fold(store, recipe, at_position=at, workers=1 + CHILDREN) == alone
    assert len(started) == len(kinds) * CHILDREN
    assert all(child.poll() is not None for child in started)
    assert Statistics.of(store, workers=2) == Statistics.of(store, workers=1)


def test_children_that_die_only_cost_time(
    store: EventStore, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
):
    """Where no child can do its work, the state is that of one process."""
    alone = fold(store, Places(), workers=1)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert fold(store, Places(), workers=3) == alone
    assert len(started) == 2
    monkeypatch.setattr(sys, "executable", "/there/is/none")
    assert fold(store, Places(), workers=3) == alone


def test_damage_is_raised_as_by_one_process(tmp_path: Path, started: list[subprocess.Popen[bytes]]):
    """A recipe that meets damage raises the first there is in the log, whoever met it."""
    place = tmp_path / "history"
    with EventStore.open(place) as store:
        store.create("s")
        for turn in range(60):
            store.append("s", {"content": f"turn {turn}"})
    with tables(place) as opened:
        for position in (25, 50):
            opened.flip(FRAMES, last(position), -1)
    with EventStore.open(place, read_only=True) as store:
        for workers in (1, 3):
            with pytest.raises(Corruption) as found:
                fold(store, Decoded(), workers=workers)
            assert found.value.position == 25
    assert len(started) == CHILDREN


def test_some_folds_are_never_shared(
    tmp_path: Path, store: EventStore, started: list[subprocess.Popen[bytes]]
):
    """Recipes without join() or with an argument, local ones, and stores that have keys."""

    class Local(Places):
        pass

    for recipe in (Apart(), Since(3), Local()):
        assert fold(store, recipe, workers=3) == fold(store, recipe, workers=1)
    keyring = Keyring.file(tmp_path / "keyring")
    with (
        EventStore.open(tmp_path / "sealed", keyring=keyring) as sealed,
        EventStore.in_memory() as memory,
    ):
        for each in (sealed, memory):
            each.create("s", messages=[{"content": "hello"}] * 20)
            assert Statistics.of(each, workers=3).messages == 20
    assert not started


def test_a_small_log_is_folded_by_one_process(
    store: EventStore, started: list[subprocess.Popen[bytes]]
):
    """By default children are started only where that pays."""
    assert Statistics.of(store).events > 200
    assert not started


@pytest.mark.parametrize("workers", [0, -1, True, 1.5, "2"])
def test_workers_are_a_whole_number_above_0(store: EventStore, workers: Any):
    """Anything else is refused by name, also where nothing would be shared."""
    for ask in (
        lambda: Statistics.of(store, workers=workers),
        lambda: fold(store, Apart(), workers=workers),
        lambda: verify(store, workers=workers),
    ):
        with pytest.raises(InvalidEvent, match="workers"):
            ask()


@given(st.lists(st.floats(0, 1e9)), st.integers(0, 20))
def test_durations_add_up_the_same_in_any_order(durations: list[float], cut: int):
    """The time that a tool took does not depend on where the log was cut: whole us add up."""
    recipe = StatisticsProjection.on(EventStore.in_memory())

    def used(some: list[float]) -> Statistics:
        state = recipe.initial()
        for each in some:
            after = Statistics(tools={"t": ToolUse(1, 0, each)})
            state = recipe.join(state, after)
        return state

    both = recipe.join(used(durations[:cut]), used(durations[cut:]))
    assert both.tools == used(durations).tools
    if durations:
        assert both.tools["t"].duration_ms == sum(round(each * 1_000) for each in durations) / 1_000
