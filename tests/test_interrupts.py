"""Wherever an interrupt falls, the store goes on: Ctrl-C, alarms and time limits of tests."""

import signal
import subprocess
import sys
import threading
import time
from _thread import interrupt_main
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import EBADF
from itertools import count
from pathlib import Path
from random import Random

import pytest

from eventstore import EventStore, Keyring, StoreUnavailable
from eventstore.audit.verify import verify
from eventstore.engine.room import Room
from eventstore.engine.subscription import Signal
from projections import Views

SECONDS_MAX = 30
"""Longer than anything here takes, unless it waits for ever."""

pytestmark = pytest.mark.filterwarnings(
    # An interrupt that falls into a finalizer, or before an iterator of a directory is closed.
    "ignore::pytest.PytestUnraisableExceptionWarning"
)

MODES = ["sync", "buffered", "encrypted"]

OTHER = """
import sys
from eventstore import EventStore, Keyring
path, keys = sys.argv[1:]
keyring = Keyring.file(keys) if keys else None
with EventStore.open(path, train=False, keyring=keyring) as store:
    for line in sys.stdin:
        store.append("b", {"role": "user", "content": "of another process"})
        print("done", flush=True)
"""


class Interrupt(BaseException):
    """What the signal handlers here raise."""


class Checkpoints:
    """Interrupts a command at each place where CPython hands out signals, one after the other.

    A signal is pending all the time: its handler raises the next one, by a call that C makes so
    that the handler itself is not interrupted, until it has seen enough places.
    """

    def __init__(self, command: Callable[[], object]) -> None:
        self._command = command
        self._left, self._live = 0, False

    def _handle(self, *_: object) -> None:
        if self._live:
            self._left -= 1
            if self._left < 0:
                self._live = False
                raise Interrupt
            [*map(interrupt_main, (signal.SIGUSR1,))]

    def count(self) -> int:
        """Run the command and return how many places it has."""
        with pytest.raises(IndexError):
            self.interrupt(sys.maxsize)
        return sys.maxsize - self._left

    def interrupt(self, place: int) -> Interrupt | None:
        """Run the command and interrupt it there; returns the interrupt, None if it swallowed it.

        Raises IndexError where the command has no such place.
        """
        before = signal.signal(signal.SIGUSR1, self._handle)
        self._left, self._live = place, True
        try:
            [*map(interrupt_main, (signal.SIGUSR1,))]
            self._command()
        except Interrupt as interrupt:
            return interrupt
        finally:
            self._live = False
            signal.signal(signal.SIGUSR1, before)
        if self._left >= 0:
            raise IndexError(place)
        return None


class Story:
    """A store, its commands, and another process that appends when it is asked."""

    def __init__(self, path: Path, mode: str) -> None:
        keys = str(path / "keys") if mode == "encrypted" else ""
        self.store = EventStore.open(
            path / "h",
            train=False,
            durability="buffered" if mode == "buffered" else "sync",
            keyring=Keyring.file(keys) if keys else None,
        )
        self._numbers = count()
        for session in ("a", "b"):
            self.store.create(session)
        self._other = subprocess.Popen(
            [sys.executable, "-c", OTHER, str(path / "h"), keys],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def append(self) -> None:
        """Append to a session."""
        self.store.append("a", {"role": "user", "content": "x"})

    def prune(self) -> None:
        """Make a session and prune it."""
        session = f"pruned{next(self._numbers)}"
        self.store.create(session)
        self.store.append(session, [{"role": "user", "content": "x"}] * 3)
        self.store.prune(session, keep_last=2)

    def branch(self) -> None:
        """Branch a session."""
        self.store.branch("a", f"branch{next(self._numbers)}")

    def erase(self) -> None:
        """Make a session and erase it; a store that can't do that redacts a message."""
        session = f"erased{next(self._numbers)}"
        self.store.create(session)
        self.store.append(session, {"role": "user", "content": "x"})
        if self.store.encrypted:
            self.store.erase(session, reason="asked for")
        else:
            self.store.redact(session, 1, reason="asked for")

    def read(self) -> None:
        """Read state and facts."""
        self.store.extend_ttl("a", 1_000_000)
        assert self.store.headers.now("a").version > len(list(self.store.events("a", limit=3))) - 2

    def check_others(self) -> None:
        """See that another thread, this one and another process can write."""
        self.check_threads()
        assert self._other.stdin and self._other.stdout
        answer: list[str] = []
        self._other.stdin.write("\n")
        self._other.stdin.flush()
        in_time(lambda: answer.append(self._other.stdout.readline()))
        assert answer == ["done\n"]

    def check_threads(self) -> None:
        """See that another thread and this one can write."""
        in_time(lambda: self.store.append("b", {"role": "user", "content": "of a thread"}))
        self.store.append("b", {"role": "user", "content": "of this thread"})
        self.store.flush()

    def check_whole(self) -> None:
        """See that all is whole and given back, and that others can write."""
        self.check_others()
        writer = self.store.engine.writer
        assert writer._room._weight == 0 and not writer._room._inside
        assert verify(self.store).findings == []

    def close(self) -> None:
        """See that all is whole; end the other process."""
        self.check_whole()
        self._other.communicate(timeout=SECONDS_MAX)
        in_time(self.store.close)


def in_time(work: Callable[[], object]) -> None:
    """Run `work` in a thread and see that it ends."""
    done = threading.Event()

    def run() -> None:
        work()
        done.set()

    threading.Thread(target=run, daemon=True).start()
    assert done.wait(SECONDS_MAX)


@contextmanager
def story(path: Path, mode: str) -> Iterator[Story]:
    """Open a story, and kill its other process where it was not closed."""
    made = Story(path, mode)
    try:
        yield made
        made.close()
    finally:
        made._other.kill()
        made._other.wait()


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """Give a story of a mode that goes on from test to test."""
    with story(tmp_path_factory.mktemp("shared"), request.param) as made:
        yield made


def interrupt_everywhere(story: Story, name: str, places_max: int) -> int:
    """Interrupt a command at so many of its places, and return how many it has."""
    command = getattr(story, name)
    command()
    points, kept = Checkpoints(command), []
    places = points.count()
    step = -(-places // places_max)
    for place in range(Random(name).randrange(step), places, step):
        with suppress(IndexError):
            kept.append(points.interrupt(place))  # and so its traceback, as a notebook does
        story.check_threads()
        if len(kept) % 20 == 0:
            story.check_others()
            kept.clear()
    return places


@pytest.mark.parametrize("name", ["append", "prune", "branch", "erase", "read"])
@pytest.mark.parametrize("shared", MODES, indirect=True)
def test_a_command_may_be_interrupted_anywhere(shared, name):
    """After an interrupt at a place that CPython allows, threads and processes go on writing."""
    assert interrupt_everywhere(shared, name, 10) > 100
    shared.check_whole()


@pytest.mark.long
@pytest.mark.parametrize("name", ["append", "prune", "branch", "erase", "read"])
@pytest.mark.parametrize("mode", MODES)
def test_a_command_may_be_interrupted_at_each_place(tmp_path, mode, name):
    """After an interrupt at any place that CPython allows, threads and processes go on writing."""
    with story(tmp_path, mode) as made:
        assert interrupt_everywhere(made, name, sys.maxsize) > 100


@pytest.mark.parametrize("shared", MODES, indirect=True)
def test_a_view_may_be_interrupted_anywhere(shared):
    """After an interrupt of a query views go on, those of other threads and processes too."""
    with Views(shared.store) as views:

        def query() -> None:
            shared.append()
            views.statistics()

        query()
        points = Checkpoints(query)
        for place in range(0, points.count(), 90):
            with suppress(IndexError):
                kept = points.interrupt(place)
            with Views(shared.store) as others:
                in_time(others.statistics)
        assert kept is not None and place > 300
    shared.check_whole()


def alarms(work: Callable[[], object], seconds: float) -> int:
    """Do `work` over and over, interrupted by real signals at moments of chance."""

    def interrupt(*_: object) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    end, chance, hits = time.monotonic() + seconds, Random(1), 0
    try:
        while time.monotonic() < end:
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.random() * 0.002 + 1e-6)
                work()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupt:
                hits += 1
            except OSError as error:  # shutil.rmtree() closes twice what an interrupt saw closed
                if error.errno != EBADF or not isinstance(error.__context__, Interrupt):
                    raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return hits


def interrupt_in_a_crowd(path: Path, mode: str, seconds: float) -> None:
    """Interrupt commands of the main thread while other threads write, and end the story."""
    with story(path, mode) as made:
        stopped = threading.Event()
        said = [0] * 3

        def write(index: int) -> None:
            while not stopped.is_set():
                made.store.append("b", {"role": "user", "content": "of a thread"})
                said[index] += 1

        threads = [threading.Thread(target=write, args=(each,), daemon=True) for each in range(3)]
        for thread in threads:
            thread.start()
        chance = Random(0)
        commands = [made.append, made.prune, made.branch, made.erase]

        def command() -> None:
            commands[chance.randrange(4)]()

        try:
            assert alarms(command, seconds) > 10
            before = list(said)
            made.check_others()
            in_time(lambda: until(lambda: all(a < b for a, b in zip(before, said, strict=True))))
        finally:
            stopped.set()
        for thread in threads:
            thread.join(SECONDS_MAX)
            assert not thread.is_alive()
        kept = [e for e in made.store.events("b") if e.type == "MessageAppended"]
        assert len(kept) >= sum(said)


def until(done: Callable[[], bool]) -> None:
    """Return once something is so."""
    while not done():
        time.sleep(0.001)


@pytest.mark.parametrize("mode", MODES)
def test_alarms_in_a_crowd(tmp_path, mode):
    """Real signals in the main thread hold up no other one, and what it acknowledged is there."""
    interrupt_in_a_crowd(tmp_path, mode, 0.3)


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
def test_many_alarms_in_a_crowd(tmp_path, mode):
    """A minute of real signals in the main thread holds up no other one."""
    interrupt_in_a_crowd(tmp_path, mode, 60)


def test_a_wait_for_room_that_is_interrupted_leaves_no_trace():
    """Who is interrupted while it waits for room, at any place, takes none of it away."""

    def enter(room: Room) -> None:
        room.enter("other", 50)
        room.leave(["other"])

    for place in count():
        room = Room(100)
        room.enter("first", 90 if place % 2 else 10)
        if place % 2:  # it has to wait, until an alarm or until there is room
            threading.Timer(0.01, room.leave, [["first"]]).start()
        try:
            Checkpoints(lambda room=room: enter(room)).interrupt(place // 2)
        except IndexError:
            assert place > 20
            break
        room.leave(["first", "other"])
        in_time(lambda room=room: room.enter("all", 100))
        assert (room._weight, room._inside, room._waiting) == (100, {"all": 100}, {})


def test_an_alarm_ends_a_wait_for_room():
    """A signal that comes while a thread waits for room ends the wait; others get that room."""
    room = Room(100)
    room.enter("first", 90)
    before = signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(Interrupt))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Interrupt):
            room.enter("other", 50)
    finally:
        signal.signal(signal.SIGALRM, before)
    room.leave(["first"])
    in_time(lambda: room.enter("next", 60))
    assert room._weight == 60


def test_a_handler_that_writes_inside_of_a_commit_is_told_so(tmp_path):
    """What a signal handler can't write, since its own thread is writing, is one clear error."""
    with EventStore.open(tmp_path / "h", train=False) as store:
        store.create("a")
        with store.engine.writer.exclusive():
            with pytest.raises(StoreUnavailable, match="signal handler"):
                store.append("a", {"content": "x"})
            with pytest.raises(StoreUnavailable, match="signal handler"):
                store.update_metadata("a", {"k": 1})
        in_time(lambda: store.append("a", {"content": "x"}))


def test_an_interrupt_takes_nothing_apart_in_memory():
    """Wherever it falls, a store in memory has all of a command's facts or none."""
    store = EventStore.in_memory()
    store.create("a")
    log, numbers = store.log, count()

    def append() -> None:
        name = str(next(numbers))
        store.create(name, key=name, messages=[{"role": "user", "content": "x"}] * 2)

    checkpoints = Checkpoints(append)
    for place in range(checkpoints.count()):
        with suppress(IndexError):
            checkpoints.interrupt(place)
        rows = [row.position for rows in log._streams.values() for row in rows]
        assert sorted(rows) == log._lasts
        assert len(log._frames) == len(rows)
        assert log.frontier.size == log._lasts[-1] + 1
        assert len(log._keys) == len(log._streams) - 1
    assert verify(store).sound


def test_who_waits_for_news_may_be_interrupted():
    """Wherever that is, it is the interrupt that comes out, and no commit rings for it any more."""
    for place in count():
        signals = Signal()
        checkpoints = Checkpoints(lambda signals=signals: signals.wait(0.001))
        try:
            assert checkpoints.interrupt(place)
        except IndexError:
            return
        assert not signals._bells
