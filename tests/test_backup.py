"""Backups: hot, whole, equal to a beginning of the original, and good to go on with."""

import json
import os
import subprocess
import sys
import textwrap
import threading

import pytest

from eventstore import Corruption, EventStore, FormatTooNew, StoreUnavailable
from eventstore.audit.leaves import log_entries
from eventstore.audit.tree import leaf_hash, root_of
from eventstore.audit.verify import verify
from eventstore.care.backup import backup, restore
from eventstore.care.compacting import compact
from eventstore.care.repair import repair
from eventstore.log.environment import FILE
from eventstore.log.format import MARKER
from eventstore.place.directory import LOG


def filled(store: EventStore, count: int = 3) -> None:
    """Make a session with some messages."""
    store.create("a", metadata={"topic": "tests"})
    for number in range(count):
        store.append("a", {"role": "user", "content": str(number)})


def left_beside(path) -> list[str]:
    """Return what a copy that failed left beside its place."""
    return [each.name for each in path.parent.iterdir() if each.name.startswith(f".{path.name}.")]


def test_a_hot_backup_is_a_beginning_of_the_original(disk, tmp_path):
    """Taken while threads write, each copy is one moment: equal events, and the root of then."""
    filled(disk)
    stop = threading.Event()

    def write(name: str) -> None:
        disk.create(name)
        while not stop.is_set():
            disk.append(name, [{"role": "user", "content": "x" * 50}] * 3)

    threads = [threading.Thread(target=write, args=(f"t{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    heads = [backup(disk, tmp_path / f"copy-{number}") for number in range(3)]
    stop.set()
    for thread in threads:
        thread.join()
    assert [head.size for head in heads] == sorted(head.size for head in heads)
    for number, head in enumerate(heads):
        assert restore(tmp_path / f"copy-{number}", tmp_path / f"made-{number}") == head
        entries = log_entries(disk.log, 0, head.size)
        assert head.root == root_of([leaf_hash(entry) for entry in entries])
        with EventStore.open(tmp_path / f"made-{number}") as made:
            assert made.head() == head
            assert list(made.all()) == list(disk.all(limit=head.size))
            assert verify(made, deep=True).sound


def test_a_restored_store_goes_on_by_itself(disk, tmp_path):
    """New facts follow in the copy, the original doesn't see them, and keys still answer."""
    filled(disk)
    disk.append("a", {"role": "user", "content": "keyed"}, key="k")
    head = backup(disk, tmp_path / "copy")
    restore(tmp_path / "copy", tmp_path / "made")
    with EventStore.open(tmp_path / "made") as made:
        assert made.id == disk.id
        assert made.append("a", {"role": "user", "content": "keyed"}, key="k").duplicate
        made.append("a", {"role": "user", "content": "more"})
        assert made.head().size == head.size + 3  # its origin comes first, see test_trust.py
        assert verify(made, deep=True).sound
    assert disk.head() == head


def test_a_backup_carries_its_dictionaries(disk, tmp_path):
    """Payloads that were compressed with a trained dictionary can be read in the copy."""
    filled(disk, 300)
    disk.train_dictionary()
    disk.append("a", {"role": "user", "content": "trained " * 40})
    backup(disk, tmp_path / "copy")
    with EventStore.open(tmp_path / "copy", read_only=True) as copy:
        assert list(copy.all()) == list(disk.all())


def test_a_backup_holds_facts_and_no_caches(disk, tmp_path):
    """The description and the log, nothing else: no views, snapshots or lock files."""
    filled(disk, 2)
    backup(disk, tmp_path / "copy")
    found = sorted(str(each.relative_to(tmp_path / "copy")) for each in copied(tmp_path / "copy"))
    assert found == [MARKER, f"{LOG}/{FILE}"]
    assert left_beside(tmp_path / "copy") == []


def copied(path):
    """Iterate over the files of a copy."""
    return (each for each in path.rglob("*") if each.is_file())


def test_an_empty_store_and_an_empty_directory_will_do(disk, tmp_path):
    """A copy of nothing is a backup; an empty directory may be waiting for it."""
    (tmp_path / "copy").mkdir()
    assert backup(disk, tmp_path / "copy").size == 0
    restore(tmp_path / "copy", tmp_path / "made")
    with EventStore.open(tmp_path / "made") as made:
        filled(made)


def test_a_backup_stays_what_it_was(disk, tmp_path):
    """It opens read-only and is not compacted, so that increments fit it; restored, it goes on."""
    filled(disk, 2)
    backup(disk, tmp_path / "copy")
    before = {each: each.read_bytes() for each in copied(tmp_path / "copy")}
    with pytest.raises(StoreUnavailable, match="is a backup; restore it into a new store"):
        EventStore.open(tmp_path / "copy")
    with pytest.raises(StoreUnavailable, match="is a backup; restore it into a new store"):
        compact(tmp_path / "copy")
    assert {each: each.read_bytes() for each in copied(tmp_path / "copy")} == before
    with EventStore.open(tmp_path / "copy", read_only=True) as copy:
        assert list(copy.all()) == list(disk.all())
    restore(tmp_path / "copy", tmp_path / "made")
    with EventStore.open(tmp_path / "made") as made:
        made.append("a", {"content": "more"})
        assert verify(made, deep=True).sound


def test_a_buffered_store_is_copied_with_all_that_was_acknowledged(tmp_path):
    """What the caller was told is in the copy, synced or not."""
    with EventStore.open(tmp_path / "history", durability="buffered") as store:
        filled(store, 20)
        assert backup(store, tmp_path / "copy").size == 21


@pytest.mark.parametrize("there", ["a file", "files", "a store"])
def test_nothing_is_overwritten(disk, tmp_path, there):
    """A destination that holds anything stays as it is."""
    filled(disk)
    backup(disk, tmp_path / "source")
    place = tmp_path / "there"
    if there == "a file":
        place.write_text("mine")
    elif there == "files":
        place.mkdir()
        (place / "mine").write_text("mine")
    else:
        EventStore.open(place).close()
    before = {str(each): each.read_bytes() for each in [place, *place.rglob("*")] if each.is_file()}
    with pytest.raises(StoreUnavailable, match="not empty; a copy overwrites nothing"):
        backup(disk, place)
    with pytest.raises(StoreUnavailable, match="not empty; a copy overwrites nothing"):
        restore(tmp_path / "source", place)
    after = {str(each): each.read_bytes() for each in [place, *place.rglob("*")] if each.is_file()}
    assert after == before
    assert left_beside(place) == []


def test_a_store_in_memory_has_nothing_to_copy(tmp_path):
    """The error says what to do instead."""
    with EventStore.in_memory() as store, pytest.raises(StoreUnavailable, match="export"):
        backup(store, tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_a_destination_below_a_file_is_refused(disk, tmp_path):
    """Where no directory can be made there is one clear error."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreUnavailable, match="no copy can be made"):
        backup(disk, tmp_path / "file" / "copy")


def test_a_disk_that_refuses_leaves_nothing_behind(tmp_path):
    """With a limit on file sizes the copy ends in StoreFull, and no half of it is there."""
    child = textwrap.dedent("""
        import resource, signal, sys
        from eventstore import EventStore, StoreFull
        from eventstore.care.backup import backup
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with EventStore.open(sys.argv[1]) as store:
            store.create("a")
            store.append("a", [{"role": "user", "content": "x" * 300}] * 300)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_480, 20_480))
            try:
                backup(store, sys.argv[2])
            except StoreFull:
                print("full")
    """)
    command = [sys.executable, "-c", child, str(tmp_path / "history"), str(tmp_path / "copy")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("full\n", 0), done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["history"]


@pytest.fixture
def source(disk, tmp_path):
    """Give a backup to damage."""
    filled(disk, 50)
    backup(disk, tmp_path / "source")
    return tmp_path / "source"


def refused(source, error, what):
    """Check that nothing is made of a source, and why."""
    place = source.with_name("made")
    with pytest.raises(error, match=what):
        restore(source, place)
    assert not place.exists()
    assert left_beside(place) == []


def test_what_is_no_store_is_not_restored(tmp_path):
    """A missing directory and one without a description are refused."""
    refused(tmp_path / "missing", StoreUnavailable, "holds no event store")
    (tmp_path / "other").mkdir()
    refused(tmp_path / "other", StoreUnavailable, "holds no event store")


def test_no_copy_lies_in_what_it_is_a_copy_of(tmp_path):
    """A backup, a restored and a repaired store are refused inside the directory they come from."""
    place = tmp_path / "history"
    with EventStore.open(place) as store:
        store.create("s")
        (tmp_path / "link").symlink_to(place)
        for inside in (place / "copy", place / "a" / "b", tmp_path / "link" / "copy"):
            with pytest.raises(StoreUnavailable, match="is inside the store"):
                backup(store, inside)
    for make in (restore, repair):
        with pytest.raises(StoreUnavailable, match="is inside the store"):
            make(place, place / "copy")
    assert not (place / "copy").exists()
    assert not (place / "a").exists()


def test_a_newer_format_is_not_restored(source):
    """The description is read before anything else."""
    marker = json.loads((source / MARKER).read_text())
    (source / MARKER).write_text(json.dumps({**marker, "format": 99}))
    refused(source, FormatTooNew, "format 99")


def test_a_description_of_another_store_is_not_restored(source):
    """The log knows which store it is of."""
    marker = json.loads((source / MARKER).read_text())
    (source / MARKER).write_text(json.dumps({**marker, "store": "another"}))
    refused(source, StoreUnavailable, "names another store")


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ("cut", "beyond|truncated|past"),
        ("zeroed", "log/data.mdb"),
        ("emptied", "log/data.mdb|can't be opened"),
        ("gone", "can't be opened"),
    ],
)
def test_a_damaged_backup_is_not_restored(source, damage, what):
    """Pages that are missing or broken are found before LMDB touches them."""
    data = source / LOG / FILE
    size = data.stat().st_size
    if damage == "cut":
        os.truncate(data, size // 2)
    elif damage == "emptied":
        os.truncate(data, 0)
    elif damage == "gone":
        data.unlink()
    else:
        content = data.read_bytes()
        data.write_bytes(content[:8192] + bytes(size - 8192))
    refused(source, (Corruption, StoreUnavailable), what)
