"""Drawings as lines, for whatever reads a command that is no screen: grep, a file, a log.

Invariants: nothing is cut or wrapped; a row of a table is one line, and one more for each line
break in its cells, without blanks at its end; columns stand below each other as far as PAD_MAX.
"""

from collections.abc import Iterator
from itertools import zip_longest

from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text

from .drawing import whole

PAD_MAX = 40
"""A column is made as wide as this for its longer cells; these themselves just go on."""


def lines(drawn: RenderableType) -> Iterator[RenderableType]:
    """Iterate over what is to be printed, one line each but for trees, which draw themselves."""
    if isinstance(drawn, Table):
        yield from _rows(drawn)
    else:
        yield whole(drawn) if isinstance(drawn, Text) else drawn


def _rows(table: Table) -> Iterator[Text]:
    columns = table.columns
    rows = list(zip(*([_text(cell) for cell in column.cells] for column in columns), strict=True))
    if table.show_header:
        rows.insert(0, tuple(Text(str(column.header), "dim") for column in columns))
    widths = [max((_width(row[each]) for row in rows), default=0) for each in range(len(columns))]
    for row in rows:
        cells = [cell.split("\n", allow_blank=True) for cell in row]
        for line in zip_longest(*cells, fillvalue=Text()):
            yield _line(line, columns, widths, max(table.padding))


def _text(cell: RenderableType) -> Text:
    """Return the text of a cell; what is no text of its own is plain, and no markup."""
    return cell.copy() if isinstance(cell, Text) else Text(str(cell))


def _width(cell: Text) -> int:
    lengths = (line.cell_len for line in cell.split("\n", allow_blank=True))
    return min(max(lengths, default=0), PAD_MAX)


def _line(cells: tuple[Text, ...], columns: list[Column], widths: list[int], gap: int) -> Text:
    line = Text()
    for cell, column, width in zip(cells, columns, widths, strict=True):
        blank = " " * max(width - cell.cell_len, 0)
        before, after = (blank, "") if column.justify == "right" else ("", blank)
        line.append(before).append_text(cell).append(after + " " * gap)
    line.rstrip()
    return whole(line)
