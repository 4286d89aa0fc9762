"""The master key of a keyring: 32 bytes in a file of its owner, new with every epoch.

Invariants: the key file is JSON, of mode 0600, and holds one epoch's key, either as it is or
wrapped by a root key that is kept elsewhere (AES-KW, RFC 3394); `<file>.next` is there only while
an epoch changes; a key is destroyed by zeros that are synced before its name goes; no key ever
stands in a repr or a message.
"""

import os
import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from .errors import UNDECODABLE, FormatTooNew, StoreUnavailable
from .files import read_private, sync_directory, unavailable, write_private

KEYRING_FORMAT = 1

MASTER_BYTES = 32
"""A master key, and a root key: both for AES-256."""

WRAP_BYTES = 8
"""How much longer a wrapped key is than the key."""

FILE_BYTES_MAX = 4_096

NEXT = ".next"

HEX = re.compile(r"[0-9a-fA-F]{64}")
FORMS = f"{2 * MASTER_BYTES} hex digits or base64 of {MASTER_BYTES} bytes"

Root = Callable[[], bytes]
"""Gives the root key; asked at every unlocking and every change of the epoch, never kept."""


class Master(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the key file says: `key` in base64, 32 bytes, or 40 where the root key wraps it."""

    store: str
    epoch: int
    key: bytes
    wrapped: bool = False
    format: int = KEYRING_FORMAT

    def __repr__(self) -> str:
        return f"<Master epoch {self.epoch} of store {self.store}>"


class MasterFile:
    """Where the master key lives; only one process at a time may call what changes it."""

    def __init__(self, path: Path, root: Root | None) -> None:
        self.path, self.next = path, path.with_name(path.name + NEXT)
        self._root = root

    def read(self, store: str, epoch: int) -> Master:
        """Return the master key of `store` in `epoch`; raises StoreUnavailable, changes nothing."""
        found = self._opened(self._parsed(self.path))
        if found.store != store:
            raise StoreUnavailable(
                f"{self.path} is the keyring of store {found.store}, not of {store}"
            )
        if found.epoch != epoch:
            raise StoreUnavailable(
                f"{self.path} holds master epoch {found.epoch}, its keys are of epoch {epoch}; "
                "restore both from the same backup"
            )
        return found

    def prepare(self, store: str, epoch: int) -> Master:
        """Write a new key beside the old one and return it; settle() decides between them."""
        made = Master(store, epoch, os.urandom(MASTER_BYTES))
        kept = made
        if self._root is not None:
            wrapped = aes_key_wrap(self._root_key(self._root), made.key)
            kept = Master(store, epoch, wrapped, wrapped=True)
        write_private(self.next, msgspec.json.encode(kept) + b"\n")
        return made

    def settle(self, store: str, epoch: int) -> None:
        """Finish or undo a change that prepare() began: the key of `epoch` stays, 0 for none.

        Where neither file is of that epoch, both are left for a person to look at.
        """
        with unavailable(self.path):
            if not self.next.exists():
                return
            if self._is_unused(store, epoch):
                _overwrite(self.next)
                self.next.unlink()
            elif self._is_of(self.next, store, epoch):
                self._take_place()
            sync_directory(self.path.parent)

    def _is_unused(self, store: str, epoch: int) -> bool:
        """Return True where the next key wraps nothing yet."""
        if epoch == 0:
            return not self.path.exists()
        return self._is_of(self.path, store, epoch)

    def _is_of(self, path: Path, store: str, epoch: int) -> bool:
        try:
            found = self._parsed(path)
        except StoreUnavailable:
            return False  # missing, cut short or overwritten
        return (found.store, found.epoch) == (store, epoch)

    def _take_place(self) -> None:
        """Destroy the old key, then give its name to the next: both are never gone."""
        if self.path.exists():
            _overwrite(self.path)
        self.next.replace(self.path)

    def _parsed(self, path: Path) -> Master:
        """Return what a key file says, its key as it is written there."""
        with unavailable(path):
            missing = not path.exists()
        if missing:
            raise StoreUnavailable(
                f"{path} is missing; restore it from its backup, nothing can be read without it"
            )
        try:
            found = msgspec.json.decode(read_private(path, FILE_BYTES_MAX), type=Master)
        except UNDECODABLE:
            raise StoreUnavailable(
                f"{path} is damaged or no key file; restore it from its backup"
            ) from None
        if found.format > KEYRING_FORMAT:
            raise FormatTooNew(found.format, KEYRING_FORMAT)
        expected = MASTER_BYTES + WRAP_BYTES * found.wrapped
        if len(found.key) != expected:
            raise StoreUnavailable(
                f"{path} holds a key of {len(found.key)} bytes, it must have {expected}"
            )
        return found

    def _opened(self, found: Master) -> Master:
        """Return `found` with its key unwrapped."""
        if found.wrapped and self._root is None:
            raise StoreUnavailable(
                f"{self.path} is wrapped by a root key; open it with Keyring.environment or .of"
            )
        if self._root is None:
            return found
        if not found.wrapped:
            raise StoreUnavailable(
                f"{self.path} is not wrapped by a root key; open it with Keyring.file"
            )
        try:
            key = aes_key_unwrap(self._root_key(self._root), found.key)
        except InvalidUnwrap:
            raise StoreUnavailable(
                f"the root key does not open {self.path}: it is another one, or the file is damaged"
            ) from None
        return Master(found.store, found.epoch, key)

    def _root_key(self, root: Root) -> bytes:
        try:
            key: object = root()
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a key service raises
            what = f"raised {type(error).__name__}"  # its text may hold what nobody should read
        else:
            if isinstance(key, bytes) and len(key) == MASTER_BYTES:
                return key
            what = f"gave {len(key)} bytes" if isinstance(key, bytes) else "gave no bytes"
        raise StoreUnavailable(
            f"the root key of {self.path} must be {MASTER_BYTES} bytes, its callable {what}"
        )


def root_in_environment(variable: str) -> Root:
    """Return the root key that an environment variable holds, once it is asked for."""

    def root() -> bytes:
        text = os.environ.get(variable, "").strip()
        if not text:
            raise StoreUnavailable(
                f"environment variable {variable} is not set; it must hold the root key, {FORMS}"
            )
        if HEX.fullmatch(text):
            return bytes.fromhex(text)
        try:
            found = b64decode(text, validate=True)
        except (Base64Error, ValueError):
            found = b""
        if len(found) != MASTER_BYTES:
            raise StoreUnavailable(f"environment variable {variable} holds no root key: {FORMS}")
        return found

    return root


def _overwrite(path: Path) -> None:
    """Put zeros, durably, over every byte of a file."""
    with path.open("r+b") as file:
        file.write(bytes(os.fstat(file.fileno()).st_size))
        file.flush()
        os.fsync(file.fileno())
