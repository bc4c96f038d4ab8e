"""Tables of columns of fixed widths, for the terminal."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
      title: stands in the header.
      width: in characters; a longer text moves the rest of its line.
      right: whether texts stand at the right of the column, as numbers do.
    """

    title: str
    width: int
    right: bool = False

    def cell(self, text: str) -> str:
        return text.rjust(self.width) if self.right else text.ljust(self.width)


@dataclass(frozen=True)
class TextTable:
    """A header and lines, which may be printed one by one as they come.

    Attributes:
      columns: from left to right.
      gap: stands between two columns.
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

    def text(self, rows: Iterable[Collection[str]]) -> str:
        """Returns the header and a line for each row."""
        return "\n".join([self.header, *map(self.line, rows)])
