"""Older copies: what was erased or redacted after a copy was made goes from the copy as well."""

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from facts import told

from eventstore import EventStore, InvalidEvent, Keyring, KeyShredded, StoreUnavailable
from eventstore.audit.proof import Prover
from eventstore.audit.verify import verify, verify_directory
from eventstore.care.backup import Moment, backup, restore
from eventstore.care.repair import repair
from eventstore.engine import origins
from eventstore.engine.origins import REASON_LOST
from eventstore.engine.requests import Part, request
from eventstore.engine.system import ORIGIN
from eventstore.events import Redacted
from eventstore.ids import SYSTEM
from eventstore.interchange import export_events
from eventstore.log.shredding import Shred
from eventstore.place.directory import LOG
from eventstore.sessions import SessionManager
from projections import BranchTree, SessionState, Statistics, Views

WORD, OTHER = "zebrafish", "goldfish"


def say(store: EventStore, session: str, *texts: str) -> None:
    """Append lines to a session."""
    store.append(session, [{"role": "user", "content": text} for text in texts])


def shown(store: EventStore, session: str) -> list[str]:
    """Return what a session shows."""
    return [message.content for message in SessionState.of(store, session).messages]


def tell(store: EventStore) -> None:
    """Make a session with every fact that has structure, and others that depend on it."""
    store.create("x")
    say(store, "x", "of x")
    store.create("doomed", metadata={"w": WORD})
    say(store, "doomed", WORD, WORD, WORD)
    store.merge("x", into="doomed", strategy="interleave")
    store.prune("doomed", keep_last=3)
    store.summarize("doomed", WORD, upto=1)
    store.rewind("doomed", 4)
    store.branch("doomed", "child")
    say(store, "child", OTHER)
    store.branch("child", "grandchild")
    store.create("target")
    say(store, "target", OTHER)
    store.merge("doomed", into="target")
    store.record("doomed", "noted", WORD)
    store.close("doomed")


@pytest.fixture
def set_back(tmp_path: Path, keyring: Keyring) -> Path:
    """Give a store that was restored from a backup of before an erasure."""
    with EventStore.open(tmp_path / "history", keyring=keyring) as store:
        tell(store)
        backup(store, tmp_path / "before")
        store.erase("doomed", reason="asked for", cascade=True)
        backup(store, tmp_path / "after")
    restore(tmp_path / "before", tmp_path / "restored")
    return tmp_path / "restored"


def check_forgotten(store: EventStore, passed_on: list[str]) -> None:
    """Hold a store to it that the session is erased, and all others are whole and usable.

    `passed_on` is what its branch has of a third session through it.
    """
    assert store.headers.now("doomed").status == "erased"
    facts = list(store.events("doomed"))
    assert [each.type for each in facts[-2:]] == ["EraseRequested", "KeyShredded"]
    assert all(each.erased for each in facts[:-2])
    texts = {"x": ["of x"], "child": [*passed_on, OTHER], "target": ["of x", OTHER]}
    texts["grandchild"] = texts["child"]
    for session, visible in texts.items():
        assert sorted(shown(store, session), reverse=True) == visible
        assert WORD not in str(store.headers.now(session))
    rows = {row.session: row.messages for row in Views(store).sessions().rows}
    assert rows == {session: len(visible) for session, visible in texts.items()}
    assert Views(store).statistics().erased == 1
    with SessionManager(store) as manager:
        assert len(manager.list()) == 4
        assert manager.search(WORD) == []
    say(store, "child", "more")
    store.erase("grandchild", reason="asked for")
    assert told(verify(store, deep=True)) == ""


def test_a_restored_store_erases_again(set_back, keyring):
    """The first opening erases what the keyring destroyed since: nothing else is disturbed."""
    with EventStore.open(set_back, keyring=keyring) as store:
        assert next(store.events("doomed", reverse=True)).event.reason.startswith("erased before")
        check_forgotten(store, [])  # which lines came through it, only it knew
        assert store.erase("doomed", reason="asked for").duplicate
        size = store.head().size
    with EventStore.open(set_back, keyring=keyring) as store:
        assert store.head().size == size


def test_a_branch_that_is_erased_again_still_counts(tmp_path, keyring):
    """Statistics of such a copy count a branch, too, that nobody can read any more."""
    with EventStore.open(tmp_path / "history", keyring=keyring) as store:
        store.create("root")
        store.branch("root", "doomed")
        backup(store, tmp_path / "before")
        store.erase("doomed", reason="asked for")
    restore(tmp_path / "before", tmp_path / "restored")
    with EventStore.open(tmp_path / "restored", keyring=keyring) as store:
        counted = Views(store).statistics()
    assert (counted.sessions, counted.branches) == (2, 1)
    assert (counted.active, counted.erased) == (1, 1)


def test_until_then_it_can_not_be_read(set_back, keyring):
    """Opened to read only, the copy changes nothing and gives nothing away; verify says why."""
    with EventStore.open(set_back, keyring=keyring, read_only=True) as store:
        assert shown(store, "x") == ["of x"]
        for recorded in store.events("doomed"):
            with pytest.raises(KeyShredded):
                _ = recorded.event
        with pytest.raises(KeyShredded):
            SessionState.of(store, "doomed")
        assert "erased since this copy was made" in told(verify(store))


def told_by(store: EventStore) -> dict[str, object]:
    """Return what a store tells of all sessions that can be read: lists, states, words."""
    found: dict[str, object] = {}
    for row in Views(store).sessions(limit=None):
        for version in range(store.version(row.session) + 1):
            state = SessionState.of(store, row.session, at_version=version)
            lines = [message.to_dict() for message in state.messages]
            values = state.metadata, state.context, state.user, state.tokens, state.status
            found[f"{row.session}#{version}"] = lines, values
        found[row.session] = row.messages, row.tokens, row.metadata
    return found


def test_read_only_it_tells_what_it_would_after_erasing_again(set_back, keyring):
    """Opened to read only, lists, searches and states leave out just what the others lose."""
    with EventStore.open(set_back, keyring=keyring, read_only=True) as store:
        size, facts = store.head(), [each.erased for each in store.events("doomed")]
        seen, tree = told_by(store), BranchTree.of(store, "doomed")
        assert Statistics.of(store) == Views(store).statistics()
        with SessionManager(store) as manager:
            assert len(manager.list()) == 4
            assert manager.search(WORD) == [] and len(manager.search(OTHER)) > 0
        assert WORD not in str([each.structure for each in store.all()])
        with pytest.raises(InvalidEvent, match="redacted or erased"):
            list(export_events(store))
        with pytest.raises(KeyShredded):
            SessionState.of(store, "doomed", at_version=2)
        assert all(facts) and store.head() == size
        assert "erased since this copy was made" in told(verify(store))
        assert "is lost" not in told(verify(store, deep=True))
    with EventStore.open(set_back, keyring=keyring) as store:
        after = told_by(store)
        assert {place: after[place] for place in seen} == seen
        assert BranchTree.of(store, "doomed").nodes.keys() == tree.nodes.keys()


DYING = """
import os, signal, sys
from eventstore import EventStore, Keyring
from eventstore.log.lmdb import LmdbLog
LmdbLog.shred = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
EventStore.open(sys.argv[1], keyring=Keyring.file(sys.argv[2]))
"""


def test_killed_while_it_erases_again(set_back, keyring):
    """Killed in the midst of it, the next opening goes on."""
    command = [sys.executable, "-c", DYING, str(set_back), str(keyring.path)]
    assert subprocess.run(command, check=False).returncode == -9
    with EventStore.open(set_back, keyring=keyring) as store:
        check_forgotten(store, [])


@pytest.mark.parametrize("back", [0, 1, 2, 5])
def test_a_moment_before_an_erasure(set_back, tmp_path, keyring, back):
    """A backup of after it, restored to a moment before, during or behind, has it erased too."""
    with EventStore.open(tmp_path / "history", keyring=keyring) as store:
        last = store.head().size - 1 - back
    restore(tmp_path / "after", tmp_path / "then", moment=Moment(last))
    with EventStore.open(tmp_path / "then", keyring=keyring) as store:
        check_forgotten(store, ["of x"])
        redacted = [each.session for each in store.all() if each.type == "Redacted"]
        assert redacted == ["target"]  # for what a merge took there, once


def test_a_new_session_of_the_same_name_stays(tmp_path, keyring):
    """In a copy from before the erased session was made, its name is free and is not erased."""
    with EventStore.open(tmp_path / "history", keyring=keyring) as store:
        store.create("x")
        backup(store, tmp_path / "before")
        store.create("doomed")
        store.erase("doomed", reason="asked for")
    restore(tmp_path / "before", tmp_path / "restored")
    for _ in range(2):
        with EventStore.open(tmp_path / "restored", keyring=keyring) as store:
            if not store.exists("doomed"):
                store.create("doomed", metadata={"w": OTHER})
            assert store.headers.now("doomed").metadata == {"w": OTHER}
            assert told(verify(store, deep=True)) == ""


def test_a_lost_key_erases_nothing(tmp_path, keyring):
    """A key that is missing but was not destroyed is lost: its payloads stay for its return."""
    place, older = tmp_path / "history", tmp_path / "older"
    with EventStore.open(place, keyring=keyring) as store:
        store.create("known")
    older.mkdir()
    shutil.copy(keyring.path, older)
    shutil.copytree(keyring.directory, older / keyring.directory.name)
    with EventStore.open(place, keyring=keyring) as store:
        store.create("new", metadata={"w": WORD})
    content = (place / LOG / "data.mdb").read_bytes()
    with EventStore.open(place, keyring=Keyring.file(older / keyring.path.name)) as store:
        for command in (partial(SessionState.of, store), partial(store.erase, reason="asked for")):
            with pytest.raises(KeyShredded, match="older copy, lacks their key; use a newer one"):
                command("new")
        assert "it is lost" in told(verify(store))
    assert (place / LOG / "data.mdb").read_bytes() == content
    with EventStore.open(place, keyring=keyring) as store:
        assert SessionState.of(store, "new").metadata == {"w": WORD}


def test_an_increment_keeps_nothing_that_was_destroyed(tmp_path, keyring):
    """Nothing is added to a backup that still has what was erased: a new one has to be made."""
    with EventStore.open(tmp_path / "history", keyring=keyring) as store:
        tell(store)
        backup(store, tmp_path / "backup")
        say(store, "x", OTHER)
        backup(store, tmp_path / "backup", incremental=True)
        store.erase("doomed", reason="asked for", cascade=True)
        with pytest.raises(StoreUnavailable, match="payloads were destroyed since"):
            backup(store, tmp_path / "backup", incremental=True)


# -- redaction -------------------------------------------------------------------------------


@pytest.fixture(params=["plain", "encrypted"])
def ring(request: pytest.FixtureRequest, keyring: Keyring) -> Keyring | None:
    """Give a keyring, and none."""
    return keyring if request.param == "encrypted" else None


def redacted_later(place: Path, ring: Keyring | None) -> int:
    """Make a store and a backup of it; return its last position before most of its redactions."""
    with EventStore.open(place / "history", keyring=ring) as store:
        store.create("s")
        say(store, "s", "one", WORD, WORD, "four")
        store.redact("s", 2, reason="of before")
        store.create("t")
        say(store, "t", "five", "six")
        store.summarize("t", WORD, upto=1)
        store.create("into")
        store.merge("t", into="into", strategy="squash", summary=WORD)
        store.create("whole")
        say(store, "whole", "seven")
        then = store.head().size - 1
        store.redact("s", 3)
        say(store, "s", WORD)
        store.redact("s", 7)  # which the copy never has
        store.redact("s", 1)
        store.redact("t", 3)
        store.redact("into", 1)
        backup(store, place / "backup")
    return then


def reasons(store: EventStore) -> list[tuple[int, str, int, str]]:
    """Return position, session, version and reason of each redaction."""
    facts = [each for each in store.all() if each.type == "Redacted"]
    return [(f.position, f.session, f.event.version, f.event.reason) for f in facts]


def check_said_again(store: EventStore, then: int) -> None:
    """Hold a copy of then to it that it says why each payload is gone, after its origin, once."""
    own, *again = reasons(store)
    assert own[1:] == ("s", 2, "of before")
    origin = next(e for e in store.events(SYSTEM) if e.type == "Custom" and e.event.name == ORIGIN)
    assert origin.position in (then + 1, then + 2)  # the system stream may have to be made first
    assert again == [
        (origin.position + 1 + number, session, version, REASON_LOST)
        for number, (session, version) in enumerate([("s", 1), ("s", 3), ("t", 3), ("into", 1)])
    ]
    assert store.head().size == again[-1][0] + 1
    assert told(verify(store, deep=True)) == ""


def test_a_moment_before_a_redaction(tmp_path, ring):
    """Restored to before them, lines, summaries and merges that are gone are said to be, once.

    Read-only nothing is recorded, and `verify` names them.
    """
    then = redacted_later(tmp_path, ring)
    head = restore(tmp_path / "backup", tmp_path / "then", moment=Moment(then))
    with EventStore.open(tmp_path / "then", keyring=ring, read_only=True) as store:
        assert store.head() == head
        assert "no fact says why" in told(verify(store, deep=True))
    for _ in range(2):
        with EventStore.open(tmp_path / "then", keyring=ring) as store:
            check_said_again(store, then)
            assert Prover.of(store.log).root(then + 1) == head.root
            assert shown(store, "s") == ["four"]
            for position, session, version, _ in reasons(store):
                again = store.redact(session, version, reason="asked for")
                assert again.duplicate
                first = again.position - (again.version - again.first_version)
                assert first <= position <= again.position
            check_said_again(store, then)


CUT_SHORT = """
import os, signal, sys
from eventstore import EventStore, Keyring
from eventstore.log.lmdb import LmdbLog
group = LmdbLog.group
def dying(log, work):
    if sys.argv[1] == "after":
        group(log, work)
    os.kill(os.getpid(), signal.SIGKILL)
LmdbLog.group = dying
EventStore.open(sys.argv[2], keyring=Keyring.file(sys.argv[3]) if sys.argv[3:] else None)
"""


@pytest.mark.parametrize("killed", ["before", "after"])
def test_killed_while_it_says_so_again(tmp_path, ring, killed):
    """Killed around the commit of it, the origin and all reasons are there, or none, then once."""
    then = redacted_later(tmp_path, ring)
    head = restore(tmp_path / "backup", tmp_path / "then", moment=Moment(then))
    given = [killed, str(tmp_path / "then"), *([str(ring.path)] if ring else [])]
    assert subprocess.run([sys.executable, "-c", CUT_SHORT, *given], check=False).returncode == -9
    with EventStore.open(tmp_path / "then", keyring=ring, read_only=True) as store:
        if killed == "after":
            check_said_again(store, then)
        else:
            assert store.head() == head
    with EventStore.open(tmp_path / "then", keyring=ring) as store:
        check_said_again(store, then)


def test_a_copy_of_an_unopened_copy_says_so_too(tmp_path):
    """Restored once more before it was opened, whole or further back, a copy says what is gone."""
    then = redacted_later(tmp_path, None)
    restore(tmp_path / "backup", tmp_path / "one", moment=Moment(then))
    restore(tmp_path / "one", tmp_path / "two")
    restore(tmp_path / "two", tmp_path / "three", moment=Moment(then - 1))
    with EventStore.open(tmp_path / "two") as store:
        check_said_again(store, then)
        size = store.head().size
    with EventStore.open(tmp_path / "three") as store:
        assert told(verify(store, deep=True)) == ""
    restore(tmp_path / "two", tmp_path / "four", moment=Moment(then + 1))
    with EventStore.open(tmp_path / "four", read_only=True) as store:
        assert store.head().size == size  # all of that was one append
        check_said_again(store, then)


def test_more_than_a_frame_takes(tmp_path):
    """However many redactions came later, all are said again: a frame's count has 16 bits."""
    with EventStore.open(tmp_path / "history", durability="buffered") as store:
        store.create("s")
        for _ in range(3):
            say(store, "s", *["x"] * 5_000)
        then = store.head().size - 1
        for start in (1, 7_501):
            facts = [Redacted(version) for version in range(start, start + 7_500)]
            part = Part("s", facts, shreds=(Shred("s", start, start + 7_499),))
            store.engine.run(request([], [], lambda _, part=part: [part], {}, reads_state=True))
        backup(store, tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "then", moment=Moment(then))
    with EventStore.open(tmp_path / "then") as store:
        assert [each[2] for each in reasons(store)] == list(range(1, 15_001))
        assert told(verify(store, deep=True)) == ""


def test_a_copy_hides_no_tampering(tmp_path):
    """A payload that is gone from a backup without a fact is still named in a copy, cut or whole.

    Nothing is recorded by opening one, nor where all facts came along or nothing was destroyed.
    """
    with EventStore.open(tmp_path / "history") as store:
        store.create("s")
        say(store, "s", "one", WORD)
        store.redact("s", 1)
        backup(store, tmp_path / "before")
        store.log.shred(Shred("s", 2, 2))
        backup(store, tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "whole")
    restore(tmp_path / "backup", tmp_path / "cut", moment=Moment(2))
    restore(tmp_path / "before", tmp_path / "sound")
    with EventStore.open(tmp_path / "new") as store:
        store.create("s")
        say(store, "s", "one", WORD)
        backup(store, tmp_path / "unharmed")
    restore(tmp_path / "unharmed", tmp_path / "then", moment=Moment(0))
    copies = [("whole", 4, True), ("cut", 3, True), ("sound", 4, False), ("then", 1, False)]
    for name, size, named in copies:
        with EventStore.open(tmp_path / name) as store:
            assert store.head().size == size
            assert ("no fact says why" in told(verify(store, deep=True))) is named
            store.create("next")
            assert ("no fact says why" in told(verify(store, deep=True))) is named


def test_the_log_is_looked_at_once(tmp_path, monkeypatch):
    """Only the first opening of a copy of the past looks through the log for what is gone."""
    looked = []
    monkeypatch.setattr(origins, "unexplained", lambda log: looked.append(log) or {})
    then = redacted_later(tmp_path, None)
    restore(tmp_path / "backup", tmp_path / "then", moment=Moment(then))
    restore(tmp_path / "backup", tmp_path / "whole")
    for name in ("history", "whole", "then", "then"):
        with EventStore.open(tmp_path / name) as store:
            store.create("next", key="next")
    assert [log.store for log in looked] == [store.id]


def test_repair_brings_no_redacted_message_back(tmp_path):
    """Where the newest page is damaged, an older one may have the payload: it is redacted again."""
    place = tmp_path / "history"
    with EventStore.open(place, compression="none") as store:
        store.create("s")
        say(store, "s", "one")
        say(store, "s", WORD)
        for _ in range(9):  # so that the fact that redacts it stands in another page
            say(store, "s", "x" * 900)
        old = (place / LOG / "data.mdb").read_bytes()
        store.redact("s", 2)
        frame = store.log.read_all(2)[0].raw
    file = place / LOG / "data.mdb"
    content = bytearray(file.read_bytes())
    at = content.find(frame)
    assert at > 0 and WORD.encode() in old
    page = at // 4096 * 4096
    content[page : page + 4096] = bytes(4096)
    if WORD.encode() not in content:  # the older page was used again: put it at the end
        content += old
    file.write_bytes(content)
    repair(place, tmp_path / "repaired")
    with EventStore.open(tmp_path / "repaired") as store:
        assert WORD not in str([each.structure for each in store.all()])
        assert told(verify(store, deep=True)) == ""


def test_verify_names_a_redacted_message_that_is_still_there(tmp_path):
    """A fact that says a payload is gone, while it is not, is a finding."""
    with EventStore.open(tmp_path / "history") as store:
        store.create("s")
        say(store, "s", WORD)
        store.log.shred = lambda *_: None
        store.log._erase_in = lambda *_, **__: None
        store.redact("s", 1)
    report = verify_directory(tmp_path / "history")
    assert "version 1 of session 's' is redacted by it and still has its payload" in told(report)
