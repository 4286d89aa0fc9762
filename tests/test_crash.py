"""After kill -9: what was acknowledged is there, appends are whole, stores are whole or none."""

import json
import os
import random
import signal
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

from eventstore import EventStore
from eventstore.audit.verify import verify

LONG = pytest.param(100, marks=pytest.mark.long)

WRITER = """
import json, sys, threading
from eventstore import EventStore

path, seed, durability = sys.argv[1:]
store = EventStore.open(path, durability=durability)
saying = threading.Lock()

def write(caller):
    number = 0
    while True:
        parts = 1 + number % 3
        text = f"{caller} said {number} " * (number % 40)
        lines = [{"content": text, "by": [caller, number, part, parts]} for part in range(parts)]
        receipt = store.append(f"s{number % 3}", lines)
        with saying:
            print(json.dumps([caller, number, receipt.position, receipt.version]), flush=True)
        number += 1
        if number % 20 == 0:
            store.prune(f"s{number % 3}", keep_last=10)

for index in range(4):
    threading.Thread(target=write, args=(f"{seed}.{index}",)).start()
"""


def killed(script: str, *arguments: object, after: int) -> list[str]:
    """Run a child until it has said `after` lines, kill it, and return all that it said."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = [child.stdout.readline() for _ in range(after)]
    assert all(said), child.stderr.read()
    os.kill(child.pid, signal.SIGKILL)
    rest, _ = child.communicate(timeout=60)
    return [line for line in [*said, *rest.splitlines(keepends=True)] if line.endswith("\n")]


def check_appends(store: EventStore) -> dict[int, list[object]]:
    """Assert that the log is sound and all its appends whole; return `by` of every position."""
    assert verify(store).findings == []
    events = list(store.all())
    assert [each.position for each in events] == list(range(store.head().size))
    said = [each for each in events if each.type == "MessageAppended"]
    found = {each.position: each.event.message.fields["by"] for each in said}
    for (_, _, parts), whole in groupby(found.values(), key=lambda by: (by[0], by[1], by[3])):
        assert [by[2] for by in whole] == list(range(parts))
    return found


@pytest.mark.parametrize("kills", [8, LONG])
def test_what_was_acknowledged_survives(tmp_path, kills):
    """Killed at any moment, again and again, a store keeps every append it gave a receipt for."""
    path, moments = tmp_path / "h", random.Random(7)
    with EventStore.open(path) as store:
        for index in range(3):
            store.create(f"s{index}")
    acknowledged: dict[int, list[object]] = {}
    for kill in range(kills):
        lines = killed(WRITER, path, kill, "sync", after=moments.randrange(1, 60))
        for caller, number, position, _ in map(json.loads, lines):
            acknowledged[position] = [caller, number, number % 3, 1 + number % 3]
        with EventStore.open(path) as store:
            found = check_appends(store)
            store.append("s0", {"content": "still here", "by": ["main", kill, 0, 1]})
        assert {position: found.get(position) for position in acknowledged} == acknowledged


def test_buffered_loses_at_most_the_newest(tmp_path):
    """Killed with durability="buffered", a store keeps a whole prefix of what each caller said."""
    path = tmp_path / "h"
    with EventStore.open(path) as store:
        for index in range(3):
            store.create(f"s{index}")
    for kill in range(3):
        # Of 100 lines one caller said 25, and its prune after 20 is durable: so something is.
        killed(WRITER, path, kill, "buffered", after=100 + kill)
        with EventStore.open(path) as store:
            by_caller: dict[str, list[int]] = {}
            for caller, number, part, _ in check_appends(store).values():
                by_caller.setdefault(caller, [])
                if part == 0:
                    by_caller[caller].append(number)
        assert all(numbers == list(range(len(numbers))) for numbers in by_caller.values())
        assert by_caller


CREATOR = """
import sys
from itertools import count
from eventstore import EventStore

for number in count():
    EventStore.open(f"{sys.argv[1]}/{sys.argv[2]}.{number}").close()
    print(number, flush=True)
"""


@pytest.mark.parametrize("kills", [4, LONG])
def test_a_store_is_made_whole_or_not_at_all(tmp_path, kills):
    """Killed while it makes stores, a process leaves whole ones, or room to make them."""
    moments = random.Random(7)
    for kill in range(kills):
        made = len(killed(CREATOR, tmp_path, kill, after=moments.randrange(1, 4)))
        for number in range(made + 1):
            place = tmp_path / f"{kill}.{number}"
            assert number == made or place.is_dir()
            check_empty(place)


def check_empty(place: Path) -> None:
    """Assert that a store at this place, made or still to be made, is empty, sound and of use."""
    with EventStore.open(place) as store:
        assert store.head().size == 0 and verify(store).findings == []
        assert store.create("s").position == 0
