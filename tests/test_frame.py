"""Payloads, frames and entries: what is written comes back, what is damaged is named."""

import pytest
from facts import CREATED, INTS, JSON, NOTED, OBJECTS, TEXTS, drafted, said
from hypothesis import assume, given
from hypothesis import strategies as st

from eventstore import Corruption, EventTooLarge, InvalidEvent, Message
from eventstore import events as ev
from eventstore.audit import entry
from eventstore.events import Span
from eventstore.limits import EVENT_BYTES_MAX
from eventstore.log.codec import COMPRESS_BYTES_MIN, Codec, decode, encode_all, train
from eventstore.log.draft import frame_names, pack_all, place
from eventstore.log.format import MESSAGE, RAW, STARTER, TYPE_CODES, ZSTD
from eventstore.log.frame import Frame
from eventstore.store import starter_dictionary

T = 1_700_000_000_000_000_000

# -- codec -----------------------------------------------------------------------------------


def codec_of(current: int) -> Codec:
    """Return a codec that knows the dictionary shipped with the package."""
    return Codec({STARTER: starter_dictionary()}.get, current)


@given(
    fields=OBJECTS, tokens=st.integers(0, 1 << 40), current=st.sampled_from([RAW, ZSTD, STARTER])
)
def test_any_json_comes_back_equal(fields, tokens, current):
    """A message of any JSON survives encoding and compression, value for value."""
    assume(not isinstance(fields.get("id"), str))
    codec = codec_of(current)
    payload = encode_all([ev.MessageAppended(Message(fields), tokens)])[0]
    [(number, stored)] = codec.compress_all([payload])
    assert number in (RAW, current) and len(stored) <= len(payload)
    assert codec.decompress(number, stored, len(payload)) == payload
    event = decode(MESSAGE, 1, payload, "s", 7)
    assert (event.message.to_dict(), event.tokens) == (fields, tokens)
    assert event.message.id == (fields.get("id") or "s#7")


@given(values=JSON)
def test_other_facts_come_back_equal(values):
    """Every other event is equal to what its payload decodes to."""
    for event in (
        ev.Custom("n", values),
        ev.ToolCallRecorded("t", values, result=values, duration_ms=0.5),
        ev.ContextSet("k", values),
        ev.MetadataUpdated({"a": values}),
        ev.MessagesPruned([Span("a", 0, 3), Span("b", 1, 2, note=True)], 4, 9),
    ):
        payload = encode_all([event])[0]
        assert decode(TYPE_CODES[type(event)], 1, payload, "s", 0) == event
        assert encode_all([event])[0] == payload


def test_small_and_incompressible_payloads_stay_raw():
    """Compression is used where it saves bytes, and only there."""
    codec = codec_of(STARTER)
    noise = bytes(range(256))
    short, text = b"x" * (COMPRESS_BYTES_MIN - 1), b"the same again, " * 20
    packed = codec.compress_all([short, noise, text])
    assert [number for number, _ in packed] == [RAW, RAW, STARTER]
    assert len(packed[2][1]) < len(text) / 4


@pytest.mark.parametrize("number", [RAW, ZSTD, STARTER])
def test_a_payload_of_the_wrong_size_is_damage(number):
    """Stored bytes that don't give exactly the stated size are refused."""
    payload = b"to be or not to be, " * 10
    codec = codec_of(number)
    [(_, stored)] = codec.compress_all([payload])
    for size in (0, 1, len(payload) - 1, len(payload) + 1):
        with pytest.raises(ValueError, match=r"\S"):
            codec.decompress(number, stored, size)


@given(stored=st.binary(max_size=60), size=st.integers(0, 1_000))
def test_any_bytes_decompress_or_are_refused(stored, size):
    """Arbitrary bytes are ValueError or exactly as long as they claim."""
    for number in (ZSTD, STARTER):
        try:
            assert len(codec_of(number).decompress(number, stored, size)) == size
        except ValueError:
            continue


def test_a_missing_dictionary_is_damage():
    """A frame that names a dictionary nobody has can't be read, and says which."""
    with pytest.raises(Corruption, match="dictionary 9"):
        codec_of(STARTER).decompress(9, b"x" * 50, 100)


def test_what_no_fact_can_hold():
    """An event over its limit and text that is no Unicode are refused with the numbers."""
    with pytest.raises(EventTooLarge) as large:
        encode_all([said("x" * EVENT_BYTES_MAX)])
    assert large.value.limit == EVENT_BYTES_MAX < large.value.size
    with pytest.raises(InvalidEvent):
        encode_all([said("\ud800")])


def test_training_needs_samples():
    """Too few payloads can't train a dictionary; enough of them can."""
    with pytest.raises(InvalidEvent, match="1 payloads"):
        train([b"one"])
    samples = [f"session {number} says hello to user {number}".encode() for number in range(500)]
    assert 0 < len(train(samples, 2_048)) <= 2_048


# -- frames ----------------------------------------------------------------------------------

FACTS = st.lists(
    st.sampled_from([CREATED, NOTED, ev.SessionClosed("bye"), ev.ContextSet("k", [1])])
    | st.builds(said, TEXTS, st.integers(0, 99)),
    min_size=1,
    max_size=6,
)
NAMES = st.sampled_from([b"", b"k", "schlüssel".encode()])


def framed(
    facts, names=(b"k", b"", b"c", b""), first=(40, 7, 3), times=(), *, continues=False
) -> bytes:
    """Return a frame of these facts."""
    codec = codec_of(STARTER)
    draft = drafted("s", facts, codec, times)
    pack_all([draft], codec)
    return place(draft, frame_names(2, names), 1, first, 33, T, continues=continues)


@given(several=st.lists(FACTS, max_size=6), current=st.sampled_from([RAW, ZSTD, STARTER]))
def test_drafts_packed_together_are_those_packed_alone(several, current):
    """However many drafts are packed at once, each has the bytes and digests it has by itself."""
    codec = codec_of(current)
    together = [drafted(f"s{index}", facts, codec) for index, facts in enumerate(several)]
    alone = [drafted(f"s{index}", facts, codec) for index, facts in enumerate(several)]
    pack_all(together, codec)
    for each in alone:
        pack_all([each], codec)
    assert together == alone and all(each.loose is None for each in together)
    pack_all(together, codec)
    assert together == alone


def opened(raw: bytes, last: int) -> Frame:
    """Return the view on a frame's bytes, with the names a log would give it."""
    frame = Frame(raw, last, codec_of(STARTER))
    frame.session, frame.actor = "s", None
    return frame


def everything(frame: Frame) -> list[object]:
    """Return all that a reader can see of a frame."""
    names = frame.key, frame.correlation_id, frame.causation_id
    refs = frame.session_ref, frame.actor_ref, frame.previous, frame.recorded_at
    events = [
        (r.position, r.version, r.number, r.type, r.role, r.tokens, r.size, r.occurred_at, r.event)
        for r in frame.recorded()
    ]
    return [names, refs, events]


@given(
    facts=FACTS,
    names=st.tuples(NAMES, NAMES, NAMES, NAMES),
    continues=st.booleans(),
    data=st.data(),
)
def test_a_frame_gives_back_its_facts(facts, names, continues, data):
    """Whatever goes into a frame comes out of it, with places and names."""
    times = data.draw(
        st.lists(st.none() | st.integers(-(1 << 62), 1 << 62), min_size=6, max_size=6)
    )
    raw = framed(facts, names, times=times[: len(facts)], continues=continues)
    frame = opened(raw, 40 + len(facts) - 1)
    found = list(frame.recorded())
    assert [encode_all([each.event]) for each in found] == [encode_all([fact]) for fact in facts]
    assert [each.version for each in found] == list(range(7, 7 + len(facts)))
    assert [each.position for each in found] == list(range(40, 40 + len(facts)))
    assert [each.occurred_at for each in found] == times[: len(facts)]
    number = 3
    for each, fact in zip(found, facts, strict=True):
        assert (each.number, each.type) == (number, type(fact).__name__)
        number += isinstance(fact, ev.MessageAppended)
    assert frame.next_number() == number
    assert frame.continues is continues
    assert frame.only_messages is all(isinstance(fact, ev.MessageAppended) for fact in facts)
    shown = [name or "" for name in (frame.key, frame.correlation_id, frame.causation_id)]
    assert (*[name.encode() for name in shown], frame.kept_session) == names


@given(facts=FACTS, bit=st.integers(0, 7))
def test_no_flipped_bit_gets_through(facts, bit):
    """With any one bit of a frame flipped, reading raises Corruption."""
    raw = framed(facts, times=[5] + [None] * (len(facts) - 1))
    last = 40 + len(facts) - 1
    everything(opened(raw, last))
    for at in range(len(raw)):
        damaged = raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]
        with pytest.raises(Corruption) as found:
            everything(opened(damaged, last))
        assert 0 <= found.value.position <= last


@given(facts=FACTS)
def test_a_frame_is_bound_to_its_length_and_place(facts):
    """Cut, extended or read at another position, a frame is damage."""
    raw, last = framed(facts), 40 + len(facts) - 1
    for damaged in [raw[:size] for size in range(0, len(raw), 7)] + [raw + b"x"]:
        with pytest.raises(Corruption):
            everything(opened(damaged, last))
    for other in (last - 1, last + 1, 0):
        with pytest.raises(Corruption):
            opened(raw, other)


@given(raw=st.binary(max_size=200), last=st.integers(0, 1 << 40))
def test_arbitrary_bytes_are_no_frame(raw, last):
    """Whatever the bytes, the answer is Corruption at the position asked for."""
    with pytest.raises(Corruption):
        opened(raw, last)


def test_a_frame_says_where_its_messages_are():
    """message_indexes() gives the events behind a range of message numbers."""
    facts = [said("3"), NOTED, said("4"), said("5"), NOTED, said("6")]
    frame = opened(framed(facts), 45)
    assert list(frame.message_indexes(3, 7)) == [0, 2, 3, 5]
    assert list(frame.message_indexes(4, 6)) == [2, 3]
    assert list(frame.message_indexes(0, 3)) == list(frame.message_indexes(7, 9)) == []
    plain = opened(framed([said("3"), said("4")]), 41)
    assert list(plain.message_indexes(0, 9)) == [0, 1] and list(plain.message_indexes(4, 9)) == [1]


# -- entries ---------------------------------------------------------------------------------


@given(version=st.integers(0, 1 << 40), previous=st.integers(-1, 1 << 40), time=INTS)
def test_an_entry_has_232_bytes(version, previous, time):
    """The four parts of an entry have 16, 16, 136 and 64 bytes, whatever is in them."""
    assume(time >= 0)
    parts = [
        entry.entry_lead(1, 2, 1, -5),
        entry.entry_middle(version, previous),
        entry.entry_common(time, "séssion", "actor", None, "x" * 255),
        entry.entry_digests(entry.payload_commitment(bytes(16), b"payload")),
    ]
    assert [len(part) for part in parts] == [16, 16, 136, 64]
    assert sum(map(len, parts)) == entry.ENTRY_BYTES
    assert parts[1] == version.to_bytes(8, "big") + (previous + 1).to_bytes(8, "big")


def test_digests_of_names_don_t_collide_by_kind():
    """A session, an actor and no name at all have different digests."""
    digests = {entry.session_digest("x"), entry.name_digest("x"), entry.name_digest(None)}
    assert len(digests) == 3 and entry.name_digest(None) == bytes(32)
