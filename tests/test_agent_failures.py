"""What fails in a turn: tools, agents, replies and callers, each one told and recorded."""

from datetime import UTC, datetime

import pytest
from turns import Script, adder, call, facts, texts

from eventstore import (
    InvalidEvent,
    IterationsExceeded,
    SessionNotFound,
)
from eventstore.sessions import AgentSession
from eventstore.sessions.agent import echo

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
def test_a_tool_that_fails_tells_the_agent(sessions, ask, name):
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
    session = AgentSession(sessions, "s", agent, tools=tools)
    assert ask(session, "send_message", "go").content == "never mind"
    ran = facts(sessions)[2].event
    assert ran.error.startswith(error) and ran.result is None
    assert agent.seen[1][-1]["content"] == f"error: {ran.error}"


def test_results_are_recorded_as_json(sessions):
    """Tuples, sets and times become what JSON has; text goes to the agent as it is."""
    results = iter([("a", 1), {"b": {2}}, datetime(2026, 1, 2, tzinfo=UTC), "text", None])
    agent = Script(*[call("get", identity=f"c{n}") for n in range(5)], "done")
    AgentSession(sessions, "s", agent, tools={"get": lambda: next(results)}).send_message("go")
    said = [each["content"] for each in agent.seen[-1] if each["role"] == "tool"]
    assert said == ['["a",1]', '{"b":[2]}', "2026-01-02T00:00:00Z", "text", "null"]
    recorded = [each.event.result for each in facts(sessions) if each.type == "ToolCallRecorded"]
    assert recorded == [["a", 1], {"b": [2]}, "2026-01-02T00:00:00Z", "text", None]


def test_a_result_over_the_sessions_limit_is_an_error(sessions):
    """A result that a session has no room for is told as such, and the turn goes on."""
    sessions.create("tight", max_bytes=2_000)
    agent = Script(call("say"), "too much")
    AgentSession(sessions, "tight", agent, tools={"say": lambda: "x" * 5_000}).send_message("go")
    assert "over the limit of 2000 bytes" in agent.seen[1][-1]["content"]
    assert sessions.get_messages("tight")[-1].content == "too much"


def test_an_agent_that_fails_leaves_a_turn_to_resume(sessions, ask):
    """Its error is recorded and raised; resume() asks again and runs no tool again."""
    runs = []
    agent = Script(call("note"), OSError("no \udfff line"), "noted")
    session = AgentSession(sessions, "s", agent, tools={"note": lambda: runs.append(1)})
    with pytest.raises(OSError, match="line"):
        ask(session, "send_message", "note it")
    turn, failure = session.turn(), facts(sessions)[-1]
    assert (turn.state, turn.replies, turn.waiting) == ("failed", 1, {})
    assert (failure.event.kind, failure.event.text) == ("OSError", "no ? line")
    assert failure.event.detail == {"turn": 0, "replies": 1}
    assert failure.correlation_id == turn.id
    assert ask(session, "resume").content == "noted"
    assert (session.turn().state, runs) == ("answered", [1])
    assert ask(session, "resume") is None
    assert sessions.get("s").errors == 1


def test_a_failed_turn_does_not_stand_in_the_way(sessions):
    """After a failure the next question begins a turn of its own, the same one too."""
    agent = Script(RuntimeError("broke"), "one", "two")
    session = AgentSession(sessions, "s", agent)
    with pytest.raises(RuntimeError):
        session.send_message("hi")
    session.send_message("hi")
    session.send_message("ho")
    assert texts(sessions) == ["hi", "hi", "one", "ho", "two"]


BAD_REPLIES = {
    "nothing": None,
    "a number": 5,
    "a list": ["text"],
    "another role": {"role": "user", "content": "x"},
    "no JSON": {"content": {1, 2}},
    "a surrogate": "\ud800",
}


@pytest.mark.parametrize("name", BAD_REPLIES)
def test_a_reply_that_is_none_is_refused(sessions, ask, name):
    """What can't be an assistant's message is InvalidEvent and recorded as that."""
    session = AgentSession(sessions, "s", Script(BAD_REPLIES[name], "better"))
    with pytest.raises(InvalidEvent):
        ask(session, "send_message", "hi")
    assert [each.type for each in facts(sessions)] == ["MessageAppended", "ErrorRecorded"]
    assert facts(sessions)[-1].event.kind == "InvalidEvent"
    assert ask(session, "resume").content == "better"


def test_iterations_have_a_limit(sessions, ask):
    """After so many replies without an answer: a recorded error that is raised, all calls whole."""
    runs = []
    session = AgentSession(
        sessions, "s", lambda _: call("more"), 3, tools={"more": lambda: runs.append(1)}
    )
    with pytest.raises(IterationsExceeded) as exceeded:
        ask(session, "send_message", "go")
    assert (exceeded.value.session, exceeded.value.limit) == ("s", 3)
    assert facts(sessions)[-1].event.kind == "IterationsExceeded"
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
def test_wrong_use_writes_nothing(sessions, name):
    """Wrong arguments are InvalidEvent before any fact."""
    with pytest.raises(InvalidEvent):
        BAD_CALLS[name](sessions)
    assert facts(sessions) == []


def test_sessions_that_take_nothing_say_so(sessions):
    """An unknown session, and one that is closed before or during a turn, raise what appends do."""
    with pytest.raises(SessionNotFound):
        AgentSession(sessions, "nobody", echo).send_message("hi")

    def closing(_):
        sessions.close("s")
        return "too late"

    with pytest.raises(InvalidEvent, match="closed"):
        AgentSession(sessions, "s", closing).send_message("hi")
    assert AgentSession(sessions, "s").turn().state == "failed"


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
def test_wrong_arguments_are_refused_before_anything_is_said(sessions, wrong):
    """An agent session that could never answer is not made, so no question is lost to it."""
    with pytest.raises(InvalidEvent):
        AgentSession(sessions, **{"session": "s", "agent": echo} | wrong)
