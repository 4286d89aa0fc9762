"""The last signed head outside a store: checked at opening, handed over, begun anew."""

import asyncio
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from facts import STORE, told

from eventstore import (
    EventStore,
    KeyReused,
    ProofError,
    RollbackDetected,
    StoreUnavailable,
)
from eventstore.audit.heads import Heads, open_head
from eventstore.audit.note import open_checkpoint, origin_of
from eventstore.audit.outside import Outside
from eventstore.audit.signer import SigningKey
from eventstore.audit.trust import (
    LAST_NOTE,
    VERIFIER_KEY,
    audit_directory,
    known_keys,
    rotation_path,
)
from eventstore.audit.verifier import main as verifier
from eventstore.audit.verify import verify, verify_directory
from eventstore.care.backup import backup, restore
from eventstore.engine.system import ORIGIN
from eventstore.ids import SYSTEM
from eventstore.log.format import MARKER
from eventstore.place.directory import INCREMENTS
from projections import SessionState

HELLO = {"role": "user", "content": "hello"}


def key_of(store: EventStore, directory: Path) -> SigningKey:
    """Return a fresh key for a store, known in its audit directory."""
    key = SigningKey.generate(origin_of("example.com/support", store.origin))
    directory.mkdir(exist_ok=True)
    (directory / VERIFIER_KEY).write_text(f"{key.verifier}\n")
    return key


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Give a signed history of 301 facts, and beside it an older copy of 201."""
    path = tmp_path / "history"
    with EventStore.open(path) as store:
        store.create("s")
        store.append("s", [HELLO] * 200)
        backup(store, tmp_path / "copy")
        store.append("s", [HELLO] * 100)
        audit = audit_directory(path)
        Heads(store, key_of(store, audit), audit / LAST_NOTE).sign()
    return path


def set_back(place: Path) -> None:
    """Put the older copy into the place of the store."""
    shutil.rmtree(place)
    shutil.copytree(place.with_name("copy"), place, ignore=shutil.ignore_patterns(INCREMENTS))


# -- opening ---------------------------------------------------------------------------------


def test_the_audit_directory_lies_beside_the_store(tmp_path: Path):
    """Whatever way the store is named, it is the same directory, outside of it."""
    (tmp_path / "history").mkdir()
    (tmp_path / "link").symlink_to("history")
    for name in ("history", "link", "history/.", "history/../link"):
        assert audit_directory(tmp_path / name) == tmp_path / "history.audit"


def test_a_log_that_leads_on_is_trusted(place: Path):
    """An untouched store opens as ever, before and after it grew."""
    for _ in range(3):
        with EventStore.open(place) as store:
            assert store.distrust is None
            store.append("s", HELLO)


COMMANDS: dict[str, Callable[[EventStore], object]] = {
    "append": lambda store: store.append("s", HELLO),
    "create": lambda store: store.create("other"),
    "delete": lambda store: store.delete("s"),
    "record_system": lambda store: store.record_system("note"),
    "train_dictionary": lambda store: store.train_dictionary(),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_a_store_that_was_set_back_is_read_only(place: Path, command):
    """Commands raise RollbackDetected with both sizes and write nothing; reads go on."""
    set_back(place)
    with EventStore.open(place) as store:
        assert isinstance(store.distrust, RollbackDetected)
        with pytest.raises(RollbackDetected, match="301 events was signed, the log has only 201"):
            command(store)
        assert len(SessionState.of(store, "s").messages) == 200
        assert store.head().size == 201


def test_another_history_of_the_same_length_is_not_trusted(place: Path):
    """Facts appended to an older copy don't make up for those that were signed."""
    audit = audit_directory(place)
    audit.rename(audit.with_name("away"))
    set_back(place)
    with EventStore.open(place) as store:
        store.append("s", [HELLO] * 150)
    audit.with_name("away").rename(audit)
    with EventStore.open(place) as store:
        with pytest.raises(RollbackDetected, match="first 301 events are not those"):
            store.append("s", HELLO)
        assert store.head().size == 351


def test_a_head_can_be_kept_anywhere_else(place: Path, tmp_path: Path):
    """`trust=` names the directory; one that is missing or inside the store is refused."""
    audit = audit_directory(place)
    audit.rename(tmp_path / "vault")
    set_back(place)
    with EventStore.open(place, trust=tmp_path / "vault") as store:
        assert isinstance(store.distrust, RollbackDetected)
    with EventStore.open(place) as store:
        assert store.distrust is None
    with pytest.raises(StoreUnavailable, match="no directory with a signed head"):
        EventStore.open(place, trust=tmp_path / "nothing")
    with pytest.raises(StoreUnavailable, match="set back with the store"):
        EventStore.open(place, trust=place / "log")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (LAST_NOTE, b""),
        (LAST_NOTE, b"x" * 100_000),
        (VERIFIER_KEY, b"no key"),
        (VERIFIER_KEY, b"\xff"),
        (VERIFIER_KEY, None),
        ("rotation-1.note", b"no rotation"),
    ],
)
def test_what_can_not_be_believed_is_a_reason_for_distrust(place: Path, name, content):
    """A kept head or key that is damaged never counts as none: the store is read-only."""
    path = audit_directory(place) / name
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)
    with EventStore.open(place) as store:
        with pytest.raises(StoreUnavailable, match=r"history\.audit can't tell if the store was"):
            store.append("s", HELLO)
        assert store.head().size == 301


def test_a_head_of_another_store_is_a_reason_for_distrust(place: Path):
    """The kept head of one store can't vouch for another."""
    shutil.rmtree(place)
    with pytest.raises(RollbackDetected, match="is gone"):
        EventStore.open(place)
    assert not place.exists()
    EventStore.open(place.with_name("other")).close()
    place.with_name("other").rename(place)
    with EventStore.open(place) as store, pytest.raises(StoreUnavailable, match="not of store"):
        store.create("s")


# -- rotation --------------------------------------------------------------------------------


def test_a_rotation_is_a_fact_that_both_keys_signed(place: Path, tmp_path: Path):
    """The hand-over stands in the log and beside the head; with the first key one can follow."""
    audit = audit_directory(place)
    with EventStore.open(place) as store:
        old = key_of(store, audit)
        (audit / LAST_NOTE).unlink()
        heads = Heads(store, old, audit / LAST_NOTE)
        before = heads.sign()
        keys = [SigningKey.generate(old.name) for _ in range(2)]
        notes = [heads.rotate(key) for key in keys]
        facts = [each.event for each in store.events(SYSTEM)][1:]
        assert [(fact.name, fact.data["note"].encode()) for fact in facts] == [
            ("key rotation", note) for note in notes
        ]
        assert [rotation_path(audit, n).read_bytes() for n in (1, 2)] == notes
        assert known_keys(audit) == [old.verifier, *(key.verifier for key in keys)]
        last = open_checkpoint((audit / LAST_NOTE).read_bytes(), [keys[1].verifier])
        assert last.size == store.head().size
        assert heads.sign() == (audit / LAST_NOTE).read_bytes()
    (tmp_path / "before.note").write_bytes(before)
    rotations = [rotation_path(audit, number) for number in (1, 2)]
    files = [tmp_path / "before.note", *rotations, audit / LAST_NOTE]
    assert verifier(["--key", str(old.verifier), *map(str, files)]) == 0
    assert verifier(["--key", str(old.verifier), str(audit / LAST_NOTE)]) == 1
    with EventStore.open(place) as store:
        assert store.distrust is None


def test_an_interrupted_rotation_is_done_by_doing_it_again(place: Path, monkeypatch):
    """Wherever it stopped, one hand-over stands in the log, and the new key signs."""
    audit = audit_directory(place)
    with EventStore.open(place) as store:
        old = key_of(store, audit)
        (audit / LAST_NOTE).unlink()
        new = SigningKey.generate(old.name)
        for step in ("_keep_rotation", "_sign"):
            with monkeypatch.context() as patch:
                patch.setattr(Heads, step, _interrupted)
                with pytest.raises(KeyboardInterrupt):
                    Heads(store, old, audit / LAST_NOTE).rotate(new)
        Heads(store, old, audit / LAST_NOTE).rotate(new)
        Heads(store, old, audit / LAST_NOTE, earlier=known_keys(audit)).rotate(new)
        assert len(list(store.events(SYSTEM))) == 2
        assert len(known_keys(audit)) == 2


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_key_before_signs_no_more(place: Path):
    """A head signed by a replaced key, later than the hand-over, is refused by the verifier."""
    audit = audit_directory(place)
    with EventStore.open(place) as store:
        old = key_of(store, audit)
        (audit / LAST_NOTE).unlink()
        Heads(store, old, audit / LAST_NOTE).rotate(SigningKey.generate(old.name))
        store.append("s", HELLO)
        stolen = audit.with_name("stolen.note")
        Heads(store, old, stolen).sign()
    arguments = ["--key", str(old.verifier), str(rotation_path(audit, 1)), str(stolen)]
    assert verifier(arguments) == 1


# -- a new origin ----------------------------------------------------------------------------


def test_a_restore_takes_only_a_note_as_head(place: Path, tmp_path: Path):
    """Bytes that are no signed note are refused as the last known head, before anything is made."""
    for wrong in (bytes([0xED, 1]), b"text"):
        with pytest.raises(ProofError):
            restore(tmp_path / "copy", tmp_path / "made", head=wrong)
    assert not (tmp_path / "made").exists()


def test_a_restored_store_begins_a_new_origin(place: Path, tmp_path: Path):
    """Its first fact names the origin before, how far it went, its last known head and why."""
    last = (audit_directory(place) / LAST_NOTE).read_bytes()
    made = tmp_path / "made"
    head = restore(tmp_path / "copy", made, reason="disk lost", head=last)
    with EventStore.open(place) as store:
        origin, first = store.origin, store.id
    with EventStore.open(made) as store:
        assert store.id == first == origin != store.origin
        assert store.head() == head
        store.append("s", HELLO)
        fact = store.event(head.size + 1)
        assert (fact.session, fact.event.name) == (SYSTEM, "origin")
        assert fact.event.data == {
            "origin": origin,
            "size": 201,
            "root": head.root.hex(),
            "head": last.decode(),
            "reason": "disk lost",
            "begins": store.origin,
        }
        assert [each.session for each in store.all(head.size)] == [SYSTEM, SYSTEM, "s"]
        assert verify(store, deep=True).sound
    with EventStore.open(made) as store:
        store.append("s", HELLO)
        assert len(list(store.events(SYSTEM))) == 2


@pytest.mark.parametrize("size", ["all of it", None, [7]])
def test_an_origin_that_states_no_size_is_named(place: Path, size: object):
    """A forged fact, by which the signed head is of the origin before, lost all that was signed."""
    audit = audit_directory(place)
    keys, note = known_keys(audit), (audit / LAST_NOTE).read_bytes()
    with EventStore.open(place) as store:
        first = store.origin
        store.record_system(ORIGIN, {"origin": first, "size": size})
    marker = json.loads((place / MARKER).read_text())
    (place / MARKER).write_text(json.dumps({**marker, "origin": STORE}))
    with EventStore.open(place, read_only=True) as store:
        report = verify(store, outside=Outside([("last.note", note)], keys))
    assert "restored from a backup of 0" in told(report)


def test_two_restores_of_one_backup_are_two_origins(place: Path, tmp_path: Path):
    """Neither can sign for the other, nor for the store before: no two heads can contradict."""
    for name in ("one", "two"):
        restore(tmp_path / "copy", tmp_path / name)
    with EventStore.open(tmp_path / "one") as one, EventStore.open(tmp_path / "two") as two:
        assert len({one.origin, two.origin, one.id}) == 3
        key = key_of(one, tmp_path / "one.audit")
        note = Heads(one, key, tmp_path / "one.audit" / LAST_NOTE).sign()
        assert open_head(one, note, [key.verifier]).size == 203
        with pytest.raises(ProofError, match="does not sign for"):
            Heads(two, key, tmp_path / "x.note")
        with pytest.raises(ProofError, match="not of store"):
            open_head(two, note, [key.verifier])


def test_a_restore_of_a_restore_names_the_origin_between(place: Path, tmp_path: Path):
    """Origins form a chain that can be followed back."""
    restore(tmp_path / "copy", tmp_path / "one")
    with EventStore.open(tmp_path / "one") as one:
        one.append("s", HELLO)
        backup(one, tmp_path / "copy-2")
        between = one.origin
    restore(tmp_path / "copy-2", tmp_path / "two")
    with EventStore.open(tmp_path / "two") as two:
        two.append("s", HELLO)
        facts = [each.event.data for each in two.events(SYSTEM, 1)]
        assert [fact["begins"] for fact in facts] == [between, two.origin]
        assert facts[1]["origin"] == between


def test_many_threads_wait_for_the_first_fact(place: Path, tmp_path: Path):
    """However many write first, the origin comes before all of them, once."""
    restore(tmp_path / "copy", tmp_path / "made")
    with EventStore.open(tmp_path / "made") as store:
        threads = [threading.Thread(target=store.append, args=("s", HELLO)) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [each.session for each in store.all(201)] == [SYSTEM, SYSTEM, *["s"] * 16]


async def _appended(store: EventStore) -> None:
    await store.aio.append("s", HELLO)


def test_an_awaited_command_comes_behind_it_too(place: Path, tmp_path: Path):
    """The async face runs on the same engine."""
    restore(tmp_path / "copy", tmp_path / "made")
    with EventStore.open(tmp_path / "made") as store:
        asyncio.run(_appended(store))
        assert [each.session for each in store.all(201)] == [SYSTEM, SYSTEM, "s"]


def test_what_a_restore_lost_is_named_by_the_old_heads(place: Path, tmp_path: Path):
    """Old heads up to the backup still hold; a later one names the signed events that are lost."""
    audit = audit_directory(place)
    keys = known_keys(audit)
    last = (audit / LAST_NOTE).read_bytes()
    restore(tmp_path / "copy", tmp_path / "made", head=last)
    with EventStore.open(tmp_path / "made") as store:
        store.append("s", HELLO)
    report = verify_directory(tmp_path / "made", outside=Outside([("last.note", last)], keys))
    (found,) = report.findings
    assert "rolled back: last.note is of 301 events" in found.what
    assert "100 signed events are lost, as the fact at this position says" in found.what
    assert found.position == 202
    restore(place, tmp_path / "whole", head=last)
    with EventStore.open(tmp_path / "whole") as store:
        store.append("s", HELLO)
    assert verify_directory(tmp_path / "whole", outside=Outside([("last.note", last)], keys)).sound


def test_the_head_of_the_origin_before_does_not_lock_a_restored_store(place: Path, tmp_path: Path):
    """Restored into its old place, beside its old audit directory, the store can be written."""
    shutil.rmtree(place)
    restore(tmp_path / "copy", place)
    with EventStore.open(place) as store:
        assert store.distrust is None
        store.append("s", HELLO)


def test_a_description_can_not_claim_another_origin_unseen(place: Path):
    """Whoever alters the description alone is found out by the kept head."""
    marker = json.loads((place / MARKER).read_text())
    (place / MARKER).write_text(json.dumps({**marker, "origin": "mine"}))
    with EventStore.open(place) as store, pytest.raises(StoreUnavailable, match="not of store"):
        store.append("s", HELLO)


def test_a_users_key_can_not_stand_in_for_the_first_fact(place: Path, tmp_path: Path):
    """A command with the key of that fact is refused, since the fact comes first."""
    restore(tmp_path / "copy", tmp_path / "made")
    with EventStore.open(tmp_path / "made") as store, pytest.raises(KeyReused):
        store.append("s", HELLO, key=f"origin {store.origin}")
