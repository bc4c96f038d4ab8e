"""Text tables with columns of fixed width."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
      title: text in the header.
      width: width in characters. A longer text shifts the rest of its line.
      right: whether texts are right-aligned, for example numbers.
    """

    title: str
    width: int
    right: bool = False

    def cell(self, text: str) -> str:
        return text.rjust(self.width) if self.right else text.ljust(self.width)


@dataclass(frozen=True)
class TextTable:
    """A header and lines. Lines may be printed one at a time.

    Attributes:
      columns: the columns, from left to right.
      gap: text between two columns.
    """

    columns: tuple[Column, ...]
    gap: str = " "

    @property
    def header(self) -> str:
        return self.line([column.title for column in self.columns])

    def line(self, texts: Collection[str]) -> str:
        """Returns a line with one text for each column."""
        cells = [column.cell(text) for column, text in zip(self.columns, texts, strict=True)]
        return self.gap.join(cells).rstrip()

    def text(self, lines: Iterable[Collection[str]]) -> str:
        """Returns the header and the lines."""
        return "\n".join([self.header, *map(self.line, lines)])
