"""Restores: up to any moment, from a backup and its increments; and whether a backup is equal."""

import shutil
import signal
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

import pytest
from driver import Driver, steps_of, ticking
from facts import told
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import Corruption, EventStore, InvalidEvent, Keyring, StoreUnavailable
from eventstore.audit.proof import Prover
from eventstore.audit.verify import verify
from eventstore.care.backup import Moment, backup, restore
from eventstore.care.comparing import compare
from eventstore.care.increments import INCREMENTS

LINE = {"role": "user", "content": "a line of some words"}


def driven(place: Path, seed: int = 3, length: int = 120, **options) -> EventStore:
    """Open a store with a drawn history in it."""
    store = EventStore.open(place, clock=ticking(), durability="buffered", **options)
    driver = Driver(store)
    for step in steps_of(seed, length):
        driver.run(step)
    store.create("kept")
    store.append("kept", LINE, key="last")
    return store


def files(place: Path) -> dict[str, bytes]:
    """Return the content of each file below a directory, LMDB's locks and marks aside."""
    return {
        str(each.relative_to(place)): each.read_bytes()
        for each in place.rglob("*")
        if each.is_file() and each.name not in ("lock.mdb", ".lock")
    }


def ends(store: EventStore) -> set[int]:
    """Return the sizes that a store had between two appends, by the receipts of a plain walk."""
    walked = list(store.all())
    whole = {0, len(walked)}
    for one, other in pairwise(walked):
        if (one.recorded_at, one.actor) != (other.recorded_at, other.actor):
            whole.add(other.position)
    return whole


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory):
    """Give an open store, and a full backup of it."""
    place = tmp_path_factory.mktemp("restore")
    with driven(place / "history") as store:
        backup(store, place / "full")
        yield store, place / "full"


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory):
    """Give an open store and a backup of it with three increments, and the heads of them."""
    place = tmp_path_factory.mktemp("chain")
    with EventStore.open(place / "history", clock=ticking(), durability="buffered") as store:
        driver = Driver(store)
        heads = []
        store.create("kept")
        for number in range(4):
            for step in steps_of(number, 40):
                driver.run(step)
            if number == 2:
                for _ in range(200):
                    store.append("kept", LINE)
                store.train_dictionary()
            store.append("kept", LINE, key=f"key {number}")
            heads.append(backup(store, place / "backup", incremental=True))
        yield store, place / "backup", heads


# -- up to a moment --------------------------------------------------------------------------


@settings(max_examples=8)  # each restore walks the pages in a process of its own
@given(share=st.floats(0, 1))
def test_a_position_gives_the_store_of_then(history, tmp_path_factory, share):
    """Up to a position: the facts up to it and the rest of its append, with the root of then."""
    store, full = history
    at = round(share * (store.head().size - 1))
    made = tmp_path_factory.mktemp("made") / "store"
    head = restore(full, made, moment=Moment(position=at))
    assert at < head.size <= min(each for each in ends(store) if each > at)
    assert head.root == Prover.of(store.log).root(head.size)
    with EventStore.open(made) as copy:
        assert list(copy.all()) == list(store.all(limit=head.size))
        assert told(verify(copy, deep=True)) == ""
    shutil.rmtree(made.parent)


def test_a_time_gives_the_store_of_then(history, tmp_path):
    """Up to a time: what was recorded by then, whichever of two moments falls between facts."""
    store, full = history
    times = [each.recorded_at for each in store.all()]
    for number, at in enumerate([times[0], times[len(times) // 2] + 1, times[-1] + 5]):
        head = restore(full, tmp_path / str(number), moment=Moment(time=at))
        assert head.size == sum(time <= at for time in times)
        assert head.root == Prover.of(store.log).root(head.size)
    with pytest.raises(InvalidEvent, match="nothing had been recorded by then"):
        restore(full, tmp_path / "none", moment=Moment(time=times[0] - 1))
    with pytest.raises(InvalidEvent, match=f"positions go from 0 to {len(times) - 1}"):
        restore(full, tmp_path / "none", moment=Moment(position=len(times)))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["0", "1", "2"]


def test_work_goes_on_from_the_past(history, tmp_path):
    """A store of the past is a new origin, its keys answer, and later keys are free again."""
    store, full = history
    restore(full, tmp_path / "made", moment=Moment(position=store.head().size - 2))
    with EventStore.open(tmp_path / "made", clock=ticking()) as made:
        assert made.origin != store.origin
        assert not made.append("kept", LINE, key="last").duplicate
        assert made.append("kept", LINE, key="last").duplicate
        assert verify(made, deep=True).sound


# -- increments ------------------------------------------------------------------------------


def test_increments_lead_to_the_newest_head(chain, tmp_path):
    """A full backup and what was added to it make the whole store, dictionaries and keys too."""
    store, place, heads = chain
    assert [each.name for each in sorted((place / INCREMENTS).glob("0*"))] == [
        f"{number:08}" for number in (1, 2, 3)
    ]
    assert heads[-1] == store.head()
    assert restore(place, tmp_path / "made") == store.head()
    with EventStore.open(tmp_path / "made") as made:
        assert list(made.all()) == list(store.all())
        assert made.append("kept", LINE, key="key 3").duplicate
        assert verify(made, deep=True).sound


def test_a_backup_with_increments_is_read_alone(chain):
    """What would be written to it would fit no increment: it opens read-only, or is restored."""
    store, place, heads = chain
    with pytest.raises(StoreUnavailable, match="is a backup; restore it"):
        EventStore.open(place)
    with EventStore.open(place, read_only=True) as full:
        assert full.head().size < heads[-1].size
    assert backup(store, place, incremental=True) == heads[-1]


def test_an_increment_has_only_what_is_new(chain):
    """It is as large as its frames, however large the store is; with nothing new there is none."""
    store, place, _ = chain
    before = files(place)
    assert backup(store, place, incremental=True) == store.head()
    assert files(place) == before
    assert len(before[f"{INCREMENTS}/00000001"]) < 20_000 < len(before["log/data.mdb"])


def test_any_moment_can_be_restored_from_increments(chain, tmp_path):
    """Moments before, at the end of and within each increment give the root of then."""
    store, place, heads = chain
    whole = ends(store)
    for at in sorted({*(h.size - 1 for h in heads), *(h.size for h in heads[:-1])}):
        head = restore(place, tmp_path / str(at), moment=Moment(position=at))
        assert at < head.size <= min(each for each in whole if each > at)
        assert head.root == Prover.of(store.log).root(head.size)


def test_a_killed_backup_leaves_nothing_for_long(tmp_path):
    """What it had written of an increment, payloads in it, goes when the next one is made."""
    child = textwrap.dedent("""
        import os, signal, sys
        from eventstore import EventStore
        from eventstore.care.backup import backup
        with EventStore.open(sys.argv[1], compression="none") as store:
            store.create("s")
            backup(store, sys.argv[2])
            store.append("s", {"role": "user", "content": "one more"})
            os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            backup(store, sys.argv[2], incremental=True)
    """)
    command = [sys.executable, "-c", child, tmp_path / "history", tmp_path / "backup"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    [left] = (tmp_path / "backup" / INCREMENTS).glob(".0*")
    assert b"one more" in left.read_bytes()
    with EventStore.open(tmp_path / "history") as store:
        assert backup(store, tmp_path / "backup", incremental=True) == store.head()
        assert not left.exists()
        assert compare(store, tmp_path / "backup").equal


def test_increments_need_a_directory(chain, tmp_path):
    """Where none can be made, that is one error that names the place."""
    store, place, _ = chain
    copy = Path(shutil.copytree(place, tmp_path / "copy", ignore=lambda *_: [INCREMENTS]))
    (copy / INCREMENTS).touch()
    with pytest.raises(StoreUnavailable, match=INCREMENTS):
        backup(store, copy, incremental=True)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "swap"])
def test_damaged_increments_are_named(chain, tmp_path, damage):
    """An increment that was altered, cut, removed or moved is named, and nothing is made of it.

    What helps is said: another backup, since `verify` looks into no increment.
    """
    place = Path(shutil.copytree(chain[1], tmp_path / "backup"))
    first, second, _ = sorted((place / INCREMENTS).glob("0*"))
    content = second.read_bytes()
    if damage == "flip":
        second.write_bytes(content[:1_000] + bytes([content[1_000] ^ 4]) + content[1_001:])
    elif damage == "cut":
        second.write_bytes(content[:-9])
    elif damage == "gone":
        second.unlink()
    else:
        second.write_bytes(first.read_bytes())
    with pytest.raises(Corruption, match=rf"{INCREMENTS}/0000000[23]|increment 00000002") as raised:
        restore(place, tmp_path / "made")
    assert "'eventstore compare' checks all of a backup; make a new" in str(raised.value)
    assert "verify" not in str(raised.value)
    assert not (tmp_path / "made").exists()
    assert not compare(chain[0], place).equal


def test_increments_stay_with_their_store(chain, tmp_path):
    """Another store, or one that was set back, is not added to a backup that is not its own."""
    _, place, heads = chain
    copy = Path(shutil.copytree(place, tmp_path / "backup"))
    before = files(copy)
    with driven(tmp_path / "other", length=5) as other:
        with pytest.raises(StoreUnavailable, match="is a backup of store"):
            backup(other, copy, incremental=True)
        assert compare(other, copy).findings[0].what.startswith("it is of store")
    restore(place, tmp_path / "made", moment=Moment(position=heads[0].size))
    with (
        EventStore.open(tmp_path / "made") as made,
        pytest.raises(StoreUnavailable, match="is a backup of store"),
    ):
        backup(made, copy, incremental=True)
    assert files(copy) == before


def test_sealed_increments_need_no_keys(tmp_path):
    """Of an encrypted store frames and names are added as they are sealed, and open again."""
    keyring = Keyring.file(tmp_path / "keyring")
    with driven(tmp_path / "history", length=40, keyring=keyring) as store:
        backup(store, tmp_path / "backup")
        store.create("told-to-nobody", metadata={"secret": "s3cr3t"})
        store.append("told-to-nobody", LINE, actor="user:s3cr3t", key="s3cr3t")
        head, facts = store.head(), list(map(repr, store.all()))
    with EventStore.open(tmp_path / "history", read_only=True) as locked:
        assert backup(locked, tmp_path / "backup", incremental=True) == head
    assert restore(tmp_path / "backup", tmp_path / "made") == head
    for content in files(tmp_path / "backup").values():
        assert b"s3cr3t" not in content and b"told-to-nobody" not in content
    with EventStore.open(tmp_path / "made", keyring=keyring) as made:
        assert list(map(repr, made.all())) == facts
        assert made.append("told-to-nobody", LINE, actor="user:s3cr3t", key="s3cr3t").duplicate
        assert verify(made, deep=True).sound


def test_what_was_erased_ends_a_chain(tmp_path):
    """A backup from before an erasure still has what was erased: it is not added to, but named."""
    with driven(tmp_path / "history", length=20, keyring=Keyring.file(tmp_path / "k")) as store:
        backup(store, tmp_path / "backup")
        store.create("private")
        store.append("private", LINE)
        store.erase("private", reason="asked for")
        with pytest.raises(StoreUnavailable, match="payloads were destroyed since"):
            backup(store, tmp_path / "backup", incremental=True)
        head = backup(store, tmp_path / "fresh")
        assert head == store.head()


# -- comparing -------------------------------------------------------------------------------


def test_a_backup_is_compared_with_its_store(chain, tmp_path):
    """Sound and equal as far as it goes, it says how far behind it is; its restore is equal too."""
    store, place, heads = chain
    found = compare(store, place)
    assert (found.equal, found.size, found.behind) == (True, store.head().size, 0)
    only = tmp_path / "only"
    shutil.copytree(place, only, ignore=shutil.ignore_patterns("0000000[23]"))
    found = compare(store, only)
    assert (found.equal, found.size) == (True, heads[1].size)
    assert found.behind == store.head().size - heads[1].size
    restore(place, tmp_path / "made")
    assert compare(store, tmp_path / "made").equal


def test_where_two_go_apart_is_named(chain, tmp_path):
    """Two stores with one beginning: the first position with another fact is named."""
    store, place, heads = chain
    restore(place, tmp_path / "made", moment=Moment(position=heads[1].size))
    with EventStore.open(tmp_path / "made", clock=ticking()) as made:
        apart = made.head().size
        made.append("kept", {"role": "user", "content": "another"})
    found = compare(store, tmp_path / "made")
    assert [each.position for each in found.findings] == [apart]
    with EventStore.open(tmp_path / "made", read_only=True) as made:
        found = compare(made, place)
        assert [each.position for each in found.findings] == [heads[1].size]


def test_a_damaged_backup_is_not_equal(history, tmp_path):
    """A flipped bit in a fact of the backup is named with its position."""
    store, full = history
    place = Path(shutil.copytree(full, tmp_path / "copy"))
    data = bytearray((place / "log" / "data.mdb").read_bytes())
    at = data.index(b"last") - 1
    data[at] ^= 1
    (place / "log" / "data.mdb").write_bytes(data)
    assert not compare(store, place).equal
