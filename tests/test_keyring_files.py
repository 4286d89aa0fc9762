"""The files of a keyring: bad ones are refused in one clear error, none tells a secret."""

import base64
import json
import os
import re
from contextlib import suppress
from pathlib import Path

import pytest
from facts import STORE

from eventstore import Keyring, StoreUnavailable
from eventstore.errors import FormatTooNew
from eventstore.log.vault import STORE_KEY
from eventstore.masterkey import Master

ROOT = bytes(range(32))
BOUND = b"bound"


def contents(directory: Path) -> dict[str, bytes]:
    """Return all bytes below a directory; LMDB's lock file holds none that count."""
    files = (each for each in directory.rglob("*") if each.is_file() and each.name != "lock.mdb")
    return {str(each.relative_to(directory)): each.read_bytes() for each in files}


# -- bad files -------------------------------------------------------------------------------


def rewritten(path: Path, **fields: object) -> None:
    """Change what the key file says."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def cut(file: Path) -> None:
    """Take the second half of a file away."""
    os.truncate(file, file.stat().st_size // 2)


BAD_FILES = {
    "read by others": (lambda path: path.chmod(0o640), "open to others"),
    "no JSON": (lambda path: path.write_text("key"), "damaged or no key file"),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:50]), "damaged or no key file"),
    "empty": (lambda path: path.write_bytes(b""), "damaged or no key file"),
    "zeros": (lambda path: path.write_bytes(bytes(104)), "damaged or no key file"),
    "not UTF-8": (lambda path: path.write_bytes(b'{"store":"\xff"}'), "damaged or no key file"),
    "no base64": (lambda path: rewritten(path, key="***"), "damaged or no key file"),
    "other fields": (lambda path: rewritten(path, hint="x"), "damaged or no key file"),
    "a key too short": (lambda path: rewritten(path, key="AAAA"), "3 bytes, it must have 32"),
    "another key": (lambda path: rewritten(path, key="A" * 43 + "="), "does not open the keys"),
    "another epoch": (lambda path: rewritten(path, epoch=2), "epoch 2, its keys are of epoch 1"),
    "another store": (lambda path: rewritten(path, store="other"), "keyring of store other"),
    "a newer format": (lambda path: rewritten(path, format=2), "store has format 2"),
    "said to be wrapped": (lambda path: rewritten(path, wrapped=True), "must have 40"),
    "missing": (lambda path: path.unlink(), "is missing; restore it from its backup"),
    "keys cut short": (lambda path: cut(path.with_name("keyring.keys") / "data.mdb"), "was cut"),
    "a directory": (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
    "keys missing": (
        lambda path: [each.unlink() for each in path.with_name("keyring.keys").iterdir()],
        "keyring.keys is missing; restore it from its backup",
    ),
}


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused(vault, path, name, create):
    """A keyring with something wrong is refused in one clear error, and nothing is overwritten."""
    vault.close()
    damage, words = BAD_FILES[name]
    key = json.loads(path.read_text())["key"]
    damage(path)
    before = contents(path.parent)
    with pytest.raises(StoreUnavailable, match=words) as refusal:
        Keyring.file(path).unlock(STORE, create=create)
    assert key not in str(refusal.value)
    assert contents(path.parent) == before


def test_any_byte_of_the_key_file_may_be_damaged(vault, path):
    """With any one byte changed the file is refused, or it still says the same key."""
    sealed = vault.seal(STORE_KEY, b"hello", BOUND)
    vault.close()
    good = path.read_bytes()
    for at in range(len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with suppress(StoreUnavailable):
            again = Keyring.file(path).unlock(STORE)
            assert again.open(sealed, BOUND) == b"hello"
            again.close()
    assert path.read_bytes()[:-1] == good[:-1]


def test_one_keyring_belongs_to_one_store(vault, path):
    """The keyring of a store is refused to another one, also where that one is new."""
    vault.close()
    for create in (False, True):
        with pytest.raises(StoreUnavailable, match=f"keyring of store {STORE}, not of other"):
            Keyring.file(path).unlock("other", create=create)


def test_no_keyring_is_made_for_a_store_that_had_one(path):
    """Where no keyring is, none is made unless it is asked for, nor a directory for it."""
    with pytest.raises(StoreUnavailable, match="there is no keyring at"):
        Keyring.file(path).unlock(STORE)
    assert not path.parent.exists()


def test_another_file_is_never_taken_for_a_new_keyring(path):
    """A file that is in the way is left alone."""
    path.parent.mkdir()
    path.write_text("a letter")
    with pytest.raises(StoreUnavailable, match=r"keyring\.keys is missing"):
        Keyring.file(path).unlock(STORE, create=True)
    assert contents(path.parent) == {"keyring": b"a letter"}


@pytest.mark.parametrize("name", ["/", "a\0b", "secure/a\0b/c"])
def test_names_that_no_file_has(name):
    """A path that can't be a file's is refused."""
    with pytest.raises(StoreUnavailable, match="can't be the name of a key file"):
        Keyring.file(name)


def test_a_keyring_stays_out_of_the_store(tmp_path):
    """A keyring inside the store's directory is refused, also behind a symbolic link."""
    store = tmp_path / "history"
    (store / "secure").mkdir(parents=True)
    (tmp_path / "link").symlink_to(store)
    for inside in ("history/keyring", "history/secure/keyring", "link/keyring", "x/../history/k"):
        with pytest.raises(StoreUnavailable, match="inside the store"):
            Keyring.file(tmp_path / inside).check_outside(store)
    Keyring.file(tmp_path / "history.keyring").check_outside(store)


def test_a_keyring_touches_no_disk(path, monkeypatch):
    """Making the value reads and writes nothing, and asks for no root key."""
    monkeypatch.delenv("STORE_ROOT_KEY", raising=False)
    made = [Keyring.file(path), Keyring.environment("STORE_ROOT_KEY", path)]
    made.append(Keyring.of(os.abort, path))
    assert {repr(each) for each in made} == {f"<Keyring {path}>"}
    assert not path.parent.exists()


def test_files_are_private(vault, path):
    """The key file is for its owner alone, and so is the directory of the wrapped keys."""
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.with_name("keyring.keys").stat().st_mode & 0o777 == 0o700


def test_memory_does_not_get_into_the_files(vault, path):
    """What was in the process's memory before, plain text say, is in no page that is written."""
    for size in (3_000, 4_100, 4_112, 8_200):
        freed = [bytes(f"secret {number} ", "ascii") * (size // 12) for number in range(500)]
        del freed
        for _ in range(60):
            vault.fresh()
    assert b"secret 1" not in b"".join(contents(path.parent).values())


def test_nothing_shows_a_secret(vault):
    """No repr holds a key, in any form it could be read from."""
    master = vault._master
    shown = f"{vault!r} {vault} {master!r} {master} {vault._file!r} {[master]}"
    for form in (master.key.hex(), base64.b64encode(master.key).decode(), repr(master.key)[2:20]):
        assert form not in shown
    assert re.fullmatch(r"<Master epoch 1 of store \S+>", str(Master(STORE, 1, ROOT)))


# -- root keys -------------------------------------------------------------------------------

FORMS = [ROOT.hex(), ROOT.hex().upper(), base64.b64encode(ROOT).decode(), f" {ROOT.hex()}\n"]
BAD_FORMS = [ROOT.hex()[:-1], f"0x{ROOT.hex()}", base64.b64encode(ROOT[:31]).decode(), "correct h"]


def test_root_keys_of_the_environment(path, monkeypatch):
    """A variable holds the root key as 64 hex digits or as base64; either opens the keyring."""
    keyring, sealed = Keyring.environment("STORE_ROOT_KEY", path), b""
    for form in FORMS:
        monkeypatch.setenv("STORE_ROOT_KEY", form)
        vault = keyring.unlock(STORE, create=True)
        sealed = sealed or vault.seal(STORE_KEY, b"hello", b"")
        assert vault.open(sealed, b"") == b"hello"
        vault.close()


@pytest.mark.parametrize("form", BAD_FORMS)
def test_bad_root_keys_of_the_environment(path, monkeypatch, form):
    """A variable of another form is refused: the message says which form, not what it held."""
    monkeypatch.setenv("STORE_ROOT_KEY", form)
    words = "STORE_ROOT_KEY holds no root key: 64 hex digits or base64 of 32 bytes"
    with pytest.raises(StoreUnavailable, match=words) as refusal:
        Keyring.environment("STORE_ROOT_KEY", path).unlock(STORE, create=True)
    assert form not in str(refusal.value) and not path.exists()


def test_a_missing_root_key(path, monkeypatch):
    """A variable that is not set, or empty, is refused by its name."""
    monkeypatch.delenv("STORE_ROOT_KEY", raising=False)
    with pytest.raises(StoreUnavailable, match=r"STORE_ROOT_KEY is not set; .* base64 of 32 bytes"):
        Keyring.environment("STORE_ROOT_KEY", path).unlock(STORE, create=True)


def fails() -> bytes:
    """Raise as a key service does that tells too much."""
    raise RuntimeError(f"denied, key was {ROOT.hex()}")


BAD_ROOTS = {
    "raised RuntimeError": fails,
    "gave 16 bytes": lambda: ROOT[:16],
    "gave 0 bytes": bytes,
    "gave no bytes": ROOT.hex,
}


@pytest.mark.parametrize("words", BAD_ROOTS)
def test_bad_key_services(path, words):
    """A callable that raises or gives something else is refused, and its text is not repeated."""
    with pytest.raises(StoreUnavailable, match=words) as refusal:
        Keyring.of(BAD_ROOTS[words], path).unlock(STORE, create=True)
    assert ROOT.hex() not in str(refusal.value)
    assert refusal.value.__context__ is None and not path.exists()
    Keyring.of(lambda: ROOT, path).unlock(STORE, create=True).close()


def test_the_way_in_is_part_of_the_keyring(path):
    """Another root key, or none, or one too many, is refused in words of its own."""
    Keyring.of(lambda: ROOT, path).unlock(STORE, create=True).close()
    with pytest.raises(StoreUnavailable, match="root key does not open"):
        Keyring.of(lambda: bytes(32), path).unlock(STORE)
    with pytest.raises(StoreUnavailable, match=r"wrapped by a root key; open it with"):
        Keyring.file(path).unlock(STORE)
    plain = path.with_name("plain")
    Keyring.file(plain).unlock(STORE, create=True).close()
    with pytest.raises(StoreUnavailable, match=r"not wrapped .* Keyring\.file"):
        Keyring.of(lambda: ROOT, plain).unlock(STORE)


def test_a_newer_format(vault, path):
    """Keys in a newer format are refused before the key file is looked at."""
    with vault._env.write() as txn:
        txn.put(b"format", (2).to_bytes(8, "big"), db=vault._meta)
    vault.close()
    with pytest.raises(FormatTooNew):
        Keyring.file(path).unlock(STORE)
