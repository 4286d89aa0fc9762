"""The event store of agent sessions: facts in, state out, provable and replayable.

The map, from the ground up (imports only go down):

    words     errors ids clock limits messages files place.volume
    facts     events upcast patch spans
    the log   audit.tree audit.entry log masterkey keyring
    state     state
    trust     audit.signer audit.note audit.leaves audit.proof audit.trust
    engine    engine place audit.pages audit.report audit.structure audit.walker store aio
    proof     audit care
    views     the package `projections`
    doors     interchange sessions cli

Read docs/architecture.md for one append and one time-travel read, step by step.
"""

from . import errors, events
from .engine.subscription import Subscription
from .errors import (
    Corruption,
    DepthExceeded,
    EventStoreError,
    EventTooLarge,
    FormatTooNew,
    InvalidEvent,
    IterationsExceeded,
    KeyReused,
    KeyShredded,
    LegalHold,
    MergeConflict,
    ProofError,
    RollbackDetected,
    SessionClosed,
    SessionDeleted,
    SessionExists,
    SessionExpired,
    SessionNotFound,
    StoreFull,
    StoreLocked,
    StoreUnavailable,
    VersionConflict,
)
from .keyring import Keyring
from .log.base import ANY, NO_STREAM, Head, Receipt
from .log.recorded import Recorded
from .messages import Message
from .store import EventStore

__all__ = [
    "ANY",
    "NO_STREAM",
    "Corruption",
    "DepthExceeded",
    "EventStore",
    "EventStoreError",
    "EventTooLarge",
    "FormatTooNew",
    "Head",
    "InvalidEvent",
    "IterationsExceeded",
    "KeyReused",
    "KeyShredded",
    "Keyring",
    "LegalHold",
    "MergeConflict",
    "Message",
    "ProofError",
    "Receipt",
    "Recorded",
    "RollbackDetected",
    "SessionClosed",
    "SessionDeleted",
    "SessionExists",
    "SessionExpired",
    "SessionNotFound",
    "StoreFull",
    "StoreLocked",
    "StoreUnavailable",
    "Subscription",
    "VersionConflict",
    "errors",
    "events",
]
