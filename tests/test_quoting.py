"""Quoting: the summaries that were made of what is redacted or erased are known, and go on request.

That the right ones are found and go, whatever else happens, is among the laws (test_laws.py).
"""

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from facts import told
from handed_out import HandedOut
from hypothesis import given
from hypothesis import strategies as st
from traces import bytes_of, found_in

from eventstore import EventStore, InvalidEvent, KeyShredded, LegalHold, SessionNotFound
from eventstore.audit.verify import verify
from eventstore.care.backup import backup
from eventstore.care.compacting import compact
from eventstore.engine.quoting import Quoting
from eventstore.sessions import SessionManager
from projections import SessionState

WORD = "zebrafish"
STRATEGIES = ("append", "adopt", "interleave", "squash")


def say(store: EventStore, session: str, *texts: str) -> None:
    """Append lines to a session."""
    store.append(session, [{"role": "user", "content": text} for text in texts])


def quoting(store: EventStore, session: str, message: str | int | None = None) -> list[str]:
    """Return, as ids, the summaries that are named; each stands where it says."""
    found = store.quoting(session, message)
    facts = [store.event(each.position) for each in found]
    assert [(each.session, each.version) for each in facts] == [each[:2] for each in found]
    assert not any(each.erased for each in facts)
    return [f"{each.session}#{each.version}" for each in found]


def texts(store: EventStore, session: str, **moment: int) -> list[str]:
    """Return what a session shows."""
    return [each.content for each in SessionState.of(store, session, **moment).messages]


def all_texts(store: EventStore) -> set[str]:
    """Return all that any session shows at any of its versions."""
    return {
        text
        for session in store.sessions()
        for version in range(store.version(session) + 1)
        for text in texts(store, session, at_version=version)
    }


def raw(store: EventStore) -> bytes:
    """Return the bytes of all frames."""
    return b"".join(frame.raw for frame in store.log.read_all(0))


@pytest.fixture
def family(store: EventStore) -> EventStore:
    """Give a session whose second line went into summaries of its own and of four others."""
    store.create("a")
    say(store, "a", "one", WORD, "three")
    store.branch("a", "b")
    store.create("c")
    store.merge("a", into="c")
    store.create("d")
    store.merge("a", into="d", strategy="squash", summary=f"squashed {WORD}")
    store.summarize("b", f"of b: {WORD}", upto=0)
    say(store, "b", "four")
    store.summarize("b", f"again: {WORD}", upto=2)
    store.summarize("c", f"of c: {WORD}", upto=1)
    store.create("e")
    store.merge("b", into="e")
    store.summarize("a", f"of a: {WORD}", upto=3)
    say(store, "a", "five")
    store.summarize("e", "of e, which has it from b", upto=1)
    return store


MADE = ["d#1", "b#1", "b#3", "c#2", "a#6", "e#2"]
"""All summaries of the second line, in the order of the log."""


# -- what is found ------------------------------------------------------------------------


def test_every_summary_that_stands_for_a_message_is_found(family):
    """In its session, a branch, targets of merges, the note of a squash, and those of summaries."""
    assert quoting(family, "a", "a#2") == MADE
    family.branch("a", "z", at=3)
    assert quoting(family, "a", 2) == quoting(family, "z", "a#2") == MADE
    assert quoting(family, "b", "b#1") == ["b#3", "e#2"]
    assert quoting(family, "b", 2) == ["b#3", "e#2"]
    assert quoting(family, "a", 7) == []
    assert asyncio.run(family.aio.quoting("a", 2)) == family.quoting("a", 2)


def test_what_is_not_shown_is_found_too(family):
    """A summary that was rewound, pruned or deleted with its session can still be read."""
    family.rewind("a", 3)
    family.prune("c", keep_last=0)
    family.delete("b")
    assert quoting(family, "a", 2) == MADE


def test_what_has_nothing_of_it_is_not_found(family):
    """Summaries of other lines, and those made when it was redacted, were not made of it."""
    family.branch("a", "f", at=1)
    family.summarize("f", "of one", upto=0)
    say(family, "c", "six")
    family.summarize("c", "of six", upto=3)  # and of the summary before
    family.create("g")
    say(family, "g", WORD)
    family.summarize("g", WORD, upto=1)
    assert quoting(family, "a", 2) == [*MADE, "c#4"]
    family.branch("a", "h", at=3)
    family.redact("a", 2)
    family.summarize("h", "of what was left", upto=0)
    family.create("i")
    family.merge("h", into="i", strategy="squash", summary="of that")
    assert quoting(family, "a", 2) == [*MADE, "c#4"]
    assert quoting(family, "a", 1)[-2:] == ["h#1", "i#1"]


def test_a_squash_stands_for_what_was_new(store):
    """Lines that both sides had before, or that came to its source later, did not go into it."""
    store.create("a")
    say(store, "a", "one")
    store.branch("a", "b")
    say(store, "b", "two")
    store.merge("b", into="a", strategy="squash", summary="of two")
    say(store, "b", "three")
    store.merge("b", into="a", strategy="squash", summary="of three")
    assert quoting(store, "a", "a#1") == []
    assert quoting(store, "b", "b#1") == ["a#2"]
    assert quoting(store, "b", "b#3") == ["a#3"]


def test_all_that_others_made_of_a_session(family):
    """Without a message it is what other sessions made of any line, or summary, of this one."""
    assert quoting(family, "a") == ["d#1", "b#1", "b#3", "c#2", "e#2"]
    assert quoting(family, "b") == ["e#2"]
    assert quoting(family, "e") == []


@pytest.mark.parametrize(
    ("session", "message", "error"),
    [
        ("nowhere", None, SessionNotFound),
        ("nowhere", 1, SessionNotFound),
        ("a", 99, InvalidEvent),
        ("a", 0, InvalidEvent),
        ("a", "nobody", InvalidEvent),
        ("a", True, InvalidEvent),
    ],
)
def test_what_is_no_message_is_refused(family, session, message, error):
    """As redact() refuses it, whatever is asked for."""
    with pytest.raises(error):
        family.quoting(session, message)
    with pytest.raises(error):
        family.redact(session, 99 if message is None else message, summaries=True)


def test_a_read_only_store_answers(disk):
    """Who may only look learns the same."""
    disk.create("a")
    say(disk, "a", WORD)
    disk.summarize("a", WORD, upto=1)
    with EventStore.open(disk.path, read_only=True) as reader:
        assert quoting(reader, "a", 1) == ["a#2"]


# -- what goes with it --------------------------------------------------------------------


def test_they_go_in_one_append(family):
    """With `summaries` no list shows them at any version, and each fact says why, or none is."""
    size = family.head().size
    receipt = family.redact("a", "a#2", reason="asked for", actor="user:7", summaries=True)
    assert (receipt.session, receipt.first_version, receipt.position) == ("a", 8, size + 1)
    facts = list(family.all(size))
    assert sorted(f"{each.session}#{each.event.version}" for each in facts) == sorted(
        [*MADE, "a#2"]
    )
    assert {(each.recorded_at, each.actor, each.event.reason) for each in facts} == {
        (receipt.recorded_at, "user:7", "asked for")
    }
    assert all_texts(family) == {"one", "three", "four", "five"}
    assert WORD.encode() not in raw(family)
    assert quoting(family, "a", 2) == []
    assert told(verify(family, deep=True)) == ""


def test_by_default_they_stay(family):
    """A plain redaction takes one message; done again with `summaries` it takes what that left."""
    first = family.redact("a", 2)
    assert texts(family, "b") == [f"again: {WORD}"] and quoting(family, "a", 2) == MADE
    second = family.redact("a", 2, summaries=True)
    assert not second.duplicate and second.session == "d"
    assert quoting(family, "a", 2) == [] and WORD.encode() not in raw(family)
    size = family.head().size
    for summaries in (True, False):
        again = family.redact("a", 2, summaries=summaries)
        assert again.duplicate and (again.session, again.version) == ("a", first.version)
    assert family.head().size == size


def test_a_summary_goes_with_those_made_of_it(family):
    """What a summary went into goes with it; what went into it stays."""
    receipt = family.redact("b", "b#1", summaries=True)
    assert receipt.session == "b"
    assert quoting(family, "a", 2) == ["d#1", "c#2", "a#6"]
    assert texts(family, "a", at_version=3) == ["one", WORD, "three"]


@pytest.mark.parametrize("held", ["a", "c", "d", "e"])
def test_a_hold_on_one_session_stops_all_of_it(family, held):
    """A legal hold where the message or any summary stands forbids it, and nothing is done."""
    family.set_hold(held)
    size = family.head().size
    with pytest.raises(LegalHold) as stopped:
        family.redact("a", 2, summaries=True)
    assert stopped.value.session == held
    assert family.head().size == size and quoting(family, "a", 2) == MADE
    assert texts(family, "a", at_version=3) == ["one", WORD, "three"]
    family.clear_hold(held)
    assert not family.redact("a", 2, summaries=True).duplicate


def test_summaries_of_deleted_and_closed_sessions_go(family):
    """Whatever became of the sessions since, their past shows no summary of it."""
    family.delete("b")
    family.close("c")
    family.archive("d")
    family.redact("a", 2, summaries=True)
    assert quoting(family, "a", 2) == [] and WORD.encode() not in raw(family)
    assert texts(family, "b", at_version=4) == []


def test_a_key_makes_it_the_same_command(family):
    """With an idempotency key it is done once; without `summaries` it is another command."""
    receipt = family.redact("a", 2, summaries=True, key="k")
    again = family.redact("a", 2, summaries=True, key="k")
    assert again.duplicate and again.position == receipt.position
    family.redact("a", 1, key="l")
    assert family.redact("a", 1, summaries=True).duplicate


def test_the_log_is_read_before_others_have_to_wait(disk, monkeypatch):
    """In its transaction a redaction takes up only what came since it looked, whatever the log."""
    disk.create("a")
    say(disk, "a", WORD)
    for number in range(50):
        say(disk, "a", str(number))
        disk.summarize("a", WORD, upto=disk.version("a"))
    taken, waiting, take, begin = [], [], Quoting._take, disk.log.group

    def group(work):
        waiting.append(True)
        return begin(work)

    def taking(self, log, recorded):
        taken.append(bool(waiting))
        take(self, log, recorded)

    monkeypatch.setattr(disk.log, "group", group)
    monkeypatch.setattr(Quoting, "_take", taking)
    disk.redact("a", 1, summaries=True)
    assert taken == [False] * 50 and disk.quoting("a", 1) == []


def test_proofs_still_verify(tmp_path):
    """Proofs made before hold for the standalone verifier, and the store still makes the same."""
    with EventStore.open(tmp_path / "history") as store:
        store.create("s")
        say(store, "s", "one", WORD)
        store.summarize("s", WORD, upto=2)
        proofs = HandedOut(store, tmp_path, "s")
        store.redact("s", 2, summaries=True)
        proofs.check()
        backup(store, tmp_path / "copy")
    with EventStore.open(tmp_path / "copy", read_only=True) as copy:
        assert told(verify(copy, deep=True)) == "" and WORD.encode() not in raw(copy)


# -- erasing a session --------------------------------------------------------------------


@pytest.fixture
def heard(sealed: EventStore) -> EventStore:
    """Give an encrypted store in which others summarised what session `a` said."""
    sealed.create("a")
    say(sealed, "a", WORD, "two")
    sealed.branch("a", "b")
    sealed.summarize("b", f"of b: {WORD}", upto=0)
    for name, strategy in (("c", "append"), ("d", "squash")):
        sealed.create(name)
        summary = f"of {name}: {WORD}" if strategy == "squash" else None
        sealed.merge("b", into=name, strategy=strategy, summary=summary)
    sealed.create("e")
    sealed.merge("a", into="e", strategy="squash", summary=f"of e: {WORD}")
    sealed.create("f")
    sealed.merge("a", into="f")
    sealed.summarize("f", f"of f: {WORD}", upto=1)
    return sealed


def test_an_erasure_leaves_what_others_made_of_it(heard):
    """Without `summaries` others keep theirs, but for merges of it; quoting() tells afterwards."""
    made = quoting(heard, "a")
    assert made == ["b#1", "d#1", "e#1", "f#2"]
    heard.erase("a", reason="asked for", cascade=True)
    assert quoting(heard, "a") == ["b#1", "d#1", "f#2"]
    with pytest.raises(KeyShredded):
        heard.quoting("a", 1)
    for each in heard.quoting("a"):
        heard.redact(each.session, each.version)
    assert quoting(heard, "a") == [] and told(verify(heard, deep=True)) == ""


def test_an_erasure_takes_them_along(heard):
    """With `summaries` no session shows at any version what it made of the erased one."""
    heard.erase("a", reason="asked for", cascade=True, summaries=True)
    assert quoting(heard, "a") == [] and all_shown(heard) == set()
    reasons = [each.event.reason for each in heard.events("f") if each.type == "Redacted"]
    assert reasons == ["asked for"]
    assert told(verify(heard, deep=True)) == ""
    assert heard.erase("a", reason="again", summaries=True).duplicate


def all_shown(store: EventStore) -> set[str]:
    """Return all that the sessions that can be read show at any of their versions."""
    return {
        text
        for session in store.sessions()
        if store.headers.standing(session).status != "erased"
        for version in range(store.version(session) + 1)
        for text in texts(store, session, at_version=version)
    }


def test_a_hold_stops_an_erasure_that_takes_summaries(heard):
    """A session that is held keeps its summaries, and then nothing at all is erased."""
    heard.set_hold("f")
    size = heard.head().size
    with pytest.raises(LegalHold):
        heard.erase("a", reason="asked for", cascade=True, summaries=True)
    assert heard.head().size == size and texts(heard, "a") == [WORD, "two"]


def test_the_summaries_of_an_erased_session_are_gone_with_it(heard):
    """Where the session of a summary was erased, there is nothing left to name or take."""
    heard.erase("f", reason="asked for")
    assert quoting(heard, "a", 1) == ["b#1", "d#1", "e#1"]
    heard.redact("a", 1, summaries=True)
    assert quoting(heard, "a", 1) == [] and told(verify(heard, deep=True)) == ""


# -- bytes --------------------------------------------------------------------------------

STEP = st.tuples(
    st.sampled_from(["say", "branch", "merge", "summarize", "rewind", "new"]),
    st.integers(0, 9),
    st.integers(0, 9),
)


def play(store: EventStore, steps: list[tuple[str, int, int]]) -> None:
    """Play a history; each summary repeats all words of the lines that it stands for."""
    for number, (name, a, b) in enumerate(steps, 1):
        sessions = list(store.sessions())
        session, other = sessions[a % len(sessions)], sessions[b % len(sessions)]
        version = store.version(session)
        if name == "say":
            say(store, session, f"word{number}x")
        elif name == "branch":
            store.branch(session, f"s{number}", at=max(version - b, 0))
        elif name == "new":
            store.create(f"s{number}")
        elif name == "rewind" and version:
            store.rewind(session, max(version - b, 0))
        elif name == "summarize" and texts(store, session):
            store.summarize(session, " ".join(texts(store, session)), upto=version)
        elif name == "merge" and session != other:
            strategy = STRATEGIES[b % 4]
            new = " ".join(texts(store, session)) or "nothing"
            summary = new if strategy == "squash" and disjoint(store, session, other) else None
            strategy = "append" if summary is None else strategy
            store.merge(session, into=other, strategy=strategy, summary=summary)


def disjoint(store: EventStore, session: str, other: str) -> bool:
    """Return True where all that a session shows is new to the other: they never met."""
    one, two = store.headers.now(session), store.headers.now(other)
    return not (one.parent or two.parent or one.merges or two.merges)


@given(steps=st.lists(STEP, min_size=8, max_size=30), chosen=st.integers(0, 99))
def test_no_state_and_no_byte_tells_of_what_was_redacted(steps, chosen):
    """Its word is in no state, no frame, and after compact no byte; all other messages stay."""
    with tempfile.TemporaryDirectory() as place:
        with EventStore.open(Path(place) / "history", train=False) as store:
            store.create("s0")
            say(store, "s0", "word99x")
            play(store, steps)
            said = [each for each in store.all() if each.type == "MessageAppended"]
            gone = said[chosen % len(said)]
            word, stays = gone.event.message.content, {each.event.message.content for each in said}
            store.redact(gone.session, gone.version, summaries=True)
            assert not [text for text in all_texts(store) if word in text]
            assert store.quoting(gone.session, gone.version) == []
            assert word.encode() not in raw(store)
            assert told(verify(store, deep=True)) == ""
        compact(Path(place) / "history")
        files = bytes_of(Path(place))
        assert found_in(files, word) == []
        with EventStore.open(Path(place) / "history", read_only=True) as store:
            left = {each.event.message.content for each in store.all() if is_said(each)}
        assert left == stays - {word}


def is_said(recorded) -> bool:
    """Return True for a message that can be read."""
    return recorded.type == "MessageAppended" and not recorded.erased


# -- between processes --------------------------------------------------------------------

REDACT = """
import sys
from eventstore import EventStore
with EventStore.open(sys.argv[1], train=False) as store:
    store.redact("s", 1, summaries=True)
"""


def test_no_summary_slips_through_between_processes(tmp_path):
    """While others summarise the message, whoever redacts it takes every summary there is."""
    place = tmp_path / "history"
    with EventStore.open(place, train=False) as store:
        store.create("s")
        say(store, "s", WORD)
        for number in range(60):
            store.branch("s", f"b{number}")
        other = subprocess.Popen([sys.executable, "-c", REDACT, str(place)])
        for number in range(60):
            try:
                store.summarize(f"b{number}", WORD, upto=0)
            except InvalidEvent:  # it shows nothing any more
                break
        assert other.wait() == 0
        assert store.quoting("s", 1) == [] and WORD.encode() not in raw(store)


# -- the command line ---------------------------------------------------------------------


def test_the_command_names_what_remains(cli):
    """`redact` names the summaries that stay, to people and to machines; --summaries takes them."""
    with EventStore.open(cli.store) as store:
        store.create("a")
        say(store, "a", WORD, "two")
        store.branch("a", "b")
        store.summarize("b", WORD, upto=0)
    plain = cli("redact", "a", "1")
    assert plain.code == 0 and "1 summary made of it can still be read: b#1" in plain.err
    left = cli("redact", "a", "1", "--json").json
    assert left["duplicate"]
    assert left["summaries"] == [{"session": "b", "version": 1, "position": 4}]
    done = cli.fine("redact", "a", "1", "--summaries", "--json").json
    assert (done["session"], done["summaries"]) == ("b", [])
    cli.fine("redact", "a", "2")


def test_the_command_names_templates_that_copied_it(cli):
    """`redact` names the templates that have the line or the value, and no others."""
    with EventStore.open(cli.store) as store, SessionManager(store) as manager:
        store.create("a")
        say(store, "a", "one", WORD)
        store.set_context("a", "k", WORD)
        manager.save_as_template("a", "early")
        store.branch("a", "b")
        say(store, "b", "three")
        store.prune("b", messages=["a#1"])
        manager.save_as_template("b", "of b")
        store.redact("a", 1)
        manager.save_as_template("a", "late")
        assert manager.templates_of("a") == ["early", "late", "of b"]
        assert manager.templates_of("a", 1) == ["early"]
        assert manager.templates_of("a", 2) == ["early", "late", "of b"]
        assert manager.templates_of("b", 1) == ["of b"]
        with pytest.raises(InvalidEvent):
            manager.templates_of("a", 99)
    plain = cli("redact", "a", "1")
    assert plain.code == 0
    assert "1 template made of it can still be read: template:early" in plain.err
    assert cli("redact", "a", "2", "--json").json["templates"] == [
        f"template:{name}" for name in ("early", "late", "of b")
    ]
    done = cli("redact", "a", "3", "--json").json["templates"]
    assert done == ["template:early", "template:late", "template:of b"]


def test_templates_that_copied_a_summary_of_it_are_named(cli):
    """A template that has a summary of a message is named where the message goes, or both go."""
    with EventStore.open(cli.store) as store, SessionManager(store) as manager:
        store.create("a")
        say(store, "a", WORD, "two", "three")
        manager.save_as_template("a", "before")
        store.summarize("a", WORD, upto=2)
        manager.save_as_template("a", "after")
        assert manager.templates_of("a", 1) == ["after", "before"]
        assert manager.templates_of("a", 3) == ["after", "before"]
        assert manager.templates_of("a", 4) == ["after"]
    named = ["template:after", "template:before"]
    assert cli("redact", "a", "1", "--summaries", "--json").json["templates"] == named
    with EventStore.open(cli.store) as store, SessionManager(store) as manager:
        manager.save_as_template("a", "late")
        assert manager.templates_of("a", 1) == ["after", "before"]


def test_the_command_erase_names_them_too(cli, keyring):
    """`erase` names what others made of the session, or takes it along, and its templates."""
    with EventStore.open(cli.store, keyring=keyring) as store:
        for name in ("a", "c"):
            store.create(name)
            say(store, name, WORD)
            store.create(f"of {name}")
            store.merge(name, into=f"of {name}")
            store.summarize(f"of {name}", WORD, upto=1)
        with SessionManager(store) as manager:
            manager.save_as_template("of a", "t")
    options = ("--reason", "x", "--cascade", "--keyring", str(keyring.path))
    plain = cli("erase", "a", *options)
    assert plain.code == 0 and "1 summary made of it can still be read: of a#2" in plain.err
    assert "1 template made of it can still be read: template:t" in plain.err
    done = cli.fine("erase", "c", "--summaries", "--json", *options).json
    assert (done["summaries"], done["templates"]) == ([], [])
    with EventStore.open(cli.store, keyring=keyring) as store, SessionManager(store) as manager:
        assert manager.templates_of("a") == ["t"]
        store.erase("template:t", reason="x")
        assert manager.templates_of("a") == []
        with pytest.raises(InvalidEvent, match="nothing was kept"):
            manager.delete_template("t", redact=True)
