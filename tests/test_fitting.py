"""Fitting: a plain store on disk makes dictionaries of its own as it grows, where they pay."""

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from facts import told
from growing import grown, line, numbers, opened, settle

from eventstore import EventStore, InvalidEvent, StoreFull, StoreUnavailable
from eventstore.audit.verify import verify
from eventstore.engine import fitting
from eventstore.engine.fitting import (
    FITTING_EVENTS_MIN,
    FITTING_PAYLOADS_MIN,
    Fitter,
    fitted,
    samples,
    step_after,
)
from eventstore.interchange import import_conversations
from eventstore.log.codec import Codec, train
from eventstore.log.format import FRAMES, POSITION, STARTER
from eventstore.store import starter_dictionary

FIRST = STARTER + 1
"""The number of the first dictionary that a store makes."""


def silent(store: EventStore, count: int) -> None:
    """Append events without a text to learn from."""

    async def all_of_them() -> None:
        await asyncio.gather(*(store.aio.create() for _ in range(count)))

    asyncio.run(all_of_them())
    settle(store)


def named(store: EventStore) -> list[int]:
    """Return the dictionary that each event names."""
    return [each.frame.row(each.index)[7] for each in store.all()]


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a store that is one event short of its first dictionary."""
    place = tmp_path_factory.mktemp("fitting") / "history"
    with opened(place) as store:
        grown(store, FITTING_EVENTS_MIN - 1)
        assert numbers(store) == [STARTER]
    return place


@pytest.fixture
def due(untrained: Path, tmp_path: Path) -> Path:
    """Give a copy of it, which nobody has open."""
    return Path(shutil.copytree(untrained, tmp_path / "history"))


@pytest.fixture
def held_up(monkeypatch):
    """Have training wait, once it has begun, until it is let go: give both events."""
    begun, let_go = threading.Event(), threading.Event()

    def slow(*given):
        begun.set()
        assert let_go.wait(60)
        return fitted(*given)

    monkeypatch.setattr(fitting, "fitted", slow)
    yield begun, let_go
    let_go.set()


# -- the decision ----------------------------------------------------------------------------


def payloads(count: int) -> list[bytes]:
    """Return payloads much like each other."""
    return [repr(line(number)).encode() for number in range(count)]


def starter_codec() -> Codec:
    """Return a codec that compresses with what ships."""
    return Codec({STARTER: starter_dictionary()}.get, STARTER)


def test_a_dictionary_is_made_where_it_pays():
    """It saves a tenth and more of what the one at hand makes of payloads it was not trained on."""
    made = fitted(payloads(1_000), starter_codec(), 1_000)
    assert made is not None
    others = [repr(line(number)).encode() for number in range(1_000, 1_100)]
    before = fitting.stored_bytes(others, starter_codec())
    assert fitting.stored_bytes(others, Codec({FIRST: made}.get, FIRST)) < before * 0.9


def test_none_is_made_where_another_saves_as_much():
    """Against a dictionary of the same text a new one saves less than a tenth."""
    known = train(payloads(2_000))
    assert fitted(payloads(1_000), Codec({FIRST: known}.get, FIRST), 1_000_000) is None


def test_none_is_made_of_noise():
    """What nothing repeats itself in is not learnt."""
    noise = [random.Random(number).randbytes(100) for number in range(1_000)]
    assert fitted(noise, starter_codec(), 1_000_000) is None


def test_none_is_made_that_takes_more_than_it_saves():
    """What a log's events would save must be more than the dictionary's own bytes."""
    assert fitted(payloads(1_000), starter_codec(), 1_000) is not None
    assert fitted(payloads(1_000), starter_codec(), 10) is None


@pytest.mark.parametrize("count", [0, 1, 3, 7])
def test_none_is_made_of_too_few(count):
    """Few payloads train nothing, and that is no error."""
    assert fitted(payloads(count), starter_codec(), 1_000_000) is None


def test_steps_double():
    """The first is at FITTING_EVENTS_MIN, each next at twice the size, whatever a log has now."""
    first = FITTING_EVENTS_MIN
    assert [step_after(0), step_after(first - 1), step_after(first)] == [first, first, 2 * first]
    assert step_after(7 * first) == 8 * first == step_after(4 * first)


# -- a store that grows ----------------------------------------------------------------------


def test_a_store_trains_itself_once_at_the_threshold(due):
    """Not an event earlier; from then on its messages take less, and nothing reads differently."""
    with opened(due) as store:
        assert not store.trained
        grown(store, FITTING_EVENTS_MIN)
        assert (numbers(store), store.trained) == ([STARTER, FIRST], True)
        grown(store, 2 * FITTING_EVENTS_MIN - 1)
        assert numbers(store) == [STARTER, FIRST]
        assert set(named(store)[1:FITTING_EVENTS_MIN]) == {STARTER}
        assert set(named(store)[FITTING_EVENTS_MIN:]) == {FIRST}
        sizes = [len(each.frame.raw) for each in store.all()]
        assert sizes[-1] < sizes[-FITTING_EVENTS_MIN] * 0.8
        said = [each.event.message.fields for each in store.all() if each.type != "SessionCreated"]
        assert said == [line(number) for number in range(1, len(sizes))]
        assert told(verify(store, deep=True)) == ""
    with EventStore.open(due, read_only=True) as store:
        assert store.log.codec.current == FIRST


def test_a_new_one_is_kept_only_where_it_pays(due):
    """Twice the size brings no other where the same is said, and one where something else is."""
    with opened(due) as store:
        grown(store, 2 * FITTING_EVENTS_MIN)
        assert numbers(store) == [STARTER, FIRST]
        chance = random.Random(5)
        others = ["".join(chance.choices("abcdefghij", k=14)) for _ in range(40)]
        for number in range(2 * FITTING_EVENTS_MIN):
            text = " ".join([*chance.choices(others, k=20), str(number)])
            store.append("talk", {"role": "assistant", "content": text})
        settle(store)
        assert numbers(store) == [STARTER, FIRST, FIRST + 1]
        assert told(verify(store, deep=True)) == ""


def test_small_stores_are_never_trained(tmp_path):
    """A store of 300 small events keeps what ships, however often it is opened."""
    for size in (100, 200, 300):
        with opened(tmp_path / "history") as store:
            grown(store, size)
    with opened(tmp_path / "history") as store:
        assert numbers(store) == [STARTER]


def test_imports_set_it_off_too(due):
    """Whatever commits counts: also one transaction of many events."""
    with opened(due) as store:
        import_conversations(store, {"more": [line(number) for number in range(9_000, 9_100)]})
        store.fitter.wait()
        assert numbers(store) == [STARTER, FIRST]


def test_text_that_comes_after_the_steps_is_learnt_soon(tmp_path):
    """Where the steps fell on events without text it takes no doubling, but two looks at most."""
    with opened(tmp_path / "history") as store:
        silent(store, FITTING_EVENTS_MIN)
        silent(store, FITTING_EVENTS_MIN)
        assert numbers(store) == [STARTER]
        begun = store.head().size
        for size in range(begun, begun + 3 * FITTING_PAYLOADS_MIN, 25):
            grown(store, size)
            assert size - begun >= FITTING_PAYLOADS_MIN or not store.trained
        assert numbers(store) == [STARTER, FIRST]
        later = [number for number in named(store) if number == FIRST]
        assert len(later) >= FITTING_PAYLOADS_MIN - 25
        assert begun + 3 * FITTING_PAYLOADS_MIN < step_after(begun)
        assert told(verify(store, deep=True)) == ""


def test_until_there_is_text_each_event_is_looked_at_once(tmp_path, monkeypatch):
    """A look that found too little goes on where it ended, and nothing is read for training."""
    looks: list[tuple[int, int]] = []
    compressible = fitting._compressible

    def noted(log, first, end):
        looks.append((first, end))
        return compressible(log, first, end)

    def never(*_):
        raise AssertionError("there is nothing to train on")

    monkeypatch.setattr(fitting, "_compressible", noted)
    monkeypatch.setattr(fitting, "samples", never)
    with opened(tmp_path / "history") as store:
        for _ in range(20):
            silent(store, 100)
        begun, ended = zip(*looks, strict=True)
        assert begun == (0, *ended[:-1])
        assert store.head().size - ended[-1] < FITTING_PAYLOADS_MIN


def test_what_is_redacted_by_then_is_not_learnt(due):
    """Samples have what is left of the newest events, and no more of them than asked for."""
    with opened(due) as store:
        store.redact("talk", 7)
        store.flush()
        text = line(7)["content"].encode()
        read = samples(store.log, 5_000)
        assert len(read) == FITTING_EVENTS_MIN - 3  # nor is a creation compressed, or Redacted
        assert not any(text in each for each in read)
        assert len(samples(store.log, 10)) == 9


# -- where nothing is trained ----------------------------------------------------------------


def test_train_false_trains_nothing(due):
    """The switch leaves a store with the dictionary it has; by hand it can be trained still."""
    with opened(due, train=False) as store:
        grown(store, FITTING_EVENTS_MIN + 1)
        assert (store.fitter, numbers(store)) == (None, [STARTER])
        assert store.train_dictionary() == FIRST


def test_encrypted_read_only_uncompressed_and_memory_stores_are_not_trained(due, keyring):
    """Nothing of what is said leaves the seal; who may not write or compress has no use for it."""
    with opened(due.parent / "sealed", keyring=keyring) as store:
        grown(store, FITTING_EVENTS_MIN + 1)
        assert (store.fitter, numbers(store)) == (None, [STARTER])
    with EventStore.in_memory() as store:
        grown(store, FITTING_EVENTS_MIN + 1)
        assert store.fitter is None and not store.trained
    with opened(due, compression="none") as store:
        grown(store, FITTING_EVENTS_MIN + 1)
        assert (store.fitter, numbers(store)) == (None, [STARTER])
    with EventStore.open(due, read_only=True) as store:
        assert (store.fitter, numbers(store)) == (None, [STARTER])


# -- several at once -------------------------------------------------------------------------


def test_two_that_train_at_once_add_one(due):
    """Both looked before either was done: the second keeps nothing and goes on with the first's."""
    both = threading.Barrier(2)

    @contextmanager
    def together():
        both.wait(60)
        yield

    with opened(due, train=False) as one, opened(due, train=False) as two:
        grown(one, FITTING_EVENTS_MIN)
        fitters = [Fitter(each.log, together) for each in (one, two)]
        for each in fitters:
            each._begin()
        for each in fitters:
            each.wait()
        assert numbers(one) == [STARTER, FIRST]
        assert {one.log.codec.current, two.log.codec.current} == {FIRST}


APPENDS = """
import sys
sys.path.insert(0, sys.argv[2])
from growing import grown, numbers, opened
from eventstore.engine.fitting import FITTING_EVENTS_MIN
with opened(sys.argv[1]) as store:
    grown(store, FITTING_EVENTS_MIN + 20)
    print(numbers(store), store.log.codec.current)
"""


def command(script: str, place: Path) -> list[str]:
    """Return the command that runs a script on a store, with the tests' modules at hand."""
    return [sys.executable, "-c", script, str(place), str(Path(__file__).parent)]


def test_another_process_s_dictionary_is_taken_over(due):
    """Who is at its step finds that another process was there, and trains nothing itself."""
    with opened(due) as store:
        done = subprocess.run(command(APPENDS, due), capture_output=True, check=True, text=True)
        assert done.stdout.split("] ")[1].strip() == str(FIRST)
        store.append("talk", line(1))
        settle(store)
        assert (numbers(store), store.log.codec.current) == ([STARTER, FIRST], FIRST)
        assert store.event(store.append("talk", line(2)).position).frame.row(0)[7] == FIRST


def test_processes_that_grow_a_store_together_leave_it_sound(due):
    """Whoever trains, all that was said reads the same, and no number is missing."""
    running = [
        subprocess.Popen(command(APPENDS, due), stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    assert [each.wait() for each in running] == [0, 0, 0]
    for each in running:
        each.stdout.close()
    with opened(due, train=False) as store:
        assert store.trained
        assert numbers(store) == [*range(STARTER, max(numbers(store)) + 1)]
        assert told(verify(store, deep=True)) == ""


# -- interrupted -----------------------------------------------------------------------------


def test_close_waits_for_what_is_being_trained(due, held_up):
    """A store that is closed meanwhile has its dictionary when close() returns."""
    begun, let_go = held_up
    store = opened(due)
    store.append("talk", line(1))
    assert begun.wait(60)
    store.append("talk", line(2))  # appends go on
    closing = threading.Thread(target=store.close)
    closing.start()
    assert not store.log._closed
    let_go.set()
    closing.join()
    with opened(due, train=False) as again:
        assert numbers(again) == [STARTER, FIRST]
        assert again.head().size == FITTING_EVENTS_MIN + 1


def test_a_closed_store_begins_nothing(due):
    """After close() no commit sets anything off, and closing again is no error."""
    store = opened(due)
    store.fitter.close()
    store.append("talk", line(1))
    store.close()
    store.close()
    with opened(due, train=False) as again:
        assert numbers(again) == [STARTER]


KILLED = """
import os, sys
sys.path.insert(0, sys.argv[2])
from growing import line, opened
from eventstore.engine import fitting
def stop(*_):
    os.write(1, b"training\\n")
    sys.stdin.read()
fitting.fitted = stop
store = opened(sys.argv[1])
for number in range(50):
    store.append("talk", line(number))
store.flush()
os.write(1, b"said\\n")
store.close()
"""


def test_killed_while_training_nothing_is_lost(due):
    """What was acknowledged is there, the store is sound, and it trains at its next step."""
    child = subprocess.Popen(
        command(KILLED, due), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert {child.stdout.readline(), child.stdout.readline()} == {"training\n", "said\n"}
    child.kill()
    assert child.wait() == -signal.SIGKILL
    child.stdin.close()
    child.stdout.close()
    with opened(due) as store:
        assert store.head().size == FITTING_EVENTS_MIN - 1 + 50
        assert numbers(store) == [STARTER]
        assert told(verify(store, deep=True)) == ""
        grown(store, 2 * FITTING_EVENTS_MIN)
        assert numbers(store) == [STARTER, FIRST]


INTERRUPTED = """
import os, sys, threading, time
sys.path.insert(0, sys.argv[2])
from growing import line, opened
from eventstore.engine import fitting
from eventstore.engine.fitting import fitted
let_go = threading.Event()
def slow(*given):
    os.write(1, b"training\\n")
    assert let_go.wait(60)
    return fitted(*given)
fitting.fitted = slow
with opened(sys.argv[1]) as store:
    store.append("talk", line(1))
    try:
        os.write(1, b"waiting\\n")
        for _ in range(6_000):  # a signal that comes just before one long wait would not end it
            time.sleep(0.01)
    except KeyboardInterrupt:
        store.append("talk", line(2))
        let_go.set()
"""


def test_ctrl_c_while_training_loses_nothing(due):
    """It reaches whoever waits and not the training: appends go on, and the dictionary is kept."""
    child = subprocess.Popen(
        command(INTERRUPTED, due), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert {child.stdout.readline(), child.stdout.readline()} == {"training\n", "waiting\n"}
    child.send_signal(signal.SIGINT)
    assert child.wait() == 0
    child.stdin.close()
    child.stdout.close()
    with opened(due, train=False) as store:
        assert store.head().size == FITTING_EVENTS_MIN + 1
        assert numbers(store) == [STARTER, FIRST]


@pytest.mark.parametrize("failure", [StoreFull("full"), InvalidEvent("odd"), MemoryError()])
def test_a_training_that_fails_disturbs_nothing(due, monkeypatch, failure):
    """Appends go on, the store is sound, and the next opening tries again at the next step."""

    def fails(*_):
        raise failure

    monkeypatch.setattr(fitting, "samples", fails)
    with opened(due) as store:
        grown(store, FITTING_EVENTS_MIN + 10)
        assert numbers(store) == [STARTER]
        assert told(verify(store, deep=True)) == ""
    monkeypatch.undo()
    with opened(due) as store:
        grown(store, 2 * FITTING_EVENTS_MIN)
        assert numbers(store) == [STARTER, FIRST]


def test_damage_is_left_to_those_who_read_it(due):
    """An event that can't be read ends a training; appends go on."""
    with opened(due) as store:
        env, key = store.log.env, POSITION.pack(300)
        with env.write() as txn:
            raw = bytearray(txn.get(key, db=env.table(FRAMES)))
            raw[-1] ^= 1
            txn.put(key, bytes(raw), db=env.table(FRAMES))
        grown(store, FITTING_EVENTS_MIN + 10)
        assert numbers(store) == [STARTER]
        assert store.head().size == FITTING_EVENTS_MIN + 10


def test_a_forked_child_inherits_no_training(due, held_up):
    """It is refused the parent's store, closes it at once, and its own store trains itself."""
    begun, let_go = held_up
    with opened(due) as store:
        store.append("talk", line(1))
        assert begun.wait(60)
        child = os.fork()
        if not child:
            try:
                store.close()
                with pytest.raises(StoreUnavailable):
                    store.append("talk", line(2))
                let_go.set()
                with opened(due.parent / "other") as other:
                    grown(other, FITTING_EVENTS_MIN)
                    os._exit(0 if numbers(other) == [STARTER, FIRST] else 1)
            except BaseException:  # noqa: BLE001 - the parent sees it by the code
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        let_go.set()
        store.fitter.wait()
        assert numbers(store) == [STARTER, FIRST]
