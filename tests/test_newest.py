"""What a log remembers of its newest commit is used while that is the newest, and no longer."""

import json
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from eventstore import EventStore, InvalidEvent, VersionConflict
from eventstore.audit.tree import Frontier
from eventstore.audit.verify import verify
from eventstore.log.base import Tail
from eventstore.log.environment import Environment
from eventstore.log.newest import Edge, Newest
from eventstore.log.shredding import Shred

EDGE = Edge(Frontier(), 7, 1, any_erased=False, erasures=0)
TAIL = Tail(1, 5, 5, 9)

THEIRS = {"role": "user", "content": "theirs"}

OTHER = """
import json, sys
from eventstore import EventStore
with EventStore.open(sys.argv[1]) as store:
    getattr(store, sys.argv[2])(*json.loads(sys.argv[3]))
"""


def elsewhere(place: Path, command: str, *arguments: object) -> None:
    """Run a command in another process, to its end."""
    given = json.dumps(arguments)
    subprocess.run([sys.executable, "-c", OTHER, place, command, given], check=True)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return where a store is."""
    return tmp_path / "history"


def test_the_newest_commit_is_the_one_that_lmdb_names(place):
    """The number read from the file's heads is LMDB's own, after every commit of any process."""
    with EventStore.open(place) as store:
        env = store.log.env
        store.create("s")
        for number in range(5):
            store.append("s", {"role": "user", "content": f"ours {number}"})
            assert env.newest_commit() == env._env.info()["last_txnid"]
        before = env.newest_commit()
        elsewhere(place, "append", "s", THEIRS)
        assert env.newest_commit() == env._env.info()["last_txnid"] > before


def test_what_others_wrote_is_built_upon(place):
    """An append after another process's has its place behind that, and the tree has both."""
    with EventStore.open(place) as store:
        store.create("s")
        store.append("s", {"role": "user", "content": "ours"})
        elsewhere(place, "append", "s", THEIRS)
        receipt = store.append("s", {"role": "user", "content": "ours too"})
        assert (receipt.first_version, receipt.position) == (3, 3)
        assert [each.version for each in store.events("s")] == [0, 1, 2, 3]
        assert not verify(store, deep=True).findings


def test_a_session_closed_elsewhere_takes_no_message(place):
    """Once another process's close has returned, an append here is refused."""
    with EventStore.open(place) as store:
        store.create("s")
        store.append("s", {"role": "user", "content": "ours"})
        elsewhere(place, "close", "s")
        with pytest.raises(InvalidEvent, match="is closed"):
            store.append("s", {"role": "user", "content": "too late"})
        elsewhere(place, "reopen", "s")
        store.append("s", {"role": "user", "content": "welcome"})


def test_a_refused_append_changes_nothing_that_is_remembered(place):
    """After a commit of nothing the next append has the next place."""
    with EventStore.open(place) as store:
        store.create("s")
        with pytest.raises(VersionConflict):
            store.append("s", {"role": "user", "content": "x"}, expected=9)
        assert store.append("s", {"role": "user", "content": "y"}).position == 1


def test_a_session_closed_elsewhere_after_a_refusal_takes_no_message(place):
    """A commit of nothing leaves its number to the next one, which may be another process's."""
    with EventStore.open(place) as store:
        store.create("s")
        store.append("s", {"role": "user", "content": "ours"})
        with pytest.raises(VersionConflict):
            store.append("s", {"role": "user", "content": "x"}, expected=9)
        elsewhere(place, "close", "s")
        with pytest.raises(InvalidEvent, match="is closed"):
            store.append("s", {"role": "user", "content": "too late"})


def test_a_commit_that_was_interrupted_before_it_was_remembered_is_looked_up(place, monkeypatch):
    """What is durable counts, also where its caller was stopped just behind the commit."""

    def interrupted(*_):
        raise KeyboardInterrupt

    with EventStore.open(place) as store:
        store.create("s")
        store.append("s", {"role": "user", "content": "ours"})
        with monkeypatch.context() as patched:
            patched.setattr(store.log, "_settle", interrupted)
            with pytest.raises(KeyboardInterrupt):
                store.close("s")
        with pytest.raises(InvalidEvent, match="is closed"):
            store.append("s", {"role": "user", "content": "too late"})


# -- states ----------------------------------------------------------------------------------


@pytest.fixture
def begun(monkeypatch):
    """Give a way to list the transactions that are begun in a block: True for one that writes."""
    begin = Environment.begun

    @contextmanager
    def listed():
        found: list[bool] = []

        def noted(env: Environment, *, write: bool):
            found.append(write)
            return begin(env, write=write)

        with monkeypatch.context() as patched:
            patched.setattr(Environment, "begun", noted)
            yield found

    return listed


def ours(number: int) -> dict[str, str]:
    """Return a message of this process."""
    return {"role": "user", "content": f"ours {number}"}


def told(store: EventStore) -> None:
    """Make a session that says four things, and a branch of it."""
    store.create("s")
    store.append("s", [ours(number) for number in range(4)])
    store.branch("s", "b")


def lines(store: EventStore, session: str) -> int:
    """Return how many lines a session shows."""
    return store.headers.now(session).messages


def test_a_state_takes_no_transaction_where_this_process_wrote_last(place, begun):
    """Neither of the session that was written nor, after its first look, of any other."""
    with EventStore.open(place) as store:
        told(store)
    with EventStore.open(place) as store:
        assert [lines(store, "s"), lines(store, "b")] == [4, 4]
        store.append("b", ours(4))
        assert [lines(store, "s"), lines(store, "b")] == [4, 5]
        store.append("b", ours(5))
        with begun() as found:
            assert [lines(store, "s"), lines(store, "b")] == [4, 6]
            assert store.version("s") == 4
        assert found == [False], "the message that came has to be read"
        with begun() as found:
            assert [lines(store, "s"), lines(store, "b")] == [4, 6]
        assert found == []


def test_a_branch_takes_no_transaction_but_its_own(place, begun):
    """Where this process wrote last and knows the parent."""
    with EventStore.open(place) as store:
        told(store)
        lines(store, "s")
        with begun() as found:
            store.branch("s", "c", at=2)
        assert found == [True]


def test_what_others_said_is_in_the_next_state(place):
    """Another process's message is there, also where this one has written since."""
    with EventStore.open(place) as store:
        told(store)
        assert lines(store, "s") == 4
        elsewhere(place, "append", "s", THEIRS)
        assert lines(store, "s") == 5
        elsewhere(place, "append", "s", THEIRS)
        store.append("b", ours(4))
        assert lines(store, "s") == 6
        elsewhere(place, "rewind", "s", 2)
        store.append("b", ours(5))
        assert [lines(store, "s"), lines(store, "b")] == [2, 6]


@pytest.mark.parametrize("own", [0, 1, 2])
def test_what_others_redacted_is_in_no_state(place, own):
    """Nor in one that the same event made up before, however often this process writes since."""
    with EventStore.open(place) as store:
        told(store)
        assert [lines(store, "s"), lines(store, "b")] == [4, 4]
        elsewhere(place, "redact", "s", 2)
        for number in range(own):
            store.append("b", ours(number))
        assert [lines(store, "b"), lines(store, "s")] == [3 + own, 3]
        elsewhere(place, "redact", "s", 3)
        for number in range(own):
            store.append("b", ours(number))
        assert [lines(store, "b"), lines(store, "s")] == [2 + 2 * own, 2]


def test_what_this_process_redacted_is_in_no_state(place):
    """A branch that shows it by reference has no event of it, and shows it no more."""
    with EventStore.open(place) as store:
        told(store)
        assert lines(store, "b") == 4
        store.redact("s", 2)
        assert lines(store, "b") == 3
        store.append("s", ours(4))
        store.redact("s", 1)
        assert lines(store, "b") == 2


def there(store: EventStore) -> tuple[object, ...]:
    """Return erasure count and tails as the disk has them."""
    with store.log.env.begin() as txn:
        tails = [store.log.tail_in(txn, session, {}) for session in "st"]
        return store.log.gone.count(txn), *tails


STEPS = st.lists(
    st.tuples(st.sampled_from([0, 1]), st.sampled_from(["say", "look", "redact", "shred"])),
    max_size=12,
)


@given(STEPS)
def test_what_is_remembered_is_what_is_there(steps):
    """Two that write in turn know after each step all tails and the erasure count."""
    with TemporaryDirectory() as place, ExitStack() as stack:
        stores = [stack.enter_context(EventStore.open(place, train=False)) for _ in range(2)]
        for session in "st":
            stores[0].create(session)
        gone = 0
        for number, (who, what) in enumerate(steps):
            store = stores[who]
            store.append("st"[number % 2], ours(number))
            if what == "look":
                assert [lines(store, "s"), store.version("t")]
            elif what == "redact":
                store.redact("s", 1)
                gone = 1
            elif what == "shred":
                store.log.shred(Shred("t", 1, 1))
            known = [(each.log.erasures(), *map(each.log.tail, "st")) for each in stores]
            assert known == [there(store)] * 2
            assert [lines(each, "s") for each in stores] == [number // 2 + 1 - gone] * 2


# -- the memory itself -----------------------------------------------------------------------


def test_nothing_is_known_before_the_first_commit():
    """A log that has not written yet asks the disk."""
    newest = Newest()
    assert newest.begun(1) is None
    assert newest.tail(0, "s") is newest.settled_tail(0, "s") is newest.staged_on("s") is None


def test_an_edge_serves_the_very_next_transaction():
    """What was settled is built upon by the next number, and forgotten at any other."""
    newest = Newest()
    newest.begun(4)
    newest.settle(4, EDGE, {"s": TAIL})
    assert newest.begun(5) is EDGE
    assert newest.staged_on("s") == TAIL
    assert newest.begun(7) is None
    assert newest.staged_on("s") is None


def test_a_tail_is_known_as_of_the_newest_commit_alone():
    """A tail is given for the commit that was settled, not for one of somebody else."""
    newest = Newest()
    newest.begun(4)
    newest.settle(4, EDGE, {"s": TAIL})
    assert newest.tail(4, "s") == TAIL
    assert newest.tail(5, "s") is newest.settled_tail(5, "s") is None
    newest.ending(5)
    assert newest.tail(5, "s") is None, "who reads facts sees those of the commit under way"
    assert newest.settled_tail(5, "s") == TAIL


def test_a_commit_that_settles_late_tells_nothing():
    """What comes to be known while a later transaction is under way is not its ground."""
    newest = Newest()
    newest.begun(4)
    assert newest.begun(6) is None, "5 is already there, and another's"
    newest.settle(4, EDGE, {"s": TAIL})
    assert newest.staged_on("s") is newest.tail(4, "s") is None


def test_what_is_read_of_the_newest_commit_is_remembered_with_it():
    """A place that was read counts as long as the commits that follow are ours, and changes so."""
    newest = Newest()
    newest.learn(4, "s", TAIL)
    assert newest.tail(4, "s") is None, "no commit of ours"
    newest.begun(4)
    newest.settle(4, EDGE, {})
    newest.learn(3, "t", TAIL)
    newest.learn(4, "s", TAIL)
    assert (newest.tail(4, "s"), newest.tail(4, "t")) == (TAIL, None)
    later = Tail(1, 6, 6, 12)
    assert newest.begun(5) is EDGE
    newest.settle(5, EDGE, {"u": later})
    assert (newest.tail(5, "s"), newest.tail(5, "u")) == (TAIL, later)
    assert newest.begun(7) is None
    assert newest.tail(5, "s") is None


def test_an_erasure_count_is_known_as_of_the_newest_commit_alone():
    """It is that of the commit that was settled, and nothing of one of somebody else."""
    newest = Newest()
    assert newest.erasures(3) is None
    newest.begun(4)
    newest.settle(4, replace(EDGE, erasures=2), {})
    newest.ending(5)
    assert (newest.erasures(4), newest.erasures(5)) == (2, None)
    newest.forget()
    assert newest.erasures(4) is None
