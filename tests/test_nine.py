"""Nine kinds of tampering with a closed store, each made good again by whoever did it.

The hand knows our format: it empties the tables and writes the altered history anew, so that
checksums, versions, indexes, tiles and the tree head all fit. Only what is kept outside tells.
"""

import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

import lmdb
import msgspec
import pytest
from facts import told

from eventstore import EventStore
from eventstore import events as ev
from eventstore.audit.heads import Heads
from eventstore.audit.note import Checkpoint, origin_of, sign_note
from eventstore.audit.outside import Outside
from eventstore.audit.report import Report
from eventstore.audit.signer import SigningKey
from eventstore.audit.tiles import export_tiles
from eventstore.audit.tree import EMPTY_ROOT
from eventstore.audit.verify import verify, verify_directory
from eventstore.care.backup import backup
from eventstore.log.base import ANY, Append
from eventstore.log.draft import draft
from eventstore.log.format import (
    ACTORS,
    FRAMES,
    HEAD_KEY,
    HEAD_ROW,
    KEYS,
    REFS,
    STREAMS,
    TILES,
)
from eventstore.log.lmdb import LmdbLog
from eventstore.log.recorded import Recorded
from eventstore.log.rows import checked_row
from eventstore.messages import Message
from eventstore.place.directory import INCREMENTS

KEY_SEED = bytes(range(32))
TURNS = 600


class Fact(msgspec.Struct):
    """One event as the hand has it: it may alter all of it, the salt is stolen."""

    session: str
    event: ev.Event
    salt: bytes
    actor: str | None
    recorded_at: int


class World(msgspec.Struct):
    """A signed history, and what is kept of it outside."""

    place: Path
    key: SigningKey
    notes: dict[str, bytes]
    tiles: Path
    copy: Path

    def outside(self, *, tiles: bool) -> Outside:
        notes = list(self.notes.items())
        return Outside(notes, [self.key.verifier], self.tiles if tiles else None)

    def verified(self, *, tiles: bool = True) -> Report:
        """Return what verify says with heads, and with tiles, from outside."""
        return verify_directory(self.place, outside=self.outside(tiles=tiles))


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Give a history of two sessions with heads of 201, 401 and all events, and a backup of 401."""
    home = tmp_path_factory.mktemp("nine")
    ticks = count(10**18, 10**6)
    options = {"clock": lambda: next(ticks), "actor": "user:1", "durability": "buffered"}
    with EventStore.open(home / "history", **options) as store:
        key = SigningKey(origin_of("example.com/support", store.id), KEY_SEED)
        heads = Heads(store, key, home / "kept" / "last.note")
        world = World(home / "history", key, {}, home / "tiles", home / "copy")
        store.create("a")
        for turn in range(TURNS):
            store.append("a", {"role": "user", "content": f"turn {turn}"})
            if turn in (199, 399, TURNS - 1):
                world.notes[f"{turn}.note"] = heads.sign()
            if turn == 399:
                backup(store, world.copy)
        export_tiles(store, world.notes[f"{TURNS - 1}.note"], [key.verifier], world.tiles)
    return world


@pytest.fixture
def world(signed: World, tmp_path: Path) -> World:
    """Give a copy of it that may be tampered with; what is kept outside is the same."""
    place = tmp_path / "history"
    shutil.copytree(signed.place, place, ignore=shutil.ignore_patterns("lock.mdb"))
    return msgspec.structs.replace(signed, place=place)


# -- the hand --------------------------------------------------------------------------------
# ruff: noqa: D103 - the name of a deed says all that it does


def taken(recorded: Recorded) -> Fact:
    """Take an event out of a log."""
    salt = recorded.frame.opened(recorded.index)[1]
    session, event, actor = recorded.session, recorded.event, recorded.actor
    return Fact(session, event, salt, actor, recorded.recorded_at)


def facts_of(place: Path) -> list[Fact]:
    """Return all facts of a store."""
    with EventStore.open(place, read_only=True) as store:
        return [taken(recorded) for recorded in store.all()]


def rewritten(place: Path, facts: list[Fact]) -> None:
    """Put these facts into the place of a store's own, with everything around them made anew."""
    for caches in place.iterdir():
        if caches.name not in ("log", "eventstore.json"):
            shutil.rmtree(caches)
    emptied(place / "log")
    log = LmdbLog(place / "log")
    made = [(draft(each.session, [each.event], log.codec, each.salt), each) for each in facts]
    appends = [
        Append((one,), (ANY,), actor=each.actor, recorded_at=each.recorded_at) for one, each in made
    ]
    assert not [each for each in log.commit(appends, 0) if isinstance(each, Exception)]
    log.close()


def emptied(log: Path) -> None:
    env = lmdb.open(str(log), max_dbs=16, map_size=1 << 30)
    with env.begin(write=True) as txn:
        for name in (FRAMES, REFS, ACTORS, KEYS, TILES):
            txn.drop(env.open_db(name, txn=txn), delete=False)
        txn.drop(env.open_db(STREAMS, txn=txn, dupsort=True, dupfixed=True), delete=False)
        txn.put(HEAD_KEY, checked_row(HEAD_ROW.pack(0, 0, 0)))
    env.close()


def said(text: str) -> ev.MessageAppended:
    return ev.MessageAppended(Message({"role": "user", "content": text}), 2)


Hand = Callable[[list[Fact]], None]


def edit(facts: list[Fact]) -> None:
    facts[300].event = said("never said")


def delete(facts: list[Fact]) -> None:
    del facts[300]


def truncate(facts: list[Fact]) -> None:
    del facts[500:]


def reorder(facts: list[Fact]) -> None:
    one, two = facts[300], facts[310]
    one.event, two.event, one.salt, two.salt = two.event, one.event, two.salt, one.salt


def forge(facts: list[Fact]) -> None:
    facts.insert(300, Fact("a", said("forged"), bytes(16), "user:9", facts[300].recorded_at))


def put_in_place(facts: list[Fact]) -> None:
    facts[300] = Fact("a", said("forged"), bytes(16), "user:9", facts[300].recorded_at)


def insert(facts: list[Fact]) -> None:
    with EventStore.in_memory(clock=lambda: facts[300].recorded_at) as other:
        other.create("a")
        other.append("a", {"role": "user", "content": "said elsewhere"})
        facts.insert(300, taken(other.event(1)))


def replay(facts: list[Fact]) -> None:
    again = msgspec.structs.replace(facts[100], recorded_at=facts[300].recorded_at)
    facts.insert(300, again)


def change_actor(facts: list[Fact]) -> None:
    facts[300].actor = "user:2"


def change_time(facts: list[Fact]) -> None:
    facts[300].recorded_at -= 1


NINE: list[tuple[Hand, int, str]] = [
    (edit, 300, "edited: this event's payload is not what was signed"),
    (delete, 300, "deleted: 1 event signed from here on, later ones moved up"),
    (truncate, 499, "truncated: the log ends here, 601 events were signed; 101 are missing"),
    (reorder, 300, "reordered: the event that was signed 10 positions later stands here"),
    (forge, 300, "inserted: 1 event from here on, never signed: forged, or the record of"),
    (put_in_place, 300, "forged: another event, never signed, stands in the place of this one"),
    (insert, 300, "inserted: 1 event from here on, never signed: forged, or the record of"),
    (replay, 300, "replayed: the event of position 100 stands here once more"),
    (change_actor, 300, "metadata changed: actor of this event is not what was signed"),
    (change_time, 300, "metadata changed: recorded_at of this event is not what was signed"),
]


@pytest.mark.parametrize(("hand", "position", "what"), NINE, ids=[row[0].__name__ for row in NINE])
def test_tampering_is_named_by_what_is_kept_outside(
    world: World, hand: Hand, position: int, what: str
):
    """By itself the store is sound; heads show the stretch, tiles name the event and the deed."""
    facts = facts_of(world.place)
    hand(facts)
    rewritten(world.place, facts)
    assert verify_directory(world.place, deep=True).sound
    by_heads = world.verified(tiles=False)
    assert not by_heads.sound
    assert {each.position for each in by_heads.findings} <= {*range(201, 402), 499}
    (found,) = world.verified().findings
    assert (found.position, found.what[: len(what)]) == (position, what)


def test_a_rolled_back_store_is_named(world: World):
    """An older copy ends with an older signed head; written on, it holds another history."""
    shutil.rmtree(world.place)
    shutil.copytree(world.copy, world.place, ignore=shutil.ignore_patterns(INCREMENTS))
    assert verify_directory(world.place).sound
    for tiles in (False, True):
        assert "rolled back" in told(world.verified(tiles=tiles))
    with EventStore.open(world.place) as store:
        store.append("a", [{"role": "user", "content": f"other {turn}"} for turn in range(300)])
    assert verify_directory(world.place).sound
    assert "up to position 600 are not those" in told(world.verified(tiles=False))
    (found,) = world.verified().findings
    assert (found.position, found.what[:11]) == (401, "rolled back")


def test_a_forged_head_is_named(world: World):
    """Whoever rebuilds a history and signs it with a key of his own is found out by the key."""
    facts = facts_of(world.place)
    edit(facts)
    rewritten(world.place, facts)
    with EventStore.open(world.place) as store:
        head = store.head()
        own = SigningKey(world.key.name, bytes(32))
        forged = sign_note(str(Checkpoint(own.name, head.size, head.root)), own)
        outside = Outside([("new.note", forged)], [world.key.verifier])
        assert "forged: new.note is no signed head: no known key" in told(
            verify(store, outside=outside)
        )


def test_an_untouched_store_stands_against_all_of_it(world: World):
    """Nothing is found where nothing was done, also when the log has grown meanwhile."""
    assert world.verified().sound
    with EventStore.open(world.place) as store:
        store.append("a", {"role": "user", "content": "more"})
    report = world.verified()
    assert report.sound
    assert report.checked["signed heads"] == 3


def test_a_head_of_another_store_is_named(world: World):
    """A head that is not this store's proves nothing about it and is not passed over."""
    key = SigningKey("example.com/other/x", KEY_SEED)
    note = sign_note(str(Checkpoint(key.name, 0, EMPTY_ROOT)), key)
    outside = Outside([("x.note", note)], [key.verifier])
    report = verify_directory(world.place, outside=outside)
    assert "x.note is a head of 'example.com/other/x', not of store" in told(report)


@pytest.mark.parametrize("name", ["checkpoint", "tile/1/000.p/2", "tile/entries/001", "tile/0/001"])
def test_tiles_that_are_not_their_heads_are_named(world: World, tmp_path: Path, name: str):
    """What is kept outside may be damaged too: it is named, and nothing is concluded from it."""
    facts = facts_of(world.place)
    edit(facts)
    rewritten(world.place, facts)
    tiles = tmp_path / "tiles"
    shutil.copytree(world.tiles, tiles)
    raw = bytearray((tiles / name).read_bytes())
    raw[-50] ^= 1
    (tiles / name).write_bytes(raw)
    world = msgspec.structs.replace(world, tiles=tiles)
    report = world.verified()
    assert not report.sound
    assert "edited" not in told(report) or name == "tile/0/001"
