"""Opening: what is checked before a store's files are touched, and who else has them open."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from filled import LINE, fill, works

from eventstore import (
    Corruption,
    EventStore,
    Keyring,
    StoreLocked,
    StoreUnavailable,
)
from eventstore.audit.pages import PageFile
from eventstore.audit.verify import verify
from eventstore.log.environment import open_environment
from eventstore.place import presence, volume

SECONDS_MAX = 30
HANDLES = Path("/proc/self/fd")


def dies(act: Callable[[], object]) -> None:
    """Run `act` in a forked child that is killed right after it."""
    child = os.fork()
    if not child:
        try:
            act()
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def marks(place: Path) -> list[str]:
    """Return the names of those that have, or had, a store open."""
    return sorted(each.name for each in (place / presence.OPEN).iterdir())


def spoil(file: Path) -> None:
    """Zero a page that a tree leads to, which LMDB would follow blindly."""
    with PageFile(file) as opened:
        page, size = opened.metas()[0].main.root, opened.page_bytes
    content = bytearray(file.read_bytes())
    content[page * size : (page + 1) * size] = bytes(size)
    file.write_bytes(content)


# -- unclean stops ---------------------------------------------------------------------------


def test_after_a_writer_died_all_pages_are_walked(tmp_path):
    """Damage that LMDB would follow blindly is found before it, named, and repair is advised."""
    place = tmp_path / "h"
    fill(place).close()
    dies(lambda: fill(place))
    assert len(marks(place)) == 1
    spoil(place / "log" / "data.mdb")
    for read_only in (True, False):
        with pytest.raises(Corruption, match=r"log/data.mdb.*did not close it.*eventstore repair"):
            EventStore.open(place, read_only=read_only)
    assert len(marks(place)) == 1, "the next one must look as closely"


def test_an_unclean_stop_of_sound_files_is_passed_once(tmp_path):
    """What the dead writer acknowledged is there; its mark goes, so that nobody walks again."""
    place = tmp_path / "h"
    dies(lambda: fill(place, 7))
    with EventStore.open(place) as store:
        assert store.version("s") == 7
        assert len(marks(place)) == 1 and marks(place)[0].startswith(f"{os.getpid()}-")
    assert marks(place) == []


def test_damaged_caches_are_made_anew(tmp_path):
    """A reader leaves damaged snapshots to the next writer, who throws them away."""
    place = tmp_path / "h"
    with fill(place, 200) as store:
        before = store.headers.now("s")
    dies(lambda: fill(place, 1))
    (cache,) = place.glob("snapshots*/data.mdb")
    spoil(cache)
    with EventStore.open(place, read_only=True) as store:
        assert store.version("s") == 201
    assert cache.exists() and len(marks(place)) == 1
    with EventStore.open(place) as store:
        assert store.version("s") == 201
        assert store.headers.at("s", 200) == before
        assert verify(store, deep=True).sound


REFUSED: list[Callable[[EventStore], object]] = [
    lambda store: store.create("t"),
    lambda store: store.append("s", {"content": "more"}),
    lambda store: store.branch("s", "t"),
    lambda store: store.prune("s", keep_last=0),
    lambda store: store.redact("s", 1),
    lambda store: store.set_hold("s"),
    lambda store: store.extend_ttl("s", 5),
]


@pytest.mark.parametrize("command", REFUSED)
def test_a_store_open_read_only_says_so_to_every_command(tmp_path, command):
    """Whether a command reads state or not, it is refused in the same words, and writes nothing."""
    fill(tmp_path / "h", 2).close()
    with EventStore.open(tmp_path / "h", read_only=True) as store:
        before = store.head()
        with pytest.raises(StoreUnavailable, match=r"^the store is open read-only$"):
            command(store)
        assert store.head() == before


def test_a_process_that_ends_without_close_stops_cleanly(tmp_path):
    """An ordinary end of the interpreter takes the mark away, close() or not."""
    code = f"""
from eventstore import EventStore
store = EventStore.open({str(tmp_path / "h")!r})
store.create("s")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=SECONDS_MAX)
    assert marks(tmp_path / "h") == []


def test_a_forked_child_is_nobody_who_has_it_open(tmp_path):
    """A child that outlives its killed parent does not pass for the writer that died."""
    place = tmp_path / "h"
    hears, says = os.pipe()
    begun, begin = os.pipe()

    def fork_and_die() -> None:
        fill(place)
        if not os.fork():
            os.write(begin, b".")
            os.close(says)
            os.read(hears, 1)  # until the test is over
            os._exit(0)
        os.read(begun, 1)

    dies(fork_and_die)
    present = presence.look(place)
    for handle in (hears, says, begun, begin):
        os.close(handle)
    assert present.alive == [] and present.stopped_uncleanly


# -- the gate --------------------------------------------------------------------------------


def test_an_opening_waits_at_the_gate(tmp_path):
    """Nobody opens a store while another checks it; who waits too long is told so."""
    place = tmp_path / "h"
    fill(place).close()
    opened = threading.Event()

    def wait() -> None:
        EventStore.open(place).close()
        opened.set()

    waiting = threading.Thread(target=wait)
    with presence.gate(place):
        waiting.start()
        with pytest.raises(StoreLocked, match="wait until it is done"), presence.gate(place, 0.05):
            raise AssertionError("two are inside")
        assert not opened.is_set()
    waiting.join(SECONDS_MAX)
    assert opened.is_set()


def test_nobody_writes_behind_a_mark_that_another_has_locked(tmp_path, monkeypatch):
    """Without the lock of its own mark a store is not opened: who has it open would seem dead."""
    place, lock = tmp_path / "h", presence.try_lock
    fill(place).close()

    def late(handle: int, path: Path) -> bool:
        if path.parent.name != presence.OPEN:
            return lock(handle, path)
        with path.open() as other:
            return lock(other.fileno(), path) and lock(handle, path)

    monkeypatch.setattr(presence, "try_lock", late)
    with pytest.raises(StoreLocked, match="locked by another"):
        EventStore.open(place)
    monkeypatch.undo()
    assert marks(place) == []
    with EventStore.open(place) as store:
        assert store.version("s") == 5


def test_a_reader_needs_no_place_to_write(tmp_path):
    """A store below a read-only directory is read without a mark, and so is one of before marks."""
    place = tmp_path / "h"
    fill(place).close()
    shutil.rmtree(place / presence.OPEN)
    (place / presence.OPEN).write_text("no directory")
    with EventStore.open(place, read_only=True) as store:
        assert store.version("s") == 5
    with pytest.raises(StoreUnavailable, match="open can't be written"):
        EventStore.open(place)


# -- two on one path -------------------------------------------------------------------------


def test_one_path_has_one_environment(tmp_path):
    """Two stores opened on one directory, one through a link, share LMDB's environment."""
    place = tmp_path / "h"
    (tmp_path / "link").symlink_to(place)
    with fill(place) as one, EventStore.open(tmp_path / "link") as other:
        assert one.log.env is other.log.env
        for number in range(10):
            (one, other)[number % 2].append("s", LINE)
        assert one.version("s") == other.version("s") == 15
        one.close()
        other.append("s", LINE)
        assert verify(other).sound
    assert marks(place) == []


def handles() -> int:
    """Return how many files this process has open."""
    return len([*HANDLES.iterdir()])


def free_handles(count: int) -> list[int]:
    """Return the numbers that the next files to be opened get."""
    taken = {int(each.name) for each in HANDLES.iterdir()}
    return [each for each in range(max(taken) + count + 1) if each not in taken][:count]


@pytest.mark.skipif(not HANDLES.is_dir(), reason="open files can't be counted here")
def test_a_closed_store_has_no_file_open(tmp_path):
    """close() gives all files back at once, also while the store is still referred to."""
    place = tmp_path / "h"
    fill(place).close()
    before = handles()
    closed = [EventStore.open(place) for _ in range(3)]
    for store in closed:
        store.close()
    again = EventStore.open(place)
    again.close()
    assert handles() == before


@pytest.mark.skipif(not HANDLES.is_dir(), reason="open files can't be counted here")
def test_too_many_open_files_are_one_clear_error(tmp_path):
    """Wherever on its way an environment finds no handle left, it gives back those that it has."""
    place = tmp_path / "h"
    fill(place).close()
    before, (soft, hard) = handles(), resource.getrlimit(resource.RLIMIT_NOFILE)
    refused = 0
    for limit in free_handles(8):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        try:
            open_environment(place / "log").close()
        except StoreUnavailable:
            refused += 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert refused
    assert handles() == before


def test_a_reader_in_the_way_of_a_writer_is_named(tmp_path):
    """LMDB can't open one path in two ways; the error says what to close."""
    place = tmp_path / "h"
    fill(place).close()
    with EventStore.open(place, read_only=True):
        with pytest.raises(StoreLocked, match="read-only in this process; close that first"):
            EventStore.open(place)
        assert len(marks(place)) == 1, "the one that was refused left no mark"
    EventStore.open(place).close()


def test_slots_of_dead_readers_are_freed(tmp_path):
    """A reader that died in a transaction would pin pages for ever: the next opening frees it."""
    place = tmp_path / "h"
    fill(place).close()

    def read() -> None:
        EventStore.open(place, read_only=True).log.env.begin().__enter__()

    dies(read)
    reader = EventStore.open(place, read_only=True)
    assert len(reader.log.env.readers()) == 1
    reader.close()
    with EventStore.open(place) as store:
        assert {each.process for each in store.log.env.readers()} == {os.getpid()}


GROWER = """
import sys
from eventstore import EventStore
with EventStore.open(sys.argv[1], map_size=int(sys.argv[2])) as store:
    print("open", flush=True)
    for line in sys.stdin:
        for _ in range(int(line)):
            store.append("s", {"role": "tool", "content": "x" * 60_000}, actor=sys.argv[2])
        print(store.version("s"), flush=True)
"""


def test_maps_of_two_sizes_take_turns(tmp_path):
    """What one process writes beyond another's map is read there, and gone on from, in turns."""
    place = tmp_path / "h"
    with EventStore.open(place, compression="none") as store:
        store.create("s")
    children = [
        subprocess.Popen(
            [sys.executable, "-c", GROWER, str(place), str(size << 20)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for size in (4, 64)
    ]
    for child in children:
        assert child.stdout.readline() == "open\n"
    for child in (children[1], children[0]) * 2:
        child.stdin.write("40\n")  # 2.4 MB at a time, by turns and then at once
        child.stdin.flush()
        assert child.stdout.readline().strip().isdigit()
    for child in children:
        child.stdin.write("30\n")
        child.stdin.flush()
    for child in children:
        child.communicate(timeout=SECONDS_MAX)
        assert child.returncode == 0
    with EventStore.open(place) as store:
        assert store.version("s") == 220
        assert verify(store).sound


# -- other systems ---------------------------------------------------------------------------


def test_a_system_without_the_calls_of_linux_has_the_same_store(tmp_path, monkeypatch):
    """Where files can't be given blocks, and nothing tells what is mounted, all else works."""
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(volume, "MOUNTS", tmp_path / "no such file")
    place, keyring = tmp_path / "h", Keyring.file(tmp_path / "keyring")
    with EventStore.open(place, keyring=keyring) as store:
        store.create("s")
        store.append("s", LINE)
        assert verify(store, deep=True).sound
    with EventStore.open(place, keyring=keyring, read_only=True) as store:
        assert store.version("s") == 1


# -- containers ------------------------------------------------------------------------------

HOLDER = """
import os, sys
from eventstore import EventStore, StoreLocked
try:
    with EventStore.open(sys.argv[1]) as store:
        print("open", os.getpid(), flush=True)
        sys.stdin.read()
except StoreLocked as error:
    print(error, flush=True)
"""


def test_two_containers_with_one_number_are_kept_apart(tmp_path):
    """LMDB tells readers apart by process number: a second one of the same number is refused."""
    command = ["unshare", "--pid", "--fork", sys.executable, "-c", HOLDER, str(tmp_path / "h")]
    if not works(["unshare", "--pid", "--fork", "true"]):
        pytest.skip("a PID namespace can't be made here: needs root and util-linux")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as first:
        assert first.stdout.readline() == "open 1\n"
        second = subprocess.run(command, input="", capture_output=True, text=True, check=True)
        assert "open in another container, by a process that has the number 1" in second.stdout
        with EventStore.open(tmp_path / "h") as store:  # another number is no trouble
            store.create("s")
        first.communicate("", timeout=SECONDS_MAX)


# -- clocks ----------------------------------------------------------------------------------


def test_a_clock_that_jumps_never_takes_time_back(tmp_path):
    """Whatever the clock says, recorded_at never decreases, also across openings."""
    hour = 3_600 * 10**9
    jumps = [10**18, 10**18 + hour, 10**18 - hour, 0, 10**18 + 2 * hour, 5, 10**18 + hour]
    said = iter([jump for jump in jumps for _ in range(8)] * 4)
    for opening in range(3):
        with EventStore.open(tmp_path / "h", clock=lambda: next(said)) as store:
            if not opening:
                store.create("s")
            for _ in range(12):
                store.append("s", LINE)
    with EventStore.open(tmp_path / "h", read_only=True) as store:
        times = [each.recorded_at for each in store.all()]
        assert times == sorted(times) and times[-1] == 10**18 + 2 * hour
        assert store.position_at(10**18 + hour) == times.index(10**18 + 2 * hour) - 1
        assert verify(store).sound


def test_an_environment_lists_its_readers(tmp_path):
    """Each reader has its process and the commit it holds on to; who reads nothing has none."""
    place = tmp_path / "h"
    with fill(place) as store:
        environment = open_environment(place / "log")
        before = environment.newest_commit()
        with environment.begin():
            store.append("s", LINE)
            (reader,) = [each for each in environment.readers() if each.commit is not None]
            assert (reader.process, reader.commit) == (os.getpid(), before)
            assert environment.newest_commit() == before + 1
        environment.close()
