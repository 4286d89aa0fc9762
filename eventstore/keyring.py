"""Keyring: the keys of one encrypted store, kept outside its directory and destroyed for good.

    secure/keyring               the master key of the current epoch, see masterkey.py
    secure/keyring.keys/         LMDB: every other key, wrapped by the master key (AES-KW, RFC 3394)

Invariants: a data key is durable before anyone can seal with it; shred() destroys the master key
that wrapped the destroyed keys, so no older copy of the LMDB file gives them back; whatever kills
the process, either the old epoch or the new one is whole; no key ever stands in a repr or a
message. docs/erasure.md draws the files and says what is not promised.
"""

import os
import shutil
import struct
import threading
from collections.abc import Collection, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Self

import lmdb
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from .audit.entry import NAMES_CACHED_MAX, SALT_BYTES, Salts
from .errors import Corruption, FormatTooNew, InvalidEvent, StoreUnavailable
from .files import alone, make_directory, sync_directory, unavailable
from .limits import GIB
from .log.environment import FILE, Environment, open_environment
from .log.vault import (
    KEY_BYTES,
    KEY_ID_BYTES,
    NONCE_BYTES,
    SEALED_NAME_BYTES_MAX,
    STORE_KEY,
    key_commitment,
    sealed_with,
)
from .masterkey import KEYRING_FORMAT, Master, MasterFile, Root, root_in_environment

KEYS_POOL = 256
"""Data keys made in one commit at most; the first commits of a process make fewer."""

CIPHERS_CACHED_MAX = 4_096
"""Data keys that an unlocked keyring keeps ready."""

KEYRING_MAP_BYTES = 16 * GIB
"""Address space for the wrapped keys, sparse: room for about 50 million."""

KEY_ID_MAX = (1 << 63) - 1
NAMES_KEY = (1 << 64) - 1
"""Where the key that seals names stands among the wrapped keys; it has 64 bytes."""

NAMES_KEY_BYTES = 64
COMMITMENT_BYTES = 32
CIPHERTEXT_AT = KEY_ID_BYTES + NONCE_BYTES

DIRECTORY, LOCK = ".keys", "epoch.lock"
_FORMAT, _STORE, _EPOCH = b"format", b"store", b"epoch"
_U64 = struct.Struct(">Q")


class Keyring:
    """Where the keys of one store are; a value that touches no disk before unlock()."""

    def __init__(self, path: str | os.PathLike[str], root: Root | None = None) -> None:
        self.path = Path(path).absolute()
        if not self.path.name or "\0" in str(self.path):
            raise StoreUnavailable(f"{str(path)!r} can't be the name of a key file")
        self._root = root

    @classmethod
    def file(cls, path: str | os.PathLike[str]) -> Self:
        """Keep the master key in a file that only its owner may read."""
        return cls(path)

    @classmethod
    def environment(cls, variable: str, path: str | os.PathLike[str]) -> Self:
        """Keep the master key in a file, wrapped by the root key in an environment variable.

        The variable holds 64 hex digits or base64 of 32 bytes.
        """
        return cls(path, root_in_environment(variable))

    @classmethod
    def of(cls, root: Root, path: str | os.PathLike[str]) -> Self:
        """Keep the master key in a file, wrapped by the 32 bytes that a callable gives (a KMS)."""
        return cls(path, root)

    def __repr__(self) -> str:
        return f"<Keyring {self.path}>"

    @property
    def directory(self) -> Path:
        """Where the wrapped keys are."""
        return self.path.with_name(self.path.name + DIRECTORY)

    def check_outside(self, store: Path) -> None:
        """Raise StoreUnavailable where the keyring is inside the directory of a store."""
        if self.path.resolve().is_relative_to(store.resolve()):
            raise StoreUnavailable(
                f"keyring {self.path} is inside the store {store}; keep it where copies of the "
                "store don't take it along"
            )

    def unlock(self, store: str, *, create: bool = False) -> "Unlocked":
        """Return the vault of the store with that id; `create` makes a keyring if there is none.

        Raises StoreUnavailable where files are missing, damaged, open to others, of another
        store or of another root key; nothing that exists is overwritten then.
        """
        with unavailable(self.path):
            self._check_there(create=create)
            if not (self.directory / FILE).exists():
                self._make_directory()
        try:
            env = open_environment(self.directory, KEYRING_MAP_BYTES)
        except Corruption as error:
            raise StoreUnavailable(f"{error.what}; restore the keyring from its backup") from None
        try:
            return Unlocked(env, MasterFile(self.path, self._root), store, create=create)
        except BaseException:
            env.close()
            raise

    def _check_there(self, *, create: bool) -> None:
        held, key = (self.directory / FILE).exists(), self.path.exists()
        if not held and (key or not create):
            missing = self.directory if key else self.path
            raise StoreUnavailable(
                f"there is no keyring at {self.path}: {missing} is missing; restore it from its "
                "backup, nothing can be read without it"
            )

    def _make_directory(self) -> None:
        """Make an environment without keys beside its place: half of one would open no more."""
        make_directory(self.path.parent)
        made = Path(mkdtemp(prefix=f".{self.directory.name}.", dir=self.path.parent))
        try:
            with closing(open_environment(made, KEYRING_MAP_BYTES)) as env:
                env.table(b"meta", create=True)
            sync_directory(made)
            made.rename(self.directory)
        except OSError:
            if not (self.directory / FILE).exists():  # else another process was first
                raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
        sync_directory(self.path.parent)


class Unlocked:
    """A keyring in use: the Vault of one store, for any number of threads."""

    def __init__(self, env: Environment, file: MasterFile, store: str, *, create: bool) -> None:
        self._env, self._file, self._store = env, file, store
        self._lock_file = env.path / LOCK
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._closed = False
        self._nonces = Salts()
        self._pool: list[tuple[int, bytes]] = []
        self._batch = 1
        self._commit = -1
        self._cipher = lru_cache(maxsize=CIPHERS_CACHED_MAX)(self._opened_cipher)
        self._sealed_name = lru_cache(maxsize=NAMES_CACHED_MAX)(self._name_sealed)
        self._opened_name = lru_cache(maxsize=NAMES_CACHED_MAX)(self._name_opened)
        self._open_tables(create=create)
        self._unlock(create=create)

    def __repr__(self) -> str:
        return f"<Unlocked {self._file.path}>"

    # -- bodies and names ----------------------------------------------------------------

    def seal(self, key: int, plain: bytes, bound: bytes) -> bytes:
        """Return key id | nonce | ciphertext | tag (AES-256-GCM); KeyError if the key is gone."""
        return self.seal_all(key, [plain], [bound])[0]

    def seal_all(self, key: int, plains: Sequence[bytes], bounds: Sequence[bytes]) -> list[bytes]:
        """Return each text sealed, for the price of one look at the epoch and the nonces."""
        encrypt = self._cipher(self._epoch(), key).encrypt
        front, noise = _U64.pack(key), self._nonces.take(len(plains))
        nonces = [noise[at : at + NONCE_BYTES] for at in range(0, len(noise), SALT_BYTES)]
        return [
            front + nonce + encrypt(nonce, plain, bound)
            for nonce, plain, bound in zip(nonces, plains, bounds, strict=True)
        ]

    def open(self, sealed: bytes, bound: bytes) -> bytes:
        """Return what was sealed; KeyError without its key, ValueError where the tag is wrong."""
        key = sealed_with(sealed)
        cipher = self._cipher(self._epoch(), key)
        try:
            return cipher.decrypt(sealed[KEY_ID_BYTES:CIPHERTEXT_AT], sealed[CIPHERTEXT_AT:], bound)
        except InvalidTag:
            raise ValueError(f"what key {key:016x} sealed was changed or moved") from None

    def seal_name(self, kind: bytes, name: str) -> bytes:
        """Return SIV | ciphertext (AES-256-SIV), always the same; InvalidEvent if too long."""
        return self._sealed_name(kind, name)

    def open_name(self, kind: bytes, sealed: bytes) -> str:
        """Return the name that was sealed as `kind`; ValueError where it is none."""
        return self._opened_name(kind, sealed)

    def _name_sealed(self, kind: bytes, name: str) -> bytes:
        self._check_open()
        plain = name.encode()
        if len(plain) > SEALED_NAME_BYTES_MAX:
            raise InvalidEvent(
                f"a name has {len(plain)} bytes, the limit of an encrypted store is "
                f"{SEALED_NAME_BYTES_MAX}"
            )
        return self._names.encrypt(plain, [kind])

    def _name_opened(self, kind: bytes, sealed: bytes) -> str:
        self._check_open()
        try:
            return self._names.decrypt(sealed, [kind]).decode()
        except InvalidTag:
            raise ValueError("a sealed name was changed, or is of another kind") from None

    # -- keys ----------------------------------------------------------------------------

    def fresh(self) -> tuple[int, bytes]:
        """Return (id, commitment) of a new data key; the key is durable when this returns."""
        self._check_open()
        with self._lock:
            if not self._pool:
                self._pool = self._made(self._batch)
                self._batch = min(2 * self._batch, KEYS_POOL)
            return self._pool.pop()

    def commitment(self, key: int) -> bytes | None:
        """Return the commitment of a data key; None where the keyring doesn't hold it."""
        self._check_open()
        row = self._row(key)[1] if key <= KEY_ID_MAX else None
        return None if row is None else row[:COMMITMENT_BYTES]

    def shred(self, keys: Collection[int], owner: bytes = b"") -> int:
        """Destroy `keys` and return the master epoch that never wrapped them.

        That they are gone, and the sealed name of their `owner`, is remembered. All other keys are
        wrapped anew, about 5 us each; one that can't be unwrapped, so is lost already, stays as it
        is. Does nothing where the keyring holds none of `keys`.
        """
        assert STORE_KEY not in keys, "the store's own key outlives every erasure"
        self._check_open()
        with alone(self._lock_file):
            self._settle()
            held = [key for key in keys if self.commitment(key) is not None]
            if held:
                try:
                    self._change_epoch(held, owner)
                finally:
                    self._settle()
            return self._master.epoch

    def destroyed(self) -> dict[int, bytes]:
        """Return the keys that were destroyed, each with the sealed name of its owner."""
        self._check_open()
        with self._env.begin() as txn:
            return {_U64.unpack(key)[0]: bytes(owner) for key, owner in txn.cursor(self._gone)}

    def was_destroyed(self, key: int) -> bool:
        """Return True for one of them."""
        self._check_open()
        with self._env.begin() as txn:
            return txn.get(_U64.pack(key), db=self._gone) is not None

    def close(self) -> None:
        """Forget the keys and let go of the files."""
        self._check_open()
        self._closed = True
        for cache in (self._cipher, self._sealed_name, self._opened_name):
            cache.cache_clear()
        self._pool.clear()
        del self._master, self._names
        self._env.close()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable(f"keyring {self._file.path} is closed; open the store again")
        if os.getpid() != self._pid:  # parent and child must never hand out the same key
            raise StoreUnavailable(
                f"keyring {self._file.path} was unlocked before a fork; open the store anew in "
                "this process"
            )

    def _made(self, count: int) -> list[tuple[int, bytes]]:
        """Make that many data keys durable and return (id, commitment) of each."""
        made = {_fresh_key_id(): os.urandom(KEY_BYTES) for _ in range(count)}
        while True:
            master = self._master
            with self._env.translating, self._env.write() as txn:
                if self._epoch_in(txn) == master.epoch:
                    for key, secret in made.items():
                        self._put(txn, key, secret, master)
                    return [(key, key_commitment(secret)) for key, secret in made.items()]
            self._catch_up()

    def _put(self, txn: lmdb.Transaction, key: int, secret: bytes, master: Master) -> None:
        row = key_commitment(secret) + aes_key_wrap(master.key, secret)
        assert txn.put(_U64.pack(key), row, db=self._keys, overwrite=False), "a key id came twice"

    def _opened_cipher(self, epoch: int, key: int) -> AESGCM:  # noqa: ARG002 - see below
        """Return the cipher of a key; as part of the cache's key the epoch ends what it holds."""
        if key > KEY_ID_MAX:
            raise KeyError(key)
        return AESGCM(self._secret(key))

    def _secret(self, key: int) -> bytes:
        """Return a key's bytes; raises KeyError where the keyring doesn't hold it."""
        while True:
            master = self._master
            epoch, row = self._row(key)
            if epoch == master.epoch:
                break
            self._catch_up()
        if row is None:
            raise KeyError(key)
        secret = _unwrapped(master, row)
        if secret is None:
            raise Corruption(-1, f"{self._env.path}: key {key:016x} does not unwrap")
        return secret

    def _row(self, key: int) -> tuple[int, bytes | None]:
        """Return the epoch, and what the keyring holds of a key in it."""
        with self._env.begin() as txn:
            row = txn.get(_U64.pack(key), db=self._keys)
            return self._epoch_in(txn), None if row is None else bytes(row)

    # -- epochs --------------------------------------------------------------------------

    def _epoch(self) -> int:
        """Return the master epoch as it is now: another process may have destroyed keys."""
        self._check_open()
        commit = self._env.newest_commit()
        if commit != self._commit:
            with self._env.begin() as txn:
                changed = self._epoch_in(txn) != self._master.epoch
            if changed:
                self._catch_up()
            self._commit = commit
        return self._master.epoch

    def _catch_up(self) -> None:
        """Take over the epoch of another process, once its change is finished."""
        with alone(self._lock_file):
            self._settle()

    def _settle(self) -> None:
        """Finish or undo the last change of the epoch and take over its key; holds the lock."""
        with self._env.begin() as txn:
            epoch = self._epoch_in(txn)
        self._file.settle(self._store, epoch)
        self._master = self._file.read(self._store, epoch)
        self._cipher.cache_clear()

    def _change_epoch(self, gone: list[int], owner: bytes) -> None:
        """Wrap all keys but `gone` with a new master key: LMDB's commit decides between both."""
        old = self._master
        new = self._file.prepare(self._store, old.epoch + 1)
        with self._env.translating, self._env.write() as txn:
            for key in gone:
                txn.delete(_U64.pack(key), db=self._keys)
                txn.put(_U64.pack(key), owner, db=self._gone)
            self._wrap_anew(txn, old, new)
            txn.put(_EPOCH, _U64.pack(new.epoch), db=self._meta)

    def _wrap_anew(self, txn: lmdb.Transaction, old: Master, new: Master) -> None:
        with txn.cursor(self._keys) as cursor:
            for key, row in cursor:
                secret = _unwrapped(old, bytes(row))
                if secret is not None:
                    cursor.put(key, key_commitment(secret) + aes_key_wrap(new.key, secret))

    def _epoch_in(self, txn: lmdb.Transaction) -> int:
        return int(_U64.unpack(txn.get(_EPOCH, bytes(8), db=self._meta))[0])

    # -- opening -------------------------------------------------------------------------

    def _open_tables(self, *, create: bool) -> None:
        try:
            self._meta = self._env.table(b"meta", create=create)
            self._keys = self._env.table(b"keys", create=create)
            self._gone = self._env.table(b"gone", create=create)
        except lmdb.Error:
            raise StoreUnavailable(f"{self._env.path} holds no keys") from None

    def _unlock(self, *, create: bool) -> None:
        """Read the master key, made on first use, and see that it opens the store's own keys."""
        with alone(self._lock_file):
            if not self._is_made():
                if not create:
                    raise StoreUnavailable(f"{self._env.path} holds no keys")
                self._make()
            self._settle()
        try:
            self._names = AESSIV(self._secret(NAMES_KEY))
            self._secret(STORE_KEY)
        except (Corruption, KeyError):
            raise StoreUnavailable(
                f"{self._file.path} does not open the keys in {self._env.path}; restore both "
                "from the same backup"
            ) from None

    def _is_made(self) -> bool:
        """Return True if there are keys; raises StoreUnavailable where they aren't the store's."""
        with self._env.begin() as txn:
            form, store = (bytes(txn.get(name, b"", db=self._meta)) for name in (_FORMAT, _STORE))
        if int.from_bytes(form, "big") > KEYRING_FORMAT:
            raise FormatTooNew(int.from_bytes(form, "big"), KEYRING_FORMAT)
        if store not in (b"", self._store.encode()):
            found = store.decode(errors="replace")
            raise StoreUnavailable(
                f"{self._file.path} is the keyring of store {found}, not of {self._store}"
            )
        return bool(form and store)

    def _make(self) -> None:
        """Make the store's own keys under epoch 1: a change of the epoch from none."""
        if self._file.path.exists():
            raise StoreUnavailable(
                f"{self._file.path} is there, its keys in {self._env.path} are not; restore both "
                "from the same backup"
            )
        self._file.settle(self._store, 0)
        sync_directory(self._env.path)
        master = self._file.prepare(self._store, 1)
        with self._env.translating, self._env.write() as txn:
            self._put(txn, STORE_KEY, os.urandom(KEY_BYTES), master)
            self._put(txn, NAMES_KEY, os.urandom(NAMES_KEY_BYTES), master)
            for name, value in ((_FORMAT, KEYRING_FORMAT), (_EPOCH, master.epoch)):
                txn.put(name, _U64.pack(value), db=self._meta)
            txn.put(_STORE, self._store.encode(), db=self._meta)


def _fresh_key_id() -> int:
    """Return a random number of 63 bits that is not 0: no two processes need to agree on it."""
    return int.from_bytes(os.urandom(8), "big") & KEY_ID_MAX or _fresh_key_id()


def _unwrapped(master: Master, row: bytes) -> bytes | None:
    """Return the key in a row, None where it is damaged or another master key wrapped it."""
    try:
        secret = aes_key_unwrap(master.key, row[COMMITMENT_BYTES:])
    except (InvalidUnwrap, ValueError):
        return None
    return secret if key_commitment(secret) == row[:COMMITMENT_BYTES] else None
