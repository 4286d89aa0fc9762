"""Views kept beside the log: equal to folds, caught up on read, shared by processes."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from driver import STEPS, Driver, ticking
from hypothesis import given, settings
from hypothesis import strategies as st
from viewed import Steps, agree, filled, say

from eventstore import EventStore, InvalidEvent, SessionNotFound, StoreUnavailable
from eventstore.cli.care import compare_views
from eventstore.state.caches import VIEWS
from projections import Projection, Views, fold
from projections import engine as runner
from projections.catalog import CatalogProjection
from projections.shelf import MemoryShelf, RowCoder, Rows

ROOT = Path(__file__).parents[1]


class Actors(Projection[dict]):
    """Rows by actor: events, and the sessions they touched; changes its rows in place."""

    name = "actors"
    keyed = True

    def initial(self):
        return {}

    def evolve(self, state, recorded):
        row = state.setdefault(recorded.actor, {"events": 0, "sessions": []})
        row["events"] += 1
        if recorded.session not in row["sessions"]:
            row["sessions"].append(recorded.session)
        if recorded.type == "SessionDeleted":
            del state[recorded.actor]
        return state


# -- the law -----------------------------------------------------------------------------------


@given(STEPS, st.sampled_from([1, 3, runner.APPLY_EVENTS_MAX]))
def test_incremental_views_equal_folds_at_every_step(steps, events_max):
    """Whatever the commands and however few events go into a transaction, in memory."""
    with EventStore.in_memory(clock=ticking()) as store, pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "APPLY_EVENTS_MAX", events_max)
        views, driver = Views(store), Driver(store)
        views.register(Actors())
        for step in steps:
            driver.run(step)
            agree(store, views)
            assert views.state("actors") == fold(store, Actors())
        for name in "catalog", "branches", "statistics", "actors":
            before = views.state(name)
            views.rebuild(name)
            assert views.state(name) == before


@settings(max_examples=8)
@given(STEPS)
def test_incremental_views_equal_folds_on_disk(tmp_path_factory, steps):
    """The same on disk, and after closing and opening the store in the middle."""
    path = tmp_path_factory.mktemp("views") / "history"
    with ExitStack() as stack:
        store = stack.enter_context(EventStore.open(path, clock=ticking()))
        views, driver = Views(store), Driver(store)
        views.register(Actors())
        for number, step in enumerate(steps):
            driver.run(step)
            if number == len(steps) // 2:
                store.close()
                clock = count(store_time(path)).__next__
                store = driver.store = stack.enter_context(EventStore.open(path, clock=clock))
                views = Views(store)
                views.register(Actors())
            if number % 3 == 0:
                agree(store, views)
        agree(store, views)
        assert views.state("actors") == fold(store, Actors())


def store_time(path: Path) -> int:
    """Return a time after the newest event."""
    with EventStore.open(path, read_only=True) as store:
        return store.head().recorded_at + 1


# -- the life of a view ------------------------------------------------------------------------


def test_views_see_what_was_just_written(store):
    """A query shows every command that returned before it."""
    views = Views(store)
    assert views.statistics().messages == 0
    store.create("a")
    for said in range(1, 6):
        say(store, "a", "word")
        assert views.statistics().messages == said
        assert [row.messages for row in views.sessions()] == [said]


def test_one_new_event_costs_one_event(disk):
    """A view that is caught up is shown what came since, and nothing twice, also once reopened."""
    filled(disk)
    first = Steps()
    views = Views(disk)
    views.register(first)
    size = disk.head().size
    assert views.state("steps") == size
    say(disk, "s0", "more")
    assert views.state("steps") == views.state("steps") == size + 1
    assert first.taken == list(range(size + 1))
    path = disk.path
    disk.close()
    with EventStore.open(path) as again:
        second = Steps()
        views = Views(again)
        views.register(second)
        say(again, "s0", "more")
        assert views.state("steps") == size + 2
        assert second.taken == [size + 1]


def test_one_new_event_writes_one_row():
    """Of a keyed state the rows that changed are written, and no others."""
    shelf = MemoryShelf()
    shelf.add(b"t")
    coder = RowCoder(dict)
    written = []

    class Counted:
        def __init__(self, table):
            self.table = table

        def __getattr__(self, name):
            return getattr(self.table, name)

        def put(self, key, row):
            written.append(key)
            self.table.put(key, row)

    def change(step):
        def work(tables):
            rows = Rows(Counted(tables(b"t")), coder)
            step(rows)
            rows.save()

        shelf.write(work)

    change(lambda rows: rows.update({str(number): {"n": number} for number in range(9)}))
    written.clear()
    change(lambda rows: (rows["3"], rows["4"].update(n=0), rows.pop("5"), rows.get("nothing")))
    assert written == [b"4"]
    with shelf.begin() as tables:
        rows = Rows(tables(b"t"), coder)
        assert sorted(rows) == ["0", "1", "2", "3", "4", "6", "7", "8"]
        assert rows["4"] == {"n": 0} and "5" not in rows and len(rows) == 8


@given(st.lists(st.tuples(st.sampled_from(["put", "del", "save", "undo"]), st.sampled_from("abc"))))
def test_rows_behave_as_a_dict(commands):
    """Whatever is set, deleted, saved or undone, the mapping equals a dict, also under a prefix."""
    shelf = MemoryShelf()
    shelf.add(b"t")
    kept: dict = {}
    model: dict = {}
    pending = []
    for number, (command, key) in enumerate(commands):
        pending.append((command, key, number))
        if command not in ("save", "undo"):
            continue

        def work(tables, model, pending, *, kept):
            rows = Rows(tables(b"t"), RowCoder(int))
            for what, name, value in pending:
                if what == "put":
                    rows[name] = model[name] = value
                elif what == "del":
                    assert rows.pop(name, None) == model.pop(name, None)
                assert dict(rows) == model and len(rows) == len(model)
                assert dict(rows.under("a")) == {k: v for k, v in model.items() if k == "a"}
            if kept:
                rows.save()

        model = dict(kept)
        shelf.write(partial(work, model=model, pending=pending, kept=command == "save"))
        kept = model if command == "save" else kept
        pending = []
    with shelf.begin() as tables:
        assert dict(Rows(tables(b"t"), RowCoder(int))) == kept


def test_a_projection_that_fails_changes_nothing(store):
    """An error in evolve() comes out, the state stays at its checkpoint, and goes on once cured."""

    class Picky(Steps):
        name = "picky"
        broken = True

        def evolve(self, state, recorded):
            if self.broken and recorded.version == 2:
                raise ZeroDivisionError
            return super().evolve(state, recorded)

    picky, views = Picky(), Views(store)
    views.register(picky)
    store.create("a")
    say(store, "a", "one")
    assert views.state("picky") == 2
    say(store, "a", "two")
    with pytest.raises(ZeroDivisionError):
        views.state("picky")
    assert views.checkpoint("picky") == 2
    picky.broken = False
    assert views.state("picky") == 3


def test_a_new_revision_begins_anew(disk):
    """Code of another revision never reads the rows of this one."""

    class Doubled(Steps):
        revision = 2

        def evolve(self, state, recorded):
            return super().evolve(state, recorded) + 1

    disk.create("a")
    with Views(disk) as views:
        views.register(Steps())
        assert views.state("steps") == 1
    with Views(disk) as views:
        views.register(Doubled())
        assert views.state("steps") == 2
    with Views(disk) as views:
        again = Steps()
        views.register(again)
        assert views.state("steps") == 1
        assert again.taken == []


def test_states_are_the_callers_own(store):
    """What a query returned may be changed: the view doesn't notice."""
    filled(store)
    views = Views(store)
    views.statistics().by_type.clear()
    views.state("catalog").clear()
    views.sessions().rows[0].metadata["n"] = "changed"
    agree(store, views)


def test_names_are_checked(store):
    """A name is registered once; one that nobody registered is refused; so is an empty one."""
    views = Views(store)
    with pytest.raises(InvalidEvent, match="registered already"):
        views.register(CatalogProjection(store.headers))
    for ask in views.state, views.checkpoint, views.rebuild:
        with pytest.raises(InvalidEvent, match="nothing"):
            ask("nothing")

    class Unnamed(Steps):
        name = ""

    class Nameless(Projection):
        initial, evolve = Steps.initial, Steps.evolve

    for wrong in Unnamed(), Nameless(), Steps, object():
        with pytest.raises(InvalidEvent):
            views.register(wrong)


@pytest.mark.parametrize("wrong", [Steps, object(), None])
def test_only_a_projection_is_folded(store, wrong):
    """A class in place of its instance, or anything else: InvalidEvent says what is expected."""
    with pytest.raises(InvalidEvent, match="a Projection is expected, made already"):
        fold(store, wrong)


def test_unknown_session_has_no_tree(store):
    """Views say SessionNotFound as everything else does."""
    with pytest.raises(SessionNotFound):
        Views(store).tree("nobody")


def test_a_comparison_is_of_the_same_facts(disk):
    """Views that are compared with a replay while others write are not called different."""
    store = disk

    class Busy(Views):
        def state(self, name):
            found = super().state(name)
            store.create(f"{name}-more")
            return found

    assert not list(compare_views(store, Busy(store)))


def test_views_close_with_their_store(store):
    """Closing the store closes its views; closing them twice is fine, using them is not."""
    views = Views(store)
    views.close()
    views.close()
    for ask in views.statistics, views.sessions, lambda: views.rebuild("catalog"):
        with pytest.raises(StoreUnavailable):
            ask()
    other = Views(store)
    store.close()
    with pytest.raises(StoreUnavailable):
        other.statistics()


def test_views_of_a_read_only_store_are_in_memory(disk):
    """Reading a store that may not be written makes no files and sees all the same."""
    filled(disk)
    path = disk.path
    disk.close()
    with EventStore.open(path, read_only=True) as store:
        agree(store, Views(store))
    assert not (path / VIEWS).exists()


# -- many at once --------------------------------------------------------------------------------

CHILD = """
import sys
from eventstore import EventStore
from projections import Statistics, Views
path, name, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
with EventStore.open(path) as store:
    views = Views(store)
    store.create(name)
    for number in range(rounds):
        store.append(name, [{"role": "user", "content": str(number)}] * 3)
        assert views.statistics().messages >= 3 * (number + 1)
        mine = {row.session: row.messages for row in views.sessions(limit=None)}
        assert mine[name] == 3 * (number + 1), mine
"""


def child(path: Path, name: str, rounds: int) -> subprocess.Popen:
    """Start a process that appends and checks what its views say."""
    command = [sys.executable, "-c", CHILD, str(path), name, str(rounds)]
    return subprocess.Popen(command, cwd=ROOT)


def test_other_processes_facts_and_views_count(disk):
    """What another process appended is seen; what it applied to the views is not applied again."""
    steps, views = Steps(), Views(disk)
    views.register(steps)
    filled(disk)
    agree(disk, views)
    assert child(disk.path, "other", 2).wait() == 0
    agree(disk, views)
    assert views.statistics().sessions == 5
    assert views.state("steps") == len(steps.taken) == disk.head().size


def test_processes_and_threads_share_views(disk):
    """Two processes and two threads append and query at once; each sees its own writes."""
    children = [child(disk.path, f"process-{number}", 6) for number in range(2)]
    failures = []

    def work(name):
        try:
            views = Views(disk)
            disk.create(name)
            for number in range(1, 7):
                say(disk, name, "word")
                found = {row.session: row.messages for row in views.sessions(limit=None)}
                assert found[name] == number
                if number % 3 == 0:
                    views.rebuild("catalog")
        except BaseException as failure:  # noqa: BLE001 - handed to the main thread
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(f"thread-{number}",)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.wait() for each in children] == [0, 0]
    assert failures == []
    agree(disk, Views(disk))


def test_erasures_that_come_fast_are_no_damage(disk):
    """However often views begin anew because something was redacted, who asks gets an answer."""
    disk.create("a", messages=[{"role": "user", "content": "x"}] * 80)
    views, done = Views(disk), threading.Event()

    def ask(_: int) -> None:
        while not done.is_set():
            assert len(views.sessions()) == views.statistics().sessions == 1

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, number) for number in range(4)]
        for version in range(1, 81):
            disk.redact("a", version)
        done.set()
        for each in asked:
            each.result()
    assert [row.messages for row in views.sessions()] == [0]


def test_readers_see_the_old_state_during_a_rebuild(disk):
    """While a rebuild is half way, another thread reads the whole old state without waiting."""
    filled(disk)
    found = []

    class Watched(Steps):
        watch = False

        def evolve(self, state, recorded):
            if self.watch and recorded.position == 3:
                reader = threading.Thread(target=lambda: found.append(views.state("steps")))
                reader.start()
                reader.join(10)
            return super().evolve(state, recorded)

    watched, views = Watched(), Views(disk)
    views.register(watched)
    size = views.state("steps")
    watched.watch = True
    views.rebuild("steps")
    assert found == [size]
    assert views.state("steps") == size


def test_a_rebuild_never_goes_back(disk, monkeypatch):
    """What a view moved on by while it was rebuilt is in the rebuilt one too."""
    monkeypatch.setattr(runner, "APPLY_EVENTS_MAX", 1)
    filled(disk)
    other = Views(disk)

    class Busy(Steps):
        busy = False

        def evolve(self, state, recorded):
            if self.busy and recorded.position == 0:
                say(disk, "s0", "meanwhile")
            return super().evolve(state, recorded)

    busy, views = Busy(), Views(disk)
    views.register(busy)
    other.register(Steps())
    views.state("steps")
    busy.busy = True
    write, seen = views._shelf.write, []

    def while_others_read(work):
        seen.append(other.state("steps"))
        return write(work)

    views._shelf.write = while_others_read
    views.rebuild("steps")
    assert seen[-1] == disk.head().size > seen[0]
    assert views.checkpoint("steps") == seen[-1]
