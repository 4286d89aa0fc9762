"""Damaged views: what is altered, lost, foreign or ahead of its log gives way to a new state."""

import shutil

import msgspec
import pytest
from viewed import Steps, agree, filled, say

from eventstore import EventStore
from eventstore.place.directory import LOG
from eventstore.state.caches import VIEWS
from projections import Projection, SessionPage, Statistics, Views
from projections import engine as runner
from projections.engine import CHECKPOINTS, STATE, Checkpoint
from projections.shelf import LmdbShelf, RowCoder, Tables


def altered(store: EventStore, table: bytes, change) -> None:
    """Change the rows of a table of the views behind their back."""
    shelf = LmdbShelf(store.path / VIEWS)
    shelf.add(table)

    def work(tables: Tables) -> None:
        rows = tables(table)
        for key, row in list(rows.scan(b"")):
            change(rows, key, row)

    shelf.write(work)
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
