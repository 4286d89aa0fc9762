"""Encrypted stores: the same history as a plain one, and nothing of it on the disk."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from driver import START, STEPS, TICK, Driver, folded, ticking
from hypothesis import given, settings
from sealing import facts_of

from eventstore import (
    EventStore,
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
from eventstore.audit.verify import verify
from eventstore.care.backup import backup
from eventstore.engine.requests import Part
from eventstore.ids import SYSTEM
from eventstore.log import listing
from eventstore.log import reads as lmdb_reads
from eventstore.log.base import Append, key_of
from eventstore.log.vault import SEALED_NAME_BYTES_MAX, STORE_KEY
from eventstore.place.directory import LOG
from eventstore.state.snapshots import LmdbSnapshots
from projections import SessionState, Views


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


# -- verify, evidence, copies ----------------------------------------------------------------


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
