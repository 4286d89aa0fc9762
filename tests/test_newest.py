"""What a log remembers of its newest commit is used while that is the newest, and no longer."""

import subprocess
import sys
from pathlib import Path

import pytest

from eventstore import EventStore, InvalidEvent, VersionConflict
from eventstore.audit.tree import Frontier
from eventstore.audit.verify import verify
from eventstore.log.base import Tail
from eventstore.log.newest import Edge, Newest

EDGE = Edge(Frontier(), 7, 1, any_erased=False)
TAIL = Tail(1, 5, 5, 9)

OTHER = """
import sys
from eventstore import EventStore
with EventStore.open(sys.argv[1]) as store:
    getattr(store, sys.argv[2])("s", *([{"role": "user", "content": "theirs"}] * int(sys.argv[3])))
"""


def elsewhere(place: Path, command: str, messages: int = 0) -> None:
    """Run a command in another process, to its end."""
    subprocess.run([sys.executable, "-c", OTHER, place, command, str(messages)], check=True)


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
        elsewhere(place, "append", 1)
        assert env.newest_commit() == env._env.info()["last_txnid"] > before


def test_what_others_wrote_is_built_upon(place):
    """An append after another process's has its place behind that, and the tree has both."""
    with EventStore.open(place) as store:
        store.create("s")
        store.append("s", {"role": "user", "content": "ours"})
        elsewhere(place, "append", 1)
        receipt = store.append("s", {"role": "user", "content": "ours too"})
        assert (receipt.first_version, receipt.position) == (3, 3)
        assert [each.version for each in store.events("s")] == [0, 1, 2, 3]
        assert not verify(store, deep=True).findings


def test_a_session_closed_elsewhere_takes_no_message(place):
    """Once another process's close has returned, an append here is refused."""
    with EventStore.open(place) as store:
        store.create("s")
        store.append("s", {"role": "user", "content": "ours"})
        elsewhere(place, "close")
        with pytest.raises(InvalidEvent, match="is closed"):
            store.append("s", {"role": "user", "content": "too late"})
        elsewhere(place, "reopen")
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
        elsewhere(place, "close")
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
