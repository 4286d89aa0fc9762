"""What an encrypted log seals: payloads, each with a key that its session or the store owns.

    body = [occurred 8] | pt_commit 32 | key id 8 | nonce 12 | ciphertext | tag 16

The ciphertext holds salt and compressed payload. The commitment stands in front of it so that
the tree can be made again by whoever has no key. Invariants: nothing of an event head, of its
session or of its time can be changed without the tag failing; bytes whose key was shredded are
KeyShredded, bytes that don't fit their key are a ValueError, never a payload.
"""

from collections.abc import Sequence
from struct import Struct
from typing import TYPE_CHECKING

from ..errors import KeyShredded, StoreUnavailable
from .names import LockedNames, Names, SealedNames
from .vault import Vault, sealed_with

if TYPE_CHECKING:
    from ..events import AnyEvent

COMMITMENT_BYTES = 32

KEYS_CACHED_MAX = 10_000
"""Sessions whose key's id is remembered."""

LOCKED = "the store is encrypted; open it with keyring=, on the command line with --keyring"
"""What is said where a payload, or the right to write, is asked for without the keyring."""

_BOUND = Struct(">IIBH")
"""Size, tokens, role and dictionary number: what else of an event head the tag covers."""


class Seal:
    """The keys of an encrypted log; until it is unlocked it knows nothing but pseudonyms."""

    def __init__(self) -> None:
        self.vault: Vault | None = None
        self.keys: dict[str, int] = {}
        """Session -> id of its key, as key_of() found it."""
        self.gone: dict[int, str] = {}
        """Keys that are destroyed -> their sessions, which a copy that can't be written has yet."""
        self.left: dict[tuple[str, int], AnyEvent | None] = {}
        """What such a copy has to tell no more of them -> what is left: by session and version."""
        self._names: Names | None = LockedNames()

    @property
    def names(self) -> Names:
        """How the log keeps names. Raises StoreUnavailable once it is closed."""
        if self._names is None:
            raise StoreUnavailable("the store is closed, and with it the keys of what was read")
        return self._names

    def unlock(self, vault: Vault) -> None:
        """Use a vault from now on; close() closes it."""
        self.vault, self._names = vault, SealedNames(vault)

    def close(self) -> None:
        """Forget the keys."""
        vault, self.vault, self._names = self.vault, None, None
        if vault is not None:
            vault.close()

    def opened(self) -> Vault:
        """Return the vault; raises StoreUnavailable where the log is open without its keyring."""
        if self.vault is None:
            _ = self.names  # which says so where the log is closed
            raise StoreUnavailable(LOCKED)
        return self.vault

    def seal_all(
        self, session: str, keys: Sequence[int], plains: Sequence[bytes], bounds: Sequence[bytes]
    ) -> list[bytes]:
        """Return each text sealed with its key; raises StoreUnavailable and KeyShredded."""
        vault = self.opened()
        try:
            if len(set(keys)) == 1:
                return vault.seal_all(keys[0], plains, bounds)
            return [vault.seal(*each) for each in zip(keys, plains, bounds, strict=True)]
        except KeyError:
            raise self._gone(session, keys) from None

    def open(self, sealed: bytes, bound: bytes, session: str) -> bytes:
        """Return what was sealed. Raises StoreUnavailable, KeyShredded and ValueError."""
        try:
            return self.opened().open(sealed, bound)
        except KeyError:
            raise self._gone(session, [sealed_with(sealed)]) from None

    def _gone(self, session: str, keys: Sequence[int]) -> KeyShredded:
        """Return the error of keys that are not in the keyring: destroyed, or lost."""
        return KeyShredded(session, lost=not any(map(self.opened().was_destroyed, keys)))

    def remember(self, session: str, key: int) -> None:
        """Keep the id of a session's key, which never changes."""
        if len(self.keys) >= KEYS_CACHED_MAX:
            self.keys.clear()
        self.keys[session] = key


def bound_of(lead: bytes, digest: bytes, size: int, tokens: int, role: int, number: int) -> bytes:
    """Return what a sealed payload is tied to, besides its key.

    `lead` is bytes 0-15 of the entry, `digest` the session's in it, `number` the dictionary's.
    """
    return lead + digest + _BOUND.pack(size, tokens, role, number)
