"""Compaction: the same rows in a smaller file, swapped in whole, with nobody in the way."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from facts import fill

from eventstore import (
    Corruption,
    EventStore,
    Keyring,
    Recorded,
    StoreLocked,
    StoreUnavailable,
)
from eventstore.audit.pages import PageFile
from eventstore.audit.verify import verify, verify_directory
from eventstore.care.compacting import ROWS_MAX, compact
from eventstore.log.environment import TABLES_MAX
from eventstore.place import presence
from eventstore.place.opening import UNFINISHED
from projections import Projection, Views


def rows_of(store: EventStore) -> dict[bytes, list[tuple[bytes, bytes]]]:
    """Return every row of every table of a store's log."""
    env = store.log.env
    with env.begin() as txn:
        rows = {
            name: [(bytes(key), bytes(row)) for key, row in txn.cursor(env.table(name))]
            for name in env.tables()
        }
    return {**rows, b"": [*env.loose_rows().items()]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a store with more free pages than others: its writes came one by one."""
    place = tmp_path_factory.mktemp("compact") / "history"
    with EventStore.open(place) as store:
        fill(store)
        for turn in range(100):
            store.append("a", {"role": "user", "content": f"turn {turn}"}, key=f"key {turn}")
    return place


@pytest.fixture
def loose(made: Path, tmp_path: Path) -> Path:
    """Give a copy of it, which nobody has open."""
    return Path(shutil.copytree(made, tmp_path / "history"))


def test_a_compacted_store_is_the_same_and_smaller(loose):
    """Every row of every table is there, the tree too, and the file is smaller; work goes on."""
    with EventStore.open(loose) as store:
        before, head, version = rows_of(store), store.head(), store.version("a")
    size = (loose / "log" / "data.mdb").stat().st_size
    report = {each.name: each for each in compact(loose)}
    assert report["log"].before == size
    assert report["log"].after == (loose / "log" / "data.mdb").stat().st_size < size
    with EventStore.open(loose) as store:
        assert rows_of(store) == before
        assert store.head() == head
        assert verify(store, deep=True).sound
        assert store.append("a", {"role": "user", "content": "turn 7"}, key="key 7").duplicate
        assert store.append("a", {"content": "more"}).version == version + 1
    assert list(loose.glob(f"{UNFINISHED}*")) == []
    assert compact(loose)[0].name == "log"


def test_a_long_stream_is_compacted(tmp_path):
    """More index rows under one key than a page holds: what kills LMDB's own compaction."""
    place = tmp_path / "history"
    with EventStore.open(place, durability="buffered") as store:
        store.create("s")
        for _ in range(400):
            store.append("s", {"content": "x"})
        head = store.head()
    compact(place)
    with EventStore.open(place) as store:
        assert store.head() == head
        assert [each.version for each in store.events("s")] == list(range(401))


def test_views_of_many_revisions_do_not_hinder(loose):
    """Where revisions have left more tables than LMDB opens at once, views begin anew."""
    for number in range(TABLES_MAX // 2):
        with EventStore.open(loose) as store:
            assert _counted(store, number) == store.head().size
    report = {each.name: each for each in compact(loose)}
    assert report["views"].after == 0 < report["log"].after < report["log"].before
    with EventStore.open(loose) as store:
        assert _counted(store, 1) == store.head().size


def _counted(store: EventStore, number: int) -> int:
    """Return how many facts a view of that revision has seen."""

    class Counter(Projection[int]):
        name, revision = "counter", number

        def initial(self) -> int:
            return 0

        def evolve(self, state: int, _: Recorded) -> int:
            return state + 1

    views = Views(store)
    views.register(Counter())
    return views.state("counter")


def test_an_encrypted_store_is_compacted_without_its_keys(tmp_path):
    """Rows are copied sealed as they are."""
    place, keyring = tmp_path / "history", Keyring.file(tmp_path / "keyring")
    with EventStore.open(place, keyring=keyring) as store:
        fill(store)
        head = store.head()
        store.erase("b", reason="asked for", cascade=True)
        head = store.head()
    compact(place)
    with EventStore.open(place, keyring=keyring) as store:
        assert store.head() == head
        assert verify(store, deep=True).sound


def test_who_has_it_open_is_named(loose):
    """A store that is open anywhere, to read or to write, is left as it is."""
    file = loose / "log" / "data.mdb"
    before = file.stat().st_ino
    for read_only in (True, False):
        with (
            EventStore.open(loose, read_only=read_only),
            pytest.raises(StoreLocked, match=f"process {os.getpid()}; close it there"),
        ):
            compact(loose)
    assert file.stat().st_ino == before
    with pytest.raises(StoreUnavailable, match="no event store"):
        compact(loose / "log")


def test_nobody_opens_what_is_being_compacted(loose):
    """The gate stays shut until the new file is in place."""
    with presence.gate(loose), pytest.raises(StoreLocked), presence.gate(loose, 0.01):
        raise AssertionError("two are inside")


def test_damage_is_never_copied(loose):
    """A store with a broken page is refused before any row of it is read."""
    file = loose / "log" / "data.mdb"
    with PageFile(file) as pages:
        root = pages.metas()[0].main.root * pages.page_bytes
    content = bytearray(file.read_bytes())
    content[root + 10] ^= 0xFF
    file.write_bytes(content)
    assert not verify_directory(loose).sound
    with pytest.raises(Corruption, match=r"log/data\.mdb"):
        compact(loose)
    assert file.read_bytes() == content
    assert list(loose.glob(f"{UNFINISHED}*")) == []


# -- killed at any moment --------------------------------------------------------------------

STEPS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.chmod")
"""What Python tells of, and compaction does, between one state of the directory and the next."""


def killed_at(place: Path, moment: int) -> bool:
    """Compact in a forked child that is killed before its n-th step; False if it had fewer."""
    child = os.fork()
    if not child:
        left = moment

        def watch(event: str, args: tuple[object, ...]) -> None:
            nonlocal left
            if event in STEPS and str(place) in str(args[0]):
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        try:
            compact(place)
        except BaseException:  # noqa: BLE001 - the parent sees it by the code
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


def test_killed_at_any_moment_it_leaves_the_old_or_the_new(loose):
    """Before each of its steps a kill leaves a whole store, and the next opening tidies up."""
    place = loose
    with EventStore.open(place) as store:
        before, head = rows_of(store), store.head()
    moment, files = 1, set()
    while killed_at(place, moment):
        with EventStore.open(place) as store:
            assert store.head() == head
            assert rows_of(store) == before
        assert list(place.glob(f"{UNFINISHED}*")) == []
        files.add((place / "log" / "data.mdb").stat().st_ino)
        moment += 1
    assert moment > 5
    assert len(files) > 1, "both the old file and new ones were seen"
    assert verify_directory(place, deep=True).sound


def test_large_rows_do_not_fill_the_memory(tmp_path):
    """What goes into one transaction has a limit in bytes besides that in rows."""
    place = tmp_path / "history"
    with EventStore.open(place, compression="none") as store:
        store.create("s")
        for _ in range(6):
            store.append("s", {"content": os.urandom(1_500_000).hex()})
        head = store.head()
    assert ROWS_MAX > 6
    compact(place)
    with EventStore.open(place) as store:
        assert store.head() == head
        assert verify(store).sound
