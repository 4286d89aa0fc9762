"""Names that a log remembers: few, however many there are, and nobody can tell which."""

import pytest
from callers import in_threads

from eventstore import EventStore
from eventstore.audit.verify import verify
from eventstore.limits import NAMES_REMEMBERED_MAX
from eventstore.log import opened
from projections import SessionState, Statistics

SESSIONS, ROUNDS = 40, 3


@pytest.fixture
def many(tmp_path):
    """Give a store in which 40 sessions, each with an actor of its own, take turns."""
    with EventStore.open(tmp_path / "history", train=False) as store:
        for number in range(SESSIONS):
            store.create(f"s{number}", actor=f"a{number}")
        for turn in range(ROUNDS):
            for number in range(SESSIONS):
                said = {"role": "user", "content": f"{number} {turn}"}
                store.append(f"s{number}", said, actor=f"a{number}" if turn else None)
    return store.path


def seen(store: EventStore) -> list[object]:
    """Return all that reads, statistics and states show."""
    whole = [(each.session, each.actor, each.version, each.size) for each in store.all()]
    states = [SessionState.of(store, f"s{number}") for number in range(SESSIONS)]
    spoken = [[each.text for each in state.messages] for state in states]
    return [whole, Statistics.of(store, workers=1), spoken, list(store.sessions())]


def remembered(store: EventStore) -> int:
    """Return how many names, or references, a store's log has ready."""
    return max(len(store.log._name_of), len(store.log._ref_of))


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_a_log_that_remembers_few_names_shows_the_same(many, limit, monkeypatch):
    """With room for fewer names than a page has, every read gives what it gives with room."""
    with EventStore.open(many, read_only=True) as store:
        expected = seen(store)
        assert remembered(store) == 2 * SESSIONS + 1, "all of them, and the user of this process"
    monkeypatch.setattr(opened, "NAMES_REMEMBERED_MAX", limit)
    with EventStore.open(many, read_only=True) as store:
        assert in_threads([lambda: seen(store)] * 3) == [expected] * 3
        assert remembered(store) <= limit + 2, "three at once may each add one"
        assert verify(store, deep=True).sound


def test_writers_remember_few_names(many, monkeypatch):
    """A writer of many sessions and actors remembers no more of them than the limit."""
    monkeypatch.setattr(opened, "NAMES_REMEMBERED_MAX", 5)
    with EventStore.open(many, train=False) as store:
        for number in range(20):
            store.create(f"more{number}", actor=f"b{number}")
            store.append(f"s{number}", {"role": "user", "content": "x"}, actor=f"a{number}")
            assert remembered(store) <= 5
        assert [each.actor for each in store.events("more7")] == ["b7"]
        assert store.events("s7", reverse=True, limit=1).__next__().actor == "a7"
        assert verify(store, deep=True).sound


def test_a_usual_store_has_all_its_names_ready():
    """The limit is far above what takes turns in one page of events."""
    assert NAMES_REMEMBERED_MAX >= 50_000
