"""Agent sessions: each step a fact, interrupted turns gone on with, from threads and loops."""

import asyncio
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import (
    EventStore,
    InvalidEvent,
    IterationsExceeded,
    Message,
    SessionNotFound,
    VersionConflict,
)
from eventstore.audit.verify import verify
from eventstore.messages import calls_answered, calls_made
from eventstore.sessions import AgentSession, SessionManager, Settings, to_anthropic, to_openai
from eventstore.sessions.agent import echo
from projections import SessionState

PLAIN = Settings(token_limit=None)


class Asking:
    """Calls a session's methods from a thread, or awaits those of its async face."""

    def __init__(self, colour: str) -> None:
        self.colour = colour

    def __call__(self, session: AgentSession, method: str, *args, **kwargs):
        if self.colour == "sync":
            return getattr(session, method)(*args, **kwargs)
        return asyncio.run(getattr(session.aio, method)(*args, **kwargs))


@pytest.fixture(params=["sync", "async"])
def ask(request):
    """Give a way to call methods: from a thread, then from an event loop."""
    return Asking(request.param)


@pytest.fixture
def manager():
    """Give a manager of a store in memory with a session `s`."""
    with EventStore.in_memory() as store, SessionManager(store, PLAIN) as made:
        made.create("s")
        yield made


def call(name: str, arguments: str = "{}", identity: str = "c1") -> dict:
    """Return an assistant's message that asks for a tool."""
    function = {"name": name, "arguments": arguments}
    calls = [{"id": identity, "type": "function", "function": function}]
    return {"role": "assistant", "content": None, "tool_calls": calls}


class Script:
    """An agent that gives replies one after another and notes what it was shown."""

    def __init__(self, *replies) -> None:
        self.replies, self.seen = list(replies), []

    def __call__(self, messages):
        self.seen.append(messages)
        reply = self.replies.pop(0)
        if isinstance(reply, BaseException):
            raise reply
        return reply


def adder(a, b):
    """Add two numbers: a tool."""
    return a + b


def facts(manager: SessionManager, session: str = "s") -> list:
    """Return the facts of a session but its first."""
    return [*manager.store.events(session)][1:]


def texts(manager: SessionManager, session: str = "s") -> list:
    """Return what the visible messages say."""
    return [each.content for each in manager.get_messages(session)]


def interrupted(session: AgentSession, text: str, calls: int) -> None:
    """Leave a turn as a process does that dies with so many calls of foreign code begun."""
    steps = session.sending(text, None, None)
    foreign = next(steps)
    for _ in range(calls - 1):
        foreign = steps.send(foreign())
    steps.close()


# -- a turn ----------------------------------------------------------------------------------


def test_every_step_is_a_fact(manager, ask):
    """Question, reply, tool run, result and answer are recorded in order, as one turn."""
    agent = Script(call("add", '{"a": 1, "b": 2}'), "three")
    session = AgentSession(manager, "s", agent, tools={"add": adder}, actor="user:7")
    answer = ask(session, "send_message", "1 + 2?")
    assert (answer.content, answer.id, answer.role) == ("three", "s#5", "assistant")
    found = facts(manager)
    assert [each.type for each in found] == [
        *["MessageAppended"] * 2,
        "ToolCallRecorded",
        *["MessageAppended"] * 2,
    ]
    assert {(each.correlation_id, each.actor) for each in found} == {(session.turn().id, "user:7")}
    ran = found[2].event
    assert (ran.name, ran.arguments, ran.result) == ("add", {"a": 1, "b": 2}, 3)
    assert (ran.call_id, ran.error) == ("c1", None) and ran.duration_ms >= 0
    assert manager.get_messages("s")[2].to_dict() == {
        "role": "tool",
        "tool_call_id": "c1",
        "name": "add",
        "content": "3",
    }
    numbers = manager.statistics("s")
    assert numbers["tools"]["add"]["calls"] == 1
    assert ask(session, "message_count") == 4


def test_the_agent_sees_the_conversation(manager, ask):
    """Each time it is asked it gets all messages so far, its own calls and results included."""
    manager.add_message("s", {"role": "system", "content": "Be brief."})
    agent = Script("hello", call("add", '{"a": 1, "b": 2}'), "three")
    session = AgentSession(manager, "s", agent, tools={"add": adder})
    ask(session, "send_message", "hi")
    ask(session, "send_message", {"content": [{"type": "text", "text": "1 + 2?"}]})
    assert [len(seen) for seen in agent.seen] == [2, 4, 6]
    assert agent.seen[-1] == [each.to_dict() for each in manager.get_messages("s")][:-1]
    assert agent.seen[1][-1] == {"role": "user", "content": [{"type": "text", "text": "1 + 2?"}]}


def test_what_the_agent_does_to_its_messages_stays_with_it(manager):
    """The messages are the agent's own copies: changing them changes no conversation."""

    def rude(messages):
        messages[0]["content"] = "changed"
        messages.clear()
        return "done"

    session = AgentSession(manager, "s", rude)
    session.send_message("one")
    session.send_message("two")
    assert texts(manager) == ["one", "done", "two", "done"]


def test_the_question_is_always_seen(manager):
    """Within a budget the oldest go, but never the question, however long its turn gets."""
    manager.add_message("s", {"role": "user", "content": "old " * 80})
    long_call = call("say", '{"n": 200}')
    agent = Script(long_call, long_call, long_call, "done")
    session = AgentSession(manager, "s", agent, tools={"say": lambda n: "w" * n}, max_tokens=120)
    session.send_message("the question")
    assert [[each["role"] for each in seen] for seen in agent.seen] == [
        ["user", "user"],
        ["user", "assistant", "tool"],
        ["user", "assistant", "tool", "assistant", "tool"],
        ["user", "assistant", "tool", "assistant", "tool"],
    ]
    assert agent.seen[-1][0]["content"] == "the question"


def test_a_question_that_can_never_be_seen_is_refused(manager, ask):
    """Over the whole budget a question is one error with both numbers, and nothing is recorded."""
    manager.create("small", token_limit=100)
    agent = Script("a", "b", "c")
    session = AgentSession(manager, "small", agent)
    ask(session, "send_message", "first")
    before = manager.store.version("small")
    with pytest.raises(InvalidEvent, match="4001 tokens, the budget is 100"):
        ask(session, "send_message", "x" * 16_004)
    assert manager.store.version("small") == before and len(agent.seen) == 1
    ask(session, "send_message", "second")
    assert [each["content"] for each in agent.seen[-1]] == ["first", "a", "second"]
    large = AgentSession(manager, "small", agent, full_history=True)
    assert ask(large, "send_message", "x" * 16_004).content == "c"


def test_an_impossible_question_leaves_an_interrupted_turn_alone(manager):
    """What is refused is refused before a turn that was interrupted is finished."""
    agent = Script("answer")
    session = AgentSession(manager, "s", agent, max_tokens=50)
    interrupted(session, "question", 1)
    before = manager.store.version("s")
    with pytest.raises(InvalidEvent, match="the budget is 50"):
        session.send_message("x" * 4_000)
    assert (manager.store.version("s"), agent.seen) == (before, [])
    assert session.send_message("question").content == "answer"


def test_full_history_ignores_the_budget(manager):
    """With full_history the agent sees every visible message, whatever the token limit."""
    manager.create("small", token_limit=5)
    for number in range(30):
        manager.add_message("small", {"role": "user", "content": f"message {number}"})
    agent = Script("a", "b")
    AgentSession(manager, "small", agent).send_message("hm")
    AgentSession(manager, "small", agent, full_history=True).send_message("hm")
    assert [len(seen) for seen in agent.seen] == [2, 33]


def test_both_shapes_of_calls_run(manager, ask):
    """Calls in Anthropic's shape run like OpenAI's, and what is recorded goes out in both."""
    use = {"type": "tool_use", "id": "u1", "name": "add", "input": {"a": 2, "b": 3}}
    agent = Script({"content": [{"type": "text", "text": "let me see"}, use]}, "five")
    session = AgentSession(manager, "s", agent, tools={"add": adder})
    assert ask(session, "send_message", "2 + 3?").content == "five"
    openai, anthropic = to_openai(agent.seen[-1]), to_anthropic(agent.seen[-1])
    assert openai[-1] == {"role": "tool", "tool_call_id": "u1", "content": "5"}
    assert anthropic["messages"][-1]["content"][0]["tool_use_id"] == "u1"


def test_calls_without_an_id_get_one(manager):
    """Local models leave ids out: each call then has one that its result names."""
    bare = {"function": {"name": "add", "arguments": {"a": 1, "b": 1}}}
    agent = Script({"tool_calls": [bare, bare]}, "done")
    AgentSession(manager, "s", agent, tools={"add": adder}).send_message("twice")
    messages = [each.fields for each in manager.get_messages("s")]
    assert calls_made(messages[1]) == {"call_0_0_0", "call_0_0_1"}
    assert [calls_answered(each) for each in messages[2:4]] == [{"call_0_0_0"}, {"call_0_0_1"}]


def test_echo_answers_with_the_question(manager):
    """The agent to try things out with says what was said."""
    assert AgentSession(manager, "s", echo).send_message("hello").content == "hello"


# -- asynchronous agents and tools -----------------------------------------------------------


def test_coroutine_agents_and_tools_are_awaited(manager, ask):
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
        session = AgentSession(manager, "s", agent, tools={"add": tool})
        assert ask(session, "send_message", "1 + 2?").content == "three"
    assert [each.event.result for each in facts(manager) if each.type == "ToolCallRecorded"] == [
        3,
        3,
    ]


def test_coroutine_agents_share_the_callers_loop(manager):
    """From the async face the agent runs in the caller's event loop; a blocking one does not."""
    loops, threads = [], []

    async def agent(_):
        loops.append(asyncio.get_running_loop())
        return call("where")

    async def main():
        session = AgentSession(manager, "s", agent, 1, tools={"where": where})
        with pytest.raises(IterationsExceeded):
            await session.aio.send_message("hi")
        assert loops == [asyncio.get_running_loop()]

    def where():
        threads.append(threading.current_thread())

    asyncio.run(main())
    assert threads[0] is not threading.main_thread()


def test_a_coroutine_agent_inside_a_loop_needs_the_async_face(manager):
    """Called from a thread that runs an event loop, send_message() says what to do instead."""

    async def agent(_):
        return "never"

    async def main():
        with pytest.raises(InvalidEvent, match=r"await the method of `\.aio`"):
            AgentSession(manager, "s", agent).send_message("hi")
        return AgentSession(manager, "s", echo).send_message("hi").content

    assert asyncio.run(main()) == "hi"


def test_a_cancelled_turn_has_failed(manager):
    """Cancelling the caller cancels the agent, records that, and leaves a turn to resume."""

    async def main():
        begun = asyncio.Event()

        async def agent(_):
            begun.set()
            await asyncio.Event().wait()

        session = AgentSession(manager, "s", agent)
        task = asyncio.create_task(session.aio.send_message("hi"))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await session.aio.turn()).state == "failed"
        assert (await session.aio.resume(echo)).content == "hi"

    asyncio.run(main())
    assert [each.event.kind for each in facts(manager) if each.type == "ErrorRecorded"] == [
        "CancelledError"
    ]


# -- what fails ------------------------------------------------------------------------------


def broken():
    """Fail with a text that no fact can hold: a tool."""
    raise ValueError("no \ud800 luck")


BAD_TOOLS = {
    "raises": (call("broken"), "ValueError: no ? luck"),
    "raises StopIteration": (call("stop"), "StopIteration: "),
    "unknown": (call("magic"), "there is no tool 'magic'; there are: add, broken, stop, odd, nan"),
    "a name that is none": (call("\x1b" * 300), "there is no tool "),
    "other arguments": (call("add", '{"c": 1}'), "TypeError: adder() got an unexpected keyword"),
    "no object": (call("add", "[1]"), "the arguments of 'add' are no JSON object: [1]"),
    "no JSON": (call("add", '{"a": '), "the arguments of 'add' are no JSON object"),
    "no JSON comes out": (call("odd"), "TypeError: "),
    "NaN comes out": (call("nan"), "tool call holds nan"),
    "a huge number": (call("add", '{"a": 99999999999999999999, "b": 0}'), "tool call holds an in"),
}


@pytest.mark.parametrize("name", BAD_TOOLS)
def test_a_tool_that_fails_tells_the_agent(manager, ask, name):
    """Whatever is wrong with a call or its tool is its result, recorded, and the turn goes on."""
    asked, error = BAD_TOOLS[name]
    agent = Script(asked, "never mind")
    tools = {
        "add": adder,
        "broken": broken,
        "stop": lambda: next(iter([])),
        "odd": object,
        "nan": lambda: float("nan"),
    }
    session = AgentSession(manager, "s", agent, tools=tools)
    assert ask(session, "send_message", "go").content == "never mind"
    ran = facts(manager)[2].event
    assert ran.error.startswith(error) and ran.result is None
    assert agent.seen[1][-1]["content"] == f"error: {ran.error}"


def test_results_are_recorded_as_json(manager):
    """Tuples, sets and times become what JSON has; text goes to the agent as it is."""
    results = iter([("a", 1), {"b": {2}}, datetime(2026, 1, 2, tzinfo=UTC), "text", None])
    agent = Script(*[call("get", identity=f"c{n}") for n in range(5)], "done")
    AgentSession(manager, "s", agent, tools={"get": lambda: next(results)}).send_message("go")
    said = [each["content"] for each in agent.seen[-1] if each["role"] == "tool"]
    assert said == ['["a",1]', '{"b":[2]}', "2026-01-02T00:00:00Z", "text", "null"]
    recorded = [each.event.result for each in facts(manager) if each.type == "ToolCallRecorded"]
    assert recorded == [["a", 1], {"b": [2]}, "2026-01-02T00:00:00Z", "text", None]


def test_a_result_over_the_sessions_limit_is_an_error(manager):
    """A result that a session has no room for is told as such, and the turn goes on."""
    manager.create("tight", max_bytes=2_000)
    agent = Script(call("say"), "too much")
    AgentSession(manager, "tight", agent, tools={"say": lambda: "x" * 5_000}).send_message("go")
    assert "over the limit of 2000 bytes" in agent.seen[1][-1]["content"]
    assert manager.get_messages("tight")[-1].content == "too much"


def test_an_agent_that_fails_leaves_a_turn_to_resume(manager, ask):
    """Its error is recorded and raised; resume() asks again and runs no tool again."""
    runs = []
    agent = Script(call("note"), OSError("no \udfff line"), "noted")
    session = AgentSession(manager, "s", agent, tools={"note": lambda: runs.append(1)})
    with pytest.raises(OSError, match="line"):
        ask(session, "send_message", "note it")
    turn, failure = session.turn(), facts(manager)[-1]
    assert (turn.state, turn.replies, turn.waiting) == ("failed", 1, {})
    assert (failure.event.kind, failure.event.text) == ("OSError", "no ? line")
    assert failure.event.detail == {"turn": 0, "replies": 1}
    assert failure.correlation_id == turn.id
    assert ask(session, "resume").content == "noted"
    assert (session.turn().state, runs) == ("answered", [1])
    assert ask(session, "resume") is None
    assert manager.get("s").errors == 1


def test_a_failed_turn_does_not_stand_in_the_way(manager):
    """After a failure the next question begins a turn of its own, the same one too."""
    agent = Script(RuntimeError("broke"), "one", "two")
    session = AgentSession(manager, "s", agent)
    with pytest.raises(RuntimeError):
        session.send_message("hi")
    session.send_message("hi")
    session.send_message("ho")
    assert texts(manager) == ["hi", "hi", "one", "ho", "two"]


BAD_REPLIES = {
    "nothing": None,
    "a number": 5,
    "a list": ["text"],
    "another role": {"role": "user", "content": "x"},
    "no JSON": {"content": {1, 2}},
    "a surrogate": "\ud800",
}


@pytest.mark.parametrize("name", BAD_REPLIES)
def test_a_reply_that_is_none_is_refused(manager, ask, name):
    """What can't be an assistant's message is InvalidEvent and recorded as that."""
    session = AgentSession(manager, "s", Script(BAD_REPLIES[name], "better"))
    with pytest.raises(InvalidEvent):
        ask(session, "send_message", "hi")
    assert [each.type for each in facts(manager)] == ["MessageAppended", "ErrorRecorded"]
    assert facts(manager)[-1].event.kind == "InvalidEvent"
    assert ask(session, "resume").content == "better"


def test_iterations_have_a_limit(manager, ask):
    """After so many replies without an answer: a recorded error that is raised, all calls whole."""
    runs = []
    session = AgentSession(
        manager, "s", lambda _: call("more"), 3, tools={"more": lambda: runs.append(1)}
    )
    with pytest.raises(IterationsExceeded) as exceeded:
        ask(session, "send_message", "go")
    assert (exceeded.value.session, exceeded.value.limit) == ("s", 3)
    assert facts(manager)[-1].event.kind == "IterationsExceeded"
    assert (session.turn().replies, len(runs), session.turn().waiting) == (3, 3, {})
    with pytest.raises(IterationsExceeded):
        ask(session, "resume", None, 5)
    assert (session.turn().replies, len(runs)) == (5, 5)
    assert ask(session, "resume", echo, 6).content == "null"


BAD_CALLS = {
    "no agent": lambda m: AgentSession(m, "s").send_message("hi"),
    "an agent that is none": lambda m: AgentSession(m, "s", "echo").send_message("hi"),
    "no iterations": lambda m: AgentSession(m, "s", echo, 0).send_message("hi"),
    "half an iteration": lambda m: AgentSession(m, "s", echo).send_message("hi", None, 0.5),
    "a number": lambda m: AgentSession(m, "s", echo).send_message(5),
    "a question with NaN": lambda m: AgentSession(m, "s", echo).send_message({"x": float("nan")}),
    "a tool that is none": lambda m: AgentSession(m, "s", echo, tools={"t": 5}),
    "a tool without a name": lambda m: AgentSession(m, "s", echo, tools={"": echo}),
    "two budgets": lambda m: AgentSession(m, "s", echo, max_tokens=5, full_history=True),
    "nothing to undo": lambda m: AgentSession(m, "s", echo).undo(),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_wrong_use_writes_nothing(manager, name):
    """Wrong arguments are InvalidEvent before any fact."""
    with pytest.raises(InvalidEvent):
        BAD_CALLS[name](manager)
    assert facts(manager) == []


def test_sessions_that_take_nothing_say_so(manager):
    """An unknown session, and one that is closed before or during a turn, raise what appends do."""
    with pytest.raises(SessionNotFound):
        AgentSession(manager, "nobody", echo).send_message("hi")

    def closing(_):
        manager.close("s")
        return "too late"

    with pytest.raises(InvalidEvent, match="closed"):
        AgentSession(manager, "s", closing).send_message("hi")
    assert AgentSession(manager, "s").turn().state == "failed"


# -- interrupted turns -----------------------------------------------------------------------

WORK = [["first", "second"], ["third"]]
"""The tools that the agent asks for, reply by reply."""

FACTS = 10
"""Facts of its whole turn: a question, three replies, three runs, three results."""


def worker(messages):
    """Ask for all that is to be done, then say so: an agent without a memory of its own."""
    number = sum(each["role"] == "assistant" for each in messages)
    if number == len(WORK):
        return "all done"
    return {"tool_calls": [call(name, identity=name)["tool_calls"][0] for name in WORK[number]]}


def work(path: Path, deadly: str) -> Message | None:
    """Do the turn, or what is left of it; die where `deadly` says: in a tool or after n facts."""
    left = [int(deadly) if deadly.isdigit() else 0]

    def note(name):
        with Path(f"{path}.runs").open("a") as file:
            file.write(f"{name} ")
        if name == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return f"{name} done"

    def counted(command):
        def run(*args, **fields):
            receipt = command(*args, **fields)
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return receipt

        return run

    with SessionManager.open(path, PLAIN) as manager:
        for name in ("add_message", "record_tool_call"):
            setattr(manager, name, counted(getattr(manager, name)))
        tools = {name: partial(note, name) for name in ("first", "second", "third")}
        session = AgentSession(manager, "s", worker, tools=tools)
        if manager.exists("s"):
            return session.resume()
        manager.create("s")
        return session.send_message("do it all")


def killed(path: Path, deadly: str) -> None:
    """Do the turn in a process of its own and assert that it dies where it should."""
    child = os.fork()
    if not child:
        try:
            work(path, deadly)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def check_turn(path: Path) -> None:
    """Assert that the whole turn is there, once, in a sound store."""
    with EventStore.open(path) as store:
        assert verify(store).findings == []
        messages = SessionState.of(store, "s").messages
        roles = ["user", "assistant", "tool", "tool", "assistant", "tool", "assistant"]
        assert [each.role for each in messages] == roles
        said = [each.content for each in messages if each.role == "tool"]
        assert said == ["first done", "second done", "third done"]
        assert store.version("s") == FACTS


@pytest.mark.parametrize("facts_before", range(1, FACTS + 1))
def test_a_killed_process_repeats_nothing(tmp_path, facts_before):
    """Killed after any fact of a turn, it goes on in the next process; each tool ran once."""
    path = tmp_path / "h"
    killed(path, str(facts_before))
    answer = work(path, "")
    assert answer is None if facts_before == FACTS else answer.content == "all done"
    check_turn(path)
    assert Path(f"{path}.runs").read_text().split() == ["first", "second", "third"]


def test_a_tool_that_was_running_runs_once_more(tmp_path):
    """Killed inside a tool, before its result is a fact: that tool alone runs again."""
    path = tmp_path / "h"
    killed(path, "second")
    assert work(path, "").content == "all done"
    check_turn(path)
    assert Path(f"{path}.runs").read_text().split() == ["first", "second", "second", "third"]


def test_the_next_message_goes_on_with_an_interrupted_turn(manager, ask):
    """Another message finishes it first; the same one is not asked again, but answered."""
    agent = Script("never seen", "one", "two", "three")
    session = AgentSession(manager, "s", agent)
    interrupted(session, "first", 1)
    assert (session.turn().state, texts(manager)) == ("interrupted", ["first"])
    agent.replies.pop(0)
    assert ask(session, "send_message", "second").content == "two"
    assert texts(manager) == ["first", "one", "second", "two"]
    interrupted(session, "third", 1)
    assert ask(session, "send_message", "third").content == "three"
    assert texts(manager)[4:] == ["third", "three"]


@pytest.mark.parametrize("take_back", ["clear", "rewind", "undo"])
def test_a_turn_that_was_taken_back_is_not_resumed(manager, take_back):
    """Clearing or rewinding ends an interrupted turn: nothing is asked for it again."""
    session = AgentSession(manager, "s", Script("new"))
    interrupted(session, "old", 1)
    if take_back == "rewind":
        manager.store.rewind("s", 0)
    else:
        getattr(session, take_back)()
    assert session.turn().state == "undone"
    assert session.resume() is None
    session.send_message("begin")
    assert texts(manager) == ["begin", "new"]


def test_a_summarised_question_is_still_asked(manager):
    """A summary that covers the question of an interrupted turn does not end that turn."""
    session = AgentSession(manager, "s", echo)
    interrupted(session, "old", 1)
    manager.summarize("s", "they asked", upto=1)
    assert session.resume().content == "they asked"


def test_a_turn_whose_question_was_pruned_is_still_a_turn(manager):
    """What pruning hides takes nothing back: an answered turn can be undone."""
    session = AgentSession(manager, "s", echo)
    session.send_message("one")
    session.send_message("two")
    manager.store.prune("s", keep_last=1)
    assert session.turn().state == "answered"
    session.undo()
    assert (session.turn().state, texts(manager)) == ("undone", ["one", "one"])
    manager.store.prune("s", keep_last=1)
    session.undo()
    assert texts(manager) == []
    with pytest.raises(InvalidEvent, match="no turn to undo"):
        session.undo()


def test_an_interrupted_turn_whose_question_was_pruned_is_resumed(manager):
    """A call that waits for its result is shown still, so the turn goes on."""
    session = AgentSession(manager, "s", Script(call("add"), "done"), tools={"add": lambda: 3})
    interrupted(session, "old", 2)
    manager.store.prune("s", keep_last=1)
    assert session.turn().state == "interrupted"
    assert session.resume().content == "done"


def test_a_summarised_turn_is_undone_once(manager):
    """Also where a summary covered its question, the next undo goes to the turn before."""
    session = AgentSession(manager, "s", echo)
    session.send_message("one")
    session.send_message("two")
    manager.summarize("s", "they asked", upto=3)
    session.undo()
    session.undo()
    assert texts(manager) == []


def test_undo_takes_turns_back_one_by_one(manager, ask):
    """Each undo goes to before the newest turn that stands; the past stays in the history."""
    session = AgentSession(manager, "s", echo)
    for text in ("one", "two", "three"):
        session.send_message(text)
    ask(session, "undo")
    assert texts(manager) == ["one", "one", "two", "two"]
    ask(session, "undo")
    session.send_message("four")
    assert texts(manager) == ["one", "one", "four", "four"]
    assert len(SessionState.of(manager.store, "s", at_version=6).messages) == 6
    ask(session, "clear")
    assert ask(session, "message_count") == 0


def test_a_branch_begins_its_own_turns(manager):
    """A branch of an interrupted turn leaves that to its parent."""
    parent = AgentSession(manager, "s", Script(call("add"), "later"), tools={"add": adder})
    interrupted(parent, "hi", 2)
    manager.branch("s", session_id="b")
    branch = AgentSession(manager, "b", agent := Script("here"))
    assert branch.resume() is None
    branch.send_message("and you?")
    assert [each["content"] for each in agent.seen[0]] == ["hi", "and you?"]
    assert (parent.turn().state, branch.turn().state) == ("interrupted", "answered")


REPLIES = st.lists(st.lists(st.booleans(), min_size=1, max_size=3), max_size=3)


@given(replies=REPLIES, cuts=st.lists(st.integers(1, 4), max_size=4))
def test_interruptions_change_nothing(replies, cuts):
    """A turn cut short anywhere, again and again, leaves the facts of one that was not."""

    def agent(messages):
        number = sum(each["role"] == "assistant" for each in messages)
        if number == len(replies):
            return "the end"
        names = ["fine" if each else "broken" for each in replies[number]]
        asked = [{"name": name, "arguments": {"n": n}} for n, name in enumerate(names)]
        return {"tool_calls": [{"function": each} for each in asked]}

    def told(cuts):
        runs = []
        tools = {"fine": lambda n: runs.append(n) or n, "broken": lambda n: runs.append(n) or 1 / 0}
        with EventStore.in_memory() as store, SessionManager(store, PLAIN) as manager:
            manager.create("s")
            session = AgentSession(manager, "s", agent, tools=tools)
            for cut in cuts:
                steps = session.sending("go", None, None)
                try:
                    foreign = next(steps)
                    for _ in range(cut):
                        try:
                            value = foreign()
                        except ZeroDivisionError as error:
                            foreign = steps.throw(error)
                        else:
                            foreign = steps.send(value)
                    steps.close()
                except StopIteration:
                    break
            else:
                session.send_message("go")
            return runs, [
                (each.type, each.key, getattr(each.event, "message", each.event.__class__))
                for each in facts(manager)
            ]

    assert told(cuts) == told([])


# -- many at once ----------------------------------------------------------------------------


def check_alternating(manager: SessionManager, count: int) -> None:
    """Assert that each question is followed by its own answer."""
    said = texts(manager)
    assert said[::2] == said[1::2]
    assert sorted(said[::2]) == sorted(f"q{n}" for n in range(count))


def test_turns_of_threads_come_one_after_another(manager):
    """Threads that ask in one session at once wait for each other."""

    def send(number):
        AgentSession(manager, "s", echo).send_message(f"q{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, range(40)))
    check_alternating(manager, 40)


def test_turns_of_tasks_come_one_after_another(manager):
    """So do tasks, also far more of them than there are threads, and cancelled ones are no loss."""

    async def agent(messages):
        await asyncio.sleep(0)
        return messages[-1]["content"]

    async def main():
        session = AgentSession(manager, "s", agent).aio
        tasks = [asyncio.create_task(session.send_message(f"q{n}")) for n in range(100)]
        await asyncio.sleep(0)
        for task in tasks[60:80]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        return [isinstance(each, asyncio.CancelledError) for each in done]

    assert asyncio.run(main()) == [60 <= n < 80 for n in range(100)]
    asked = [n for n in range(100) if not 60 <= n < 80]
    assert texts(manager) == [f"q{n}" for n in asked for _ in "qa"]


def test_a_tool_can_ask_another_session_but_not_its_own(manager, ask):
    """A tool that asks in the session of its own turn is told that it can't; no one hangs."""
    manager.create("helper")

    def inner(session):
        return AgentSession(manager, session, echo).send_message("inner").content

    agent = Script(call("inner", '{"session": "helper"}'), call("inner", '{"session": "s"}'), "ok")
    session = AgentSession(manager, "s", agent, tools={"inner": inner})
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


def test_two_processes_in_one_turn_stop_at_the_first_clash(manager):
    """Where somebody else goes on with the same turn, the slower one raises and writes nothing."""
    one, two = (AgentSession(manager, "s", Script(text)) for text in ("mine", "yours"))
    first, second = one.sending("hi", None, None), two.sending("hi", None, None)
    mine, yours = next(first), next(second)
    with pytest.raises(StopIteration):
        first.send(mine())
    with pytest.raises(VersionConflict) as conflict:
        second.send(yours())
    assert (conflict.value.expected, conflict.value.actual) == (1, 2)
    assert texts(manager) == ["hi", "mine"]
    assert manager.get("s").errors == 0


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


@pytest.mark.parametrize(
    "wrong",
    [
        {"session": 5},
        {"session": "\ud800"},
        {"agent": "gpt"},
        {"max_iterations": 0},
        {"max_tokens": -1},
        {"max_tokens": "4k"},
        {"tools": [adder]},
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_said(manager, wrong):
    """An agent session that could never answer is not made, so no question is lost to it."""
    with pytest.raises(InvalidEvent):
        AgentSession(manager, **{"session": "s", "agent": echo} | wrong)


def test_a_limit_in_messages_waits_for_the_end_of_a_turn(manager, ask):
    """A turn longer than max_messages is shown to the agent whole, and pruned once answered."""
    manager.create("short", max_messages=3)
    several = call("now")
    several["tool_calls"] = [{**several["tool_calls"][0], "id": f"c{n}"} for n in range(3)]
    script = Script(several, "It is late.")
    session = AgentSession(manager, "short", script, tools={"now": lambda: "23:59"})
    assert ask(session, "send_message", "How late is it?").content == "It is late."
    roles = [each["role"] for each in script.seen[-1]]
    assert roles == ["user", "assistant", "tool", "tool", "tool"]
    assert [each.content for each in manager.get_messages("short")] == ["It is late."]


def test_a_question_is_asked_in_a_session_that_is_full(manager, ask):
    """Where exempt messages alone are max_messages, what is said last is shown all the same."""
    manager.create("full", max_messages=1)
    manager.add_message("full", {"role": "system", "content": "Be brief."})
    script = Script("Hello.")
    ask(AgentSession(manager, "full", script), "send_message", "Hi!")
    assert [each["content"] for each in script.seen[0]] == ["Be brief.", "Hi!"]
    assert [each.content for each in manager.get_messages("full")] == ["Be brief.", "Hello."]


def test_cancelling_twice_is_cancelling(manager):
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

    with Slow(manager.store, PLAIN) as slow:
        session = AgentSession(slow, "s", echo)
        asyncio.run(cancelled_twice(session))
        assert session.turn().state == "failed"
        assert session.resume().content == "hello"
