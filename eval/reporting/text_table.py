"""Text tables with aligned columns."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
      title: text in the header.
      width: least width in characters, see `TextTable.fitted`.
      right: whether texts are right-aligned, for example numbers.
    """

    title: str
    width: int
    right: bool = False

    def cell(self, text: str) -> str:
        return text.rjust(self.width) if self.right else text.ljust(self.width)


@dataclass(frozen=True)
class TextTable:
    """A header and lines. Lines may be printed one at a time, by a table that is fitted to the longest texts.

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

    def fitted(self, lines: Iterable[Collection[str]]) -> "TextTable":
        """Returns the table with columns that are wide enough for these lines."""
        columns = self.columns
        for texts in lines:
            columns = tuple(
                replace(column, width=max(column.width, len(text))) for column, text in zip(columns, texts, strict=True)
            )
        return replace(self, columns=columns)

    def text(self, lines: Iterable[Collection[str]]) -> str:
        """Returns the header and the lines, aligned."""
        lines = list(lines)
        table = self.fitted(lines)
        return "\n".join([table.header, *map(table.line, lines)])
