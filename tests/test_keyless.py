"""Encrypted stores by themselves: what needs no keys works, all else is refused by name."""

import asyncio
import shutil
from pathlib import Path

import pytest
from facts import NOTED, fill, told
from sealing import facts_of

from eventstore import (
    EventStore,
    Keyring,
    SessionNotFound,
    StoreUnavailable,
)
from eventstore.audit.verify import verify, verify_directory
from eventstore.care.backup import backup, restore
from eventstore.cli.views import parse_side
from eventstore.ids import SYSTEM
from eventstore.interchange.jsonl import export_events, import_events
from eventstore.log.base import key_of
from eventstore.log.draft import draft
from eventstore.place.directory import ensure_store
from eventstore.store import starter_dictionary
from projections import BranchTree, SessionState, Views

# -- without the keyring, or with another one ------------------------------------------------


def entries(store: EventStore) -> list[tuple]:
    """Return what the heads say of every event."""
    told = ("position", "version", "type", "size", "tokens", "role", "recorded_at", "number")
    return [tuple(getattr(each, name) for name in told) for each in store.all()]


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Path:
    """Give a place with a filled encrypted store and its keyring; to be copied."""
    place = tmp_path_factory.mktemp("filled")
    with EventStore.open(place / "history", keyring=Keyring.file(place / "keyring")) as store:
        fill(store)
    return place


@pytest.fixture
def closed(filled, tmp_path) -> Path:
    """Give the directory of a copy of that store."""
    shutil.copytree(filled, tmp_path, dirs_exist_ok=True)
    return tmp_path / "history"


def test_without_its_keyring_a_store_shows_heads_and_pseudonyms(closed, keyring):
    """Positions, types, times, sizes and counts are readable; names are pseudonyms, in order."""
    with EventStore.open(closed, keyring=keyring) as store, EventStore.open(closed) as locked:
        assert entries(locked) == entries(store)
        assert locked.head() == store.head()
        names = list(locked.sessions())
        assert names == sorted(names) and len(names) == 2 and not {"a", "b"} & set(names)
        assert sorted(map(locked.version, names)) == sorted(map(store.version, "ab"))
        pseudonyms = {each.actor for each in locked.all()}
        assert len(pseudonyms) == len({each.actor for each in store.all()})
        assert "user:2" not in pseudonyms
        assert {each.key for each in locked.all()} > {None}
        with pytest.raises(SessionNotFound):
            locked.version("a")


def test_without_its_keyring_no_name_is_said_not_to_exist(closed, keyring):
    """Who asks for a session by name is told that the store is encrypted, not to create it."""
    asks = [
        lambda store: store.version("a"),
        lambda store: store.events("a"),
        lambda store: SessionState.of(store, "a"),
        lambda store: SessionState.of(store, "a", at_version=0),
        lambda store: SessionState.of(store, "a", at_position=3),
        lambda store: BranchTree.of(store, "a"),
        lambda store: list(export_events(store, ["a"])),
    ]
    with EventStore.open(closed) as locked:
        for ask in asks:
            with pytest.raises(SessionNotFound, match="encrypted; open it with keyring=") as told:
                ask(locked)
            assert "does not exist" not in str(told.value)
    with EventStore.open(closed, keyring=keyring) as opened:
        for ask in asks:
            ask(opened)
        with pytest.raises(SessionNotFound, match="'c' does not exist; check the name"):
            opened.version("c")


def test_without_its_keyring_no_payload_is_opened(closed):
    """Events, states, views and exports say that the store is encrypted and how to open it."""
    with EventStore.open(closed) as locked:
        name = next(iter(locked.sessions()))
        for read in (
            lambda: locked.event(2).event,
            lambda: SessionState.of(locked, name),
            lambda: Views(locked).sessions(),
            lambda: list(export_events(locked)),
        ):
            with pytest.raises(StoreUnavailable, match="encrypted; open it with keyring="):
                read()


def test_without_its_keyring_nothing_is_written(closed, tmp_path):
    """Every way to write is refused before anything is written."""
    with EventStore.open(closed) as locked, EventStore.in_memory() as other:
        other.create("new")
        head, name = locked.head(), next(iter(locked.sessions()))
        for write in (
            lambda: locked.create("new"),
            lambda: locked.append(name, {"content": "x"}),
            lambda: locked.merge(name, into="x"),
            lambda: asyncio.run(locked.aio.append(name, {"content": "x"})),
            lambda: import_events(locked, list(export_events(other))),
            locked.train_dictionary,
        ):
            with pytest.raises(StoreUnavailable, match="encrypted; open it with keyring="):
                write()
        with pytest.raises(StoreUnavailable, match="encrypted"):
            draft(name, [NOTED], locked.log.codec, bytes(16))
        assert locked.head() == head


def refused(place: Path, keyring: Keyring | None, match: str) -> None:
    """Check that a store does not open, and that nothing at all changes on the disk."""
    before = {each: each.read_bytes() for each in place.parent.rglob("data.mdb")}
    with pytest.raises(StoreUnavailable, match=match):
        EventStore.open(place, keyring=keyring)
    after = {each: each.read_bytes() for each in place.parent.rglob("data.mdb")}
    assert {each: after[each] for each in before} == before


def test_a_keyring_of_another_store_is_refused(closed, tmp_path):
    """One keyring belongs to one store; a new store does not take another's either."""
    other = Keyring.file(tmp_path / "other")
    with EventStore.open(tmp_path / "second", keyring=other) as second:
        second.create("a")
    refused(closed, other, "is the keyring of store")
    refused(tmp_path / "third", other, "needs a keyring of its own")
    assert not (tmp_path / "third").exists()


def test_a_keyring_makes_no_missing_store_to_read(closed, keyring, tmp_path):
    """Who reads where no store is hears of that, not of the keyring that is another's."""
    with pytest.raises(StoreUnavailable, match="holds no event store"):
        EventStore.open(tmp_path / "other", keyring=keyring, read_only=True)


def test_a_keyring_that_is_gone_is_named(closed, tmp_path):
    """A missing keyring is not made anew for a store that has facts."""
    refused(closed, Keyring.file(tmp_path / "nowhere"), "there is no keyring at")
    assert not (tmp_path / "nowhere").exists()


def test_a_plain_store_stays_plain(tmp_path, disk, keyring):
    """A store is encrypted when it is made or never; the keyring stays unused."""
    disk.create("a")
    refused(tmp_path / "history", keyring, "is not encrypted and stays so")
    assert not keyring.path.exists()


def test_a_keyring_inside_the_store_is_refused(tmp_path):
    """Keys that lie in the store would be copied with it."""
    place = tmp_path / "history"
    with pytest.raises(StoreUnavailable, match="is inside the store"):
        EventStore.open(place, keyring=Keyring.file(place / "keyring"))
    assert not place.exists()


def test_a_crash_before_the_first_fact_is_made_good(tmp_path, keyring):
    """A store that died before its keyring was made gets one, and its system stream, at next."""
    ensure_store(tmp_path / "history", starter_dictionary(), encrypted=True)
    with EventStore.open(tmp_path / "history") as locked:
        assert locked.head().size == 0
    for _ in range(2):
        with EventStore.open(tmp_path / "history", keyring=keyring) as store:
            assert [each.type for each in store.all()] == ["SessionCreated", "KeyCreated"]


def test_a_keyring_opens_a_store_to_read_only(closed, keyring):
    """With the keyring, a store open read-only shows everything and writes nothing."""
    with EventStore.open(closed, keyring=keyring, read_only=True) as store:
        assert list(store.sessions()) == ["a", "b"]
        assert SessionState.of(store, "a").messages[-1].content
        with pytest.raises(StoreUnavailable, match="read-only"):
            store.create("c")


# -- verify, evidence, copies ----------------------------------------------------------------


def test_verify_needs_no_key_for_the_tree(closed, keyring):
    """Without the keyring frames, tree, sealed bytes and keys are checked; with it all the rest."""
    locked, opened = verify_directory(closed, deep=True), None
    with EventStore.open(closed, keyring=keyring) as store:
        opened = verify(store, deep=True)
    assert locked.sound and opened.sound, told(locked) + told(opened)
    assert (locked.root, locked.size) == (opened.root, opened.size)
    assert locked.checked["payloads left sealed"] == locked.size
    assert "payloads left sealed" not in opened.checked and opened.checked["states"] == 2


def test_nobody_is_told_that_a_session_does_not_exist_by_a_store_that_can_t_know(closed):
    """Without the keyring a name may be there: that is said, and pseudonyms are there."""
    with EventStore.open(closed) as locked:
        for name in ("a", "no such session"):
            with pytest.raises(StoreUnavailable, match="keyring"):
                locked.exists(name)
        assert all(locked.exists(each) for each in locked.sessions())
        pseudonym = next(locked.sessions())
        assert parse_side(locked, f"{pseudonym}@1") == (pseudonym, 1)


def test_verify_names_a_session_whose_key_is_gone(closed, keyring):
    """A key that is not in the keyring is named once; the tree is whole all the same."""
    with EventStore.open(closed, keyring=keyring) as store:
        key = key_of(store.log, "b")
        store.log.codec.seal.vault.shred([key])
    report = verify_directory(closed, keyring=keyring)
    assert [f"{key:016x}" in found.what for found in report.findings] == [True], told(report)


def test_a_backup_is_opened_by_the_same_keyring(closed, tmp_path, keyring):
    """Backup and restore copy ciphertext; the keyring opens the copy, and nothing else does."""
    with EventStore.open(closed, keyring=keyring) as store:
        backup(store, tmp_path / "backup")
        facts = facts_of(store)
    restore(tmp_path / "backup", tmp_path / "restored")
    with EventStore.open(tmp_path / "restored", keyring=keyring) as again:
        assert facts_of(again) == facts
        assert verify(again, deep=True).sound
    with EventStore.open(tmp_path / "restored") as locked, pytest.raises(StoreUnavailable):
        _ = locked.event(0).event


def test_events_go_out_and_in(closed, tmp_path, keyring):
    """What is exported from an encrypted store can be imported into a plain one and back."""
    with EventStore.open(closed, keyring=keyring) as store, EventStore.in_memory() as plain:
        lines = list(export_events(store))
        import_events(plain, lines)
        assert list(plain.sessions()) == ["a", "b"] and not plain.exists(SYSTEM)
        again = Keyring.file(tmp_path / "again")
        with EventStore.open(tmp_path / "back", keyring=again) as back:
            import_events(back, list(export_events(plain)))
            for each in (plain, back):
                assert [e.event for e in each.events("a")] == [e.event for e in store.events("a")]
                assert SessionState.of(each, "a").messages[-1] is not None
            assert verify(back, deep=True).sound and verify(plain, deep=True).sound
            assert key_of(back.log, "a") != key_of(back.log, "b")
            repeated = back.append("b", {"content": "x"}, key="many")
            assert repeated.duplicate
