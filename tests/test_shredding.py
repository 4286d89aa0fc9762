"""Shredding is a function over values: the entry stays, the words go, structure is left."""

from itertools import pairwise

import msgspec
import pytest
from facts import OBJECTS, TEXTS, append, drafted, said
from hypothesis import given
from hypothesis import strategies as st

from eventstore import KeyShredded, Recorded
from eventstore import events as ev
from eventstore.audit.leaves import frame_entries
from eventstore.events import Span
from eventstore.log.base import ANY, FORGOTTEN, Append
from eventstore.log.frame import Frame
from eventstore.log.memory import MemoryLog
from eventstore.log.shredding import Shred, hidden_lines, hidden_with, muted, shredded, stripped

WORD = "zebra"
SPANS = [Span("s", 0, 2)]
FACTS = [
    ev.SessionCreated({"w": WORD}, {"w": WORD}, WORD, 9.0, 8, 7, 6, WORD),
    ev.BranchCreated("p", 3, WORD, WORD),
    ev.BranchMerged(
        "s", "t", 1, 2, "squash", [("s", 0)], "ours", SPANS, SPANS, {"w": WORD}, {"w": WORD}, 5,
        {"content": WORD}, 4,
    ),
    ev.MessagesPruned(SPANS, 2, 5, WORD),
    ev.HistorySummarized({"content": WORD}, SPANS, 2, 5, 4),
    ev.SessionRewound(1),
    ev.SessionClosed(WORD),
    ev.SessionReopened(),
    ev.SessionArchived(WORD),
    ev.SessionDeleted(WORD),
    ev.TtlExtended(1.0, 2),
    ev.MessageAppended(said(WORD).message, 3),
    ev.MetadataUpdated({"w": WORD}),
    ev.ContextSet("k", WORD),
    ev.ToolCallRecorded("t", WORD, WORD, WORD, WORD, 1.0),
    ev.ErrorRecorded("k", WORD, WORD),
    ev.Custom("c", WORD),
]  # fmt: skip
OUTLIVING = [
    ev.Redacted(1, "why"),
    ev.LegalHoldSet("why"),
    ev.LegalHoldCleared("why"),
    ev.KeyCreated(1, "00"),
    ev.EraseRequested([1], "why"),
    ev.KeyShredded([1], "why"),
]


def framed(*facts: ev.Event) -> Frame:
    """Return the frame of an append to a new stream; every other fact has a time of its own."""
    log = MemoryLog()
    times = [7 * index if index % 2 else None for index in range(len(facts))]
    log.commit([Append((drafted("s", facts, log.codec, times),), (ANY,))], 1)
    return log.read_all(0)[0]


def again(frame: Frame, raw: bytes) -> Frame:
    """Return the same frame with other bytes."""
    made = Frame(raw, frame.last_position, frame.codec)
    made.session, made.actor = frame.session, frame.actor
    return made


def gone(frame: Frame, first: int, last: int, *, whole: bool = True) -> Frame:
    """Return the frame without the payloads of these versions."""
    return again(frame, shredded(frame, Shred("s", first, last, whole)))


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: type(fact).__name__)
def test_nothing_that_was_said_is_left(fact):
    """Of an erased event neither its bytes nor what folds get of it hold a word."""
    frame = framed(ev.SessionCreated(), fact)
    assert WORD in str(frame.event(1)) or fact in (frame.event(1), stripped(fact))
    left = gone(frame, 1, 1)
    assert WORD.encode() not in left.raw
    assert left.structure(1) == stripped(fact)
    assert WORD not in str(left.structure(1))
    with pytest.raises(KeyShredded):
        left.event(1)


@pytest.mark.parametrize("fact", [*FACTS, *OUTLIVING], ids=lambda fact: type(fact).__name__)
def test_the_entry_stays(fact):
    """The entry of an event, and so every proof of it, is the same before and after."""
    frame = framed(ev.SessionCreated(), fact)
    assert frame_entries(gone(frame, 0, 1)) == frame_entries(frame)


@pytest.mark.parametrize("fact", OUTLIVING, ids=lambda fact: type(fact).__name__)
def test_facts_about_erasure_outlive_it(fact):
    """What was redacted, held or erased, when and why, can be read for ever."""
    frame = framed(ev.SessionCreated(), fact)
    assert gone(frame, 0, 1).event(1) == fact


def test_structure_keeps_what_folds_need():
    """Of an erased session its limits, forks, lines and places are left."""
    assert stripped(FACTS[0]) == ev.SessionCreated(
        ttl=9.0, expires_at=8, max_messages=7, token_limit=6
    )
    assert stripped(FACTS[1]) == ev.BranchCreated("p", 3)
    merged = stripped(FACTS[2])
    assert (merged.brought, merged.hidden, merged.tokens, merged.summary) == (SPANS, SPANS, 5, {})
    assert (merged.metadata, merged.context, merged.summary_tokens) == ({}, {}, 4)
    assert stripped(FACTS[4]) == ev.HistorySummarized({}, SPANS, 2, 5, 4)
    assert stripped(FACTS[5]) == FACTS[5]


def test_a_redacted_summary_keeps_the_values_of_its_merge():
    """Redaction takes the text that is shown, and no more."""
    assert muted(FACTS[2]) == msgspec.structs.replace(FACTS[2], summary={})
    assert muted(FACTS[4]) == ev.HistorySummarized({}, SPANS, 2, 5, 4)
    frame = framed(ev.SessionCreated(), FACTS[2])
    redacted = gone(frame, 1, 1, whole=False)
    assert redacted.structure(1).metadata == {"w": WORD}
    erased = gone(redacted, 0, 1)
    assert erased.structure(1).metadata == {}
    assert frame_entries(erased) == frame_entries(frame)


MESSAGES = st.builds(said, TEXTS, st.integers(0, 9))
ANY_FACT = MESSAGES | st.builds(ev.MetadataUpdated, OBJECTS) | st.sampled_from(FACTS + OUTLIVING)


@given(facts=st.lists(ANY_FACT, min_size=1, max_size=8), ends=st.tuples(*[st.integers(0, 8)] * 2))
def test_only_what_is_wanted_goes(facts, ends):
    """Of any append any run of events can go: the rest reads as before, twice is as once."""
    frame = framed(ev.SessionCreated(), *facts)
    first, last = min(ends), max(ends)
    left = gone(frame, first, last)
    assert gone(left, first, last).raw == left.raw
    assert frame_entries(left) == frame_entries(frame)
    for before, after in zip(frame.recorded(), left.recorded(), strict=True):
        wanted = first <= before.version <= last and type(before.event) not in _OUTLIVING
        assert after.erased == wanted
        assert _head(after) == _head(before)
        if not wanted:
            assert after == before
    lines = [Span("s", *_numbers(each)) for each in left.recorded() if _is_message(each)]
    assert [line for line in hidden_lines(left) if not line.note] == lines


_OUTLIVING = {type(fact) for fact in OUTLIVING}


def _is_message(recorded: Recorded) -> bool:
    return recorded.erased and recorded.type == "MessageAppended"


def _numbers(recorded: Recorded) -> tuple[int, int]:
    return recorded.number, recorded.number + 1


def _head(recorded: Recorded) -> tuple[object, ...]:
    return (
        *(recorded.position, recorded.version, recorded.type, recorded.size, recorded.tokens),
        *(recorded.role, recorded.recorded_at, recorded.number, recorded.schema),
        recorded.occurred_at,
    )


RUNS = st.lists(
    st.builds(lambda a, b, n: Span("s", a, a + b, n), *[st.integers(0, 12)] * 2, st.booleans()),
    max_size=6,
).map(lambda spans: [span for span in spans if span.stop > span.start])


@given(known=RUNS, more=RUNS)
def test_hidden_lines_are_kept_in_few_runs(known, more):
    """Runs of hidden lines hold exactly the lines of both lists, apart and in order."""
    made = hidden_with(known, more)
    assert _lines(made) == _lines(known) | _lines(more)
    assert len(_lines(made)) == sum(span.stop - span.start for span in made)
    assert all(a.stop < b.start for a, b in pairwise(made) if a.note == b.note)


def _lines(spans: list[Span]) -> set[tuple[int, bool]]:
    return {(number, span.note) for span in spans for number in range(span.start, span.stop)}


# -- the same in both logs ---------------------------------------------------------------


def test_a_log_shreds_and_counts(log):
    """Payloads go, the head stays, the count goes up with every loss and with nothing else."""
    log.commit([append("s", ev.SessionCreated(), said(WORD), said("kept"), codec=log.codec)], 1)
    head = log.head()
    assert (log.erasures(), log.hidden()) == (0, {})
    log.shred(Shred("s", 1, 1))
    log.shred(Shred("s", 1, 1))
    assert (log.erasures(), log.hidden()) == (1, {"s": [Span("s", 0, 1)]})
    log.shred(Shred("s", 0, 2, whole=True))
    assert (log.erasures(), log.hidden()) == (2, {"s": [Span("s", 0, 2)]})
    assert log.head() == head
    assert [each.erased for each in log.read_stream("s", 0)[0].recorded()] == [True] * 3


def test_facts_and_losses_are_one_commit(log):
    """What an append takes away goes with its facts, and stays where it is refused."""
    log.commit([append("s", ev.SessionCreated(), said(WORD), codec=log.codec)], 1)
    shreds = (Shred("s", 1, 1),)
    refused = append("s", ev.Redacted(1), codec=log.codec, expected=9, shreds=shreds)
    log.commit([refused], 2)
    assert (log.erasures(), log.hidden()) == (0, {})
    log.commit([append("s", ev.Redacted(1), codec=log.codec, shreds=shreds)], 3)
    assert (log.erasures(), log.hidden()) == (1, {"s": [Span("s", 0, 1)]})


def test_nothing_follows_an_erasure_but_its_end(log):
    """From the request on a stream takes the fact that the key is gone, and no other."""
    log.commit([append("s", ev.SessionCreated(), codec=log.codec)], 1)
    log.commit([append("s", ev.EraseRequested([1]), codec=log.codec)], 2)
    assert log.erasing() == ["s"]
    late, end = (append("s", each, codec=log.codec) for each in (said("late"), ev.KeyShredded([1])))
    outcomes = log.commit([late, end, late], 3)
    assert [type(each).__name__ for each in outcomes] == ["KeyShredded", "Receipt", "KeyShredded"]
    assert log.erasing() == []
    assert log.tail("s").version == 2


def test_a_key_forgets_what_it_stood_for(log):
    """With a payload goes the digest of its command: a repeated key still gives the receipt."""
    codec = log.codec
    log.commit([append("s", ev.SessionCreated(), codec=codec)], 1)
    first = append("s", said(WORD), codec=codec, key="k", content=b"1" * 16)
    receipt = log.commit([first], 2)[0]
    log.shred(Shred("s", 1, 1))
    assert log.receipt_of("k") == (FORGOTTEN, msgspec.structs.replace(receipt, duplicate=True))
    other = append("s", said("x"), codec=codec, key="k", content=b"2" * 16)
    assert log.commit([other], 3) == [msgspec.structs.replace(receipt, duplicate=True)]
