"""Agent sessions: each step of a turn is a fact, from threads and from event loops."""

import asyncio
import threading

import pytest
from faces import PLAIN
from turns import Script, adder, call, facts, interrupted, texts

from eventstore import (
    EventStore,
    InvalidEvent,
    IterationsExceeded,
)
from eventstore.messages import calls_answered, calls_made
from eventstore.sessions import AgentSession, SessionManager, to_anthropic, to_openai
from eventstore.sessions.agent import echo

# -- a turn ----------------------------------------------------------------------------------


def test_every_step_is_a_fact(sessions, ask):
    """Question, reply, tool run, result and answer are recorded in order, as one turn."""
    agent = Script(call("add", '{"a": 1, "b": 2}'), "three")
    session = AgentSession(sessions, "s", agent, tools={"add": adder}, actor="user:7")
    answer = ask(session, "send_message", "1 + 2?")
    assert (answer.content, answer.id, answer.role) == ("three", "s#5", "assistant")
    found = facts(sessions)
    assert [each.type for each in found] == [
        *["MessageAppended"] * 2,
        "ToolCallRecorded",
        *["MessageAppended"] * 2,
    ]
    assert {(each.correlation_id, each.actor) for each in found} == {(session.turn().id, "user:7")}
    ran = found[2].event
    assert (ran.name, ran.arguments, ran.result) == ("add", {"a": 1, "b": 2}, 3)
    assert (ran.call_id, ran.error) == ("c1", None) and ran.duration_ms >= 0
    assert sessions.get_messages("s")[2].to_dict() == {
        "role": "tool",
        "tool_call_id": "c1",
        "name": "add",
        "content": "3",
    }
    numbers = sessions.statistics("s")
    assert numbers["tools"]["add"]["calls"] == 1
    assert ask(session, "message_count") == 4


def test_the_agent_sees_the_conversation(sessions, ask):
    """Each time it is asked it gets all messages so far, its own calls and results included."""
    sessions.add_message("s", {"role": "system", "content": "Be brief."})
    agent = Script("hello", call("add", '{"a": 1, "b": 2}'), "three")
    session = AgentSession(sessions, "s", agent, tools={"add": adder})
    ask(session, "send_message", "hi")
    ask(session, "send_message", {"content": [{"type": "text", "text": "1 + 2?"}]})
    assert [len(seen) for seen in agent.seen] == [2, 4, 6]
    assert agent.seen[-1] == [each.to_dict() for each in sessions.get_messages("s")][:-1]
    assert agent.seen[1][-1] == {"role": "user", "content": [{"type": "text", "text": "1 + 2?"}]}


def test_what_the_agent_does_to_its_messages_stays_with_it(sessions):
    """The messages are the agent's own copies: changing them changes no conversation."""

    def rude(messages):
        messages[0]["content"] = "changed"
        messages.clear()
        return "done"

    session = AgentSession(sessions, "s", rude)
    session.send_message("one")
    session.send_message("two")
    assert texts(sessions) == ["one", "done", "two", "done"]


def test_the_question_is_always_seen(sessions):
    """Within a budget the oldest go, but never the question, however long its turn gets."""
    sessions.add_message("s", {"role": "user", "content": "old " * 80})
    long_call = call("say", '{"n": 200}')
    agent = Script(long_call, long_call, long_call, "done")
    session = AgentSession(sessions, "s", agent, tools={"say": lambda n: "w" * n}, max_tokens=120)
    session.send_message("the question")
    assert [[each["role"] for each in seen] for seen in agent.seen] == [
        ["user", "user"],
        ["user", "assistant", "tool"],
        ["user", "assistant", "tool", "assistant", "tool"],
        ["user", "assistant", "tool", "assistant", "tool"],
    ]
    assert agent.seen[-1][0]["content"] == "the question"


def test_a_question_that_can_never_be_seen_is_refused(sessions, ask):
    """Over the whole budget a question is one error with both numbers, and nothing is recorded."""
    sessions.create("small", token_limit=100)
    agent = Script("a", "b", "c")
    session = AgentSession(sessions, "small", agent)
    ask(session, "send_message", "first")
    before = sessions.store.version("small")
    with pytest.raises(InvalidEvent, match="4001 tokens, the budget is 100"):
        ask(session, "send_message", "x" * 16_004)
    assert sessions.store.version("small") == before and len(agent.seen) == 1
    ask(session, "send_message", "second")
    assert [each["content"] for each in agent.seen[-1]] == ["first", "a", "second"]
    large = AgentSession(sessions, "small", agent, full_history=True)
    assert ask(large, "send_message", "x" * 16_004).content == "c"


def test_an_impossible_question_leaves_an_interrupted_turn_alone(sessions):
    """What is refused is refused before a turn that was interrupted is finished."""
    agent = Script("answer")
    session = AgentSession(sessions, "s", agent, max_tokens=50)
    interrupted(session, "question", 1)
    before = sessions.store.version("s")
    with pytest.raises(InvalidEvent, match="the budget is 50"):
        session.send_message("x" * 4_000)
    assert (sessions.store.version("s"), agent.seen) == (before, [])
    assert session.send_message("question").content == "answer"


def test_full_history_ignores_the_budget(sessions):
    """With full_history the agent sees every visible message, whatever the token limit."""
    sessions.create("small", token_limit=5)
    for number in range(30):
        sessions.add_message("small", {"role": "user", "content": f"message {number}"})
    agent = Script("a", "b")
    AgentSession(sessions, "small", agent).send_message("hm")
    AgentSession(sessions, "small", agent, full_history=True).send_message("hm")
    assert [len(seen) for seen in agent.seen] == [2, 33]


def test_both_shapes_of_calls_run(sessions, ask):
    """Calls in Anthropic's shape run like OpenAI's, and what is recorded goes out in both."""
    use = {"type": "tool_use", "id": "u1", "name": "add", "input": {"a": 2, "b": 3}}
    agent = Script({"content": [{"type": "text", "text": "let me see"}, use]}, "five")
    session = AgentSession(sessions, "s", agent, tools={"add": adder})
    assert ask(session, "send_message", "2 + 3?").content == "five"
    openai, anthropic = to_openai(agent.seen[-1]), to_anthropic(agent.seen[-1])
    assert openai[-1] == {"role": "tool", "tool_call_id": "u1", "content": "5"}
    assert anthropic["messages"][-1]["content"][0]["tool_use_id"] == "u1"


def test_calls_without_an_id_get_one(sessions):
    """Local models leave ids out: each call then has one that its result names."""
    bare = {"function": {"name": "add", "arguments": {"a": 1, "b": 1}}}
    agent = Script({"tool_calls": [bare, bare]}, "done")
    AgentSession(sessions, "s", agent, tools={"add": adder}).send_message("twice")
    messages = [each.fields for each in sessions.get_messages("s")]
    assert calls_made(messages[1]) == {"call_0_0_0", "call_0_0_1"}
    assert [calls_answered(each) for each in messages[2:4]] == [{"call_0_0_0"}, {"call_0_0_1"}]


def test_echo_answers_with_the_question(sessions):
    """The agent to try things out with says what was said."""
    assert AgentSession(sessions, "s", echo).send_message("hello").content == "hello"


# -- asynchronous agents and tools -----------------------------------------------------------


def test_coroutine_agents_and_tools_are_awaited(sessions, ask):
    """Coroutine functions, and functions that return awaitables, work from threads and loops."""

    async def agent(messages):
        await asyncio.sleep(0)
        return call("add", '{"a": 1, "b": 2}') if len(messages) % 4 == 1 else "three"

    class Adding:
        async def __call__(self, a, b):
            return a + b

    def later(a, b):
        return Adding()(a, b)

    for tool in (Adding(), later):
        session = AgentSession(sessions, "s", agent, tools={"add": tool})
        assert ask(session, "send_message", "1 + 2?").content == "three"
    assert [each.event.result for each in facts(sessions) if each.type == "ToolCallRecorded"] == [
        3,
        3,
    ]


def test_coroutine_agents_share_the_callers_loop(sessions):
    """From the async face the agent runs in the caller's event loop; a blocking one does not."""
    loops, threads = [], []

    async def agent(_):
        loops.append(asyncio.get_running_loop())
        return call("where")

    async def main():
        session = AgentSession(sessions, "s", agent, 1, tools={"where": where})
        with pytest.raises(IterationsExceeded):
            await session.aio.send_message("hi")
        assert loops == [asyncio.get_running_loop()]

    def where():
        threads.append(threading.current_thread())

    asyncio.run(main())
    assert threads[0] is not threading.main_thread()


def test_a_coroutine_agent_inside_a_loop_needs_the_async_face(sessions):
    """Called from a thread that runs an event loop, send_message() says what to do instead."""

    async def agent(_):
        return "never"

    async def main():
        with pytest.raises(InvalidEvent, match=r"await the method of `\.aio`"):
            AgentSession(sessions, "s", agent).send_message("hi")
        return AgentSession(sessions, "s", echo).send_message("hi").content

    assert asyncio.run(main()) == "hi"


def test_a_cancelled_turn_has_failed(sessions):
    """Cancelling the caller cancels the agent, records that, and leaves a turn to resume."""

    async def main():
        begun = asyncio.Event()

        async def agent(_):
            begun.set()
            await asyncio.Event().wait()

        session = AgentSession(sessions, "s", agent)
        task = asyncio.create_task(session.aio.send_message("hi"))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await session.aio.turn()).state == "failed"
        assert (await session.aio.resume(echo)).content == "hi"

    asyncio.run(main())
    assert [each.event.kind for each in facts(sessions) if each.type == "ErrorRecorded"] == [
        "CancelledError"
    ]


# -- seals, limits, cancellations ------------------------------------------------------------


def test_a_sealed_store_keeps_turns_too(tmp_path, keyring):
    """In an encrypted store turns are recorded and resumed, and no name of a session shows."""
    store = EventStore.open(tmp_path / "history", keyring=keyring)
    with store, SessionManager(store, PLAIN) as manager:
        manager.create("secret-name")
        session = AgentSession(manager, "secret-name", echo)
        interrupted(session, "hello", 1)
        assert session.resume().content == "hello"
    held = b"".join(path.read_bytes() for path in (tmp_path / "history").rglob("*.mdb"))
    assert b"secret-name" not in held and b"hello" not in held


def test_a_limit_in_messages_waits_for_the_end_of_a_turn(sessions, ask):
    """A turn longer than max_messages is shown to the agent whole, and pruned once answered."""
    sessions.create("short", max_messages=3)
    several = call("now")
    several["tool_calls"] = [{**several["tool_calls"][0], "id": f"c{n}"} for n in range(3)]
    script = Script(several, "It is late.")
    session = AgentSession(sessions, "short", script, tools={"now": lambda: "23:59"})
    assert ask(session, "send_message", "How late is it?").content == "It is late."
    roles = [each["role"] for each in script.seen[-1]]
    assert roles == ["user", "assistant", "tool", "tool", "tool"]
    assert [each.content for each in sessions.get_messages("short")] == ["It is late."]


def test_a_question_is_asked_in_a_session_that_is_full(sessions, ask):
    """Where exempt messages alone are max_messages, what is said last is shown all the same."""
    sessions.create("full", max_messages=1)
    sessions.add_message("full", {"role": "system", "content": "Be brief."})
    script = Script("Hello.")
    ask(AgentSession(sessions, "full", script), "send_message", "Hi!")
    assert [each["content"] for each in script.seen[0]] == ["Be brief.", "Hi!"]
    assert [each.content for each in sessions.get_messages("full")] == ["Be brief.", "Hello."]


def test_cancelling_twice_is_cancelling(sessions):
    """A caller that is cancelled again while a step ends is cancelled, and the step is whole."""
    begun, go_on = threading.Event(), threading.Event()

    class Slow(SessionManager):
        def add_messages(self, *args, **options):
            begun.set()
            go_on.wait(10)
            return super().add_messages(*args, **options)

    async def cancelled_twice(session: AgentSession) -> None:
        task = asyncio.create_task(session.aio.send_message("hello"))
        await asyncio.to_thread(begun.wait, 10)
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    with Slow(sessions.store, PLAIN) as slow:
        session = AgentSession(slow, "s", echo)
        asyncio.run(cancelled_twice(session))
        assert session.turn().state == "failed"
        assert session.resume().content == "hello"
