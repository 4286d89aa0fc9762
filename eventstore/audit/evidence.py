"""What an auditor is handed: proofs of an event, of a session, between two heads; disclosures.

Invariants: every file says in its first line what it is and carries the signed heads it stands
on; a proof is checked like a stranger would before it leaves; nothing but the named event's
payload is given away. docs/integrity.md draws the files; verifier.py checks them without us.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Self

import msgspec

from ..engine.reading import version_at
from ..errors import ProofError
from ..log.names import public_session
from ..log.recorded import Recorded
from ..store import EventStore
from .heads import open_head
from .leaves import log_entries
from .note import NOTE_BYTES_MAX, Checkpoint, hash_of, number, open_checkpoint
from .proof import Prover
from .signer import VerifierKey, from_base64, to_base64
from .tree import leaf_hash, verify_consistency, verify_inclusion

TLOG_PROOF = "c2sp.org/tlog-proof@v1"
CONSISTENCY = "eventstore/consistency@v1"
SESSION = "eventstore/session@v1"
DISCLOSURE = "eventstore/disclosure@v1"

HASHES_MAX = 64
"""Hashes in one inclusion proof: a tree has fewer levels than its size has bits."""

PROOF_BYTES_MAX = 4 * NOTE_BYTES_MAX


class TlogProof(msgspec.Struct, frozen=True):
    """C2SP's tlog-proof: an entry's index, its inclusion proof and the signed head.

    `extra` is what the format leaves to the application: here the entry itself.
    """

    index: int
    hashes: tuple[bytes, ...]
    note: bytes
    extra: bytes = b""

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Take a proof apart without believing it; raises ProofError."""
        head, note = _parted(raw, 1)
        first, *lines = head.split("\n")
        if first != TLOG_PROOF:
            raise ProofError("this is no tlog-proof")
        extra = lines.pop(0).removeprefix("extra ") if _begins(lines, "extra ") else ""
        if not _begins(lines, "index "):
            raise ProofError("the proof names no index")
        index = number(lines.pop(0).removeprefix("index "), "the index")
        return cls(index, _hashes(lines), note.encode(), from_base64(extra, "the extra data"))

    def encode(self) -> bytes:
        """Return the file's bytes."""
        extra = [f"extra {to_base64(self.extra)}"] if self.extra else []
        lines = [TLOG_PROOF, *extra, f"index {self.index}", *map(to_base64, self.hashes)]
        return "\n".join(lines).encode() + b"\n\n" + self.note

    def check(self, keys: Sequence[VerifierKey], entry: bytes | None = None) -> Checkpoint:
        """Return the head that holds the entry, by default `extra`; raises ProofError."""
        head = open_checkpoint(self.note, keys)
        leaf = leaf_hash(self.extra if entry is None else entry)
        verify_inclusion(leaf, self.index, head.size, self.hashes, head.root)
        return head


class Consistency(msgspec.Struct, frozen=True):
    """Two signed heads of one origin, and the proof that the newer one only added to the older."""

    hashes: tuple[bytes, ...]
    old: bytes
    new: bytes

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Take a proof apart without believing it; raises ProofError."""
        head, old_text, old_lines, new_text, new_lines = _parted(raw, 4)
        first, *lines = head.split("\n")
        if first != CONSISTENCY:
            raise ProofError("this is no consistency proof")
        old, new = f"{old_text}\n\n{old_lines}\n", f"{new_text}\n\n{new_lines}"
        return cls(_hashes(lines, 2 * HASHES_MAX), old.encode(), new.encode())

    def encode(self) -> bytes:
        """Return the file's bytes."""
        lines = [CONSISTENCY, *map(to_base64, self.hashes)]
        return b"\n".join(["\n".join(lines).encode() + b"\n", self.old, self.new])

    def check(self, keys: Sequence[VerifierKey]) -> tuple[Checkpoint, Checkpoint]:
        """Return both heads; raises ProofError unless the second adds to the first."""
        old, new = open_checkpoint(self.old, keys), open_checkpoint(self.new, keys)
        if old.origin != new.origin:
            raise ProofError(f"heads of two origins: {old.origin!r} and {new.origin!r}")
        verify_consistency(old.size, new.size, self.hashes, old.root, new.root)
        return old, new


# -- making them out of a store ----------------------------------------------------------


def prove_event(
    store: EventStore, position: int, note: bytes, keys: Sequence[VerifierKey]
) -> bytes:
    """Return the tlog-proof that the event at a position is under a signed head of the store.

    Raises ProofError, also where the log is not the one that was signed.
    """
    return _proved(store, position, note, keys).encode()


def prove_consistency(
    store: EventStore, old: bytes, new: bytes, keys: Sequence[VerifierKey]
) -> bytes:
    """Return the proof that a signed head of the store only added to an earlier one."""
    heads = open_head(store, old, keys), open_head(store, new, keys)
    hashes = Prover.of(store.log).consistency(heads[0].size, heads[1].size)
    made = Consistency(tuple(hashes), old, new)
    made.check(keys)
    return made.encode()


def disclose(
    store: EventStore,
    position: int,
    note: bytes,
    keys: Sequence[VerifierKey],
    *,
    names: bool = True,
) -> bytes:
    """Return one event with all that ties it to a signed head: entry, proof, salt and payload.

    Without `names` the session, actor, correlation and causation stay digests; those of an
    encrypted store are its pseudonyms.
    """
    proved = _proved(store, position, note, keys)
    recorded = store.event(position)
    _, salt, payload = recorded.frame.opened(recorded.index)
    made = {
        "format": DISCLOSURE,
        "index": position,
        "entry": to_base64(proved.extra),
        "proof": [to_base64(each) for each in proved.hashes],
        "salt": to_base64(salt),
        "payload": to_base64(payload),
        "names": _names(recorded) if names else [],
        "checkpoint": note.decode(),
    }
    return _line(made)


def prove_session(
    store: EventStore, session: str, note: bytes, keys: Sequence[VerifierKey]
) -> Iterator[bytes]:
    """Iterate over the lines of a bundle: a head line, then each entry of the session in order.

    Versions are dense and each entry names the one before, so none is missing up to the last.
    Raises SessionNotFound, and ProofError where the head holds nothing of it.
    """
    head = open_head(store, note, keys)
    store.version(session)
    last = version_at(store.log, session, head.size - 1)
    if last < 0:
        raise ProofError(f"session {session!r} has no events among the first {head.size}")
    yield _line(
        {
            "format": SESSION,
            "session": public_session(store.log.codec.names, session),
            "events": last + 1,
            "checkpoint": note.decode(),
        }
    )
    prover = Prover.of(store.log)
    for recorded in store.events(session, 0, last):
        entry = log_entries(store.log, recorded.position, recorded.position + 1)[0]
        proof = prover.inclusion(recorded.position, head.size)
        verify_inclusion(leaf_hash(entry), recorded.position, head.size, proof, head.root)
        proved = {
            "index": recorded.position,
            "entry": to_base64(entry),
            "proof": [to_base64(each) for each in proof],
        }
        yield _line(proved)


def _proved(
    store: EventStore, position: int, note: bytes, keys: Sequence[VerifierKey]
) -> TlogProof:
    head = open_head(store, note, keys)
    hashes = Prover.of(store.log).inclusion(position, head.size)
    entry = log_entries(store.log, position, position + 1)[0]
    made = TlogProof(position, tuple(hashes), note, entry)
    made.check(keys)
    return made


def _names(recorded: Recorded) -> list[str | None]:
    """Return the names that the entry hashes: in an encrypted store the pseudonyms."""
    return list(recorded.frame.public_names())


# -- lines -------------------------------------------------------------------------------


def _line(made: dict[str, object]) -> bytes:
    """Return JSON of exactly one form, so that a reader can refuse every other."""
    return json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _parted(raw: bytes, cuts: int) -> list[str]:
    """Return the parts of a text between its first empty lines, the last one whole."""
    if len(raw) > PROOF_BYTES_MAX:
        raise ProofError(f"a proof has up to {PROOF_BYTES_MAX} bytes, not {len(raw)}")
    try:
        parts = raw.decode().split("\n\n", cuts)
    except UnicodeDecodeError:
        raise ProofError("a proof is UTF-8") from None
    if len(parts) != cuts + 1:
        raise ProofError("the proof ends too early")
    return parts


def _begins(lines: list[str], prefix: str) -> bool:
    return bool(lines) and lines[0].startswith(prefix) and lines[0] != prefix


def _hashes(lines: list[str], count_max: int = HASHES_MAX) -> tuple[bytes, ...]:
    if len(lines) > count_max:
        raise ProofError(f"a proof has up to {count_max} hashes, not {len(lines)}")
    return tuple(hash_of(line, "a hash of the proof") for line in lines)
