"""The files of a store while it is open: taken away, put back, locked, pinned by the dead."""

import errno
import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from eventstore import EventStore, InvalidEvent, Keyring, StoreFull, StoreLocked, StoreUnavailable
from eventstore.audit.verify import verify_directory
from eventstore.care.backup import restore
from eventstore.care.compacting import compact
from projections import Views

SECONDS_MAX = 30
"""Longer than anything here takes, unless it waits for ever."""

HI = {"role": "user", "content": "hi"}

READS = """
import sys
from eventstore import EventStore
store = EventStore.open(sys.argv[1], read_only=True)
with store.log.env.begin():
    print("reads", flush=True)
    sys.stdin.read()
"""

OPENS = """
import sys
from eventstore import EventStore, EventStoreError
try:
    with EventStore.open(sys.argv[1], train=False) as store:
        print("open", flush=True)
        if sys.stdin.readline():
            store.append("a", {"role": "user", "content": "of another process"})
except EventStoreError as error:
    print(type(error).__name__, flush=True)
"""


@contextmanager
def another(program: str, place: Path):
    """Give another process on a store, once it has said something; it ends with the block."""
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        child.said = child.stdout.readline().strip()
        yield child
        child.stdin.close()


def opened(place: Path, **options) -> EventStore:
    """Return a store with a session."""
    store = EventStore.open(place, train=False, **options)
    store.create("a")
    return store


def look_again(store: EventStore) -> None:
    """Have the store look at its files with its next command, as it does each second."""
    store.log.env._looked_until = 0.0


def test_a_killed_reader_pins_no_pages_of_an_open_store(tmp_path):
    """Whoever writes frees its slot, and needs not to be opened anew for that."""
    with opened(tmp_path / "h") as store:
        with another(READS, tmp_path / "h") as reader:
            assert reader.said == "reads"
            reader.send_signal(signal.SIGKILL)
            reader.wait()
        assert reader.pid in [each.process for each in store.log.env.readers()]
        look_again(store)
        store.append("a", HI)
        assert reader.pid not in [each.process for each in store.log.env.readers()]


@pytest.mark.parametrize("taken", ["h", "h/log", "h/log/data.mdb", "h/log/lock.mdb"])
def test_what_is_written_into_files_that_are_gone_is_refused(tmp_path, taken):
    """A command is refused once it is seen that the store, or its lock file, is not there."""
    with opened(tmp_path / "h") as store:
        store.append("a", HI)
        (tmp_path / taken).rename(tmp_path / "away")
        look_again(store)
        with pytest.raises(StoreUnavailable, match="removed or replaced"):
            store.append("a", HI)
        assert store.version("a") == 1
        (tmp_path / "away").rename(tmp_path / taken)
        assert store.append("a", HI).version == 2


def test_who_is_acknowledged_early_hears_that_nothing_can_begin(tmp_path):
    """No caller waits for a commit that the disk, or what is wrong with the files, rules out."""
    store, told = opened(tmp_path / "h", durability="buffered"), []
    store.flush()
    (tmp_path / "h").rename(tmp_path / "away")
    look_again(store)

    def append() -> None:
        with pytest.raises(StoreUnavailable, match="removed or replaced"):
            store.append("a", HI)
        told.append("refused")

    caller = threading.Thread(target=append, daemon=True)
    caller.start()
    caller.join(SECONDS_MAX)
    assert told == ["refused"]
    (tmp_path / "away").rename(tmp_path / "h")
    assert store.append("a", HI).version == 1
    store.close()


def test_keys_are_not_made_in_a_keyring_that_was_replaced(tmp_path):
    """A command that needs a new key is refused: the key would be gone with the keyring's files."""
    keyring = Keyring.file(tmp_path / "k")
    with opened(tmp_path / "h", keyring=keyring) as store:
        shutil.copytree(keyring.directory, tmp_path / "copy")
        shutil.rmtree(keyring.directory)
        (tmp_path / "copy").rename(keyring.directory)
        store.log.codec.seal.opened()._env._looked_until = 0.0
        with pytest.raises(StoreUnavailable, match="removed or replaced"):
            [store.create() for _ in range(1_000)]


def test_caches_may_be_taken_from_an_open_store(tmp_path):
    """Snapshots and views may be deleted at any time: commands and queries go on."""
    with opened(tmp_path / "h") as store, Views(store) as views:
        views.sessions()
        for each in ("snapshots", "views"):
            shutil.rmtree(tmp_path / "h" / each)
        for environment in (views._shelf._env, store.headers._snapshots._env):
            environment._looked_until = 0.0
        for _ in range(70):
            store.append("a", HI)
        assert store.headers.now("a").version == 70
        assert views.sessions().rows[0].messages == 70


def test_views_say_that_their_store_is_gone(tmp_path):
    """Views of a store whose directory is gone are StoreUnavailable, and name themselves."""
    with opened(tmp_path / "h") as store:
        (tmp_path / "h").rename(tmp_path / "away")
        with pytest.raises(StoreUnavailable, match="views"):
            Views(store)
        (tmp_path / "away").rename(tmp_path / "h")


def test_nobody_opens_a_store_whose_lock_file_was_taken_from_writers(tmp_path):
    """Two would write at the same time. Once they have closed it, it is made anew."""
    store = opened(tmp_path / "h")
    (tmp_path / "h/log/lock.mdb").unlink()
    with another(OPENS, tmp_path / "h") as other:
        assert other.said == "StoreLocked"
    with pytest.raises(StoreLocked, match="was removed"):
        EventStore.open(tmp_path / "h")
    store.close()
    with another(OPENS, tmp_path / "h") as other:
        assert other.said == "open"


@pytest.mark.parametrize("look", [verify_directory, lambda place: restore(place, f"{place}-2")])
def test_who_looks_at_a_store_that_it_has_open_keeps_its_locks(tmp_path, look):
    """Its slot as a reader stays its own, so that nobody else writes over what it reads."""
    with opened(tmp_path / "h") as store:
        store.append("a", HI)
        look(tmp_path / "h")
        with store.log.env.begin(), another(OPENS, tmp_path / "h") as other:
            assert other.said == "open"
            [mine] = [each for each in store.log.env.readers() if each.process == os.getpid()]
            assert mine.commit is not None
        with another(OPENS, tmp_path / "h") as other:
            other.stdin.write("\n")
        assert store.append("a", HI).version == 3
    assert not verify_directory(tmp_path / "h").findings


def test_a_volume_without_locks_is_one_clear_error(tmp_path, monkeypatch):
    """A volume without locks, as NFS may be, is StoreUnavailable, and not an OSError."""
    keyring = Keyring.file(tmp_path / "k")
    opened(tmp_path / "h", keyring=keyring).close()

    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refused)
    for opening in (
        lambda: EventStore.open(tmp_path / "h", keyring=keyring),
        lambda: EventStore.open(tmp_path / "h", read_only=True),
        lambda: EventStore.open(tmp_path / "new"),
        lambda: compact(tmp_path / "h"),
        lambda: keyring.unlock("any"),
    ):
        with pytest.raises(StoreUnavailable, match="No locks available"):
            opening()


def files_open(place: Path) -> list[str]:
    """Return the files below a directory that this process has open."""
    names = [each.readlink() for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    return [str(each) for each in names if each.is_relative_to(place)]


@pytest.mark.parametrize("options", [{"max_depth": -1}, {"actor": "x" * 256}])
def test_an_opening_that_is_refused_leaves_no_file_open(tmp_path, options):
    """A store that is refused as it opens closes whatever it had opened by then."""
    opened(tmp_path / "h").close()
    with pytest.raises(InvalidEvent):
        EventStore.open(tmp_path / "h", **options)
    assert files_open(tmp_path) == []


@pytest.mark.parametrize(
    "where",
    [
        "eventstore.place.presence.sync_directory",
        "eventstore.log.environment.Environment.used_bytes",
        "eventstore.place.presence.forget_dead",
        "eventstore.store.process_actor",
    ],
)
def test_an_opening_that_is_interrupted_leaves_no_file_open(tmp_path, monkeypatch, where):
    """Ctrl-C as it waits for the disk leaves no mark and no LMDB open, even while it is shown."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    opened(tmp_path / "h").close()
    with monkeypatch.context() as patched:
        patched.setattr(where, interrupted)
        with pytest.raises(KeyboardInterrupt) as shown:
            EventStore.open(tmp_path / "h", train=False)
    assert files_open(tmp_path) == []
    compact(tmp_path / "h")
    with EventStore.open(tmp_path / "h", train=False) as store:
        store.append("a", HI)
    assert shown.type is KeyboardInterrupt


def test_a_compaction_without_room_leaves_no_file_open(tmp_path):
    """The store can be opened for writing after it, in the same process."""
    opened(tmp_path / "h").close()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(StoreFull):
            compact(tmp_path / "h")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files_open(tmp_path) == []
    with EventStore.open(tmp_path / "h", train=False) as store:
        store.append("a", HI)
