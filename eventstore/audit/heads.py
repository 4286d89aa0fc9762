"""Signed heads of a store: each extends the last one, which is kept where a rollback can't reach.

Invariants: only what a durable commit returned is signed; a note is on disk outside the store's
directory before it is handed out or anchored; no head is ever signed that the one before it does
not lead to; several processes sign one after the other; who signs from when on is a fact.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from ..engine.system import ROTATION
from ..errors import ProofError, StoreUnavailable
from ..events import Custom
from ..files import alone, checked_path, make_directory, put_durably
from ..ids import SYSTEM
from ..store import EventStore
from .anchors import Anchor
from .note import Checkpoint, open_checkpoint, open_rotation, sign_note, sign_rotation
from .signer import SigningKey, VerifierKey
from .trust import check_leads, check_origin, read_note, rotation_path


def check_extends(store: EventStore, last_note: bytes, keys: Sequence[VerifierKey]) -> Checkpoint:
    """Return the head in a note of this store that the log, as it stands, leads on from.

    At most a tile of leaves is hashed anew, the rest is what commits left in the log: whoever
    may write its files needs `verify` against them. Raises ProofError for a note that is not this
    store's, RollbackDetected where the log is shorter than the head or holds another history.
    """
    last = open_head(store, last_note, keys)
    check_leads(store.log, last, store.head())
    return last


def open_head(store: EventStore, note: bytes, keys: Sequence[VerifierKey]) -> Checkpoint:
    """Return the head in a note that was signed for this store; raises ProofError."""
    found = open_checkpoint(note, keys)
    check_origin(found, store.origin)
    return found


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
        if not store.origin or not key.name.endswith(f"/{store.origin}"):
            raise ProofError(f"key {key.name!r} does not sign for store {store.origin!r}")
        path = checked_path(path, "path")
        if store.path and path.resolve().is_relative_to(store.path.resolve()):
            raise StoreUnavailable(f"{path} would be rolled back with the store: keep it elsewhere")
        self._store, self._key, self._path = store, key, path
        self._keys, self._anchors = (key.verifier, *earlier), tuple(anchors)

    def last(self) -> bytes | None:
        """Return the note that was signed last, None before the first."""
        return read_note(self._path)

    def check(self) -> Checkpoint | None:
        """Check that the log leads on from the head signed last, as check_extends() does."""
        last = self.last()
        return None if last is None else check_extends(self._store, last, self._keys)

    def sign(self) -> bytes:
        """Return the note of the head as it stands, kept and anchored; every note is kept first.

        Raises RollbackDetected before anything is signed, and StoreUnavailable, also where an
        anchor failed: the head is kept then and the next call anchors it again.
        """
        self._store.begin_origin()
        with self._alone():
            self.check()
            note = self._sign()
        self._anchor(note)
        return note

    def rotate(self, new: SigningKey) -> bytes:
        """Hand over to another key of the same name and sign the head with it.

        The hand-over is signed by both keys, recorded as a fact of the store, and kept beside the
        head as `rotation-<n>.note`; it is returned. What was interrupted is done by doing it
        again. Raises what sign() does.
        """
        with self._alone():
            self.check()
            rotation = self._recorded(new) or self._record(new)
            self._keep_rotation(rotation)
            self._keys = (new.verifier, *self._keys)
            self._key = new
            note = self._sign()
        self._anchor(note)
        return rotation

    # -- signing -------------------------------------------------------------------------

    def _sign(self) -> bytes:
        head = self._store.head()
        made = Checkpoint(self._key.name, head.size, head.root)
        note = sign_note(str(made), self._key)
        self._keep(self._path, note)
        return note

    def _record(self, new: SigningKey) -> bytes:
        rotation = sign_rotation(self._key, new, self._store.head().size)
        self._store.record_system(ROTATION, {"note": rotation.decode()})
        return rotation

    def _recorded(self, new: SigningKey) -> bytes | None:
        """Return the hand-over to a key that was recorded before, if it was interrupted then."""
        if not self._store.exists(SYSTEM):
            return None
        for recorded in self._store.events(SYSTEM, reverse=True):
            fact = recorded.event
            if not isinstance(fact, Custom) or fact.name != ROTATION or type(fact.data) is not dict:
                continue
            note = str(fact.data.get("note")).encode()
            if self._hands_over(note, new):
                return note
        return None

    def _hands_over(self, note: bytes, new: SigningKey) -> bool:
        try:
            return open_rotation(note, self._key.verifier).key == new.verifier
        except ProofError:  # of another pair of keys
            return False

    # -- keeping -------------------------------------------------------------------------

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold off other processes, so that the kept head never goes back."""
        try:
            make_directory(self._path.parent)
        except OSError as error:
            raise StoreUnavailable(f"{self._path} can't be written: {error.strerror}") from None
        with alone(self._path.with_name(self._path.name + ".lock")):
            yield

    def _keep_rotation(self, rotation: bytes) -> None:
        for number in count(1):
            path = rotation_path(self._path.parent, number)
            there = read_note(path)
            if there == rotation:
                return
            if there is None:
                self._keep(path, rotation)
                return

    def _keep(self, path: Path, note: bytes) -> None:
        """Put a note into its place, durably and whole."""
        try:
            put_durably(path, note)
        except OSError as error:
            raise StoreUnavailable(f"{path} can't be written: {error.strerror}") from None

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
