"""Records as tables, for standard output and for report.md."""

from collections.abc import Collection, Mapping, Sequence

from eval.reporting.text_table import Column, TextTable
from eval.scoring.variants import CONTROL, TUNED

UNITS = {
    "accuracy_percent": "accuracy %",
    "f1_percent": "F1 %",
    "matthews_percent": "Matthews %",
    "pearson_percent": "Pearson %",
    "spearman_percent": "Spearman %",
    "perplexity": "perplexity",
    "bits_per_byte": "bits/byte",
    "loss_nats": "loss, nats",
}
"""Column titles of metrics."""
WIDTHS = {
    "N": 5,
    "wire": 8,
    "last part, vs one device [95 %]": 31,
    "parts": 5,
    "exchange": 14,
    "weights": 7,
    "L": 3,
    "CR": 5,
    "GFLOPs": 15,
    "kB sent": 17,
    "real tokens": 11,
    "s": 6,
}


def columns(rows: Sequence[Mapping], metric: str) -> tuple[str, ...]:
    """Returns the columns of a table of these records. N, wire and weights have a column only if they vary."""
    values = {name: {row[name] for row in rows} for name in ("weights", "wire", "tokens")}
    chosen = [
        column for column, name in (("N", "tokens"), ("wire", "wire"), ("weights", "weights")) if len(values[name]) > 1
    ]
    recovered = ("recovery % [95 %]",) if {TUNED, CONTROL} <= values["weights"] else ()
    score = f"{UNITS[metric]} [95 %]"
    last_part = ("last part, vs one device [95 %]",) if metric == "perplexity" else ()
    costs = ("GFLOPs", "kB sent", "real tokens", "in every part", "s")
    return ("parts", "exchange", "L", "CR", *chosen, score, "vs one device [95 %]", *recovered, *last_part, *costs)


def cells(row: dict, columns: Collection[str]) -> list[str]:
    """Returns a record as text, in the order of the columns. Costs are shown as formula / compiled."""
    if row.get("error"):
        return failed_cells(row, columns)
    score = f"{UNITS[row['metric']]} [95 %]"
    digits = 1 if row["metric"].endswith("_percent") else 3
    texts = {
        "parts": str(row["num_parts"]),
        "exchange": row["exchange"],
        "L": str(row["num_segments"] or "-"),
        "CR": f"{row['compression_rate']:.1f}" if row["compression_rate"] else "-",
        "N": str(row["tokens"]),
        "wire": row["wire"],
        "weights": row["weights"],
        score: with_interval(row["score"], row["score_ci95"], digits),
        "vs one device [95 %]": with_interval(row["difference_to_one_device"], row["difference_ci95"], digits, "+"),
        "recovery % [95 %]": with_interval(row.get("recovery_percent"), row.get("recovery_ci95"), 0),
        "last part, vs one device [95 %]": with_interval(
            row.get("last_part_difference_to_one_device"), row.get("last_part_difference_ci95"), digits, "+"
        ),
        "GFLOPs": formula_and_compiled(row, "flops_per_device", 1e9, 3),
        "kB sent": formula_and_compiled(row, "bytes_sent_per_device", 1e3, 1),
        "real tokens": f"{row['real_tokens_median']:.0f}",
        "in every part": f"{100 * row['share_in_every_part']:.0f} %",
        "s": f"{row['seconds']:.1f}",
    }
    return [texts[column] for column in columns]


def short_texts(rows: Sequence[Mapping]) -> str | None:
    """Returns a note on the records with fewer than half of the examples in every part, or None if there are none."""
    short = [row for row in rows if not row.get("error") and row["share_in_every_part"] < 0.5]
    if not short:
        return None
    sizes = ", ".join(dict.fromkeys(f"P = {row['num_parts']}, N = {row['tokens']}" for row in short))
    return (
        f"note: most examples leave a part empty at {sizes}, where no exchange is put to the test; the median has "
        f"{short[0]['real_tokens_median']:g} tokens, so choose a smaller --num-tokens, or --buckets"
    )


def failed_cells(row: dict, columns: Collection[str]) -> list[str]:
    """Returns a failed record as text, in the order of the columns."""
    known = {"parts": "num_parts", "exchange": "exchange", "L": "num_segments", "N": "tokens"}
    known |= {"wire": "wire", "weights": "weights"}
    texts = [str(row[known[column]] or "-") if column in known else "-" for column in columns]
    return [
        "failed" if column.endswith("[95 %]") and text == "-" else text
        for column, text in zip(columns, texts, strict=True)
    ]


def with_interval(value: float | None, interval: tuple[float, float] | None, digits: int, sign: str = "") -> str:
    """Returns a value with its interval."""
    if value is None or interval is None:
        return "-"
    low, high = interval
    return f"{value:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def formula_and_compiled(row: dict, name: str, unit: float, digits: int) -> str:
    """Returns a cost as formula / compiled."""
    values = row[name], row[f"{name}_compiled"]
    return " / ".join("-" if value is None else f"{value / unit:.{digits}f}" for value in values)


def text_table(columns: Collection[str]) -> TextTable:
    """Returns the layout of a text table with these columns."""
    return TextTable(tuple(Column(column, WIDTHS.get(column, 21)) for column in columns), gap="  ")


def markdown_table(rows: list[dict], columns: Collection[str]) -> str:
    table = [columns, ["---"] * len(columns), *(cells(row, columns) for row in rows)]
    return "\n".join(f"| {' | '.join(texts)} |" for texts in table)
