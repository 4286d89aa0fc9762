"""The keys that sign heads: Ed25519, in the text forms of Go's sumdb/note, in files of their owner.

Invariants: a key's id is the first 4 bytes of SHA-256(name || 0x0A || 0x01 || public key), as
C2SP's signed-note says, and is checked whenever a key is read; no secret ever stands in a repr,
a message or a file that others may read.
"""

import os
import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ..errors import ProofError, StoreUnavailable
from ..files import checked_path, read_private, unavailable, write_private

ED25519 = b"\x01"
"""The signature type, in front of key bytes."""

KEY_BYTES = 32
KEY_ID_BYTES = 4
KEY_FILE_BYTES_MAX = 4_096

_ID = re.compile(r"[0-9a-f]{8}")
_SECRET_PREFIX = "PRIVATE+KEY+"  # noqa: S105 - the word that says so, not the secret


class VerifierKey(NamedTuple):
    """A public key and the name it signs under: the origin of a store's heads."""

    name: str
    public: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `name+id+base64(0x01 || public key)`; raises ProofError."""
        name, key_id, public = _parsed(text.split("+", 2))
        key = cls(name, public)
        if key.id.hex() != key_id:
            raise ProofError(f"the id of verifier key {name!r} is not that of its bytes")
        return key

    @property
    def id(self) -> bytes:
        """The 4 bytes that name this key in a signature."""
        return sha256(self.name.encode() + b"\n" + ED25519 + self.public).digest()[:KEY_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{to_base64(ED25519 + self.public)}"

    def check(self, message: bytes, signature: bytes) -> None:
        """Raise ProofError unless the signature is this key's over the message."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, ValueError):
            raise ProofError(f"the signature of {self.name!r} does not fit the text") from None


class SigningKey:
    """A private key: signs under one name, which is the origin of one store's heads."""

    def __init__(self, name: str, seed: bytes) -> None:
        if len(seed) != KEY_BYTES:
            raise ProofError(f"a signing key has {KEY_BYTES} bytes, not {len(seed)}")
        self._seed, self._key = seed, Ed25519PrivateKey.from_private_bytes(seed)
        self.verifier = VerifierKey(check_key_name(name), self._key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, name: str) -> Self:
        """Return a fresh key."""
        return cls(name, os.urandom(KEY_BYTES))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `PRIVATE+KEY+name+id+base64(0x01 || seed)`; raises ProofError."""
        if not text.startswith(_SECRET_PREFIX):
            raise ProofError("this is no signing key")
        name, key_id, seed = _parsed(text.removeprefix(_SECRET_PREFIX).split("+", 2))
        key = cls(name, seed)
        if key.verifier.id.hex() != key_id:
            raise ProofError(f"the id of signing key {name!r} is not that of its bytes")
        return key

    @property
    def name(self) -> str:
        """The name it signs under."""
        return self.verifier.name

    def secret(self) -> str:
        """Return the text form, whose holder can sign."""
        key = to_base64(ED25519 + self._seed)
        return f"{_SECRET_PREFIX}{self.name}+{self.verifier.id.hex()}+{key}"

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of a signature (RFC 8032)."""
        return self._key.sign(message)

    def __repr__(self) -> str:
        return f"<SigningKey {self.verifier}>"

    # -- files ---------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the key to a new file that only its owner can read; raises StoreUnavailable."""
        write_private(checked_path(path, "path"), self.secret().encode() + b"\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a key file. Raises StoreUnavailable, also if others may read it, and ProofError."""
        path = checked_path(path, "path")
        raw = read_private(path, KEY_FILE_BYTES_MAX + 1)
        if not raw:  # a process that died between making the file and writing the key into it
            raise StoreUnavailable(f"{path} is empty: no key was made; make it with keygen")
        try:
            return cls.parse(raw.decode().removesuffix("\n"))
        except (ProofError, UnicodeDecodeError):
            raise ProofError(f"{path} holds no signing key") from None


def is_made(path: Path) -> bool:
    """Return True where there is a key file; an empty one is what a process left that died."""
    with unavailable(path):
        return path.exists() and path.stat().st_size > 0


def check_key_name(name: str) -> str:
    """Return a key's name if it is one: not empty, no spaces, no plus, no control characters."""
    if not name or "+" in name or any(char.isspace() or char < " " for char in name):
        raise ProofError(f"{name!r} can't be the name of a key")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ProofError(f"{name!r} can't be the name of a key") from None
    return name


def to_base64(raw: bytes) -> str:
    """Return standard base64."""
    return b64encode(raw).decode()


def from_base64(text: str, what: str) -> bytes:
    """Decode base64 of exactly one form, so that no bit of a text is without meaning."""
    try:
        found = b64decode(text, validate=True)
    except (Base64Error, ValueError):
        raise ProofError(f"{what} is no base64") from None
    if to_base64(found) != text:
        raise ProofError(f"{what} is no canonical base64")
    return found


def _parsed(parts: list[str]) -> tuple[str, str, bytes]:
    """Return name, id and key bytes of a text form."""
    if len(parts) != 3 or not _ID.fullmatch(parts[1]):  # noqa: PLR2004 - name, id, bytes
        raise ProofError("a key is written as name+id+base64")
    raw = from_base64(parts[2], "the key")
    if raw[:1] != ED25519 or len(raw) != 1 + KEY_BYTES:
        raise ProofError(f"a key is one byte of type 1 and {KEY_BYTES} bytes")
    return check_key_name(parts[0]), parts[1], raw[1:]
