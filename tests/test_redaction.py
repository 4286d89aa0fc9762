"""Redaction: one message vanishes from every list, now and in the past, and no proof breaks.

That the visible lists agree with a plain model, whatever else happens, is among the laws
(test_laws.py: redact is one of its commands).
"""

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from facts import told
from handed_out import HandedOut
from hypothesis import given
from hypothesis import strategies as st

from eventstore import (
    EventStore,
    InvalidEvent,
    KeyShredded,
    SessionNotFound,
    StoreUnavailable,
    VersionConflict,
)
from eventstore.audit.erasures import Runs
from eventstore.audit.evidence import disclose
from eventstore.audit.verify import verify
from eventstore.care.backup import Moment, backup, restore
from eventstore.care.compacting import compact
from eventstore.care.repair import repair
from eventstore.interchange import export_events
from eventstore.sessions import SessionManager
from eventstore.sessions.trimming import MessageTTL
from eventstore.state.transcript import tokens_of
from projections import BranchTree, Projection, SessionState, Statistics, Views, blame, diff, fold

WORD = "zebrafish"


def say(store: EventStore, session: str, *texts: str) -> None:
    """Append lines to a session."""
    store.append(session, [{"role": "user", "content": text} for text in texts])


def shown(store: EventStore, session: str, **moment: int) -> list[str]:
    """Return what a session shows, and hold its length, tokens and slices to that."""
    state = SessionState.of(store, session, **moment)
    texts = [message.content for message in state.messages]
    assert len(state.messages) == len(texts) == state.header.messages
    assert [message.content for message in state.messages[-2:]] == texts[-2:]
    assert state.tokens == tokens_of(store.log, state.header.spans)
    return texts


@pytest.fixture
def family(store: EventStore) -> EventStore:
    """Give a session whose second line is shown by a branch and in the target of a merge."""
    store.create("a", metadata={"topic": "fish"})
    say(store, "a", "one", WORD, "three")
    store.branch("a", "b")
    say(store, "b", "four")
    store.create("c")
    say(store, "c", "zero")
    store.merge("a", into="c", strategy="interleave")
    return store


def test_a_message_vanishes_everywhere(family):
    """No branch, merge, past version, position or time shows it, in whatever order it got there."""
    position = family.head().size - 1
    receipt = family.redact("a", "a#2", reason="asked for")
    assert shown(family, "a") == ["one", "three"]
    assert shown(family, "b") == ["one", "three", "four"]
    assert shown(family, "c") == ["one", "three", "zero"]
    assert shown(family, "a", at_version=2) == ["one"]
    assert shown(family, "b", at_version=0) == ["one", "three"]
    assert shown(family, "c", at_position=position) == ["one", "three", "zero"]
    assert shown(family, "a", at_time=receipt.recorded_at - 1) in (["one", "three"], ["one"])
    family.branch("a", "d", at=2)
    assert shown(family, "d") == ["one"]
    assert told(verify(family, deep=True)) == ""


def test_the_fact_stays_and_the_payload_goes(family):
    """Its place, type, size and tokens can be read, also who redacted it and why; not a word."""
    before = next(family.events("a", 2))
    family.redact("a", 2, reason="asked for", actor="user:7")
    recorded = next(family.events("a", 2))
    assert recorded.erased
    assert (recorded.type, recorded.size, recorded.tokens, recorded.role) == (
        *(before.type, before.size, before.tokens, before.role),
    )
    with pytest.raises(KeyShredded, match="version 2 of session 'a' was redacted"):
        _ = recorded.event
    fact = next(family.events("a", reverse=True))
    assert (fact.event.version, fact.event.reason, fact.actor) == (2, "asked for", "user:7")
    frames = family.log.read_all(0)
    assert WORD.encode() not in b"".join(frame.raw for frame in frames)


def test_every_proof_still_verifies(tmp_path):
    """Proofs made before hold for the standalone verifier, and the store still makes the same."""
    with EventStore.open(tmp_path / "history") as store:
        store.create("s")
        say(store, "s", "one", WORD, "three")
        proofs = HandedOut(store, tmp_path, "s")
        store.redact("s", "s#2")
        proofs.check()
        with pytest.raises(KeyShredded):
            disclose(store, 2, proofs.note, [proofs.key.verifier])


def test_doing_it_again_changes_nothing(family):
    """The second redaction gives the first receipt, by version, by id, and from a branch."""
    receipt = family.redact("a", "a#2")
    size = family.head().size
    for session, message in (("a", "a#2"), ("a", 2), ("b", "a#2"), ("c", "a#2")):
        second = family.redact(session, message)
        assert second.duplicate
        assert (second.session, second.version) == (receipt.session, receipt.version)
    assert family.head().size == size


def test_a_key_makes_it_the_same_command(family):
    """With an idempotency key the first receipt comes back, also for a message with its own id."""
    family.append("a", {"role": "user", "content": WORD, "id": "m1"})
    receipt = family.redact("a", "m1", key="k")
    assert not receipt.duplicate
    assert family.redact("a", "m1", key="k").duplicate
    with pytest.raises(InvalidEvent):
        family.redact("a", "m1")


def test_a_branch_redacts_where_it_was_said(family):
    """A message of an ancestor or a merge is redacted in its own stream; the receipt tells."""
    assert family.redact("b", "a#2").session == "a"
    assert shown(family, "a") == ["one", "three"]
    assert family.redact("c", "a#1").session == "a"
    assert shown(family, "b") == ["three", "four"]


def test_what_is_not_shown_can_be_redacted(store):
    """A message that was pruned or rewound is found by its place all the same."""
    store.create("s")
    say(store, "s", "one", WORD, "three")
    store.prune("s", keep_last=1)
    store.redact("s", "s#2")
    store.rewind("s", 0)
    store.redact("s", 1)
    store.rewind("s", 3)
    assert shown(store, "s") == ["three"]
    assert shown(store, "s", at_version=2) == []


def test_an_id_names_the_message_that_came_with_it(store):
    """Where a message came with an id that looks like a place, it goes, and not the one there."""
    store.create("s")
    store.append("s", {"id": "mine", "role": "user", "content": "stays"})
    store.append("s", {"id": "s#1", "role": "user", "content": WORD})
    with pytest.raises(InvalidEvent, match="shows no message 's#2'"):
        store.redact("s", "s#2")
    store.redact("s", "s#1")
    assert shown(store, "s") == ["stays"]
    with pytest.raises(InvalidEvent, match="shows no message 's#1'"):
        store.redact("s", "s#1")
    store.redact("s", 1)
    assert shown(store, "s") == [] and store.redact("s", "s#1").duplicate


def test_summaries_can_be_redacted(store):
    """A summary and the note of a squash go like messages; what they stand for stays hidden."""
    store.create("s")
    say(store, "s", "one", "two", "three")
    store.branch("s", "b")
    say(store, "b", "four")
    store.update_metadata("b", {"k": 1})
    store.summarize("s", WORD, upto=2)
    store.merge("b", into="s", strategy="squash", summary=WORD)
    note = SessionState.of(store, "s").messages[-1].id
    store.redact("s", note)
    store.redact("s", SessionState.of(store, "s").messages[0].id)
    assert shown(store, "s") == ["three"]
    assert SessionState.of(store, "s").metadata == {"k": 1}
    assert WORD.encode() not in b"".join(frame.raw for frame in store.log.read_all(0))
    assert told(verify(store, deep=True)) == ""


@pytest.mark.parametrize(
    ("message", "error"),
    [(0, InvalidEvent), (99, InvalidEvent), ("nobody", InvalidEvent), ("c#1", InvalidEvent)],
)
def test_only_messages_that_are_its_own(family, message, error):
    """What is no message, no version, or is shown elsewhere only, is refused and not written."""
    size = family.head().size
    with pytest.raises(error):
        family.redact("b", message)
    with pytest.raises(SessionNotFound):
        family.redact("nowhere", 1)
    with pytest.raises(VersionConflict):
        family.redact("a", 1, expected=0)
    assert family.head().size == size


def test_a_deleted_session_can_be_redacted(family):
    """Deletion leaves the past readable, so single messages of it can still go."""
    family.delete("a")
    family.redact("a", 2)
    assert shown(family, "a", at_version=3) == ["one", "three"]


def test_commands_decide_from_what_is_shown(family):
    """Prunes, summaries and merges after a redaction count and bring what is visible."""
    family.redact("a", 2)
    family.prune("a", keep_last=1)
    assert next(family.events("a", reverse=True)).event.count == 1
    family.summarize("b", "short", upto=0)
    assert next(family.events("b", reverse=True)).event.count == 2
    family.create("d")
    family.merge("b", into="d")
    assert shown(family, "d") == ["short", "four"]
    assert told(verify(family, deep=True)) == ""


def values(store: EventStore, session: str, **moment: int) -> dict:
    """Return the context of a session."""
    return SessionState.of(store, session, **moment).context


def test_a_context_value_can_be_redacted(store):
    """By the version of its fact; there was none then, and the value before does not come back."""
    store.create("s", context={"k": 0})
    store.set_context("s", "k", WORD)
    store.set_context("s", "k", "later")
    store.branch("s", "b", at=1)
    receipt = store.redact("s", 1, reason="asked for")
    assert [values(store, "s", at_version=each).get("k") for each in range(4)] == [
        *(0, None, "later", "later"),
    ]
    assert values(store, "b") == {} and blame(store, "b").context == {}
    assert WORD.encode() not in b"".join(frame.raw for frame in store.log.read_all(0))
    store.redact("s", 2)
    assert values(store, "s") == {} and store.headers.now("s").context == {}
    again = store.redact("s", 1)
    assert again.duplicate and again.version == receipt.version
    store.set_context("s", "k", "new")
    assert values(store, "s") == {"k": "new"} and store.quoting("s", 1) == []
    assert told(verify(store, deep=True)) == ""


def test_a_redacted_value_of_an_encrypted_store(sealed, tmp_path, keyring):
    """It stays away in copies, in repaired ones too, and its session can be erased after it."""
    sealed.create("s", context={"k": 0}, metadata={"k": 0, "to": {"kept": 1}})
    sealed.set_context("s", "k", WORD)
    sealed.update_metadata("s", {"k": WORD, "to": {"street": WORD}})
    sealed.record_tool_call("s", WORD, WORD)
    position = sealed.head().size - 1
    for version in (1, 2, 3):
        sealed.redact("s", version)
    backup(sealed, tmp_path / "copy")
    restore(tmp_path / "copy", tmp_path / "restored")
    restore(tmp_path / "copy", tmp_path / "before", moment=Moment(position))
    sealed.close()
    repair(sealed.path, tmp_path / "repaired", keyring=keyring)
    for place in ("restored", "before", "repaired"):
        with EventStore.open(tmp_path / place, keyring=keyring) as copy:
            assert values(copy, "s") == {}
            assert SessionState.of(copy, "s").metadata == {"to": {"kept": 1}}
            assert SessionState.of(copy, "s").header.tool_calls == 1
            assert told(verify(copy, deep=True)) == ""
    with EventStore.open(sealed.path, keyring=keyring) as store:
        store.erase("s", reason="asked for")
        assert [each.structure for each in store.events("s", 1, 3)] == [None] * 3
        assert told(verify(store, deep=True)) == ""


def test_a_change_of_metadata_can_be_redacted(store):
    """What it set is null from then on, whole or inside; what others set before or after stays."""
    store.create("s", metadata={"topic": "kept", "to": {"city": "Bonn"}})
    store.update_metadata("s", {"topic": WORD, "to": {"street": WORD}, "tags": [WORD], "done": 1})
    store.branch("s", "b")
    store.update_metadata("s", {"done": 2, "to": {"zip": 3}})
    views = Views(store)
    assert len(views.sessions(where={"tags": [WORD]}).rows) == 2
    receipt = store.redact("s", 1, reason="asked for")
    moments = [SessionState.of(store, "s", at_version=version).metadata for version in range(3)]
    assert moments == [
        {"topic": "kept", "to": {"city": "Bonn"}},
        {"to": {"city": "Bonn"}},
        {"to": {"city": "Bonn", "zip": 3}, "done": 2},
    ]
    rows = {row.session: row.metadata for row in views.sessions().rows}
    assert rows == {"s": moments[2], "b": moments[1]}
    assert rows["b"] == SessionState.of(store, "b").metadata
    assert set(blame(store, "b").metadata) == {"to"}
    assert WORD.encode() not in b"".join(frame.raw for frame in store.log.read_all(0))
    again = store.redact("s", 1)
    assert again.duplicate and again.version == receipt.version
    assert store.quoting("s", 1) == []
    assert told(verify(store, deep=True)) == ""


TOLD = {
    "tool call": lambda store: store.record_tool_call("s", WORD, {"q": WORD}, [WORD], error=WORD),
    "error": lambda store: store.record_error("s", WORD, WORD, {"of": WORD}),
    "own fact": lambda store: store.record("s", WORD, WORD),
}


@pytest.mark.parametrize("what", TOLD)
def test_single_facts_can_be_redacted(store, what):
    """A tool call, an error, a fact of one's own: that it happened stays counted, not a word."""
    store.create("s")
    say(store, "s", "one")
    counts = [store.headers.now("s")]
    TOLD[what](store)
    counts.append(store.headers.now("s"))
    store.redact("s", 2, reason="asked for")
    now = store.headers.now("s")
    assert (now.tool_calls, now.errors) == (counts[1].tool_calls, counts[1].errors)
    assert WORD not in str(Statistics.of(store).to_dict())
    assert Views(store).statistics() == Statistics.of(store)
    assert shown(store, "s") == ["one"] and next(store.events("s", 2)).erased
    assert WORD.encode() not in b"".join(frame.raw for frame in store.log.read_all(0))
    assert told(verify(store, deep=True)) == ""


def test_what_a_session_is_made_of_stays(family):
    """Facts that others build on, and those of the store itself, are refused by their names."""
    family.prune("a", keep_last=1)
    family.set_hold(user="u")
    for session, version, kind in (("a", 0, "SessionCreated"), ("b", 0, "BranchCreated"),
                                   ("a", 5, "MessagesPruned")):  # fmt: skip
        with pytest.raises(InvalidEvent, match=f"is a {kind}; only messages, .* tool calls"):
            family.redact(session, version)
    with pytest.raises(InvalidEvent, match="the store's own"):
        family.redact("eventstore:store", 1)


# -- views -------------------------------------------------------------------------------


class Words(Projection[list]):
    """The words of all messages, as a user's own view would keep them."""

    name = "words"

    def initial(self) -> list:
        return []

    def evolve(self, state, recorded):
        if recorded.type == "MessageAppended":
            state.append(recorded.event.message.content)
        return state


def test_views_forget_it(family):
    """Kept views and folds on demand, your own too, know nothing of it; others don't change."""
    views = Views(family)
    views.register(Words())
    assert WORD in views.state("words")
    trees = str(views.tree("a"))
    other = Statistics.of(family, "c").to_dict()
    family.redact("a", "a#2")
    assert WORD not in views.state("words")
    assert views.state("words") == fold(family, Words())
    rows = {row.session: (row.messages, row.tokens) for row in views.sessions().rows}
    for session in "abc":
        header = family.headers.now(session)
        assert rows[session] == (header.messages, header.tokens)
    assert str(views.tree("a")) != trees
    assert views.tree("a") == BranchTree.of(family, "a")
    assert Statistics.of(family, "c").to_dict() == other
    assert views.statistics() == Statistics.of(family)
    blamed = [each.message.content for each in blame(family, "b").messages]
    assert blamed == ["one", "three", "four"]
    assert diff(family, "a", "b").common == 2


def test_a_state_taken_before_gives_nothing_away(family):
    """A state that was taken before raises where it would read what is gone."""
    state = SessionState.of(family, "a")
    family.redact("a", "a#2")
    with pytest.raises(KeyShredded):
        list(state.messages)
    assert state.messages[0].content == "one"


def test_async_is_the_same(family):
    """`store.aio.redact` is the same command."""
    receipt = asyncio.run(family.aio.redact("a", "a#2", reason="r"))
    assert (receipt.session, receipt.version) == ("a", family.version("a"))
    assert shown(family, "b") == ["one", "three", "four"]


# -- on disk ------------------------------------------------------------------------------


def test_caches_on_disk_begin_anew(tmp_path):
    """Snapshots and views of before are deleted at once, and a store opened later uses new ones."""
    place = tmp_path / "history"
    with EventStore.open(place) as store:
        store.create("s", metadata={"word": "kept"})
        for number in range(200):
            say(store, "s", f"{WORD} {number}")
        views = Views(store)
        views.register(Words())
        assert len(views.state("words")) == 200
        assert WORD.encode() in (place / "views" / "data.mdb").read_bytes()
        store.redact("s", 7)
        assert not (place / "snapshots").exists()
        assert not (place / "views").exists()
        assert len(views.state("words")) == 199
        assert (place / "views-1").exists()
    with EventStore.open(place) as store:
        assert len(shown(store, "s")) == 199
        assert store.headers.at("s", 150).messages == 149
    caches = [*place.glob("snapshots*"), *place.glob("views*")]
    assert sorted(each.name for each in caches) == ["snapshots-1", "views-1"]


REDACT = """
import sys
from eventstore import EventStore
with EventStore.open(sys.argv[1]) as store:
    store.redact("s", 2)
"""


def test_other_processes_notice(tmp_path):
    """What another process redacts vanishes here too: from states, frames at hand and views."""
    place = tmp_path / "history"
    with EventStore.open(place) as store:
        store.create("s")
        say(store, "s", "one", WORD, "three")
        store.branch("s", "b")
        views = Views(store)
        assert shown(store, "b") == ["one", WORD, "three"]
        assert [row.messages for row in views.sessions().rows] == [3, 3]
        command = [sys.executable, "-c", REDACT, str(place)]
        subprocess.run(command, check=True)
        assert shown(store, "b") == ["one", "three"]
        assert [row.messages for row in views.sessions().rows] == [2, 2]
        assert next(store.events("s", 2)).erased
        say(store, "b", "four")
        assert shown(store, "b") == ["one", "three", "four"]
        assert not (place / "views").exists()


def test_a_dictionary_learns_nothing_from_it(disk):
    """What was redacted is left out where compression is fitted to what the store holds."""
    disk.create("talk")
    said = [{"role": "user", "content": f"the price of item {n} is {n * 7}"} for n in range(300)]
    said[40]["content"] = "sesame " * 40
    disk.append("talk", said)
    disk.redact("talk", 41)
    number = disk.train_dictionary()
    learnt = disk.log.codec._load(number)
    assert b"the price of item" in learnt
    assert b"sesame" not in learnt


def test_a_dictionary_keeps_what_it_learnt_before(disk):
    """One trained before a redaction has pieces of it, beside a later one, until compaction."""
    disk.create("talk")
    said = [{"role": "user", "content": f"the price of item {n} is {n * 7}"} for n in range(300)]
    for n in range(40, 60):
        said[n]["content"] = f"open sesame {n} " * 10
    disk.append("talk", said)
    assert not disk.trained
    number = disk.train_dictionary()
    for version in range(41, 61):
        disk.redact("talk", version)
    assert disk.trained
    disk.train_dictionary()
    assert b"sesame" in disk.log.codec._load(number)
    disk.close()
    compact(disk.path)
    with EventStore.open(disk.path) as again:
        learnt = again.log.codec._load(again.log.codec.current)
        assert b"the price of item" in learnt
        assert b"sesame" not in learnt
        assert again.log.codec._load(number) == b""


def test_readers_go_on_meanwhile(disk):
    """Threads that read states and views while messages go see the old or the new list, whole."""
    disk.create("s")
    say(disk, "s", *[str(number) for number in range(40)])
    disk.branch("s", "b")
    views, failures, done = Views(disk), [], threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                texts = [each.content for each in _texts(disk)]
                assert texts == sorted(texts, key=int)
                assert 20 <= views.sessions().rows[0].messages <= 40
        except BaseException as failure:  # noqa: BLE001 - the test tells
            failures.append(failure)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for version in range(1, 21):
        disk.redact("s", version)
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert shown(disk, "b") == [str(number) for number in range(20, 40)]


def _texts(store: EventStore) -> list:
    """Return the messages of the branch, read again where one went in between."""
    while True:
        try:
            return list(SessionState.of(store, "b").messages)
        except KeyShredded:
            continue


def test_a_read_only_store_shows_it_too(tmp_path):
    """A reader that may not write hides the same lines, and refuses to redact."""
    place = tmp_path / "history"
    with EventStore.open(place) as store:
        store.create("s")
        say(store, "s", "one", WORD)
        store.redact("s", 2)
    with EventStore.open(place, read_only=True) as store:
        assert shown(store, "s") == ["one"]
        with pytest.raises(StoreUnavailable):
            store.redact("s", 1)
    assert told(verify(EventStore.open(place, read_only=True), deep=True)) == ""


def test_a_file_of_events_carries_no_gap(family):
    """An export of events that are gone says where it stops; other sessions can be exported."""
    family.redact("a", 2)
    with pytest.raises(InvalidEvent, match="backup"):
        list(export_events(family))
    family.create("d")
    say(family, "d", "one")
    assert len(list(export_events(family, ["d"]))) == 2


def test_who_reads_meanwhile_is_not_told_that_all_was_erased(tmp_path):
    """Whatever is asked of a session whose lines go just then, the answer is of what is left."""
    with EventStore.open(tmp_path / "history") as store, SessionManager(store) as manager:
        store.create("s", messages=[{"role": "user", "content": f"{WORD} {n}"} for n in range(100)])
        questions = {
            "messages": lambda: manager.get_messages("s", 5, newest_first=True),
            "context": lambda: manager.build_context("s"),
            "search": lambda: manager.search(WORD),
            "blame": lambda: blame(store, "s"),
            "plan": lambda: manager.plan_pruning(MessageTTL(default=1.0)),
            "summary": lambda: manager.summaries.plan("s"),
        }
        done = threading.Event()

        def ask(question) -> int:
            count = 0
            while not done.is_set():
                question()
                count += 1
            return count

        with ThreadPoolExecutor(len(questions)) as pool:
            asked = [pool.submit(ask, each) for each in questions.values()]
            for version in range(100, 60, -1):
                store.redact("s", version)
            done.set()
            assert all(each.result() for each in asked)
        assert len(manager.get_messages("s")) == 60


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 24)), max_size=60))
def test_runs_are_what_a_set_would_hold(steps: list[tuple[bool, int]]):
    """Numbers that come and go in any order stand in as few runs as there can be, in order."""
    runs, model = Runs(), set[int]()
    for comes, number in steps:
        (runs.add if comes else runs.drop)(number)
        (model.add if comes else model.discard)(number)
        found = list(runs)
        assert {n for start, stop in found for n in range(start, stop)} == model
        assert all(start < stop for start, stop in found)
        assert all(one[1] < other[0] for one, other in pairwise(found))
        assert all((n in runs) == (n in model) for n in range(26))
