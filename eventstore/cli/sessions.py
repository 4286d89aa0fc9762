"""Commands of the sessions' door: what a model sees, what is pruned and cleaned up, templates.

Invariants: a plan is shown and nothing written until `--apply` is given; options win over the
environment and that over `--settings FILE`; looking writes no fact; what could not be done since a
session went on is told, with exit code 1.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from .. import InvalidEvent
from ..clock import when
from ..errors import counted
from ..sessions import Outcome, Plan, SessionManager, Settings, Template, Window
from ..sessions.cleanup import Cleanup, CleanupStatistics
from ..sessions.plans import ROWS_SHOWN_MAX, Refusal, Step
from ..sessions.tokens import token_counter
from .app import CARE, NO, READ, AtPosition, AtTime, AtVersion, Session, command
from .drawing import (
    ROLE_STYLES,
    Pen,
    bare,
    indented,
    listed,
    message_body,
    one_line,
    pairs,
    plain,
    printable,
    table,
)
from .terminal import Terminal, binary_stdout, write_json, write_lines
from .writes import parse_seconds

LOOK_SECONDS = 0.2
"""How often `cleanup --every` looks whether a round is done."""

NAME_WIDTH = 30

SettingsFile = Annotated[
    Path | None,
    typer.Option("--settings", metavar="FILE", help="Settings: a TOML, JSON or YAML file."),
]
Actor = Annotated[str | None, typer.Option(help="Who does it; else the user of this process.")]


# -- the manager -----------------------------------------------------------------------


def load_settings(terminal: Terminal, file: Path | None, **given: Any) -> Settings:
    """Return the settings; what was given as an option wins, and they may name the store."""
    settings = Settings.load(file, **_given(given))
    terminal.path = terminal.chosen or Path(settings.path)
    if terminal.keyring is None and settings.keyring is not None:
        terminal.keyring = Path(settings.keyring)
    return settings


@contextmanager
def managing(
    terminal: Terminal, settings: Settings, *, creates: bool = False
) -> Iterator[SessionManager]:
    """Open the store to write, as the settings say, and manage its sessions."""
    options = {
        "durability": settings.durability,
        "compression": settings.compression,
        "max_depth": settings.max_depth,
        "count_tokens": token_counter(settings.tokens),
    }
    with (
        terminal.writing(creates=creates, **options) as store,
        SessionManager(store, settings) as manager,
    ):
        yield manager


@contextmanager
def _looking(terminal: Terminal, settings: Settings) -> Iterator[SessionManager]:
    """Open the store to look; where it may be written, its views are kept."""
    with terminal.looking() as store, SessionManager(store, settings) as manager:
        yield manager


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


# -- what a model sees -----------------------------------------------------------------

_SHAPES = {"openai": Window.to_openai, "anthropic": Window.to_anthropic}
FORMATS = ("plain", *_SHAPES)


@command(READ)
def context(
    terminal: Terminal,
    session: Session,
    max_tokens: Annotated[
        int | None, typer.Option(help="The budget; else the session's token limit, if any.")
    ] = None,
    last: Annotated[int | None, typer.Option(help="Newest messages, at most.")] = None,
    summaries: Annotated[
        bool, typer.Option("--summaries/--no-summaries", help="With summaries.")
    ] = True,
    format: Annotated[  # noqa: A002
        str, typer.Option(metavar="NAME", help="plain, openai or anthropic.")
    ] = "plain",
    at_version: AtVersion = None,
    at_time: AtTime = None,
    at_position: AtPosition = None,
    settings: SettingsFile = None,
) -> None:
    """Show what a model sees of a session, now or at any past moment."""
    if format not in FORMATS:
        raise InvalidEvent(f"--format takes {', '.join(FORMATS)}, not {format!r}")
    chosen = load_settings(terminal, settings)
    with terminal.reading() as store, SessionManager(store, chosen) as manager:
        window = manager.build_context(
            session,
            max_tokens,
            last,
            include_summaries=summaries,
            at_version=at_version,
            at_position=at_position,
            at_time=at_time,
        )
    if format != "plain":
        _write_shape(terminal, _SHAPES[format](window))
        return
    terminal.answer(
        window.to_dict() if terminal.json else None, *_window_blocks(terminal.pen, window)
    )


def _write_shape(terminal: Terminal, document: object) -> None:
    """Write what a provider takes: one line for machines, indented for people."""
    if terminal.json:
        write_json(document)
        return
    out = binary_stdout()
    out.write(f"{indented(document)}\n".encode())
    out.flush()


def _window_blocks(pen: Pen, window: Window) -> list[RenderableType]:
    """Draw a window: how its tokens are spent, then its messages and why each is in it."""
    first, *lines = str(window).splitlines()
    spent = Text(no_wrap=True, overflow="ellipsis").append(f"{first}\n", "bold")
    spent.append("\n".join(lines))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(justify="right", style="dim", no_wrap=True)
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    for each in window.chosen:
        role = each.message.role or "-"
        speaker = Text(pen.line(each.message.name or role, 12), ROLE_STYLES.get(role, "blue"))
        grid.add_row(f"{each.tokens:,}", each.why, speaker, message_body(each.message))
    return [spent, "", grid]


# -- pruning ---------------------------------------------------------------------------


@command(CARE)
def prune_sessions(
    terminal: Terminal,
    strategy: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="lru, lfu, ttl, size or semantic: what goes first."),
    ] = None,
    max_sessions: Annotated[int | None, typer.Option(help="Sessions to keep.")] = None,
    max_messages: Annotated[int | None, typer.Option(help="Messages to keep, of all.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Tokens to keep, of all.")] = None,
    similarity: Annotated[
        float | None, typer.Option(help="How alike near-duplicates are, 0 to 1 (semantic).")
    ] = None,
    then: Annotated[
        str | None, typer.Option(metavar="NAME", help="archive or delete what goes.")
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; else it is only shown.")] = False,
    actor: Actor = None,
    settings: SettingsFile = None,
) -> None:
    """Plan which sessions or near-duplicate messages go and why; --apply lets them go."""
    chosen = load_settings(terminal, settings, strategy=strategy)
    keep = {"max_sessions": max_sessions, "max_messages": max_messages, "max_tokens": max_tokens}
    limits = _given({**keep, "similarity": similarity, "then": then})
    _check_limits(chosen, limits)
    opened = managing if apply else _looking
    with opened(terminal, chosen) as manager:
        with terminal.progress("planning"):
            plan = manager.plan_pruning(**limits)
        if not apply:
            terminal.answer(plan.to_dict(), *_plan_blocks(terminal.pen, plan))
            return
        with terminal.progress("pruning"):
            outcome = plan.apply(manager.store, actor=actor)
    document = outcome.to_dict() | {"remarks": plan.remarks}
    terminal.answer(document, *_outcome_blocks(terminal.pen, outcome), *_remarks(plan.remarks))
    if outcome.refused:
        raise typer.Exit(NO)


def _check_limits(settings: Settings, limits: dict[str, Any]) -> None:
    """Raise InvalidEvent where a strategy would have nothing to go by."""
    standing = settings.max_sessions, settings.max_messages_total
    named = any(name.startswith("max_") for name in limits) or any(standing)
    if settings.strategy in ("lru", "lfu", "size") and not named:
        raise InvalidEvent(
            f"strategy {settings.strategy!r} needs a limit: --max-sessions, --max-messages or "
            f"--max-tokens"
        )


def _plan_blocks(pen: Pen, plan: Plan) -> list[RenderableType]:
    """Draw a plan: what goes, why, and what comes back."""
    if not plan.steps:
        return [Text("nothing to go", "dim"), *_remarks(plan.remarks)]
    told = Text.assemble(("to go: ", "bold"), _totals(plan.steps))
    note = Text("only a plan: --apply does it", "dim")
    return [*_steps_blocks(pen, plan.steps), *_remarks(plan.remarks), told, note]


def _outcome_blocks(pen: Pen, outcome: Outcome) -> list[RenderableType]:
    """Draw what became of steps."""
    blocks = _steps_blocks(pen, outcome.done)
    mark = ("✓ ", "green") if outcome.done else ("= ", "yellow")
    blocks.append(Text.assemble(mark, _totals(outcome.done)))
    if outcome.repeated:
        blocks.append(Text(f"{outcome.repeated:,} of these had been done before", "dim"))
    return blocks + _refusals(outcome.refused)


def _steps_blocks(pen: Pen, steps: Sequence[Step]) -> list[RenderableType]:
    """Draw steps as a table, of a long list the beginning."""
    if not steps:
        return []
    rows = [row for step in steps for row in _rows(pen, step)]
    columns = ("session", "what", "messages", "tokens", "why")
    drawn = table(*columns, numbers=("messages", "tokens"))
    drawn.columns[0].no_wrap = drawn.columns[1].no_wrap = True
    for row in rows[:ROWS_SHOWN_MAX]:
        drawn.add_row(*row)
    if len(rows) <= ROWS_SHOWN_MAX:
        return [drawn]
    return [drawn, Text(f"and {len(rows) - ROWS_SHOWN_MAX:,} more rows; --json has all", "dim")]


def _rows(pen: Pen, step: Step) -> Iterator[tuple[RenderableType, ...]]:
    """Draw a step, and below it the messages that have reasons of their own."""
    name = Text(pen.name(step.session, NAME_WIDTH), "bold")
    yield name, step.action, f"{step.messages:,}", f"{step.tokens:,}", plain(step.why)
    for drop in step.drops:
        if drop.why != step.why:
            message, why = _in(step.session, drop.message), drop.why
            if drop.of is not None:
                why = f"says what {_in(step.session, drop.of)} says ({drop.similarity or 0:.2f})"
            cells = "", "", f"{drop.tokens:,}", plain(why, "dim")
            yield Text(f"  {pen.name(message, NAME_WIDTH - 2)}", "dim"), *cells


def _in(session: str, message: str) -> str:
    """Return a message's id as it is told inside its session: an own one by its version."""
    return message.removeprefix(session) if message.startswith(f"{session}#") else message


def _totals(steps: Iterable[Step]) -> str:
    """Return what goes in all, and the messages and tokens that come back."""
    steps = [*steps]
    if not steps:
        return "nothing done"
    actions = Counter(step.action for step in steps)
    told = ", ".join(f"{action} {counted(count, 'session')}" for action, count in actions.items())
    return f"{told}; {_back(sum(s.messages for s in steps), sum(s.tokens for s in steps))}"


def _back(messages: int, tokens: int) -> str:
    return f"{counted(messages, 'message')}, {counted(tokens, 'token')} come back"


def _refusals(refused: Sequence[Refusal]) -> list[RenderableType]:
    lines: list[RenderableType] = [
        plain(f"✗ {each.action} {each.session}: {one_line(each.why, len(each.why) + 1)}", "red")
        for each in islice(refused, ROWS_SHOWN_MAX)
    ]
    if len(refused) > ROWS_SHOWN_MAX:
        lines.append(Text(f"and {len(refused) - ROWS_SHOWN_MAX:,} more", "red"))
    return lines


def _remarks(remarks: Iterable[str]) -> list[RenderableType]:
    return [plain(remark, "yellow") for remark in remarks]


# -- cleanup ---------------------------------------------------------------------------


@command(CARE)
def cleanup(
    terminal: Terminal,
    every: Annotated[
        float | None,
        typer.Option(
            metavar="TIME",
            parser=parse_seconds,
            help="Go on, a round every 90, 30m or 12h, until Ctrl-C.",
        ),
    ] = None,
    expired: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="delete, close or archive expired sessions."),
    ] = None,
    inactive_after: Annotated[
        float | None,
        typer.Option(
            metavar="TIME", parser=parse_seconds, help="Close what is unused that long: 30m, 7d."
        ),
    ] = None,
    settings: SettingsFile = None,
) -> None:
    """End expired and inactive sessions and apply the limits of the settings, one round."""
    chosen = load_settings(
        terminal,
        settings,
        expired=expired,
        inactive_after=inactive_after,
        cleanup_interval=every,
    )
    with managing(terminal, chosen) as manager:
        if every is not None:
            _go_on(terminal, manager.cleaner)
            return
        with terminal.progress("cleaning up"):
            outcome = manager.cleanup()
    terminal.answer(outcome.to_dict(), *_outcome_blocks(terminal.pen, outcome))
    if outcome.refused:
        raise typer.Exit(NO)


def _go_on(terminal: Terminal, cleaner: Cleanup) -> None:
    """Clean up round after round, and tell each, until this is interrupted or the store closes."""
    told = cleaner.statistics
    cleaner.start()
    try:
        while cleaner.running:
            told = _tell_rounds(terminal, told, cleaner.statistics)
            time.sleep(LOOK_SECONDS)
    finally:
        cleaner.stop()  # after the session at hand
        _tell_rounds(terminal, told, cleaner.statistics)


def _tell_rounds(
    terminal: Terminal, before: CleanupStatistics, now: CleanupStatistics
) -> CleanupStatistics:
    """Tell what was done since, if anything ended; return what is told now."""
    if now.rounds == before.rounds:
        return before
    parts = {
        name: getattr(now, name) - getattr(before, name)
        for name in ("expired", "inactive", "refused", "broken")
    }
    counts = ", ".join(f"{count:,} {name}" for name, count in parts.items() if count)
    back = _back(now.messages - before.messages, now.tokens - before.tokens)
    line = Text.assemble((f"{when(now.last_at or 0)}  ", "dim"), f"{counts or 'nothing'}; {back}")
    failed = parts["refused"] + parts["broken"]
    terminal.answer(now.to_dict(), line, *_refusals(now.failures[-failed:] if failed else []))
    return now


# -- templates -------------------------------------------------------------------------


@command(READ)
def templates(
    terminal: Terminal,
    name: Annotated[str | None, typer.Argument(help="Show this one; else list all.")] = None,
    settings: SettingsFile = None,
) -> None:
    """List what sessions can be made from, presets and templates, or show one."""
    chosen = load_settings(terminal, settings)
    with _looking(terminal, chosen) as manager:
        found = manager.templates() if name is None else [manager.template(name)]
    if name is not None:
        terminal.answer(found[0].to_dict(), *_template_blocks(terminal.pen, found[0]))
    elif terminal.json:
        write_lines(each.to_dict() for each in found)
    else:
        terminal.draw(_templates_table(terminal.pen, found))


def _templates_table(pen: Pen, found: Iterable[Template]) -> Table:
    drawn = table("template", "messages", "what", numbers=("messages",))
    for each in found:
        name = Text(pen.name(each.name, NAME_WIDTH), "bold")
        drawn.add_row(name, f"{len(each.messages):,}", plain(each.description or _limits(each)))
    return drawn


def _template_blocks(pen: Pen, template: Template) -> list[RenderableType]:
    """Draw all that a session made from it begins with."""
    rows: list[tuple[str, RenderableType]] = [
        ("template", Text(printable(template.name), "bold")),
    ]
    told = {"what": template.description, "limits": _limits(template)}
    rows += [(name, plain(text)) for name, text in told.items() if text]
    for name, values in (("metadata", template.metadata), ("context", template.context)):
        if values:
            rows.append((name, plain(listed(values))))
    for fields in template.messages:
        role = fields.get("role")
        rows.append((pen.line(str(role or "-"), 12), plain(bare(fields.get("content")))))
    return [pairs(rows)]


def _limits(template: Template) -> str:
    names = ("ttl", "token_limit", "max_messages", "max_bytes")
    found = {name: getattr(template, name) for name in names}
    return ", ".join(f"{name} {value:,.10g}" for name, value in found.items() if value is not None)
