"""Every number that is on disk; docs/format.md draws what they add up to.

Invariants: numbers are never reused or renumbered; all integers are big-endian; a store says
its format in the table `meta`, and a frame says its own in its ninth byte.
"""

from struct import Struct

from .. import events

FORMAT = 1
"""The newest store format that this release writes and reads."""

MARKER = "eventstore.json"
"""The file in a store's directory that says what it is."""

# -- tables of the log's LMDB environment ------------------------------------------------

META = b"meta"
FRAMES = b"frames"
STREAMS = b"streams"
REFS = b"refs"
ACTORS = b"actors"
KEYS = b"keys"
TILES = b"tiles"
DICTIONARIES = b"dictionaries"

TABLES = (META, FRAMES, STREAMS, REFS, ACTORS, KEYS, TILES, DICTIONARIES)

HEAD_KEY = b"head"
"""A row beside the tables, on the page that every commit writes anyway."""
FORMAT_KEY = b"format"
STORE_ID_KEY = b"store"
ENCRYPTED_KEY, ENCRYPTED = b"encrypted", b"1"
"""A row that only encrypted logs have, and what it says."""

ERASURES_KEY = b"erasures"
ERASED_KEY, HIDDEN_KEY = b"erased", b"hidden"
"""In front of a session's reference: its erasure, and its lines that no list may show."""
PENDING, COMPLETE = b"\x00", b"\x01"
"""How far an erasure is: requested, or its key destroyed."""

POSITION = Struct(">Q")
REF = Struct(">I")
TILE_KEY = Struct(">QB")
"""The position behind a subtree, its level: in the order they are made, which fills pages."""
STREAM_ROW = Struct(">IQ")
"""Last version of the frame, last position."""
KEY_ROW = Struct(">Q16s")
"""First position of the append, xxh3-128 of the command's content; in an encrypted log its SIV."""
HIDDEN_ROW = Struct(">BII")
"""1 where the lines are summaries, first line, the line after the last; numbers as in a Span."""
HEAD_ROW = Struct(">QQI")
"""Size, recorded_at of the newest event, newest reference; the frontier's hashes follow."""
CHECKSUM = Struct(">Q")
CHECKSUM32 = Struct(">I")
U32_MAX = (1 << 32) - 1

SESSION_NAME, ACTOR_NAME = b"s", b"a"
"""Kinds of interned names: the first byte of a row in `refs` and of a value in `actors`."""
KEY_NAME, CORRELATION_NAME, CAUSATION_NAME = b"k", b"c", b"w"
"""Kinds of the names that stand in frames: they keep sealed names of one kind from another's."""
CONTENT = b"x"
"""The kind under which the digest of a command's content is sealed."""

# -- frames ------------------------------------------------------------------------------

FRAME_FORMAT = 1
FRAME_HEAD = Struct(">BBHIIIQQ")
"""format, flags, count, session, version, number, previous, time."""
CHECKED_FRAME_HEAD = Struct(">QBBHIIIQQ")
"""The same behind its checksum, which is what readers take at once."""
FRAME_HEAD_BYTES = CHECKED_FRAME_HEAD.size
FRAME_NAMES = Struct(">IBBBB")
"""Behind the event heads of a frame that is NAMED: actor, four lengths; the names follow."""

EVENT_HEAD = Struct(">IIIBBBBH")
"""end, size, tokens, type, schema, flags, role, dictionary."""
EVENT_ROW = Struct(">IIIBBBBHI")
"""The same with its checksum: the low 32 bits of xxh3-64 over the head and the stored bytes."""
KIND_HEAD = Struct(">QHHIIIQQ")
"""CHECKED_FRAME_HEAD, format and flags read as one: for those who compare many of them."""
KIND_ROW = Struct(">IIIHBBHI")
"""EVENT_ROW, type and schema read as one."""

ONLY_MESSAGES = 0x01
"""Frame flag: every event is a MessageAppended."""
NAMED = 0x02
"""Frame flag: it has an actor or names."""
CONTINUES = 0x04
"""Frame flag: it goes on with the append of the frame in front of it."""
FRAME_FLAGS = ONLY_MESSAGES | NAMED | CONTINUES
"""All that there are."""

OCCURRED = 0x01
"""Event flag: the caller's own time, 8 bytes signed, precedes the salt."""
SEALED = 0x02
"""Event flag: the commitment to the payload stands in front of salt and payload, encrypted."""
SHREDDED = 0x04
"""Event flag: salt and payload are gone, the entry's two digests and a residue stand instead."""

LONE_MESSAGE = Struct(">QIII20xII4xHBxHIII")
"""Both heads of a frame of one event and FRAME_NAMES, what a reader of the message needs of them.

checksum; format, flags and count; session, version; end, size; type and schema; flags, dictionary,
checksum; actor, lengths. Some fields are read as one: 12 instead of 22. Where the frame is not
NAMED the last two are of its body, which is longer.
"""
LONE_COUNTS = Struct(">QII16xQIII2xBB6xII")
"""The same, of them what counting needs: its time, tokens and role, and no version."""
ACTOR_LENGTHS = Struct(">II")
"""FRAME_NAMES, the four lengths read as one."""
LONE = FRAME_FORMAT << 24 | ONLY_MESSAGES << 16 | 1
"""What the second field is for one message that has neither actor nor names."""
LONE_NAMED = LONE | NAMED << 16
"""The same for one that has."""

OCCURRED_TIME = Struct(">q")
RESIDUE_SCHEMA = Struct(">B")
"""The schema of a residue's own payload, which follows."""

RAW, ZSTD = 0, 1
"""Dictionary numbers that name no dictionary: stored as it is, zstd without a dictionary."""
STARTER = 2
"""The number of the dictionary that every new store begins with."""

# -- type codes --------------------------------------------------------------------------

TYPE_CODES: dict[type[events.Event], int] = {
    events.SessionCreated: 1,
    events.MessageAppended: 2,
    events.BranchCreated: 3,
    events.BranchMerged: 4,
    events.MessagesPruned: 5,
    events.HistorySummarized: 6,
    events.MetadataUpdated: 7,
    events.ContextSet: 8,
    events.ToolCallRecorded: 9,
    events.ErrorRecorded: 10,
    events.SessionRewound: 11,
    events.SessionClosed: 12,
    events.SessionReopened: 13,
    events.SessionArchived: 14,
    events.SessionDeleted: 15,
    events.TtlExtended: 16,
    events.Redacted: 17,
    events.LegalHoldSet: 18,
    events.LegalHoldCleared: 19,
    events.KeyCreated: 20,
    events.KeyShredded: 21,
    events.Custom: 22,
    events.EraseRequested: 23,
}
TYPES: dict[int, type[events.Event]] = {code: kind for kind, code in TYPE_CODES.items()}
MESSAGE = TYPE_CODES[events.MessageAppended]
CREATING = frozenset(TYPE_CODES[kind] for kind in (events.SessionCreated, events.BranchCreated))
"""Facts that begin a stream: each stream's version 0 is one of them, and nothing else is."""
NOTES = frozenset(TYPE_CODES[kind] for kind in (events.HistorySummarized, events.BranchMerged))
"""Facts that may be shown as a line: their summary."""
OUTLIVING = frozenset(
    TYPE_CODES[kind]
    for kind in (
        events.Redacted,
        events.LegalHoldSet,
        events.LegalHoldCleared,
        events.KeyCreated,
        events.EraseRequested,
        events.KeyShredded,
    )
)
"""Facts that must be readable after their session's key is gone: the store's own key seals them."""
