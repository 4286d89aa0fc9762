"""One contract for every log: what commit decides and what each reader gives back."""

from contextlib import suppress
from itertools import pairwise

import pytest
from facts import CREATED, NOTED, append, append_all, drafted, said
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore import (
    ANY,
    NO_STREAM,
    InvalidEvent,
    KeyReused,
    SessionExists,
    SessionNotFound,
    StoreUnavailable,
    VersionConflict,
)
from eventstore import events as ev
from eventstore.audit.tree import EMPTY_ROOT
from eventstore.limits import PAGE_EVENTS_MAX
from eventstore.log.base import NAMES_PAGE, Append, Receipt, Stage, same_content
from eventstore.log.format import MESSAGE
from eventstore.log.lmdb import LmdbLog
from eventstore.log.memory import MemoryLog
from eventstore.place.directory import LOG, ensure_store
from eventstore.store import starter_dictionary

T = 1_700_000_000_000_000_000


def put(log, session, *facts, now=T, **options):
    """Commit one append and return its outcome."""
    return log.commit([append(session, *facts, codec=log.codec, **options)], now)[0]


def texts(frames) -> list[str]:
    """Return what the messages of these frames say."""
    found = (recorded for frame in frames for recorded in frame.recorded())
    return [each.event.message.content for each in found if each.type_code == MESSAGE]


# -- what commit decides -------------------------------------------------------------------


def test_an_empty_log_has_an_empty_tree(log):
    """A new log has no events, the root of nothing, no sessions and nothing to read."""
    head = log.head()
    assert (head.size, head.root, head.recorded_at, log.size()) == (0, EMPTY_ROOT, 0, 0)
    assert log.read_all(0) == [] and log.sessions() == [] and log.tail("a") is None
    assert log.read_stream("a", 0) == [] and log.receipt_of("k") is None


def test_receipts_number_what_was_written(log):
    """Positions are dense over the log, versions dense over the stream, both from 0."""
    assert put(log, "a", CREATED) == Receipt("a", 0, 0, 0, T, 1)
    assert put(log, "b", CREATED, said("x")) == Receipt("b", 0, 1, 2, T, 3)
    assert put(log, "a", said("y"), said("z")) == Receipt("a", 1, 2, 4, T, 5)
    assert log.head().size == log.size() == 5


def test_one_batch_is_decided_in_order(log):
    """Each append of a batch sees those before it, and one that fails stops no other."""
    c = log.codec
    batch = [
        append("a", said("too early"), codec=c),
        append("a", CREATED, codec=c),
        append("a", CREATED, codec=c),
        append("a", said("one"), codec=c, expected=0),
        append("a", said("two"), codec=c, expected=0),
        append("a", said("three"), codec=c, expected=1),
    ]
    outcomes = log.commit(batch, T)
    assert [type(each) for each in outcomes] == [
        SessionNotFound,
        Receipt,
        SessionExists,
        Receipt,
        VersionConflict,
        Receipt,
    ]
    assert texts(log.read_all(0)) == ["one", "three"]


@pytest.mark.parametrize(
    ("expected", "error"),
    [(NO_STREAM, VersionConflict), (0, VersionConflict), (7, VersionConflict)],
)
def test_a_wrong_expectation_writes_nothing(log, expected, error):
    """A version that is not the newest, or NO_STREAM, is refused with both numbers."""
    put(log, "a", CREATED, said("x"))
    before = log.head()
    outcome = put(log, "a", said("y"), expected=expected)
    assert isinstance(outcome, error) and (outcome.expected, outcome.actual) == (expected, 1)
    assert log.head() == before
    assert isinstance(put(log, "a", said("y"), expected=1), Receipt)
    assert isinstance(put(log, "a", said("z"), expected=ANY), Receipt)


def test_expecting_a_version_of_what_is_not_there(log):
    """A version expected of a session that does not exist is a conflict with nothing."""
    outcome = put(log, "a", said("x"), expected=3)
    assert isinstance(outcome, VersionConflict) and outcome.actual is None
    assert isinstance(put(log, "a", CREATED, expected=NO_STREAM), Receipt)


def test_a_key_answers_with_the_original_receipt(log):
    """The same key and content again gives the first receipt, as a duplicate, and no event."""
    put(log, "a", CREATED)
    first = put(log, "a", said("x"), key="k", content=b"c" * 16, now=T + 1)
    put(log, "a", said("y"))
    again = put(log, "a", said("x"), key="k", content=b"c" * 16, expected=0, now=T + 9)
    assert again == Receipt("a", 1, 1, 1, T + 1, 2, duplicate=True)
    assert (first.position, log.size()) == (1, 3)
    kept, receipt = log.receipt_of("k")
    assert receipt == again and same_content(log.codec.names, b"c" * 16, kept)
    assert not same_content(log.codec.names, b"d" * 16, kept)


def test_a_key_with_other_content_is_refused(log):
    """A key never stands for two contents, in one batch neither."""
    c = log.codec
    put(log, "a", CREATED)
    batch = [
        append("a", said("x"), codec=c, key="k", content=b"1" * 16),
        append("a", said("x"), codec=c, key="k", content=b"1" * 16),
        append("a", said("y"), codec=c, key="k", content=b"2" * 16),
    ]
    first, again, other = log.commit(batch, T)
    assert not first.duplicate and again.duplicate and again.position == first.position
    assert isinstance(other, KeyReused) and other.key == "k"
    assert isinstance(put(log, "a", said("y"), key="k", content=b"3" * 16), KeyReused)


def test_a_refused_append_leaves_its_key_free(log):
    """A key counts from the append that was written, not from one that was refused."""
    put(log, "a", CREATED)
    assert isinstance(put(log, "a", said("x"), key="k", expected=5), VersionConflict)
    assert log.receipt_of("k") is None
    assert not put(log, "a", said("x"), key="k").duplicate


def test_several_streams_are_all_or_nothing(log):
    """An append to two streams gives one receipt, of the first; if one refuses, none is written."""
    put(log, "a", CREATED)
    put(log, "b", CREATED)
    parts = {"a": [said("x")], "b": [said("y"), NOTED]}
    one = log.commit([append_all(parts, log.codec, key="k")], T)[0]
    assert one == Receipt("a", 1, 1, 2, T, 3)
    assert (log.tail("a").version, log.tail("b").version, log.size()) == (1, 2, 5)
    before = log.head()
    for expected in ((1, 1), (0, 2)):
        outcome = log.commit([append_all(parts, log.codec, expected)], T)[0]
        assert isinstance(outcome, VersionConflict)
    missing = {"a": [said("x")], "nobody": [said("y")]}
    assert isinstance(log.commit([append_all(missing, log.codec)], T)[0], SessionNotFound)
    assert log.head() == before
    again = log.commit([append_all(parts, log.codec, key="k")], T)[0]
    assert again.duplicate and again.position == 2


def test_recorded_time_never_goes_backwards(log):
    """A clock that jumps back is held at the newest time; one that jumps on is believed."""
    times = [T, T - 5, T + 3, T - 100, T + 2, T + 4]
    put(log, "a", CREATED, now=times[0])
    for now in times[1:]:
        put(log, "a", said("x"), now=now)
    found = [frame.recorded_at for frame in log.read_all(0)]
    assert found == [T, T, T + 3, T + 3, T + 3, T + 4]
    assert log.head().recorded_at == T + 4


def test_a_log_carried_over_keeps_its_times(log):
    """recorded_at of an append overrides the clock, and still never goes backwards."""
    put(log, "a", CREATED, recorded_at=T - 50)
    put(log, "a", said("x"), recorded_at=T - 60)
    assert [frame.recorded_at for frame in log.read_all(0)] == [T - 50, T - 50]


def test_a_group_shows_each_batch_to_the_next(log):
    """Batches of a group are decided one on another and are all there when it ends."""
    c = log.codec

    def work(stage: Stage) -> tuple[Receipt, Receipt]:
        assert isinstance(stage([append("a", CREATED, codec=c)], T)[0], Receipt)
        first = stage([append("a", said("x"), codec=c, key="k", expected=0)], T)[0]
        again = stage([append("a", said("x"), codec=c, key="k")], T)[0]
        assert isinstance(stage([append("a", CREATED, codec=c)], T)[0], SessionExists)
        return first, again

    first, again = log.group(work)
    assert again.duplicate and again.position == first.position == 1
    assert (log.size(), log.tail("a").version) == (2, 1)
    assert isinstance(put(log, "a", said("y"), expected=1), Receipt)


# -- what readers give back ----------------------------------------------------------------


@pytest.fixture
def filled(log):
    """Give a log of two streams whose frames hold one to three events each."""
    put(log, "a", CREATED)
    put(log, "b", CREATED, said("b0"))
    for number in range(0, 30, 3):
        put(log, "a", said(f"a{number}"))
        put(log, "a", NOTED, said(f"a{number + 1}"), said(f"a{number + 2}"))
        put(log, "b", NOTED)
    return log


@pytest.mark.parametrize("frames_max", [1, 2, 7, None])
def test_paging_forwards_gives_everything_once(filled, frames_max):
    """Pages of any size, from any position, put together are the log from there on."""
    whole = [recorded.position for frame in filled.read_all(0) for recorded in frame.recorded()]
    assert whole == list(range(filled.size()))
    for start in range(filled.size()):
        position, found = start, []
        while frames := filled.read_all(position, frames_max):
            assert frames_max is None or len(frames) <= frames_max
            assert frames[0].position <= position
            found += frames
            position = frames[-1].last_position + 1
        assert found[0].position <= start and found[-1].last_position == whole[-1]
        assert all(one.last_position + 1 == two.position for one, two in pairwise(found))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("frames_max", [1, 3, None])
def test_paging_a_stream_both_ways(filled, frames_max, reverse):
    """Pages of a stream, from any version, on or back, are its events in order."""
    last = filled.tail("a").version
    for start in range(last + 1):
        version, found = start, []
        while 0 <= version <= last:
            page = filled.read_stream("a", version, reverse=reverse, frames_max=frames_max)
            for frame in page:
                assert frame.session == "a"
                if reverse:
                    found += [r.version for r in frame.recorded(0, start, reverse=True)]
                else:
                    found += [r.version for r in frame.recorded(start)]
            version = page[-1].version - 1 if reverse else page[-1].last_version + 1
        assert found == (list(range(start, -1, -1)) if reverse else list(range(start, last + 1)))


def test_a_page_is_bounded(log):
    """A page ends with the frame that brings it to PAGE_EVENTS_MAX events."""
    put(log, "a", CREATED)
    facts = [said("x")] * 1_000
    for _ in range(4):
        put(log, "a", *facts)
    assert [frame.count for frame in log.read_all(0)] == [1, 1_000, 1_000, 1_000]
    assert [frame.count for frame in log.read_stream("a", 3_500, reverse=True)] == [1_000] * 3
    assert PAGE_EVENTS_MAX == 2_048


def test_reading_beyond_the_end_gives_nothing(filled):
    """A position or version beyond the newest is an empty page, in any direction."""
    assert filled.read_all(filled.size()) == []
    assert filled.read_stream("a", filled.tail("a").version + 1) == []
    assert filled.read_stream("a", filled.tail("a").version + 1, reverse=True) == []


def test_frames_say_where_they_stand(filled):
    """A frame knows its session's previous position, its versions and its message numbers."""
    newest: dict[str, tuple[int, int, int]] = {}
    for frame in filled.read_all(0):
        previous, version, number = newest.get(frame.session, (-1, -1, 0))
        assert (frame.previous, frame.version, frame.number) == (previous, version + 1, number)
        newest[frame.session] = (frame.last_position, frame.last_version, frame.next_number())
    for session, (position, version, messages) in newest.items():
        found = filled.tail(session)
        assert (found.version, found.messages, found.position) == (version, messages, position)


def test_what_was_waited_for_can_be_read(log):
    """wait_applied() returns once a position can be read, which here is when it is acknowledged."""
    put(log, "a", CREATED)
    for text in ("one", "two"):
        receipt = put(log, "a", said(text))
        log.wait_applied(receipt.position)
        assert texts(log.read_all(receipt.position)) == [text]


def test_names_of_an_append_stand_in_its_frame(log):
    """Actor, key, correlation and causation id come back; the key on the first event only."""
    names = {"actor": "user:é", "key": "k", "correlation_id": "corr", "causation_id": "cause"}
    put(log, "a", CREATED, said("x"), **names)
    put(log, "a", said("y"))
    first, second, third = (r for frame in log.read_all(0) for r in frame.recorded())
    for recorded in (first, second):
        assert (recorded.actor, recorded.correlation_id) == ("user:é", "corr")
        assert recorded.causation_id == "cause"
    assert (first.key, second.key) == ("k", None)
    assert (third.actor, third.key, third.correlation_id, third.causation_id) == (None,) * 4


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=st.lists(st.lists(st.booleans(), min_size=1, max_size=5), min_size=1, max_size=14))
def test_every_message_is_found_by_its_number(log, shape):
    """locate() names the version of every message, wherever other events stand between."""
    name = f"s{log.size()}"
    put(log, name, CREATED)
    versions, version = [], 0
    for frame in shape:
        put(log, name, *(said("x") if message else NOTED for message in frame))
        for message in frame:
            version += 1
            versions += [version] * message
    assert [log.locate(name, number) for number in range(len(versions))] == versions


@pytest.mark.parametrize("at", ["front", "middle", "end", "spread"])
def test_locate_in_a_long_stream(log, at):
    """However the other events lie in a stream of 600 frames, each message is found."""
    others = {
        "front": range(1, 200),
        "middle": range(200, 400),
        "end": range(400, 600),
        "spread": range(0, 600, 7),
    }[at]
    put(log, "a", CREATED)
    facts = [NOTED if index in others else said("x") for index in range(600)]
    log.commit([append("a", fact, codec=log.codec) for fact in facts], T)
    versions = [index + 1 for index in range(600) if index not in others]
    assert [log.locate("a", number) for number in range(len(versions))] == versions


def test_sessions_are_listed_in_pages_in_byte_order(log):
    """All streams come once, sorted by UTF-8 bytes, a page at a time; actors are no streams."""
    names = [f"s{number:04}" for number in range(NAMES_PAGE + 5)] + ["Zoë", "é", "z", "日本", "🦉"]
    batch = [append(name, CREATED, codec=log.codec, actor=f"by {name}") for name in names]
    log.commit(batch, T)
    first = log.sessions()
    rest = log.sessions(first[-1])
    assert len(first) == NAMES_PAGE and log.sessions(rest[-1]) == []
    assert first + rest == sorted(names, key=str.encode)
    assert log.sessions("s0003")[0] == "s0004" and log.sessions("s00035")[0] == "s0004"


def test_a_name_that_can_be_none_is_not_found(log):
    """Lone surrogates, the empty text and an endless name are sessions that do not exist."""
    put(log, "a", CREATED)
    for name in ("\ud800", "", "x" * 1_000, "a\x00"):
        assert log.tail(name) is None and log.read_stream(name, 0) == []


def test_a_dictionary_is_used_from_then_on(log):
    """What was written before a new dictionary stays readable, and new facts name the new one."""
    text = "the quick brown fox jumps over the lazy dog " * 3
    put(log, "a", CREATED)
    put(log, "a", said(text))
    number = log.add_dictionary(text.encode() * 4)
    put(log, "a", said(text + "!"))
    before, after = log.read_stream("a", 1)
    assert (before.row(0)[7], after.row(0)[7]) == (number - 1, number)
    assert texts([before, after]) == [text, text + "!"]


def test_a_closed_log_says_so(log):
    """After close(), which may be called twice, everything is one clear error."""
    put(log, "a", CREATED, said("x"))
    work = append("a", said("x"), codec=log.codec)
    log.close()
    log.close()
    for call in (
        lambda: log.commit([work], T),
        log.head,
        log.size,
        log.sessions,
        lambda: log.tail("a"),
        lambda: log.read_all(0),
        lambda: log.read_stream("a", 0),
        lambda: log.locate("a", 0),
        lambda: log.receipt_of("k"),
        lambda: log.add_dictionary(b"x" * 100),
    ):
        with pytest.raises(StoreUnavailable, match="closed"):
            call()


# -- all logs are one ----------------------------------------------------------------------

ACTORS = st.sampled_from([None, "user:1", "user:2"])
APPENDS = st.tuples(
    st.sampled_from("abc"),
    st.lists(st.sampled_from([CREATED, NOTED, said("x"), said("y " * 40)]), min_size=1, max_size=4),
    st.sampled_from([ANY, ANY, ANY, NO_STREAM, 0, 2]),
    st.sampled_from([None, None, "k1", "k2"]),
    ACTORS,
    st.integers(-2, 5),
)


@settings(max_examples=25)
@given(batches=st.lists(st.lists(APPENDS, max_size=5), max_size=8))
def test_every_log_keeps_the_same_bytes(tmp_path_factory, batches):
    """Given the same drafts, both logs decide alike and keep equal frames under equal roots."""
    memory = MemoryLog(starter_dictionary())
    path = tmp_path_factory.mktemp("log") / "history"
    ensure_store(path, starter_dictionary())
    disk = LmdbLog(path / LOG)
    now = T
    for batch in batches:
        work = []
        for session, facts, expected, key, actor, step in batch:
            now += step
            content = b"%-16d" % len(facts)
            names = {"key": key, "actor": actor, "content": content, "expected": expected}
            with suppress(InvalidEvent):
                work.append(append(session, *facts, codec=memory.codec, **names))
        outcomes = memory.commit(work, now), disk.commit(work, now)
        assert [_plain(each) for each in outcomes[0]] == [_plain(each) for each in outcomes[1]]
        assert memory.head() == disk.head()
    assert [frame.raw for frame in memory.read_all(0)] == [frame.raw for frame in disk.read_all(0)]
    for session in memory.sessions():
        assert memory.tail(session) == disk.tail(session)
        assert [each.raw for each in memory.read_stream(session, 0)] == [
            each.raw for each in disk.read_stream(session, 0)
        ]
    disk.close()


def _plain(outcome) -> object:
    return outcome if isinstance(outcome, Receipt) else (type(outcome), str(outcome))


def test_a_log_on_disk_goes_on_where_it_was(tmp_path):
    """Reopened, a log has the same head, tails, keys and times, and goes on from there."""
    ensure_store(tmp_path / "history", starter_dictionary())
    first = LmdbLog(tmp_path / "history" / LOG)
    put(first, "a", CREATED, said("x"), key="k", now=T)
    head, tail = first.head(), first.tail("a")
    first.close()
    second = LmdbLog(tmp_path / "history" / LOG)
    assert (second.head(), second.tail("a"), second.receipt_of("k")[1].position) == (head, tail, 1)
    assert put(second, "a", said("y"), expected=1, now=T - 9) == Receipt("a", 2, 2, 2, T, 3)
    assert put(second, "a", said("y"), key="k").duplicate
    second.close()


def test_two_logs_on_one_directory_see_each_other(tmp_path):
    """What one open log writes, the other reads at once and builds on."""
    ensure_store(tmp_path / "history", starter_dictionary())
    one, two = (LmdbLog(tmp_path / "history" / LOG) for _ in range(2))
    put(one, "a", CREATED, key="k", actor="one")
    assert put(two, "a", said("x"), expected=0, actor="two").version == 1
    assert put(one, "a", said("y"), expected=1, actor="two").version == 2
    assert put(two, "b", CREATED, actor="one").position == 3
    assert [each.actor for each in one.read_all(0)] == ["one", "two", "two", "one"]
    assert two.receipt_of("k")[1].position == 0
    one.close()
    assert two.head().size == 4
    two.close()


def test_an_append_needs_facts(log):
    """An append without events, or with more than fit, can't be drafted."""
    for facts in ([], [NOTED] * 10_001):
        with pytest.raises(InvalidEvent):
            append("a", *facts, codec=log.codec)


def test_the_caller_s_own_time_comes_back(log):
    """occurred_at is the caller's, from before the epoch too, or None."""
    put(log, "a", CREATED)
    facts = [said("x"), said("y" * 99), ev.Custom("n")]
    times = [-5, None, T]
    log.commit([Append((drafted("a", facts, log.codec, times),), (ANY,))], T)
    found = [recorded.occurred_at for recorded in log.read_stream("a", 1)[0].recorded()]
    assert found == times
