"""Views as drawings: lists of sessions, branch trees, comparisons, origins.

Invariants: nothing here reads or writes; names and texts are made printable; 80 columns are
enough.
"""

from collections.abc import Iterable, Mapping, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from projections import Blame, BranchTree, CatalogRow, Change, Diff, Merge, Origin

from .. import Message
from ..errors import counted
from ..sessions import Hit
from .drawing import ROLE_STYLES, STATUS_STYLES, Pen, bare, cut, plain, said, table

NAME_WIDTH = 30
NAME_WIDTH_MIN = 12
"""What a list leaves of a name at least, however narrow the terminal."""
OMITTED = ("tokens", "messages", "updated")
"""What a list goes without where there is no room, first things first."""
GAP = 2
"""Between two columns."""
MESSAGES_SHOWN_MAX = 20
"""Messages that a comparison prints of each side; all of them with --json."""


def sessions_table(pen: Pen, rows: Iterable[CatalogRow], width: int, now: int) -> Table:
    """Draw a list of sessions, one a line of `width`: names are whole where there is room."""
    lines = [(row, _cells(pen, row, now)) for row in rows]
    widths = {
        head: max([len(head), *(len(cells[head]) for _, cells in lines)]) + GAP
        for head in ("status", "messages", "tokens", "updated")
    }
    for head in OMITTED:
        if _room(width, widths) < NAME_WIDTH_MIN:
            del widths[head]
    room = max(_room(width, widths), NAME_WIDTH_MIN)
    drawn = table("session", *widths, numbers=("messages", "tokens"))
    for column in drawn.columns[1:]:
        column.no_wrap = True
    for row, cells in lines:
        drawn.add_row(_listed(pen, row, room), *(cells[head] for head in widths))
    return drawn


def hits_table(pen: Pen, found: Iterable[Hit]) -> Table:
    """Draw where a text stands: in a message, by its id, or in the metadata."""
    drawn = table("session", "place", "what")
    for each in found:
        place = f"metadata.{each.key}" if each.message is None else each.message.id
        role = each.message.role if each.message is not None else None
        what = Text(f"{pen.line(role, 12)}: " if role else "", ROLE_STYLES.get(role or "", "blue"))
        drawn.add_row(
            Text(pen.name(each.session, NAME_WIDTH), "bold"),
            Text(pen.name(place, NAME_WIDTH), "cyan"),
            what.append(plain(each.excerpt, "default")),
        )
    return drawn


def _room(width: int, widths: Mapping[str, int]) -> int:
    """Return what other columns leave of a line for names."""
    return width - sum(widths.values())


def _listed(pen: Pen, row: CatalogRow, room: int) -> Text:
    name = Text.assemble((pen.name(row.session, room), "bold"))
    if row.parent is not None:
        name.append(f"{pen.below('└ of')} {pen.name(row.parent, room - 5)}", "dim")
    return name


def _cells(pen: Pen, row: CatalogRow, now: int) -> dict[str, Text]:
    """Return what a list says of a session besides its name."""
    over = row.status == "active" and row.expires_at is not None and row.expires_at <= now
    status = "expired" if over else row.status
    return {
        "status": Text(status, STATUS_STYLES.get(status, "")),
        "messages": Text(f"{row.messages:,}"),
        "tokens": Text(f"{row.tokens:,}"),
        "updated": Text(pen.time(row.updated_at, 0, 16), "dim"),
    }


# -- branch trees ----------------------------------------------------------------------


def tree_drawing(pen: Pen, found: BranchTree, root: str, here: str | None = None) -> Tree:
    """Draw one tree; `here` is the session that was asked about."""
    drawn = Tree(_node(pen, found, root, here), guide_style="dim")
    _grow(pen, found, root, drawn, here)
    return drawn


def _grow(pen: Pen, found: BranchTree, session: str, drawn: Tree, here: str | None) -> None:
    for child in found.children(session):
        _grow(pen, found, child, drawn.add(_node(pen, found, child, here)), here)


def _node(pen: Pen, found: BranchTree, session: str, here: str | None) -> Text:
    node = found.nodes[session]
    label = Text.assemble(
        (pen.name(session, NAME_WIDTH), "bold cyan" if session == here else "bold")
    )
    label.append(f"  {counted(node.messages, 'message')}", "dim")
    if node.status != "active":
        label.append(f"  {node.status}", STATUS_STYLES.get(node.status, ""))
    if node.at_version is not None:
        name = f"“{pen.line(node.name, NAME_WIDTH)}”, " if node.name else ""
        label.append(f"\n{name}from version {node.at_version}", "dim")
    for merge in found.merges:
        if merge.source == session:
            label.append(_merged(pen, merge), "green")
    return label


def _merged(pen: Pen, merge: Merge) -> str:
    into = pen.name(merge.into, NAME_WIDTH)
    return f"\n↳ merged into {into} at version {merge.into_version}, by {merge.strategy}"


# -- comparisons -----------------------------------------------------------------------


def diff_blocks(pen: Pen, found: Diff) -> list[RenderableType]:
    """Draw a comparison: what both share, then what each has alone."""
    a, b = (f"{pen.name(session, NAME_WIDTH)}@{version}" for session, version in (found.a, found.b))
    shared = f"{counted(found.common, 'message')} in common at the start, {found.shared:,} in all"
    blocks: list[RenderableType] = [
        Text(f"--- {a}", "red"),
        Text(f"+++ {b}", "green"),
        Text(shared, "dim"),
    ]
    blocks += _side(pen, "-", "red", found.only_a) + _side(pen, "+", "green", found.only_b)
    for name, changes in (("metadata", found.metadata), ("context", found.context)):
        blocks += [_change(pen, f"{name}.{key}", change) for key, change in changes.items()]
    if found.status[0] != found.status[1]:
        blocks.append(_change(pen, "status", Change(*found.status)))
    if found.same:
        blocks.append(Text("no difference", "dim"))
    return blocks


def _side(pen: Pen, sign: str, style: str, messages: Sequence[Message]) -> list[RenderableType]:
    lines: list[RenderableType] = [
        cut(Text.assemble((f"{sign} ", style), said(pen, message)))
        for message in messages[:MESSAGES_SHOWN_MAX]
    ]
    if len(messages) > MESSAGES_SHOWN_MAX:
        lines.append(Text(f"{sign} … {len(messages) - MESSAGES_SHOWN_MAX:,} more", style))
    return lines


def _change(pen: Pen, name: str, change: Change) -> Text:
    before, after = plain(bare(change.a), "red"), plain(bare(change.b), "green")
    return Text.assemble((f"~ {pen.line(name, NAME_WIDTH)}: ", "yellow"), before, " → ", after)


# -- origins ---------------------------------------------------------------------------


def blame_table(pen: Pen, found: Blame) -> Table:
    """Draw what a session shows beside the facts it comes from."""
    drawn = table("what", "fact", "by")
    drawn.columns[0].ratio, drawn.columns[0].no_wrap = 1, True
    drawn.columns[0].overflow, drawn.expand = "ellipsis", True
    for each in found.messages:
        drawn.add_row(said(pen, each.message), *_origin(pen, each.origin, each.merge))
    for name, origins in (("metadata", found.metadata), ("context", found.context)):
        for key, origin in origins.items():
            drawn.add_row(
                Text(f"{name}.{pen.line(key, NAME_WIDTH)}", "yellow"), *_origin(pen, origin)
            )
    return drawn


def _origin(pen: Pen, origin: Origin, merge: Origin | None = None) -> tuple[Text, Text]:
    place = Text.assemble((f"{pen.name(origin.session, 16)}@{origin.version}", "cyan"))
    place.append(f"  {pen.time(origin.recorded_at, 5, 16)}", "dim")
    if merge is not None:
        by = f"{pen.name(merge.session, 16)}@{merge.version}"
        place.append(f"{pen.below('↳ by merge at')} {by}", "green")
    return place, Text(pen.line(origin.actor or "-", 16), "dim")
