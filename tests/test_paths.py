"""Paths: what a program opened by a relative path stays where it was, wherever the program goes."""

import os
from pathlib import Path

import pytest
from signed import ORIGIN

from eventstore import EventStore, InvalidEvent, StoreUnavailable
from eventstore.audit.anchors import to_directory
from eventstore.audit.heads import Heads
from eventstore.audit.signer import SigningKey
from eventstore.care.backup import backup, restore
from eventstore.care.compacting import compact
from eventstore.care.comparing import compare
from eventstore.care.repair import repair
from eventstore.place import presence
from eventstore.sessions import SessionManager
from projections import Projection, Views

SECRET = b"my password is SWORDFISH"


class Texts(Projection[dict]):
    """Keeps what was said, so that a view's file has it."""

    name = "texts"

    def initial(self):
        return {}

    def evolve(self, state, recorded):
        if recorded.type != "MessageAppended" or recorded.erased:
            return state
        return {**state, str(recorded.position): recorded.event.message.text}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Begin in one directory; give a function that goes to another, which is empty."""
    for name in "ab":
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "a")
    return lambda: os.chdir(tmp_path / "b")


def files_with(secret: bytes, place: Path) -> list[Path]:
    """Return the files below a directory that hold these bytes."""
    return [each for each in place.rglob("*") if each.is_file() and secret in each.read_bytes()]


def test_a_redaction_reaches_all_files_of_a_store_opened_by_a_relative_path(tmp_path, elsewhere):
    """Views of redacted text go, new ones are made and the mark is taken, after a chdir too."""
    with EventStore.open("history", compression="none") as store:
        store.create("s")
        store.append("s", {"role": "user", "content": SECRET.decode()})
        views = Views(store)
        views.register(Texts())
        assert views.state("texts") == {"1": SECRET.decode()}
        views.close()
        assert files_with(SECRET, tmp_path)
        elsewhere()
        store.redact("s", 1, reason="a password")
        again = Views(store)
        assert again.statistics().events == store.head().size
        again.close()
    place = tmp_path / "a" / "history"
    with presence.gate(place):
        assert presence.look(place) == presence.Present([], [])
    log = place / "log" / "data.mdb"
    assert files_with(SECRET, tmp_path) in ([], [log]), "in no view"
    compact(place)
    assert files_with(SECRET, tmp_path) == []
    assert list((tmp_path / "b").iterdir()) == []


def test_a_manager_keeps_its_store_where_it_was(tmp_path, elsewhere):
    """A manager that was opened by a relative path goes on there after a chdir."""
    with SessionManager.open("history") as manager:
        manager.create("s")
        elsewhere()
        manager.add_message("s", {"role": "user", "content": "x"})
        assert manager.store.path == tmp_path / "a" / "history"
    assert list((tmp_path / "a" / "history" / "open").iterdir()) == []
    assert list((tmp_path / "b").iterdir()) == []


def test_heads_and_their_anchors_stay_where_they_were(tmp_path, elsewhere):
    """A head is signed and left at its anchor in the directories that were named first."""
    with EventStore.open("history") as store:
        store.create("s")
        (tmp_path / "a" / "audit").mkdir()
        key = SigningKey(f"{ORIGIN.split('/')[0]}/{store.origin}", bytes(range(32)))
        heads = Heads(store, key, Path("audit/head.note"), anchors=[to_directory(Path("anchor"))])
        elsewhere()
        note = heads.sign()
    assert (tmp_path / "a" / "audit" / "head.note").read_bytes() == note
    (left,) = (tmp_path / "a" / "anchor").iterdir()
    assert left.read_bytes() == note
    assert list((tmp_path / "b").iterdir()) == []


def test_a_directory_that_is_gone_is_one_clear_error(tmp_path, elsewhere):
    """A relative path in a directory that was removed is StoreUnavailable; a whole one works."""
    elsewhere()
    (tmp_path / "b").rmdir()
    with pytest.raises(StoreUnavailable, match="the directory that the process is in"):
        EventStore.open("history")
    EventStore.open(tmp_path / "a" / "history").close()


@pytest.mark.parametrize("wrong", [None, 7, b"history", ["history"]])
def test_no_path_is_refused_at_every_door(wrong, tmp_path, disk):
    """Whatever takes a path says of anything else that it is none."""
    doors = [
        lambda: EventStore.open(wrong),
        lambda: backup(disk, wrong),
        lambda: restore(wrong, tmp_path / "r"),
        lambda: restore(tmp_path, wrong),
        lambda: compare(disk, wrong),
        lambda: repair(wrong, tmp_path / "r"),
        lambda: repair(tmp_path, wrong),
        lambda: compact(wrong),
        lambda: to_directory(wrong),
        lambda: Heads(disk, SigningKey(f"x/{disk.origin}", bytes(32)), wrong),
    ]
    for door in doors:
        with pytest.raises(InvalidEvent, match="must be a path"):
            door()
