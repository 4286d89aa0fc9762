"""Trust: what is kept outside a store so that it can be told when it was set back.

    history.audit/           beside the store `history`, never inside it
      signing.key            signs heads; its owner's alone (mode 0600)
      verifier.pub           the first verifier key of the store's origin: hand it out
      rotation-1.note ...    each hand-over to the next key, signed by both
      last.note              the head that was signed last
      anchors                where else heads are left, a place a line
      verified.json          how far `verify` has come
      stamps/                what time authorities said of the heads
      tiles/                 the entries of all signed heads, if they were ever exported here

Invariants: whether a log leads on from the last signed head is known at the cost of 16 leaves,
however long it is; what can't be read or believed is a reason for distrust, never for trust.
"""

from itertools import count
from pathlib import Path

from ..errors import Corruption, EventStoreError, ProofError, RollbackDetected, StoreUnavailable
from ..files import unavailable
from ..log.base import Head, Log
from .note import NOTE_BYTES_MAX, Checkpoint, open_checkpoint, open_rotation
from .proof import Prover
from .signer import KEY_FILE_BYTES_MAX, VerifierKey
from .tree import EMPTY_ROOT, verify_consistency

SIGNING_KEY, NEXT_KEY = "signing.key", "signing.key.new"
VERIFIER_KEY, LAST_NOTE, ANCHORS = "verifier.pub", "last.note", "anchors"
VERIFIED, TILES, STAMPS = "verified.json", "tiles", "stamps"


def audit_directory(store: Path) -> Path:
    """Return the directory that is looked at when the store at a path is opened.

    Raises StoreUnavailable for what can't be a path.
    """
    try:
        place = store.resolve()
        return place.with_name(f"{place.name}.audit")
    except (OSError, ValueError):  # ValueError: a zero byte, or the root of the file system
        raise StoreUnavailable(f"{str(store)!r} can't be the name of a store") from None


def rotation_path(directory: Path, number: int) -> Path:
    """Return where the note of the n-th hand-over lies, counted from 1."""
    return directory / f"rotation-{number}.note"


def read_note(path: Path) -> bytes | None:
    """Return a note, None where there is no such file; raises StoreUnavailable."""
    with unavailable(path):
        try:
            with path.open("rb") as file:
                return file.read(NOTE_BYTES_MAX + 1)
        except FileNotFoundError:
            return None


def read_key(path: Path) -> VerifierKey:
    """Read a file with one verifier key; raises StoreUnavailable and ProofError."""
    with unavailable(path), path.open("rb") as file:
        raw = file.read(KEY_FILE_BYTES_MAX)
    try:
        return VerifierKey.parse(raw.decode().strip())
    except (ProofError, UnicodeDecodeError) as error:
        raise ProofError(f"{path} holds no verifier key: {error}") from None


def known_keys(directory: Path) -> list[VerifierKey]:
    """Return the verifier keys of an audit directory, each handed over to by the one before.

    Raises StoreUnavailable and ProofError.
    """
    keys = [read_key(directory / VERIFIER_KEY)]
    for number in count(1):
        raw = read_note(rotation_path(directory, number))
        if raw is None:
            return keys
        keys.append(open_rotation(raw, keys[-1]).key)
    raise AssertionError("count() never ends")


def reason_for_distrust(
    log: Log, origin: str, earlier: str | None, directory: Path
) -> EventStoreError | None:
    """Return why a log is not to be written to, None where it leads on from the last signed head.

    Where that head is of the `earlier` origin that a store was restored from, there is none yet.
    """
    try:
        note = read_note(directory / LAST_NOTE)
        if note is None:
            return None
        last = open_checkpoint(note, known_keys(directory))
        if earlier and last.origin.endswith(f"/{earlier}"):
            return None
        check_origin(last, origin)
        check_leads(log, last, log.head())
    except (RollbackDetected, Corruption) as error:
        return error
    except (ProofError, StoreUnavailable) as error:
        what = f"{directory} can't tell if the store was set back: {error}"
        return StoreUnavailable(f"{what}; restore it, or move it away to go on without")
    return None


def check_not_lost(marker: Path, directory: Path) -> None:
    """Raise RollbackDetected where a signed head is kept of a store that is not there any more."""
    if (directory / LAST_NOTE).exists() and not marker.exists():
        what = f"{marker.parent} is gone, {directory} still keeps a signed head of it"
        raise RollbackDetected(f"{what}; restore the store, or move that directory away")


def check_origin(head: Checkpoint, origin: str) -> None:
    """Raise ProofError unless a head is of the origin whose id this is."""
    if not origin or not head.origin.endswith(f"/{origin}"):
        raise ProofError(f"the head is of {head.origin!r}, not of store {origin!r}")


def check_leads(log: Log, last: Checkpoint, head: Head) -> None:
    """Raise RollbackDetected unless a signed head leads to a newer one of the log."""
    if last.size > head.size:
        what = f"a head of {last.size} events was signed, the log has only {head.size}"
        raise RollbackDetected(f"{what}; restore the missing events or start a new origin")
    try:
        _check_prefix(log, last, head)
    except ProofError as error:
        what = f"the first {last.size} events are not those that were signed ({error})"
        raise RollbackDetected(f"{what}; run 'eventstore verify' to find the difference") from None


def _check_prefix(log: Log, last: Checkpoint, head: Head) -> None:
    """Raise ProofError unless one tree begins with the other."""
    if last.size:
        proof = Prover.of(log).consistency(last.size, head.size)
        verify_consistency(last.size, head.size, proof, last.root, head.root)
    elif last.root != EMPTY_ROOT:
        raise ProofError("another root than that of no events")
