"""A known head, the keys that sign it, and the note they make."""

from eventstore.audit.note import Checkpoint, sign_note
from eventstore.audit.signer import SigningKey

ORIGIN = "example.com/support/01890a5d-ac96-774b-bcce-b302099a8057"
KEY = SigningKey(ORIGIN, bytes(range(32)))
OTHER = SigningKey(ORIGIN, bytes(range(1, 33)))
WITNESS = SigningKey("witness.example", bytes(range(2, 34)))
KEYS = [KEY.verifier]
HEAD = Checkpoint(ORIGIN, 109_482, bytes(range(32)))
NOTE = sign_note(str(HEAD), KEY)
