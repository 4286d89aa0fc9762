"""Every limit of the store, named with its unit; `docs/limits.md` explains each.

A limit is checked where input enters (messages.py, log/codec.py, engine/commands.py) and asserted
where bytes leave. None of them changes what is already on disk.
"""

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

NAME_BYTES_MAX = 255
"""UTF-8 bytes of a session id, actor, idempotency key, correlation or causation id."""

NESTING_DEPTH_MAX = 64
"""Lists and dicts inside each other in one message, metadata, context or custom value."""

TTL_SECONDS_MAX = 1_000_000_000
"""A session's time to live, about 31 years."""

DURATION_MS_MAX = 1_000_000_000_000
"""How long a tool call may have taken, as it is recorded."""

EVENT_BYTES_MAX = 8 * MIB
"""One event's payload before compression."""

APPEND_EVENTS_MAX = 10_000
"""Events of one append; the count is a 16-bit field."""

APPEND_BYTES_MAX = 64 * MIB
"""All payloads of one append before compression."""

BATCH_EVENTS_MAX = 20_000
"""Events that share one commit; a single larger append still goes alone."""

BATCH_APPENDS_MAX = 1_000
"""Appends that share one commit."""

PAGE_EVENTS_MAX = 2_048
"""Events a reader takes out of one read transaction, rounded up to whole frames."""

PAGE_BYTES_MAX = 4 * MIB
"""Frame bytes a reader takes out of one read transaction, rounded up to whole frames."""

BRANCH_DEPTH_MAX = 10
"""Branches of branches, by default; `EventStore.open(max_depth=)` changes it."""

LINEAGE_SEGMENTS_MAX = 1_000_000
"""Forks and rewinds behind one state: a longer chain can only be damage."""

MAP_BYTES_DEFAULT = 256 * GIB
"""Address space for LMDB's map, sparse; halved down to 1 GiB where the system refuses."""

DICTIONARY_BYTES_MAX = 220 * KIB
"""A trained compression dictionary."""

BUFFERED_INTERVAL_MS = 5
"""With durability="buffered", acknowledged facts wait at most this long for their fsync."""

QUEUE_BYTES_MAX = 64 * MIB
"""Appends that wait for a commit, encoded; who comes later waits for room."""

RESERVE_BYTES = MIB
"""What is left free on a disk: with less than that nothing is written any more."""

POLL_INTERVAL_MS = 20
"""How often a following subscription looks for facts of other processes."""

SNAPSHOT_VERSIONS = 64
"""A header snapshot is kept at least every so many versions of a session."""

SNAPSHOTS_IN_MEMORY_MAX = 20_000
"""Header snapshots of a store that can't keep them on disk."""

NAMES_REMEMBERED_MAX = 50_000
"""Names of sessions and actors that an open log has ready; as many references: 16 MiB in all."""

HEADERS_CACHED_MAX = 4_096
"""Session headers an open store keeps in memory."""
