"""Subscriptions: every event once and in order, whoever wrote it, until somebody closes them."""

import asyncio
import threading
import time
from contextlib import suppress

from callers import SECONDS_MAX, in_threads, message, started
from hypothesis import given
from hypothesis import strategies as st

from eventstore.engine.subscription import Signal, Subscription
from projections.session import SessionState


def test_a_subscriber_catches_up_and_follows(store):
    """A subscription gives every event once and in order, old and new, until it is closed."""
    store.create("s")
    for number in range(10):
        store.append("s", message(0, number))
    subscription = store.subscribe(3)
    caught_up = threading.Event()

    def read() -> list[int]:
        found = []
        for recorded in subscription:
            found.append(recorded.position)
            if recorded.position == 10:
                caught_up.set()
            if recorded.position == 110:
                subscription.close()
        return found

    def write() -> None:
        assert caught_up.wait(SECONDS_MAX)
        for number in range(10, 120):
            store.append("s", message(0, number))

    found, _ = in_threads([read, write])
    assert found == list(range(3, 111))


def test_a_session_can_be_followed(store):
    """follow() gives one session's events only, from a version on."""
    store.create("a")
    store.create("b")
    for number in range(20):
        store.append("ab"[number % 2], message(0, number))
    with store.follow("b", 4) as following:
        found = []
        for recorded in following:
            found.append((recorded.session, recorded.version))
            if recorded.version == 10:
                break
    assert found == [("b", version) for version in range(4, 11)]


def test_a_task_can_follow(store):
    """Async subscriptions catch up, follow what tasks write, and end when they are closed."""

    async def story() -> list[int]:
        await store.aio.create("s")
        subscription, found = store.aio.subscribe(), []

        async def read() -> None:
            async for recorded in subscription:
                found.append(recorded.position)
                if len(found) == 41:
                    subscription.close()

        reading = asyncio.create_task(read())
        for number in range(40):
            await store.aio.append("s", message(0, number))
        await asyncio.wait_for(reading, SECONDS_MAX)
        return found

    assert asyncio.run(story()) == list(range(41))


def test_a_block_closes_a_subscription_of_a_task(store):
    """`async with` gives the subscription and ends it, as `with` does."""

    async def read() -> list[int]:
        await store.aio.create("s")
        async with store.aio.subscribe() as subscription:
            first = await anext(subscription)
        return [first.position, *[each.position async for each in subscription]]

    assert asyncio.run(read()) == [0]


def test_close_ends_a_waiting_subscriber(store):
    """close() from another thread ends a subscriber that waits for news."""
    store.create("s")
    subscription, waiting = store.subscribe(), threading.Event()

    def read() -> int:
        count = 0
        for _ in subscription:
            count += 1
            waiting.set()
        return count

    def close() -> None:
        assert waiting.wait(SECONDS_MAX)
        subscription.close()

    assert in_threads([read, close])[0] == 1


FOLLOWED = """
import sys
from eventstore import EventStore

with EventStore.open(sys.argv[1]) as store:
    for number in range(30):
        store.append("s", {"content": "from elsewhere", "by": [9, number]})
"""


def test_a_subscriber_follows_other_processes(disk):
    """What another process writes arrives too, in order, without a commit in this one."""
    disk.create("s")
    found = []
    with disk.subscribe() as subscription:
        child = started(disk.path, FOLLOWED)
        for recorded in subscription:
            found.append(recorded.position)
            if recorded.position == 30:
                break
        _, complaint = child.communicate(timeout=SECONDS_MAX)
        assert (child.returncode, complaint) == (0, "")
    assert found == list(range(31))
    assert disk.version("s") == 30 and len(SessionState.of(disk, "s").messages) == 30


def test_a_cancelled_subscriber_loses_no_page(store):
    """What was fetched for a reader that went away is there for the next one."""
    store.create("s")
    with store.subscribe(follow=False) as facts:
        assert next(facts).position == 0
        store.append("s", [message(0, 0), message(0, 1)])
        for recorded in facts:
            assert recorded.position == 1
            break
        assert [recorded.position for recorded in facts] == [2]


MS = st.sampled_from([0, 0, 0.2, 1, 3])
PAGES = st.lists(st.tuples(st.integers(1, 4), MS), min_size=1, max_size=5)
"""How many events a page has, and how long it takes to read it."""

IMPATIENCE = st.lists(
    st.tuples(st.sampled_from(["waits so long", "is cancelled", "goes to another loop"]), MS),
    max_size=25,
)
"""What the next readers do: wait and give up, be cancelled, or do that in a loop of their own."""


async def one(facts: Subscription, how: str, ms: float) -> list:
    """Return what a reader got that gave up after so long, or was cancelled then."""
    if how == "is cancelled":
        reader = asyncio.ensure_future(anext(facts))
        await asyncio.sleep(ms / 1_000)
        reader.cancel()
        return [await reader]
    return [await asyncio.wait_for(anext(facts), ms / 1_000)]


async def rest(facts: Subscription) -> list:
    """Return what a patient reader gets."""
    return [each async for each in facts]


@given(PAGES, IMPATIENCE)
def test_whoever_gives_up_each_event_comes_once_and_in_order(pages, readers):
    """Whatever time-outs and cancellations come, each event is delivered once and in order."""
    unread = iter(pages)
    position = 0

    def fetch() -> list:
        nonlocal position
        first, (count, ms) = position, next(unread, (0, 0))
        time.sleep(ms / 1_000)
        position = first + count
        return list(range(first, position))

    facts, found = Subscription(fetch, Signal(), follow=False), []

    async def story() -> None:
        while readers:
            how, ms = readers.pop()
            if how == "goes to another loop":
                return
            with suppress(TimeoutError, asyncio.CancelledError, StopAsyncIteration):
                found.extend(await one(facts, how, ms))

    while readers:
        asyncio.run(story())
    found += asyncio.run(rest(facts))
    assert found == list(range(sum(count for count, _ in pages)))


def test_a_page_that_came_for_somebody_else_is_not_the_end():
    """Who takes a page that was read for another goes on behind it, however fast it is."""
    may_end, pages = threading.Event(), iter([[7], [8], []])

    def fetch() -> list:
        assert may_end.wait(SECONDS_MAX)
        return next(pages)

    async def story() -> list:
        facts = Subscription(fetch, Signal(), follow=False)
        with suppress(TimeoutError):
            await asyncio.wait_for(anext(facts), 0.001)
        may_end.set()
        while not facts._page:  # the loop is held up: it has not heard yet that the page is there
            time.sleep(0.001)  # noqa: ASYNC251 - on purpose
        return await rest(facts)

    assert asyncio.run(story()) == [7, 8]


def test_who_gives_up_and_comes_again_waits_for_the_same_page():
    """One thread reads for a subscription, however many readers gave up waiting for the page."""
    may_end, asked = threading.Event(), []

    def fetch() -> list:
        asked.append(threading.get_ident())
        assert may_end.wait(SECONDS_MAX)
        return [7] if len(asked) == 1 else []

    async def story() -> list:
        facts = Subscription(fetch, Signal(), follow=False)
        for _ in range(20):
            with suppress(TimeoutError):
                await asyncio.wait_for(anext(facts), 0.001)
        reading = [each for each in threading.enumerate() if each.name.startswith("asyncio_")]
        may_end.set()
        return [len(reading), await rest(facts)]

    assert asyncio.run(story()) == [1, [7]]
    assert len(asked) == 2, "the page, and the end behind it"
