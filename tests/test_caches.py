"""Caches beside the log may be cut, lost or replaced; the facts and their place are not guessed."""

import os
import shutil
import stat
from pathlib import Path

import pytest

from eventstore import EventStore, StoreUnavailable
from eventstore.care.backup import backup, restore
from projections import SessionState, Views


def said(number: int) -> dict[str, object]:
    """Return the message that says its number."""
    return {"role": "user", "content": f"line {number}"}


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """Return a store of one session that is long enough for snapshots and has views."""
    with EventStore.open(tmp_path / "history") as store:
        store.create("s")
        for number in range(300):
            store.append("s", said(number))
        Views(store).sessions()
    return tmp_path / "history"


@pytest.mark.parametrize("name", ["snapshots", "views"])
@pytest.mark.parametrize("left", [0, 4096, 12288])
def test_a_cut_cache_is_as_good_as_none(history: Path, name: str, left: int):
    """A cache whose file was cut costs time, and neither answers nor processes."""
    os.truncate(history / name / "data.mdb", left)
    with EventStore.open(history) as store:
        assert len(SessionState.of(store, "s", at_version=200).messages) == 200
        assert [row.messages for row in Views(store).sessions().rows] == [300]


def test_files_that_took_the_place_of_open_ones_are_not_mistaken(history: Path, tmp_path: Path):
    """A store that was replaced while it is open can't be opened again before it is closed."""
    with EventStore.open(history) as store:
        backup(store, tmp_path / "copy")
        shutil.rmtree(history)
        restore(tmp_path / "copy", history)
        with pytest.raises(StoreUnavailable, match="replaced"):
            EventStore.open(history)
    with EventStore.open(history) as again:
        assert again.version("s") == 300


def test_a_private_directory_stays_private(tmp_path: Path):
    """A store made in an empty directory keeps the directory's mode."""
    place = tmp_path / "private"
    place.mkdir(mode=0o700)
    EventStore.open(place).close()
    assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_a_given_id_is_not_shadowed_by_a_made_one(store):
    """A message that was given the id `s#1` is found by it, not the message at version 1."""
    store.create("s")
    store.append("s", [{**said(1), "id": "x"}, {**said(2), "id": "s#1"}, said(3)])
    store.prune("s", messages=["s#1"])
    shown = SessionState.of(store, "s").messages
    assert [each.content for each in shown] == ["line 1", "line 3"]
    store.prune("s", messages=["s#3"])
    assert [each.id for each in SessionState.of(store, "s").messages] == ["x"]
