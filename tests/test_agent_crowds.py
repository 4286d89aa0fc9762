"""Many turns at once: one after another, never in a circle."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import pytest
from turns import Script, call, texts

from eventstore import (
    EventStore,
    InvalidEvent,
    VersionConflict,
)
from eventstore.sessions import AgentSession, SessionManager, Settings
from eventstore.sessions.agent import echo


def check_alternating(manager: SessionManager, count: int) -> None:
    """Assert that each question is followed by its own answer."""
    said = texts(manager)
    assert said[::2] == said[1::2]
    assert sorted(said[::2]) == sorted(f"q{n}" for n in range(count))


def test_turns_of_threads_come_one_after_another(sessions):
    """Threads that ask in one session at once wait for each other."""

    def send(number):
        AgentSession(sessions, "s", echo).send_message(f"q{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, range(40)))
    check_alternating(sessions, 40)


def test_turns_of_tasks_come_one_after_another(sessions):
    """So do tasks, also far more of them than there are threads, and cancelled ones are no loss."""

    async def agent(messages):
        await asyncio.sleep(0)
        return messages[-1]["content"]

    async def main():
        session = AgentSession(sessions, "s", agent).aio
        tasks = [asyncio.create_task(session.send_message(f"q{n}")) for n in range(100)]
        await asyncio.sleep(0)
        for task in tasks[60:80]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        return [isinstance(each, asyncio.CancelledError) for each in done]

    assert asyncio.run(main()) == [60 <= n < 80 for n in range(100)]
    asked = [n for n in range(100) if not 60 <= n < 80]
    assert texts(sessions) == [f"q{n}" for n in asked for _ in "qa"]


def test_a_tool_can_ask_another_session_but_not_its_own(sessions, ask):
    """A tool that asks in the session of its own turn is told that it can't; no one hangs."""
    sessions.create("helper")

    def inner(session):
        return AgentSession(sessions, session, echo).send_message("inner").content

    agent = Script(call("inner", '{"session": "helper"}'), call("inner", '{"session": "s"}'), "ok")
    session = AgentSession(sessions, "s", agent, tools={"inner": inner})
    assert ask(session, "send_message", "go").content == "ok"
    said = [each["content"] for each in agent.seen[-1] if each["role"] == "tool"]
    assert said == ["inner", "error: a turn of session 's' can't wait for another one of it"]


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("stores", [1, 2])
def test_sessions_that_ask_each_other_do_not_wait_for_ever(count, stores):
    """In a circle of turns that all wait for the next, one is refused and all others answer."""
    begun, refused = threading.Barrier(count), []
    with ExitStack() as opened:
        stores = [opened.enter_context(EventStore.in_memory()) for _ in range(stores)]
        managers = [opened.enter_context(SessionManager(each, Settings())) for each in stores]
        sessions = []

        def agent(number, messages):
            if messages[-1]["content"] == "inner":
                return "done"
            begun.wait()
            try:
                return sessions[(number + 1) % count].send_message("inner", echo)
            except InvalidEvent as error:
                refused.append(str(error))
                return "refused"

        for number in range(count):
            manager = managers[number % len(managers)]
            manager.create(f"s{number}")
            sessions.append(AgentSession(manager, f"s{number}", partial(agent, number)))
        answers = []
        threads = [
            threading.Thread(
                target=lambda each=each: answers.append(each.send_message("outer").content),
                daemon=True,  # a circle would keep them for ever
            )
            for each in sessions
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(answers) == ["inner"] * (count - 1) + ["refused"]
        assert len(refused) == 1 and "for ever" in refused[0]
        assert [each.send_message("again", echo).content for each in sessions] == ["again"] * count


def test_two_processes_in_one_turn_stop_at_the_first_clash(sessions):
    """Where somebody else goes on with the same turn, the slower one raises and writes nothing."""
    one, two = (AgentSession(sessions, "s", Script(text)) for text in ("mine", "yours"))
    first, second = one.sending("hi", None, None), two.sending("hi", None, None)
    mine, yours = next(first), next(second)
    with pytest.raises(StopIteration):
        first.send(mine())
    with pytest.raises(VersionConflict) as conflict:
        second.send(yours())
    assert (conflict.value.expected, conflict.value.actual) == (1, 2)
    assert texts(sessions) == ["hi", "mine"]
    assert sessions.get("s").errors == 0
