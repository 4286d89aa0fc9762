"""Signed heads of a store: each extends the last one, which is kept where a rollback can't reach.

Invariants: only what a durable commit returned is signed; a note is on disk outside the store's
directory before it is handed out or anchored; no head is ever signed that the one before it does
not lead to; several processes sign one after the other.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..directory import sync_directory, write_durably
from ..errors import ProofError, RollbackDetected, StoreUnavailable
from ..log.base import Head
from ..store import EventStore
from .anchors import Anchor
from .note import NOTE_BYTES_MAX, Checkpoint, open_checkpoint, sign_note
from .proof import Prover
from .signer import SigningKey, VerifierKey
from .tree import EMPTY_ROOT, verify_consistency


def check_extends(store: EventStore, last_note: bytes, keys: Sequence[VerifierKey]) -> Checkpoint:
    """Return the head in a note of this store that the log, as it stands, leads on from.

    At most a tile of leaves is hashed anew, the rest is what commits left in the log: whoever
    may write its files needs `verify` against them. Raises ProofError for a note that is not this
    store's, RollbackDetected where the log is shorter than the head or holds another history.
    """
    last = open_head(store, last_note, keys)
    _check_leads(store, last, store.head())
    return last


def open_head(store: EventStore, note: bytes, keys: Sequence[VerifierKey]) -> Checkpoint:
    """Return the head in a note that was signed for this store; raises ProofError."""
    found = open_checkpoint(note, keys)
    if not store.id or not found.origin.endswith(f"/{store.id}"):
        raise ProofError(f"the head is of {found.origin!r}, not of store {store.id!r}")
    return found


def _check_leads(store: EventStore, last: Checkpoint, head: Head) -> None:
    """Raise RollbackDetected unless a signed head leads to a newer one of the log."""
    if last.size > head.size:
        what = f"a head of {last.size} events was signed, the log has only {head.size}"
        raise RollbackDetected(f"{what}; restore the missing events or start a new origin")
    try:
        _check_prefix(store, last, head)
    except ProofError as error:
        what = f"the first {last.size} events are not those that were signed ({error})"
        raise RollbackDetected(f"{what}; run 'eventstore verify' to find the difference") from None


def _check_prefix(store: EventStore, last: Checkpoint, head: Head) -> None:
    """Raise ProofError unless one tree begins with the other."""
    if last.size:
        proof = Prover.of(store.log).consistency(last.size, head.size)
        verify_consistency(last.size, head.size, proof, last.root, head.root)
    elif last.root != EMPTY_ROOT:
        raise ProofError("another root than that of no events")


class Heads:
    """Signs the heads of one store and keeps the last one in a file.

    `path` lies outside the store's directory; `earlier` are keys that may have signed the kept
    head, of which a rotation tells. Raises StoreUnavailable and ProofError.
    """

    def __init__(
        self,
        store: EventStore,
        key: SigningKey,
        path: Path,
        *,
        earlier: Sequence[VerifierKey] = (),
        anchors: Sequence[Anchor] = (),
    ) -> None:
        if not store.id or not key.name.endswith(f"/{store.id}"):
            raise ProofError(f"key {key.name!r} does not sign for store {store.id!r}")
        if store.path and path.resolve().is_relative_to(store.path.resolve()):
            raise StoreUnavailable(f"{path} would be rolled back with the store: keep it elsewhere")
        self._store, self._key, self._path = store, key, path
        self._keys, self._anchors = (key.verifier, *earlier), tuple(anchors)

    def last(self) -> bytes | None:
        """Return the note that was signed last, None before the first."""
        try:
            with self._path.open("rb") as file:
                return file.read(NOTE_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreUnavailable(f"{self._path} can't be read: {error.strerror}") from None

    def check(self) -> Checkpoint | None:
        """Check that the log leads on from the head signed last, as check_extends() does."""
        last = self.last()
        return None if last is None else check_extends(self._store, last, self._keys)

    def sign(self) -> bytes:
        """Return the note of the head as it stands, kept and anchored; every note is kept first.

        Raises RollbackDetected before anything is signed, and StoreUnavailable, also where an
        anchor failed: the head is kept then and the next call anchors it again.
        """
        with self._alone():
            self.check()
            head = self._store.head()
            made = Checkpoint(self._key.name, head.size, head.root)
            note = sign_note(str(made), self._key)
            self._keep(note)
        self._anchor(note)
        return note

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold off other processes, so that the kept head never goes back."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._beside(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreUnavailable(f"{self._path} can't be written: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _keep(self, note: bytes) -> None:
        """Put a note into the place of the last one, durably and whole."""
        try:
            write_durably(self._beside(".new"), note)
            self._beside(".new").replace(self._path)
            sync_directory(self._path.parent)
        except OSError as error:
            raise StoreUnavailable(f"{self._path} can't be written: {error.strerror}") from None

    def _anchor(self, note: bytes) -> None:
        failures = []
        for anchor in self._anchors:
            try:
                anchor(note)
            except StoreUnavailable as error:
                failures.append(str(error))
        if failures:
            what = f"the head is signed and kept in {self._path}, but not anchored everywhere"
            raise StoreUnavailable(f"{what}: {'; '.join(failures)}")

    def _beside(self, suffix: str) -> Path:
        return self._path.with_name(self._path.name + suffix)
