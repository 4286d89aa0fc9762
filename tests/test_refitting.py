"""Refitting: compaction leaves no dictionary with what was redacted, and breaks no proof."""

import random
import shutil
from pathlib import Path

import pytest
from facts import told

from eventstore import Corruption, EventStore
from eventstore.audit.proof import Prover
from eventstore.audit.verify import verify
from eventstore.care.backup import Moment, backup, restore
from eventstore.care.carrying import dictionaries_of
from eventstore.care.compacting import compact
from eventstore.care.repair import repair
from eventstore.log.codec import train
from eventstore.log.format import DICTIONARIES, FRAMES, POSITION, RAW, REF, SHREDDED, STARTER
from eventstore.log.frame import Frame
from eventstore.log.rows import checked_row
from eventstore.place.directory import LOG
from eventstore.place.opening import UNFINISHED

PIECE_BYTES = 8
"""So many bytes of what was said are somebody's words; fewer are in anybody's."""

FIRST = STARTER + 1
"""The number of the first dictionary that a store trains."""


def words(seed: int, count: int = 12) -> str:
    """Return words that nobody else says."""
    chance = random.Random(seed)
    return " ".join("".join(chance.choices("bcdfghjklmnpqrstvwxz", k=9)) for _ in range(count))


GONE = [words(seed) for seed in (1, 2, 3)]
STAYS = words(4)


def pieces(texts: list[str], place: Path) -> set[bytes]:
    """Return the pieces of these texts that stand anywhere in a store's files."""
    whole = b"\0".join(each.read_bytes() for each in place.rglob("*") if each.is_file())
    said = [text.encode() for text in texts]
    cut = {
        text[at : at + PIECE_BYTES] for text in said for at in range(len(text) - PIECE_BYTES + 1)
    }
    return {each for each in cut if each in whole}


def line(text: str) -> dict[str, str]:
    """Return what a user says."""
    return {"role": "user", "content": text}


def talk(store: EventStore, rounds: int = 100) -> None:
    """Say the same things often, in appends of every shape, so that a dictionary learns them."""
    store.create("talk")
    store.append("talk", [line(GONE[0]), line(GONE[1]), line(STAYS)], key="first")
    for turn in range(rounds):
        text = STAYS if turn % 4 else GONE[turn % 3]  # each that is to go costs a redaction
        said = line(f"{text} {turn}")
        store.append("talk", said, occurred_at=turn if turn % 5 == 0 else None)
        store.append("talk", line(f"{STAYS} {turn}"))
        store.append("talk", [line("ok"), line(f"the price of item {turn} is {turn * 7}")])


def redact(store: EventStore) -> None:
    """Take back all that says one of the texts that are to go."""
    for each in list(store.events("talk")):
        if any(text in str(each.event) for text in GONE):
            store.redact("talk", each.version)


def seen(store: EventStore) -> list[tuple[object, ...]]:
    """Return all that can be read of every event."""
    return [
        (each.position, each.session, each.version, each.occurred_at, each.key, each.structure)
        for each in store.all()
    ]


def rows(store: EventStore, *left_out: bytes) -> dict[bytes, list[tuple[bytes, bytes]]]:
    """Return every row of the tables of a store's log, some tables left out."""
    env = store.log.env
    with env.begin() as txn:
        return {
            name: [(bytes(key), bytes(row)) for key, row in txn.cursor(env.table(name))]
            for name in env.tables()
            if name not in left_out
        }


def numbers(store: EventStore) -> set[int]:
    """Return the dictionaries that payloads need."""
    return {each.frame.row(each.index)[7] for each in store.all() if not each.erased}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a store that was trained before, in the midst of and after what is redacted now."""
    place = tmp_path_factory.mktemp("refitting") / "history"
    with EventStore.open(place, durability="buffered", train=False) as store:
        talk(store)
        store.train_dictionary()
        store.append("talk", [line(f"{text} again") for text in GONE])
        for turn in range(100):
            store.append("talk", line(f"{STAYS} {turn}"))
            store.append("talk", line(random.Random(turn).randbytes(20).hex()))
        store.train_dictionary()
        store.append("talk", line(f"{STAYS} and {GONE[0]}"), key="last")
        redact(store)
    return place


@pytest.fixture
def redacted(made: Path, tmp_path: Path) -> Path:
    """Give a copy of it, which nobody has open."""
    return Path(shutil.copytree(made, tmp_path / "history"))


def test_no_piece_of_what_was_redacted_is_left(redacted):
    """Dictionaries had pieces of it; once compacted no byte of the store has, and one serves on."""
    with EventStore.open(redacted) as store:
        learnt = b"".join(dictionaries_of(store.log).values())
    assert any(text[:PIECE_BYTES].encode() in learnt for text in GONE)
    assert pieces(GONE, redacted)
    compact(redacted)
    assert pieces(GONE, redacted) == set()
    assert pieces([STAYS], redacted)
    with EventStore.open(redacted) as store:
        known = dictionaries_of(store.log)
        assert [bool(known[number]) for number in sorted(known)] == [True, False, False, True]
        assert FIRST + 2 in numbers(store) <= {RAW, STARTER, FIRST + 2}
        assert store.trained


def test_what_a_store_learnt_by_itself_goes_too(tmp_path):
    """After training in the background as after one by hand: redact and compact, and it is gone."""
    place = tmp_path / "history"
    with EventStore.open(place, durability="buffered") as store:
        talk(store, 200)
        store.flush()
        store.fitter.wait()
        store.append("talk", [line(f"{text} again") for text in GONE])
        assert store.trained
        redact(store)
        before = seen(store)
    assert pieces(GONE, place)
    compact(place)
    assert pieces(GONE, place) == set()
    with EventStore.open(place) as store:
        assert seen(store) == before
        assert told(verify(store, deep=True)) == ""


def test_all_that_is_left_reads_as_before(redacted):
    """Events, head, proofs, keys and every other table are the same, and the store is sound."""
    with EventStore.open(redacted) as store:
        before, head = seen(store), store.head()
        others = rows(store, FRAMES, DICTIONARIES)
        proof = Prover.of(store.log).inclusion(3, head.size)
    compact(redacted)
    with EventStore.open(redacted) as store:
        assert told(verify(store, deep=True)) == ""
        assert (seen(store), store.head()) == (before, head)
        assert rows(store, FRAMES, DICTIONARIES) == others
        assert Prover.of(store.log).inclusion(3, head.size) == proof
        assert store.append("talk", line("any"), key="last").duplicate
        more = store.append("talk", line(f"{STAYS} once more"))
        assert store.event(more.position).frame.row(0)[7] == FIRST + 2
        assert told(verify(store, deep=True)) == ""
    compact(redacted)
    with EventStore.open(redacted) as store:
        assert seen(store)[: len(before)] == before


def test_without_redactions_dictionaries_stay(tmp_path):
    """Where nothing was destroyed, compaction copies frames and dictionaries as they are."""
    place = tmp_path / "history"
    with EventStore.open(place, durability="buffered", train=False) as store:
        talk(store)
        store.train_dictionary()
        store.append("talk", line(STAYS))
        store.flush()
        before = rows(store)
    compact(place)
    with EventStore.open(place) as store:
        assert rows(store) == before


def test_too_little_is_left_to_train_on(tmp_path):
    """The starter serves then, and no number is given twice: the next dictionary has the next."""
    place = tmp_path / "history"
    with EventStore.open(place) as store:
        store.create("talk")
        said = [f"{GONE[turn % 3]} {turn}".encode() for turn in range(99)]
        assert store.log.add_dictionary(train(said)) == FIRST
        store.append("talk", [line(GONE[0]), line(STAYS)])
        store.redact("talk", 1)
        before = seen(store)
    assert pieces(GONE, place)
    compact(place)
    assert pieces(GONE, place) == set()
    with EventStore.open(place) as store:
        assert not store.trained
        assert store.log.codec.current == STARTER
        assert seen(store) == before
        assert told(verify(store, deep=True)) == ""
        talk_on = [line(f"the price of item {turn} is {turn * 7}") for turn in range(300)]
        store.append("talk", talk_on)
        assert store.train_dictionary() == FIRST + 1
        assert store.trained


def test_an_increment_of_after_it_leads_on(redacted, tmp_path):
    """A backup of before, an increment with a dictionary that goes and one of after: all reads."""
    copy, whole = tmp_path / "copy", tmp_path / "whole"
    with EventStore.open(redacted) as store:
        backup(store, copy)
        assert store.train_dictionary() == FIRST + 2
        store.append("talk", line(f"{STAYS} between"))
        backup(store, copy, incremental=True)
    compact(redacted)
    with EventStore.open(redacted) as store:
        store.append("talk", line(f"{STAYS} after"))
        assert backup(store, copy, incremental=True) == store.head()
        assert FIRST + 3 in numbers(store)
        restore(copy, whole)
        with EventStore.open(whole) as restored:
            assert seen(restored) == seen(store)
            assert told(verify(restored, deep=True)) == ""


def test_a_backup_and_a_moment_of_it_read_the_same(redacted, tmp_path):
    """Full backups, and what is restored of them, keep the numbers that were dropped taken."""
    compact(redacted)
    with EventStore.open(redacted) as store:
        store.append("talk", line(STAYS))
        store.append("talk", line(f"{STAYS} once more"))
        backup(store, tmp_path / "copy")
        known = dictionaries_of(store.log)
        before = seen(store)
    restore(tmp_path / "copy", tmp_path / "whole")
    restore(tmp_path / "copy", tmp_path / "part", moment=Moment(position=len(before) - 2))
    for name in ("whole", "part"):
        with EventStore.open(tmp_path / name) as made:
            assert dictionaries_of(made.log) == known
            assert seen(made)[: len(before) - 1] == before[:-1]
            assert told(verify(made, deep=True)) == ""


def test_a_repair_of_it_keeps_all(redacted, tmp_path):
    """Salvage reads such a log as any other, and brings back nothing that went."""
    compact(redacted)
    with EventStore.open(redacted) as store:
        before = seen(store)
    assert repair(redacted, tmp_path / "repaired").whole
    assert pieces(GONE, tmp_path / "repaired") == set()
    with EventStore.open(tmp_path / "repaired") as made:
        assert seen(made)[: len(before)] == before
        assert told(verify(made, deep=True)) == ""


def damage(place: Path, table: bytes, key: bytes, at: int) -> None:
    """Flip a bit in a row, as a disk would that LMDB does not see."""
    with EventStore.open(place) as store:
        env = store.log.env
        with env.write() as txn:
            row = bytearray(txn.get(key, db=env.table(table)))
            row[at] ^= 4
            txn.put(key, bytes(row), db=env.table(table))


@pytest.mark.parametrize("what", ["head", "payload", "dictionary"])
def test_damage_stops_it(redacted, what):
    """A frame, a payload or a dictionary that is damaged is named, and the old store stays."""
    with EventStore.open(redacted) as store:
        last = [each for each in store.all() if each.frame.row(each.index)[7] == FIRST][-1]
        key = POSITION.pack(last.frame.last_position)
    if what == "dictionary":
        damage(redacted, DICTIONARIES, REF.pack(FIRST), 900)
    else:
        damage(redacted, FRAMES, key, 20 if what == "head" else -1)
    before = (redacted / LOG / "data.mdb").read_bytes()
    with pytest.raises(Corruption):
        compact(redacted)
    assert (redacted / LOG / "data.mdb").read_bytes() == before
    assert list(redacted.glob(f"{UNFINISHED}*")) == []


def test_a_frame_that_names_a_dropped_dictionary_is_named(redacted):
    """What would need a dictionary that is gone is damage, and verify says where."""
    with EventStore.open(redacted) as store:
        env = store.log.env
        with env.write() as txn:
            row = checked_row(b"", REF.pack(FIRST))
            txn.put(REF.pack(FIRST), row, db=env.table(DICTIONARIES))
    with EventStore.open(redacted) as store:
        assert f"compression dictionary {FIRST} is missing" in told(verify(store))


def test_frames_that_need_none_keep_every_byte(redacted):
    """What the starter compressed, what is raw and what is gone is copied as it is."""
    with EventStore.open(redacted) as store:
        before = dict(rows(store)[FRAMES])
        gone = {FIRST, FIRST + 1}
        kept = {
            key: raw
            for key, raw in before.items()
            if not gone
            & {
                row[7]
                for row in Frame(raw, POSITION.unpack(key)[0], store.log.codec).rows()
                if not row[5] & SHREDDED
            }
        }
    assert 0 < len(kept) < len(before)
    compact(redacted)
    with EventStore.open(redacted) as store:
        after = dict(rows(store)[FRAMES])
    assert kept.items() <= after.items()
    assert before.keys() == after.keys()
