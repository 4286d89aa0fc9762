"""Agents that follow a script, tools, and what tests of turns read back."""

import asyncio

from eventstore.sessions import AgentSession, SessionManager


class Asking:
    """Calls a session's methods from a thread, or awaits those of its async face."""

    def __init__(self, colour: str) -> None:
        self.colour = colour

    def __call__(self, session: AgentSession, method: str, *args, **kwargs):
        if self.colour == "sync":
            return getattr(session, method)(*args, **kwargs)
        return asyncio.run(getattr(session.aio, method)(*args, **kwargs))


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
