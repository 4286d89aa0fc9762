"""Signing keys: one form only, one owner only, and handed over by both keys' word."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from signed import KEY, KEYS, NOTE, ORIGIN, OTHER, WITNESS

from eventstore import ProofError, StoreUnavailable
from eventstore.audit.note import open_checkpoint, open_rotation, sign_note, sign_rotation
from eventstore.audit.signer import SigningKey, VerifierKey

# -- keys ------------------------------------------------------------------------------------

SECRET = KEY.secret()
PUBLIC = str(KEY.verifier)
BAD_KEYS = {
    "nothing": "",
    "a name alone": ORIGIN,
    "no id": f"{ORIGIN}++{PUBLIC.split('+', 2)[2]}",
    "another id": PUBLIC.replace(KEY.verifier.id.hex(), "00000000"),
    "an id in capitals": PUBLIC.replace(KEY.verifier.id.hex(), KEY.verifier.id.hex().upper()),
    "another name": "x" + PUBLIC,
    "no name": PUBLIC[len(ORIGIN) :],
    "a space in its name": PUBLIC.replace("support", "sup port"),
    "a short key": f"x+00000000+{'A' * 40}",
    "a long key": f"x+00000000+{'A' * 48}",
    "another type of key": f"x+00000000+{'C' + 'A' * 43}",
    "more behind": PUBLIC + "\n",
    "a lone surrogate": "\ud800+00000000+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
}


@pytest.mark.parametrize("text", BAD_KEYS.values(), ids=BAD_KEYS.keys())
def test_a_bad_verifier_key_is_refused(text):
    """A verifier key whose id, length, type or name is wrong raises ProofError."""
    with pytest.raises(ProofError):
        VerifierKey.parse(text)


@pytest.mark.parametrize(
    "text", ["", PUBLIC, SECRET[1:], SECRET[:-4], SECRET + "AAAA", SECRET.replace("/", "x", 1)]
)
def test_a_bad_signing_key_is_refused_without_naming_it(text):
    """A broken signing key raises ProofError, and its secret is not in the message."""
    with pytest.raises(ProofError) as caught:
        SigningKey.parse(text)
    assert SECRET[-20:] not in str(caught.value)


def test_a_secret_is_never_shown():
    """The repr of a signing key is that of its public half."""
    assert SECRET[-20:] not in repr(KEY)
    assert str(KEY.verifier) in repr(KEY)


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_a_key_of_another_length_is_refused(seed):
    """A key has 32 bytes."""
    with pytest.raises(ProofError, match="32 bytes"):
        SigningKey(ORIGIN, seed)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u2003b", "a\x00b", "\ud800"])
def test_a_name_is_checked(name):
    """A key's name is what a signature line can carry."""
    with pytest.raises(ProofError):
        SigningKey(name, bytes(32))


def test_a_key_file_is_its_owners(tmp_path: Path):
    """A key is written for its owner alone, is read again, and is never overwritten."""
    path, key = tmp_path / "key", SigningKey.generate(ORIGIN)
    key.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert SigningKey.load(path).secret() == key.secret()
    with pytest.raises(StoreUnavailable, match="never overwritten"):
        KEY.save(path)
    assert SigningKey.load(path).secret() == key.secret()


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o620, 0o602, 0o601, 0o777])
def test_a_key_file_open_to_others_is_refused(tmp_path: Path, mode: int):
    """A key that anybody else may read or write is not used."""
    path = tmp_path / "key"
    KEY.save(path)
    path.chmod(mode)
    with pytest.raises(StoreUnavailable, match=f"mode {mode:04o}"):
        SigningKey.load(path)


@pytest.mark.parametrize("content", [b"\n", b"no key\n", b"\xff", b"x" * 9_000])
def test_a_file_without_a_key_is_refused(tmp_path: Path, content: bytes):
    """A file that holds something else raises ProofError."""
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ProofError, match="holds no signing key"):
        SigningKey.load(path)


def test_a_key_that_was_never_written_is_written(tmp_path: Path):
    """An empty file, left by a process that died while it made a key, is named as that and used."""
    path = tmp_path / "key"
    path.touch(0o600)
    with pytest.raises(StoreUnavailable, match="is empty: no key was made; make it with keygen"):
        SigningKey.load(path)
    KEY.save(path)
    assert SigningKey.load(path).verifier == KEY.verifier
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize(
    "kind", ["open to others", "a link", "to nowhere", "a pipe", "a directory"]
)
def test_what_is_no_empty_key_file_is_left_alone(tmp_path: Path, kind: str):
    """Only a file that is empty and its owner's alone is written to, and no link is followed."""
    path, other = tmp_path / "key", tmp_path / "other"
    other.touch(0o600)
    make = {
        "open to others": lambda: path.touch(0o640) or path.chmod(0o640),
        "a link": lambda: path.symlink_to(other),
        "to nowhere": lambda: path.symlink_to(tmp_path / "nowhere"),
        "a pipe": lambda: os.mkfifo(path, 0o600),
        "a directory": path.mkdir,
    }
    make[kind]()
    with pytest.raises(StoreUnavailable):
        KEY.save(path)
    assert other.stat().st_size == 0 and not (tmp_path / "nowhere").exists()


def test_of_all_who_find_an_empty_key_file_one_writes(tmp_path: Path):
    """Threads that make keys in one place leave one key, and all others are told."""
    path = tmp_path / "key"
    path.touch(0o600)
    made = [SigningKey.generate(f"example.com/{number}") for number in range(8)]

    def save(key: SigningKey) -> str:
        with suppress(StoreUnavailable):
            key.save(path)
            return key.name
        return ""

    with ThreadPoolExecutor(len(made)) as pool:
        [saved] = filter(None, pool.map(save, made))
    assert SigningKey.load(path).name == saved


def test_a_missing_key_is_unavailable(tmp_path: Path):
    """No file, no directory and a directory for a file raise StoreUnavailable."""
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(StoreUnavailable):
            SigningKey.load(path)
    with pytest.raises(StoreUnavailable):
        KEY.save(tmp_path / "no" / "where")


# -- rotation --------------------------------------------------------------------------------


def test_a_key_hands_over_to_another():
    """Who knows the old key learns the new one, which both of them signed."""
    raw = sign_rotation(KEY, OTHER, 700)
    assert open_rotation(raw, KEY.verifier) == (700, OTHER.verifier)
    with pytest.raises(ProofError):
        open_checkpoint(raw, KEYS)
    with pytest.raises(ProofError):
        open_rotation(NOTE, KEY.verifier)


def test_a_bad_rotation_is_refused():
    """Both keys must sign, under one name, and no bit may be another."""
    for other in (KEY, WITNESS):
        with pytest.raises(ProofError, match="another key of that name"):
            sign_rotation(KEY, other, 5)
    raw = sign_rotation(KEY, OTHER, 700)
    text = raw.split(b"\n\n")[0].decode() + "\n"
    for bad in (
        sign_note(text, KEY),
        sign_note(text, OTHER),
        sign_note(text, OTHER, WITNESS),
        sign_note(text + "more\n", KEY, OTHER),
        sign_note(text.replace("700", "0700"), KEY, OTHER),
        sign_note(text.replace(str(OTHER.verifier), str(KEY.verifier)), KEY, OTHER),
        sign_note(text.replace(f"v1\n{ORIGIN}", "v1\nexample.com/other"), KEY, OTHER),
    ):
        with pytest.raises(ProofError):
            open_rotation(bad, KEY.verifier)
    for bit in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ProofError):
            open_rotation(bytes(changed), KEY.verifier)
