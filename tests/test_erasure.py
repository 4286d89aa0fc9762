"""Erasure: what was said in a session is gone for good, and everything else is as it was."""

import asyncio
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from facts import said, told
from handed_out import HandedOut
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore import (
    EventStore,
    InvalidEvent,
    Keyring,
    KeyShredded,
    LegalHold,
    Recorded,
    SessionExists,
    SessionNotFound,
    StoreUnavailable,
)
from eventstore.audit.verify import verify
from eventstore.engine.requests import Part
from eventstore.log.base import Append
from projections import BranchTree, SessionState, Statistics, Views

WORD, OTHER = "zebrafish", "goldfish"


def say(store: EventStore, session: str, *texts: str) -> None:
    """Append lines to a session."""
    store.append(session, [{"role": "user", "content": text} for text in texts])


def shown(store: EventStore, session: str, **moment: int) -> list[str]:
    """Return what a session shows."""
    return [message.content for message in SessionState.of(store, session, **moment).messages]


def tell(store: EventStore) -> None:
    """Use every command on `doomed`, whose branch and merge target show lines of it."""
    store.create("doomed", user=WORD, metadata={"w": WORD}, context={"w": WORD}, template=WORD)
    for number in range(30):
        say(store, "doomed", f"{WORD} {number}")
    store.append("doomed", [{"role": "assistant", "content": WORD, "id": WORD}] * 3, key=f"k{WORD}")
    store.update_metadata("doomed", {"more": WORD})
    store.set_context("doomed", "more", WORD)
    store.record_tool_call("doomed", WORD, WORD, WORD, error=WORD)
    store.record_error("doomed", WORD, WORD, WORD)
    store.record("doomed", WORD, WORD)
    store.prune("doomed", keep_last=20, reason=WORD)
    store.summarize("doomed", WORD, upto=20)
    store.branch("doomed", "child", at=25, name="a try")
    say(store, "child", OTHER)
    store.create("target")
    say(store, "target", OTHER)
    store.merge("doomed", into="target")
    store.create("bystander", user="u1", metadata={"w": OTHER})
    say(store, "bystander", OTHER, OTHER)
    store.branch("bystander", "twig")
    store.merge("twig", into="doomed", strategy="squash", summary=WORD, on_conflict="ours")
    store.rewind("doomed", 12)
    store.close("doomed", reason=WORD)
    store.delete("doomed", reason=WORD)


@pytest.fixture(scope="module")
def told_place(tmp_path_factory) -> Path:
    """Give a place with an encrypted store with that history, and its keyring; to be copied."""
    place = tmp_path_factory.mktemp("told")
    with EventStore.open(place / "history", keyring=Keyring.file(place / "keyring")) as store:
        tell(store)
    return place


@pytest.fixture
def copied(told_place: Path, tmp_path: Path) -> Path:
    """Give a copy of them."""
    shutil.copytree(told_place, tmp_path, dirs_exist_ok=True)
    return tmp_path / "history"


@pytest.fixture
def told_store(copied: Path, keyring: Keyring):
    """Give a copy of that store, open."""
    with EventStore.open(copied, keyring=keyring) as store:
        yield store


def test_everything_is_gone(told_store, tmp_path):
    """State, past states, payloads and caches are gone; heads, places and the reason stay."""
    views = Views(told_store)
    views.statistics()
    heads = [_head(each) for each in told_store.events("doomed")]
    receipt = told_store.erase("doomed", reason="asked for", cascade=True, actor="user:7")
    for moment in ({}, {"at_version": 0}, {"at_version": 5}, {"at_position": 8}):
        with pytest.raises(KeyShredded) as error:
            SessionState.of(told_store, "doomed", **moment)
        assert error.value.session == "doomed"
    facts = list(told_store.events("doomed"))
    assert [_head(each) for each in facts[:-2]] == heads
    for recorded in facts[:-2]:
        assert recorded.erased
        assert WORD not in str(recorded.structure)
        with pytest.raises(KeyShredded):
            _ = recorded.event
    asked, done = (each.event for each in facts[-2:])
    assert (asked.reason, done.reason, asked.keys) == ("asked for", "asked for", done.keys)
    assert (facts[-2].position, facts[-2].actor) == (receipt.position, "user:7")
    assert told(verify(told_store, deep=True)) == ""


def _head(recorded: Recorded) -> tuple[object, ...]:
    return (
        *(recorded.position, recorded.version, recorded.type, recorded.size, recorded.tokens),
        *(recorded.role, recorded.recorded_at, recorded.actor, recorded.key),
    )


def test_every_command_on_it_is_refused(told_store):
    """An erased session takes no command any more, and its name stays taken."""
    told_store.erase("doomed", reason="asked for", cascade=True)
    size = told_store.head().size
    for command in (
        lambda: say(told_store, "doomed", "x"),
        lambda: told_store.branch("doomed", "new"),
        lambda: told_store.merge("doomed", into="target"),
        lambda: told_store.merge("target", into="doomed"),
        lambda: told_store.rewind("doomed", 1),
        lambda: told_store.reopen("doomed"),
        lambda: told_store.redact("doomed", 1),
        lambda: told_store.set_hold("doomed"),
    ):
        with pytest.raises(KeyShredded):
            command()
    with pytest.raises(SessionExists):
        told_store.create("doomed")
    assert told_store.head().size == size


def test_a_key_still_answers(told_store):
    """A command that is repeated with its idempotency key gets its receipt, erased or not."""
    lines = [{"role": "assistant", "content": WORD, "id": WORD}] * 3
    before = told_store.append("doomed", lines, key=f"k{WORD}")
    told_store.erase("doomed", reason="asked for", cascade=True)
    assert told_store.append("doomed", lines, key=f"k{WORD}") == before


def test_the_others_lose_exactly_its_lines(told_store):
    """Branches and merge targets stay and lose what they showed of it, in the past too; no more."""
    before = {s: told_store.headers.now(s) for s in ("child", "target", "bystander", "twig")}
    told_store.erase("doomed", reason="asked for", cascade=True)
    assert shown(told_store, "child") == [OTHER]
    assert shown(told_store, "child", at_version=0) == []
    assert shown(told_store, "target") == [OTHER]
    assert shown(told_store, "bystander") == [OTHER, OTHER]
    for session, header in before.items():
        now = told_store.headers.now(session)
        assert now.tokens == sum(
            told_store.count_tokens(message.to_dict())
            for message in SessionState.of(told_store, session).messages
        )
        told_so = session == "target"  # that what the merge brought is gone is a fact there
        assert (now.status, now.version, now.appended) == (
            *(header.status, header.version + told_so, header.appended),
        )
    assert told_store.headers.now("child").metadata == {}
    say(told_store, "child", "more")
    told_store.branch("child", "grandchild")
    assert shown(told_store, "grandchild") == [OTHER, "more"]
    assert told(verify(told_store, deep=True)) == ""


def test_bystanders_do_not_change(told_store):
    """Statistics, trees, rows and states of other sessions are what they were."""
    views = Views(told_store)

    def seen() -> object:
        rows = [row for row in views.sessions(order="session").rows if row.session in others]
        return (
            [Statistics.of(told_store, each).to_dict() for each in sorted(others)],
            [str(views.tree(each)) for each in sorted(others)],
            [each.to_dict() for each in rows],
            [told_store.headers.now(each) for each in sorted(others)],
        )

    others = {"bystander", "twig"}
    before = seen()
    told_store.erase("doomed", reason="asked for", cascade=True)
    assert seen() == before
    assert views.statistics() == Statistics.of(told_store)
    assert views.statistics().erased == 1
    assert views.tree("child") == BranchTree.of(told_store, "child")
    assert [row.session for row in views.sessions(status=["erased"]).rows] == ["doomed"]


def test_dependents_are_named_first(told_store):
    """Without cascade an erasure that others would feel is refused, with each and its count."""
    size = told_store.head().size
    with pytest.raises(InvalidEvent) as error:
        told_store.erase("doomed", reason="asked for")
    lines = {s: told_store.headers.now(s).messages - 1 for s in ("child", "target")}
    for session, count in lines.items():
        assert f"'{session}' (shows {count} of its messages)" in str(error.value)
    assert "bystander" not in str(error.value)
    assert told_store.head().size == size
    told_store.erase("doomed", reason="asked for", cascade=True)
    fact = next(each.event for each in told_store.events("doomed") if not each.erased)
    assert fact.dependents == sorted(lines.items())


def test_what_a_merge_brought_goes_too(sealed):
    """Values and summaries that another session took from it are redacted there, and its held."""
    sealed.create("a", metadata={"w": WORD})
    say(sealed, "a", WORD)
    for into in ("b", "c"):
        sealed.create(into, metadata={"own": OTHER})
        say(sealed, into, OTHER)
    sealed.merge("a", into="b", strategy="squash", summary=WORD)
    sealed.merge("a", into="c")
    sealed.prune("c", keep_last=1)
    sealed.branch("c", "d")
    with pytest.raises(InvalidEvent, match=r"'b' \(shows 0.*'c' \(shows 1.*'d' \(shows 1"):
        sealed.erase("a", reason="asked for")
    sealed.set_hold("b")
    with pytest.raises(LegalHold) as error:
        sealed.erase("a", reason="asked for", cascade=True)
    assert error.value.session == "b"
    sealed.clear_hold("b")
    sealed.erase("a", reason="asked for", cascade=True)
    for session in ("b", "c", "d"):
        for version in range(sealed.version(session) + 1):
            state = SessionState.of(sealed, session, at_version=version)
            assert WORD not in str((state.header, shown(sealed, session, at_version=version)))
        assert SessionState.of(sealed, session).metadata == {"own": OTHER}
    told_why = [each.event for each in sealed.events("b") if each.type == "Redacted"]
    assert [(fact.version, fact.reason) for fact in told_why] == [(2, "asked for")]
    assert sealed.erase("a", reason="again").duplicate
    assert told(verify(sealed, deep=True)) == ""


def test_a_branch_that_shows_nothing_is_named_too(sealed):
    """A branch inherits values even where it shows no line, so it depends on its parent."""
    sealed.create("a", metadata={"w": WORD})
    sealed.branch("a", "b")
    sealed.branch("b", "c")
    with pytest.raises(InvalidEvent, match=r"'b'.*'c'"):
        sealed.erase("a", reason="asked for")
    sealed.erase("c", reason="asked for")
    sealed.erase("b", reason="asked for")
    sealed.erase("a", reason="asked for")
    assert told(verify(sealed, deep=True)) == ""


def test_a_leaf_goes_without_cascade(told_store):
    """A branch and a merge target that nobody depends on are erased alone; the source stays."""
    told_store.erase("target", reason="asked for")
    told_store.erase("child", reason="asked for")
    assert shown(told_store, "doomed", at_version=3) == [f"{WORD} {n}" for n in range(3)]
    assert told(verify(told_store, deep=True)) == ""


def test_every_proof_still_verifies(told_store, tmp_path):
    """Proofs made before hold for the standalone verifier, and the store still makes the same."""
    proofs = HandedOut(told_store, tmp_path, "doomed")
    told_store.erase("doomed", reason="asked for", cascade=True)
    proofs.check()


def test_a_second_erasure_is_none(told_store):
    """Doing it again gives the first receipt, whatever the reason, and adds nothing."""
    receipt = told_store.erase("doomed", reason="asked for", cascade=True)
    size, epoch = told_store.head().size, told_store.log.erasures()
    second = told_store.erase("doomed", reason="asked again")
    assert second.duplicate
    assert (second.position, second.version) == (receipt.position, receipt.version)
    assert (told_store.head().size, told_store.log.erasures()) == (size, epoch)


def test_async_is_the_same(told_store):
    """`store.aio.erase` runs the same procedure to its end."""
    asyncio.run(told_store.aio.erase("doomed", reason="asked for", cascade=True))
    assert told_store.log.erasing() == []
    with pytest.raises(KeyShredded):
        SessionState.of(told_store, "doomed")


def test_two_at_once_erase_once(told_store):
    """Threads that erase the same session all get the receipt of one erasure."""
    receipts = []

    def erase() -> None:
        receipts.append(told_store.erase("doomed", reason="asked for", cascade=True))

    threads = [threading.Thread(target=erase) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({receipt.position for receipt in receipts}) == 1
    assert sum(not receipt.duplicate for receipt in receipts) == 1
    types = [each.type for each in told_store.events("doomed")]
    assert types.count("EraseRequested") == types.count("KeyShredded") == 1


def test_only_an_encrypted_store_can_erase(store):
    """A plain store says that it can't: its free pages and backups would keep what was written."""
    store.create("s")
    with pytest.raises(InvalidEvent, match="encrypted"):
        store.erase("s", reason="asked for")


def test_wrong_requests(sealed):
    """An erasure needs a session that is there, and a reason."""
    with pytest.raises(SessionNotFound):
        sealed.erase("nowhere", reason="asked for")
    sealed.create("s")
    with pytest.raises(InvalidEvent):
        sealed.erase("s", reason="")


def test_a_redacted_session_can_be_erased(sealed):
    """What a redaction left, and what it could not take, goes with the session."""
    sealed.create("a", metadata={"w": WORD})
    say(sealed, "a", WORD, "two")
    sealed.branch("a", "b")
    sealed.update_metadata("b", {"more": WORD})
    sealed.create("c")
    sealed.merge("b", into="c", strategy="squash", summary=WORD)
    sealed.redact("a", 1)
    sealed.redact("c", "c#1")
    sealed.erase("c", reason="asked for")
    merged = next(sealed.events("c", 1)).structure
    assert merged.metadata == {}
    assert shown(sealed, "a") == ["two"]
    assert told(verify(sealed, deep=True)) == ""


def test_without_its_keyring_nothing_is_erased(told_store, tmp_path):
    """A store opened without its keyring refuses, and shows an erased session's heads as before."""
    told_store.erase("doomed", reason="asked for", cascade=True)
    told_store.close()
    with EventStore.open(tmp_path / "history") as store:
        for session in store.sessions():
            with pytest.raises(StoreUnavailable):
                store.erase(session, reason="asked for")
        types = [each.type for each in store.all()]
        assert types.count("EraseRequested") == types.count("KeyShredded") == 1
        assert told(verify(store, deep=True)) == ""


# -- crashes and other processes -----------------------------------------------------------

KILLED = """
import os, signal, sys
from eventstore import EventStore, Keyring, keyring
from eventstore.engine import erasure
from eventstore.log.lmdb import LmdbLog
place, keys, step = sys.argv[1:]
erasure.PAGE_FRAMES = 4
count = 0

def dying(function, at, *, after):
    def wrapped(*args, **options):
        global count
        count += 1
        if count == at and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **options)
        if count == at and after:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return wrapped

store = EventStore.open(place, keyring=Keyring.file(keys))
vault = store.log.codec.seal.vault
match step:
    case "before the first page": LmdbLog.shred = dying(LmdbLog.shred, 1, after=False)
    case "between two pages": LmdbLog.shred = dying(LmdbLog.shred, 3, after=True)
    case "before the key": type(vault).shred = dying(type(vault).shred, 1, after=False)
    case "after the key": type(vault).shred = dying(type(vault).shred, 1, after=True)
store.erase("doomed", reason="asked for", cascade=True)
"""


def run(program: str, *arguments: object) -> int:
    """Run a program in a process of its own and return its exit code."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, check=False).returncode


@pytest.mark.parametrize(
    "step", ["before the first page", "between two pages", "before the key", "after the key"]
)
def test_a_killed_erasure_is_completed(tmp_path, copied, keyring, step):
    """Killed at any step, an erasure is over once the store is open again: same facts, all gone."""
    place = copied
    assert run(KILLED, place, tmp_path / "keyring", step) == -9
    with EventStore.open(place, read_only=True, keyring=keyring) as store:
        assert store.log.erasing() == ["doomed"]
        with pytest.raises(KeyShredded):
            SessionState.of(store, "doomed")
    with EventStore.open(place, keyring=keyring) as store:
        assert store.log.erasing() == []
        facts = list(store.events("doomed"))
        assert [each.type for each in facts[-2:]] == ["EraseRequested", "KeyShredded"]
        assert [each.erased for each in facts] == [True] * (len(facts) - 2) + [False] * 2
        assert shown(store, "child") == [OTHER]
        assert store.log.codec.seal.vault.commitment(facts[-1].event.keys[0]) is None
        assert store.erase("doomed", reason="asked for").duplicate
        assert told(verify(store, deep=True)) == ""


ERASE = """
import sys
from eventstore import EventStore, Keyring
with EventStore.open(sys.argv[1], keyring=Keyring.file(sys.argv[2])) as store:
    store.erase("doomed", reason="asked for", cascade=True)
"""


def test_an_opening_that_cannot_complete_an_erasure_lets_go(tmp_path):
    """Where the root key fails half-way the store is not opened, and nothing of it stays open."""
    asked = iter([True, False, True, False])

    def root() -> bytes:
        if not next(asked, True):
            raise OSError
        return bytes(32)

    keyring, place = Keyring.of(root, tmp_path / "secure" / "keyring"), tmp_path / "store"
    EventStore.open(place, keyring=Keyring.of(lambda: bytes(32), keyring.path)).close()
    with EventStore.open(place, keyring=keyring) as store:
        store.create("a")
        with pytest.raises(StoreUnavailable, match="raised OSError"):
            store.erase("a", reason="asked")
    with pytest.raises(StoreUnavailable, match="raised OSError"):
        EventStore.open(place, keyring=keyring)
    assert not list((place / "open").iterdir())
    with EventStore.open(place, keyring=keyring) as store:
        assert [each.type for each in store.events("a")][1:] == ["EraseRequested", "KeyShredded"]


def test_other_processes_notice(told_store, tmp_path):
    """A process that has states, frames and keys at hand loses them when another one erases."""
    views = Views(told_store)
    assert len(shown(told_store, "child")) > 1
    assert WORD in str(told_store.headers.now("doomed").metadata)
    views.sessions()
    assert run(ERASE, tmp_path / "history", tmp_path / "keyring") == 0
    assert shown(told_store, "child") == [OTHER]
    with pytest.raises(KeyShredded):
        SessionState.of(told_store, "doomed", at_version=3)
    with pytest.raises(KeyShredded):
        say(told_store, "doomed", "x")
    assert all(each.erased for each in told_store.events("doomed", 0, 20))
    rows = {row.session: row.messages for row in views.sessions().rows}
    assert (rows["child"], rows["target"]) == (1, 1)


def test_a_line_of_another_process_comes_too_late(tmp_path, keyring):
    """What was decided before an erasure and arrives after it is refused, and written nowhere."""
    with EventStore.open(tmp_path / "history", keyring=keyring) as store:
        store.create("doomed")
        drafts, expected, _ = store.engine.encoder.drafted([Part("doomed", [said(WORD)])])
        store.erase("doomed", reason="asked for")
        outcome = store.log.commit([Append(drafts, expected)], 1)[0]
        assert isinstance(outcome, KeyShredded)


# -- any history ---------------------------------------------------------------------------

KINDS = st.sampled_from(["say", "branch", "merge", "prune", "erase"])
STEPS = st.lists(st.tuples(KINDS, st.integers(0, 9), st.integers(0, 9)), max_size=25)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_visible_lines_are_those_of_no_erased_session(tmp_path, steps):
    """Whatever was branched, merged and pruned: a list loses the lines of the erased, no others."""
    shutil.rmtree(tmp_path / "h", ignore_errors=True)
    shutil.rmtree(tmp_path / "k.keys", ignore_errors=True)
    (tmp_path / "k").unlink(missing_ok=True)
    with EventStore.open(tmp_path / "h", keyring=Keyring.file(tmp_path / "k")) as store:
        alive, gone, lines = ["s0"], set(), {"s0": []}
        store.create("s0")
        for number, (step, a, b) in enumerate(steps):
            one, two = alive[a % len(alive)], alive[b % len(alive)]
            new = f"s{number + 1}"
            if step == "say":
                say(store, one, f"{one}:{number}")
                lines[one].append((one, f"{one}:{number}"))
            elif step == "branch" and len(lines) < 8:
                store.branch(one, new)
                lines[new] = list(lines[one])
                alive.append(new)
            elif step == "merge" and one != two:
                store.merge(one, into=two, strategy="append")
                lines[two] = [(text.split(":")[0], text) for text in shown(store, two)]
            elif step == "prune":
                store.prune(one, keep_last=b)
                lines[one] = lines[one][max(len(lines[one]) - b, 0) :]
            elif step == "erase" and len(alive) > 1:
                store.erase(one, reason="asked for", cascade=True)
                alive.remove(one)
                gone.add(one)
                lines = {s: [each for each in told if each[0] != one] for s, told in lines.items()}
            for session in alive:
                assert shown(store, session) == [text for _, text in lines[session]]
        assert told(verify(store, deep=True)) == ""
