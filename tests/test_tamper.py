"""Tampering: each row that is dropped, added, altered or forged is named where it is."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from facts import NOTED, append, told
from tampering import TAMPERINGS, Tamper, cut_ref, flip_ref, flip_ref_checksum, last, tables

from eventstore import EventStore
from eventstore.audit.report import Report
from eventstore.audit.verify import verify
from eventstore.log.base import Receipt
from eventstore.log.format import (
    EVENT_ROW,
    FRAME_HEAD_BYTES,
    FRAME_NAMES,
    FRAMES,
    REFS,
    TILES,
)
from eventstore.log.lmdb import LmdbLog
from eventstore.log.rows import tile_key


def verified(place: Path, *, deep: bool = False) -> Report:
    """Return what verify says about a directory whose structure is sound."""
    with EventStore.open(place, read_only=True) as store:
        return verify(store, deep=deep)


@pytest.mark.parametrize(
    ("tamper", "expected"), TAMPERINGS, ids=lambda each: getattr(each, "__name__", "")
)
def test_tampering_is_named(history: Path, tamper: Tamper, expected: Sequence[str]):
    """Each row that is dropped, added, altered or forged is named, by the check made for it."""
    assert verified(history).sound
    with tables(history) as opened:
        tamper(opened)
    report = verified(history)
    for what in expected:
        assert what in told(report), told(report)


@pytest.mark.parametrize("tamper", [flip_ref, flip_ref_checksum, cut_ref])
def test_a_damaged_reference_is_one_finding(history: Path, tamper: Tamper):
    """Whichever part of its row is hit, it is named once: all else that it led to is sound."""
    with tables(history) as opened:
        tamper(opened)
    assert len(verified(history).findings) == 1


def test_nobody_writes_in_the_name_of_a_damaged_reference(history: Path):
    """It might be another's: that append alone is refused, and what stands beside it is kept."""
    with tables(history) as opened:
        opened.put(REFS, b"auser:2", opened.get(REFS, b"auser:1"))
    log = LmdbLog(history / "log")
    size = log.size()
    made = [append("a", NOTED, codec=log.codec, actor=f"user:{n}") for n in (1, 2)]
    kept, refused = log.commit(made, 10**19)
    assert isinstance(kept, Receipt) and log.size() == size + 1
    assert "the reference of 'user:2' does not match its checksum" in str(refused)
    log.close()


def test_every_damaged_position_is_named(history: Path):
    """Damage in many places gives exactly these positions, and tiles without any are compared."""
    damaged = [*range(3, 140, 7), 160, 161, 299]
    with tables(history) as opened:
        bulk = bytearray(opened.get(FRAMES, last(300)))
        names_at = FRAME_HEAD_BYTES + 150 * EVENT_ROW.size
        rows = list(EVENT_ROW.iter_unpack(bytes(bulk[FRAME_HEAD_BYTES:names_at])))
        bodies_at = names_at + FRAME_NAMES.size + len("many") + len("c")
        for position in damaged:
            if position < 151:
                opened.flip(FRAMES, last(position), -1)
            else:
                bulk[bodies_at + rows[position - 151][0] - 1] ^= 1
        opened.put(FRAMES, last(300), bytes(bulk))
    assert [each.position for each in verified(history, deep=True).findings if each.position >= 0][
        : len(damaged)
    ] == damaged
    assert [each.position for each in verified(history).findings] == damaged


def test_a_wrong_tile_is_found_beside_damage(tmp_path: Path):
    """Where events are damaged, the tiles that hold none of them are still compared."""
    place = tmp_path / "history"
    with EventStore.open(place) as store:
        store.create("a")
        for _ in range(3):
            store.append("a", [{"content": "x"}] * 256)
    with tables(place) as opened:
        opened.flip(FRAMES, last(256), -1)
        for index in range(3):
            opened.flip(TILES, tile_key(8, index), 0)
    found = verified(place).findings
    assert [each.position for each in found] == [256, 0, 512]
    assert [each.what[:6] for each in found] == ["event ", "tile 0", "tile 2"]
