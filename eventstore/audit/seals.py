"""The keys of an encrypted log: what sealed each event, and whether the keyring still has it.

Invariants: events come in the order of the log; no payload is looked at; what is kept in memory
is one number for each session.
"""

from ..events import KeyCreated
from ..ids import SYSTEM
from ..log.format import OUTLIVING, SEALED
from ..log.frame import Frame, Row
from ..log.seal import Seal
from ..log.vault import STORE_KEY
from .report import Notes


class Seals:
    """Checks the keys of events, one after the other; `seal` is None for a plain log.

    `gone` are the keys that are needed and that the keyring has no more.
    """

    def __init__(self, seal: Seal | None, notes: Notes) -> None:
        self._seal, self._notes = seal, notes
        self._keys: dict[int, int] = {}
        self._unnamed: dict[int, int] = {}
        self._named_before: set[int] = set()  # where repair had to begin a session later
        self.gone: set[int] = set()

    def check(self, frame: Frame, index: int, row: Row) -> None:
        """Check that the right key sealed an event, of which only the bytes are known to be whole.

        Facts that outlive their session are sealed with the store's key, all others with the key
        that sealed version 0.
        """
        position = frame.position + index
        sealed = bool(row[5] & SEALED)
        if sealed != (self._seal is not None):
            self._notes.add(position, f"payload is {'' if sealed else 'not '}sealed")
        found = frame.key_id(index) if sealed else None
        if found is None:
            return
        if frame.session == SYSTEM or row[3] in OUTLIVING:
            due: int | None = STORE_KEY
        else:
            due = self._owner(frame, index, found)
        if due is not None and found != due:
            self._notes.add(position, f"key {found:016x} sealed it instead of {due:016x}")

    def _owner(self, frame: Frame, index: int, found: int) -> int | None:
        """Return the key of a session, None where its first event was erased or is lost."""
        if frame.version + index == 0:
            self._keys[frame.session_ref] = found
            if found not in self._named_before:
                self._unnamed[found] = frame.position
        return self._keys.get(frame.session_ref)

    def created(self, position: int, event: KeyCreated) -> None:
        """Check the fact that names a key against the keyring, which may have it no more."""
        if self._unnamed.pop(event.key, None) is None:
            self._named_before.add(event.key)
        vault = self._seal.vault if self._seal else None
        held = vault.commitment(event.key) if vault else None
        if held is not None and held.hex() != event.digest:
            self._notes.add(position, f"the keyring's key {event.key:016x} is another one")

    def lose(self, frame: Frame, index: int) -> None:
        """Note, once, that a key which is needed is not in the keyring."""
        key = frame.key_id(index)
        if key is not None and key not in self.gone:
            self.gone.add(key)
            what = f"the keyring has no key {key:016x} of session {frame.session!r}"
            known = self._seal.opened().destroyed() if self._seal else {}
            why = "erased since this copy was made" if key in known else "it is lost"
            self._notes.add(frame.position + index, f"{what}: {why}")

    def finish(self) -> None:
        """Note the keys that no fact names."""
        for key, position in self._unnamed.items():
            self._notes.add(position, f"no fact in the system stream names its key {key:016x}")
