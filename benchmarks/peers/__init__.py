"""The peers and limits, each in its own file, all driven through one small face.

Invariants: a contender's append returns when its bytes are synced to disk, else it has no place
here; what `prepared` does is outside the clock, so it may do only what our callers don't pay for
either, or what makes the other one faster; a peer is imported only when it is made.
"""

from .base import Contender, why_not
from .eventsourcing import EventsourcingJson, EventsourcingRecorder
from .google_adk import GoogleAdk
from .langgraph import LanggraphSaver
from .openai_advanced import OpenaiAdvanced
from .openai_sqlite import OpenaiSqlite
from .raw_lmdb import RawLmdb
from .raw_sqlite import RawSqlite
from .salamander import Salamander

PEERS: tuple[type[Contender], ...] = (
    EventsourcingJson,
    EventsourcingRecorder,
    Salamander,
    OpenaiSqlite,
    OpenaiAdvanced,
    LanggraphSaver,
    GoogleAdk,
    RawSqlite,
    RawLmdb,
)

__all__ = ["PEERS", "Contender", "why_not"]
