"""Tables on the terminal: their columns are aligned, whatever the length of a name."""

from eval.reporting.text_table import Column, TextTable

TABLE = TextTable((Column("exchange", 8), Column("kB", 5, right=True), Column("verdict", 0)))
LINES = [("means:4", "1.5", "chosen"), ("first_tokens:1:codebooks:48:8:all_gather", "123456.7", "slower")]


def test_columns_grow_to_their_longest_cell():
    assert TABLE.text(LINES).splitlines() == [
        "exchange                                       kB verdict",
        "means:4                                       1.5 chosen",
        "first_tokens:1:codebooks:48:8:all_gather 123456.7 slower",
    ]
    assert TABLE.text(LINES[:1]).splitlines() == ["exchange    kB verdict", "means:4    1.5 chosen"]


def test_lines_that_come_one_by_one_are_aligned_with_those_to_come():
    table = TABLE.fitted([("", "", ""), LINES[1]])
    assert [table.header, *map(table.line, LINES)] == TABLE.text(LINES).splitlines()
