"""From parts to drafts: salts, and in an encrypted store the keys that payloads are sealed with.

Invariants: a session's payloads are sealed with its own key, made with it and named in the same
append by a fact in the system stream; facts that outlive an erasure, and the system stream, are
sealed with the store's key; a key that no append ever names has sealed nothing that was kept.
"""

from collections.abc import Sequence

from ..audit.entry import Salts
from ..events import KeyCreated
from ..ids import SYSTEM
from ..log.base import Expected, Log, key_of
from ..log.draft import Draft, draft
from ..log.format import CREATING, OUTLIVING, TYPE_CODES
from ..log.seal import Seal
from ..log.shredding import Shred
from ..log.vault import STORE_KEY
from .requests import Part

Drafted = tuple[tuple[Draft, ...], tuple[Expected | int, ...], tuple[Shred, ...]]
"""The drafts of an append, what each expects of its stream, and which payloads go with them."""


class Encoder:
    """Encodes what is appended to one log; safe for many threads."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._salts = Salts()

    def drafted(self, parts: Sequence[Part], keys: dict[str, int] | None = None) -> Drafted:
        """Return the drafts of an append, those of new keys included.

        `keys` holds, and is given, the keys of sessions that the log does not hold yet. Raises
        SessionNotFound and KeyShredded where an encrypted store has no key for a session.
        """
        known = {} if keys is None else keys
        codec, seal = self._log.codec, self._log.codec.seal
        drafts: list[Draft] = []
        expected: list[Expected | int] = []
        shreds: list[Shred] = []
        for part in [*parts, *self._key_facts(parts, known, seal)] if seal else parts:
            salts = part.salts or self._salts.take(len(part.events))
            key = self._key(part, known) if seal else STORE_KEY
            drafts.append(draft(part.session, part.events, codec, salts, part.occurred, key))
            expected.append(part.expected)
            shreds += part.shreds
        return tuple(drafts), tuple(expected), tuple(shreds)

    def _key_facts(self, parts: Sequence[Part], keys: dict[str, int], seal: Seal) -> list[Part]:
        """Make a key for each new session; return the part that says so."""
        facts = []
        for part in parts:
            if part.session != SYSTEM and TYPE_CODES[type(part.events[0])] in CREATING:
                keys[part.session], digest = seal.opened().fresh()
                facts.append(KeyCreated(keys[part.session], digest.hex()))
        return [Part(SYSTEM, facts)] if facts else []

    def _key(self, part: Part, keys: dict[str, int]) -> int:
        if part.session == SYSTEM:
            return STORE_KEY
        if all(TYPE_CODES[type(event)] in OUTLIVING for event in part.events):
            return STORE_KEY
        return keys[part.session] if part.session in keys else key_of(self._log, part.session)
