"""Appends of several frames: their frames say that they belong together, wherever they go."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from facts import CREATED, append, append_all, said, told
from xxhash import xxh3_64_digest

from eventstore import ANY, EventStore, Keyring
from eventstore.audit.verify import verify
from eventstore.care.backup import NOW, Moment, backup, restore
from eventstore.care.carrying import while_kept
from eventstore.care.compacting import compact
from eventstore.care.repair import repair
from eventstore.ids import SYSTEM
from eventstore.interchange import export_events, import_events
from eventstore.log.base import frames_between
from eventstore.log.format import CONTINUES
from eventstore.log.frame import Frame
from eventstore.log.lone import Tally
from eventstore.place.directory import LOG

FROZEN = 1_700_000_000_000_000_000


def frozen() -> int:
    """Stand still, as a coarse clock does between two looks."""
    return FROZEN


def say(store: EventStore, session: str, *texts: str, **options) -> None:
    """Append lines to a session."""
    store.append(session, [{"role": "user", "content": text} for text in texts], **options)


def work(store: EventStore) -> Iterator[object]:
    """Run commands, one append each, also such as look like one: neighbours of one kind."""
    yield store.create("root")
    yield store.create("side")
    yield say(store, "side", "one", "two", key="said")
    for _ in range(3):
        yield store.merge("side", into="root", strategy="squash", summary="in short")
    yield say(store, "root", "a secret", "another")
    for version in (4, 5):
        yield store.redact("root", version)
    yield store.merge("side", into="root", key="merged", actor="user:7", correlation_id="c")
    yield store.create("last")
    yield from read(store)


def read(store: EventStore) -> Iterator[object]:
    """Read a session, of which the system stream has a note, or two with its beginning."""
    for _ in range(2):
        yield list(store.events("side"))
        yield say(store, "side", "more")


def filled(place: Path, **options) -> tuple[EventStore, list[int]]:
    """Open a store in which all of that was done at one time; return it and each append's end."""
    store = EventStore.open(place, clock=frozen, record_reads=True, train=False, **options)
    return store, sorted({store.head().size for _ in work(store)})


def shape(store: EventStore) -> list[tuple[str, int, int, bool]]:
    """Return of each frame its session, its first and last position, and whether it goes on."""
    return [
        (each.session, each.position, each.last_position, each.continues)
        for each in frames_between(store.log)
    ]


def ends(store: EventStore) -> list[int]:
    """Return the sizes that a log had between two appends, as its frames say."""
    begins = [position for _, position, _, continues in shape(store) if not continues]
    return [*begins[1:], store.head().size]


@pytest.fixture(params=["plain", "encrypted"])
def history(request, tmp_path):
    """Give a store with appends of all kinds that share one time, and where each of them ends."""
    sealed = {"keyring": Keyring.file(tmp_path / "keyring")} if request.param != "plain" else {}
    store, known = filled(tmp_path / "history", **sealed)
    with store:
        yield store, known


def test_frames_of_one_append_say_so(history):
    """Only what one command wrote belongs together, whatever stands beside it at the same time."""
    store, known = history
    begun = [] if store.log.codec.seal is None else [2]  # the system stream, before all else
    assert ends(store) == begun + known
    assert told(verify(store, deep=True)) == ""


def test_a_moment_is_the_end_of_its_append(history, tmp_path):
    """Whatever position is asked for, the rest of its append comes too, and no other append."""
    store, _ = history
    whole = ends(store)
    for at in range(store.head().size):
        kept = list(while_kept(frames_between(store.log), Moment(at).keeps))
        assert kept[-1].last_position + 1 == min(each for each in whole if each > at)
    backup(store, tmp_path / "full")
    for at in {each for end in whole[3:7] for each in (end - 1, end)}:
        head = restore(tmp_path / "full", tmp_path / f"to {at}", moment=Moment(at))
        assert head.size == min(each for each in whole if each > at)


def test_erasures_that_are_done_again_are_one_append(tmp_path):
    """A copy of before two erasures does both again at once: no moment has only one of them."""
    keyring = Keyring.file(tmp_path / "keyring")
    with EventStore.open(tmp_path / "history", keyring=keyring, clock=frozen) as store:
        store.create("one")
        store.create("two")
        backup(store, tmp_path / "before")
        store.erase("one", reason="asked for")
        store.erase("two", reason="asked for")
    restore(tmp_path / "before", tmp_path / "restored")
    with EventStore.open(tmp_path / "restored", keyring=keyring, clock=frozen) as store:
        asked = [each.position for each in store.all() if each.type == "EraseRequested"]
        assert asked[1] == asked[0] + 1
        kept = list(while_kept(frames_between(store.log), Moment(asked[0]).keeps))
        assert kept[-1].last_position == asked[1]
        assert told(verify(store, deep=True)) == ""


def test_an_erasure_is_one_append_and_takes_no_flag_away(tmp_path):
    """What it takes from others is asked for with it; what it destroys goes on as it did."""
    keyring = Keyring.file(tmp_path / "keyring")
    with EventStore.open(tmp_path / "history", keyring=keyring, clock=frozen) as store:
        store.create("target")
        store.create("doomed", metadata={"word": "a secret"})
        say(store, "doomed", "a secret")
        store.merge("doomed", into="target", on_conflict="theirs")
        before = shape(store)
        store.erase("doomed", reason="asked for", cascade=True)
        assert shape(store)[: len(before)] == before
        facts = [(each.type, store.log.read_all(each.position, 1)[0]) for each in store.all()]
        assert [(name, frame.continues) for name, frame in facts[-3:]] == [
            ("EraseRequested", False),
            ("Redacted", True),
            ("KeyShredded", False),
        ]
        name, marker = facts[-4]
        assert (name, marker.continues, marker.erased(0)) == ("BranchMerged", True, True)
        assert told(verify(store, deep=True)) == ""


# -- wherever they go ------------------------------------------------------------------------


def test_what_carries_frames_keeps_their_appends(history, tmp_path):
    """A full backup, an increment, a restore to the last position and a repair keep all of it."""
    store, _ = history
    backup(store, tmp_path / "backup")
    store.create("new")
    store.merge("side", into="new")
    store.merge("side", into="new")
    assert backup(store, tmp_path / "backup", incremental=True) == store.head()
    before = shape(store)
    for name, moment in (("now", NOW), ("then", Moment(store.head().size - 1))):
        restore(tmp_path / "backup", tmp_path / name, moment=moment)
    backup(store, tmp_path / "full")
    restore(tmp_path / "full", tmp_path / "carried", moment=Moment(store.head().size - 3))
    repair(tmp_path / "full", tmp_path / "repaired")
    for name, count in (("now", 0), ("then", 0), ("carried", 2), ("repaired", 0)):
        with EventStore.open(tmp_path / name, read_only=True) as made:
            assert (
                shape_of(made) == [(at, last, on) for _, at, last, on in before][: -count or None]
            )


def shape_of(store: EventStore) -> list[tuple[int, int, bool]]:
    """Return the same without names, which need a keyring."""
    return [each[1:] for each in shape(store)]


def test_redaction_and_compaction_change_no_append(tmp_path):
    """Payloads go, are compressed anew, and what was written together stays together."""
    store, _ = filled(tmp_path / "history")
    with store:
        for number in range(400):
            say(store, "last", f"line {number} of some that a dictionary is made of")
        store.train_dictionary()
        merged = store.merge("last", into="root", strategy="squash", summary="a secret")
        before = shape(store)
        store.redact("root", merged.version)
        before += shape(store)[-1:]
        assert shape(store) == before
    compact(tmp_path / "history")
    with EventStore.open(tmp_path / "history") as store:
        assert shape(store) == before
        assert store.event(merged.position).erased
        assert told(verify(store, deep=True)) == ""


def test_lines_mark_appends_of_all_kinds(history):
    """`append` and `events` say what came together; a session alone has its own part of that."""
    store, _ = history
    sessions = ["side", "last", SYSTEM]
    lines = [json.loads(each) for each in export_events(store, sessions)]
    first, *_ = [each for each in lines if each["session"] == "last"]
    sealed = store.log.codec.seal is not None
    assert (first["append"], first["events"]) == (first["position"], 2 if sealed else 1)
    if sealed:
        assert [each["type"] for each in lines if each["append"] == first["position"]] == [
            "SessionCreated",
            "KeyCreated",
        ]
    alone = [json.loads(each) for each in export_events(store, ["last"])]
    assert [(each["append"], each["events"]) for each in alone] == [(first["position"], 1)]


def test_lines_of_an_encrypted_store_come_in_without_its_keys(tmp_path):
    """Of an append that made a session and its key the session comes in, the key stays behind."""
    keyring = Keyring.file(tmp_path / "keyring")
    with EventStore.open(tmp_path / "one", keyring=keyring) as one:
        one.create("a", key="made")
        say(one, "a", "hi")
        lines = list(export_events(one))
    other = Keyring.file(tmp_path / "other keyring")
    with EventStore.open(tmp_path / "other", keyring=other) as store:
        assert import_events(store, lines).events == 2
        assert [each.type for each in store.events("a")] == ["SessionCreated", "MessageAppended"]
        assert store.create("a", key="made").duplicate
        assert told(verify(store, deep=True)) == ""
    with EventStore.in_memory() as store:
        assert import_events(store, lines).events == 2
        assert list(store.sessions()) == ["a"]


# -- in a log --------------------------------------------------------------------------------


def test_messages_of_a_frame_that_goes_on_are_read_and_counted(log):
    """What is no lone message is no other message: readers and counters give all of it."""
    for session in "ab":
        log.commit([append(session, CREATED, codec=log.codec)], FROZEN)
    for number in range(3):
        parts = {"a": [said(f"a {number}")], "b": [said(f"b {number}")]}
        log.commit([append_all(parts, log.codec, actor="user:7")], FROZEN)
    found = list(frames_between(log))
    assert [each.continues for each in found] == [False, False, *(False, True) * 3]
    for session in "ab":
        taken = [each for part in log.read_messages(session, 1, 10) for each in texts(part)]
        assert taken == [f"{session} {number}" for number in range(3)]
    counted, position = Tally(), 2
    while position < log.size():
        position, others = log.tally(counted, position, log.size() - 1)
        for each in others:
            counted.add(each, each.version, each.last_version)
        position = max(position, others[-1].last_position + 1 if others else 0)
    assert sum(counted.said) == 6


def texts(part) -> list[str]:
    """Return what messages say, or those of a frame."""
    messages = [each.event.message for each in part.recorded()] if isinstance(part, Frame) else part
    return [each.content for each in messages]


def flagged(frame: Frame) -> bytes:
    """Return the bytes of a frame with the flag put on or taken off, under a valid checksum."""
    raw = bytearray(frame.raw)
    raw[9] ^= CONTINUES
    covered = bytes(raw[8 : frame._bodies_at])
    return xxh3_64_digest(covered, frame.position) + covered + bytes(raw[frame._bodies_at :])


ODD = {
    "the first of all": 0,
    "another time": 2,
    "another actor": 3,
    "another correlation": 4,
    "another causation": 5,
    "a key": 7,
}
"""Of which frame the flag is a lie, in a log where 1 could go on with 0, and 6 with 5."""


@pytest.fixture
def odd():
    """Give a store in memory whose frames differ in what one append shares."""
    times = iter([5, 5, 6, 6, 6, 6, 6, 6])
    with EventStore.in_memory() as store:
        who = {"actor": "user:1"}
        names = [{}, {}, {}, who, {**who, "correlation_id": "c"}, {**who, "causation_id": "c"}]
        names += [names[-1], {**names[-1], "key": "k"}]
        for number, given in enumerate(names):
            facts = [said("x")] if number else [CREATED]
            work = append("a", *facts, codec=store.log.codec, expected=ANY, **given)
            store.log.commit([work], next(times))
        yield store


def turn(store: EventStore, index: int) -> None:
    """Turn the flag of one frame over."""
    store.log._frames[index] = flagged(store.log.read_all(index, 1)[0])


@pytest.mark.parametrize("what", ODD)
def test_a_frame_that_goes_on_with_what_it_can_not_is_named(odd, what):
    """Place, time, actor, ids and key are held to the frame in front; nothing else is said."""
    turn(odd, ODD[what])
    position = odd.log.read_all(ODD[what], 1)[0].position
    assert (
        told(verify(odd)) == f"position {position}: it goes on with an append that it is no part of"
    )


def test_a_frame_may_go_on_with_what_shares_all_of_it(odd):
    """Nothing in a frame gives the flag the lie where all that an append shares is the same."""
    turn(odd, 1)
    turn(odd, 6)
    assert told(verify(odd)) == ""


def test_behind_a_lost_frame_nothing_is_said_of_the_flag(history, tmp_path):
    """What a frame goes on with may be what is lost: only the loss is named."""
    store, _ = history
    one, _ = next(pair for pair in pairwise(frames_between(store.log)) if pair[1].continues)
    store.close()
    destroy(tmp_path / "history", one)
    with EventStore.open(tmp_path / "history", read_only=True) as opened:
        report = verify(opened)
    assert one.position in {each.position for each in report.findings}
    assert "no part of" not in told(report)


def destroy(place: Path, frame: Frame) -> None:
    """Damage the head of every copy of a frame in a closed store's file."""
    path = place / LOG / "data.mdb"
    content = bytearray(path.read_bytes())
    while (at := content.find(frame.raw)) >= 0:
        content[at + 20] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("which", [0, 1, -1])
def test_repair_begins_an_append_where_its_beginning_is_lost(history, tmp_path, which):
    """What came over alone goes on with nothing; all other appends are as they were."""
    store, _ = history
    one, other = [pair for pair in pairwise(frames_between(store.log)) if pair[1].continues][which]
    before = going_on(store)
    keyring = Keyring.file(tmp_path / "keyring") if store.log.codec.seal is not None else None
    store.close()
    destroy(tmp_path / "history", one)
    report = repair(tmp_path / "history", tmp_path / "made", keyring=keyring)
    assert report.positions == [(one.position, one.last_position + 1)]
    with EventStore.open(tmp_path / "made", read_only=True, keyring=keyring) as made:
        assert going_on(made) == before - {(other.session, other.version)}
        assert "no part of" not in told(verify(made, deep=True))


def going_on(store: EventStore) -> set[tuple[str, int]]:
    """Return session and first version of the frames that go on with an append."""
    found = frames_between(store.log)
    return {(each.session, each.version) for each in found if each.continues}
