"""Print a report: Markdown on pipes and in files, tables with aligned columns on a terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from xplain.cli._console import print_lines

if TYPE_CHECKING:
    from rich.table import Table

CELL_BORDER = re.compile(r"(?<!\\)\|")
NUMBER = re.compile(r"[-+]?\d[\d.e+-]*( .*)?$")  # or a number with an interval


def print_report(markdown: str) -> bool:
    """Print Markdown text with tables. Returns and raises as ``print_lines``.

    On a terminal, tables get aligned columns that fit its width, and other lines stay as they are.
    """
    if not sys.stdout.isatty():
        return print_lines(markdown.removesuffix("\n"))
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for lines in _split_blocks(markdown.removesuffix("\n").split("\n")):
        if _is_row(lines[0]):
            console.print(_make_table(lines))
        else:
            console.print(Text("\n".join(lines).replace("**", "")))
    return True


def _is_row(line: str) -> bool:
    return line.startswith("|")


def _split_blocks(lines: Sequence[str]) -> Iterator[list[str]]:
    """Yield the tables, and the lines between them."""
    block: list[str] = []
    for line in lines:
        if block and _is_row(line) != _is_row(block[0]):
            yield block
            block = []
        block.append(line)
    if block:
        yield block


def _make_table(lines: Sequence[str]) -> Table:
    """Return a table of Markdown rows without empty columns. Columns of numbers are aligned at the right."""
    from rich.table import Table
    from rich.text import Text

    header, _, *rows = [_split_cells(line) for line in lines]
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    filled = [index for index in range(len(header)) if any(row[index] for row in rows)]
    for index in filled:
        is_numeric = all(NUMBER.match(row[index]) for row in rows if row[index])
        table.add_column(Text(header[index]), justify="right" if is_numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[index]) for index in filled))
    return table


def _split_cells(line: str) -> list[str]:
    """Return the cells of a Markdown row as plain text."""
    return [cell.strip().replace("\\|", "|") for cell in CELL_BORDER.split(line)[1:-1]]
