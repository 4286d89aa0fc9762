"""A store whose keyring is missing or wrong: what is readable stays so, nothing is overwritten."""

import shutil
from pathlib import Path

import pytest

from eventstore import EventStore, Keyring, StoreUnavailable
from eventstore.audit.verify import verify_directory


def contents(place: Path) -> dict[str, bytes]:
    """Return all files below a place but those of LMDB's locks and of who has what open."""
    files = [each for each in sorted(place.rglob("*")) if each.is_file()]
    return {
        str(each.relative_to(place)): each.read_bytes() for each in files if "lock" not in each.name
    }


def swapped(ring: Path) -> None:
    """Put the keyring of another store in place of this one's."""
    EventStore.open(ring.parent / "other", keyring=Keyring.file(ring.parent / "else/key")).close()
    shutil.rmtree(ring)
    shutil.move(ring.parent / "else", ring)


WRONG = {
    "no keyring": (shutil.rmtree, "there is no keyring at"),
    "no key file": (lambda ring: (ring / "key").unlink(), "key is missing"),
    "no keys": (lambda ring: shutil.rmtree(ring / "key.keys"), "key.keys is missing"),
    "key file cut": (lambda ring: (ring / "key").write_bytes(b"{"), "damaged or no key file"),
    "empty key file": (lambda ring: (ring / "key").write_bytes(b""), "damaged or no key file"),
    "read by others": (lambda ring: (ring / "key").chmod(0o644), "open to others"),
    "keys cut": (lambda ring: (ring / "key.keys/data.mdb").write_bytes(b"x" * 100), "key.keys"),
    "of another store": (swapped, "is the keyring of store"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said_and_nothing_is_changed(tmp_path, what):
    """Opening names the fault; store and keyring stay as they are; heads are read without it."""
    damage, words = WRONG[what]
    place, ring = tmp_path / "history", tmp_path / "ring"
    with EventStore.open(place, keyring=Keyring.file(ring / "key")) as store:
        store.create("s")
        store.append("s", {"content": "x"})
        size = store.head().size
    damage(ring)
    before = contents(tmp_path)
    for read_only in (True, False):
        with pytest.raises(StoreUnavailable, match=words):
            EventStore.open(place, keyring=Keyring.file(ring / "key"), read_only=read_only)
    with EventStore.open(place) as locked:
        name = next(iter(locked.sessions()))
        assert [each.type for each in locked.events(name)] == ["SessionCreated", "MessageAppended"]
        for refused in (
            lambda: locked.event(size - 1).event,
            lambda: locked.append(name, {"content": "y"}),
            lambda: locked.erase(name, reason="asked for"),
            lambda: locked.redact(name, 1),
        ):
            with pytest.raises(StoreUnavailable, match="encrypted; open it with keyring="):
                refused()
    assert verify_directory(place, deep=True).sound
    assert contents(tmp_path) == before
