"""Proofs that were handed out before something was destroyed: they must hold for ever."""

from pathlib import Path

from eventstore import EventStore
from eventstore.audit import verifier
from eventstore.audit.evidence import prove_consistency, prove_event, prove_session
from eventstore.audit.heads import Heads
from eventstore.audit.note import origin_of
from eventstore.audit.signer import SigningKey


class HandedOut:
    """A signed head of a store, a proof of each event under it, and a session with all of its."""

    def __init__(self, store: EventStore, place: Path, session: str) -> None:
        self.store, self.place, self.session = store, place, session
        self.key = SigningKey.generate(origin_of("example.com/support", store.id))
        self.heads = Heads(store, self.key, place / "last.note")
        self.note = self.heads.sign()
        self.size = store.head().size
        self.made = self.prove()
        for name, content in self.made.items():
            (place / name).write_bytes(content)

    def prove(self) -> dict[str, bytes]:
        """Return the proofs under that head, made from the store as it is now."""
        keys = [self.key.verifier]
        bundle = prove_session(self.store, self.session, self.note, keys)
        proofs = {
            f"{position}.tlog-proof": prove_event(self.store, position, self.note, keys)
            for position in range(self.size)
        }
        return proofs | {"session.jsonl": b"".join(bundle)}

    def check(self) -> None:
        """Hold the files to the standalone verifier, and the store to what it said before."""
        newer = prove_consistency(self.store, self.note, self.heads.sign(), [self.key.verifier])
        (self.place / "growth.proof").write_bytes(newer)
        auditor = verifier.Auditor([verifier.Key.parse(str(self.key.verifier))])
        for name in [*self.made, "growth.proof"]:
            assert verifier.check(auditor, self.place / name)
        assert self.prove() == self.made
