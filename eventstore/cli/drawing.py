"""How things look in a terminal: times, sizes, messages, events, bars and sparklines.

Invariants: nothing here reads or writes; what came from a store is made printable, so that no
message can move the cursor, and is never taken for markup; everything fits into 80 columns where
the pen draws for a screen, and nothing is cut where it does not.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from .. import Message, Receipt, Recorded
from .. import events as ev
from ..clock import when
from ..errors import counted
from ..events import AnyEvent
from ..state.header import SessionHeader

Thing = TypeVar("Thing")

ROLE_STYLES = {
    "user": "cyan",
    "assistant": "green",
    "system": "yellow",
    "developer": "yellow",
    "tool": "magenta",
    "function": "magenta",
}
STATUS_STYLES = {
    "active": "green",
    "expired": "yellow",
    "closed": "yellow",
    "archived": "dim",
    "deleted": "red",
}

LINE_CHARACTERS_MAX = 400
"""How much of a text goes into a drawing that has one line for it."""

_UNITS = ("B", "kB", "MB", "GB", "TB")

_MOVERS = {*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
_PRINTABLE = dict.fromkeys(_MOVERS - {ord("\n"), ord("\t")}, "\ufffd")
"""Controls and direction overrides become a visible mark."""
_ESCAPED = {code: f"\\u{code:04x}" for code in _PRINTABLE}


# -- words and numbers -----------------------------------------------------------------


def printable(text: str) -> str:
    """Return text that can't command a terminal."""
    return text.replace("\r\n", "\n").translate(_PRINTABLE)


def indented(document: object) -> str:
    """Return JSON for people: the same document, with nothing in it that commands a terminal."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return text.translate(_ESCAPED)


def plain(text: str, style: str = "") -> Text:
    """Return text out of a store, ready to print: no markup, no controls."""
    return Text(printable(text), style)


def one_line(text: str, width: int) -> str:
    """Return the text on one line, cut to `width` characters."""
    line = " ".join(printable(text).split())
    return line if len(line) <= width else line[: width - 1] + "…"


class Pen(NamedTuple):
    """What drawings are made with: for a `screen` it cuts what is too long, else nothing."""

    screen: bool

    def line(self, text: str, width: int) -> str:
        """Return the text on one line, on a screen cut to `width` characters."""
        return one_line(text, width if self.screen else len(text))

    def name(self, name: str, width: int) -> str:
        """Return a name, on a screen cut in its middle to `width` characters."""
        return short_name(name, width if self.screen else len(name))

    def most(self, ranked: Sequence[Thing], count: int) -> Sequence[Thing]:
        """Return the first of a ranking, on a screen `count` at most."""
        return ranked[:count] if self.screen else ranked

    def time(self, ns: int, start: int, stop: int) -> str:
        """Return a time, UTC; on a screen the part of it that there is room for."""
        return when(ns)[start:stop] if self.screen else when(ns)

    def below(self, mark: str) -> str:
        """Return what leads to a remark: on a screen a line of its own, else the same line."""
        return f"\n{mark}" if self.screen else f"  {mark}"


def cut(line: Text) -> Text:
    """Let a line end with the terminal's instead of going on below."""
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def whole(line: Text) -> Text:
    """Let a line be longer than the terminal, which goes on below: what is copied has no break."""
    line.no_wrap, line.overflow = True, "ignore"
    return line


def short_name(name: str, width: int) -> str:
    """Return a name cut in its middle: what tells names apart is at either end."""
    line = one_line(name, len(name) + 1)
    head = (width - 1) * 2 // 3
    return line if len(line) <= width else f"{line[:head]}…{line[head + 1 - width :]}"


def size(count: float) -> str:
    """Return a number of bytes as people read it: 1.4 MB."""
    step = min(int(math.log10(count)) // 3, len(_UNITS) - 1) if count >= 1 else 0
    return f"{count:.0f} B" if step == 0 else f"{count / 1_000**step:.1f} {_UNITS[step]}"


def bare(value: object) -> str:
    """Return a JSON value as people read it: text bare, all else compact JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def listed(values: Mapping[str, object]) -> str:
    """Return values behind their names, on one line."""
    return ", ".join(f"{name}: {bare(value)}" for name, value in values.items())


# -- tables ----------------------------------------------------------------------------


def table(*columns: str, numbers: Sequence[str] = ()) -> Table:
    """Return an empty table; the columns named in `numbers` are set right."""
    made = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        if column in numbers:
            made.add_column(column, justify="right", no_wrap=True)
        else:
            made.add_column(column, overflow="fold")
    return made


def pairs(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    """Return names and values, one pair a line."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(name, value)
    return grid


def done(told: str) -> Text:
    """Draw what was done; it may name files, so the line has no break."""
    return whole(Text.assemble(("✓ ", "green"), plain(told)))


def receipt_line(receipt: Receipt) -> Text:
    """Draw the receipt of a command."""
    mark = ("= ", "yellow") if receipt.duplicate else ("✓ ", "green")
    line = Text.assemble(mark, (printable(receipt.session), "bold"))
    first, last = receipt.first_version, receipt.version
    versions = f"version {last}" if first == last else f"versions {first}-{last}"
    line.append(f"  {versions}, position {receipt.position}, {when(receipt.recorded_at)}", "dim")
    if receipt.duplicate:
        line.append("  (was there already)", "yellow")
    return whole(line)


# -- messages and state ----------------------------------------------------------------


def header_block(header: SessionHeader, newest: int, now: int) -> Table:
    """Draw what a session is at one moment; `newest` is the version it has `now`."""
    title = Text.assemble((printable(header.session), "bold"))
    title.append(f"  {header.status}", STATUS_STYLES.get(header.status, ""))
    rows: list[tuple[str, RenderableType]] = [
        ("session", title),
        ("version", f"{header.version} of {newest}, position {header.position}"),
        ("holds", f"{counted(header.messages, 'message')}, {counted(header.tokens, 'token')}"),
        ("created", when(header.created_at)),
        ("updated", when(header.updated_at)),
    ]
    if header.parent is not None:
        rows.append(("branch of", plain(f"{header.parent} at version {header.at_version}")))
    told = {name: getattr(header, name) for name in ("name", "description", "user", "template")}
    rows += [(name, plain(text)) for name, text in told.items() if text]
    if header.expires_at is not None:
        word = "expires" if header.expires_at > now else "expired"
        rows.append((word, when(header.expires_at)))
    for name, values in (("metadata", header.metadata), ("context", header.context)):
        if values:
            rows.append((name, plain(listed(values))))
    return pairs(rows)


def transcript_grid(pen: Pen, lines: Iterable[tuple[str, Message]]) -> Table:
    """Draw messages, each with the place it can be named by."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(justify="right", style="dim", no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    for place, message in lines:
        role = message.role or "-"
        style = ROLE_STYLES.get(role, "blue")
        grid.add_row(
            Text(place), Text(pen.line(message.name or role, 12), style), message_body(message)
        )
    return grid


def said(pen: Pen, message: Message) -> Text:
    """Draw on one line who said what, and which tools were called."""
    role = (f"{pen.line(message.role or '-', 12)}: ", ROLE_STYLES.get(message.role, "blue"))
    calls = " ".join(f"→ {call}" for call in _calls(message))
    text = pen.line(message.text, LINE_CHARACTERS_MAX)
    gap = " " if text and calls else ""
    return Text.assemble(role, text, gap, (pen.line(calls, LINE_CHARACTERS_MAX), "magenta"))


def message_body(message: Message) -> Text:
    """Draw what a message says and which tools it calls."""
    covers = message.metadata.get("summary")
    body = plain(message.text, "italic yellow" if covers else "")
    for call in _calls(message):
        body.append(("\n" if body else "") + f"→ {printable(call)}", "magenta")
    if not body and message.content is not None:
        body = plain(bare(message.content), "dim")
    return body


def _calls(message: Message) -> list[str]:
    parts = message.content if isinstance(message.content, list) else []
    calls = message.tool_calls if isinstance(message.tool_calls, list) else []
    made = [(p.get("name"), p.get("input")) for p in parts if _is(p, "tool_use")]
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            made.append((function.get("name"), function.get("arguments")))
    return [f"{name}({bare(arguments)})" for name, arguments in made]


def _is(part: object, kind: str) -> bool:
    return isinstance(part, dict) and part.get("type") == kind


# -- events ----------------------------------------------------------------------------

_EVENT_STYLES = {
    ev.BranchCreated: "cyan",
    ev.BranchMerged: "cyan",
    ev.MessagesPruned: "yellow",
    ev.HistorySummarized: "yellow",
    ev.SessionRewound: "yellow",
    ev.ErrorRecorded: "red",
    ev.SessionDeleted: "red",
}


def events_table() -> Table:
    """Return the empty table that event_row() fills: one line a fact."""
    made = table("position", "time", "fact", "what", numbers=("position",))
    for column in made.columns:
        column.no_wrap = True
    made.columns[3].overflow = "ellipsis"
    made.columns[3].ratio = 1
    made.expand = True
    return made


def event_row(pen: Pen, recorded: Recorded) -> tuple[RenderableType, ...]:
    """Draw one event as the cells of a row."""
    time = Text(pen.time(recorded.recorded_at, 5, 19), "dim")
    return str(recorded.position), time, _place(pen, recorded), told(pen, recorded)


def event_line(pen: Pen, recorded: Recorded) -> Text:
    """Draw one event as a line by itself, for following."""
    lead = f"{recorded.position:>7}  {pen.time(recorded.recorded_at, 11, 19)}  "
    return cut(Text.assemble((lead, "dim"), _place(pen, recorded), "  ", told(pen, recorded)))


def _place(pen: Pen, recorded: Recorded) -> Text:
    return Text(f"{pen.name(recorded.session, 20)}@{recorded.version}", "cyan")


def told(pen: Pen, recorded: Recorded) -> Text:
    """Draw what a fact says: of a message who said what, else its type and its gist."""
    if recorded.erased:
        return Text.assemble((recorded.type, "dim"), "  ", ("redacted or erased", "dim italic"))
    event = recorded.event
    if isinstance(event, ev.MessageAppended):
        return said(pen, event.message)
    kind = (type(event).__name__, _EVENT_STYLES.get(type(event), "blue"))
    what = pen.line(gist(event), LINE_CHARACTERS_MAX)
    return Text.assemble(kind, f"  {what}" if what else "")


def gist(event: AnyEvent) -> str:
    """Return what an event says, in a few words."""
    told = _GISTS.get(type(event))
    if told is not None:
        return str(told(event))
    fields = msgspec.to_builtins(event)
    told = {k: when(v) if k == "expires_at" and v else v for k, v in fields.items()}
    return listed({k: v for k, v in told.items() if k != "type"})


_GISTS: dict[type, Any] = {
    ev.MessagesPruned: lambda e: f"{counted(e.count, 'message')} hidden  {e.reason or ''}",
    ev.HistorySummarized: lambda e: f"{e.count:,} as one: {e.summary.get('content')}",
    ev.EraseRequested: lambda e: e.reason or "",
    ev.KeyShredded: lambda e: e.reason or "",
    ev.SessionRewound: lambda e: f"to version {e.to_version}",
    ev.BranchCreated: lambda e: f"of {e.parent} at version {e.at_version}",
    ev.BranchMerged: lambda e: f"{e.source}@{e.source_version} into {e.into}, by {e.strategy}",
    ev.ContextSet: lambda e: f"{e.key} = {bare(e.value)}",
    ev.MetadataUpdated: lambda e: bare(e.patch),
    ev.Custom: lambda e: f"{e.name} {bare(e.data)}",
}
