"""Cleanup: sessions end when their time is over, in batches, as facts, and it stops cleanly."""

import subprocess
import sys
import threading
import tracemalloc
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import EventStore, InvalidEvent, SessionDeleted
from eventstore.sessions import cleanup as module
from eventstore.sessions.cleanup import Cleanup
from eventstore.sessions.pruning import LRU, KeepCount
from projections import Views

SECOND = 1_000_000_000
HOUR = 3_600 * SECOND


def said(text):
    """Return a message."""
    return {"role": "user", "content": text}


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self):
        self.now = 1_700_000_000 * SECOND

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    """Give a clock that stands still."""
    return Clock()


@pytest.fixture
def house(clock):
    """Give a store in memory that goes by that clock."""
    with EventStore.in_memory(clock=clock) as store:
        yield store


# -- the law -----------------------------------------------------------------------------------

ROWS = st.lists(
    st.tuples(
        st.booleans(),  # pinned
        st.sampled_from([None, 1, 2, 3]),  # ttl, in hours
        st.sampled_from(["active", "active", "closed", "archived", "deleted"]),
        st.integers(0, 3),  # hours after which it was last used
    ),
    max_size=9,
)


@given(
    ROWS,
    st.sampled_from(["delete", "close", "archive"]),
    st.sampled_from([None, 1, 2]),
    st.integers(0, 5),
    st.integers(1, 4),
)
def test_cleanup_equals_a_plain_model(rows, ending, idle_hours, hours, batch):
    """Expired sessions end as told, inactive ones close, all others stay, whatever the batch."""
    clock = Clock()
    start = clock.now
    with EventStore.in_memory(clock=clock) as store:
        ends = {"closed": store.close, "archived": store.archive, "deleted": store.delete}
        expected = {}
        for hour in range(4):
            clock.now = start + hour * HOUR
            for number, (pinned, ttl, status, last) in enumerate(rows):
                if last == hour:
                    name = f"s{number}"
                    store.create(name, metadata={"pinned": pinned}, ttl=ttl and ttl * 3_600)
                    if status in ends:
                        ends[status](name)
                    expires = ttl is not None and hour + ttl <= 3 + hours
                    idle = idle_hours is not None and 3 + hours - hour >= idle_hours
                    expected[name] = after(status, pinned, expires, idle, ending)
        cleanup = Cleanup(
            store,
            Views(store),
            expired=ending,
            inactive_after=idle_hours and idle_hours * 3_600,
            batch=batch,
        )
        clock.now = start + (3 + hours) * HOUR
        plan, size = cleanup.plan(), store.head().size
        outcome = cleanup.run_once()
        assert (outcome.done, outcome.refused) == (plan.steps, [])
        assert store.head().size == size + len(plan.steps)
        assert {name: store.headers.now(name).status for name in store.sessions()} == expected
        listed = sum(status in ("active", "closed") for _, _, status, _ in rows)
        counted = cleanup.statistics
        assert (counted.rounds, counted.sessions, counted.refused) == (1, listed, 0)
        assert counted.expired + counted.inactive == len(plan.steps)
        assert counted.expired == sum(step.why.startswith("expired") for step in plan.steps)
        assert cleanup.run_once().done == []


def after(status, pinned, expires, idle, ending):
    """Return what becomes of a session."""
    if status in ("archived", "deleted") or pinned:
        return status
    ended = {"delete": "deleted", "archive": "archived", "close": "closed"}
    if expires:
        return ended[ending]
    return "closed" if idle else status


# -- rounds ------------------------------------------------------------------------------------


def test_a_session_that_goes_on_is_left_for_the_next_round(house, clock):
    """What is written between looking and ending counts: that session is refused and lives."""
    for name in ("a", "b", "c"):
        house.create(name)
    clock.now += 10 * HOUR

    class Nosy(Views):
        """Views whose caller is overtaken once a page is read."""

        def sessions(self, **options):
            page = super().sessions(**options)
            if page.rows and not house.exists("late"):
                house.create("late")
                house.append("b", said("I am still here"))
            return page

    cleanup = Cleanup(house, Nosy(house), inactive_after=3_600)
    outcome = cleanup.run_once()
    assert [step.session for step in outcome.done] == ["a", "c"]
    assert [each.session for each in outcome.refused] == ["b"]
    assert "expected session 'b' at 0, but it is at version 1" in outcome.refused[0].why
    assert house.headers.now("b").status == "active"
    assert cleanup.statistics.refused == 1
    assert cleanup.statistics.failures == outcome.refused
    assert cleanup.statistics.to_dict()["failures"][0]["session"] == "b"


def test_policies_run_after_the_endings(house, clock):
    """Policies see what is left once expired sessions have ended; their plans count too."""
    house.create("old", ttl=60)
    house.create("new")
    house.append("new", [said("word " * 4)] * 5)
    clock.now += HOUR
    policies = [LRU(max_sessions=1), KeepCount(keep=2)]
    cleanup = Cleanup(house, Views(house), policies=policies, actor="janitor")
    outcome = cleanup.run_once()
    assert [(step.session, step.action) for step in outcome.done] == [
        ("old", "delete"),
        ("new", "prune"),
    ]
    counted = cleanup.statistics
    assert (counted.expired, counted.messages, counted.tokens) == (1, 3, 15)
    assert {fact.actor for fact in house.all(house.head().size - 2)} == {"janitor"}


class Broken:
    """A policy that can't make a plan."""

    def plan(self, *_, **__):
        raise ZeroDivisionError("by zero")


def test_a_policy_that_fails_stops_nobody_else(house):
    """A policy whose plan can't be made is noted by name, and the next one runs."""
    house.create("s")
    house.append("s", [said("word")] * 3)
    outcome = Cleanup(house, Views(house), policies=[Broken(), KeepCount(keep=1)]).run_once()
    assert [(each.action, each.why) for each in outcome.refused] == [("Broken", "by zero")]
    assert [step.session for step in outcome.done] == ["s"]


def test_a_held_session_neither_expires_nor_goes(house, clock):
    """Sessions under legal hold, by themselves or by their user, stay as they are."""
    house.create("own", ttl=60)
    house.create("theirs", ttl=60, user="u")
    house.create("free", ttl=60)
    for name in ("own", "theirs", "free"):
        house.append(name, [said("word")] * 4)
    house.set_hold("own", reason="case 1")
    house.set_hold(user="u", reason="case 2")
    views = Views(house)
    assert [step.session for step in KeepCount(keep=1).plan(house, views).steps] == ["free"]
    clock.now += HOUR
    assert [step.session for step in LRU(max_sessions=0).plan(house, views).steps] == ["free"]
    done = Cleanup(house, views).run_once().done
    assert [(step.session, step.action) for step in done] == [("free", "delete")]
    house.clear_hold("own")
    assert [step.session for step in Cleanup(house, views).run_once().done] == ["own"]


def test_no_more_than_a_batch_is_in_memory(tmp_path):
    """A round over many sessions asks for pages of the batch's size, and holds one at a time."""
    with EventStore.open(tmp_path / "history", durability="buffered", train=False) as store:
        filler = "x" * 4_000
        for number in range(1_000):
            store.create(f"s{number:04}", metadata={"title": filler})
        views, pages = Views(store), []

        class Counting(Views):
            """Views that note the size of each page."""

            def sessions(self, **options):
                page = views.sessions(**options)
                pages.append(len(page))
                return page

        cleanup = Cleanup(store, Counting(store), inactive_after=3_600, batch=50)
        views.sessions(limit=1)
        tracemalloc.start()
        outcome = cleanup.run_once()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert outcome.done == []
        assert pages == [50] * 20
        assert peak < 2_000_000  # all rows together are twice that


# -- in the background -------------------------------------------------------------------------


def test_the_thread_works_and_stops(disk):
    """start() runs rounds until stop(), which returns when the thread is gone; both idempotent."""
    disk.create("s", ttl=0.001)
    cleanup = Cleanup(disk, Views(disk), interval=0.01)
    cleanup.start()
    cleanup.start()
    for recorded in disk.follow("s"):
        if recorded.type == "SessionDeleted":
            break
    assert cleanup.running
    cleanup.stop()
    cleanup.stop()
    assert not cleanup.running
    assert [each for each in threading.enumerate() if each.name == "eventstore-cleanup"] == []
    with pytest.raises(SessionDeleted):
        disk.append("s", said("word"))
    rounds = cleanup.statistics.rounds
    with cleanup:
        assert cleanup.running
    assert cleanup.statistics.rounds >= rounds


def test_stop_does_not_wait_for_the_interval_or_the_rest_of_a_round(disk):
    """A round is left between two sessions; what was ended is ended, the rest goes on."""
    for number in range(20):
        disk.create(f"s{number:02}")
    reached, go_on = threading.Event(), threading.Event()

    class Slow(Views):
        """Views that wait inside the first page."""

        def sessions(self, **options):
            page = super().sessions(**options)
            reached.set()
            go_on.wait(10)
            return page

    cleanup = Cleanup(disk, Slow(disk), inactive_after=1e-9, interval=1e6, batch=1)
    cleanup.start()
    assert reached.wait(10)
    stopper = threading.Thread(target=cleanup.stop)
    stopper.start()
    while not cleanup._halt.is_set():
        continue
    go_on.set()
    stopper.join(10)
    assert not stopper.is_alive() and not cleanup.running
    assert cleanup.statistics.sessions <= 1
    assert sum(disk.headers.now(name).status == "active" for name in disk.sessions()) >= 19


def test_closing_the_store_stops_the_thread(tmp_path):
    """A cleanup that is never stopped ends with its store, and breaks nothing."""
    store = EventStore.open(tmp_path / "history")
    for number in range(50):
        store.create(f"s{number}")
    cleanup = Cleanup(store, Views(store), inactive_after=1e-9, interval=0.001)
    cleanup.start()
    store.close()
    assert not cleanup.running
    with EventStore.open(tmp_path / "history") as again:
        assert len([*again.sessions()]) == 50


def test_the_end_of_the_interpreter_stops_the_thread(tmp_path):
    """A process that just ends, with a cleanup at work, ends with 0 and leaves a sound store."""
    script = f"""
from eventstore import EventStore
from eventstore.sessions.cleanup import Cleanup
from projections import Views
store = EventStore.open({str(tmp_path / "history")!r})
for number in range(100):
    store.create(f"s{{number}}", ttl=0.0001)
Cleanup(store, Views(store), interval=0.001).start()
"""
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    with EventStore.open(tmp_path / "history") as store:
        Cleanup(store, Views(store)).run_once()
        assert {store.headers.now(name).status for name in store.sessions()} == {"deleted"}


def test_a_round_that_breaks_is_noted_and_the_next_one_comes(disk):
    """The thread outlives an error of the store; statistics name the newest failures."""
    disk.create("s")
    clock = count()

    class Flaky(Views):
        """Views that fail twice."""

        def sessions(self, **options):
            if next(clock) < 2:
                raise InvalidEvent("not now")
            return super().sessions(**options)

    cleanup = Cleanup(disk, Flaky(disk), inactive_after=1e-9, interval=0.001)
    cleanup.start()
    for recorded in disk.follow("s"):
        if recorded.type == "SessionClosed":
            break
    cleanup.stop()
    assert cleanup.statistics.broken == 2
    assert [each.why for each in cleanup.statistics.failures] == ["not now"] * 2


def test_the_thread_outlives_whatever_a_policy_raises(disk):
    """A policy that exits or plans nothing breaks its round, not the thread, and is noted."""
    rounds, third = count(), threading.Event()

    class Rude:
        """A policy that exits, then gives no plan, then a good one."""

        def plan(self, store, views, *, now=None):
            round_ = next(rounds)
            if round_ == 0:
                raise SystemExit
            if round_ == 1:
                return None
            third.set()
            return LRU().plan(store, views, now=now)

    with Cleanup(disk, Views(disk), policies=[Rude()], interval=0.001) as cleanup:
        assert third.wait(30) and cleanup.running
    assert cleanup.statistics.broken == 2
    assert [each.why for each in cleanup.statistics.failures] == [
        "SystemExit",
        "'NoneType' object has no attribute 'steps'",
    ]


def test_failures_are_kept_in_bounds(house, monkeypatch):
    """Statistics name the newest failures only, and count all."""
    monkeypatch.setattr(module, "FAILURES_MAX", 3)
    cleanup = Cleanup(house, Views(house), policies=[Broken()] * 5)
    cleanup.run_once()
    assert (cleanup.statistics.refused, len(cleanup.statistics.failures)) == (5, 3)


def test_two_processes_clean_up_one_store(tmp_path):
    """Two cleanups over the same sessions end each once; what both ended counts as repeated."""
    path = tmp_path / "history"
    with EventStore.open(path) as store:
        for number in range(60):
            store.create(f"s{number:02}", ttl=0.0001)
        script = f"""
from eventstore import EventStore
from eventstore.sessions.cleanup import Cleanup
from projections import Views
with EventStore.open({str(path)!r}) as store:
    outcome = Cleanup(store, Views(store), batch=7).run_once()
    print(len(outcome.done) - outcome.repeated, len(outcome.refused))
"""
        other = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        outcome = Cleanup(store, Views(store), batch=7).run_once()
        theirs, refused = map(int, other.communicate(timeout=60)[0].split())
        assert other.returncode == 0
        assert len(outcome.done) - outcome.repeated + theirs == 60
        assert refused == len(outcome.refused) == 0
        assert [store.version(name) for name in store.sessions()] == [1] * 60


@pytest.mark.parametrize(
    "wrong",
    [
        {"expired": "burn"},
        {"inactive_after": 0},
        {"interval": -1},
        {"interval": None},
        {"interval": 1e12},
        {"batch": 0},
        {"batch": 1.5},
    ],
)
def test_wrong_numbers_are_refused(house, wrong):
    """A value out of range is one error that names it and what is allowed."""
    with pytest.raises(InvalidEvent, match=f"{next(iter(wrong))} must be .*not "):
        Cleanup(house, Views(house), **wrong)
