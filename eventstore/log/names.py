"""Names at the edge of a log: as people say them, as the disk keeps them, as an entry hashes them.

Invariants: a plain log keeps UTF-8; an encrypted one keeps what its vault makes of that, the same
bytes for the same name, so that a name is looked up without being readable. An entry hashes the
public name, which follows from the kept bytes without a key: the name itself, or their hex.
Without its keyring an encrypted log calls everything by its public name. The system stream's
name is no secret: it is kept as it is, and is shorter than any sealed name.
"""

from typing import Protocol

from ..errors import InvalidEvent
from ..ids import SYSTEM
from .format import CONTENT, SESSION_NAME
from .vault import SIV_BYTES, Vault

_SYSTEM = SYSTEM.encode()


class Names(Protocol):
    """Translates names; `kind` is one of the kinds in format.py."""

    def kept(self, kind: bytes, name: str) -> bytes:
        """Return what is on disk for a name; InvalidEvent where it can't be kept."""

    def shown(self, kind: bytes, kept: bytes) -> str:
        """Return the name as readers see it; ValueError where the bytes are none."""

    def public(self, kept: bytes) -> str:
        """Return the name that entries hash."""

    def both(self, kind: bytes, name: str) -> tuple[bytes, str]:
        """Return what is on disk for a name, and the name that entries hash."""
        kept = self.kept(kind, name)
        return kept, self.public(kept)

    def digest(self, content: bytes) -> bytes:
        """Return the 16 bytes that stand for a command's content beside its key."""


class PlainNames(Names):
    """Names of a log that is not encrypted: all three are the same."""

    def kept(self, _: bytes, name: str) -> bytes:
        """Return its UTF-8; a lone surrogate gives bytes that no name has."""
        _check_text(name)
        return name.encode("utf-8", "surrogatepass")

    def both(self, _: bytes, name: str) -> tuple[bytes, str]:
        """Return its UTF-8, and the name itself."""
        if type(name) is not str:
            _check_text(name)
        return name.encode("utf-8", "surrogatepass"), name

    def shown(self, _: bytes, kept: bytes) -> str:
        """Return the name."""
        return kept.decode()

    def public(self, kept: bytes) -> str:
        """Return the name."""
        return kept.decode()

    def digest(self, content: bytes) -> bytes:
        """Return the content's own digest."""
        return content


class SealedNames(Names):
    """Names of an encrypted log that is open with its keyring."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def kept(self, kind: bytes, name: str) -> bytes:
        """Return the sealed name."""
        _check_text(name)
        if name == SYSTEM or not name:
            return name.encode()
        try:
            return self._vault.seal_name(kind, name)
        except UnicodeEncodeError:
            raise InvalidEvent("a name holds a lone surrogate, which no UTF-8 can carry") from None

    def shown(self, kind: bytes, kept: bytes) -> str:
        """Return the name that was sealed."""
        return SYSTEM if kept == _SYSTEM else self._vault.open_name(kind, kept)

    def public(self, kept: bytes) -> str:
        """Return the pseudonym: hex of the sealed name."""
        return _pseudonym(kept)

    def digest(self, content: bytes) -> bytes:
        """Return a digest under the store's key: whoever guesses the content can't compare."""
        return self._vault.seal_name(CONTENT, content.hex())[:SIV_BYTES]


class LockedNames(Names):
    """Names of an encrypted log without its keyring: pseudonyms, which can be looked up too."""

    def kept(self, _: bytes, name: str) -> bytes:
        """Return the sealed name that a pseudonym stands for."""
        _check_text(name)
        try:
            kept = _SYSTEM if name == SYSTEM else bytes.fromhex(name)
        except ValueError:
            kept = b""
        if _pseudonym(kept) != name:
            raise InvalidEvent(f"{name!r} is no pseudonym of an encrypted store")
        return kept

    def shown(self, _: bytes, kept: bytes) -> str:
        """Return the pseudonym."""
        return _pseudonym(kept)

    def public(self, kept: bytes) -> str:
        """Return the pseudonym."""
        return _pseudonym(kept)

    def digest(self, content: bytes) -> bytes:
        """Return bytes that equal no digest in the log."""
        return bytes(len(content))


def public_session(names: Names, session: str) -> str:
    """Return the name of a session that entries hash."""
    return names.public(names.kept(SESSION_NAME, session))


def _check_text(name: object) -> None:
    """Raise InvalidEvent for what can't be a name; readers hand over what callers gave."""
    if not isinstance(name, str):
        raise InvalidEvent(f"a name must be a string, not {type(name).__name__}")


def _pseudonym(kept: bytes) -> str:
    return SYSTEM if kept == _SYSTEM else kept.hex()
