"""Views kept beside the log: caught up on read, shared by processes, rebuilt when in doubt."""

import shutil
import subprocess
import sys
import threading
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import msgspec
import pytest
from driver import STEPS, Driver, folded, ticking
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import EventStore, InvalidEvent, SessionNotFound, StoreUnavailable
from eventstore.cli.care import compare_views
from eventstore.place.directory import LOG
from eventstore.state.caches import VIEWS
from projections import BranchTree, CatalogRow, Projection, SessionPage, Statistics, Views, fold
from projections import engine as runner
from projections.branches import BranchesProjection
from projections.catalog import ORDERS, CatalogProjection, row_of, selection
from projections.engine import CHECKPOINTS, STATE, Checkpoint
from projections.shelf import LmdbShelf, MemoryShelf, RowCoder, Rows

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


class Steps(Projection[int]):
    """Counts events, and in `taken` what it was shown in this process."""

    name = "steps"

    def __init__(self):
        self.taken = []

    def initial(self):
        return 0

    def evolve(self, state, recorded):
        self.taken.append(recorded.position)
        return state + 1


def say(store: EventStore, session: str, *texts: str) -> None:
    """Append these texts at once."""
    store.append(session, [{"role": "user", "content": text} for text in texts])


def filled(store: EventStore, sessions: int = 3) -> None:
    """Make some sessions of different length and a branch."""
    for number in range(sessions):
        store.create(f"s{number}", user=f"u{number % 2}", metadata={"n": number})
        say(store, f"s{number}", *["word"] * (number + 1))
    store.branch("s0", "b0", at=1)


def agree(store: EventStore, views: Views) -> None:
    """Every view equals the fold on demand, and every row the plain fold of its session."""
    assert views.statistics() == Statistics.of(store)
    assert views.state("catalog") == fold(store, CatalogProjection(store.headers))
    assert views.state("branches") == fold(store, BranchesProjection(store.log))
    assert views.state("catalog") == {
        session: row_of(folded(store, session, store.version(session)))
        for session in store.sessions()
    }
    for session in store.sessions():
        assert views.tree(session) == BranchTree.of(store, session)
    for name in "catalog", "branches", "statistics":
        assert views.checkpoint(name) == store.head().size


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
        with shelf.begin(write=True) as tables:
            rows = Rows(Counted(tables(b"t")), coder)
            step(rows)
            rows.save()

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
        with shelf.begin(write=True) as tables:
            rows = Rows(tables(b"t"), RowCoder(int))
            model = dict(kept)
            for what, name, value in pending:
                if what == "put":
                    rows[name] = model[name] = value
                elif what == "del":
                    assert rows.pop(name, None) == model.pop(name, None)
                assert dict(rows) == model and len(rows) == len(model)
                assert dict(rows.under("a")) == {k: v for k, v in model.items() if k == "a"}
            if command == "save":
                rows.save()
                kept = model
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

    with pytest.raises(InvalidEvent):
        views.register(Unnamed())


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
    built, seen = views._built, []

    def while_others_read(view, target):
        seen.append(other.state("steps"))
        return built(view, target)

    views._built = while_others_read
    views.rebuild("steps")
    assert seen[-1] == disk.head().size > seen[0]
    assert views.checkpoint("steps") == seen[-1]


# -- damage ----------------------------------------------------------------------------------------


def altered(store: EventStore, table: bytes, change) -> None:
    """Change the rows of a table of the views behind their back."""
    shelf = LmdbShelf(store.path / VIEWS)
    shelf.add(table)
    with shelf.begin(write=True) as tables:
        rows = tables(table)
        for key, row in list(rows.scan(b"")):
            change(rows, key, row)
    shelf.close()


def flip_value(rows, key, row):
    """Alter a bit of the value."""
    rows.put(key, row[:-1] + bytes([row[-1] ^ 4]))


def flip_checksum(rows, key, row):
    """Alter a bit of the checksum."""
    rows.put(key, bytes([row[0] ^ 1]) + row[1:])


def cut_short(rows, key, row):
    """Leave less than a checksum."""
    rows.put(key, row[:5])


def lose(rows, key, row):
    """Remove the row."""
    rows.delete(key)


def misplace(rows, key, row):
    """Alter the end of the key."""
    rows.delete(key)
    rows.put(key[:-1] + bytes([key[-1] ^ 1]), row)


def move(rows, key, row):
    """Alter the beginning of the key, so that the row is in another range."""
    rows.delete(key)
    rows.put(bytes([key[0] ^ 1]) + key[1:], row)


CHANGES = [flip_value, flip_checksum, cut_short, lose, misplace, move]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("view", ["catalog", "branches", "statistics"])
def test_damaged_rows_lead_to_a_rebuild(disk, view, change):
    """Altered, cut, lost and misplaced rows are noticed and give way to a new state."""
    filled(disk)
    views = Views(disk)
    agree(disk, views)
    for number in range(4):
        table = next(name for name in views._views[view].tables if rows_of(disk, name))
        chosen = rows_of(disk, table)[number % len(rows_of(disk, table))]
        altered(disk, table, lambda rows, key, row: key == chosen and change(rows, key, row))  # noqa: B023
        if number % 2:
            disk.branch("s0")
            say(disk, "s0", "more")
            views.tree("s0")
        agree(disk, views)


def rows_of(store: EventStore, table: bytes) -> list[bytes]:
    """Return the keys in a table."""
    found: list[bytes] = []
    altered(store, table, lambda _, key, __: found.append(key))
    return found


@pytest.mark.parametrize("change", CHANGES)
def test_damaged_checkpoints_lead_to_a_rebuild(disk, change):
    """A checkpoint that can't be believed is none: the view begins anew."""
    filled(disk)
    views = Views(disk)
    agree(disk, views)
    altered(disk, CHECKPOINTS, change)
    agree(disk, views)


@pytest.mark.parametrize("change", CHANGES)
def test_damage_before_an_event_is_noticed_when_it_is_applied(disk, change):
    """A damaged row is not evolved: the view is built anew with the new event in it."""
    filled(disk)
    views = Views(disk)
    agree(disk, views)
    for name in "catalog", "statistics":
        for table in views._views[name].tables:
            altered(disk, table, change)
    say(disk, "s1", "more")
    agree(disk, views)


def test_views_of_another_kind_of_row_are_rebuilt(disk):
    """Rows that this code can't read, left by other code of the same revision, are not trusted."""

    class Other(Projection[str]):
        name = "steps"
        row_type = str

        def initial(self):
            return ""

        def evolve(self, state, recorded):
            return state + recorded.type[0]

    disk.create("a")
    with Views(disk) as views:
        views.register(Steps())
        assert views.state("steps") == 1
    with Views(disk) as views:
        views.register(Other())
        assert views.state("steps") == "S"


def test_a_views_file_that_is_none_is_made_anew(disk):
    """Rubbish where the views were costs a rebuild and nothing else; so does their absence."""
    filled(disk)
    path = disk.path
    Views(disk).statistics()
    disk.close()
    (path / VIEWS / "data.mdb").write_bytes(b"rubbish" * 4_000)
    with EventStore.open(path) as store:
        agree(store, Views(store))
    shutil.rmtree(path / VIEWS)
    with EventStore.open(path) as store:
        agree(store, Views(store))


@pytest.mark.parametrize("later", [0, 1, 2, 9])
def test_views_of_a_log_that_went_back_are_rebuilt(tmp_path, later):
    """A log restored from an older backup is noticed, also when it has grown past the views."""
    path, backup = tmp_path / "history", tmp_path / "backup"
    with EventStore.open(path) as store:
        filled(store)
        backup.mkdir()
        store.log.env.copy(backup)
        say(store, "s0", "lost")
        say(store, "s1", "lost too")
        agree(store, Views(store))
    shutil.rmtree(path / LOG)
    backup.rename(path / LOG)
    with EventStore.open(path) as store:
        for number in range(later):
            say(store, "s2", f"new {number}")
        agree(store, Views(store))


def test_views_of_another_store_are_rebuilt(tmp_path):
    """Views that were copied beside a foreign log are noticed."""
    for name in "one", "two":
        with EventStore.open(tmp_path / name) as store:
            store.create(name)
            agree(store, Views(store))
    shutil.rmtree(tmp_path / "two" / VIEWS)
    shutil.copytree(tmp_path / "one" / VIEWS, tmp_path / "two" / VIEWS)
    with EventStore.open(tmp_path / "two") as store:
        agree(store, Views(store))


def test_views_that_name_another_store_are_rebuilt(disk):
    """A checkpoint is believed only with the id of this very store."""
    filled(disk)
    steps, views = Steps(), Views(disk)
    views.register(steps)
    size = views.state("steps")
    coder = RowCoder(Checkpoint)

    def rename(rows, key, row):
        found = coder.open(key, row)
        rows.put(key, coder.seal(key, msgspec.structs.replace(found, store="another")))

    altered(disk, CHECKPOINTS, rename)
    assert views.state("steps") == size
    assert steps.taken == [*range(size), *range(size)]


def test_a_tree_that_lacks_a_row_is_noticed(disk):
    """A tree reads only its own rows: one that strayed among another's is missed by the count."""
    filled(disk)
    views = Views(disk)
    wanted = views.tree("s0")
    table = views._views["branches"].tables[0]
    assert b"s0\x00b0" in rows_of(disk, table)
    altered(disk, table, lambda rows, key, row: key.endswith(b"b0") and move(rows, key, row))
    assert views.tree("s0") == wanted


def test_a_half_built_view_is_built_on(disk, monkeypatch):
    """A build that was broken off goes on where it stood, and its old state was not used."""
    monkeypatch.setattr(runner, "APPLY_EVENTS_MAX", 1)

    class Stopping(Steps):
        stop = True

        def evolve(self, state, recorded):
            if self.stop and recorded.position == 5:  # the first of its frame
                raise KeyboardInterrupt
            return super().evolve(state, recorded)

    filled(disk)
    steps, views = Stopping(), Views(disk)
    views.register(steps)
    with pytest.raises(KeyboardInterrupt):
        views.state("steps")
    assert views.checkpoint("steps") == 0
    steps.stop = False
    assert views.state("steps") == disk.head().size
    assert steps.taken == list(range(disk.head().size))


def test_state_of_an_empty_log_is_the_initial_one(store):
    """Before the first fact a view is what initial() says."""
    views = Views(store)
    assert views.statistics() == Statistics()
    assert views.state("catalog") == {}
    assert views.sessions() == SessionPage([])
    assert STATE not in views.state("branches")


# -- the catalogue: its fast path, and lists -----------------------------------------------------


class Slow(CatalogProjection):
    """The catalogue without its fast path."""

    evolve_frame = Projection.evolve_frame


@given(STEPS)
def test_heads_of_a_frame_move_a_row_as_its_events_do(steps):
    """The catalogue's fast path over message frames equals the loop over events."""
    with EventStore.in_memory(clock=ticking()) as store:
        driver = Driver(store)
        for step in steps:
            driver.run(step)
        rows = fold(store, CatalogProjection(store.headers))
        assert rows == fold(store, Slow(store.headers))


def test_lists_filter_by_user_metadata_and_status(store):
    """Users and metadata match by equality; archived and deleted sessions are asked for by name."""
    filled(store, 6)
    store.update_metadata("s4", {"n": 2, "tags": ["x"]})
    store.archive("s5")
    store.delete("s3")
    store.close("s1")
    views = Views(store)

    def names(**how):
        return [row.session for row in views.sessions(order="session", **how)]

    assert names() == ["b0", "s0", "s1", "s2", "s4"]
    assert names(user="u0") == ["b0", "s0", "s2", "s4"]
    assert names(where={"n": 2}) == ["s2", "s4"]
    assert names(where={"n": 2, "tags": ["x"]}) == ["s4"]
    assert names(where={"missing": None}) == []
    assert names(status={"archived", "deleted"}) == ["s3", "s5"]
    assert names(user="nobody") == []


def test_the_usual_order_is_newest_first():
    """Without an order a list begins with what was touched last."""
    store = EventStore.in_memory(clock=ticking())
    filled(store)
    say(store, "s1", "more")
    assert [row.session for row in Views(store).sessions()] == ["s1", "b0", "s2", "s0"]


ROWS = st.lists(
    st.builds(
        CatalogRow,
        session=st.text("abc", min_size=1, max_size=3),
        updated_at=st.integers(0, 3),
        created_at=st.integers(0, 3),
        messages=st.integers(0, 3),
        tokens=st.integers(0, 3),
    ),
    unique_by=lambda row: row.session,
    max_size=12,
)


@given(ROWS, st.sampled_from(ORDERS), st.booleans(), st.integers(1, 5))
def test_cursors_show_every_row_once_in_order(rows, order, down, limit):
    """The pages put together are the sorted list, for every order and page size."""
    wanted = sorted(rows, key=lambda row: (getattr(row, order), row.session), reverse=down)
    found, after = [], None
    while True:
        page = selection(order="-" * down + order, limit=limit, after=after).page(rows)
        found += page.rows
        after = page.next
        if after is None:
            break
        assert len(page) == limit
    assert found == wanted
    assert selection(order="-" * down + order, limit=None).page(rows) == SessionPage(wanted)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("down", [False, True])
def test_a_list_of_a_view_is_the_sorted_catalogue(store, order, down):
    """Paged through a view, also one that moved on by steps, each order shows every row once."""
    views = Views(store)
    for step in 4, 7:
        for number in range(step):
            session = f"s{step}{number % 3}-{number}"
            store.create(session, user=f"u{number % 2}")
            store.append(session, [{"role": "user", "content": "x" * number}] * (number % 3 + 1))
        store.append(f"s{step}0-0", {"role": "user"})
        for user in None, "u1":
            catalogue = fold(store, CatalogProjection(store.headers)).values()
            rows = [row for row in catalogue if user in (None, row.user)]
            rows.sort(key=lambda row: (getattr(row, order), row.session), reverse=down)
            found, after = [], None
            while True:
                page = views.sessions(user=user, order="-" * down + order, limit=2, after=after)
                found += page.rows
                if (after := page.next) is None:
                    break
            assert found == rows


@pytest.mark.parametrize(
    "how",
    [
        {"order": "age"},
        {"order": "--tokens"},
        {"limit": 0},
        {"limit": "9"},
        {"limit": True},
        {"after": "rubbish"},
        {"after": ""},
        {"after": "é"},
        {"after": "kqF4"},
    ],
)
def test_a_list_that_means_nothing_is_refused(store, how):
    """Unknown orders, odd limits and cursors of nowhere are InvalidEvent."""
    with pytest.raises(InvalidEvent):
        Views(store).sessions(**how)


def test_a_cursor_of_another_order_is_refused(store):
    """A cursor goes on with the list it came from and with no other."""
    filled(store)
    views = Views(store)
    page = views.sessions(order="session", limit=1)
    assert [row.session for row in views.sessions(order="session", limit=1, after=page.next)] == [
        "s0"
    ]
    for order in "-session", "tokens":
        with pytest.raises(InvalidEvent):
            views.sessions(order=order, after=page.next)


def test_rows_are_plain_json(store):
    """A row's to_dict() has what lists show."""
    filled(store)
    row = Views(store).sessions(where={"n": 1}).rows[0].to_dict()
    assert (row["session"], row["user"], row["messages"], row["status"]) == (
        "s1",
        "u1",
        2,
        "active",
    )
