"""Reading: the quick ways give what the plain ones give, event for event and damage for damage."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from driver import STEPS, Driver, Step, steps_of, ticking
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from eventstore import (
    Corruption,
    EventStore,
    EventStoreError,
    Keyring,
    KeyShredded,
    Message,
    Recorded,
    upcast,
)
from eventstore.audit.entry import SALT_BYTES
from eventstore.log import codec, frame
from eventstore.log.codec import train
from eventstore.log.format import (
    CHECKSUM,
    EVENT_HEAD,
    EVENT_ROW,
    FRAME_HEAD_BYTES,
    FRAMES,
    MESSAGE,
    RAW,
    U32_MAX,
)
from eventstore.log.frame import Frame
from eventstore.log.lone import LONE_BYTES_MAX
from eventstore.state.transcript import PAGE_FRAMES, Transcript
from projections import Projection, SessionState, Statistics, fold
from projections.statistics import StatisticsProjection

KINDS = ("zstd", "none", "trained", "sealed")


class Slow(StatisticsProjection):
    """The statistics, event by event."""

    name = "slow"
    evolve_frame = Projection.evolve_frame
    evolve_log = Projection.evolve_log


@contextmanager
def told(kind: str, steps: list[Step]) -> Iterator[EventStore]:
    """Give a store on disk with a history that has lost something said, and a session."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        keyring = Keyring.file(place / "keys") if kind == "sealed" else None
        compression = "none" if kind == "none" else "zstd"
        with EventStore.open(
            place / "history", keyring=keyring, compression=compression, clock=ticking()
        ) as store:
            driver = Driver(store)
            for number, step in enumerate(steps):
                driver.run(step)
                if kind == "trained" and number == len(steps) // 2:
                    store.log.add_dictionary(train([b"word " * n + bytes([n]) for n in range(99)]))
            store.create("last")
            lines = [{"role": "user", "content": "secret " * number} for number in range(6)]
            store.append("last", lines[:3], key="many", occurred_at=[None, 5, None])
            store.append("last", lines[3], key="one", actor="user:2")
            store.append("last", lines[4])
            store.redact("last", "last#4")
            if kind == "sealed" and len(driver.sessions) > 1:
                store.erase(driver.sessions[0], reason="asked for", cascade=True)
            yield store


def outcome(ask: Callable[[], Any]) -> Any:
    """Return what a call gives, or how it fails and where."""
    try:
        return ask()
    except EventStoreError as error:
        return type(error), getattr(error, "position", None)


def plainly(recorded: Recorded) -> Any:
    """Decode an event on the way that knows no short cut."""
    return recorded.frame._event(recorded.index)


@given(st.sampled_from(KINDS), STEPS)
def test_every_way_to_an_event_gives_the_same(kind, steps):
    """The whole log, streams, single positions and the long way to a payload agree."""
    with told(kind, steps) as store:
        one_by_one = [store.event(position) for position in range(store.head().size)]
        events = [outcome(lambda each=each: plainly(each)) for each in one_by_one]
        assert [outcome(lambda each=each: each.event) for each in store.all()] == events
        for session in store.sessions():
            own = [each for each in one_by_one if each.session == session]
            for reverse in (False, True):
                found = list(store.events(session, reverse=reverse))
                assert [each.position for each in found] == [
                    each.position for each in (reversed(own) if reverse else own)
                ]
                assert [outcome(lambda each=each: each.event) for each in found] == [
                    outcome(lambda each=each: plainly(each))
                    for each in (reversed(own) if reverse else own)
                ]


def listed(messages: Transcript) -> list[Message]:
    """Return messages by way of their events."""
    return [message for _, _, message in messages.lines(0, len(messages))]


@given(st.sampled_from(KINDS), STEPS)
def test_a_list_of_messages_is_its_lines(kind, steps):
    """Messages as a list, one by one, and behind the lines with their events are the same."""
    with told(kind, steps) as store:
        for session in store.sessions():
            state = outcome(lambda session=session: SessionState.of(store, session))
            if isinstance(state, SessionState):
                messages = state.messages
                lines = listed(messages)
                assert list(messages) == messages[:] == lines
                assert [messages[index] for index in range(len(messages))] == lines
                assert messages[2:-1] == lines[2:-1]


@given(st.sampled_from(KINDS), STEPS)
def test_lone_messages_count_as_their_events_do(kind, steps):
    """The tally of a log on disk equals the loop over events, up to every position."""
    with told(kind, steps) as store:
        for last in range(-1, store.head().size):
            slow = fold(store, Slow(store.headers), at_position=last)
            assert Statistics.of(store, at_position=last) == slow


def test_a_log_of_many_pages_counts_the_same(tmp_path):
    """Pages end and begin where they like: nothing is counted twice or left out."""
    with EventStore.open(tmp_path / "history", durability="buffered") as store:
        for session in ("a", "b"):
            store.create(session)
        for turn in range(900):
            some = [{"role": "user", "content": f"{turn}"}] * (1 if turn % 7 else 20)
            store.append("ab"[turn % 2], some)
        size = store.head().size
        assert size > 2_048
        for last in (size - 1, size - 30, 2_047, 2_048, 1_000):
            slow = fold(store, Slow(store.headers), at_position=last)
            assert Statistics.of(store, at_position=last) == slow
        assert [each.position for each in store.all()] == list(range(size))
        assert len(SessionState.of(store, "a").messages[:]) > 1_000


# -- damage ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain() -> Iterator[EventStore]:
    """Give a store with lone messages and longer frames."""
    with told("zstd", steps_of(3, 25)) as store:
        yield store


@contextmanager
def altered(store: EventStore, damaged: Frame, raw: bytes | None) -> Iterator[None]:
    """Put other bytes, or none, in the place of a frame, and then the frame again."""
    key = damaged.last_position.to_bytes(8, "big")
    put(store, key, raw)
    try:
        yield
    finally:
        put(store, key, damaged.raw)


def put(store: EventStore, key: bytes, raw: bytes | None) -> None:
    """Write a row of frames behind the back of a log, which must not remember the old one."""
    table = store.log.env.table(FRAMES)
    with store.log.env.write() as txn:
        if raw is None:
            txn.delete(key, db=table)
        else:
            txn.put(key, raw, db=table)
    store.log._seen.frames.clear()


def flipped(raw: bytes, at: int, bit: int) -> bytes:
    """Return the bytes with one bit flipped."""
    return raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]


def first_failure(store: EventStore) -> Any:
    """Return how the first event fails that can't be read by itself, on the long way."""
    for position in range(store.head().size):
        found = outcome(lambda position=position: plainly(store.event(position)))
        if isinstance(found, tuple) and found[0] is Corruption:
            return found
    return None


def walked(store: EventStore) -> Any:
    """Return how a walk over all events fails that takes an erased one as it is."""

    def walk() -> None:
        for each in store.all():
            with suppress(KeyShredded):
                _ = each.event

    return outcome(walk)


@given(data=st.data())
def test_damage_is_named_where_it_is(plain, data):
    """With a bit flipped anywhere, each walk names the position that reading one by one names."""
    frame = data.draw(st.sampled_from(plain.log.read_all(0)))
    at, bit = data.draw(st.integers(0, len(frame.raw) - 1)), data.draw(st.integers(0, 7))
    spans = plain.headers.now("last").spans
    with altered(plain, frame, flipped(frame.raw, at, bit)):
        expected = first_failure(plain)
        assert expected is not None and walked(plain) == expected
        slow = outcome(lambda: fold(plain, Slow(plain.headers)))
        assert outcome(lambda: Statistics.of(plain)) == slow
        messages = Transcript(plain.log, spans)
        assert outcome(lambda: list(messages)) == outcome(lambda: listed(messages))


def test_a_damaged_message_stops_its_list_where_it_stands(plain):
    """With any byte of a lone message altered, its list fails as its lines do, not before it."""
    place = plain.append("last", [{"role": "user", "content": f"tell {n}"} for n in range(2)])
    for number in range(3):
        place = plain.append("last", {"role": "user", "content": f"alone {number}"})
    frame = plain.log.read_stream("last", place.version)[0]
    spans = plain.headers.now("last").spans
    for at in range(len(frame.raw)):
        with altered(plain, frame, flipped(frame.raw, at, at % 8)):
            messages = Transcript(plain.log, spans)
            lines = outcome(partial(listed, messages))
            assert lines[0] is Corruption and outcome(partial(list, messages)) == lines
            if at >= FRAME_HEAD_BYTES + EVENT_ROW.size + len(frame.names):
                found = iter(messages)
                before = [next(found) for _ in range(len(messages) - 1)]
                assert before[-1].content == "alone 1" and lines[1] == place.position


def reworded(frame: Frame, index: int, fields: dict[str, int]) -> bytes:
    """Return a frame of which one event's head says something else, under right checksums."""
    row, at = frame.row(index), FRAME_HEAD_BYTES + index * EVENT_ROW.size
    names = ("end", "size", "tokens", "type", "schema", "flags", "role", "dictionary")
    head = EVENT_HEAD.pack(*(dict(zip(names, row[:-1], strict=True)) | fields).values())
    digest = xxh3_64_intdigest(head + frame.stored(index)[1]) & U32_MAX
    raw = frame.raw[:at] + head + digest.to_bytes(4, "big") + frame.raw[at + EVENT_ROW.size :]
    bodies_at = FRAME_HEAD_BYTES + frame.count * EVENT_ROW.size + len(frame.names)
    checksum = xxh3_64_intdigest(raw[CHECKSUM.size : bodies_at], frame.position)
    return CHECKSUM.pack(checksum) + raw[CHECKSUM.size :]


MISSING = {"dictionary": 77}
"""What no store here has; a dictionary that is missing has no position."""


@pytest.mark.parametrize("count", [1, 2 * PAGE_FRAMES + 9])
@pytest.mark.parametrize(
    "fields", [{"size": 5}, {"size": 0}, {"dictionary": 1}, {"dictionary": RAW}, MISSING]
)
def test_a_payload_that_its_head_is_wrong_about_stops_its_list(count, fields):
    """Sizes and dictionaries that don't fit, and bytes that are no message, fail where they are."""
    many = [{"role": "user", "content": f"one of many {n}"} for n in range(count)]
    index = count * 2 // 3
    with told("zstd", []) as store:
        store.create("s")
        store.append("s", {"role": "user", "content": "before"})
        place = store.append("s", many)
        store.append("s", {"role": "user", "content": "behind"})
        frame = store.log.read_stream("s", place.version)[0]
        if fields == {"dictionary": RAW}:
            fields = {**fields, "size": len(frame.stored(index)[1]) - SALT_BYTES}
        messages = SessionState.of(store, "s").messages
        with altered(store, frame, reworded(frame, index, fields)):
            lines = outcome(partial(listed, messages))
            assert lines == (Corruption, -1 if fields == MISSING else frame.position + index)
            assert outcome(partial(list, messages)) == lines
            found = iter(messages)
            before = [next(found) for _ in range(1 + index)]
            assert before[-1].content == (many[index - 1]["content"] if index else "before")


def test_a_frame_gives_its_plain_messages_together(plain):
    """Plain messages of a frame are those of its events, up to what is none of them."""
    for each in plain.log.read_all(0):
        for low in range(each.count):
            alike = takewhile(lambda row: row[3] == MESSAGE and not row[5], each.rows(low))
            found = each.plain_messages(low, each.count)
            assert found == [each.event(low + n).message for n, _ in enumerate(alike)]
            assert each.plain_messages(low, low + 1) == found[:1]


def test_only_lone_messages_come_without_a_frame(plain):
    """Flags, keys, other facts and large payloads have a frame; so has all of a sealed store."""
    plain.append("last", {"role": "user", "content": "alone"})
    plain.append("last", {"role": "user", "content": "x" * LONE_BYTES_MAX})
    plain.append("last", {"role": "user", "content": "with a key"}, key="lone key")
    plain.append("last", {"role": "user", "content": "then"}, occurred_at=7)
    plain.append("last", {"role": "user", "content": "why"}, causation_id="because")
    page = plain.log.read_messages("last", 0, 100)
    frames = plain.log.read_stream("last", 0)
    kinds = [isinstance(each, Frame) for each in page]
    assert kinds[-5:] == [False, True, True, True, True] and kinds[:3] == [True] * 3
    shown = [each.event(0).message if isinstance(each, Frame) else each[-1] for each in page[-5:]]
    assert shown == [each.event(0).message for each in frames[-5:]]
    with told("sealed", []) as store:
        assert all(isinstance(each, Frame) for each in store.log.read_messages("last", 0, 9))


def test_each_byte_of_a_lone_message_is_under_a_check(plain):
    """Whatever byte of its heads is altered, the tally raises what a Frame raises."""
    frame = next(
        each
        for each in reversed(plain.log.read_all(0))
        if each.count == 1 and each.only_messages and not each.kept_key and not each.row(0)[5]
    )
    for at in range(FRAME_HEAD_BYTES + EVENT_ROW.size + len(frame.names)):
        with altered(plain, frame, flipped(frame.raw, at, at % 8)):
            slow = outcome(lambda: fold(plain, Slow(plain.headers)))
            assert slow[0] is Corruption and outcome(lambda: Statistics.of(plain)) == slow


def test_a_missing_frame_is_not_passed_over(plain):
    """A walk, the tally too, raises Corruption at the position of a frame that is gone."""
    for gone in plain.log.read_all(0):
        with altered(plain, gone, None):
            slow = outcome(lambda: fold(plain, Slow(plain.headers)))
            found = [walked(plain), outcome(lambda: Statistics.of(plain))]
            assert found == [(Corruption, gone.position), slow]


def test_a_payload_with_more_behind_it_is_damage(monkeypatch, plain):
    """Bytes behind a message are Corruption, although all checksums are right."""
    decompress = codec.Codec.decompress
    monkeypatch.setattr(
        codec.Codec, "decompress", lambda self, *args: decompress(self, *args) + b"\xc0"
    )
    messages = [each for each in plain.all(types=["MessageAppended"]) if not each.erased]
    assert len(messages) > 3
    for recorded in messages:
        with pytest.raises(Corruption, match="no event") as found:
            _ = recorded.event
        assert found.value.position == recorded.position


def test_older_payloads_are_made_new_on_each_way(monkeypatch, plain):
    """A message of an older schema goes through its steps, wherever it is read."""

    def step(payload: dict[str, Any]) -> dict[str, Any]:
        return {**payload, "tokens": payload.get("tokens", 0) + 1_000}

    before = [each.event for each in plain.all(types=["MessageAppended"]) if not each.erased]
    name = "MessageAppended"
    monkeypatch.setitem(codec.SCHEMA_OF, MESSAGE, 2)
    monkeypatch.setitem(upcast.SCHEMAS, name, 2)
    monkeypatch.setitem(upcast.STEPS, (name, 1), step)
    monkeypatch.setattr(frame, "_MESSAGE_SCHEMA", 2)
    after = [each.event for each in plain.all(types=[name]) if not each.erased]
    assert [each.tokens for each in after] == [each.tokens + 1_000 for each in before]
    assert [each.message for each in after] == [each.message for each in before]
