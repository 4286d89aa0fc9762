"""Tampering by a hand that knows LMDB and our checksums, each with what verify says of it.

So only the very check in question can find it. Random damage is test_damage.py's.
"""

# ruff: noqa: D103 - the name of a tampering says all that it does

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import lmdb
from xxhash import xxh3_64_intdigest

from eventstore import EventStore
from eventstore.events import Event
from eventstore.log.base import ANY, Append
from eventstore.log.draft import Draft, draft, pack_all
from eventstore.log.format import (
    ACTORS,
    CONTINUES,
    DICTIONARIES,
    EVENT_ROW,
    FRAME_HEAD_BYTES,
    FRAME_NAMES,
    FRAMES,
    HEAD_KEY,
    HEAD_ROW,
    KEYS,
    META,
    NAMED,
    ONLY_MESSAGES,
    POSITION,
    REF,
    REFS,
    STARTER,
    STORE_ID_KEY,
    STREAM_ROW,
    STREAMS,
    TILES,
)
from eventstore.log.rows import checked_row, ref_row, tile_key

SALT = bytes(16)

NAMES_AT = FRAME_HEAD_BYTES + EVENT_ROW.size
"""Where a frame of one event has its names, if any."""
STREAM_AT = NAMES_AT + FRAME_NAMES.size - 1
"""Where it has the length of its stream's name."""

LOOSE = b""
"""Stands for the rows beside the tables."""


class Tables:
    """The tables of a closed store, for a hand that writes into them."""

    def __init__(self, env: lmdb.Environment, txn: lmdb.Transaction) -> None:
        self._txn = txn
        self._tables = {name: env.open_db(name, txn=txn) for name in (META, FRAMES, REFS, ACTORS)}
        self._tables[LOOSE] = None
        for name in (KEYS, TILES, DICTIONARIES):
            self._tables[name] = env.open_db(name, txn=txn)
        self._tables[STREAMS] = env.open_db(STREAMS, txn=txn, dupsort=True, dupfixed=True)

    def get(self, table: bytes, key: bytes) -> bytes:
        return bytes(self._txn.get(key, db=self._tables[table]))

    def put(self, table: bytes, key: bytes, value: bytes) -> None:
        self._txn.put(key, value, db=self._tables[table])

    def delete(self, table: bytes, key: bytes, value: bytes = b"") -> None:
        assert self._txn.delete(key, value, db=self._tables[table])

    def rows(self, table: bytes) -> list[tuple[bytes, bytes]]:
        return [(bytes(key), bytes(value)) for key, value in self._txn.cursor(self._tables[table])]

    def flip(self, table: bytes, key: bytes, index: int) -> None:
        """Alter one byte of a value."""
        value = bytearray(self.get(table, key))
        value[index] ^= 1
        self.put(table, key, bytes(value))


@contextmanager
def tables(place: Path) -> Iterator[Tables]:
    """Open the tables of a store that nobody has open."""
    env = lmdb.open(str(place / "log"), max_dbs=16, map_size=1 << 26)
    with env.begin(write=True) as txn:
        yield Tables(env, txn)
    env.close()


def copied(made: Path, place: Path) -> Path:
    """Copy the files of a store that nobody has open; return where they are."""
    (place / "log").mkdir(parents=True, exist_ok=True)
    for name in ("eventstore.json", "log/data.mdb"):
        (place / name).write_bytes((made / name).read_bytes())
    return place


def last(position: int) -> bytes:
    """Return the key of the frame whose last position this is."""
    return POSITION.pack(position)


def drop_frame(opened: Tables) -> None:
    opened.delete(FRAMES, last(40))


def drop_last_frame(opened: Tables) -> None:
    opened.delete(FRAMES, opened.rows(FRAMES)[-1][0])


def swap_frames(opened: Tables) -> None:
    one, two = opened.get(FRAMES, last(40)), opened.get(FRAMES, last(41))
    opened.put(FRAMES, last(40), two)
    opened.put(FRAMES, last(41), one)


def flip_payload(opened: Tables) -> None:
    opened.flip(FRAMES, last(40), -1)


def flip_head(opened: Tables) -> None:
    opened.flip(FRAMES, last(40), 12)


def cut_frame(opened: Tables) -> None:
    opened.put(FRAMES, last(40), opened.get(FRAMES, last(40))[:30])


def rewritten(opened: Tables, position: int, at: int, value: bytes) -> None:
    """Alter the head of a one-event frame and give it a valid checksum."""
    raw = opened.get(FRAMES, last(position))
    raw = raw[:at] + value + raw[at + len(value) :]
    names = FRAME_NAMES.size + sum(raw[NAMES_AT + REF.size : NAMES_AT + FRAME_NAMES.size])
    covered = raw[8 : NAMES_AT + names] if raw[9] & NAMED else raw[8:NAMES_AT]
    checksum = xxh3_64_intdigest(covered, position).to_bytes(8, "big")
    opened.put(FRAMES, last(position), checksum + raw[8:])


def forge_version(opened: Tables) -> None:
    rewritten(opened, 40, 16, (41).to_bytes(4, "big"))


def forge_number(opened: Tables) -> None:
    rewritten(opened, 40, 20, (38).to_bytes(4, "big"))


def forge_previous(opened: Tables) -> None:
    rewritten(opened, 40, 24, (39).to_bytes(8, "big"))


def forge_time(opened: Tables) -> None:
    rewritten(opened, 40, 32, (10**18).to_bytes(8, "big"))


def forge_session(opened: Tables) -> None:
    rewritten(opened, 40, 12, (77).to_bytes(4, "big"))


def forge_flag(opened: Tables) -> None:
    rewritten(opened, 40, 9, bytes([NAMED]))


def forge_going_on(opened: Tables) -> None:
    rewritten(opened, 40, 9, bytes([ONLY_MESSAGES | NAMED | CONTINUES]))


def add_name(opened: Tables) -> None:
    """Put a session's name into a frame that is no first one."""
    raw = opened.get(FRAMES, last(40))
    opened.put(FRAMES, last(40), raw[:STREAM_AT] + b"\x05stray" + raw[STREAM_AT + 1 :])
    rewritten(opened, 40, STREAM_AT, b"\x05")


def forge_name_length(opened: Tables) -> None:
    """State a name that is not there, under a checksum that fits without it."""
    raw = opened.get(FRAMES, last(40))
    covered = raw[8:STREAM_AT] + b"\x05"
    checksum = xxh3_64_intdigest(covered, 40).to_bytes(8, "big")
    opened.put(FRAMES, last(40), checksum + covered + raw[STREAM_AT + 1 :])


def forge_named(opened: Tables) -> None:
    """State that no names are there, under a checksum that fits without them."""
    raw = opened.get(FRAMES, last(40))
    covered = raw[8:9] + bytes([raw[9] & ~NAMED]) + raw[10:NAMES_AT]
    checksum = xxh3_64_intdigest(covered, 40).to_bytes(8, "big")
    opened.put(FRAMES, last(40), checksum + covered + raw[NAMES_AT:])


def add_frame(opened: Tables) -> None:
    opened.put(FRAMES, last(10_000), opened.get(FRAMES, last(40)))


def stream_row(opened: Tables, position: int) -> tuple[bytes, bytes]:
    """Return the row of a stream's index that leads to a frame."""
    rows = opened.rows(STREAMS)
    return next(row for row in rows if STREAM_ROW.unpack(row[1])[1] == position)


def drop_stream_row(opened: Tables) -> None:
    opened.delete(STREAMS, *stream_row(opened, 40))


def add_stream_row(opened: Tables) -> None:
    key, _ = stream_row(opened, 40)
    opened.put(STREAMS, key, STREAM_ROW.pack(1_000, 40))


def alter_stream_row(opened: Tables) -> None:
    key, row = stream_row(opened, 40)
    opened.delete(STREAMS, key, row)
    opened.put(STREAMS, key, STREAM_ROW.pack(41, 40))


def flip_first_name(opened: Tables) -> None:
    opened.flip(FRAMES, last(0), 48)


def rename_session(opened: Tables) -> None:
    rewritten(opened, 0, STREAM_AT + 1, b"z")


def flip_actor(opened: Tables) -> None:
    opened.flip(ACTORS, REF.pack(2), -1)


def rename_actor(opened: Tables) -> None:
    opened.put(ACTORS, REF.pack(2), checked_row(b"auser:9", REF.pack(2)))


def move_actor(opened: Tables) -> None:
    (number, _), (_, other), *_ = opened.rows(ACTORS)
    opened.put(ACTORS, number, other)


def drop_actor(opened: Tables) -> None:
    opened.delete(ACTORS, REF.pack(2))


def idle_actor(opened: Tables) -> None:
    opened.put(ACTORS, REF.pack(77), checked_row(b"aidle", REF.pack(77)))


def odd_actor(opened: Tables) -> None:
    opened.put(ACTORS, b"x", b"y")


def idle_name(opened: Tables) -> None:
    opened.put(REFS, b"sidle", ref_row(b"sidle", REF.pack(77)))


def drop_ref(opened: Tables) -> None:
    opened.delete(REFS, b"sa")


def flip_ref(opened: Tables) -> None:
    opened.flip(REFS, b"auser:2", REF.size - 1)


def flip_ref_checksum(opened: Tables) -> None:
    opened.flip(REFS, b"sa", -1)


def cut_ref(opened: Tables) -> None:
    opened.put(REFS, b"auser:2", opened.get(REFS, b"auser:2")[: REF.size])


def add_ref(opened: Tables) -> None:
    opened.put(REFS, b"sc", ref_row(b"sc", REF.pack(1)))


def cross_refs(opened: Tables) -> None:
    one, two = (opened.get(REFS, name)[: REF.size] for name in (b"sa", b"sb"))
    opened.put(REFS, b"sa", ref_row(b"sa", two))
    opened.put(REFS, b"sb", ref_row(b"sb", one))


def move_ref(opened: Tables) -> None:
    opened.put(REFS, b"sa", opened.get(REFS, b"sb"))


def drop_key(opened: Tables) -> None:
    opened.delete(KEYS, b"many")


def flip_key(opened: Tables) -> None:
    opened.flip(KEYS, b"many", -1)


def move_key(opened: Tables) -> None:
    opened.put(KEYS, b"many", checked_row(POSITION.pack(9) + bytes(16)))


def add_key(opened: Tables) -> None:
    opened.put(KEYS, b"never", checked_row(POSITION.pack(9) + bytes(16)))


def flip_tile(opened: Tables) -> None:
    opened.flip(TILES, tile_key(8, 0), 0)


def drop_tile(opened: Tables) -> None:
    opened.delete(TILES, tile_key(8, 0))


def add_tile(opened: Tables) -> None:
    opened.put(TILES, tile_key(16, 0), bytes(32))


def flip_dictionary(opened: Tables) -> None:
    opened.flip(DICTIONARIES, REF.pack(STARTER), 500)


def swap_dictionary(opened: Tables) -> None:
    opened.put(
        DICTIONARIES,
        REF.pack(STARTER),
        checked_row(b"text that compresses nothing" * 9, REF.pack(STARTER)),
    )


def move_dictionary(opened: Tables) -> None:
    opened.put(DICTIONARIES, REF.pack(STARTER + 1), opened.get(DICTIONARIES, REF.pack(STARTER)))


def skip_dictionary(opened: Tables) -> None:
    opened.put(DICTIONARIES, REF.pack(9), checked_row(b"x" * 100, REF.pack(9)))


def head_of(opened: Tables, size: int, time: int, names: int, nodes: bytes) -> None:
    opened.put(LOOSE, HEAD_KEY, checked_row(HEAD_ROW.pack(size, time, names) + nodes))


def head_in(opened: Tables) -> tuple[int, int, int, bytes]:
    row = opened.get(LOOSE, HEAD_KEY)[8:]
    return *HEAD_ROW.unpack_from(row), row[HEAD_ROW.size :]


def flip_head_row(opened: Tables) -> None:
    opened.flip(LOOSE, HEAD_KEY, -1)


def shrink_head(opened: Tables) -> None:
    head_of(opened, 40, 10**18, 4, bytes(64))


def grow_head(opened: Tables) -> None:
    head_of(opened, 512, 10**18, 4, bytes(32))


def forge_root(opened: Tables) -> None:
    *numbers, nodes = head_in(opened)
    head_of(opened, *numbers, nodes[:-32] + bytes(32))


def forge_head_time(opened: Tables) -> None:
    size, _, *rest = head_in(opened)
    head_of(opened, size, 7, *rest)


def forge_head_names(opened: Tables) -> None:
    size, time, _, nodes = head_in(opened)
    head_of(opened, size, time, 9, nodes)


def other_store(opened: Tables) -> None:
    opened.put(META, STORE_ID_KEY, checked_row(b"another"))


def add_loose(opened: Tables) -> None:
    opened.put(LOOSE, b"note", b"hello")


def add_meta(opened: Tables) -> None:
    opened.put(META, b"note", b"hello")


Tamper = Callable[[Tables], None]

TAMPERINGS: list[tuple[Tamper, Sequence[str]]] = [
    (drop_frame, ["position 40: no frame holds positions 40 to 40", "index of streams"]),
    (drop_last_frame, ["the frames end at"]),
    (swap_frames, ["position 40: frame head", "position 41: frame head"]),
    (flip_payload, ["position 40: event does not match its checksum"]),
    (flip_head, ["position 40: frame head does not match its checksum"]),
    (cut_frame, ["position 40: frame has only 30 bytes"]),
    (forge_version, ["position 40: session 'a' has", "(41, 39, 39) where (40, 39, 39)"]),
    (forge_number, ["position 40: session 'a' has", "(40, 38, 39) where (40, 39, 39)"]),
    (forge_previous, ["position 40: session 'a' has", "(40, 39, 38) where (40, 39, 39)"]),
    (forge_time, ["position 40: it was recorded before", "tree head is not what"]),
    (forge_session, ["position 40: name 77 is missing"]),
    (forge_flag, ["position 40: the frame's flag about its types is wrong"]),
    (forge_going_on, ["position 40: it goes on with an append that it is no part of"]),
    (add_name, ["position 40: a session's name stands in its first frame alone"]),
    (forge_name_length, ["position 40: frame head does not match its checksum"]),
    (forge_named, ["position 40: frame of layout 1 has"]),
    (add_frame, ["the frames end at 10001"]),
    (drop_stream_row, ["position 40: the index of session 'a' does not lead here"]),
    (add_stream_row, ["position 40: a row of the index of streams (version 1000) is wrong"]),
    (alter_stream_row, ["position 40: the index of", "position 40: a row of the index"]),
    (flip_first_name, ["position 0: frame head does not match its checksum"]),
    (rename_session, ["session 'z' does not lead to its reference 1", "'a' leads to a reference"]),
    (flip_actor, ["name 2 is missing or does not match its checksum"]),
    (rename_actor, ["actor 'user:9' does not lead to its reference 2", "'user:1' leads to a"]),
    (move_actor, ["name 2 is missing or does not match its checksum"]),
    (drop_actor, ["actor 'user:1' is not found by its reference 2", "4 references for 3 names"]),
    (idle_actor, ["3 rows of actors for 2 actors"]),
    (odd_actor, ["3 rows of actors for 2 actors"]),
    (idle_name, ["session 'idle' has no facts", "5 references for 4 names"]),
    (drop_ref, ["session 'a' does not lead to its reference 1"]),
    (add_ref, ["session 'c' leads to a reference that is not its own", "5 references for 4"]),
    (flip_ref, ["the reference of actor 'user:2' does not match its checksum"]),
    (flip_ref_checksum, ["the reference of session 'a' does not match its checksum"]),
    (cut_ref, ["the reference of actor 'user:2' does not match its checksum"]),
    (move_ref, ["the reference of session 'a' does not match its checksum"]),
    (cross_refs, ["session 'a' does not lead", "session 'b' does not lead"]),
    (drop_key, ["position 151: the index of keys does not lead 'many' here"]),
    (flip_key, ["position 151: the index of keys", "(b'many') is wrong"]),
    (move_key, ["position 151: the index of keys", "position 9: a row of the index of keys"]),
    (add_key, ["position 9: a row of the index of keys (b'never') is wrong"]),
    (flip_tile, ["position 0: tile 0 of level 8, which starts here, is wrong"]),
    (drop_tile, ["position 0: tile 0 of level 8, which starts here, is wrong"]),
    (add_tile, ["21 tiles are kept for"]),
    (flip_dictionary, ["dictionary 2 is missing or does not match its checksum"]),
    (swap_dictionary, ["position 1: "]),
    (move_dictionary, ["dictionary 3 is missing or does not match its checksum"]),
    (skip_dictionary, ["dictionary 9 stands where 3 should"]),
    (flip_head_row, ["the tree head is missing or does not match its checksum"]),
    (shrink_head, ["position 40: the tree head has size 40"]),
    (grow_head, ["the tree head has size 512"]),
    (forge_root, ["the tree head is not what the frames hash to"]),
    (forge_head_time, ["the tree head's time is 7 instead of"]),
    (forge_head_names, ["the tree head counts 9 names of 4"]),
    (other_store, ["the log is of store 'another'"]),
    (add_meta, ["table 'meta' has the rows"]),
    (add_loose, ["beside the tables are the rows [b'head', b'note']"]),
]


def forge(store: EventStore, *drafts: Draft, expected: object = None) -> None:
    """Commit drafts past every command and its checks."""
    outcome = store.log.commit([Append(drafts, (ANY,) * len(drafts))], 1)[0]
    assert not isinstance(outcome, Exception), outcome


def facts(store: EventStore, session: str, *made: Event) -> Draft:
    """Return a draft of events that no command would decide."""
    drafted = draft(session, made, store.log.codec, SALT * len(made))
    pack_all([drafted], store.log.codec)
    return drafted


@contextmanager
def snapshots(place: Path) -> Iterator[list[tuple[bytes, bytes, Callable[[bytes], None]]]]:
    """Open the snapshots of a closed store: key, value, and how to put another value."""
    env = lmdb.open(str(place / "snapshots"), max_dbs=4, map_size=1 << 24)
    with env.begin(write=True) as txn:
        name = next(bytes(key) for key, _ in txn.cursor())
        table = env.open_db(name, txn=txn)
        yield [
            (bytes(key), bytes(value), lambda new, k=bytes(key): txn.put(k, new, db=table))
            for key, value in list(txn.cursor(table))
        ]
    env.close()
