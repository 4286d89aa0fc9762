"""Signed notes and tree heads as text, exactly as C2SP's signed-note and tlog-checkpoint say.

    example.com/support/0190...     origin: a name and the store's id, also the key's name
    109482                          events in the tree
    sFodV/vSp5O8n9a8QpW6...         base64 of the root
                                    an empty line
    — example.com/support/0190... hI2DJw...roloI=

Invariants: a note is parsed in one form only, so a change of any byte is refused or changes what
is signed; a text is looked at only after a known key's signature fits; signatures of unknown keys
(a witness, a rotated key) are ignored, as C2SP demands.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple, Self

from ..errors import ProofError
from .signer import KEY_ID_BYTES, SigningKey, VerifierKey, check_key_name, from_base64, to_base64
from .tree import HASH_BYTES, SIZE_MAX

NOTE_BYTES_MAX = 65_536
SIGNATURES_MAX = 16
"""Signature lines of a note: C2SP wants at least so many to be accepted."""

ROTATION = "eventstore/key-rotation@v1"
"""The first line of a note that hands a name over to another key."""

_SIGNATURE_PREFIX = "— "
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


class Signature(NamedTuple):
    """One signature line: the key's name and id, and what it made of the text."""

    name: str
    key_id: bytes
    signature: bytes


class Note(NamedTuple):
    """A text that ends in a newline, and its signatures: one or more."""

    text: str
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Take a note apart without believing it; raises ProofError."""
        text, _, lines = _decoded(raw).rpartition("\n\n")
        if not text or not lines.endswith("\n"):
            raise ProofError("a note is a text, an empty line and whole signature lines")
        found = tuple(_signature(line) for line in lines[:-1].split("\n"))
        if len(found) > SIGNATURES_MAX:
            raise ProofError(f"a note has up to {SIGNATURES_MAX} signatures, not {len(found)}")
        if len({(each.name, each.key_id) for each in found}) != len(found):
            raise ProofError("a key signed the note twice")
        return cls(text + "\n", found)

    def check(self, keys: Sequence[VerifierKey]) -> list[VerifierKey]:
        """Return the keys that signed; raises ProofError if none did or a signature is wrong."""
        known = {(key.name, key.id): key for key in keys}
        signed = []
        for each in self.signatures:
            key = known.get((each.name, each.key_id))
            if key is not None:
                key.check(self.text.encode(), each.signature)
                signed.append(key)
        if not signed:
            raise ProofError("no known key signed the note")
        return signed


def sign_note(text: str, *keys: SigningKey) -> bytes:
    """Return a text (with its last newline) signed by one key or several."""
    lines = [text, "\n"]
    for key in keys:
        signature = key.verifier.id + key.sign(text.encode())
        lines.append(f"{_SIGNATURE_PREFIX}{key.name} {to_base64(signature)}\n")
    return "".join(lines).encode()


def number(text: str, what: str) -> int:
    """Read a decimal without leading zeros, at most 2**63 - 1; raises ProofError."""
    if not _NUMBER.fullmatch(text) or int(text) > SIZE_MAX:
        raise ProofError(f"{what} is no decimal number from 0 to 2**63 - 1")
    return int(text)


def hash_of(text: str, what: str) -> bytes:
    """Read the base64 of one hash; raises ProofError."""
    found = from_base64(text, what)
    if len(found) != HASH_BYTES:
        raise ProofError(f"{what} has {len(found)} bytes instead of {HASH_BYTES}")
    return found


# -- tree heads --------------------------------------------------------------------------


class Checkpoint(NamedTuple):
    """A tree head as it is signed: whose, how many events, which root."""

    origin: str
    size: int
    root: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read exactly three lines; raises ProofError."""
        lines = text.split("\n")
        if len(lines) != 4 or lines[3]:  # noqa: PLR2004 - three lines and what ends the third
            raise ProofError("a checkpoint has exactly three lines")
        size = number(lines[1], "the size of a checkpoint")
        return cls(check_key_name(lines[0]), size, hash_of(lines[2], "the root of a checkpoint"))

    def __str__(self) -> str:
        return f"{self.origin}\n{self.size}\n{to_base64(self.root)}\n"


def origin_of(name: str, store: str) -> str:
    """Return the origin of a store's heads, which is also the name of the key that signs them."""
    if not store:
        raise ProofError("a store in memory has no id that its heads could be signed for")
    return check_key_name(f"{name}/{store}")


def open_checkpoint(raw: bytes, keys: Sequence[VerifierKey]) -> Checkpoint:
    """Return the tree head in a note that a known key of its origin signed; raises ProofError."""
    note = Note.parse(raw)
    signed = note.check(keys)
    found = Checkpoint.parse(note.text)
    if all(key.name != found.origin for key in signed):
        raise ProofError(f"no key of its origin {found.origin!r} signed the head")
    return found


# -- key rotation ------------------------------------------------------------------------


class Rotation(NamedTuple):
    """A hand-over: heads of more than `size` events are signed by the new key."""

    size: int
    key: VerifierKey


def sign_rotation(old: SigningKey, new: SigningKey, size: int) -> bytes:
    """Return the note by which a key hands its name over: both sign, the new one to show it can."""
    if old.name != new.name or old.verifier == new.verifier:
        raise ProofError(f"key {old.name!r} can only be followed by another key of that name")
    text = f"{ROTATION}\n{old.name}\n{size}\n{new.verifier}\n"
    return sign_note(text, old, new)


def open_rotation(raw: bytes, old: VerifierKey) -> Rotation:
    """Return who follows a key and from which size on; raises ProofError."""
    note = Note.parse(raw)
    note.check([old])
    lines = note.text.split("\n")
    if len(lines) != 5 or lines[0] != ROTATION or lines[4]:  # noqa: PLR2004 - four lines
        raise ProofError("the note is no key rotation")
    new = VerifierKey.parse(lines[3])
    if not old.name == lines[1] == new.name or new == old:
        raise ProofError(f"the note hands over another name than {old.name!r}")
    note.check([new])
    return Rotation(number(lines[2], "the size of a rotation"), new)


# -- lines -------------------------------------------------------------------------------


def _decoded(raw: bytes) -> str:
    if len(raw) > NOTE_BYTES_MAX:
        raise ProofError(f"a note has up to {NOTE_BYTES_MAX} bytes, not {len(raw)}")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise ProofError("a note is UTF-8") from None
    if _CONTROL.search(text):
        raise ProofError("a note holds no control characters")
    return text


def _signature(line: str) -> Signature:
    name, space, encoded = line.removeprefix(_SIGNATURE_PREFIX).partition(" ")
    if not line.startswith(_SIGNATURE_PREFIX) or not space:
        raise ProofError("a signature line is a dash, a name and base64")
    raw = from_base64(encoded, "a signature")
    if len(raw) <= KEY_ID_BYTES:
        raise ProofError("a signature has more bytes than its key's id")
    return Signature(check_key_name(name), raw[:KEY_ID_BYTES], raw[KEY_ID_BYTES:])
