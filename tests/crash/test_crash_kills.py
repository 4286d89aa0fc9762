"""kill -9 under load: writers, a reader and a subscriber die at any moment, the others go on."""

import random
import time
from contextlib import closing
from pathlib import Path

import pytest
from actors import ROLES, SESSIONS, Actors

from eventstore import EventStore, Recorded
from eventstore.audit.verify import verify

FAST, LONG = 20, 1_000

ROUND = 30
"""Kills of one store; then it is looked at as a whole."""

WORDS_MAX = 6
"""What a victim says at most before it is killed."""

VICTIMS = ("writer", "writer", "writer", "second", "reader", "subscriber", "all")


class Log:
    """The log as it was read so far: only what is new is looked at after each kill."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.ends: dict[int, tuple[str, int]] = {}
        self._half: list[tuple[str, int]] = []

    def check(self, receipts: dict[int, tuple[str, int]]) -> None:
        """Assert that all receipts are kept and all appends whole."""
        with EventStore.open(self.path) as store:
            for recorded in store.all(self.size):
                assert recorded.position == self.size
                self.size += 1
                if recorded.type == "MessageAppended":
                    self._take(recorded)
        assert not self._half, "the last append is not whole"
        assert {position: self.ends.get(position) for position in receipts} == receipts

    def _take(self, recorded: Recorded) -> None:
        """Note a message, which must be the next part of its append."""
        name, number, part, parts = recorded.event.message.fields["by"]
        assert part == len(self._half) and set(self._half) <= {(name, number)}
        self._half.append((name, number))
        if len(self._half) == parts:
            self.ends[recorded.position] = name, number
            self._half = []


def kill_some(path: Path, kills: int, seed: int) -> None:
    """Kill processes of one store, and check it after each kill."""
    chance = random.Random(seed)
    with EventStore.open(path) as store:
        for session in SESSIONS:
            store.create(session)
    log = Log(path)
    with closing(Actors(str(path))) as actors:
        kill_and_check(actors, log, kills, chance)
    with EventStore.open(path) as store:
        assert verify(store, deep=True).findings == []
    assert len(actors.receipts) > kills


def kill_and_check(actors: Actors, log: Log, kills: int, chance: random.Random) -> None:
    """Kill processes at random moments; each time look at the log and go on."""
    for name in ROLES:
        actors.start(name)
    for _ in range(kills):
        victim = chance.choice(VICTIMS)
        names = list(ROLES) if victim == "all" else [victim]
        actors.wait(names[0], chance.randrange(1, WORDS_MAX))
        time.sleep(chance.random() / 500)
        for name in names:
            actors.kill(name)
        log.check(actors.receipts)
        for name in names:
            actors.start(name)
        for name in ROLES:  # whatever the dead had locked, all others go on
            actors.wait(name, 1)
    for name in ROLES:
        actors.kill(name)
    log.check(actors.receipts)


@pytest.mark.parametrize("kills", [FAST, pytest.param(LONG, marks=pytest.mark.long)])
def test_a_kill_loses_nothing_and_stops_nobody(on_disk, tally, kills):
    """Every receipt survives every kill, every append is whole, and the living go on."""
    for number in range(0, kills, ROUND):
        kill_some(on_disk / str(number), min(ROUND, kills - number), seed=number)
    tally("kills under load", kills)
