"""The pure modules against naive models: spans, patches, names, times, JSON, places."""

import copy
import json
import math
import uuid
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from facts import CREATED, JSON, OBJECTS, TEXTS, append, said
from hypothesis import assume, given
from hypothesis import strategies as st

from eventstore import EventStore, InvalidEvent, Message
from eventstore import events as ev
from eventstore.clock import parse_time, to_datetime, to_ns
from eventstore.engine.reading import position_at, version_at
from eventstore.events import Span
from eventstore.ids import check_name, fresh_id, message_id, parse_message_id
from eventstore.limits import NAME_BYTES_MAX, NESTING_DEPTH_MAX
from eventstore.log.format import TYPE_CODES, TYPES
from eventstore.log.memory import MemoryLog
from eventstore.messages import calls_answered, calls_made, check_json, check_message, count_tokens
from eventstore.patch import assigned, changes, conflicts, patched
from eventstore.spans import cut, extended, index_of, joined, length, minus, replaced
from eventstore.upcast import upcast

T = 1_700_000_000_000_000_000

# -- spans: against the list of lines they stand for -----------------------------------------

LINES = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 12), st.booleans()), unique=True, max_size=20
)


def spans_of(lines) -> list[Span]:
    """Return one span a line, neighbours not joined."""
    return [Span(session, number, number + 1, note) for session, number, note in lines]


def lines_of(spans) -> list[tuple[str, int, bool]]:
    """Return the lines of spans, one by one."""
    return [(s.session, number, s.note) for s in spans for number in range(s.start, s.stop)]


@given(lines=LINES)
def test_joined_spans_show_the_same_lines(lines):
    """joined() keeps lines and order, and neighbours of one stream become one span."""
    found = joined(spans_of(lines))
    assert lines_of(found) == lines and length(found) == len(lines)
    for one, two in pairwise(found):
        follows = (one.session, one.stop) == (two.session, two.start)
        assert one.note or two.note or not follows
    assert all(span.stop == span.start + 1 for span in found if span.note)


@given(runs=st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 3)), max_size=10))
def test_extended_adds_at_the_end(runs):
    """Appending runs one by one is the list of their lines."""
    spans, lines, next_number = [], [], {"a": 0, "b": 0}
    for session, count in runs:
        start = next_number[session]
        next_number[session] += count
        extended(spans, session, start, start + count)
        lines += [(session, number, False) for number in range(start, start + count)]
    assert lines_of(spans) == lines
    assert all(one.session != two.session for one, two in pairwise(spans))


@given(lines=LINES, hidden=LINES)
def test_minus_takes_out_exactly_the_hidden(lines, hidden):
    """What is left is every line that is not hidden, in order."""
    for shown in (spans_of(lines), joined(spans_of(lines))):
        found = minus(shown, joined(spans_of(hidden)))
        assert lines_of(found) == [line for line in lines if line not in hidden]


@given(lines=LINES, data=st.data())
def test_replaced_puts_one_note_for_the_covered(lines, data):
    """The note stands where the first covered line stood; no other line moves."""
    covered = [line for line in lines if data.draw(st.booleans())]
    note = Span("c", 99, 100, note=True)
    found = lines_of(replaced(joined(spans_of(lines)), spans_of(covered), note))
    kept = [line for line in lines if line not in covered]
    before = lines[: lines.index(covered[0])] if covered else kept
    assert found == [*before, ("c", 99, True), *kept[len(before) :]]


@given(lines=LINES, start=st.integers(0, 25), stop=st.integers(0, 25))
def test_cut_is_a_slice(lines, start, stop):
    """cut() and a slice of the lines are one."""
    assert lines_of(cut(joined(spans_of(lines)), start, stop)) == lines[start:stop]


@given(lines=LINES)
def test_every_line_is_found_at_its_index(lines):
    """index_of() is the line's place in the list; a line that is not there is an error."""
    shown = joined(spans_of(lines))
    assert [index_of(shown, line) for line in spans_of(lines)] == list(range(len(lines)))
    with pytest.raises(ValueError, match="not in the list"):
        index_of(shown, Span("z", 0, 1))


# -- headers that are kept -------------------------------------------------------------------


def test_an_owner_of_a_header_changes_no_other():
    """Kept headers share what is empty; whoever is given one may change it as it likes."""
    with EventStore.in_memory() as store:
        for name in "ab":
            store.create(name, user="u")
            store.append(name, {"content": "x"})
        before = [store.headers.now(name) for name in "ab"]
        kept = [store.headers._newest[name] for name in "ab"]
        assert kept[0].merges is kept[1].merges and kept[0].metadata is kept[1].metadata
        for _ in range(2):
            mine = store.headers.now("a")
            mine.metadata["k"] = mine.context["k"] = mine.merges["k"] = 1
            mine.users_held.append("u")
            mine.spans.append(Span("b", 0, 1))
            assert [store.headers.now(name) for name in "ab"] == before


def test_what_kept_headers_share_is_replaced():
    """Facts that change a value of one session leave those of all others alone."""
    with EventStore.in_memory() as store:
        for name in "abc":
            store.create(name)
            store.append(name, {"content": "x"})
            store.headers.now(name)
        store.branch("a", "d")
        store.merge("d", into="a")
        store.update_metadata("a", {"k": 1})
        store.set_context("a", "k", 1)
        store.set_hold(user="u")
        store.headers.now("a")
        found = store.headers.now("b")
        assert (found.metadata, found.context, found.merges, found.users_held) == ({}, {}, {}, [])
        assert list(store.headers.now("a").merges) == ["d"]


# -- merge patches: RFC 7396 -----------------------------------------------------------------

RFC_7396_APPENDIX_A = """
{"a":"b"}              {"a":"c"}                 {"a":"c"}
{"a":"b"}              {"b":"c"}                 {"a":"b","b":"c"}
{"a":"b"}              {"a":null}                {}
{"a":"b","b":"c"}      {"a":null}                {"b":"c"}
{"a":["b"]}            {"a":"c"}                 {"a":"c"}
{"a":"c"}              {"a":["b"]}               {"a":["b"]}
{"a":{"b":"c"}}        {"a":{"b":"d","c":null}}  {"a":{"b":"d"}}
{"a":[{"b":"c"}]}      {"a":[1]}                 {"a":[1]}
["a","b"]              ["c","d"]                 ["c","d"]
{"a":"b"}              ["c"]                     ["c"]
{"a":"foo"}            null                      null
{"a":"foo"}            "bar"                     "bar"
{"e":null}             {"a":1}                   {"e":null,"a":1}
[1,2]                  {"a":"b","c":null}        {"a":"b"}
{}                     {"a":{"bb":{"ccc":null}}} {"a":{"bb":{}}}
"""


@pytest.mark.parametrize("row", RFC_7396_APPENDIX_A.strip().splitlines())
def test_the_examples_of_rfc_7396(row):
    """Appendix A: original, patch, result."""
    original, patch, result = map(json.loads, row.split())
    assert patched(original, patch) == result


@given(values=OBJECTS, patch=OBJECTS)
def test_a_patch_sets_and_removes_and_changes_no_argument(values, patch):
    """Keys of null are gone, others are set, unnamed ones stay; applying twice changes nothing."""
    before = copy.deepcopy((values, patch))
    made = patched(values, patch)
    assert (values, patch) == before
    assert {key for key, value in patch.items() if value is None}.isdisjoint(made)
    assert all(made[key] == values[key] for key in values if key not in patch)
    assert patched(made, patch) == made


VALUES = st.dictionaries(
    st.sampled_from("abcd"), st.sampled_from([0, 1, True, 1.0, "", [1], [True], {"x": 1}])
)


@given(base=VALUES, now=VALUES)
def test_changes_lead_from_one_to_the_other(base, now):
    """Assigning the changes gives the other side, to the type; equal sides have none."""
    made = assigned(base, changes(base, now))
    assert json.dumps(made, sort_keys=True) == json.dumps(now, sort_keys=True)
    assert changes(now, now) == {}


@given(ours=VALUES, theirs=VALUES)
def test_conflicts_are_shared_keys_of_other_values(ours, theirs):
    """Both sides name the same conflicts, sorted: keys of both whose JSON differs."""
    found = conflicts(ours, theirs)
    wanted = [
        k for k in sorted(ours) if k in theirs and json.dumps(ours[k]) != json.dumps(theirs[k])
    ]
    assert found == wanted == conflicts(theirs, ours)


# -- names and times -------------------------------------------------------------------------


@given(name=TEXTS)
def test_names_are_short_and_visible(name):
    """A name is 1 to 255 bytes of UTF-8 without control characters; everything else is refused."""
    good = 0 < len(name.encode()) <= NAME_BYTES_MAX
    good = good and not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in name)
    if good:
        assert check_name(name, "session id") == name
    else:
        with pytest.raises(InvalidEvent, match="session id"):
            check_name(name, "session id")


@pytest.mark.parametrize(
    "name", ["", "\ud800", "a\nb", "a\x00", "\x9f", "x" * 256, "é" * 128, 5, None]
)
def test_names_that_are_none(name):
    """Empty, too long, broken, controlling, or no text at all."""
    with pytest.raises(InvalidEvent):
        check_name(name, "name")


def test_fresh_ids_sort_by_time():
    """Fresh ids are UUIDs of version 7 and variant 10 whose first 48 bits never go back."""
    made = [uuid.UUID(fresh_id()) for _ in range(500)]
    assert len(set(made)) == 500
    assert all(each.version == 7 and each.variant == uuid.RFC_4122 for each in made)
    millis = [each.int >> 80 for each in made]
    assert millis == sorted(millis)


@given(session=TEXTS, version=st.integers(0, 9_999_999_999))
def test_made_message_ids_say_where_they_are(session, version):
    """`session#version` is taken apart again, also where the session has a # of its own."""
    assume(session)
    assert parse_message_id(message_id(session, version)) == (session, version)


@given(text=TEXTS | st.sampled_from(["#1", "a#", "a#-1", "a#x", "a#²", "a#" + "9" * 5_000]))
def test_other_ids_are_left_alone(text):
    """A text that is no made id is None, however odd, and never an error."""
    found = parse_message_id(text)
    assert found is None or text == f"{found[0]}#{text.rpartition('#')[2]}"


@given(micros=st.integers(-(1 << 62) // 1_000, (1 << 62) // 1_000))
def test_times_survive_as_datetimes(micros):
    """Time -> datetime -> time is exact to the microsecond, before the epoch too, in any zone."""
    moment = to_datetime(micros * 1_000)
    assert moment.tzinfo is UTC and to_ns(moment) == micros * 1_000
    assert to_ns(moment.astimezone(timezone(timedelta(hours=5)))) == micros * 1_000
    assert parse_time(moment.isoformat()) == micros * 1_000


@given(ns=st.integers(10**18, (1 << 63) - 1))
def test_times_survive_as_numbers(ns):
    """Nanoseconds are typed with all of their 19 digits."""
    assert parse_time(str(ns)) == ns


@pytest.mark.parametrize(
    "text",
    ["0", "2026", "20261122", "1795341070", "1795341070560", "-1795341070560895725", "9" * 20],
)
def test_a_number_that_is_no_time_in_ns_is_refused(text):
    """A year, a day, or seconds are not taken for a moment of 1970."""
    with pytest.raises(InvalidEvent, match="19 digits"):
        parse_time(text)


@pytest.mark.parametrize("moment", [True, 1.5, "now", None, 1 << 63, datetime(2026, 1, 1)])  # noqa: DTZ001 - a naive time is the point
def test_times_that_are_none(moment):
    """No zone, no range, no number: refused."""
    with pytest.raises(InvalidEvent):
        to_ns(moment)


@given(text=st.text(max_size=30) | st.sampled_from(["9" * 400, "--1", "²", "2026-01-01", "-"]))
def test_any_text_is_a_time_or_refused(text):
    """parse_time() gives ns or InvalidEvent, whatever the text."""
    try:
        assert isinstance(parse_time(text), int)
    except InvalidEvent:
        return


# -- messages --------------------------------------------------------------------------------


@given(fields=OBJECTS)
def test_a_message_is_what_came_in(fields):
    """to_dict() equals the input and is a copy: changing it changes nothing."""
    assume(isinstance(fields.get("id", "x"), str) and fields.get("id", "x"))
    assume(fields.get("role") is None or isinstance(fields["role"], str))
    message = Message(check_message(fields))
    copied = message.to_dict()
    assert copied == fields
    copied["more"] = 1
    assert "more" not in message.fields or message.fields is not copied
    assert isinstance(message.text, str) and isinstance(message.role, str)
    assert isinstance(message.metadata, dict) and count_tokens(fields) >= 0
    assert calls_made(fields) == calls_answered(fields) == set() or fields


@given(value=JSON)
def test_json_is_accepted(value):
    """Every JSON value of modest depth passes."""
    check_json(value, "value")


def nested(depth: int, leaf: object = 1) -> object:
    """Return lists and dicts inside each other, so many."""
    for level in range(depth):
        leaf = {"x": leaf} if level % 2 else [leaf]
    return leaf


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        1 << 64,
        -(1 << 63) - 1,
        (1,),
        {1, 2},
        b"bytes",
        datetime.now(UTC),
        object(),
        Text("subclass"),
        {1: "int key"},
        {None: "none key"},
        {("a",): 1},
        nested(NESTING_DEPTH_MAX + 1),
        nested(100_000),
        1j,
        Message({}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_json_is_refused(value):
    """Alone or inside, a value that JSON does not have is InvalidEvent that says where."""
    for wrapped in (value, [value], {"x": value}, {"x": [0, value]}):
        with pytest.raises(InvalidEvent, match="metadata"):
            check_json(wrapped, "metadata")


def test_the_limits_of_json_are_in():
    """The largest integers and the deepest nesting still pass."""
    check_json([(1 << 64) - 1, -(1 << 63), 1.7e308, -0.0], "value")
    check_json(nested(NESTING_DEPTH_MAX), "value")


@pytest.mark.parametrize(
    "value",
    [None, 5, "text", [], {"role": 5}, {"role": ["user"]}, {"id": ""}, {"id": 5}, {"id": []}],
)
def test_what_is_no_message_is_refused(value):
    """A message is a dict; its role, where given, is a text, its id one that is not empty."""
    with pytest.raises(InvalidEvent):
        check_message(value)


@pytest.mark.parametrize(
    ("fields", "made", "answered"),
    [
        ({"tool_calls": [{"id": "c1"}, {"id": "c2"}]}, {"c1", "c2"}, set()),
        ({"tool_call_id": "c1"}, set(), {"c1"}),
        ({"content": [{"type": "tool_use", "id": "c1"}, {"type": "text"}]}, {"c1"}, set()),
        ({"content": [{"type": "tool_result", "tool_use_id": "c1"}]}, set(), {"c1"}),
        ({"tool_calls": 5, "tool_call_id": 5, "content": [5, None, {"type": []}]}, set(), set()),
        ({"tool_calls": [None, {"id": 3}, "x"], "content": {"type": "tool_use"}}, set(), set()),
    ],
)
def test_tool_calls_of_both_shapes_are_understood(fields, made, answered):
    """OpenAI's and Anthropic's tool calls and results are found; odd shapes are none."""
    assert (calls_made(fields), calls_answered(fields)) == (made, answered)
    assert count_tokens(fields) == 0


# -- upcasting -------------------------------------------------------------------------------


@given(schema=st.integers(1, 4), newest=st.integers(1, 4))
def test_upcasting_takes_every_step_in_order(schema, newest):
    """An old payload goes through each step up to today's number; today's is left alone."""
    assume(schema <= newest)
    steps = {
        ("Thing", number): lambda payload, number=number: {"took": [*payload["took"], number]}
        for number in range(1, 4)
    }
    found = upcast("Thing", schema, {"took": []}, steps, {"Thing": newest})
    assert found == {"took": list(range(schema, newest))}
    assert upcast("Other", 1, {"took": []}, steps, {"Thing": newest}) == {"took": []}


def test_every_type_has_one_code():
    """Type codes are unique, and every event has one."""
    kinds = {each for each in vars(ev).values() if isinstance(each, type)}
    facts = {each for each in kinds if issubclass(each, ev.Event)} - {ev.Event}
    assert set(TYPE_CODES) == facts == set(TYPES.values())


# -- places in a log -------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 4), st.integers(0, 3)), max_size=15
)


@given(steps=STEPS)
def test_moments_are_found_as_by_a_linear_scan(steps):
    """position_at() and version_at() say what a walk over all events says."""
    log, now = MemoryLog(), 100
    for session in "abc":
        log.commit([append(session, CREATED, codec=log.codec)], now)
    for session, count, later in steps:
        now += later
        log.commit([append(session, *[said("x")] * count, codec=log.codec)], now)
    whole = [recorded for frame in log.read_all(0) for recorded in frame.recorded()]
    for moment in range(98, now + 2):
        wanted = [each.position for each in whole if each.recorded_at <= moment]
        assert position_at(log, moment) == max(wanted, default=-1)
    for position in range(-1, len(whole) + 1):
        for session in "abcd":
            places = [r.version for r in whole if r.session == session and r.position <= position]
            assert version_at(log, session, position) == max(places, default=-1)
