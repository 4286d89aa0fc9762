"""What is done to a store while its calls are recorded.

Run as a program this file is the writer: it does the scenarios named on its command line, each
in a directory of its own, and prints what a user was told. A new kind of write joins as one more
row of SCENARIOS.
"""

import os
import sys
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from random import Random

from driver import Driver, steps_of

from eventstore import EventStore, Recorded
from eventstore.audit.heads import Heads
from eventstore.audit.note import open_checkpoint
from eventstore.audit.signer import SigningKey
from eventstore.audit.trust import LAST_NOTE, VERIFIER_KEY, audit_directory
from eventstore.care.backup import backup, restore
from eventstore.care.compacting import compact
from eventstore.files import make_directory, sync_directory, write_durably
from eventstore.ids import SYSTEM
from eventstore.keyring import Keyring
from eventstore.state.snapshots import LmdbSnapshots
from projections import SessionState, Views

MOVED = "new/deep/other"
TICK = 1_000_000
PLACE, COPY, AGAIN, KEYRING = "new/deep/h", "copies/of/h", "again", "secure/keyring"
DOOMED = "doomed"


# -- what is told ----------------------------------------------------------------------------


def say(*words: object) -> None:
    """Print a line with one call, as a user is told something."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def opened(root: Path, **options) -> EventStore:
    """Open the scenario's store, with a clock that only moves by being looked at."""
    ticks = count(1_700_000_000_000_000_000, TICK)
    store = EventStore.open(root / PLACE, clock=lambda: next(ticks), actor="user:0", **options)
    say("made")
    return store


def prepared(root: Path, **options) -> EventStore:
    """Open a store with a little in it, and have the crashes begin from here."""
    with opened(root) as store:
        store.create("a", user="u1")
        for number in range(6):
            store.append("a", line(number), key=f"first {number}")
        acknowledge(store)
    store = opened(root, **options)
    say("start")
    return store


def line(number: int) -> dict:
    """Return a message; some need pages of their own."""
    text = Random(number).randbytes(3_000).hex() if number % 5 == 4 else f"line {number}"
    return {"role": "user", "content": text}


def shown(recorded: Recorded) -> str:
    """Return an event with its place as comparable text; of an erased one, what is left."""
    place = recorded.position, recorded.session, recorded.version, recorded.recorded_at
    names = recorded.actor, recorded.correlation_id, recorded.key, recorded.occurred_at
    fact = "erased" if recorded.erased else recorded.event
    return repr((place, names, recorded.role, recorded.tokens, fact))


def said_in(store: EventStore) -> list[Recorded]:
    """Return all facts but those that a store notes about itself."""
    return [each for each in store.all() if each.session != SYSTEM]


def acknowledge(store: EventStore) -> None:
    """Say what is in the log, as a receipt does."""
    say("size", store.head().size)


def keyring(root: Path) -> Keyring:
    """Return the keyring of a scenario that encrypts."""
    return Keyring.file(root / KEYRING)


def key_of(store: EventStore) -> SigningKey:
    """Return the key that signs the heads of a store."""
    return SigningKey(f"example.com/crash/{store.id}", bytes(range(32)))


# -- the scenarios ---------------------------------------------------------------------------


def write_creation(root: Path) -> None:
    """Make a store in directories that are to be made too; say what it is told."""
    say("start")
    with opened(root) as store:
        store.create("a")
        acknowledge(store)
        store.append("a", line(0))
        acknowledge(store)


def write_appends(root: Path) -> None:
    """Append one by one: small, large, many at once, with keys."""
    with prepared(root) as store:
        for number in range(10):
            receipt = store.append("a", line(number), key=f"k{number}")
            say("size", receipt.tree_size)
        receipt = store.append("a", [line(number) for number in range(12)])
        say("size", receipt.tree_size)


def write_commands(root: Path) -> None:
    """Use every command: branches, merges of several streams, pruning, rewinding, deletions."""
    with prepared(root) as store:
        driver = Driver(store)
        for step in steps_of(seed=3, length=24):
            driver.run(step)
            acknowledge(store)


def write_merges(root: Path) -> None:
    """Merge branches, which appends to two streams at once."""
    with prepared(root) as store:
        for strategy in ("append", "adopt", "interleave", "squash"):
            store.branch("a", strategy)
            acknowledge(store)
            store.append(strategy, [line(1), line(2)])
            acknowledge(store)
            summary = "in short" if strategy == "squash" else None
            store.merge(strategy, into="a", strategy=strategy, summary=summary)
            acknowledge(store)


def write_groups(root: Path) -> None:
    """Append from several threads, which share commits."""
    with prepared(root) as store:

        def caller(name: int) -> None:
            for number in range(6):
                receipt = store.append("a", line(10 * name + number), key=f"{name}.{number}")
                say("size", receipt.tree_size)

        in_threads(caller, range(4))


def write_buffered(root: Path) -> None:
    """Append with early acknowledgements, from two threads; flush now and then."""
    with prepared(root, durability="buffered") as store:

        def caller(name: int) -> None:
            for number in range(12):
                receipt = store.append("a", line(10 * name + number))
                say("early", receipt.tree_size)
                if number == 6 * name:
                    store.flush()
                    say("size", receipt.tree_size)

        in_threads(caller, range(2))
        newest = store.head().size
    say("size", newest)


def in_threads(act: Callable[[int], None], names: range) -> None:
    """Run `act` in a thread for each name."""
    threads = [threading.Thread(target=act, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def write_views(root: Path) -> None:
    """Have views catch up between appends, and build one anew."""
    with prepared(root) as store:
        views = Views(store)
        for number in range(3):
            store.create(f"s{number}", metadata={"n": number})
            acknowledge(store)
            store.branch("a", f"b{number}", at=3)
            acknowledge(store)
            assert views.sessions().rows and views.statistics() and views.tree("a")
        views.rebuild("catalog")
        acknowledge(store)


def write_snapshots(root: Path) -> None:
    """Append so much that headers are saved, and read old states."""
    with prepared(root) as store:
        for turn in range(4):
            store.append("a", [line(number % 4) for number in range(80)])
            acknowledge(store)
            for version in (60, 80 * turn + 40):
                assert SessionState.of(store, "a", at_version=version).version == version
        assert isinstance(store.headers._snapshots, LmdbSnapshots)


def write_backup(root: Path) -> None:
    """Copy a store in use, go on with it, add what is new to the copy, make a store of that."""
    with prepared(root) as store:
        say("copied", backup(store, root / COPY).size)
        store.append("a", line(4))
        acknowledge(store)
        added = backup(store, root / COPY, incremental=True).size
        say("added", added)
    restore(root / COPY, root / AGAIN)
    say("restored", added)


def write_compaction(root: Path) -> None:
    """Free pages, have the store take fewer, and go on with it."""
    with opened(root) as store:
        store.create("a")
        views = Views(store)
        for number in range(6):
            acknowledge(store)
            store.append("a", [line(number) for number in range(9)])
            assert views.sessions().rows
        acknowledge(store)
    say("start")
    assert any(each.after < each.before for each in compact(root / PLACE))
    with opened(root) as store:
        store.append("a", line(1))
        acknowledge(store)


def write_heads(root: Path) -> None:
    """Sign heads while the log grows; the last one is kept outside."""
    with opened(root) as store:
        trust = audit_directory(root / PLACE)
        make_directory(trust)
        write_durably(trust / VERIFIER_KEY, str(key_of(store).verifier).encode())
        sync_directory(trust)
    with prepared(root) as store:
        heads = Heads(store, key_of(store), trust / LAST_NOTE)
        for number in range(4):
            note = heads.sign()
            say("signed", open_checkpoint(note, [key_of(store).verifier]).size)
            store.append("a", [line(number), line(number + 1)])
            acknowledge(store)


def write_reopening(root: Path) -> None:
    """Open, append and close, again and again."""
    prepared(root).close()
    for number in range(3):
        with opened(root) as store:
            store.append("a", line(number))
            acknowledge(store)


def write_moved(root: Path) -> None:
    """Open a store under a name that nobody has synced, as whoever gave it may have died."""
    EventStore.open(root / PLACE).close()
    (root / PLACE).rename(root / MOVED)
    (root / MOVED).rename(root / PLACE)
    say("start")
    with opened(root) as store:
        store.create("a")
        acknowledge(store)


def write_dictionary(root: Path) -> None:
    """Train a dictionary and write with it."""
    with prepared(root) as store:
        store.append("a", [line(number % 4) for number in range(300)])
        acknowledge(store)
        store.train_dictionary()
        store.append("a", [line(0), line(1)])
        acknowledge(store)


def write_encrypted(root: Path) -> None:
    """Append to sessions whose payloads have keys of their own, which must be there first."""
    say("encrypted")
    say("start")
    with opened(root, keyring=keyring(root)) as store:
        for number in range(3):
            store.create(f"s{number}")
            acknowledge(store)
            store.append(f"s{number}", [line(number), line(4)])
            acknowledge(store)


def write_erasure(root: Path) -> None:
    """Erase a session whose branch and merge target have lines of it, and go on."""
    say("encrypted")
    with opened(root, keyring=keyring(root)) as store:
        store.create("kept")
        store.create(DOOMED, user="u1", metadata={"topic": "secret"})
        store.append(DOOMED, [line(number) for number in range(6)], key="k")
        store.branch(DOOMED, "branch", at=4)
        store.merge("branch", into="kept")
        for recorded in said_in(store):
            say("fact", shown(recorded))
        acknowledge(store)
        say("start")
        store.erase(DOOMED, reason="asked for", cascade=True)
        say("erased")
        say("between", store.head().size - 1)
        acknowledge(store)
        store.append("kept", line(1))
        acknowledge(store)


# -- the table ------------------------------------------------------------------------------

SCENARIOS: dict[str, Callable[[Path], None]] = {
    "creation": write_creation,
    "appends": write_appends,
    "commands": write_commands,
    "merges": write_merges,
    "groups": write_groups,
    "buffered": write_buffered,
    "views": write_views,
    "snapshots": write_snapshots,
    "backup": write_backup,
    "heads": write_heads,
    "reopening": write_reopening,
    "moved": write_moved,
    "dictionary": write_dictionary,
    "encrypted": write_encrypted,
    "compaction": write_compaction,
    "erasure": write_erasure,
}


def main(base: Path, names: list[str]) -> None:
    """Do the scenarios."""
    for name in names:
        (base / name).mkdir()
        say("begin", name)
        SCENARIOS[name](base / name)
        say("end")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
