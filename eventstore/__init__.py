"""The event store of agent sessions: facts in, state out, provable and replayable.

The map, from the ground up (imports only go down):

    words     errors ids clock limits messages
    facts     events upcast patch spans
    the log   audit.tree audit.entry log.format log.codec log.frame log.environment log.base
              log.memory log.lmdb log.starter
    state     header snapshots lineage transcript decisions
    engine    requests system commands writer engine reading subscription directory store aio
    proof     audit backup
    views     the package `projections`
    doors     interchange cli

Read docs/architecture.md for one append and one time-travel read, step by step.
"""

from . import errors, events
from .errors import (
    Corruption,
    DepthExceeded,
    EventStoreError,
    EventTooLarge,
    FormatTooNew,
    InvalidEvent,
    KeyReused,
    KeyShredded,
    LegalHold,
    MergeConflict,
    ProofError,
    RollbackDetected,
    SessionDeleted,
    SessionExists,
    SessionExpired,
    SessionNotFound,
    StoreFull,
    StoreLocked,
    StoreUnavailable,
    VersionConflict,
)
from .log.base import ANY, NO_STREAM, Head, Receipt
from .log.frame import Recorded
from .messages import Message
from .store import EventStore
from .subscription import Subscription

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
    "KeyReused",
    "KeyShredded",
    "LegalHold",
    "MergeConflict",
    "Message",
    "ProofError",
    "Receipt",
    "Recorded",
    "RollbackDetected",
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
