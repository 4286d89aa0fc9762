"""What a log needs of a keyring: keys by number, sealed bytes, sealed names, keys destroyed.

Invariants: a sealed body is  key id u64 | nonce 12 | ciphertext | tag 16  under AES-256-GCM
with a random nonce; a sealed name is  SIV 16 | ciphertext  under AES-256-SIV (RFC 5297), the same
bytes for the same kind and name; `bound` is authenticated, never stored; no secret is ever part
of a message.
"""

import struct
from collections.abc import Collection, Sequence
from hashlib import sha256
from typing import Protocol

from ..limits import NAME_BYTES_MAX

STORE_KEY = 0
"""The id of the store's own key: it seals the facts that must outlive an erasure."""

KEY_BYTES = 32
"""A data key, for AES-256-GCM."""

KEY_ID_BYTES, NONCE_BYTES, TAG_BYTES = 8, 12, 16

SEALED_OVERHEAD_BYTES = KEY_ID_BYTES + NONCE_BYTES + TAG_BYTES
"""How much longer a sealed body is than what it seals."""

SIV_BYTES = 16
"""How much longer a sealed name is than the name."""

SEALED_NAME_BYTES_MAX = NAME_BYTES_MAX - SIV_BYTES
"""UTF-8 bytes of a name in an encrypted store: sealed, it has to fit where a plain one does."""

KEY_TAG = b"eventstore/1 data key\0"

_KEY_ID = struct.Struct(">Q")


class Vault(Protocol):
    """An unlocked keyring; its methods may be called by several threads and processes at once."""

    def fresh(self) -> tuple[int, bytes]:
        """Return (id, commitment) of a new data key; the key is durable when this returns."""

    def seal(self, key: int, plain: bytes, bound: bytes) -> bytes:
        """Return `plain` sealed with `key` and tied to `bound`; KeyError where the key is gone."""

    def seal_all(self, key: int, plains: Sequence[bytes], bounds: Sequence[bytes]) -> list[bytes]:
        """Return each of `plains` sealed as seal() does it, each tied to its own `bounds`."""

    def open(self, sealed: bytes, bound: bytes) -> bytes:
        """Return what was sealed; KeyError without its key, ValueError where the tag is wrong."""

    def seal_name(self, kind: bytes, name: str) -> bytes:
        """Return the sealed name; InvalidEvent where it has over SEALED_NAME_BYTES_MAX bytes."""

    def open_name(self, kind: bytes, sealed: bytes) -> str:
        """Return the name that was sealed as `kind`; ValueError where it is none."""

    def shred(self, keys: Collection[int], owner: bytes = b"") -> int:
        """Destroy `keys` for good and return the master epoch that knows them no more.

        That they were, and the sealed name of their `owner`, is remembered. A call that finds none
        of the keys and no unfinished change does nothing.
        """

    def destroyed(self) -> dict[int, bytes]:
        """Return the keys that shred() destroyed, each with its owner."""

    def was_destroyed(self, key: int) -> bool:
        """Return True for one of them."""

    def commitment(self, key: int) -> bytes | None:
        """Return the commitment of a key; None where the keyring doesn't hold it (any more)."""

    def close(self) -> None:
        """Forget the keys and let go of the files."""


def key_commitment(data_key: bytes) -> bytes:
    """Return SHA-256(tag || data key): GCM's tag fits more than one key, this fits one."""
    return sha256(KEY_TAG + data_key).digest()


def sealed_with(sealed: bytes) -> int:
    """Return the id of the key that a sealed body needs; ValueError where it is too short."""
    if len(sealed) < SEALED_OVERHEAD_BYTES:
        raise ValueError(
            f"sealed bytes are {len(sealed)}, they need at least {SEALED_OVERHEAD_BYTES}"
        )
    return int(_KEY_ID.unpack_from(sealed)[0])
