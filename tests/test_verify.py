"""Verify: a sound store is called sound, and each kind of tampering is named where it is.

The tampering is done by a hand that knows LMDB and our checksums, so that only the very check
in question can find it; random damage is test_damage.py's.
"""

import threading
from itertools import count
from pathlib import Path

import msgspec
import pytest
from facts import fill, told
from tampering import facts, forge, snapshots
from xxhash import xxh3_64_digest, xxh3_64_intdigest

from eventstore import EventStore, events
from eventstore.audit.report import FINDINGS_MAX, Finding, Notes, Report
from eventstore.audit.verify import verify
from eventstore.events import Event, Span
from eventstore.log.draft import Draft
from eventstore.log.format import (
    EVENT_HEAD,
    EVENT_ROW,
)
from eventstore.messages import Message

# -- sound stores ----------------------------------------------------------------------------


def test_a_sound_store_is_called_sound(store: EventStore):
    """Nothing is found, everything is counted, and the report states the head."""
    fill(store)
    for deep in (False, True):
        report = verify(store, deep=deep)
        assert report.sound and not report.findings, told(report)
        assert report.size == report.checked["events"] == store.head().size
        assert report.root == store.head().root.hex()
        assert report.checked["frames"] == 164
        assert report.checked.get("states", 0) == (2 if deep else 0)


def test_an_empty_store_is_sound(store: EventStore):
    """No events, the empty root, no findings."""
    report = verify(store, deep=True)
    assert report.sound and (report.size, report.root) == (0, store.head().root.hex())


def test_the_tables_of_a_store_on_disk_are_counted(disk: EventStore):
    """Tiles, rows of the indexes, names, keys and snapshots are all looked at."""
    fill(disk)
    disk.headers.at("a", 300)
    checked = verify(disk, deep=True).checked
    assert (checked["tiles"], checked["keys"], checked["stream rows"]) == (20, 2, 164)
    assert (checked["sessions"], checked["dictionaries"]) == (2, 1)
    assert checked["names"] == 4 and checked["snapshots"] >= 1


def test_progress_reaches_the_end(store: EventStore):
    """The caller hears rising numbers that end at the size."""
    fill(store)
    heard: list[tuple[int, int]] = []
    verify(store, progress=lambda done, total: heard.append((done, total)))
    size = store.head().size
    assert heard == sorted(heard) and heard[-1] == (size, size)


def test_a_store_in_use_is_sound(disk: EventStore):
    """What is appended while verify walks is left out, and disturbs nothing."""
    fill(disk)
    stop = threading.Event()

    def work() -> None:
        for turn in count():
            disk.append("a", {"content": f"meanwhile {turn}"}, key=f"m{turn}")
            disk.create(actor=f"new {turn}")
            if stop.is_set():
                return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        reports = [verify(disk, deep=True) for _ in range(3)]
    finally:
        stop.set()
        thread.join()
    assert all(report.sound for report in reports), told(reports[-1])
    assert verify(disk).size > reports[0].size


def test_views_are_checked_by_whom_knows_them(store: EventStore):
    """The given check of views runs when deep, and what it finds is in the report."""
    wrong = Finding(3, "the view says otherwise")
    assert verify(store, views=lambda _: [wrong]).sound
    report = verify(store, deep=True, views=lambda given: [wrong] if given is store else [])
    assert report.findings == [wrong] and not report.sound


def test_a_report_lists_so_many_findings_and_counts_the_rest():
    """Past the limit findings are counted, and the report stays unsound and bounded."""
    notes = Notes()
    for position in range(FINDINGS_MAX + 7):
        notes.add(position, "damage")
    report = notes.report()
    assert (len(report.findings), report.unlisted, report.sound) == (FINDINGS_MAX, 7, False)
    assert str(Finding(4, "x")) == "position 4: x" and str(Finding(-1, "x")) == "x"


# -- facts that contradict each other ----------------------------------------------------------


LIES: list[tuple[Event, str]] = [
    (events.BranchCreated("nobody", 0), "session 'nobody' had no version 0"),
    (events.BranchCreated("a", 2), "session 'a' had no version 2"),
    (events.SessionRewound(9), "version 9 is not before it"),
    (events.Redacted(2), "version 2 is not before it"),
    (events.MessagesPruned([Span("a", 0, 1)], 2), "show 1 lines instead of 2"),
    (events.MessagesPruned([Span("a", 1, 2)], 1), "session 'a' had no messages 1 to 1"),
    (events.MessagesPruned([Span("x", 0, 1)], 1), "session 'x' had no messages 0 to 0"),
    (events.MessagesPruned([Span("a", 2, 3, note=True)], 1), "session 'a' had no version 2"),
    (events.MessagesPruned([Span("a", 0, 2, note=True)], 2), "is no one line"),
    (events.HistorySummarized({}, [Span("a", 0, 5)], 5), "session 'a' had no messages 0 to 4"),
    (events.BranchMerged("b", "a", 0, 2, "append"), "session 'b' had no version 0"),
    (events.BranchMerged("b", "a", 0, 3, "append"), "version 3 instead of 2"),
    (events.BranchMerged("b", "c", 0, 2, "append"), "it stands in session 'a'"),
    (events.BranchMerged("a", "b", 1, 0, "append"), "session 'b' had no version 0"),
    (events.SessionCreated(), "SessionCreated at version 2"),
]


@pytest.mark.parametrize(("lie", "what"), LIES, ids=lambda each: getattr(each, "__name__", None))
def test_an_event_that_contradicts_the_log_is_named(store: EventStore, lie: Event, what: str):
    """Forks, rewinds, merges and spans must speak of what was there at that moment."""
    store.create("a")
    store.append("a", {"content": "only line"})
    made = facts(store, "a", lie)
    forge(store, msgspec.structs.replace(made, creates=False))
    report = verify(store)
    assert f"position 2: {type(lie).__name__}" in told(report) and what in told(report)


def test_a_session_that_begins_otherwise_is_named(store: EventStore):
    """Version 0 says how a session came to be."""
    made = facts(store, "a", events.SessionClosed())
    forge(store, msgspec.structs.replace(made, creates=True))
    assert told(verify(store)) == "position 0: SessionClosed at version 0"


def test_half_a_merge_is_named(store: EventStore):
    """A merge stands in both of its streams, with one and the same fact."""
    for session in ("a", "b"):
        store.create(session)
    merged = events.BranchMerged("b", "a", 0, 1, "append")
    forge(store, facts(store, "a", merged))
    assert told(verify(store)) == "position 2: BranchMerged: no such fact in session 'b'"
    other = msgspec.structs.replace(merged, tokens=4)
    forge(store, facts(store, "b", other))
    assert told(verify(store)) == "position 3: BranchMerged: its two halves differ"


def altered(made: Draft, index: int, **fields: int) -> Draft:
    """Return a draft whose event head says something else, under a valid checksum."""
    names = ("end", "size", "tokens", "type", "schema", "flags", "role", "dictionary")
    rows = list(EVENT_ROW.iter_unpack(made.heads))
    values = dict(zip(names, rows[index][:-1], strict=True)) | fields
    head = EVENT_HEAD.pack(*values.values())
    start = rows[index - 1][0] if index else 0
    checksum = xxh3_64_intdigest(head + made.bodies[start : rows[index][0]]) & 0xFFFFFFFF
    at = index * EVENT_ROW.size
    heads = made.heads[:at] + head + checksum.to_bytes(4, "big") + made.heads[at + EVENT_ROW.size :]
    return msgspec.structs.replace(made, heads=heads)


@pytest.mark.parametrize("field", ["tokens", "role"])
def test_a_copy_in_the_head_that_lies_is_named_when_deep(store: EventStore, field: str):
    """Tokens and role in an event's head are held to the payload, by the deep check alone."""
    store.create("a")
    said = events.MessageAppended(Message({"role": "user", "content": "x"}), 3)
    forge(store, altered(facts(store, "a", said, said), 1, **{field: 4}))
    assert verify(store).sound
    assert "position 2: tokens" in told(verify(store, deep=True))


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"size": 5}, "position 2: payload can't be decompressed"),
        ({"size": 1 << 30}, "position 2: payload of 1073741824 bytes is over the limit"),
        ({"type": 12}, "position 2: payload is no event"),
        ({"type": 99}, "position 2: payload is no event"),
        ({"dictionary": 1}, "position 2: "),
        ({"dictionary": 77}, "position 2: compression dictionary 77 is missing"),
    ],
)
def test_a_payload_that_is_not_what_its_head_says_is_named(
    store: EventStore, fields: dict[str, int], what: str
):
    """Size, type and dictionary must fit the bytes they describe."""
    store.create("a")
    said = events.MessageAppended(Message({"role": "user", "content": "x"}), 1)
    forge(store, altered(facts(store, "a", said, said), 1, **fields))
    assert what in told(verify(store, deep=True))


def test_a_leaf_that_is_not_of_its_event_is_named(store: EventStore):
    """The tree is built again from the frames alone: a digest made up at the commit shows."""
    store.create("a")
    made = facts(store, "a", events.SessionClosed())
    forge(store, msgspec.structs.replace(made, digests=[bytes(64)]))
    assert told(verify(store)) == "the tree head is not what the frames hash to"


def test_damage_in_memory_is_named_and_the_walk_goes_on():
    """Every damaged frame of a log without tables is named by its position."""
    with EventStore.in_memory() as store:
        fill(store)
        frames = store.log._frames
        for index in (3, 50):
            frames[index] = frames[index][:-1] + bytes([frames[index][-1] ^ 1])
        frames[90] = frames[90][:2] + b"\xff" + frames[90][3:]
        assert [each.position for each in verify(store).findings] == [3, 50, 90]


# -- snapshots ---------------------------------------------------------------------------------


def verified(place: Path, *, deep: bool = False) -> Report:
    """Return what verify says about a directory whose structure is sound."""
    with EventStore.open(place, read_only=True) as store:
        return verify(store, deep=deep)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Give a store with snapshots of a session and of its branch."""
    place = tmp_path / "history"
    with EventStore.open(place) as store:
        store.create("a", metadata={"n": 1})
        for _ in range(3):
            store.append("a", [{"content": "x"}] * 300)
        store.branch("a", "b", at=500)
        store.append("b", [{"content": "y"}] * 300)
        for session in ("a", "b"):
            store.headers.at(session, store.version(session))
        report = verify(store, deep=True)
        assert report.sound and report.checked["snapshots"] >= 3
    return place


def test_a_snapshot_that_is_not_the_fold_is_named(saved: Path):
    """A snapshot with a valid checksum and wrong contents is found, by the deep check."""
    with snapshots(saved) as rows:
        _, value, put = rows[0]
        header = msgspec.msgpack.decode(value[8:])
        forged = msgspec.msgpack.encode({**header, "metadata": {"n": 2}})
        put(xxh3_64_digest(forged) + forged)
    assert verified(saved).sound
    assert "snapshot of session 'a' at version" in told(verified(saved, deep=True))


def test_a_damaged_snapshot_is_named_and_never_used(saved: Path):
    """A snapshot whose checksum fails is reported, and states are folded without it."""
    with snapshots(saved) as rows:
        for _, value, put in rows:
            put(value[:-1] + bytes([value[-1] ^ 1]))
    report = verified(saved, deep=True)
    assert len(report.findings) == report.checked["snapshots"] == len(rows)
    assert all("does not match its checksum" in each.what for each in report.findings)


def test_a_snapshot_under_another_name_is_never_used(saved: Path):
    """A row that stands under another session's key is no snapshot of that session."""
    with snapshots(saved) as rows:
        newest = {key[:1]: (value, put) for key, value, put in rows}
        newest[b"b"][1](newest[b"a"][0])
    assert "snapshot of session 'b'" in told(verified(saved, deep=True))
    with EventStore.open(saved) as store:
        assert store.headers.now("b").session == "b"
