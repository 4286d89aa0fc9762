"""Forged stores: what a hand that knows LMDB and all our checksums writes to make a reader stumble.

Every checksum fits here. So each fact is about the next line of defence: no such row raises what is
no error of the tree, takes memory or time beyond its size, or is named in a wrong place.
"""

# ruff: noqa: D103 - the name of a forgery says all that it does

import shutil
import tracemalloc
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

import msgspec
import pytest
from facts import told
from leaps import by_leaps, carefully, verified
from tampering import (
    LOOSE,
    NAMES_AT,
    Tables,
    facts,
    forge,
    head_in,
    last,
    rewritten,
    tables,
)
from xxhash import xxh3_64_digest

from eventstore import EventStore, Keyring, events
from eventstore.audit import frames as walked
from eventstore.audit import stretches
from eventstore.audit.dossier import dossier_lines, dossier_of, page_parts
from eventstore.audit.relations import NOWHERE, REFS_A_STREAM, REFS_MIN, Places
from eventstore.audit.verify import verify, verify_directory
from eventstore.care.doctor import diagnose
from eventstore.care.mending import ROOM_EVENTS
from eventstore.care.repair import repair
from eventstore.errors import Corruption, InvalidEvent, KeyShredded
from eventstore.events import Span
from eventstore.interchange.lines import frames_of, written
from eventstore.limits import EVENT_BYTES_MAX
from eventstore.log.base import POSITION_MAX
from eventstore.log.codec import Codec
from eventstore.log.format import (
    CHECKSUM32,
    CONTINUES,
    DICTIONARIES,
    ENCRYPTED_KEY,
    ERASED_KEY,
    EVENT_HEAD,
    EVENT_ROW,
    FRAME_HEAD_BYTES,
    FRAME_NAMES,
    FRAMES,
    HEAD_KEY,
    HEAD_ROW,
    KEYS,
    META,
    OCCURRED,
    REF,
    REFS,
    SHREDDED,
    STARTER,
    STORE_ID_KEY,
    STREAM_ROW,
    STREAMS,
    ZSTD,
)
from eventstore.log.rows import checked_row, kept_ref
from eventstore.state.lineage import lineage
from eventstore.state.transcript import Transcript
from projections import Views

MIB = 1 << 20
ROW = slice(FRAME_HEAD_BYTES, NAMES_AT)
"""Where a frame of one event has the head of that."""


@pytest.fixture(autouse=True)
def _short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretches, "STRETCH_BITS", 4)


def remade(opened: Tables, position: int, body: bytes, **fields: int) -> None:
    """Give the event of a frame of one event another body and head, and both fitting checksums."""
    raw = opened.get(FRAMES, last(position))
    names = ("end", "size", "tokens", "type", "schema", "flags", "role", "dictionary")
    head = dict(zip(names, EVENT_ROW.unpack(raw[ROW]), strict=False)) | fields | {"end": len(body)}
    packed = EVENT_HEAD.pack(*head.values())
    checksum = xxh3_64_digest(packed + body)[-CHECKSUM32.size :]
    bodies_at = NAMES_AT + FRAME_NAMES.size + sum(raw[NAMES_AT + REF.size :][:4])
    made = raw[: ROW.start] + packed + checksum + raw[NAMES_AT:bodies_at] + body
    opened.put(FRAMES, last(position), made)
    rewritten(opened, position, 8, made[8:9])


def said(opened: Tables, position: int, payload: bytes, **fields: int) -> None:
    """Put another payload into a frame of one event, stored as it is."""
    fields = {"size": len(payload), "dictionary": 0} | fields
    remade(opened, position, bytes(16) + payload, **fields)


def bomb(mebibytes: int) -> bytes:
    """Return a bare zstd frame of 33 bytes a MiB that states its size, and has it."""
    block = (1 << 1 | (128 << 10) << 3).to_bytes(3, "little") + b"A"
    blocks = block * (8 * mebibytes - 1) + bytes([block[0] | 1]) + block[1:]
    return bytes([0xC0, 11 << 3]) + (mebibytes * MIB).to_bytes(8, "little") + blocks


# -- the rows beside the frames ----------------------------------------------------------------


def short_head(opened: Tables) -> None:
    opened.put(LOOSE, HEAD_KEY, checked_row(bytes(4)))


def cut_hashes(opened: Tables) -> None:
    *numbers, nodes = head_in(opened)
    opened.put(LOOSE, HEAD_KEY, checked_row(HEAD_ROW.pack(*numbers) + nodes[:-1]))


def more_hashes(opened: Tables) -> None:
    *numbers, nodes = head_in(opened)
    opened.put(LOOSE, HEAD_KEY, checked_row(HEAD_ROW.pack(*numbers) + nodes + bytes(32)))


def key_of_another_size(opened: Tables) -> None:
    opened.put(KEYS, b"many", checked_row(b"abc"))


def frame_behind_no_position(opened: Tables) -> None:
    opened.put(FRAMES, b"\0\0", opened.get(FRAMES, last(5)))


def frame_behind_a_longer_key(opened: Tables) -> None:
    opened.put(FRAMES, last(5) + b"x", opened.get(FRAMES, last(5)))


def far_previous(opened: Tables) -> None:
    """Move a frame to another session, whose index leads to it."""
    key, row = next(each for each in opened.rows(STREAMS) if each[1][4:] == last(40))
    opened.delete(STREAMS, key, row)
    opened.put(STREAMS, REF.pack(3), row)
    rewritten(opened, 40, 12, REF.pack(3))
    rewritten(opened, 40, 24, (1 << 63 | 5).to_bytes(8, "big"))


def going_on_with_nothing(opened: Tables) -> None:
    rewritten(opened, 0, 9, bytes([opened.get(FRAMES, last(0))[9] | CONTINUES]))


def version_behind_a_loss(opened: Tables) -> None:
    opened.flip(FRAMES, last(40), 12)
    rewritten(opened, 41, 16, (40).to_bytes(4, "big"))


def number_behind_a_loss(opened: Tables) -> None:
    opened.flip(FRAMES, last(40), 12)
    rewritten(opened, 41, 20, (38).to_bytes(4, "big"))


def payload_over_the_limit(opened: Tables) -> None:
    message = {"role": "user", "content": "x" * EVENT_BYTES_MAX}
    payload = {"type": "MessageAppended", "message": message, "tokens": 2}
    said(opened, 40, msgspec.msgpack.encode(payload))


def unknown_flag(opened: Tables) -> None:
    rewritten(opened, 40, 9, bytes([opened.get(FRAMES, last(40))[9] | 0x08]))


ROWS: list[tuple[Callable[[Tables], None], Sequence[str]]] = [
    (short_head, ["the tree head has only 4 bytes"]),
    (cut_hashes, ["the tree head has 159 bytes of hashes for size 314"]),
    (more_hashes, ["the tree head has 192 bytes of hashes for size 314"]),
    (
        key_of_another_size,
        [
            "position 151: the index of keys does not lead 'many' here",
            "a row of the index of keys (b'many') is wrong",
        ],
    ),
    (frame_behind_no_position, [r"a frame stands behind b'\x00\x00', which is no position"]),
    (frame_behind_a_longer_key, ["x05x', which is no position"]),
    (going_on_with_nothing, ["position 0: it goes on with an append that it is no part of"]),
    (version_behind_a_loss, ["position 41: session 'a' has", "(40, 40, 40) where (40, 39, 39)"]),
    (number_behind_a_loss, ["position 41: session 'a' has", "(41, 38, 40) where (40, 39, 39)"]),
    (payload_over_the_limit, ["position 40: payload of 8388", "is over the limit"]),
    (unknown_flag, ["position 40: frame flags 0xb are of no known kind"]),
    (far_previous, ["position 40: session 'b' has (version, message number, previous position)"]),
]


@pytest.mark.parametrize(
    ("forged", "expected"), ROWS, ids=lambda each: getattr(each, "__name__", "")
)
def test_a_forged_row_is_named_and_all_others_are_looked_at(
    history: Path,
    forged: Callable[[Tables], None],
    expected: Sequence[str],
    monkeypatch: pytest.MonkeyPatch,
):
    """It is named where it is, the rest is checked as before, by many as by one."""
    with tables(history) as opened:
        forged(opened)
    report = verified(history)
    for what in expected:
        assert what in told(report), told(report)
    assert report.checked["events"] == 314 and "no frame holds" not in told(report)
    assert by_leaps(history, monkeypatch, deep=True)[0] == report
    assert carefully(history, monkeypatch, deep=True) == report
    assert diagnose(history).path == str(history)
    assert repair(history, history.with_name("repaired")).kept > 300


def test_lost_names_are_looked_for_together(history: Path, monkeypatch: pytest.MonkeyPatch):
    """Where the index of streams is lost, names are found by their references, all in one look."""
    with tables(history) as opened:
        for row in opened.rows(STREAMS):
            opened.delete(STREAMS, *row)
        due = len(opened.rows(REFS))
    looked = list[bytes]()
    monkeypatch.setattr(walked, "kept_ref", lambda *row: looked.append(row[0]) or kept_ref(*row))
    assert "position 40: the index of session 'a' does not lead here" in told(verified(history))
    assert len(looked) == due


def test_what_a_row_says_of_encryption_is_looked_at(history: Path):
    """A log is encrypted, or it is not: a row that says neither is named."""
    with tables(history) as opened:
        opened.put(META, ENCRYPTED_KEY, checked_row(b"2"))
    assert "encrypted says something else" in told(verified(history))


def test_an_erasure_that_is_neither_pending_nor_complete_is_named(tmp_path: Path):
    """A session counts as erased by a row that says one of the two, and nothing else."""
    with EventStore.open(tmp_path / "history", keyring=Keyring.file(tmp_path / "keys")) as store:
        store.create("a")
        store.erase("a", reason="asked for")
    with tables(tmp_path / "history") as opened:
        key = next(key for key, _ in opened.rows(META) if key.startswith(ERASED_KEY))
        opened.put(META, key, checked_row(b"\2"))
    found = verify_directory(tmp_path / "history", keyring=Keyring.file(tmp_path / "keys"))
    assert "neither pending nor complete" in told(found)


def test_an_id_that_is_no_text_is_damage(history: Path):
    """Whoever opens the store hears of it by an error of the tree, and verify names it."""
    with tables(history) as opened:
        opened.put(META, STORE_ID_KEY, checked_row(b"\xff\xfe"))
    with pytest.raises(Corruption, match="the store's id is no text"):
        EventStore.open(history)
    assert "the store's id is no text" in told(verify_directory(history))


def test_a_dictionary_that_is_none_is_left_behind(history: Path):
    """With it nothing is readable; repair goes on without, instead of failing."""
    with tables(history) as opened:
        key = REF.pack(STARTER)
        opened.put(DICTIONARIES, key, checked_row(b"\x37\xa4\x30\xec" + bytes(50), key))
    assert not verified(history).sound
    assert repair(history, history.with_name("repaired")).whole
    assert verified(history.with_name("repaired")).sound


# -- numbers that make room ---------------------------------------------------------------------


def test_a_made_up_reference_takes_no_memory(history: Path):
    """A frame of the session 4,294,967,295, led to by a row that fits, costs verify nothing."""
    with tables(history) as opened:
        key, row = next(r for r in opened.rows(STREAMS) if STREAM_ROW.unpack(r[1])[1] == 311)
        opened.delete(STREAMS, key, row)
        opened.put(STREAMS, b"\xff" * 4, STREAM_ROW.pack(0, 311))
        rewritten(opened, 311, 12, b"\xff" * 4 + bytes(16))
    with EventStore.open(history, read_only=True) as store:
        tracemalloc.start()
        report = verify(store, deep=True, workers=1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert "position 311" in told(report) and peak < 32 * MIB


def test_places_are_kept_wherever_they_are():
    """Near and far references, and positions of any size, are given back; the far make no room."""
    tracemalloc.start()
    places, due = Places(), dict[int, tuple[int, int, int]]()
    for ref in (*range(1, 500), 10**6, 1 << 24, *range(500, 9_000), (1 << 32) - 1):
        due[ref] = ref, ref // 2, POSITION_MAX + ref % 3
        places.move(ref, *due[ref])
    places.move(7, 8, 8, 8)
    due[7] = 8, 8, 8
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all(places.at(ref) == place and places.fits(ref, place) for ref, place in due.items())
    assert places.at(9_001) == places.at(1 << 31) == NOWHERE
    assert peak < 8 * MIB


def test_dense_references_stand_in_arrays():
    """Streams that share their numbers with a few actors each take 24 bytes."""
    places = Places()
    for ref in range(3, 30_000, REFS_A_STREAM // 2):
        places.move(ref, 1, 1, ref)
    assert not places._far
    places.move(30_000 * REFS_A_STREAM + REFS_MIN, 1, 1, 1)
    assert len(places._far) == 1


def test_a_payload_that_states_its_size_makes_no_room_for_it(history: Path):
    """A frame of 8 kB that unpacks to 256 MiB, and says so, is damage and costs nothing."""
    with tables(history) as opened:
        remade(opened, 40, bytes(16) + bomb(256), size=100, dictionary=ZSTD)
    with EventStore.open(history, read_only=True) as store:
        tracemalloc.start()
        report = verify(store, workers=1)
        with pytest.raises(Corruption, match="over the limit"):
            store.event(40).event  # noqa: B018 - reads it
        with pytest.raises(Corruption, match="over the limit"):
            list(Transcript(store.log, [Span("a", 0, 100)]))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert "position 40: payload of 100 bytes is over the limit, or says so itself" in told(report)
    assert peak < 64 * MIB


@pytest.mark.parametrize("size", [EVENT_BYTES_MAX + 1, (1 << 32) - 1])
def test_a_payload_larger_than_any_is_not_unpacked(size: int):
    """What the event's head says is held to the limit before there is room for it."""
    with pytest.raises(ValueError, match=f"payload of {size} bytes is over the limit"):
        Codec(lambda _: None).decompress(ZSTD, b"\0" + bomb(16)[9:], size)


def test_nothing_stands_behind_a_payload(history: Path):
    """Bytes behind a compressed payload, which nothing proves, are damage."""
    with tables(history) as opened:
        frame = opened.get(FRAMES, last(40))
        end, *_, number, _ = EVENT_ROW.unpack(frame[ROW])
        assert number >= ZSTD
        remade(opened, 40, frame[-end:] + b"hidden")
    assert "position 40: payload can't be decompressed" in told(verified(history))


def test_repair_writes_no_more_placeholders_than_a_log_can_have_lost(history: Path):
    """A version of 4 thousand million, and lines as many, are no reason to fill the disk."""
    with tables(history) as opened:
        rewritten(opened, 40, 16, b"\xff" * 4)
    with EventStore.open(history) as store:
        forge(store, facts(store, "x", events.BranchCreated("a", 1 << 40)))
        pruned = events.MessagesPruned([Span("a", 0, 1 << 31)], 1 << 31)
        forge(store, facts(store, "y", events.SessionCreated(), pruned))
    report = repair(history, history.with_name("repaired"))
    assert report.positions == [(40, 41)] and report.size < ROOM_EVENTS


# -- facts that lead in circles -----------------------------------------------------------------


@pytest.mark.parametrize(
    "lies",
    [
        {"s": [events.BranchCreated("s", 0)]},
        {"s": [events.BranchCreated("t", 0)], "t": [events.BranchCreated("s", 0)]},
        {"s": [events.SessionCreated(), events.SessionRewound(1)]},
        {"s": [events.SessionCreated(), events.SessionRewound(2), events.SessionRewound(1)]},
    ],
)
def test_a_lineage_that_leads_back_to_itself_ends_at_once(
    lies: dict[str, list[events.Event]], store: EventStore, monkeypatch: pytest.MonkeyPatch
):
    """A session that forks from itself, or goes back to where it stands, is not followed on."""
    forge(store, *(facts(store, session, *made) for session, made in lies.items()))
    steps = count()
    read = type(store.log).read_stream

    def counted(*args: object, **how: object) -> object:
        assert next(steps) < 100
        return read(*args, **how)

    monkeypatch.setattr(type(store.log), "read_stream", counted)
    with pytest.raises(Corruption, match="has no end"):
        lineage(store.log, "s", len(lies["s"]) - 1)
    assert "has no end" in told(verify(store, deep=True))


# -- events of no known kind --------------------------------------------------------------------


def no_room_for_its_time(opened: Tables) -> None:
    remade(opened, 40, bytes(7), flags=OCCURRED)


def no_room_for_digests(opened: Tables) -> None:
    remade(opened, 40, bytes(63), flags=SHREDDED)


def unknown_kind_erased(opened: Tables) -> None:
    remade(opened, 40, bytes(64), flags=SHREDDED, type=99)


def unknown_role(opened: Tables) -> None:
    raw = opened.get(FRAMES, last(40))
    remade(opened, 40, raw[-EVENT_ROW.unpack(raw[ROW])[0] :], role=99)


def unknown_kind(opened: Tables) -> None:
    raw = opened.get(FRAMES, last(40))
    remade(opened, 40, raw[-EVENT_ROW.unpack(raw[ROW])[0] :], type=99)


def no_msgpack(opened: Tables) -> None:
    said(opened, 40, b"\xc1")


def role_that_is_a_list(opened: Tables) -> None:
    payload = {"type": "MessageAppended", "message": {"role": []}, "tokens": 0}
    said(opened, 40, msgspec.msgpack.encode(payload), tokens=0, role=0)


def role_of_an_extension(opened: Tables) -> None:
    message = {"role": msgspec.msgpack.Ext(5, b"x"), "content": {b"k": 1}}
    payload = {"type": "MessageAppended", "message": message, "tokens": 3}
    said(opened, 40, msgspec.msgpack.encode(payload))


def message_of_another_kind(opened: Tables) -> None:
    said(opened, 40, msgspec.msgpack.encode({"type": "SessionArchived"}), type=14)


EVENTS = [
    no_room_for_its_time,
    no_room_for_digests,
    unknown_kind_erased,
    unknown_role,
    unknown_kind,
    no_msgpack,
    role_that_is_a_list,
    role_of_an_extension,
    message_of_another_kind,
]


@pytest.mark.parametrize("forged", EVENTS)
def test_a_forged_event_is_found_and_no_reader_fails_otherwise(
    history: Path, forged: Callable[[Tables], None], monkeypatch: pytest.MonkeyPatch
):
    """All ways to verify name it alike; who reads, repairs or reports gets errors of the tree."""
    with tables(history) as opened:
        forged(opened)
    for deep in (False, True):
        report = verified(history, deep=deep)
        assert not report.sound
        assert by_leaps(history, monkeypatch, deep=deep)[0] == report
        assert carefully(history, monkeypatch, deep=deep) == report
    assert repair(history, history.with_name("repaired")).kept >= 313
    shutil.rmtree(history.with_name("repaired"))
    with EventStore.open(history, read_only=True) as store:
        dossier = dossier_of(store, "a", None, [])
        for read in (
            lambda: page_parts(store, dossier, []),
            lambda: dossier_lines(store, dossier),
            lambda: ((each.role, each.type, each.event) for each in store.events("a")),
            lambda: iter(Transcript(store.log, [Span("a", 0, 100)])),
            lambda: Transcript(store.log, [Span("a", 0, 100)]).lines(0, 100),
            lambda: Views(store).statistics().by_role,
            lambda: written(store.log, frames_of(store.log, ["a"], store.log.size())),
        ):
            with suppress(Corruption, InvalidEvent, KeyShredded):
                deque(read(), maxlen=0)
