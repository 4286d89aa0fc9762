"""Repair: whatever is damaged, all that is whole is in the new store and nothing else is."""

import random
import shutil
from pathlib import Path

import pytest
from facts import told
from mended import (
    DAMAGES,
    PAGE,
    SECRET,
    Original,
    check,
    damaged,
    repaired,
    stands_alone,
    stands_behind_key,
)
from refused import left_over

from eventstore import EventStore, FormatTooNew, StoreLocked, StoreUnavailable
from eventstore.audit.verify import verify
from eventstore.care.repair import Repaired, repair
from eventstore.place.directory import LOG

SEEDS = [*range(8), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(8, 400))]
"""What damage is drawn from: some always, the others by hand and nightly."""


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_whole_is_saved_and_nothing_else(plain, tmp_path, seed):
    """Random damage: each event that is left whole is there unaltered, all others are listed."""
    content = damaged(plain, tmp_path / "h", DAMAGES[seed % len(DAMAGES)], seed)
    report = repair(tmp_path / "h", tmp_path / "made")
    assert (tmp_path / "h" / LOG / "data.mdb").read_bytes() == content
    assert sorted(each.name for each in (tmp_path / "h").rglob("*")) == [
        "data.mdb",
        "eventstore.json",
        LOG,
    ]
    check(plain, content, tmp_path / "made", report)


def check_sealed(original: Original, content: bytes, place: Path, report: Repaired) -> None:
    """Like check, where payloads of one session are gone for good."""
    for each in place.rglob("*"):
        assert not each.is_file() or SECRET.encode() not in each.read_bytes()
    check(original, content, place, report)


@pytest.mark.parametrize("seed", [*SEEDS[:3], *SEEDS[8:100]])
def test_an_encrypted_store_is_repaired_with_its_keyring(encrypted, tmp_path, seed):
    """Sealed facts come over sealed, placeholders are sealed; what was erased stays erased."""
    content = damaged(encrypted, tmp_path / "h", DAMAGES[seed % len(DAMAGES)], seed)
    report = repair(tmp_path / "h", tmp_path / "made", keyring=encrypted.keyring)
    check_sealed(encrypted, content, tmp_path / "made", report)


# -- the model's own ground ------------------------------------------------------------------


def test_frames_are_known_by_their_checksums(plain):
    """The model's own ground: each frame of the original stands whole in its file."""
    for frame in plain.frames:
        assert stands_behind_key(frame, plain.content) or stands_alone(frame, plain.content)


def test_the_model_has_frames_that_no_commit_made_facts(plain, encrypted):
    """Its other ground: some are left at positions that others took since, and behind the end."""
    for original in (plain, encrypted):
        file = original.place / LOG / "data.mdb"
        with EventStore.open(original.place, read_only=True, keyring=original.keyring) as store:
            dead = [each.position for each in left_over(file, store.log.codec, original.frames)]
        assert sum(position < original.head.size for position in dead) > 10
        assert sum(position >= original.head.size for position in dead) > 10


# -- nothing lost ----------------------------------------------------------------------------


def test_a_sound_store_is_repaired_to_itself(plain, tmp_path):
    """With nothing lost the new store has the same facts, the same root, and another origin."""
    report = repair(plain.place, tmp_path / "made")
    assert report.whole and report.root == plain.head.root.hex()
    assert (report.size, report.kept, report.positions) == (plain.head.size, plain.head.size, [])
    with EventStore.open(tmp_path / "made") as store:
        assert store.head() == plain.head
        line = {"role": "user", "content": "line 3 " * 30}
        assert store.append("bulk", [line] * 9, key="key 3").duplicate
        store.append("bulk", line)  # its first fact: what it was made of
        assert told(verify(store, deep=True)) == ""


def test_a_sound_store_needs_no_keyring(encrypted, tmp_path):
    """Sealed facts, halves of merges too, come over as they are by whoever can't read them."""
    report = repair(encrypted.place, tmp_path / "made")
    assert report.whole and report.root == encrypted.head.root.hex()
    with EventStore.open(tmp_path / "made", keyring=encrypted.keyring) as store:
        assert told(verify(store, deep=True)) == ""


def test_without_its_description_a_store_is_repaired(plain, tmp_path):
    """The log knows its own store; the description beside it is made anew."""
    damaged(plain, tmp_path / "h", lambda *_: None, 0)
    for content in (None, b"", b"{}"):
        marker = tmp_path / "h" / "eventstore.json"
        marker.unlink() if content is None else marker.write_bytes(content)
        place = tmp_path / f"made {content}"
        assert repair(tmp_path / "h", place).whole
        with EventStore.open(place) as store, EventStore.open(plain.place, read_only=True) as was:
            assert store.id == was.id
    marker.write_text('{"format": 99, "store": "x"}')
    with pytest.raises(FormatTooNew):
        repair(tmp_path / "h", tmp_path / "newer")


# -- damage that is made, not drawn ----------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 512, PAGE])
def test_bytes_that_are_lost_or_come_in_between_move_no_frame_out_of_reach(plain, tmp_path, size):
    """Behind them no page is at its place: frames are found wherever they begin."""

    def loses(_: random.Random, content: bytearray) -> None:
        del content[2 * PAGE : 2 * PAGE + size]

    def gains(_: random.Random, content: bytearray) -> None:
        content[2 * PAGE : 2 * PAGE] = b"x" * size

    for damage in (loses, gains):
        assert repaired(plain, tmp_path / damage.__name__, damage).kept > plain.head.size // 2


def test_pages_that_stand_where_the_first_two_should_are_looked_at(plain, tmp_path):
    """What is in them is as whole as it was at its own place."""
    leaf = plain.content.index(plain.frames[0].raw) // PAGE * PAGE

    def trades(_: random.Random, content: bytearray) -> None:
        content[:PAGE], content[leaf : leaf + PAGE] = content[leaf : leaf + PAGE], content[:PAGE]

    assert repaired(plain, tmp_path, trades).kept == plain.head.size


def test_rubbish_gives_an_empty_store_or_an_error(plain, tmp_path):
    """A file without anything of ours in it never ends in anything but a clear answer."""
    for number, content in enumerate([b"", b"x", random.Random(2).randbytes(20 * PAGE)]):
        place = tmp_path / str(number)
        (place / LOG).mkdir(parents=True)
        shutil.copy(plain.place / "eventstore.json", place)
        (place / LOG / "data.mdb").write_bytes(content)
        report = repair(place, tmp_path / f"made {number}")
        assert (report.size, report.kept, report.events) == (0, 0, 0)
        EventStore.open(tmp_path / f"made {number}").close()


def test_nothing_is_overwritten_and_nobody_disturbed(plain, tmp_path):
    """A destination that exists, a source that is open or that is none: each is one clear error."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("mine")
    with pytest.raises(StoreUnavailable, match="overwrites nothing"):
        repair(plain.place, tmp_path / "there")
    with pytest.raises(StoreUnavailable, match="can't be read"):
        repair(tmp_path / "there", tmp_path / "made")
    damaged(plain, tmp_path / "open", lambda *_: None, 0)
    with EventStore.open(tmp_path / "open"), pytest.raises(StoreLocked, match="repair it then"):
        repair(tmp_path / "open", tmp_path / "made")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["open", "there"]
