"""What another process does between a command's look at the state and its commit.

A second store object on the same directory has a queue and caches of its own, as another process
has; where that is not enough, there is another process.
"""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eventstore import (
    EventStore,
    EventStoreError,
    InvalidEvent,
    Keyring,
    KeyShredded,
    LegalHold,
    SessionDeleted,
    SessionExpired,
)
from projections import SessionState

MESSAGE = {"role": "user", "content": "hi"}
Act = Callable[[EventStore], object]
Pair = tuple[EventStore, EventStore]

HOLDS = """
import sys
from eventstore import EventStore
with EventStore.open(sys.argv[1], train=False) as store:
    for _ in range(150):
        store.set_hold(user="u")
        store.clear_hold(user="u")
"""


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Give two stores on one encrypted log, in which user u has said something in session s."""
    ring = Keyring.file(tmp_path / "keyring")
    places = [EventStore.open(tmp_path / "history", keyring=ring) for _ in range(2)]
    ours, theirs = places
    ours.create("s", user="u")
    ours.append("s", MESSAGE)
    with ours, theirs:
        yield ours, theirs


def overtaking(ours: EventStore, act: Callable[[], object]) -> None:
    """Have something happen once, just before the next transaction of a store begins."""
    waiting = [act]

    def overtaken(begin: Callable) -> Callable:
        def call(*given: object) -> object:
            if waiting:
                waiting.pop()()
            return begin(*given)

        return call

    ours.log.commit, ours.log.group = overtaken(ours.log.commit), overtaken(ours.log.group)


def types(store: EventStore, session: str) -> list[str]:
    """Return the types of a session's facts."""
    return [each.type for each in store.events(session)]


FORBIDDEN: list[tuple[Act, Act, type[EventStoreError]]] = [
    (lambda s: s.append("s", MESSAGE), lambda s: s.delete("s"), SessionDeleted),
    (lambda s: s.append("s", MESSAGE), lambda s: s.close("s"), InvalidEvent),
    (lambda s: s.append("s", MESSAGE), lambda s: s.archive("s"), InvalidEvent),
    (lambda s: s.append("s", MESSAGE), lambda s: s.extend_ttl("s", 1e-9), SessionExpired),
    (lambda s: s.append("s", MESSAGE), lambda s: s.erase("s", reason="x"), KeyShredded),
    (lambda s: s.set_context("s", "k", 1), lambda s: s.delete("s"), SessionDeleted),
    (lambda s: s.redact("s", 1), lambda s: s.set_hold(user="u"), LegalHold),
    (lambda s: s.prune("s", keep_last=0), lambda s: s.set_hold(user="u"), LegalHold),
    (lambda s: s.erase("s", reason="x"), lambda s: s.set_hold(user="u"), LegalHold),
    (lambda s: s.erase("s", reason="x"), lambda s: s.set_hold("s"), LegalHold),
    (lambda s: s.erase("s", reason="x"), lambda s: s.branch("s", "kid"), InvalidEvent),
    (lambda s: s.branch("s", "kid"), lambda s: s.erase("s", reason="x"), KeyShredded),
    (lambda s: s.branch("s", "kid"), lambda s: s.delete("s"), SessionDeleted),
]


@pytest.mark.parametrize(("command", "first", "error"), FORBIDDEN)
def test_what_another_process_forbids_just_before_is_forbidden(pair: Pair, command, first, error):
    """Whatever comes before a command's commit counts, and then the command writes nothing."""
    ours, theirs = pair
    sizes = []
    overtaking(ours, lambda: (first(theirs), sizes.append(theirs.head().size)))
    with pytest.raises(error):
        command(ours)
    assert sizes == [ours.head().size]


def test_coroutines_are_overtaken_the_same_way(pair: Pair):
    """An awaited append does not land behind another process's deletion either."""
    ours, theirs = pair
    overtaking(ours, lambda: theirs.delete("s"))
    with pytest.raises(SessionDeleted):
        asyncio.run(ours.aio.append("s", MESSAGE))
    assert types(theirs, "s")[-1] == "SessionDeleted"


def test_a_cascade_stops_at_a_hold_that_another_process_has_just_set(pair: Pair):
    """A session that took the erased one in by a merge keeps all while it is held."""
    ours, theirs = pair
    ours.branch("s", "side")
    ours.update_metadata("side", {"x": "theirs"})
    ours.merge("side", into="s")
    overtaking(ours, lambda: theirs.set_hold("s"))
    with pytest.raises(LegalHold):
        ours.erase("side", reason="x", cascade=True)
    assert SessionState.of(theirs, "s").metadata == {"x": "theirs"}


def test_a_summary_that_another_process_has_just_made_goes_along(pair: Pair):
    """A redaction that takes summaries along takes each that there is at its commit, or none."""
    ours, theirs = pair
    ours.branch("s", "kid")
    overtaking(ours, lambda: theirs.summarize("kid", "hi", upto=0))
    ours.redact("s", 1, summaries=True)
    assert theirs.quoting("s", 1) == [] and types(theirs, "kid")[-1] == "Redacted"
    ours.create("t")
    ours.append("t", MESSAGE)
    ours.branch("t", "child")
    ours.summarize("child", "hi", upto=0)
    overtaking(ours, lambda: theirs.set_hold("child"))
    with pytest.raises(LegalHold):
        ours.redact("t", 1, summaries=True)
    assert len(theirs.quoting("t", 1)) == len(SessionState.of(theirs, "t").messages) == 1


def test_an_overtaken_append_lands_where_nothing_forbids_it(pair: Pair):
    """What changes no standing delays nobody: the append is looked at again, and kept as given."""
    ours, theirs = pair
    said = dict(MESSAGE)
    overtaking(ours, lambda: (theirs.set_context("s", "k", 1), said.update(content="changed")))
    receipt = ours.append("s", said, key="once")
    assert types(theirs, "s")[-2:] == ["ContextSet", "MessageAppended"]
    assert [each.content for each in SessionState.of(theirs, "s").messages] == ["hi", "hi"]
    assert ours.append("s", MESSAGE, key="once").version == receipt.version


def test_a_key_that_came_in_meanwhile_gives_its_receipt(pair: Pair):
    """The same command with the same key, made by two processes at once, is kept once."""
    ours, theirs = pair
    overtaking(ours, lambda: (theirs.append("s", MESSAGE, key="k"), theirs.close("s")))
    assert ours.append("s", MESSAGE, key="k").duplicate
    assert types(theirs, "s").count("MessageAppended") == 2


def test_no_prune_lands_between_a_hold_and_its_end(tmp_path: Path):
    """While another process sets and clears a hold on the user, nothing is pruned under it."""
    place = tmp_path / "history"
    with EventStore.open(place, train=False) as store:
        store.create("s", user="u")
        store.append("s", MESSAGE)
        other = subprocess.Popen([sys.executable, "-c", HOLDS, str(place)])
        pruned = refused = 0
        while other.poll() is None:
            try:
                store.prune("s", keep_last=1)
                pruned += 1
            except LegalHold:
                refused += 1
        held, under = False, 0
        for recorded in store.all():
            held = recorded.type == "LegalHoldSet" or (held and recorded.type != "LegalHoldCleared")
            under += held and recorded.type == "MessagesPruned"
        assert (other.returncode, under) == (0, 0) and pruned
