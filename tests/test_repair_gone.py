"""Repair of what was redacted or erased: old pages still have it, the new store never does."""

import random
from pathlib import Path

import pytest
from facts import told
from mended import PAGE, SECRET, Damage, Original, damaged, is_placeholder, repaired

from eventstore import EventStore, Keyring, StoreUnavailable
from eventstore.audit.pages import LEAF, PageFile, page_kind
from eventstore.audit.verify import verify
from eventstore.care.mending import LostPart
from eventstore.care.repair import repair
from eventstore.events import HistorySummarized, KeyShredded, Redacted, Span
from eventstore.log.format import POSITION
from eventstore.log.frame import Frame
from eventstore.place.directory import LOG


def hit(original: Original, session: str, *versions: int) -> Damage:
    """Return the damage of a bit in the last byte of all copies of frames with these versions."""

    def flip(_: random.Random, content: bytearray) -> None:
        for frame in original.frames:
            here = range(frame.version, frame.last_version + 1)
            while frame.session == session and set(here) & set(versions) and frame.raw in content:
                content[content.index(frame.raw) + len(frame.raw) - 1] ^= 1

    return flip


def pages_of(file: Path, frame: Frame) -> list[int]:
    """Return the leaf pages, free ones too, that have a node for a frame."""
    key = POSITION.pack(frame.last_position)
    with PageFile(file) as pages:
        leaves = [n for n in range(pages.pages) if page_kind(pages.page(n)) == LEAF]
        return [n for n in leaves if any(key == node[1] for node in pages.nodes(pages.page(n)))]


@pytest.mark.parametrize("broken", [True, False])
def test_the_newest_copy_that_is_whole_is_taken(tmp_path, broken):
    """Not one of before a redaction, whole or damaged, though it comes first in the file."""
    place = tmp_path / "history"
    with EventStore.open(place) as store:
        store.create("a")
        store.append("a", {"content": SECRET})
        before = store.log.read_all(1)[0]
        store.redact("a", 1)
        after = store.log.read_all(1)[0]
    older, newer = (POSITION.pack(each.last_position) + each.raw for each in (before, after))
    older = older[:-1] + bytes([older[-1] ^ broken])
    file = place / LOG / "data.mdb"
    content = file.read_bytes().replace(older[:-1], bytes(len(older) - 1))
    content = content.replace(newer, bytes(len(newer)))
    file.write_bytes(content + older + bytes(9) + newer)
    report = repair(place, tmp_path / "made")
    assert (report.kept, report.sessions) == (3, [])
    with EventStore.open(tmp_path / "made") as store:
        (_, message, _) = store.events("a")
        assert message.frame.raw == after.raw


def test_a_placeholder_is_no_hidden_line(plain, tmp_path):
    """What stands for a redacted fact was not redacted, where the fact of that is lost too."""
    summary, redacted = (
        max(where[1] for where, event in plain.events.items() if isinstance(event, kind))
        for kind in (HistorySummarized, Redacted)
    )
    repaired(plain, tmp_path, hit(plain, "bulk", summary, redacted))
    with EventStore.open(tmp_path / "made") as store:
        assert store.log.hidden() == {"bulk": [Span("bulk", 6, 7)]}


def test_a_lost_summary_that_was_redacted_is_a_placeholder(plain, tmp_path):
    """What stands for it is no summary, and loses its payload as well."""
    (version,) = [
        version
        for (session, version), event in plain.events.items()
        if session == "bulk" and isinstance(event, HistorySummarized)
    ]
    report = repaired(plain, tmp_path, hit(plain, "bulk", version))
    assert report.sessions == [LostPart("bulk", version, version)]


@pytest.mark.parametrize("versions", [[3], [1, 3], [2], [2, 3], [0, 1, 2]])
def test_an_erasure_of_which_a_part_is_lost_stays_one(encrypted, tmp_path, versions):
    """Nothing else may come after the fact that asks for it: whoever opens the store ends it.

    Where that fact is lost the end alone counts.
    """
    report = repaired(encrypted, tmp_path, hit(encrypted, "private", *versions))
    assert report.kept == encrypted.head.size - len(versions)
    with EventStore.open(tmp_path / "made", keyring=encrypted.keyring) as store:
        facts = list(store.events("private"))
        assert 2 in versions or isinstance(facts[3].structure, KeyShredded)
        assert all(each.erased or is_placeholder(each) for each in facts[:2])


def test_repair_brings_no_payload_of_an_erased_session_back(tmp_path):
    """Nobody could open it, and what folds the session would meet it: it is taken away again."""
    place, keyring = tmp_path / "history", Keyring.file(tmp_path / "keyring")
    with EventStore.open(place, keyring=keyring) as store:
        store.create("private")
        store.append("private", {"content": SECRET})
        store.create("other")
        for number in range(40):  # so that the end of the erasure is on another page
            store.append("other", {"role": "user", "content": f"line {number}"})
        old = (place / LOG / "data.mdb").read_bytes()
        store.erase("private", reason="asked for")
        frames = [each for each in store.log.read_all(0) if each.session == "private"]
    file = place / LOG / "data.mdb"
    content = bytearray(file.read_bytes())
    for number in pages_of(file, frames[1]):
        content[number * PAGE : (number + 1) * PAGE] = bytes(PAGE)
    file.write_bytes(content + old)
    report = repair(place, tmp_path / "made", keyring=keyring)
    assert report.kept == report.size and not report.positions
    with EventStore.open(tmp_path / "made", keyring=keyring) as store:
        assert [each.erased for each in store.events("private")] == [True, True, False, False]
        assert told(verify(store, deep=True)) == ""


def test_repair_brings_no_values_of_an_erased_session_back(tmp_path):
    """Where a merge took them along, and an old page has it as it was, they go once more."""
    place, keyring = tmp_path / "history", Keyring.file(tmp_path / "keyring")
    with EventStore.open(place, keyring=keyring) as store:
        store.create("target")
        store.branch("target", "source")
        store.set_context("source", "code", SECRET)
        merged = store.merge("source", into="target", strategy="adopt")
        store.append("target", [{"role": "user", "content": f"{each}" * 900} for each in range(9)])
        old = (place / LOG / "data.mdb").read_bytes()
        store.erase("source", reason="asked for", cascade=True)
        frame = store.log.read_all(merged.position)[0]
    file = place / LOG / "data.mdb"
    content = bytearray(file.read_bytes())
    page = content.index(frame.raw) // PAGE * PAGE
    file.write_bytes(content[:page] + bytes(PAGE) + content[page + PAGE :] + old)
    repair(place, tmp_path / "made", keyring=keyring)
    with EventStore.open(tmp_path / "made", keyring=keyring) as store:
        assert merged.version in {each.version for each in store.events("target") if each.erased}
        assert SECRET not in repr([each.structure for each in store.events("target")])
        assert told(verify(store, deep=True)) == ""


def test_repair_brings_no_redacted_value_back(tmp_path):
    """Where an old page has it, it goes once more, and the one before it does not come instead."""
    place = tmp_path / "history"
    with EventStore.open(place) as store:
        store.create("s", context={"code": "the one before"})
        store.set_context("s", "code", SECRET)
        for number in range(40):  # so that the fact of the redaction is on another page
            store.append("s", {"role": "user", "content": f"line {number}"})
        old = (place / LOG / "data.mdb").read_bytes()
        store.redact("s", 1)
        frame = store.log.read_all(1)[0]
    file = place / LOG / "data.mdb"
    content = bytearray(file.read_bytes())
    for number in pages_of(file, frame):
        content[number * PAGE : (number + 1) * PAGE] = bytes(PAGE)
    file.write_bytes(content + old)
    report = repair(place, tmp_path / "made")
    assert report.kept == report.size and not report.positions
    with EventStore.open(tmp_path / "made") as store:
        assert store.headers.now("s").context == {}
        assert SECRET not in repr([each.structure for each in store.events("s")])
        assert told(verify(store, deep=True)) == ""


def test_old_pages_are_used_only_by_who_can_read_what_came_later(encrypted, tmp_path):
    """What stands there may have been redacted since, by a fact that is sealed."""

    def loses_the_newest(_: random.Random, content: bytearray) -> None:
        numbers = pages_of(encrypted.place / LOG / "data.mdb", encrypted.frames[-1])
        content += content[numbers[0] * PAGE : (numbers[0] + 1) * PAGE]
        for number in numbers:
            content[number * PAGE : (number + 1) * PAGE] = bytes(PAGE)

    damaged(encrypted, tmp_path / "h", loses_the_newest, 0)
    with pytest.raises(StoreUnavailable, match="keyring"):
        repair(tmp_path / "h", tmp_path / "locked")
    assert repair(tmp_path / "h", tmp_path / "made", keyring=encrypted.keyring).whole
