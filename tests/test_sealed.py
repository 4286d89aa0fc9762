"""Encrypted stores: the same history as a plain one, and nothing of it on the disk."""

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from driver import START, STEPS, TICK, Driver, folded, ticking
from facts import NOTED, fill, said, told
from hypothesis import given, settings
from test_tamper import tables
from xxhash import xxh3_64_intdigest

from eventstore import (
    ANY,
    Corruption,
    EventStore,
    EventStoreError,
    InvalidEvent,
    KeyReused,
    Keyring,
    SessionNotFound,
    StoreUnavailable,
)
from eventstore import events as ev
from eventstore.audit import verifier
from eventstore.audit.evidence import disclose, prove_event, prove_session
from eventstore.audit.heads import Heads
from eventstore.audit.note import origin_of
from eventstore.audit.signer import SigningKey
from eventstore.audit.verify import verify, verify_directory
from eventstore.care.backup import backup, restore
from eventstore.engine.requests import Part
from eventstore.ids import SYSTEM
from eventstore.interchange.jsonl import export_events, import_events
from eventstore.log import listing
from eventstore.log import reads as lmdb_reads
from eventstore.log.base import Append, key_of
from eventstore.log.codec import Codec
from eventstore.log.draft import draft
from eventstore.log.format import (
    CHECKSUM,
    CHECKSUM32,
    EVENT_HEAD,
    EVENT_ROW,
    FRAMES,
    POSITION,
)
from eventstore.log.frame import Frame
from eventstore.log.vault import SEALED_NAME_BYTES_MAX, STORE_KEY
from eventstore.place.directory import LOG, ensure_store
from eventstore.state.snapshots import LmdbSnapshots
from eventstore.store import starter_dictionary
from projections import BranchTree, SessionState, Views


def facts_of(store: EventStore) -> list[tuple]:
    """Return all that a store says of its sessions' events, without their positions."""
    told = ("session", "version", "recorded_at", "occurred_at", "actor", "key", "role", "tokens")
    return [
        (*(getattr(each, name) for name in told), each.event)
        for each in store.all()
        if each.session != SYSTEM
    ]


def states_of(store: EventStore) -> list[tuple]:
    """Return every state of every session, without positions, and what it shows."""
    found = []
    for session in store.sessions():
        for version in range(store.version(session) + 1):
            header = folded(store, session, version)
            header.position = 0
            state = SessionState.of(store, session, at_version=version)
            found.append((header, [message.fields for message in state.messages]))
    return found


# -- the same history ------------------------------------------------------------------------


@settings(max_examples=8)
@given(steps=STEPS)
def test_an_encrypted_store_behaves_like_a_plain_one(tmp_path_factory, steps):
    """Any commands give the same facts, names, times, receipts and states, and a sound store."""
    place = tmp_path_factory.mktemp("sealed")
    earlier = iter([START - TICK])  # its system stream began one tick before
    ticks = ticking()
    plain = EventStore.in_memory(clock=ticking(), actor="user:é")
    keyring = Keyring.file(place / "keyring")
    clock = lambda: next(earlier, None) or ticks()  # noqa: E731
    with plain, EventStore.open(place / "h", keyring=keyring, clock=clock, actor="user:é") as store:
        drivers = Driver(plain), Driver(store)
        for step in steps:
            for driver in drivers:
                driver.run(step)
        assert list(store.sessions()) == list(plain.sessions())
        assert facts_of(store) == facts_of(plain)
        assert states_of(store) == states_of(plain)
        assert verify(store, deep=True).findings == []
        facts = facts_of(plain)
    with EventStore.open(place / "h", keyring=keyring) as again:
        assert facts_of(again) == facts


def test_receipts_are_those_of_a_plain_store(sealed):
    """Versions, duplicates and refusals of keys are the same; only positions know of the keys."""
    sealed.create("a", key="made")
    first = sealed.append("a", {"content": "x"}, key="k", expected=0)
    assert (first.session, first.first_version, first.version) == ("a", 1, 1)
    again = sealed.append("a", {"content": "x"}, key="k", expected=0)
    assert again.duplicate and again.position == first.position
    assert again.tree_size == first.tree_size
    with pytest.raises(KeyReused):
        sealed.append("a", {"content": "y"}, key="k")
    with pytest.raises(SessionNotFound):
        sealed.append("nobody", {"content": "x"})
    assert sealed.create("a", key="made").duplicate


def test_coroutines_seal_as_well(sealed):
    """Awaited commands are encrypted, refused and answered like others."""

    async def talk() -> None:
        await sealed.aio.create("a")
        await asyncio.gather(*(sealed.aio.append("a", {"content": f"{i}"}) for i in range(20)))
        late = sealed.aio.append("nobody", {"content": "x"})
        with pytest.raises(SessionNotFound):
            await late

    asyncio.run(talk())
    assert sealed.version("a") == 20
    assert verify(sealed, deep=True).findings == []


def test_each_session_has_a_key_of_its_own(sealed):
    """Payloads are sealed with their session's key, which a fact names, or with the store's."""
    sealed.create("a")
    sealed.branch("a", "b")
    sealed.append("b", [{"content": "x"}] * 3)
    drafts, expected, _ = sealed.engine.encoder.drafted([Part("a", [ev.LegalHoldSet("why")])])
    sealed.log.commit([Append(drafts, expected)], START)
    used = {(each.session, each.type): each.frame.key_id(each.index) for each in sealed.all()}
    own = {name: key_of(sealed.log, name) for name in "ab"}
    assert used["b", "MessageAppended"] == used["b", "BranchCreated"] == own["b"]
    assert used["a", "SessionCreated"] == own["a"] not in (own["b"], STORE_KEY)
    assert used["a", "LegalHoldSet"] == used[SYSTEM, "KeyCreated"] == STORE_KEY
    named = [each.event for each in sealed.all(types=["KeyCreated"])]
    assert [fact.key for fact in named] == [STORE_KEY, own["a"], own["b"]]
    commitment = sealed.log.codec.seal.vault.commitment
    assert [commitment(fact.key).hex() for fact in named] == [fact.digest for fact in named]


# -- nothing on the disk ---------------------------------------------------------------------

WORDS = [
    f"{what}-secret"
    for what in (
        *("session", "branch", "actor", "key", "correlation", "causation", "user", "template"),
        *("metadata", "topic", "context", "value", "content", "role", "tool", "argument", "result"),
        *("call", "error", "detail", "custom", "data", "reason", "summary", "title", "idea"),
        *("merged", "closed", "spoken", "extra"),
    )
]
"""Each stands somewhere else in what tell_all() says."""


def tell_all(store: EventStore) -> None:
    """Say every secret word, in every field that takes one, and have every cache hold them."""
    word = dict(zip((each.split("-")[0] for each in WORDS), WORDS, strict=True))
    who = {"actor": word["actor"], "correlation_id": word["correlation"]}
    who["causation_id"] = word["causation"]
    store.create(
        word["session"],
        user=word["user"],
        template=word["template"],
        metadata={word["metadata"]: word["topic"]},
        context={word["context"]: word["value"]},
        key=word["key"],
        **who,
    )
    line = {"role": word["role"], "content": word["content"], word["extra"]: word["spoken"]}
    store.append(word["session"], line, **who)
    for _ in range(70):  # far enough for a snapshot
        store.append(word["session"], line)
    store.record_tool_call(
        word["session"],
        word["tool"],
        {"a": word["argument"]},
        word["result"],
        call_id=word["call"],
        error=word["error"],
    )
    store.record_error(word["session"], word["error"], word["detail"])
    store.record(word["session"], word["custom"], word["data"])
    store.branch(word["session"], word["branch"], name=word["title"], description=word["idea"])
    store.append(word["branch"], {"content": "x"})
    store.merge(
        word["branch"], into=word["session"], strategy="squash", summary=word["merged"], key="m"
    )
    store.prune(word["session"], keep_last=3, reason=word["reason"])
    store.summarize(word["session"], word["summary"], upto=store.version(word["session"]))
    store.close(word["branch"], reason=word["closed"])
    store.headers.at(word["session"], 70)
    views = Views(store)
    assert len(views.sessions(status=["active", "closed"]).rows) == 2
    assert views.statistics() and views.tree(word["branch"])


def leaked(*places: Path) -> set[str]:
    """Return the words that stand in any file under these places, or in a file's name."""
    files = [each for place in places for each in place.rglob("*") if each.is_file()]
    assert files
    whole = b"\0".join(str(each).encode() + each.read_bytes() for each in files).lower()
    return {word for word in WORDS if word.encode() in whole}


def test_a_plain_store_shows_every_word(tmp_path):
    """What the search for leaks finds nothing of, it does find where nothing is encrypted."""
    with EventStore.open(tmp_path / "history", compression="none") as store:
        tell_all(store)
        assert leaked(tmp_path) == set(WORDS)


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_no_word_stands_on_the_disk(tmp_path, keyring, compression):
    """No text, no name and no value is in any byte of an encrypted store or of its backup."""
    place = tmp_path / "history"
    with EventStore.open(place, keyring=keyring, compression=compression) as store:
        tell_all(store)
        backup(store, tmp_path / "backup")
        assert leaked(tmp_path) == set()
        assert list((place / "snapshots").iterdir()) and not (place / "views").exists()
    assert leaked(tmp_path) == set()


def test_guessing_a_command_proves_nothing(tmp_path, sealed):
    """Beside a key stands no digest that a guess of the command's content could be held against."""
    with EventStore.open(tmp_path / "plain") as plain:
        for store in (plain, sealed):
            store.create("a")
            store.append("a", {"content": "x"}, key="k")
        digest = plain.log.receipt_of("k")[0]
        assert digest in (tmp_path / "plain" / LOG / "data.mdb").read_bytes()
    assert digest not in (tmp_path / "history" / LOG / "data.mdb").read_bytes()


def test_equal_texts_are_not_equal_bytes(sealed):
    """The same message said twice, in one session or two, gives sealed bytes that differ."""
    for name in "ab":
        sealed.create(name)
        sealed.append(name, [{"content": "the same"}] * 2)
    said_it = sealed.all(types=["MessageAppended"])
    assert len({each.frame.stored(each.index)[1] for each in said_it}) == 4


def test_an_encrypted_store_trains_no_dictionary(sealed):
    """A dictionary would hold what was said, in the clear."""
    sealed.create("a")
    with pytest.raises(InvalidEvent, match="not trained"):
        sealed.train_dictionary()


def test_snapshots_are_sealed_and_used(tmp_path, sealed, keyring):
    """Saved headers lie under sealed names, open with their session's key, and with no other."""
    sealed.create("a")
    for _ in range(70):
        sealed.append("a", {"content": "x"})
    sealed.headers.at("a", 70)
    sealed.close()
    with EventStore.open(tmp_path / "history", keyring=keyring) as store:
        kept = LmdbSnapshots(tmp_path / "history", store.log, read_only=True)
        assert [name for name, _ in kept.saved()] == ["a"]
        found = kept.nearest("a", 70)
        assert found is not None and found == folded(store, "a", found.version)
        store.log.codec.seal.vault.shred([key_of(store.log, "a")])
        assert kept.nearest("a", 70) is None
        kept.close()


def test_what_was_read_before_closing_stays_shut_after_it(sealed):
    """An event that was not opened while the keys were there says that the store is closed."""
    sealed.create("a")
    opened, shut = sealed.append("a", [{"content": "x"}] * 2, key="k"), list(sealed.events("a", 1))
    assert shut[0].event.message.content == "x" and opened.version == 2
    sealed.close()
    assert shut[0].event.message.content == "x"
    for read in (lambda: shut[1].event, lambda: shut[0].key):
        with pytest.raises(StoreUnavailable, match="closed"):
            read()


# -- without the keyring, or with another one ------------------------------------------------


def entries(store: EventStore) -> list[tuple]:
    """Return what the heads say of every event."""
    told = ("position", "version", "type", "size", "tokens", "role", "recorded_at", "number")
    return [tuple(getattr(each, name) for name in told) for each in store.all()]


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Path:
    """Give a place with a filled encrypted store and its keyring; to be copied."""
    place = tmp_path_factory.mktemp("filled")
    with EventStore.open(place / "history", keyring=Keyring.file(place / "keyring")) as store:
        fill(store)
    return place


@pytest.fixture
def closed(filled, tmp_path) -> Path:
    """Give the directory of a copy of that store."""
    shutil.copytree(filled, tmp_path, dirs_exist_ok=True)
    return tmp_path / "history"


def test_without_its_keyring_a_store_shows_heads_and_pseudonyms(closed, keyring):
    """Positions, types, times, sizes and counts are readable; names are pseudonyms, in order."""
    with EventStore.open(closed, keyring=keyring) as store, EventStore.open(closed) as locked:
        assert entries(locked) == entries(store)
        assert locked.head() == store.head()
        names = list(locked.sessions())
        assert names == sorted(names) and len(names) == 2 and not {"a", "b"} & set(names)
        assert sorted(map(locked.version, names)) == sorted(map(store.version, "ab"))
        pseudonyms = {each.actor for each in locked.all()}
        assert len(pseudonyms) == len({each.actor for each in store.all()})
        assert "user:2" not in pseudonyms
        assert {each.key for each in locked.all()} > {None}
        with pytest.raises(SessionNotFound):
            locked.version("a")


def test_without_its_keyring_no_name_is_said_not_to_exist(closed, keyring):
    """Who asks for a session by name is told that the store is encrypted, not to create it."""
    asks = [
        lambda store: store.version("a"),
        lambda store: store.events("a"),
        lambda store: SessionState.of(store, "a"),
        lambda store: SessionState.of(store, "a", at_version=0),
        lambda store: SessionState.of(store, "a", at_position=3),
        lambda store: BranchTree.of(store, "a"),
        lambda store: list(export_events(store, ["a"])),
    ]
    with EventStore.open(closed) as locked:
        for ask in asks:
            with pytest.raises(SessionNotFound, match="encrypted; open it with keyring=") as told:
                ask(locked)
            assert "does not exist" not in str(told.value)
    with EventStore.open(closed, keyring=keyring) as opened:
        for ask in asks:
            ask(opened)
        with pytest.raises(SessionNotFound, match="'c' does not exist; create it first"):
            opened.version("c")


def test_without_its_keyring_no_payload_is_opened(closed):
    """Events, states, views and exports say that the store is encrypted and how to open it."""
    with EventStore.open(closed) as locked:
        name = next(iter(locked.sessions()))
        for read in (
            lambda: locked.event(2).event,
            lambda: SessionState.of(locked, name),
            lambda: Views(locked).sessions(),
            lambda: list(export_events(locked)),
        ):
            with pytest.raises(StoreUnavailable, match="encrypted; open it with keyring="):
                read()


def test_without_its_keyring_nothing_is_written(closed, tmp_path):
    """Every way to write is refused before anything is written."""
    with EventStore.open(closed) as locked, EventStore.in_memory() as other:
        other.create("new")
        head, name = locked.head(), next(iter(locked.sessions()))
        for write in (
            lambda: locked.create("new"),
            lambda: locked.append(name, {"content": "x"}),
            lambda: locked.merge(name, into="x"),
            lambda: asyncio.run(locked.aio.append(name, {"content": "x"})),
            lambda: import_events(locked, list(export_events(other))),
            locked.train_dictionary,
        ):
            with pytest.raises(StoreUnavailable, match="encrypted; open it with keyring="):
                write()
        with pytest.raises(StoreUnavailable, match="encrypted"):
            draft(name, [NOTED], locked.log.codec, bytes(16))
        assert locked.head() == head


def refused(place: Path, keyring: Keyring | None, match: str) -> None:
    """Check that a store does not open, and that nothing at all changes on the disk."""
    before = {each: each.read_bytes() for each in place.parent.rglob("data.mdb")}
    with pytest.raises(StoreUnavailable, match=match):
        EventStore.open(place, keyring=keyring)
    after = {each: each.read_bytes() for each in place.parent.rglob("data.mdb")}
    assert {each: after[each] for each in before} == before


def test_a_keyring_of_another_store_is_refused(closed, tmp_path):
    """One keyring belongs to one store; a new store does not take another's either."""
    other = Keyring.file(tmp_path / "other")
    with EventStore.open(tmp_path / "second", keyring=other) as second:
        second.create("a")
    refused(closed, other, "is the keyring of store")
    refused(tmp_path / "third", other, "needs a keyring of its own")
    assert not (tmp_path / "third").exists()


def test_a_keyring_makes_no_missing_store_to_read(closed, keyring, tmp_path):
    """Who reads where no store is hears of that, not of the keyring that is another's."""
    with pytest.raises(StoreUnavailable, match="holds no event store"):
        EventStore.open(tmp_path / "other", keyring=keyring, read_only=True)


def test_a_keyring_that_is_gone_is_named(closed, tmp_path):
    """A missing keyring is not made anew for a store that has facts."""
    refused(closed, Keyring.file(tmp_path / "nowhere"), "there is no keyring at")
    assert not (tmp_path / "nowhere").exists()


def test_a_plain_store_stays_plain(tmp_path, disk, keyring):
    """A store is encrypted when it is made or never; the keyring stays unused."""
    disk.create("a")
    refused(tmp_path / "history", keyring, "is not encrypted and stays so")
    assert not keyring.path.exists()


def test_a_keyring_inside_the_store_is_refused(tmp_path):
    """Keys that lie in the store would be copied with it."""
    place = tmp_path / "history"
    with pytest.raises(StoreUnavailable, match="is inside the store"):
        EventStore.open(place, keyring=Keyring.file(place / "keyring"))
    assert not place.exists()


def test_a_crash_before_the_first_fact_is_made_good(tmp_path, keyring):
    """A store that died before its keyring was made gets one, and its system stream, at next."""
    ensure_store(tmp_path / "history", starter_dictionary(), encrypted=True)
    with EventStore.open(tmp_path / "history") as locked:
        assert locked.head().size == 0
    for _ in range(2):
        with EventStore.open(tmp_path / "history", keyring=keyring) as store:
            assert [each.type for each in store.all()] == ["SessionCreated", "KeyCreated"]


def test_a_keyring_opens_a_store_to_read_only(closed, keyring):
    """With the keyring, a store open read-only shows everything and writes nothing."""
    with EventStore.open(closed, keyring=keyring, read_only=True) as store:
        assert list(store.sessions()) == ["a", "b"]
        assert SessionState.of(store, "a").messages[-1].content
        with pytest.raises(StoreUnavailable, match="read-only"):
            store.create("c")


# -- names -----------------------------------------------------------------------------------


def test_names_are_listed_in_order_in_any_window(sealed, monkeypatch):
    """Sessions come once and sorted, however many are put in order at a time."""
    names = ["Zoë", "é", "z", "日本", "🦉", *(f"s{number:02}" for number in range(20))]
    for name in names:
        sealed.create(name)
    for window in (3, 7, 26, 27):
        monkeypatch.setattr(listing, "WINDOW_NAMES", window)
        monkeypatch.setattr(lmdb_reads, "NAMES_PAGE", 4)
        names.append(f"of window {window}")
        sealed.create(names[-1])
        assert list(sealed.sessions()) == sorted(names)


@pytest.mark.parametrize("field", ["session", "actor", "key", "correlation_id", "causation_id"])
def test_a_name_is_shorter_by_its_seal(sealed, field):
    """239 bytes fit, 240 are refused, and then nothing was written."""
    sealed.create("a")

    def note(size: int):
        name = "n" * size
        if field == "session":
            return sealed.create(name)
        return sealed.append("a", {"content": "x"}, **{field: name})

    note(SEALED_NAME_BYTES_MAX)
    found = next(each for each in sealed.all(3) if each.session != SYSTEM and each.position > 3)
    assert getattr(found, field) == "n" * SEALED_NAME_BYTES_MAX
    size = sealed.head().size
    with pytest.raises(InvalidEvent, match="the limit of an encrypted store is 239"):
        note(SEALED_NAME_BYTES_MAX + 1)
    assert sealed.head().size == size and sealed.version("a") == (field != "session")
    assert not sealed.exists("n" * (SEALED_NAME_BYTES_MAX + 1))


def test_the_system_stream_is_known_by_its_name(sealed):
    """Its name is the same in every store, with the keyring and without, and no user's."""
    sealed.create("a")
    with EventStore.open(sealed.path) as locked:
        assert locked.version(SYSTEM) == sealed.version(SYSTEM) == 2
        assert SYSTEM not in set(locked.sessions()) | set(sealed.sessions())
    with pytest.raises(InvalidEvent):
        sealed.create(SYSTEM)


# -- damage ----------------------------------------------------------------------------------


def resealed(raw: bytes, last: int, index: int, change) -> bytes:
    """Return a frame with one event's head and body changed, and all checksums made good."""
    frame = Frame(raw, last, Codec({}.get))
    heads, bodies, end = [], [], 0
    for each in range(frame.count):
        row, body = frame.stored(each)
        head = list(row[:-1])
        if each == index:
            head, body = change(head, bytearray(body))
        end += len(body)
        head[0] = end
        packed = EVENT_HEAD.pack(*head)
        checksum = xxh3_64_intdigest(packed + bytes(body)) & 0xFFFFFFFF
        heads.append(packed + CHECKSUM32.pack(checksum))
        bodies.append(bytes(body))
    stop = len(raw) - frame.row(frame.count - 1)[0] - frame.count * EVENT_ROW.size
    covered = raw[CHECKSUM.size : stop] + b"".join(heads)
    checksum = CHECKSUM.pack(xxh3_64_intdigest(covered, frame.position))
    return checksum + covered + b"".join(bodies)


def tampered(place: Path, position: int, change, index: int = 0) -> None:
    """Change one event of the frame that ends at a position, as one who knows the checksums."""
    with tables(place) as opened:
        key = POSITION.pack(position)
        opened.put(FRAMES, key, resealed(opened.get(FRAMES, key), position, index, change))


def flipped(bit: int):
    """Return a change of one bit of the body."""

    def change(head, body):
        body[bit // 8 % len(body)] ^= 1 << bit % 8
        return head, body

    return change


def retold(field: int, value: int):
    """Return a change of one number in the event head."""

    def change(head, body):
        head[field] = value
        return head, body

    return change


CHANGES = {
    "commitment": flipped(3),
    "key id": flipped(8 * 32 + 60),
    "nonce": flipped(8 * 40),
    "ciphertext": flipped(8 * 60),
    "tag": flipped(-1),
    "size": retold(1, 7),
    "tokens": retold(2, 99),
    "type": retold(3, 22),
    "role": retold(6, 4),
    "dictionary": retold(7, 1),
}


@pytest.mark.parametrize("what", CHANGES)
def test_one_changed_bit_is_found(tmp_path, keyring, what):
    """Whatever is changed of a sealed event, checksums made good: readers and verify name it."""
    place = tmp_path / "history"
    with EventStore.open(place, keyring=keyring) as store:
        store.create("a")
        position = store.append("a", {"role": "user", "content": "hello there, " * 9}).position
        store.append("a", {"content": "x"})
    tampered(place, position, CHANGES[what])
    report = verify_directory(place, keyring=keyring)
    assert report.findings, what
    if what != "commitment":
        assert any(found.position == position for found in report.findings), told(report)
        with EventStore.open(place, keyring=keyring) as store, pytest.raises(EventStoreError):
            _ = store.event(position).event
    if what not in ("size", "tokens", "role", "dictionary"):  # what the tag alone covers
        assert verify_directory(place).findings, what


def test_a_body_moved_to_another_session_does_not_open(tmp_path, keyring):
    """A sealed payload is bound to its session and head: moved elsewhere, it is damage."""
    place = tmp_path / "history"
    with EventStore.open(place, keyring=keyring) as store:
        for name in "ab":
            store.create(name)
        own = [store.append(name, {"content": f"of {name}"}).position for name in "aab"]
        bodies = {p: store.event(p).frame.stored(0)[1] for p in own}

    def put(position):
        return lambda head, _: (head, bytearray(bodies[position]))

    tampered(place, own[0], put(own[2]))
    with EventStore.open(place, keyring=keyring) as store:
        with pytest.raises(Corruption, match="changed or moved"):
            _ = store.event(own[0]).event
        assert store.event(own[1]).event.message.content == "of a"
    assert f"position {own[0]}" in told(verify_directory(place, keyring=keyring))
    assert f"position {own[0]}: key" in told(verify_directory(place))


# -- verify, evidence, copies ----------------------------------------------------------------


def test_verify_needs_no_key_for_the_tree(closed, keyring):
    """Without the keyring frames, tree, sealed bytes and keys are checked; with it all the rest."""
    locked, opened = verify_directory(closed, deep=True), None
    with EventStore.open(closed, keyring=keyring) as store:
        opened = verify(store, deep=True)
    assert locked.sound and opened.sound, told(locked) + told(opened)
    assert (locked.root, locked.size) == (opened.root, opened.size)
    assert locked.checked["payloads left sealed"] == locked.size
    assert "payloads left sealed" not in opened.checked and opened.checked["states"] == 2


def test_verify_names_a_session_whose_key_is_gone(closed, keyring):
    """A key that is not in the keyring is named once; the tree is whole all the same."""
    with EventStore.open(closed, keyring=keyring) as store:
        key = key_of(store.log, "b")
        store.log.codec.seal.vault.shred([key])
    report = verify_directory(closed, keyring=keyring)
    assert [f"{key:016x}" in found.what for found in report.findings] == [True], told(report)


def test_verify_names_a_wrong_key(tmp_path, keyring):
    """An event sealed with a key that is not its session's, or named by no fact, is found."""
    with EventStore.open(tmp_path / "history", keyring=keyring) as store:
        vault, codec = store.log.codec.seal.vault, store.log.codec
        store.create("a")
        stray, _ = vault.fresh()
        work = [
            draft("a", [said("x")], codec, bytes(16), key=stray),
            draft("b", [ev.SessionCreated()], codec, bytes(16), key=stray),
            draft(SYSTEM, [ev.KeyCreated(key_of(store.log, "a"), "00" * 32)], codec, bytes(16)),
        ]
        for made in work:
            store.log.commit([Append((made,), (ANY,))], START)
        found = told(verify(store))
    assert f"position 4: key {stray:016x} sealed it instead of" in found
    assert f"position 5: no fact in the system stream names its key {stray:016x}" in found
    assert "position 6: the keyring's key" in found


def test_evidence_shows_pseudonyms(tmp_path, sealed):
    """A stranger checks proofs of an encrypted store, and learns one payload and no name."""
    sealed.create("session-secret", actor="actor-secret")
    line = {"role": "user", "content": "shown on purpose"}
    position = sealed.append("session-secret", line, actor="actor-secret").position
    key = SigningKey.generate(origin_of("example.com/support", sealed.id))
    note = Heads(sealed, key, tmp_path / "last.note").sign()
    keys = [key.verifier]
    files = {
        "event.tlog-proof": prove_event(sealed, position, note, keys),
        "event.json": disclose(sealed, position, note, keys),
        "session.jsonl": b"".join(prove_session(sealed, "session-secret", note, keys)),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert verifier.main(["--key", str(key.verifier), str(tmp_path / name)]) == 0
        assert b"secret" not in content
    with EventStore.open(sealed.path) as locked:
        name = next(iter(locked.sessions()))
        assert b"".join(prove_session(locked, name, note, keys)) == files["session.jsonl"]
        assert name.encode() in files["event.json"]
        assert prove_event(locked, position, note, keys) == files["event.tlog-proof"]


def test_a_backup_is_opened_by_the_same_keyring(closed, tmp_path, keyring):
    """Backup and restore copy ciphertext; the keyring opens the copy, and nothing else does."""
    with EventStore.open(closed, keyring=keyring) as store:
        backup(store, tmp_path / "backup")
        facts = facts_of(store)
    restore(tmp_path / "backup", tmp_path / "restored")
    with EventStore.open(tmp_path / "restored", keyring=keyring) as again:
        assert facts_of(again) == facts
        assert verify(again, deep=True).sound
    with EventStore.open(tmp_path / "restored") as locked, pytest.raises(StoreUnavailable):
        _ = locked.event(0).event


def test_events_go_out_and_in(closed, tmp_path, keyring):
    """What is exported from an encrypted store can be imported into a plain one and back."""
    with EventStore.open(closed, keyring=keyring) as store, EventStore.in_memory() as plain:
        lines = list(export_events(store))
        import_events(plain, lines)
        assert list(plain.sessions()) == ["a", "b"] and not plain.exists(SYSTEM)
        again = Keyring.file(tmp_path / "again")
        with EventStore.open(tmp_path / "back", keyring=again) as back:
            import_events(back, list(export_events(plain)))
            for each in (plain, back):
                assert [e.event for e in each.events("a")] == [e.event for e in store.events("a")]
                assert SessionState.of(each, "a").messages[-1] is not None
            assert verify(back, deep=True).sound and verify(plain, deep=True).sound
            assert key_of(back.log, "a") != key_of(back.log, "b")
            repeated = back.append("b", {"content": "x"}, key="many")
            assert repeated.duplicate


# -- processes -------------------------------------------------------------------------------

WRITE = """
import sys
from eventstore import EventStore, Keyring, SessionExists
from contextlib import suppress

place, keyring, name = sys.argv[1:]
with EventStore.open(place, keyring=Keyring.file(keyring)) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(40):
        with suppress(SessionExists):
            store.create(f"shared-{number % 5}")
        store.create(f"{name}-{number}")
        store.append(f"shared-{number % 5}", {"content": f"{name} {number}"})
        store.append(f"{name}-{number}", {"content": f"{name} {number}"})
"""


def test_two_processes_write_one_encrypted_store(tmp_path, keyring):
    """Processes that share store and keyring make keys and facts side by side, and lose none."""
    place = tmp_path / "history"
    command = [sys.executable, "-c", WRITE, str(place), str(keyring.path)]
    children = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for name in ("one", "two")
    ]
    for child in children:
        assert child.stdout.readline() == b"ready\n"
    for child in children:
        child.stdin.write(b"go\n")
        child.stdin.close()
    assert [child.wait(60) for child in children] == [0, 0]
    for child in children:
        child.stdout.close()
    with EventStore.open(place, keyring=keyring) as store:
        assert len(list(store.sessions())) == 85
        said_so = sum(each.type == "MessageAppended" for each in store.all())
        assert said_so == 160
        assert verify(store, deep=True).findings == []
        assert len({key_of(store.log, name) for name in store.sessions()}) == 85


CRASH = """
import os, signal, sys
from eventstore import EventStore, Keyring
from eventstore.log.lmdb import LmdbLog

store = EventStore.open(sys.argv[1], keyring=Keyring.file(sys.argv[2]))
store.create("before")
LmdbLog.commit = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
store.create("during")
"""


def test_a_crash_between_key_and_commit_costs_a_key(tmp_path, keyring):
    """A process that dies after it made a key leaves no session, and the name is free."""
    place = tmp_path / "history"
    command = [sys.executable, "-c", CRASH, str(place), str(keyring.path)]
    assert subprocess.run(command, check=False).returncode == -9
    with EventStore.open(place, keyring=keyring) as store:
        assert list(store.sessions()) == ["before"]
        store.create("during")
        assert verify(store, deep=True).findings == []
