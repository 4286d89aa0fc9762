"""The fast lane of verify: what it takes, and that it takes nothing that the careful walk names."""

from collections import Counter
from itertools import count
from pathlib import Path

import pytest
from facts import fill, told
from hypothesis import given
from hypothesis import strategies as st
from leaps import by_leaps, carefully, verified
from tampering import Tables, copied, last, tables
from xxhash import xxh3_64_digest, xxh3_64_intdigest

from eventstore import EventStore
from eventstore.audit.walk import Walk
from eventstore.log.format import (
    CHECKSUM,
    CHECKSUM32,
    EVENT_HEAD,
    EVENT_ROW,
    FRAME_HEAD_BYTES,
    FRAME_NAMES,
    FRAMES,
    NAMED,
    POSITION,
    REF,
    STREAMS,
)
from eventstore.log.frame import Frame


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the directory of a filled store, with frames of one event and of many, named or not."""
    place = tmp_path_factory.mktemp("usual") / "history"
    ticks = count(10**18, 10**6)
    with EventStore.open(place, clock=lambda: next(ticks)) as store:
        fill(store)
        for turn in range(20):
            for session in ("x", "y"):
                if not turn:
                    store.create(session, metadata={"of": session})
                store.append(session, {"role": "user", "content": f"{turn}"}, actor=f"a{turn % 3}")
        store.append("x", [{"role": "tool", "content": "n"}] * 40, key="k", correlation_id="c")
        store.append("y", [{"role": "odd", "content": "n"}] * 3, causation_id="w")
    return place


def made_good(raw: bytes, position: int) -> bytes:
    """Return a frame whose checksums fit what it says, as far as it says anything."""
    total = int.from_bytes(raw[10:12])
    names_at = bodies_at = FRAME_HEAD_BYTES + total * EVENT_ROW.size
    if raw[9] & NAMED and len(raw) >= names_at + FRAME_NAMES.size:
        bodies_at += FRAME_NAMES.size + sum(FRAME_NAMES.unpack_from(raw, names_at)[1:])
    heads, start = bytearray(raw[FRAME_HEAD_BYTES:names_at]), bodies_at
    for at in range(0, len(heads) - EVENT_ROW.size + 1, EVENT_ROW.size):
        head = heads[at : at + EVENT_HEAD.size]
        stop = bodies_at + int.from_bytes(head[:4])
        checksum = xxh3_64_digest(bytes(head) + raw[start:stop])[-CHECKSUM32.size :]
        heads[at + EVENT_HEAD.size : at + EVENT_ROW.size] = checksum
        start = stop
    raw = raw[:FRAME_HEAD_BYTES] + bytes(heads) + raw[names_at:]
    covered = raw[CHECKSUM.size : bodies_at]
    return CHECKSUM.pack(xxh3_64_intdigest(covered, max(position, 0))) + covered + raw[bodies_at:]


def forge(opened: Tables, key: bytes, at: int, mask: int) -> None:
    """Alter a byte of a frame and make its checksums good again."""
    raw = bytearray(opened.get(FRAMES, key))
    raw[at] ^= mask
    position = POSITION.unpack(key)[0] - int.from_bytes(raw[10:12]) + 1
    opened.put(FRAMES, key, made_good(bytes(raw), position))


def test_checksums_are_made_as_the_log_makes_them(made: Path):
    """A frame that nobody altered is its own, made good: so forgeries get as far as they can."""
    with tables(made) as opened:
        for key, raw in opened.rows(FRAMES):
            position = POSITION.unpack(key)[0] - int.from_bytes(raw[10:12]) + 1
            assert made_good(raw, position) == raw


@given(st.data())
def test_what_is_forged_is_told_in_the_same_words(made: Path, data: st.DataObject):
    """Whatever byte of a frame is altered under good checksums, all walks give one report."""
    place = copied(made, made.parent / "forged")
    with tables(place) as opened:
        key, raw = data.draw(st.sampled_from(opened.rows(FRAMES)))
        heads = st.integers(CHECKSUM.size, min(len(raw), 80) - 1)
        at = data.draw(heads | st.integers(CHECKSUM.size, len(raw) - 1))
        forge(opened, key, at, data.draw(st.integers(1, 255)))
    with pytest.MonkeyPatch.context() as patched:
        report = verified(place)
        assert carefully(place, patched, deep=True) == report
        assert by_leaps(place, patched, deep=True)[0] == report
        assert carefully(place, patched, deep=False) == verified(place, deep=False)


def test_a_stream_that_no_index_knows_takes_no_room(made: Path, tmp_path: Path):
    """A reference far beyond all others is told of, and nobody makes room for as many streams."""
    place = copied(made, tmp_path / "history")
    with tables(place) as opened:
        forge(opened, last(0), 12, 208)
    with pytest.MonkeyPatch.context() as patched:
        report = verified(place)
        assert not report.sound
        assert by_leaps(place, patched, deep=True)[0] == report


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Give what the careful walk takes from now on: frames by the type of their first event."""
    taken: Counter[int] = Counter()
    take = Walk.take

    def noted(walk: Walk, position: int, frame: Frame | None) -> None:
        assert frame is not None
        taken[frame.row(0)[3]] += 1
        take(walk, position, frame)

    monkeypatch.setattr(Walk, "take", noted)
    return taken


def test_messages_and_lonely_facts_need_no_careful_walk(tmp_path: Path, walked: Counter[int]):
    """Only what speaks of other events is looked at one by one."""
    place = tmp_path / "history"
    with EventStore.open(place) as store:
        store.create("s", metadata={"a": 1})
        store.append("s", {"role": "user", "content": "hello"}, actor="me", key="k")
        store.append("s", [{"role": "user", "content": "hello"}] * 30, correlation_id="c")
        store.record("s", "noted", {"n": 1})
        store.update_metadata("s", {"a": 2})
        store.close("s")
    assert verified(place).sound
    assert not walked
    with EventStore.open(place) as store:
        store.branch("s", "t", at=3)
    assert verified(place).sound
    assert sum(walked.values()) == 1


def nameless(opened: Tables, position: int) -> None:
    """Take its stream's name out of a first frame, and leave all else of it in order."""
    raw = opened.get(FRAMES, last(position))
    names_at = FRAME_HEAD_BYTES + EVENT_ROW.size
    *_, length = FRAME_NAMES.unpack_from(raw, names_at)
    end = names_at + FRAME_NAMES.size
    raw = raw[: end - 1] + b"\x00" + raw[end + length :]
    opened.put(FRAMES, last(position), made_good(raw, position))


def test_a_first_frame_without_a_name_is_named(made: Path, tmp_path: Path):
    """A stream whose first frame does not say its name is found, and by the careful walk alike."""
    place = copied(made, tmp_path / "history")
    with tables(place) as opened:
        nameless(opened, 0)
    assert "a session's name stands in its first frame alone" in told(verified(place))
    with pytest.MonkeyPatch.context() as patched:
        assert carefully(place, patched, deep=True) == verified(place)


def test_an_id_that_is_no_text_is_named(made: Path, tmp_path: Path):
    """Bytes under good checksums that no id has are told of, and the walk goes on behind them."""
    place = copied(made, tmp_path / "history")
    with tables(place) as opened:
        key, raw = next(each for each in opened.rows(FRAMES) if each[1][10:12] == b"\x00\x03")
        at = FRAME_HEAD_BYTES + 3 * EVENT_ROW.size + FRAME_NAMES.size
        assert raw[at : at + 1] == b"w"
        forge(opened, key, at, 128)
    report = verified(place)
    assert "a name in the frame's head" in told(report)
    assert report.checked["events"] == report.size
    with pytest.MonkeyPatch.context() as patched:
        assert by_leaps(place, patched, deep=True)[0] == report


def test_a_row_before_a_stream_s_first_is_told_in_the_same_words(made: Path, tmp_path: Path):
    """A first frame is believed about its stream's name only where the index begins with it."""
    place = copied(made, tmp_path / "history")
    with tables(place) as opened:
        begun = [(raw[12:16], key) for key, raw in opened.rows(FRAMES) if raw[16:20] == bytes(4)]
        (one, here), (_, there) = begun[1:3]
        opened.delete(STREAMS, one, REF.pack(0) + here)
        opened.put(STREAMS, one, REF.pack(0) + there)
    report = verified(place)
    assert not report.sound
    with pytest.MonkeyPatch.context() as patched:
        assert carefully(place, patched, deep=True) == report
        assert by_leaps(place, patched, deep=True)[0] == report
