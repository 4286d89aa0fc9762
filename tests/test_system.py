"""The system stream: facts about the store that no list of sessions shows."""

import threading

import pytest

from eventstore import EventStore, InvalidEvent, KeyReused
from eventstore.ids import SYSTEM
from projections import SessionState, Statistics, Views, fold
from projections.statistics import StatisticsProjection


def test_a_system_fact_makes_its_stream_and_needs_no_session(store: EventStore):
    """The first fact about the store starts the stream, the second goes behind it."""
    first, second = store.record_system("origin", {"of": "x"}), store.record_system("origin", 2)
    assert [first.version, second.version] == [1, 2]
    assert [each.type for each in store.events(SYSTEM)] == ["SessionCreated", "Custom", "Custom"]
    assert SessionState.of(store, SYSTEM).metadata == {"type": "system"}


def test_no_list_of_sessions_shows_it(store: EventStore):
    """Lists, statistics, trees and views are about sessions only."""
    store.create("s")
    before = Statistics.of(store)
    store.record_system("origin")
    assert list(store.sessions()) == ["s"]
    assert Statistics.of(store) == before
    assert fold(store, StatisticsProjection(store.headers)) == before
    with Views(store) as views:
        assert [row.session for row in views.sessions()] == ["s"]
        assert views.statistics() == before


@pytest.mark.parametrize(
    "command",
    [
        lambda store: store.create(SYSTEM),
        lambda store: store.append(SYSTEM, {"role": "user"}),
        lambda store: store.branch(SYSTEM, "b"),
        lambda store: store.branch("s", SYSTEM),
        lambda store: store.merge("s", into=SYSTEM),
        lambda store: store.delete(SYSTEM),
        lambda store: store.record(SYSTEM, "x"),
    ],
)
def test_no_command_of_a_user_reaches_it(store: EventStore, command):
    """The reserved name is refused by every command, and nothing is written."""
    store.create("s")
    size = store.head().size
    with pytest.raises(InvalidEvent, match="the store's own"):
        command(store)
    assert store.head().size == size


def test_many_threads_may_write_its_first_fact(store: EventStore):
    """Whoever comes first makes the stream, and no fact is lost."""
    threads = [
        threading.Thread(target=store.record_system, args=("n", number)) for number in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [each.event.data for each in store.events(SYSTEM, 1)]
    assert sorted(found) == list(range(16))


def test_a_key_brings_a_system_fact_in_once(store: EventStore):
    """The same key again gives the first receipt, with other content it is refused."""
    first = store.record_system("n", 1, key="k")
    again = store.record_system("n", 1, key="k")
    assert (again.duplicate, again.position) == (True, first.position)
    with pytest.raises(KeyReused):
        store.record_system("n", 2, key="k")
