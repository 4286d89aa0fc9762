"""AgentSession: a session whose messages are answered by an agent, each step a fact.

An agent is a callable: the messages it is to see go in, as dicts as they were recorded (to_openai()
and to_anthropic() turn them into what a provider takes); text or an assistant message comes out.
A message that asks for tools, in either provider's shape, is a step: the tools run, their results
become messages, and the agent is asked again; one that does not is the answer. Tools are callables
by name, called with the arguments of the call. Agent and tools may be coroutine functions.

Invariants: question, replies, tool runs, results, errors and answer are durable before the next
step begins; a tool whose result is recorded never runs again, and a reply that is recorded is never
asked for again, whatever is killed when (a tool that was running then runs once more); a tool that
fails tells the agent so; any other failure is recorded and raised, and leaves a turn that resume()
goes on with. In one process the turns of a session come one after another; where another process
goes on with the same turn, one of the two gets a VersionConflict and stops.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import msgspec

from ..errors import (
    EventStoreError,
    EventTooLarge,
    InvalidEvent,
    IterationsExceeded,
    KeyReused,
    VersionConflict,
    brief,
)
from ..ids import check_name, message_id, optional_name
from ..log.base import Receipt
from ..messages import Json, Message, text_of
from .checks import check_whole
from .context import build_context, check_room
from .driving import Steps, lanes_of
from .manager import SessionManager
from .settings import COUNT_MAX
from .shapes import Call, calls_in
from .turns import Pending, Ran, Turn, newest_turn, read_turn, turn_id

ITERATIONS_DEFAULT = 10
"""How often the agent is asked in one turn, at most."""

ERROR_CHARACTERS_MAX = 1_000
"""How much of an error's text is recorded."""

Agent = Callable[[list[dict[str, Json]]], Any]
"""Messages in; text, a dict, a Message or an awaitable of one of them out."""

Tools = Mapping[str, Callable[..., Any]]
"""Callables by the names that the agent calls them by; what they return is JSON or close to it."""

Question = str | dict[str, Json] | Message


def echo(messages: list[dict[str, Json]]) -> str:
    """Answer with what was said last: the agent to try things out with."""
    return text_of(messages[-1])


class _Asking(NamedTuple):
    """Whom to ask, and how often in one turn."""

    agent: Agent
    limit: int


class AgentSession:
    """A session and the agent that answers in it; `aio` has the same methods as coroutines.

    The agent sees what fits into `max_tokens` (the session's token_limit where it is None; the
    question of the turn always), or with `full_history` everything. `actor` stands on all facts.
    Raises InvalidEvent for wrong arguments; the session need not be there yet.
    """

    def __init__(
        self,
        manager: SessionManager,
        session: str,
        agent: Agent | None = None,
        max_iterations: int = ITERATIONS_DEFAULT,
        *,
        tools: Tools | None = None,
        max_tokens: int | None = None,
        full_history: bool = False,
        actor: str | None = None,
    ) -> None:
        if not isinstance(manager, SessionManager):
            raise InvalidEvent(f"an agent needs a SessionManager, not {brief(manager)}")
        if full_history and max_tokens is not None:
            raise InvalidEvent("give max_tokens or full_history, not both")
        check_name(session, "session")
        check_whole(max_iterations, "max_iterations", low=1)
        check_whole(max_tokens, "max_tokens", low=1, or_none=True)
        self.manager, self.session = manager, session
        self.agent = None if agent is None else _checked_agent(agent)
        self.max_iterations, self.tools = max_iterations, _checked_tools(tools)
        self.max_tokens = COUNT_MAX if full_history else max_tokens
        self.actor = optional_name(actor, "actor")
        self.aio = AsyncAgentSession(self)
        self.lanes = lanes_of(manager.store)

    def send_message(
        self, text: Question, agent: Agent | None = None, max_iterations: int | None = None
    ) -> Message:
        """Ask the agent and return its answer, as it is recorded.

        A turn that was interrupted is finished first, or instead where its question was the same;
        one that failed is left as it is. `agent` and `max_iterations` are for this turn. Raises
        IterationsExceeded after that many replies without an answer, what the agent raises, what
        appends raise, and InvalidEvent, with nothing recorded, for a question that no window of
        the budget could hold.
        """
        return self.lanes.alone(self.session, self.sending(text, agent, max_iterations))

    def resume(
        self, agent: Agent | None = None, max_iterations: int | None = None
    ) -> Message | None:
        """Go on with the newest turn if it was interrupted or has failed, and return its answer.

        None where there is nothing to go on with. Raises as send_message() does.
        """
        return self.lanes.alone(self.session, self.resuming(agent, max_iterations))

    def turn(self) -> Turn | None:
        """Return the newest turn as it is recorded, None before the first."""
        store = self.manager.store
        store.flush()
        number = newest_turn(store.log, self.session)
        return None if number < 0 else read_turn(store, self.session, number)

    def undo(self) -> Receipt:
        """Make the session what it was before the newest turn that is not undone yet.

        History stays, and tools don't run backwards. Raises InvalidEvent where there is none.
        """
        store, turn = self.manager.store, self.turn()
        while turn is not None and turn.undone:
            turn = read_turn(store, self.session, turn.number - 1) if turn.number else None
        if turn is None:
            raise InvalidEvent(f"session {self.session!r} has no turn to undo")
        return store.rewind(self.session, turn.first - 1, actor=self.actor)

    def clear(self) -> Receipt:
        """Hide all messages and keep the summaries."""
        return self.manager.clear(self.session, actor=self.actor)

    def message_count(self) -> int:
        """Return the number of visible messages, summaries included."""
        return self.manager.message_count(self.session)

    # -- the steps of a turn -------------------------------------------------------------

    def sending(
        self, text: Question, agent: Agent | None, max_iterations: int | None
    ) -> Steps[Message]:
        """Return the steps behind send_message()."""
        question, asking = _question(text), self._asking(agent, max_iterations)
        turn = self.turn()
        halted = turn if turn is not None and turn.state == "interrupted" else None
        if halted is None or halted.question.fields != question:
            check_room(self.manager.store, self.session, question, self.max_tokens)
        if halted is not None:
            answer = yield from self._finished(halted, asking)
            if halted.question.fields == question:
                return answer
        return (yield from self._finished(self._begun(question, turn), asking))

    def resuming(self, agent: Agent | None, max_iterations: int | None) -> Steps[Message | None]:
        """Return the steps behind resume()."""
        asking, turn = self._asking(agent, max_iterations), self.turn()
        if turn is None or turn.state in ("answered", "undone"):
            return None
        return (yield from self._finished(turn, asking))

    def _asking(self, agent: Agent | None, max_iterations: int | None) -> _Asking:
        limit = self.max_iterations if max_iterations is None else max_iterations
        check_whole(limit, "max_iterations", low=1)
        return _Asking(_checked_agent(agent or self.agent), limit)

    def _begun(self, question: dict[str, Json], before: Turn | None) -> Turn:
        """Record the question of a new turn."""
        number = 0 if before is None else before.number + 1
        identity, store = turn_id(self.session, number), self.manager.store
        version = store.version(self.session)
        names: Any = {"key": identity, "correlation_id": identity, "actor": self.actor}
        with suppress(KeyReused):
            receipt = self.manager.add_message(self.session, question, **names)
            if not receipt.duplicate:
                return read_turn(store, self.session, number)
        raise VersionConflict(self.session, version, store.version(self.session))

    def _finished(self, turn: Turn, asking: _Asking) -> Steps[Message]:
        """Go on with a turn to its answer; record what ends it early."""
        try:
            while turn.answer is None:
                yield from self._run_tools(turn)
                _check_replies(turn, asking.limit)
                reply = yield partial(asking.agent, self._window(turn))
                self._record_reply(turn, _reply(reply, f"call_{turn.number}_{turn.replies}"))
        except (GeneratorExit, VersionConflict):  # nobody goes on here, but maybe elsewhere
            raise
        except BaseException as error:
            self._record_failure(turn, error)
            raise
        return turn.answer

    def _window(self, turn: Turn) -> list[dict[str, Json]]:
        """Return what the agent is to see."""
        store, lines = self.manager.store, [turn.line]
        window = build_context(store, self.session, self.max_tokens, None, always=lines)
        return [message.to_dict() for message in window.messages]

    def _run_tools(self, turn: Turn) -> Steps[None]:
        """Run the tools that are waited for, one by one, and add what they gave as messages."""
        for pending in list(turn.waiting.values()):
            if pending.ran is None:
                yield from self._run_tool(turn, pending)
            self._record_result(turn, pending)
            del turn.waiting[pending.call.id]

    def _run_tool(self, turn: Turn, pending: Pending) -> Steps[None]:
        """Run one tool; a failure of it is a result like any other."""
        begun, result, error = perf_counter(), None, None
        try:
            tool, arguments = self._tool(pending.call.name), _arguments(pending.call)
            found = yield partial(tool, **arguments)
            result = _as_json(found)
        except Exception as failure:  # noqa: BLE001 - tools are foreign code
            error = _told(failure)
        self._record_run(turn, pending, result, error, (perf_counter() - begun) * 1_000)

    def _tool(self, name: str) -> Callable[..., Any]:
        tool = self.tools.get(name)
        if tool is None:
            known = ", ".join(self.tools) or "none"
            raise InvalidEvent(f"there is no tool {name!r}; there are: {known}")
        return tool

    # -- recording -----------------------------------------------------------------------

    def _record(
        self, turn: Turn, place: str, command: Callable[..., Receipt], *args: Any, **fields: Any
    ) -> Receipt:
        """Record one fact of a turn. Raises VersionConflict where it is there already."""
        names = {"key": f"{turn.id}:{place}", "correlation_id": turn.id, "actor": self.actor}
        with suppress(KeyReused):
            receipt = command(self.session, *args, **fields, **names)
            if not receipt.duplicate:
                turn.version = receipt.version
                return receipt
        newest = self.manager.store.version(self.session)
        raise VersionConflict(self.session, turn.version, newest)

    def _record_reply(self, turn: Turn, fields: dict[str, Json]) -> None:
        add, goes_on = self.manager.add_message, bool(calls_in(fields))
        receipt = self._record(turn, f"{turn.replies}", add, fields, more=goes_on)
        name = fields.get("id") or message_id(receipt.session, receipt.version)
        turn.replied(Message(fields, name))

    def _record_run(
        self, turn: Turn, pending: Pending, result: Json, error: str | None, duration_ms: float
    ) -> None:
        """Record that a tool ran; with what no fact can hold, that it failed."""
        call = pending.call
        place, command = f"{turn.replies - 1}:{pending.place}", self.manager.record_tool_call
        record = partial(self._record, turn, place, command, _tool_name(call.name))
        same = {"call_id": call.id, "duration_ms": duration_ms}
        try:
            record(_parsed(call.arguments), result, error=error, **same)
        except InvalidEvent as refused:
            result, error = None, error or _told(refused)
            record(call.arguments, error=error, **same)
        pending.ran = Ran(result, error)

    def _record_result(self, turn: Turn, pending: Pending) -> None:
        """Add a tool's result as a message; one that is too large, as an error."""
        place = f"{turn.replies - 1}:{pending.place}:result"
        record = partial(self._record, turn, place, self.manager.add_message, more=True)
        assert pending.ran is not None
        try:
            record(_result(pending.call, _said(pending.ran)))
        except EventTooLarge as refused:
            record(_result(pending.call, f"error: {_told(refused)}"))

    def _record_failure(self, turn: Turn, error: BaseException) -> None:
        """Record what ended a turn early, where the session still takes facts."""
        detail = {"turn": turn.number, "replies": turn.replies}
        with suppress(EventStoreError):
            self.manager.record_error(
                self.session,
                type(error).__name__,
                _clean(str(error)),
                detail,
                correlation_id=turn.id,
                actor=self.actor,
            )


class AsyncAgentSession:
    """`session.aio`: its methods as coroutines, from the same steps.

    Coroutine functions, agents or tools, run in the caller's event loop, all else in threads. A
    caller that is cancelled leaves a turn that failed, once the step at hand is done.
    """

    def __init__(self, session: AgentSession) -> None:
        self._session, self._run = session, session.manager.aio.run

    async def send_message(
        self, text: Question, agent: Agent | None = None, max_iterations: int | None = None
    ) -> Message:
        """Ask the agent and return its answer; see AgentSession.send_message."""
        session = self._session
        steps = session.sending(text, agent, max_iterations)
        return await session.lanes.alone_async(session.session, steps, self._run)

    async def resume(
        self, agent: Agent | None = None, max_iterations: int | None = None
    ) -> Message | None:
        """Go on with the newest turn; see AgentSession.resume."""
        session = self._session
        steps = session.resuming(agent, max_iterations)
        return await session.lanes.alone_async(session.session, steps, self._run)

    async def turn(self) -> Turn | None:
        """Return the newest turn as it is recorded, None before the first."""
        return await self._run(self._session.turn)

    async def undo(self) -> Receipt:
        """Make the session what it was before the newest turn; see AgentSession.undo."""
        return await self._run(self._session.undo)

    async def clear(self) -> Receipt:
        """Hide all messages and keep the summaries."""
        return await self._run(self._session.clear)

    async def message_count(self) -> int:
        """Return the number of visible messages, summaries included."""
        return await self._run(self._session.message_count)


def _checked_agent(agent: Agent | None) -> Agent:
    if not callable(agent):
        raise InvalidEvent(f"an agent is a callable, not {brief(agent)}")
    return agent


def _check_replies(turn: Turn, limit: int) -> None:
    if turn.replies >= limit:
        raise IterationsExceeded(turn.session, limit)


# -- what comes in ---------------------------------------------------------------------------


def _checked_tools(tools: Tools | None) -> Tools:
    if not isinstance(tools, Mapping | None):
        raise InvalidEvent(f"tools are callables by name, in a dict; not {brief(tools)}")
    for name, tool in (tools or {}).items():
        check_name(name, "tool name")
        if not callable(tool):
            raise InvalidEvent(f"tool {name!r} is a callable, not {brief(tool)}")
    return tools or {}


def _question(text: object) -> dict[str, Json]:
    fields = text.fields if isinstance(text, Message) else text
    if isinstance(fields, str):
        return {"role": "user", "content": fields}
    if not isinstance(fields, dict):
        raise InvalidEvent(f"a question is text or a message, not {type(text).__name__}")
    return {"role": "user", **fields}


def _reply(reply: object, identity: str) -> dict[str, Json]:
    """Return what an agent gave as an assistant's message, every tool call with an id."""
    fields = reply.fields if isinstance(reply, Message) else reply
    if isinstance(fields, str):
        return {"role": "assistant", "content": fields}
    if not isinstance(fields, dict) or fields.get("role", "assistant") != "assistant":
        raise InvalidEvent(
            f"an agent gives text or a message of role 'assistant', not {_clean(repr(reply))}"
        )
    made = {"role": "assistant", **fields}
    calls = made.get("tool_calls")
    if isinstance(calls, list):
        made["tool_calls"] = [_named(call, f"{identity}_{n}") for n, call in enumerate(calls)]
    return made


def _named(call: Json, identity: str) -> Json:
    """Return a call with an id; some local models give none."""
    return {**call, "id": identity} if isinstance(call, dict) and not call.get("id") else call


def _arguments(call: Call) -> dict[str, Json]:
    found = _parsed(call.arguments)
    if not isinstance(found, dict):
        raise InvalidEvent(f"the arguments of {call.name!r} are no JSON object: {call.arguments}")
    return found


def _parsed(text: str) -> Json:
    """Return the JSON behind a text, or the text where it is none."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


# -- what is recorded ------------------------------------------------------------------------


def _tool_name(name: str) -> str:
    """Return a name that can be recorded; an agent may make up any."""
    try:
        return check_name(name, "tool name")
    except InvalidEvent:
        return "unnamed"


def _as_json(found: object) -> Json:
    """Return what a tool gave as JSON has it; numbers that no fact can hold stay what they are."""
    made: Json = json.loads(json.dumps(msgspec.to_builtins(found, str_keys=True)))
    return made


def _result(call: Call, said: str) -> dict[str, Json]:
    return {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": said}


def _said(ran: Ran) -> str:
    """Return what the agent is told that a tool gave."""
    if ran.error is not None:
        return f"error: {ran.error}"
    if isinstance(ran.result, str):
        return ran.result
    return msgspec.json.encode(ran.result).decode()


def _told(error: Exception) -> str:
    """Return an error as a tool's result says it; our own say enough without their names."""
    named = isinstance(error, EventStoreError)
    return _clean(str(error) if named else f"{type(error).__name__}: {error}")


def _clean(text: str) -> str:
    """Return the text so that a fact can hold it: cut, and without lone surrogates."""
    return text[:ERROR_CHARACTERS_MAX].encode(errors="replace").decode()
