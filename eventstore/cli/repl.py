"""`repl`: a conversation with an agent, in a terminal or from a pipe, each step of it a fact.

Invariants: a line that comes in is one message or one /command; what fails is one line on stderr,
and the conversation goes on; a turn that was interrupted is gone on with before anything is read;
from a pipe nothing but answers is printed, and the exit code is 1 where anything failed.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from rich.text import Text

from projections import SessionState

from .. import (
    EventStore,
    EventStoreError,
    InvalidEvent,
    Message,
    SessionClosed,
    SessionExists,
    SessionExpired,
    StoreUnavailable,
)
from ..errors import counted
from ..events import MessageAppended
from ..limits import APPEND_BYTES_MAX
from ..log.base import Receipt
from ..sessions import AgentSession, SessionManager
from ..sessions.agent import ITERATIONS_DEFAULT, Agent, Tools, echo
from ..state.transcript import Transcript
from .app import NO, WRITE, Session, command, fail
from .drawing import pairs, plain, printable, receipt_line, short_name, transcript_grid
from .reads import SHOWN_LAST, placed
from .sessions import Actor, SettingsFile, load_settings, managing
from .terminal import Terminal, parse_number
from .writes import parse_place

PROMPT_WIDTH = 24


class AgentError(Exception):
    """Foreign code failed: its error in one line."""


@command(WRITE)
def repl(
    terminal: Terminal,
    session: Session,
    agent: Annotated[
        str | None, typer.Option(metavar="MODULE:FUNCTION", help="Who answers; else an echo.")
    ] = None,
    tools: Annotated[
        str | None, typer.Option(metavar="MODULE:DICT", help="Functions it may call, by name.")
    ] = None,
    max_iterations: Annotated[
        int, typer.Option(min=1, help="How often it is asked in one turn, at most.")
    ] = ITERATIONS_DEFAULT,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="What it sees; else the session's token limit.")
    ] = None,
    actor: Actor = None,
    settings: SettingsFile = None,
) -> None:
    """Talk with an agent; begins the session, and the store, where there is none."""
    with EventStore.in_memory() as rehearsal:  # no directory for what can't be a fact
        rehearsal.create(session, actor=actor)
    answering = echo if agent is None else load_agent(agent)
    callables = {} if tools is None else load_tools(tools)
    chosen = load_settings(terminal, settings, cleanup=False)
    with managing(terminal, chosen, creates=True) as manager:
        _begin(manager, session, actor)
        manager.start()  # summaries, where the settings want them
        start = partial(
            AgentSession,
            manager,
            agent=answering,
            max_iterations=max_iterations,
            tools=callables,
            max_tokens=max_tokens,
            actor=actor,
        )
        conversation = Conversation(terminal, start, session)
        conversation.run()
    if conversation.failed and not conversation.typed:
        raise typer.Exit(NO)


def _begin(manager: SessionManager, session: str, actor: str | None) -> None:
    """See that the session is there and takes messages."""
    if not manager.store.exists(session):
        with suppress(SessionExists):
            manager.create(session, actor=actor)
    found = manager.get(session)
    if found.expires_at is not None and found.expired:
        raise SessionExpired(session, found.expires_at)
    if found.status != "active":
        raise SessionClosed(session, found.status)


# -- the conversation ------------------------------------------------------------------


class Conversation:
    """Reads lines until they end or `/exit`; `typed` says that somebody sits there.

    `failed` is set once anything failed.
    """

    def __init__(
        self, terminal: Terminal, start: Callable[..., AgentSession], session: str
    ) -> None:
        self.terminal, self._start = terminal, start
        self.agent = start(session)
        self.typed = sys.stdin.isatty() and sys.stdout.isatty() and not terminal.json
        self.failed = self.over = False

    def run(self) -> None:
        """Go on with what was interrupted, then with each line."""
        self._recovering(self._open)
        read = _line_reader(typed=self.typed)
        while not self.over:
            try:
                line = read(f"{short_name(self.agent.session, PROMPT_WIDTH)}> ").strip()
            except EOFError:
                if self.typed:
                    self.terminal.draw("")
                return
            except KeyboardInterrupt:
                if not self.typed:
                    raise
                self.terminal.remark("\n/exit or Ctrl-D ends")
                continue
            if line:
                self._recovering(partial(self._take, line))

    def _open(self) -> None:
        count, turn = self.agent.message_count(), self.agent.turn()
        if self.typed:
            told = f"{printable(self.agent.session)}: {counted(count, 'message')}; /help says more"
            self.terminal.remark(told)
        if turn is not None and turn.state == "interrupted":
            self.terminal.remark("going on with the turn that was interrupted")
            self._answer(self.agent.resume)
        elif turn is not None and turn.state == "failed" and self.typed:
            self.terminal.remark("the last turn failed; /resume goes on with it")

    def _recovering(self, act: Callable[[], None]) -> None:
        """Do one thing; tell in one line why it failed, and go on."""
        try:
            act()
        except StoreUnavailable:
            raise
        except (EventStoreError, AgentError) as error:
            self.failed = True
            fail(error, json=self.terminal.json)
        except KeyboardInterrupt:
            if not self.typed:
                raise
            self.terminal.remark("\nstopped; /resume goes on")

    def _take(self, line: str) -> None:
        if not line.startswith("/") or line.startswith("//"):
            text = line[1:] if line.startswith("//") else line
            self._answer(partial(self.agent.send_message, text))
            return
        name, *words = line[1:].split() or [""]
        found = COMMANDS.get(name)
        if found is None or len(words) > found.words:
            known = f"/{name} {found.usage}".rstrip() if found else f"/{', /'.join(COMMANDS)}"
            raise InvalidEvent(f"{line!r} is no command; there is {known}, and //text says /text")
        found.act(self, *words)

    def _answer(self, ask: Callable[[], Message | None]) -> None:
        """Ask the agent and print what it says; typed, with the steps on the way to it."""
        try:
            answer = ask()
        except EventStoreError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - agents are foreign code
            told = printable(f"{type(error).__name__}: {error}")
            raise AgentError(f"the agent failed: {told}; /resume asks it again") from None
        if answer is None:
            raise InvalidEvent("there is no turn to go on with")
        if self.typed:
            self.terminal.draw(transcript_grid(self.terminal.pen, self._steps()), "")
        else:
            self.terminal.answer(self._document(answer), plain(answer.text))

    def _steps(self) -> Iterable[tuple[str, Message]]:
        """Return the messages of the newest turn after its question."""
        turn = self.agent.turn()
        assert turn is not None, "it was just answered"
        for recorded in self.agent.manager.store.events(turn.session, turn.first + 1):
            if recorded.correlation_id == turn.id and isinstance(recorded.event, MessageAppended):
                yield str(recorded.version), recorded.event.message

    def _document(self, message: Message) -> dict[str, Any]:
        return {
            "session": self.agent.session,
            "id": message.id,
            "message": message.to_dict(),
        }

    # -- commands ------------------------------------------------------------------------

    def show_help(self) -> None:
        """Print what can be typed."""
        rows = {f"/{name} {each.usage}": each.help for name, each in COMMANDS.items()}
        rows["//text"] = "a message that begins with /"
        self.terminal.answer(rows, pairs((usage, Text(told)) for usage, told in rows.items()))

    def show_history(self, count: str = str(SHOWN_LAST)) -> None:
        """Print the newest visible messages."""
        store, session = self.agent.manager.store, self.agent.session
        state = SessionState.of(store, session)
        first = max(len(state.messages) - _number(count, "/history"), 0)
        if self.terminal.json:
            documents = [self._document(message) for message in state.messages[first:]]
            self.terminal.answer(documents)
            return
        lines = Transcript(store.log, state.header.spans).lines(first, len(state.messages))
        pen = self.terminal.pen
        self.terminal.draw(transcript_grid(pen, placed(pen, session, lines)))

    def clear(self) -> None:
        """Hide all messages."""
        self._done(self.agent.clear())

    def branch(self, name: str | None = None, at: str | None = None) -> None:
        """Branch off and go on there."""
        place = None if at is None else parse_place(at)
        store, here = self.agent.manager.store, self.agent
        receipt = store.branch(here.session, name, at=place, actor=here.actor)
        self.agent = self._start(receipt.session)
        self._done(receipt)

    def rewind(self, version: str | None = None) -> None:
        """Go back to a version, or to before the last turn."""
        if version is None:
            self._done(self.agent.undo())
            return
        store, here = self.agent.manager.store, self.agent
        self._done(store.rewind(here.session, _number(version, "/rewind"), actor=here.actor))

    def resume(self) -> None:
        """Go on with a turn that failed."""
        self._answer(self.agent.resume)

    def exit(self) -> None:
        """End the conversation."""
        self.over = True

    def _done(self, receipt: Receipt) -> None:
        self.terminal.answer(receipt, receipt_line(receipt))


class Known(NamedTuple):
    """A command: what may follow it, so many words at most, and what it does."""

    usage: str
    words: int
    help: str
    act: Callable[..., None]


COMMANDS = {
    "help": Known("", 0, "this", Conversation.show_help),
    "history": Known("[N]", 1, f"the newest N messages ({SHOWN_LAST})", Conversation.show_history),
    "clear": Known("", 0, "hide all messages, keep summaries", Conversation.clear),
    "branch": Known(
        "[NAME [AT]]", 2, "go on in a branch, of now or a version", Conversation.branch
    ),
    "rewind": Known(
        "[VERSION]", 1, "back to a version; else before the last turn", Conversation.rewind
    ),
    "resume": Known("", 0, "go on with a turn that failed", Conversation.resume),
    "exit": Known("", 0, "end; so does Ctrl-D", Conversation.exit),
}


# -- what comes in ---------------------------------------------------------------------


def _line_reader(*, typed: bool) -> Callable[[str], str]:
    """Return what reads a line, given the prompt, and raises EOFError at the end."""
    if not typed:
        return _piped_line
    with suppress(ImportError):  # no such module, no history of lines
        import_module("readline")
    return _typed_line


def _typed_line(prompt: str) -> str:
    try:
        return input(prompt)
    except UnicodeDecodeError as error:
        raise InvalidEvent(f"what was typed is not UTF-8 at byte {error.start}") from None


def _piped_line(_: str) -> str:
    line = sys.stdin.buffer.readline(APPEND_BYTES_MAX + 1)
    if not line:
        raise EOFError
    if len(line) > APPEND_BYTES_MAX:
        raise InvalidEvent(f"a line is over the limit of {APPEND_BYTES_MAX} bytes")
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidEvent(f"a line is not UTF-8 at byte {error.start}") from None


def _number(text: str, what: str) -> int:
    number = parse_number(text)
    if number is None:
        raise InvalidEvent(f"{what} takes a whole number, not {text!r}")
    return number


# -- foreign code ----------------------------------------------------------------------


def load_agent(text: str) -> Agent:
    """Return the agent that `module:function` names. Raises InvalidEvent."""
    found: Agent = _loaded(text, "--agent")
    if not callable(found):
        raise InvalidEvent(f"--agent {text} is no function: {type(found).__name__}")
    return found


def load_tools(text: str) -> Tools:
    """Return the tools that `module:dict` names. Raises InvalidEvent."""
    found: Tools = _loaded(text, "--tools")
    if not isinstance(found, Mapping):
        raise InvalidEvent(f"--tools {text} is no dict of functions: {type(found).__name__}")
    return found


def _loaded(text: str, option: str) -> Any:
    """Import what `module:name` names, from the working directory too."""
    module, _, name = text.partition(":")
    if not module or not name:
        raise InvalidEvent(f"{option} takes MODULE:NAME, not {text!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - importing runs foreign code
        told = printable(f"{type(error).__name__}: {error}")
        raise InvalidEvent(f"{option} {text} can't be loaded: {told}") from None
    return found
