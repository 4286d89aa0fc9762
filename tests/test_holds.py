"""Legal holds: what is held can't be erased, redacted, pruned or expire; who reads is recorded."""

import asyncio

import pytest
from facts import told

from eventstore import EventStore, InvalidEvent, LegalHold, SessionExpired, SessionNotFound
from eventstore import events as ev
from eventstore.audit.verify import verify
from eventstore.ids import SYSTEM
from projections import SessionState

SECOND = 1_000_000_000


class Clock:
    """A clock that stands still unless it is set."""

    def __init__(self) -> None:
        self.now = 1_700_000_000 * SECOND

    def __call__(self) -> int:
        return self.now


def say(store: EventStore, session: str, *texts: str) -> None:
    """Append lines to a session."""
    store.append(session, [{"role": "user", "content": text} for text in texts])


@pytest.fixture
def held(store: EventStore) -> EventStore:
    """Give a session of a user, under hold."""
    store.create("s", user="u1")
    say(store, "s", "one", "two")
    store.set_hold("s", reason="case 7", actor="user:law")
    return store


FORBIDDEN = {
    "redact": lambda store, session: store.redact(session, 1),
    "prune": lambda store, session: store.prune(session, keep_last=1),
}


@pytest.mark.parametrize("command", FORBIDDEN)
def test_a_held_session_loses_nothing(held, command):
    """Neither redact nor prune touch it, the error names it, and nothing is written."""
    size = held.head().size
    with pytest.raises(LegalHold) as error:
        FORBIDDEN[command](held, "s")
    assert error.value.session == "s"
    assert held.head().size == size
    held.clear_hold("s")
    FORBIDDEN[command](held, "s")


def test_everything_else_goes_on(held):
    """A hold is no lock: messages, branches, merges, summaries and deletion work."""
    say(held, "s", "three")
    held.branch("s", "b")
    say(held, "b", "four")
    held.merge("b", into="s")
    held.summarize("s", "short", upto=2)
    held.delete("s")
    assert told(verify(held, deep=True)) == ""


def test_hold_and_release_are_facts(held):
    """Who held what, since when and why, stands in the session's own stream."""
    held.clear_hold("s", reason="closed", actor="user:law")
    facts = [(each.event, each.actor) for each in held.events("s", 3)]
    assert facts == [
        (ev.LegalHoldSet("case 7"), "user:law"),
        (ev.LegalHoldCleared("closed"), "user:law"),
    ]
    states = [SessionState.of(held, "s", at_version=version).header.held for version in range(5)]
    assert states == [False, False, False, True, False]


@pytest.mark.parametrize("back", [lambda s: s.rewind("s", 1), lambda s: s.undo("s")])
def test_a_hold_can_not_be_rewound(held, back):
    """Rewinding to before it, or undoing it, leaves it in force: only clearing it ends it."""
    back(held)
    assert held.headers.now("s").held
    with pytest.raises(LegalHold):
        held.redact("s", 1)
    held.clear_hold("s")
    held.rewind("s", 3)
    assert not held.headers.now("s").held


def test_a_hold_covers_one_session(held):
    """A branch of a held session is not held itself; what it shows of that one is safe still."""
    held.branch("s", "b")
    say(held, "b", "mine")
    assert not held.headers.now("b").held
    held.redact("b", 1)
    with pytest.raises(LegalHold) as error:
        held.redact("b", "s#1")
    assert error.value.session == "s"


def test_a_hold_on_a_user_covers_all_of_theirs(store):
    """Sessions of that user are held, also those made later and their branches; others are not."""
    store.create("old", user="u1")
    store.create("other", user="u2")
    for session in ("old", "other"):
        say(store, session, "one")
    store.set_hold(user="u1", reason="case 7")
    store.create("new", user="u1")
    say(store, "new", "one")
    store.branch("old", "branch")
    say(store, "branch", "one")
    for session in ("old", "new", "branch"):
        with pytest.raises(LegalHold):
            store.redact(session, 1)
    store.redact("other", 1)
    store.clear_hold(user="u1")
    for session in ("old", "new", "branch"):
        store.redact(session, 1)


def test_holds_add_up(store):
    """A session held by itself and by its user is free when both holds are over."""
    store.create("s", user="u1")
    say(store, "s", "one")
    store.set_hold("s")
    store.set_hold(user="u1")
    store.clear_hold("s")
    assert store.headers.held("s")
    store.clear_hold(user="u1")
    assert not store.headers.held("s")


def test_a_hold_on_a_user_is_about_the_store(store):
    """It stands in the system stream, which no list of sessions shows, and survives snapshots."""
    for number in range(150):
        store.set_hold(user=f"u{number}")
    store.clear_hold(user="u7")
    assert list(store.sessions()) == []
    header = store.headers.now(SYSTEM)
    assert header.users_held == [f"u{number}" for number in range(150) if number != 7]
    assert store.headers.at(SYSTEM, 140).users_held == header.users_held[:6] + [
        f"u{number}" for number in range(6, 140)
    ]


def test_what_is_held_does_not_expire():
    """While a hold is on, a session works beyond its time to live; then it is over at once."""
    clock = Clock()
    with EventStore.in_memory(clock=clock) as store:
        store.create("own", ttl=5)
        store.create("theirs", ttl=5, user="u1")
        store.set_hold("own")
        store.set_hold(user="u1")
        clock.now += 9 * SECOND
        for session in ("own", "theirs"):
            say(store, session, "late")
        store.clear_hold("own")
        store.clear_hold(user="u1")
        for session in ("own", "theirs"):
            with pytest.raises(SessionExpired):
                say(store, session, "too late")


def test_a_hold_is_on_one_thing(store):
    """A hold needs a session that is there, or a user; both or none is an error."""
    store.create("s")
    for wrong in ({}, {"session": "s", "user": "u1"}, {"user": ""}, {"session": "s", "reason": 7}):
        with pytest.raises(InvalidEvent):
            store.set_hold(**wrong)
    with pytest.raises(SessionNotFound):
        store.set_hold("nowhere")


def test_holds_are_kept(tmp_path):
    """A hold outlives the process; a deleted session can be held and released."""
    with EventStore.open(tmp_path / "history") as store:
        store.create("s", user="u1")
        say(store, "s", "one")
        store.set_hold(user="u1")
        store.delete("s")
    with EventStore.open(tmp_path / "history") as store:
        with pytest.raises(LegalHold):
            store.redact("s", 1)
        asyncio.run(store.aio.clear_hold(user="u1"))
        asyncio.run(store.aio.set_hold("s"))
        with pytest.raises(LegalHold):
            store.redact("s", 1)
        store.clear_hold("s")
        store.redact("s", 1)


def test_an_erasure_is_refused(sealed):
    """A hold on the session or its user forbids erasing it."""
    sealed.create("s", user="u1")
    sealed.set_hold("s")
    with pytest.raises(LegalHold):
        sealed.erase("s", reason="asked for")
    sealed.clear_hold("s")
    sealed.set_hold(user="u1")
    with pytest.raises(LegalHold):
        sealed.erase("s", reason="asked for")
    sealed.clear_hold(user="u1")
    sealed.erase("s", reason="asked for")


# -- recorded reads ----------------------------------------------------------------------


def reads(store: EventStore) -> list[tuple]:
    """Return what was read: session, what, version and who."""
    found = []
    for frame in store.log.read_stream(SYSTEM, 0):
        for each in frame.recorded():
            if isinstance(each.event, ev.Custom):
                data = each.event.data
                found.append((data["session"], data["what"], data["version"], each.actor))
    return found


def test_reads_are_recorded(tmp_path):
    """Each read of a state, of events or of the log is one fact that names its reader."""
    place = tmp_path / "history"
    with EventStore.open(place) as store:
        store.create("s")
        say(store, "s", "one", "two")
    with EventStore.open(place, record_reads=True, actor="user:7") as store:
        SessionState.of(store, "s")
        SessionState.of(store, "s", at_version=1)
        iterator = store.events("s", limit=1)
        assert len(reads(store)) == 3
        next(iterator)
        store.event(1)
        list(store.all(limit=1))
        assert reads(store) == [
            ("s", "state", 2, "user:7"),
            ("s", "state", 1, "user:7"),
            ("s", "events", 2, "user:7"),
            ("s", "event", 1, "user:7"),
            (None, "log", None, "user:7"),
        ]
        assert list(store.sessions()) == ["s"]


def test_reads_are_recorded_for_coroutines_too():
    """The async readers record the same; without the option nothing is recorded."""

    async def read(store: EventStore) -> None:
        assert [each.version async for each in store.aio.events("s")] == [0, 1]
        assert [each.position async for each in store.aio.all(limit=1)] == [0]

    for option in (True, False):
        with EventStore.in_memory(record_reads=option, actor="user:7") as store:
            store.create("s")
            say(store, "s", "one")
            asyncio.run(read(store))
            told_of = reads(store) if option else []
            assert store.exists(SYSTEM) is option
            assert [each[:2] for each in told_of] == [("s", "events"), (None, "log")][: 2 * option]


def test_a_failed_read_is_none(tmp_path):
    """A read that raises hands out nothing and records nothing; a read-only store can't record."""
    with EventStore.in_memory(record_reads=True) as store:
        for read in (
            lambda: SessionState.of(store, "nowhere"),
            lambda: store.events("nowhere"),
            lambda: store.event(9),
        ):
            with pytest.raises((SessionNotFound, InvalidEvent)):
                read()
        assert not store.exists(SYSTEM)
    with pytest.raises(InvalidEvent):
        EventStore.open(tmp_path / "history", read_only=True, record_reads=True)
