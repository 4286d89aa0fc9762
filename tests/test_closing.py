"""Closing while others are inside: LMDB's files stay mapped until nobody reads or writes there."""

import threading
from functools import partial

import pytest
from callers import in_threads

from eventstore import EventStore, StoreUnavailable
from eventstore.log.environment import Environment, open_environment


def open_until_left(env: Environment, inside: threading.Event, told: list[str]) -> None:
    """Read in one block before and after the environment's last user wants to close it."""
    with env.begin() as txn:
        inside.set()
        while env.users:
            continue
        assert txn.get(b"k") == b"v"
        told.append("read")


def filled(path) -> Environment:
    """Return an environment with one row."""
    path.mkdir()
    env = open_environment(path)
    with env.translating, env.write() as txn:
        txn.put(b"k", b"v")
    return env


def test_closing_waits_for_a_reader(tmp_path):
    """What a block reads while another thread closes is there until the block is left."""
    env, inside, told = filled(tmp_path / "e"), threading.Event(), []

    def close() -> None:
        inside.wait()
        env.close()
        told.append("closed")

    in_threads([lambda: open_until_left(env, inside, told), close])
    assert told == ["read", "closed"]
    assert env.inside == {}


def test_closing_waits_for_a_writer(tmp_path):
    """A transaction that writes while another thread closes is durable when that returns."""
    env, inside, told = filled(tmp_path / "e"), threading.Event(), []

    def write() -> None:
        with env.translating, env.write() as txn:
            inside.set()
            while env.users:
                continue
            txn.put(b"k", b"w")
            told.append("written")

    def close() -> None:
        inside.wait()
        env.close()
        told.append("closed")

    in_threads([write, close])
    assert told == ["written", "closed"]
    again = open_environment(tmp_path / "e")
    with again.begin() as txn:
        assert txn.get(b"k") == b"w"
    again.close()


def test_a_block_may_close_its_own(tmp_path):
    """Who closes inside of a block of the same thread waits for nobody; it is the end of it."""
    env = filled(tmp_path / "e")

    def close_inside() -> None:
        with env.begin() as txn:
            env.close()
            txn.get(b"k")

    with pytest.raises(StoreUnavailable):
        close_inside()
    assert env.inside == {}


def test_nothing_begins_in_what_is_closed(tmp_path):
    """A closed environment says so; what failed to begin keeps nobody from closing."""
    env = filled(tmp_path / "e")
    env.close()
    with pytest.raises(StoreUnavailable, match="closed") as refused, env.begin():
        pytest.fail("it began")
    assert env.inside == {}, refused.traceback


def test_who_stays_inside_keeps_it_open(tmp_path, monkeypatch):
    """Where a reader does not end in time the files stay open, for who opens them next."""
    monkeypatch.setattr("eventstore.log.environment.CLOSING_SECONDS_MAX", 0.05)
    env, inside, leave = filled(tmp_path / "e"), threading.Event(), threading.Event()

    def read() -> None:
        with env.begin() as txn:
            inside.set()
            leave.wait()
            assert txn.get(b"k") == b"v"

    def close() -> None:
        inside.wait()
        env.close()
        again = open_environment(tmp_path / "e")
        assert again is env
        leave.set()
        again.close()

    in_threads([read, close])


def read_until_told(store: EventStore, begun: threading.Barrier) -> None:
    """Read pages of a stream until the store says that it is closed."""

    def read_for_ever() -> None:
        while True:
            assert len(store.log.read_stream("s", 0)) == 1

    begun.wait()
    with pytest.raises(StoreUnavailable, match="closed"):
        read_for_ever()


def test_readers_of_a_store_outlive_its_close(tmp_path):
    """Threads that read while a store is closed end their page or are told; none dies."""
    for turn in range(20):
        store, begun = EventStore.open(tmp_path / str(turn)), threading.Barrier(4)
        store.create("s", messages=[{"role": "user", "content": str(n)} for n in range(50)])
        readers = [partial(read_until_told, store, begun)] * 3
        in_threads([*readers, partial(close_with, store, begun)])


def close_with(store: EventStore, begun: threading.Barrier) -> None:
    """Close a store as soon as others read from it."""
    begun.wait()
    store.close()
