"""The event store of agent sessions: facts in, state out, provable and replayable.

The map, from the ground up (imports only go down):

    words     errors ids clock limits messages files volume
    facts     events upcast patch spans
    the log   audit.tree audit.entry log.format log.vault log.names log.seal log.codec log.frame
              log.draft log.shredding log.rows log.erased log.environment masterkey keyring
              log.listing log.base log.memory log.lmdb log.starter
    state     header caches snapshots hidden lineage transcript decisions
    trust     audit.signer audit.note audit.leaves audit.proof audit.trust
    engine    requests system encoder erasure retention commands room writer engine reading
              subscription directory presence audit.pages audit.report audit.structure opening
              store aio
    proof     audit carrying increments backup comparing compacting
              salvage repair doctor
    views     the package `projections`
    doors     interchange sessions cli

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
    IterationsExceeded,
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
from .keyring import Keyring
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
