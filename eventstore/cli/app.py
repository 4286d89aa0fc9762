"""The frame of all commands: their common options, how they are registered, how they end.

Exit codes: 0 fine; 1 the answer is no (a violation, a conflict, a session that is not there or
takes nothing any more); 2 wrong usage, or it can't run; 130 interrupted; 141 whoever read the
output went away.

Invariants: whatever the input, one clear line on stderr and never a traceback; a command that
fails has written nothing, or whole appends.
"""

import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import typer
from typer.main import get_command

from .. import (
    ANY,
    NO_STREAM,
    EventStore,
    EventStoreError,
    InvalidEvent,
    Receipt,
    SessionClosed,
    StoreUnavailable,
)
from ..clock import parse_time
from ..engine.requests import Options
from ..log.base import Expected
from ..place.presence import FULL
from .drawing import plain, receipt_line
from .spoken import Typed, as_typed
from .terminal import Terminal, complete_streams, hang_up, parse_number, write_json

FINE, NO, WRONG, INTERRUPTED, HUNG_UP = 0, 1, 2, 130, 141

STORE_DEFAULT = Path("history")

START, READ, WRITE, BRANCHES = "Begin", "Look", "Write", "Branch and go back"
LIFE, PROOF, CARE = "Life cycle", "Prove and erase", "Care"

PANELS = (START, READ, WRITE, BRANCHES, LIFE, PROOF, CARE)
"""Headings of the help page, in its order."""

HELP = ["-h", "--help"]
"""The names of the option that shows it."""

UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""What typer raises for wrong usage; it moved between releases, its child did not."""


class HungUpError(Exception):
    """Nobody reads stdout any more."""


# -- options ---------------------------------------------------------------------------


def _option(help: str, *names: str, panel: str, metavar: str | None = None) -> Any:  # noqa: A002
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=panel)


_EVERYWHERE, _MUTATION = "Everywhere", "Every mutation"

StoreOption = Annotated[
    Path | None,
    _option(
        "Directory of the store; else EVENTSTORE_PATH, else ./history.",
        "--store",
        metavar="DIR",
        panel=_EVERYWHERE,
    ),
]
JsonOption = Annotated[bool, _option("Answer in JSON, for machines.", "--json", panel=_EVERYWHERE)]
KeyringOption = Annotated[
    Path | None,
    _option(
        "Keyring of an encrypted store; else EVENTSTORE_KEYRING.",
        "--keyring",
        metavar="FILE",
        panel=_EVERYWHERE,
    ),
]
AuditOption = Annotated[
    Path | None,
    _option(
        "Directory of signing keys and kept heads; else EVENTSTORE_AUDIT, else STORE.audit.",
        "--audit",
        metavar="DIR",
        panel=_EVERYWHERE,
    ),
]
_COMMON = [
    Parameter("store", Parameter.KEYWORD_ONLY, default=None, annotation=StoreOption),
    Parameter("json", Parameter.KEYWORD_ONLY, default=False, annotation=JsonOption),
    Parameter("keyring", Parameter.KEYWORD_ONLY, default=None, annotation=KeyringOption),
    Parameter("audit", Parameter.KEYWORD_ONLY, default=None, annotation=AuditOption),
]
_MUTATION_OPTIONS = {
    "expected": "Refuse unless the session is at this version; also: any, none.",
    "key": "Idempotency key: the same command again changes nothing.",
    "actor": "Who does it; else the user of this process.",
    "correlation_id": "What this belongs to.",
    "causation_id": "What caused this.",
}
_MUTATING = [
    Parameter(
        name,
        Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[str | None, _option(text, panel=_MUTATION, metavar="TEXT")],
    )
    for name, text in _MUTATION_OPTIONS.items()
]


Session = Annotated[str, typer.Argument(help="Name of the session.", show_default=False)]

AtVersion = Annotated[int | None, typer.Option(metavar="V", help="As it was at this version.")]
AtPosition = Annotated[
    int | None, typer.Option(metavar="P", help="As it was at this position of the store.")
]
AtTime = Annotated[
    int | None,
    typer.Option(metavar="TIME", parser=parse_time, help="As it was at this time, ISO 8601 or ns."),
]


def _tell_version(asked: bool) -> None:
    """Print which release this is, and end."""
    if not asked:
        return
    try:
        release = version("session-eventstore")
    except PackageNotFoundError:
        release = "(not installed)"
    sys.stdout.write(f"eventstore {release}\n")
    raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", help="Say which release this is.", callback=_tell_version),
]


class Everywhere(NamedTuple):
    """What was given before the command's name."""

    store: Path | None
    json: bool
    keyring: Path | None
    audit: Path | None


# -- registering commands --------------------------------------------------------------

Command = Callable[..., None]


class Answer(NamedTuple):
    """A receipt, and what a command says besides: to people, and in the JSON for machines."""

    receipt: Receipt
    remarks: Sequence[str] = ()
    besides: Mapping[str, object] = {}


Mutation = Callable[..., Receipt | Answer]

_registered: dict[str, list[tuple[str | None, Command]]] = {panel: [] for panel in PANELS}


@cache
def command_line() -> Callable[..., Any]:
    """Return the command with all that is registered, in the order of the panels."""
    made = typer.Typer(
        name="eventstore",
        no_args_is_help=True,
        rich_markup_mode="rich",
        context_settings={"help_option_names": HELP},
    )
    made.callback()(everywhere)
    for panel, commands in _registered.items():
        for name, function in commands:
            made.command(name, rich_help_panel=panel)(function)
    line = get_command(made)
    for each in (line, *line.commands.values()):  # type: ignore[attr-defined]
        shown = each.get_params(typer.Context(each, help_option_names=HELP))
        for flag in [param for param in shown if getattr(param, "is_flag", False)]:
            flag.metavar = ""  # else help shows <bool>, as if a value was to follow
    return line


def everywhere(
    called: typer.Context,
    store: StoreOption = None,
    json: JsonOption = False,
    keyring: KeyringOption = None,
    audit: AuditOption = None,
    version: Version = False,  # noqa: ARG001 - its callback has told it
) -> None:
    """Keep the history of agent sessions: append-only, branched, replayable, verified."""
    called.obj = Everywhere(store, json, keyring, audit)


def command(panel: str, name: str | None = None) -> Callable[[Command], Command]:
    """Register a command: it gets the terminal first, and `--store` and `--json` for free."""

    def register(function: Command) -> Command:
        def run(called: typer.Context, **given: Any) -> None:
            function(_terminal(called, given), **given)

        _register(run, function, 1, _COMMON, panel, name)
        return function

    return register


def mutation(
    panel: str,
    name: str | None = None,
    *,
    creates: bool = False,
) -> Callable[[Mutation], Mutation]:
    """Register a mutation: it gets the store and the Options first, and prints its receipt.

    What an Answer says besides goes to stderr, and into the JSON.
    """

    def register(function: Mutation) -> Mutation:
        def run(called: typer.Context, **given: Any) -> None:
            terminal = _terminal(called, given)
            options = _options(given)
            if creates and not terminal.path.exists():
                with EventStore.in_memory() as rehearsal:  # no directory for what can't be a fact
                    function(rehearsal, options, **given)
            with terminal.writing(creates=creates) as store:
                made = function(store, options, **given)
            answer = made if isinstance(made, Answer) else Answer(made)
            document = {**msgspec.structs.asdict(answer.receipt), **answer.besides}
            terminal.answer(document, receipt_line(answer.receipt))
            for each in answer.remarks:
                terminal.err.print(plain(f"eventstore: {each}", "yellow"), soft_wrap=True)

        _register(run, function, 2, [*_MUTATING, *_COMMON], panel, name)
        return function

    return register


def _register(
    run: Command,
    function: Callable[..., object],
    given_first: int,
    common: list[Parameter],
    panel: str,
    name: str | None,
) -> None:
    """Give `run` the parameters of `function`, less the first ones, and those all commands have."""
    own = list(signature(function).parameters.values())[given_first:]
    called = Parameter("called", Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)

    def guarded(called: typer.Context, **given: Any) -> None:
        try:
            run(called, **given)
            sys.stdout.flush()
        except BrokenPipeError:
            raise HungUpError from None  # typer would make a plain 1 of it

    guarded.__name__, guarded.__doc__ = function.__name__, function.__doc__
    guarded.__signature__ = Signature([called, *own, *common])  # type: ignore[attr-defined]
    _registered[panel].append((name, guarded))


def _terminal(called: typer.Context, given: dict[str, Any]) -> Terminal:
    before: Everywhere = called.obj
    chosen = given.pop("store") or before.store
    return Terminal(
        chosen or _named("EVENTSTORE_PATH") or STORE_DEFAULT,
        json=given.pop("json") or before.json,
        chosen=chosen,
        keyring=given.pop("keyring") or before.keyring or _named("EVENTSTORE_KEYRING"),
        audit=given.pop("audit") or before.audit or _named("EVENTSTORE_AUDIT"),
    )


def _named(variable: str) -> Path | None:
    """Return the path in an environment variable, None where it is empty or unset."""
    text = os.environ.get(variable)
    return Path(text) if text else None


def _options(given: dict[str, Any]) -> Options:
    """Take the options of every mutation out of what was given."""
    expected = parse_expected(given.pop("expected"))
    return Options(
        expected=expected,
        key=given.pop("key"),
        actor=given.pop("actor"),
        correlation_id=given.pop("correlation_id"),
        causation_id=given.pop("causation_id"),
    )


def parse_expected(text: str | None) -> Expected | int:
    """Return what `--expected` means: a version, `any` or `none`."""
    if text is None or text == "any":
        return ANY
    if text == "none":
        return NO_STREAM
    number = parse_number(text)
    if number is not None:
        return number
    raise InvalidEvent(f"--expected takes a version, any or none, not {text!r}")


# -- how it ends -----------------------------------------------------------------------


def main() -> None:
    """Run the command line of this process; with nothing said, it is shown what can be."""
    gc.freeze()  # what is loaded stays: looking for garbage in it took a tenth of a short command
    complete_streams()
    said = sys.argv[1:]
    code = run(said or ["--help"])
    sys.exit(code if said else code or WRONG)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code."""
    try:
        line = command_line()
        code = line(list(arguments), prog_name="eventstore", standalone_mode=False)
        sys.stdout.flush()
    except (HungUpError, BrokenPipeError):
        hang_up()
        return HUNG_UP
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except (EventStoreError, UsageError, OSError) as error:
        if _is_full(error):
            hang_up()
        return fail(error, json="--json" in arguments)
    if code == INTERRUPTED:
        _say("interrupted")
    return code if isinstance(code, int) else FINE


def fail(error: Exception, *, json: bool) -> int:
    """Tell an error as one line on stderr; returns the exit code that goes with it."""
    text = " ".join(_text_of(error).split())
    if json:
        write_json({"error": type(error).__name__, "message": text, **_numbers(error)}, sys.stderr)
    else:
        _say(text)
    return NO if _is_answer(error) else WRONG


def _is_full(error: Exception) -> bool:
    """Return True where stdout takes no more; another file that is full has a name: written()."""
    return isinstance(error, OSError) and error.filename is None and error.errno in FULL


def _is_answer(error: Exception) -> bool:
    """Return True where the command was understood and could run, and the store says no."""
    if isinstance(error, SessionClosed):
        return True
    unasked = (InvalidEvent, StoreUnavailable)
    return isinstance(error, EventStoreError) and not isinstance(error, unasked)


def _text_of(error: Exception) -> str:
    if isinstance(error, UsageError):
        return f"{error.format_message().rstrip('.')}; see --help"  # type: ignore[attr-defined]
    if isinstance(error, OSError) and error.strerror:
        where = "stdout" if _is_full(error) else "the system"
        return f"{error.filename or where}: {error.strerror}"
    return as_typed(str(error), _typed())


@cache
def _typed() -> Typed:
    """Return how options and commands are typed."""
    commands: dict[str, Any] = command_line().commands  # type: ignore[attr-defined]
    options = {
        param.name: next(each for each in param.opts if each.startswith("--"))
        for each in commands.values()
        for param in each.params
        if param.param_type_name == "option"
    }
    return Typed(options, {name.replace("-", "_"): name for name in commands})


def _numbers(error: Exception) -> dict[str, object]:
    """Return what an error of the tree carries, as JSON has it."""
    if not isinstance(error, EventStoreError):
        return {}
    return {
        name: value if isinstance(value, (int, list, type(None))) else str(value)
        for name, value in vars(error).items()
    }


def _say(text: str) -> None:
    sys.stderr.write(f"eventstore: {text}\n")
