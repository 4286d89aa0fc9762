"""Any bytes: whatever a file, a row or an argument holds, there is a value or one clear error.

What has a test of its own beside its parser is not here: frames, notes, proofs, the standalone
verifier and `import_file` on any format.
"""

import os
from base64 import urlsafe_b64encode
from collections.abc import Callable
from hashlib import sha256
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import EventStore, EventStoreError, Keyring
from eventstore.audit.heads import Heads
from eventstore.audit.note import origin_of, sign_rotation
from eventstore.audit.pages import FILE, PageError, PageFile, hides_a_commit
from eventstore.audit.signer import SigningKey
from eventstore.audit.stamps import check_stamp, read_roots
from eventstore.audit.tiles import entries_of, tile_path
from eventstore.audit.trust import (
    LAST_NOTE,
    VERIFIED,
    VERIFIER_KEY,
    reason_for_distrust,
    rotation_path,
)
from eventstore.care import increments
from eventstore.care.backup import backup
from eventstore.cli.app import parse_expected
from eventstore.cli.care import _last_verified
from eventstore.cli.terminal import parse_json
from eventstore.cli.views import parse_side
from eventstore.cli.writes import parse_messages, parse_pairs, parse_place, parse_seconds
from eventstore.clock import parse_time
from eventstore.events import Custom
from eventstore.ids import check_name, parse_message_id
from eventstore.interchange import export_events, import_file
from eventstore.interchange.formats import CHAT, CHATGPT, CHITCHAT, EVENTS, SHAREGPT, TAU
from eventstore.log.format import MARKER, TYPE_CODES
from eventstore.log.rows import checked_row, checked_value
from eventstore.masterkey import MasterFile
from eventstore.place import opening, presence
from eventstore.place.directory import LOG, describe
from eventstore.place.volume import mount_in
from eventstore.sessions.settings import Settings
from eventstore.state.header import SessionHeader
from eventstore.state.snapshots import LmdbSnapshots
from projections import Views
from projections.catalog import CatalogRow
from projections.shelf import Damage, RowCoder, sealed

LINE = {"role": "user", "content": "a line"}

NESTED = 1_100
"""More levels than anything decodes."""

PIECES = [
    b"",
    b"\0",
    b"\xff",
    b"\n",
    b'"',
    b"\xed\xa0\x80",
    b"[" * NESTED,
    b"\x91" * NESTED,
    b"9" * 5_000,
    b"NaN",
    b"-1e999",
    b"!!timestamp x",
    b"!!bool x",
    b"{}: [",
]
"""What may stand anywhere: ends, broken UTF-8, nesting, numbers too large for any word."""

MARK = "the mark"
"""A text that bytes are put in the place of."""

BEFORE = [b"", b'{"x":', b"x = ", b"x: ", b"\x81\xa1x", b"\x82\xa7content\xa1x\xa1x"]
"""What makes a value of what follows, in JSON, TOML, YAML and msgpack."""

EXAMPLES = settings().max_examples // 2
"""Draws for each parser, three trials each."""


class World:
    """A store with all the files that it may have, and a place for those that are tried."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.keyring = Keyring.file(place / "secure" / "keyring")
        self.store = EventStore.open(place / "store", keyring=self.keyring)
        self.store.create("s", user="u", metadata={"a": 1})
        self.store.append("s", [LINE] * 5, key="k")
        backup(self.store, place / "full")
        self.store.append("s", LINE)
        backup(self.store, place / "full", incremental=True)
        self.plain = EventStore.open(place / "plain")
        self.snapshots = self.plain.headers._snapshots
        assert isinstance(self.snapshots, LmdbSnapshots)
        self.key = SigningKey(origin_of("example.com", self.store.id), bytes(32))
        self.next_key = SigningKey(self.key.name, bytes([1] * 32))
        self.audit = place / "audit"
        self.audit.mkdir()
        (self.audit / VERIFIER_KEY).write_text(str(self.key.verifier))
        self.note = Heads(self.store, self.key, self.audit / LAST_NOTE).sign()

    def file(self, name: str, raw: bytes) -> Path:
        """Write a file that only its owner can read."""
        path = self.place / "tried" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.write(raw)
        return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory):
    """Give a world."""
    made = World(tmp_path_factory.mktemp("fuzz"))
    yield made
    made.store.close()
    made.plain.close()


Trial = Callable[[World, bytes], None]


# -- the parsers -------------------------------------------------------------------------


def text_of(raw: bytes) -> str:
    """Return bytes as an argument of the command line comes to Python."""
    return raw.decode(errors="surrogateescape")


def read_marker(world: World, raw: bytes) -> None:
    """Read a store's description."""
    describe(world.file(MARKER, raw).parent)


def read_presence(world: World, raw: bytes) -> None:
    """Read the mark of one who has a store open: it says nothing, or who that was."""
    mark = world.file(f"{presence.OPEN}/1-x", raw)
    found = presence.look(mark.parent.parent)
    assert len(found.dead) == 1
    assert str(found.dead[0])


def read_key_file(world: World, raw: bytes) -> None:
    """Read a keyring's master key."""
    MasterFile(world.file("keyring", raw), None).read(world.store.id, 1)


def read_wrapped_key_file(world: World, raw: bytes) -> None:
    """Read a master key that a root key wraps."""
    MasterFile(world.file("keyring", raw), lambda: bytes(32)).read(world.store.id, 1)


def read_increment(world: World, raw: bytes) -> None:
    """Read an increment of a backup; its checksum is made to fit, so that all is looked at."""
    path = world.file(f"{increments.INCREMENTS}/{1:08}", raw + sha256(raw).digest())
    backed = path.parent.parent
    increments.check_increments(backed)
    for record in increments._read(path):
        if isinstance(record, increments.Kept):
            for recorded in record.frame(world.store.log).recorded():
                assert recorded.event


def read_signing_key(world: World, raw: bytes) -> None:
    """Read the file of a key that signs."""
    SigningKey.load(world.file("key", raw))


def distrust(world: World, name: str, raw: bytes) -> None:
    """Read an audit directory that has one other file: what is wrong is given, not raised."""
    directory = world.file(f"audit/{LAST_NOTE}", world.note).parent
    rotation_path(directory, 1).unlink(missing_ok=True)
    world.file(f"audit/{VERIFIER_KEY}", str(world.key.verifier).encode())
    world.file(f"audit/{name}", raw)
    reason = reason_for_distrust(world.store.log, world.store.origin, None, directory)
    if reason is not None:
        raise reason


def read_last_note(world: World, raw: bytes) -> None:
    """Read the head that was signed last."""
    distrust(world, LAST_NOTE, raw)


def read_verifier_key(world: World, raw: bytes) -> None:
    """Read the key that heads are checked with."""
    distrust(world, VERIFIER_KEY, raw)


def read_rotation(world: World, raw: bytes) -> None:
    """Read the note by which a key hands over."""
    distrust(world, "rotation-1.note", raw)


def read_verified(world: World, raw: bytes) -> None:
    """Read how far the last verification came."""
    terminal: Any = SimpleNamespace(audit=world.file(VERIFIED, raw).parent, warn=[].append)
    _last_verified(terminal, deep=False)


def read_tile(world: World, raw: bytes) -> None:
    """Read the entries of an exported tree."""
    name = f"tile/entries/{tile_path(0, 5)}"
    directory = world.file(name, raw).parents[name.count("/")]
    assert b"".join(entries_of(directory, 0, 5)) in raw or len(raw) > 1


def read_stamp(world: World, raw: bytes) -> None:
    """Read an authority's word for the time of a head."""
    check_stamp(world.note, raw, [])


def read_certificates(world: World, raw: bytes) -> None:
    """Read certificates of authorities."""
    read_roots(world.file("roots.pem", raw))


def read_toml(world: World, raw: bytes) -> None:
    """Read settings in TOML."""
    Settings.load(world.file("settings.toml", raw), {})


def read_json(world: World, raw: bytes) -> None:
    """Read settings in JSON."""
    Settings.load(world.file("settings.json", raw), {})


def read_yaml(world: World, raw: bytes) -> None:
    """Read settings in YAML."""
    Settings.load(world.file("settings.yaml", raw), {})


def read_environment(_: World, raw: bytes) -> None:
    """Read settings in the environment."""
    Settings.load(None, {"EVENTSTORE_TTL": text_of(raw), "EVENTSTORE_WORKERS": text_of(raw)})


def read_data_file(world: World, raw: bytes) -> None:
    """Read a file of LMDB, read page by page."""
    path = world.file("data.mdb", raw)
    opening.hidden_commit(path)
    try:
        with PageFile(path) as file:
            hides_a_commit(file)
            for meta in file.metas():
                for name, tree in file.tables(meta).items():
                    assert sum(len(key) + len(data) for key, data in file.rows(tree)) >= 0
                    file.get(tree, name)
    except PageError:
        return


def read_snapshot(world: World, raw: bytes) -> None:
    """Read a saved header, its checksum made to fit: as good as none."""
    key = world.snapshots._prefix("s") + bytes(4)
    assert world.snapshots._opened(key, checked_row(raw)) is None


def read_view_row(_: World, raw: bytes) -> None:
    """Read a row of a view, its checksum made to fit: the view is made anew where it is none."""
    try:
        RowCoder(CatalogRow).open(b"key", sealed(b"key", raw))
    except Damage:
        return


def read_checked_row(_: World, raw: bytes) -> None:
    """Read a row with a checksum."""
    checked_value(raw, "a row")


def read_payload(world: World, raw: bytes) -> None:
    """Read the payload of every type of event, behind all checksums."""
    frame = world.store.event(0).frame
    for code in TYPE_CODES.values():
        for schema in (1, 2):
            try:
                frame._decoded(0, code, schema, raw)
            except EventStoreError as error:
                check(error)


def read_mounts(_: World, raw: bytes) -> None:
    """Read the system's list of what is mounted where."""
    mount_in(text_of(raw), "/a/b")


def read_import(world: World, name: str, raw: bytes) -> None:
    """Read a file of a format that its reader was told."""
    path = world.file("import", raw)
    with EventStore.in_memory() as store:
        try:
            import_file(store, path, name)
        except EventStoreError:
            assert store.head().size == 0
            raise


def read_cursor(world: World, raw: bytes) -> None:
    """Read the place in a list of sessions that a caller gives back."""
    Views(world.store).sessions(after=text_of(raw))


def typed(parse: Callable[[str], object]) -> Trial:
    """Return the trial of what is typed as one argument."""
    return lambda _, raw: parse(text_of(raw)) and None


def import_as(name: str) -> Trial:
    """Return the trial of a file whose format its reader was told."""
    return lambda world, raw: read_import(world, name, raw)


# -- all of them, each with something good ---------------------------------------------------

CHAT_FILE = b'{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":null}]}'
TAU_FILE = b'[{"task_id":0,"trial":0,"reward":1.0,"traj":[{"role":"user","content":"hi"}]}]'
SHAREGPT_FILE = b'[{"id":"t","conversations":[{"from":"human","value":"hi"}],"system":"x"}]'
CHATGPT_FILE = (
    b'[{"id":"c","current_node":"b","mapping":{"a":{"parent":null,"message":null},"b":{"parent":"a",'
    b'"message":{"id":"b","author":{"role":"user"},"content":{"parts":["hi",{"x":1}]}}}}}]'
)
CHITCHAT_FILE = b'{"id":{"messages":[[{"text":"hi","timestamp":"2020-05-01T12:00:00Z"}]]}}'
MOUNT = b"36 35 98:0 /m /a\\040b rw - ext4 /dev/root rw\n37 35 0:1 / / rw - tmpfs none rw"
KEY_FILE = b'{"store":"%s","epoch":1,"key":"' + b"A" * 43 + b'=","wrapped":%s,"format":1}'


def data_file(world: World) -> bytes:
    """Return the file of a log."""
    return (world.place / "full" / LOG / FILE).read_bytes()


def increment(world: World) -> bytes:
    """Return an increment without its checksum."""
    path = world.place / "full" / increments.INCREMENTS / f"{1:08}"
    return path.read_bytes()[: -increments.DIGEST_BYTES]


def framed(record: bytes) -> bytes:
    """Return an increment with one record."""
    return increments.MAGIC + len(record).to_bytes(4, "big") + record


def marked(value: object, piece: bytes) -> bytes:
    """Return a value as msgpack, with a piece of bytes where the mark stands."""
    raw = msgspec.msgpack.encode(value)
    assert msgspec.msgpack.encode(MARK) in raw
    return raw.replace(msgspec.msgpack.encode(MARK), piece)


def events_file(world: World) -> bytes:
    """Return the file that a session is exported to."""
    return b"".join(export_events(world.store, ["s"]))


TRIALS: dict[str, tuple[Trial, bytes | Callable[[World], bytes]]] = {
    "marker": (read_marker, lambda world: (world.store.path / MARKER).read_bytes()),
    "presence": (read_presence, b'{"pid":1,"since":2,"read_only":false,"boot":"b","command":"c"}'),
    "key file": (read_key_file, lambda world: world.keyring.path.read_bytes()),
    "wrapped key file": (read_wrapped_key_file, lambda world: world.keyring.path.read_bytes()),
    "increment": (read_increment, increment),
    "signing key": (read_signing_key, lambda world: world.key.secret().encode()),
    "last note": (read_last_note, lambda world: world.note),
    "verifier key": (read_verifier_key, lambda world: str(world.key.verifier).encode()),
    "rotation": (read_rotation, lambda world: sign_rotation(world.key, world.next_key, 5)),
    "verified": (read_verified, b'{"size":5,"root":"QQ==","deep":true}'),
    "tile": (read_tile, b"\0\2ab\0\1c"),
    "stamp": (read_stamp, b"\x30\x03\x02\x01\x00"),
    "roots": (read_certificates, b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"),
    "toml": (read_toml, b"ttl = 60\nsummaries = false\n[more]\nx = 1979-05-27"),
    "json": (read_json, b'{"ttl":60,"summaries":false}'),
    "yaml": (read_yaml, b"ttl: 60\nsummaries: no\nworkers: &a [1, 2]\n? *a\n: 2001-01-01"),
    "environment": (read_environment, b"60"),
    "data file": (read_data_file, data_file),
    "snapshot": (read_snapshot, lambda _: msgspec.msgpack.encode(SessionHeader("s"))),
    "view row": (read_view_row, lambda _: msgspec.msgpack.encode(CatalogRow("s"))),
    "checked row": (read_checked_row, checked_row(b"value")),
    "payload": (read_payload, b"\x82\xa7content\xa1x\xa4role\xa4user"),
    "mounts": (read_mounts, MOUNT),
    "events": (import_as(EVENTS), events_file),
    "chat": (import_as(CHAT), CHAT_FILE),
    "sharegpt": (import_as(SHAREGPT), SHAREGPT_FILE),
    "chatgpt": (import_as(CHATGPT), CHATGPT_FILE),
    "tau": (import_as(TAU), TAU_FILE),
    "chitchat": (import_as(CHITCHAT), CHITCHAT_FILE),
    "cursor": (read_cursor, b"k6stdXBkYXRlZF9hdAChcw=="),
    "time": (typed(parse_time), b"2026-01-31T12:00:00Z"),
    "seconds": (typed(parse_seconds), b"1.5h"),
    "place": (typed(parse_place), b"12"),
    "expected": (typed(parse_expected), b"12"),
    "side": (lambda world, raw: parse_side(world.store, text_of(raw)) and None, b"s@3"),
    "pair": (typed(lambda text: parse_pairs([text])), b'a={"b":1}'),
    "json value": (typed(lambda text: parse_json(text, "value")), b'{"a":[1,2.5,null]}'),
    "messages": (typed(parse_messages), CHAT_FILE),
    "message id": (typed(parse_message_id), b"s#12"),
    "name": (typed(lambda text: check_name(text, "name")), b"name"),
}

DEEP, BROKEN = b"\x91" * NESTED, b"\xa1\xff"
PROBLEMS = [
    ("presence", b'{"x":' + b"[" * NESTED),
    ("presence", b'{"boot":"\xff"}'),
    ("key file", b'{"store":' + b"[" * NESTED),
    ("verified", b'{"x":' + b"[" * NESTED),
    ("increment", framed(b"\x99\xa4span\xa1\xff")),
    ("increment", framed(b"\x99\xa1x" + DEEP)),
    ("increment", framed(b"\x99\xa5\nspan")),
    ("toml", b"x = " + b"[" * NESTED),
    ("json", b"[" * NESTED),
    ("yaml", b"[" * NESTED),
    ("yaml", b"x: !!timestamp x"),
    ("yaml", b"x: !!bool x"),
    ("environment", b"\xff"),
    ("snapshot", marked(SessionHeader(metadata={"x": MARK}), DEEP)),
    ("snapshot", marked(SessionHeader(MARK), BROKEN)),
    ("view row", marked(CatalogRow("s", metadata={"x": MARK}), DEEP)),
    ("view row", marked(CatalogRow(MARK), BROKEN)),
    ("payload", marked(Custom("x", {"x": MARK}), DEEP)),
    ("payload", marked(Custom(MARK, {}), BROKEN)),
    ("cursor", urlsafe_b64encode(b"\x93\xa1x" + DEEP)),
    ("place", b"9" * 5_000),
    ("expected", b"9" * 5_000),
    ("side", b"s@" + b"9" * 5_000),
]
"""What once raised an error that was not of the tree."""


def check(error: EventStoreError) -> None:
    """Assert that an error is one line for a person."""
    assert str(error) and "\n" not in str(error)


def attempt(world: World, name: str, raw: bytes) -> None:
    """Have a parser take bytes, or refuse them by an error of the tree."""
    try:
        TRIALS[name][0](world, raw)
    except EventStoreError as error:
        check(error)


@pytest.mark.parametrize("name", TRIALS)
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_any_bytes_are_a_value_or_one_error(world, name, data):
    """Random bytes, and good ones with something cut out and something put in."""
    good = TRIALS[name][1]
    good = good if isinstance(good, bytes) else good(world)
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(good))] * 2)))
    piece = data.draw(st.sampled_from(PIECES) | st.binary(max_size=12))
    attempt(world, name, good[:first] + piece + good[last:])
    attempt(world, name, good[:first] + piece + good[first + len(piece) :])
    attempt(world, name, data.draw(st.binary(max_size=100)))


@pytest.mark.parametrize("name", TRIALS)
def test_the_absurd_is_refused_anywhere(world, name):
    """What no parser expects, alone and where the value of something unknown would begin."""
    for piece, before in product(PIECES, BEFORE):
        attempt(world, name, before + piece)


@pytest.mark.parametrize(("name", "raw"), PROBLEMS)
def test_what_once_broke_a_parser_is_refused(world, name, raw):
    """Bytes that ended in another error than one of the tree."""
    attempt(world, name, raw)
