"""The cache of headers: never stale, never too large, and exact about what it did."""

import multiprocessing
from types import SimpleNamespace

import pytest
from driver import STEPS, Driver
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore import EventStore, EventStoreError, InvalidEvent
from eventstore.sessions import SessionManager, Settings
from eventstore.sessions.cache import HEADER_BYTES_MAX, HeaderCache
from eventstore.sessions.session import SessionReader
from projections import SessionState

NAMES = ("name", "version", "status", "user", "metadata", "context", "messages", "tokens")


def plain(store, session):
    """Return what a fold without any cache says of a session, or the error it raises."""
    try:
        header = SessionState.of(store, session).header
    except EventStoreError as error:
        return repr(error)
    return [header.session, *(getattr(header, field) for field in NAMES[1:])]


def cached(reader, session):
    """Return the same as plain() through a reader's cache."""
    try:
        found = reader.get(session)
    except EventStoreError as error:
        return repr(error)
    return [getattr(found, field) for field in NAMES]


# -- equal to uncached reads -----------------------------------------------------------------


@given(STEPS, st.sampled_from([0, 1, 2, 1_000]), st.sampled_from([300, 5_000]))
def test_a_cached_read_equals_an_uncached_one(steps, entries, size):
    """After every command, whatever the cache's limits, each session reads as it folds, twice."""
    with EventStore.in_memory() as store:
        driver, reader = Driver(store), SessionReader(store, HeaderCache(entries, size))
        for step in steps:
            driver.run(step)
            for session in driver.sessions * 2:
                assert cached(reader, session) == plain(store, session)


def other_process(pipe) -> None:
    """Run steps on the stores that the parent names, and say which sessions there are."""
    store = None
    while (order := pipe.recv()) is not None:
        if isinstance(order, str):
            if store is not None:
                store.close()
            store = EventStore.open(order)
            driver = Driver(store)
        else:
            driver.sessions, step = order
            driver.run(step)
        pipe.send(driver.sessions)
    store.close()


@pytest.fixture(scope="module")
def neighbour():
    """Give a pipe to a second process that writes when it is told to."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=other_process, args=(theirs,))
    process.start()
    theirs.close()
    yield ours
    ours.send(None)
    process.join(30)
    assert process.exitcode == 0


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS, st.lists(st.booleans(), min_size=1))
def test_another_process_can_t_make_it_stale(neighbour, tmp_path_factory, steps, theirs):
    """Whichever of two processes writes, a cached read equals an uncached one right away."""
    path = str(tmp_path_factory.mktemp("shared") / "history")
    with EventStore.open(path) as store:
        neighbour.send(path)
        neighbour.recv()
        driver, reader = Driver(store), SessionReader(store, HeaderCache(100, 100_000))
        for number, step in enumerate(steps):
            if theirs[number % len(theirs)]:
                neighbour.send((driver.sessions, step))
                driver.sessions = neighbour.recv()
            else:
                driver.run(step)
            for session in driver.sessions:
                assert cached(reader, session) == plain(store, session)


def test_a_raised_erasure_count_makes_all_entries_void():
    """An entry of an earlier erasure count is never returned, though its version is right."""
    cache = HeaderCache(10, 1_000)
    cache.put("s", 3, 0, b"header")
    assert cache.get("s", 3, 0) == b"header"
    assert cache.get("s", 3, 1) is None
    assert cache.get("s", 3, 0) is None  # it is gone for good
    assert cache.statistics().stale == 1


def test_what_a_reader_does_to_a_session_stays_with_it():
    """A session that was read is the reader's own: changing it changes no later read."""
    with SessionManager(EventStore.in_memory()) as manager:
        manager.create("s", metadata={"a": {"b": 1}})
        for _ in range(3):
            found = manager.get("s")
            assert found.metadata == {"a": {"b": 1}}
            found.metadata["a"]["b"] = 2


# -- limits ----------------------------------------------------------------------------------


class Model:
    """The plain model: a list of (key, version, data), the least recently used first."""

    def __init__(self, entries: int, size: int) -> None:
        self.entries, self.size, self.kept = entries, size, []

    def get(self, key: str, version: int) -> bytes | None:
        found = next((each for each in self.kept if each[0] == key), None)
        if found is not None:
            self.kept.remove(found)
            if found[1] == version:
                self.kept.append(found)
                return found[2]
        return None

    def put(self, key: str, version: int, data: bytes) -> None:
        if not self.entries or len(data) > self.size:
            return
        self.kept = [each for each in self.kept if each[0] != key] + [(key, version, data)]
        while len(self.kept) > self.entries or sum(len(each[2]) for each in self.kept) > self.size:
            self.kept.pop(0)


@given(
    st.integers(0, 4),
    st.integers(10, 60),
    st.lists(
        st.tuples(
            st.sampled_from(["get", "put"]),
            st.sampled_from("abcdef"),
            st.integers(0, 1),
            st.integers(1, 40),
        ),
        max_size=60,
    ),
)
def test_it_is_a_least_recently_used_cache(entries, size, calls):
    """Any calls give what a plain list gives, and neither limit is ever passed."""
    cache, model = HeaderCache(entries, size), Model(entries, size)
    for name, key, version, length in calls:
        if name == "get":
            assert cache.get(key, version, 0) == model.get(key, version)
        else:
            cache.put(key, version, 0, b"x" * length)
            model.put(key, version, b"x" * length)
        found = cache.statistics()
        assert (found.entries, found.bytes) == (
            len(model.kept),
            sum(len(data) for _, _, data in model.kept),
        )


def test_an_entry_ends_with_its_time():
    """An entry lives for the cache's ttl, or for its own; what has ended is not counted."""
    clock = SimpleNamespace(now=0.0)
    cache = HeaderCache(10, 1_000, ttl=10, timer=lambda: clock.now)
    cache.put("usual", 1, 0, b"a")
    cache.put("short", 1, 0, b"b", ttl=5)
    clock.now = 5.0
    assert (cache.get("usual", 1, 0), cache.get("short", 1, 0)) == (b"a", None)
    clock.now = 10.0
    assert cache.get("usual", 1, 0) is None
    assert (cache.statistics().entries, cache.statistics().bytes) == (0, 0)


def test_a_large_header_is_not_kept():
    """A header above HEADER_BYTES_MAX or above the whole cache is made anew each time."""
    cache = HeaderCache(10, 10 * HEADER_BYTES_MAX)
    cache.put("s", 1, 0, b"x" * (HEADER_BYTES_MAX + 1))
    assert cache.get("s", 1, 0) is None
    cache.put("s", 1, 0, b"x" * HEADER_BYTES_MAX)
    assert cache.get("s", 1, 0) is not None
    small = HeaderCache(10, 5)
    small.put("s", 1, 0, b"123456")
    assert small.statistics().entries == 0


def test_a_header_takes_less_than_2_kb():
    """The header of a long session with ordinary values is some hundred bytes."""
    with SessionManager(EventStore.in_memory()) as manager:
        values = {"title": "t" * 80, "tags": ["a", "b"], "type": "dm"}
        manager.create("s", user="u", metadata=values)
        manager.add_messages("s", [{"role": "user", "content": "x" * 500}] * 2_000)
        manager.get("s")
        assert manager.cache.statistics().entries == 1
        assert manager.cache.statistics().bytes < 1_000


# -- care and numbers ------------------------------------------------------------------------


def filled(count: int) -> HeaderCache:
    """Return a cache with entries 0, 1, 2, ... of 10 bytes; entry n was asked for n times."""
    cache = HeaderCache(100, 10_000)
    for number in range(count):
        cache.put(str(number), 1, 0, b"0123456789")
    for number in range(count):
        for _ in range(number):
            cache.get(str(number), 1, 0)
    return cache


def test_pruning_by_bytes_lets_the_least_recently_used_go():
    """prune(bytes=) leaves the newest entries that fit."""
    cache = filled(5)
    cache.get("0", 1, 0)
    assert cache.prune(bytes=25) == 3
    assert [number for number in "01234" if cache.get(number, 1, 0)] == ["0", "4"]


def test_pruning_by_accesses_lets_the_unused_go():
    """prune(min_accesses=) leaves what was asked for so often, in its old order."""
    cache = filled(5)
    assert cache.prune(min_accesses=3) == 3
    assert cache.statistics().entries == 2
    assert cache.prune(bytes=10) == 1  # 3 was used before 4
    assert cache.get("4", 1, 0) is not None


@pytest.mark.parametrize("wrong", [-1, 1.5, True, "x"])
def test_pruning_takes_whole_numbers(wrong):
    """A limit that is no whole number from 0 on is refused by name."""
    for name in ("bytes", "min_accesses"):
        with pytest.raises(InvalidEvent, match=f"{name} must be a whole number, 0 to"):
            filled(1).prune(**{name: wrong})


def test_hits_misses_and_evictions_are_counted():
    """Every lookup is a hit or a miss, an outdated entry is a stale miss, room is an eviction."""
    cache = HeaderCache(2, 1_000)
    assert cache.statistics().rate == 0.0
    for name in "abc":
        assert cache.get(name, 1, 0) is None
        cache.put(name, 1, 0, b"1")
    for version, found in ((1, b"1"), (1, b"1"), (1, b"1"), (2, None)):
        assert cache.get("c", version, 0) == found
    kept = cache.statistics()
    assert (kept.hits, kept.misses, kept.stale, kept.evictions) == (3, 4, 1, 1)
    assert (kept.entries, kept.bytes, kept.rate) == (1, 1, 3 / 7)


def test_clearing_keeps_the_counters_and_closing_keeps_nothing():
    """clear() empties the cache, which goes on; after close() nothing is kept any more."""
    cache = filled(3)
    hits = cache.statistics().hits
    cache.clear()
    assert (cache.statistics().entries, cache.statistics().hits) == (0, hits)
    cache.put("a", 1, 0, b"1")
    assert cache.statistics().entries == 1
    for _ in range(2):
        cache.close()
        cache.put("a", 1, 0, b"1")
        assert cache.statistics().entries == 0


def test_a_manager_tells_its_hit_rate():
    """The statistics of the store hold those of the cache, by name."""
    with SessionManager(EventStore.in_memory(), Settings()) as manager:
        manager.create("s")
        manager.get("s")
        before = manager.cache.statistics()
        for _ in range(8):
            manager.get("s")
        found = manager.statistics()["cache"]
        assert found["hits"] == before.hits + 8
        assert found["rate"] == found["hits"] / (found["hits"] + found["misses"])
