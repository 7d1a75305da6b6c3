"""Lines and tables that fit the terminal: beside each other where there is room, else stacked."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Protocol

from pytest_unlearn.reports.breakdown import aligned

# Of a file or a pipe nobody knows the width, and its reader can scroll: only what was named
# (COLUMNS) and is less than this is kept there.
_USUAL = 80


class Writer(Protocol):
    """What pytest's terminal reporter can do."""

    def write(self, content: str, **markup: bool) -> None:
        """Write a text."""

    def write_line(self, line: str, **markup: bool) -> None:
        """Write a line."""


class Screen:
    """Writes to a terminal (`tty`), or a file; `width` is None where it does not matter."""

    def __init__(self, writer: Writer, tty: bool) -> None:
        self._writer = writer
        columns = shutil.get_terminal_size((_USUAL, 24)).columns
        self.width = columns if tty or columns < _USUAL else None

    def line(self, text: str = "", **markup: bool) -> None:
        """Write a line, broken between words where it is too long."""
        if self.width is None or len(text) <= self.width:
            self._writer.write_line(text, **markup)
            return
        indent = "  " if self.width > 20 else ""
        parts = textwrap.wrap(
            text,
            self.width,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for part in parts:
            self._writer.write_line(part, **markup)

    def table(self, table: Sequence[Sequence[str]], colours: Sequence[str] = ()) -> None:
        """Write a table whose first row is its head; the last cell of each other row takes its
        colour."""
        lines = aligned(table)
        if self.width is not None and max(map(len, lines)) > self.width:
            for line, colour in self._stacked(table, colours):
                self.line(line, **({colour: True} if colour else {}))
            return
        for number, (row, line) in enumerate(zip(table, lines, strict=True)):
            if number and colours:
                self._writer.write(line.removesuffix(row[-1]))
                self._writer.write_line(row[-1], **{colours[number - 1]: True})
            else:
                self._writer.write_line(line)

    def _stacked(
        self, table: Sequence[Sequence[str]], colours: Sequence[str]
    ) -> Iterator[tuple[str, str]]:
        """Yield each row as a block, a line a cell, with the last line's colour."""
        head, *rows = table
        space = max(map(len, head[1:]), default=0)
        for number, row in enumerate(rows):
            yield f"{head[0]} {row[0]}", ""
            for name, cell in zip(head[1:-1], row[1:-1], strict=True):
                yield f"  {name.ljust(space)}  {cell}".rstrip(), ""
            colour = colours[number] if colours else ""
            yield f"  {head[-1].ljust(space)}  {row[-1]}".rstrip(), colour
