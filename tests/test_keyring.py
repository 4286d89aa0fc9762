"""The keyring: what it seals opens only unchanged and in its place, and bad files are refused."""

import base64
import json
import threading
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.cmac import CMAC
from facts import STORE
from hypothesis import given
from hypothesis import strategies as st

from eventstore import InvalidEvent, Keyring, StoreUnavailable
from eventstore.errors import Corruption
from eventstore.keyring import KEY_ID_MAX, NAMES_KEY, Unlocked, _unwrapped
from eventstore.log.vault import (
    SEALED_NAME_BYTES_MAX,
    SEALED_OVERHEAD_BYTES,
    SIV_BYTES,
    STORE_KEY,
    key_commitment,
)

ROOT = bytes(range(32))
BOUND = b"position 7 of session s"
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory):
    """Give an unlocked keyring that many examples share."""
    opened = Keyring.file(tmp_path_factory.mktemp("keys") / "keyring").unlock(STORE, create=True)
    yield opened
    opened.close()


# -- the formats, by hand --------------------------------------------------------------------


def aes(key: bytes, block: bytes) -> bytes:
    """Return one block under AES."""
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)


def wrap(key: bytes, secret: bytes) -> bytes:
    """Return AES-KW as RFC 3394, 2.2.1 writes it down."""
    a, r = bytes.fromhex("a6" * 8), [secret[i : i + 8] for i in range(0, len(secret), 8)]
    for j in range(6):
        for i in range(len(r)):
            block = aes(key, a + r[i])
            a = (int.from_bytes(block[:8], "big") ^ (len(r) * j + i + 1)).to_bytes(8, "big")
            r[i] = block[8:]
    return a + b"".join(r)


def cmac(key: bytes, text: bytes) -> bytes:
    """Return AES-CMAC (RFC 4493)."""
    made = CMAC(algorithms.AES(key))
    made.update(text)
    return made.finalize()


def xor(a: bytes, b: bytes) -> bytes:
    """Return the sum of two blocks in GF(2)."""
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def double(block: bytes) -> bytes:
    """Return a block doubled in GF(2^128)."""
    number = int.from_bytes(block, "big") << 1
    return (number & (1 << 128) - 1 ^ 0x87 * (number >> 128)).to_bytes(16, "big")


def siv(key: bytes, kind: bytes, name: bytes) -> bytes:
    """Return AES-SIV with one associated text as RFC 5297, 2.4 and 2.6 write it down."""
    mac, enc = key[:32], key[32:]
    d = xor(double(cmac(mac, bytes(16))), cmac(mac, kind))
    if len(name) >= 16:
        v = cmac(mac, name[:-16] + xor(name[-16:], d))
    else:
        v = cmac(mac, xor(double(d), (name + b"\x80").ljust(16, b"\0")))
    mask = int.from_bytes(b"\xff" * 8 + b"\x7f\xff\xff\xff" * 2, "big")
    counter = (int.from_bytes(v, "big") & mask).to_bytes(16, "big")
    return v + Cipher(algorithms.AES(enc), modes.CTR(counter)).encryptor().update(name)


def master_of(path: Path) -> bytes:
    """Return the key that a key file holds, as docs/erasure.md draws it."""
    return base64.b64decode(json.loads(path.read_text())["key"], validate=True)


def secret_of(vault: Unlocked, path: Path, key: int) -> bytes:
    """Return a key out of its row, checked against RFC 3394 by hand."""
    row, secret = vault._row(key)[1], vault._secret(key)
    assert row == key_commitment(secret) + wrap(master_of(path), secret)
    return secret


def test_the_wrap_of_the_rfc():
    """What this file writes down of RFC 3394 gives the RFC's own vector of 256 bits (4.6)."""
    secret = bytes.fromhex("00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f")
    assert wrap(ROOT, secret).hex() == (
        "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21"
    )


def test_files_are_what_the_document_draws(vault, path):
    """Key file, rows and sealed bytes open with nothing but the standards they name."""
    key, commitment = vault.fresh()
    secret = secret_of(vault, path, key)
    assert commitment == key_commitment(secret) == vault.commitment(key)
    sealed = vault.seal(key, b"hello", BOUND)
    assert int.from_bytes(sealed[:8], "big") == key
    assert len(sealed) == 5 + SEALED_OVERHEAD_BYTES
    assert AESGCM(secret).decrypt(sealed[8:20], sealed[20:], BOUND) == b"hello"
    assert json.loads(path.read_text()).keys() == {"format", "store", "epoch", "wrapped", "key"}


@pytest.mark.parametrize("name", ["a", "x" * 15, "x" * 16, "über" * 9, "x" * SEALED_NAME_BYTES_MAX])
def test_names_are_sealed_as_the_rfc_says(vault, path, name):
    """A sealed name is AES-256-SIV of RFC 5297, computed by hand, and the same each time."""
    by_hand = siv(secret_of(vault, path, NAMES_KEY), b"session", name.encode())
    assert vault.seal_name(b"session", name) == by_hand
    assert len(by_hand) == len(name.encode()) + SIV_BYTES


def test_a_root_key_wraps_the_master_key(path):
    """With a root key the file holds the master key under AES-KW, and never as it is."""
    vault = Keyring.of(lambda: ROOT, path).unlock(STORE, create=True)
    said = json.loads(path.read_text())
    assert said["wrapped"] is True
    assert base64.b64decode(said["key"]) == wrap(ROOT, vault._master.key)
    vault.close()


# -- sealing ---------------------------------------------------------------------------------


@given(plain=st.binary(max_size=400), bound=st.binary(max_size=80))
def test_a_body_comes_back(lasting, plain, bound):
    """Whatever was sealed opens again with the same bound bytes, and never seals alike twice."""
    sealed = lasting.seal(STORE_KEY, plain, bound)
    assert lasting.open(sealed, bound) == plain
    assert lasting.seal(STORE_KEY, plain, bound) != sealed
    assert len(plain) < 8 or plain not in sealed


@given(name=NAMES, kind=st.binary(min_size=1, max_size=3))
def test_a_name_comes_back(lasting, name, kind):
    """A name opens again as its kind, and only as that."""
    sealed = lasting.seal_name(kind, name)
    assert lasting.open_name(kind, sealed) == name
    with pytest.raises(ValueError, match="another kind"):
        lasting.open_name(kind + b"x", sealed)


@given(first=NAMES, second=NAMES)
def test_names_stay_apart(lasting, first, second):
    """Two names have the same sealed bytes if and only if they are the same."""
    alike = lasting.seal_name(b"s", first) == lasting.seal_name(b"s", second)
    assert alike == (first == second)


def test_every_flipped_bit_is_seen(vault):
    """A body with any one bit changed, cut short, longer or bound elsewhere does not open."""
    key, _ = vault.fresh()
    sealed = vault.seal(key, b"a short secret text", BOUND)
    changed = [flipped(sealed, bit) for bit in range(8 * len(sealed))]
    changed += [sealed[:size] for size in range(len(sealed))] + [sealed + b"\0"]
    for body in changed:
        with pytest.raises((KeyError, ValueError)):
            vault.open(body, BOUND)
    for bit in range(8 * len(BOUND)):
        with pytest.raises(ValueError, match="changed or moved"):
            vault.open(sealed, flipped(BOUND, bit))


def test_every_flipped_bit_of_a_name_is_seen(vault):
    """A sealed name with any one bit changed, or cut short, is none."""
    sealed = vault.seal_name(b"session", "alice")
    changed = [flipped(sealed, bit) for bit in range(8 * len(sealed))]
    for name in changed + [sealed[:size] for size in range(len(sealed))]:
        with pytest.raises(ValueError, match=r".+"):
            vault.open_name(b"session", name)


def flipped(raw: bytes, bit: int) -> bytes:
    """Return bytes with one bit changed."""
    return raw[: bit // 8] + bytes([raw[bit // 8] ^ 1 << bit % 8]) + raw[bit // 8 + 1 :]


def test_every_flipped_bit_of_a_wrapped_key_is_seen(vault):
    """A row with any one bit changed gives no key, and using it names the damage."""
    key, _ = vault.fresh()
    row = vault._row(key)[1]
    assert _unwrapped(vault._master, row) is not None
    for bit in range(8 * len(row)):
        assert _unwrapped(vault._master, flipped(row, bit)) is None
    with vault._env.write() as txn:
        txn.put(key.to_bytes(8, "big"), flipped(row, 300), db=vault._keys)
    with pytest.raises(Corruption, match=f"key {key:016x} does not unwrap"):
        vault.seal(key, b"", b"")


def test_keys_that_never_were(vault):
    """An unknown key can't seal or open; what is no data key counts as unknown."""
    for key in (1, KEY_ID_MAX, KEY_ID_MAX + 1, NAMES_KEY):
        assert vault.commitment(key) is None
        with pytest.raises(KeyError):
            vault.seal(key, b"", b"")
        with pytest.raises(KeyError):
            vault.open(key.to_bytes(8, "big") + bytes(40), b"")


def test_a_name_too_long(vault):
    """A name of 240 bytes is refused: sealed, it would not fit where names go."""
    with pytest.raises(InvalidEvent, match="240 bytes, the limit of an encrypted store is 239"):
        vault.seal_name(b"s", "x" * 240)


def test_a_closed_keyring_is_of_no_use(vault):
    """After close() nothing is sealed or opened any more, not even from a cache."""
    sealed, name = vault.seal(STORE_KEY, b"x", b""), vault.seal_name(b"s", "n")
    vault.close()
    uses = (
        lambda: vault.seal(STORE_KEY, b"x", b""),
        lambda: vault.open(sealed, b""),
        lambda: vault.seal_name(b"s", "n"),
        lambda: vault.open_name(b"s", name),
        lambda: vault.commitment(STORE_KEY),
        lambda: vault.shred([1]),
        vault.fresh,
        vault.close,
    )
    for use in uses:
        with pytest.raises(StoreUnavailable, match="is closed; open the store again"):
            use()


# -- keys ------------------------------------------------------------------------------------


def test_fresh_keys_are_random_and_durable(vault, path):
    """Ids are distinct numbers of 63 bits, none is 0, and every key survives a new start."""
    keys = dict(vault.fresh() for _ in range(300))
    assert len(keys) == 300 and all(0 < key <= KEY_ID_MAX for key in keys)
    assert sum(key >> 62 for key in keys) > 50, "the top bit is as random as the others"
    sealed = {key: vault.seal(key, b"mine", BOUND) for key in keys}
    vault.close()
    again = Keyring.file(path).unlock(STORE)
    assert {key: again.commitment(key) for key in keys} == keys
    assert {again.open(each, BOUND) for each in sealed.values()} == {b"mine"}
    again.close()


@pytest.mark.parametrize("used", [1, 2, 5, 40, 600])
def test_few_keys_are_made_for_nothing(vault, used):
    """A process makes at most twice the keys it uses, and at most 256 more."""
    for _ in range(used):
        vault.fresh()
    with vault._env.begin() as txn:
        made = txn.stat(vault._keys)["entries"] - 2
    assert used <= made < min(2 * used, used + 256)


def test_threads_share_a_keyring(vault):
    """Eight threads that take keys, seal and open never get the same key, nonce or a wrong text."""
    found: list[tuple[int, bytes]] = []

    def work(number: int) -> None:
        for turn in range(40):
            key, _ = vault.fresh()
            text = f"{number} {turn}".encode()
            sealed = vault.seal(key, text, BOUND)
            assert vault.open(sealed, BOUND) == text
            assert vault.open_name(b"s", vault.seal_name(b"s", text.decode())) == text.decode()
            found.append((key, sealed[8:20]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(dict(found)) == len({nonce for _, nonce in found}) == 320


def test_nonces_are_random(vault):
    """Nonces never come twice and don't count up."""
    nonces = [vault.seal(STORE_KEY, b"", b"")[8:20] for _ in range(3_000)]
    assert len(set(nonces)) == 3_000
    assert 1_200 < sum(a < b for a, b in pairwise(nonces)) < 1_800
