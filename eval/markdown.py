"""report.md: tables and plots of one sweep, or of several side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from eval import plots, tables
from eval.plan import CONTROL
from prism_jax.command import write

AT_THE_END = ("results.csv", "report.md", *plots.PLOTS)
"""What is written when all rows are there; results.json grows row by row."""


def write_report(out: Path, contents: Mapping[str, dict]) -> list[str]:
    """Writes report.md and the plots; returns their names.

    Args:
      out: folder.
      contents: of results.json, by the name of the run.
    """
    panels = {}
    for name, content in contents.items():
        rows = plots.scored(content)
        for num_tokens in dict.fromkeys(row["tokens"] for row in rows):
            panels[name, num_tokens] = content | {"rows": [row for row in rows if row["tokens"] == num_tokens]}
    drawn = [name for name, plot in plots.PLOTS.items() if plot.draw(out / name, panels)]
    write(out / "report.md", markdown(contents, drawn))
    return ["report.md", *drawn]


def markdown(contents: Mapping[str, dict], drawn: Sequence[str]) -> str:
    """report.md."""
    sections = [section(content, name if len(contents) > 1 else None) for name, content in contents.items()]
    pictures = "\n\n".join(f"![{plots.PLOTS[name].title}]({name})\n\n{plots.PLOTS[name].explanation}" for name in drawn)
    commands = "".join(f"    {content['command']}\n" for content in contents.values())
    return f"""{"".join(sections)}
{HOW_TO_READ}

{pictures}

Run it again:

{commands}"""


def section(content: dict, name: str | None) -> str:
    """The table of one run, and what it was run on."""
    rows, where = content["rows"], content["environment"]
    first = plots.scored(content)[0]
    lengths = ", ".join(dict.fromkeys(str(row["tokens"]) for row in rows))
    kind = (
        "emulated CPU devices; their accuracy is that of real ones, their time is not"
        if where["emulated"]
        else "devices"
    )
    columns = tables.columns(rows, first["metric"])
    failed = [row for row in rows if row.get("error")]
    reasons = "\n".join(
        f"- {row['exchange']} on {row['num_parts']}, N = {row['tokens']}, {row['weights']}: {row['error']}"
        for row in failed
    )
    return f"""# {f"{name}: " if name else ""}{content["model"]} on {content["dataset"]}

{first["examples"]} examples of {lengths} tokens, padding included; the median has {first["real_tokens_median"]:.0f} real ones.
{where["devices"]} ({kind}), JAX {where["jax"]}, {where["cpu"]}, {where["cores"]} cores, commit {where["commit"]}.{weights(content)}

{tables.markdown_table(rows, columns)}
{f"{chr(10)}Rows that did not run:{chr(10)}{chr(10)}{reasons}{chr(10)}" if failed else ""}
"""


HOW_TO_READ = """- *CR* is the compression rate, tokens of a part over rows it sends. A score has its 95 % interval (accuracy: Wilson; other figures:
  bootstrap). *To one device* is the difference on the same examples to one device with the same weights
  (tuned and control: with base's), with its 95 % interval.
- *GFLOPs* are the matrix products of the blocks, *kB sent* what the block exchanges send; both per device and example, by the formula / in
  the compiled program. results.json lists by name what else the program computes, and the bytes of the split and the join.
- *Real tokens* is the median over the examples, padding left out. *In every part* is the share of the examples with real tokens in every part:
  the others test the exchange less, or not at all.
- *Last part* (language models) is the difference for the tokens of the last part alone, in full windows: these see the other parts through the exchange, as
  generated ones do. It is the price of generation.
- *s* is wall time, compilation included. Emulated devices share the cores, so it says nothing about real ones."""


def weights(content: dict) -> str:
    """Where the kinds of weights come from, where there are several."""
    sources = content["weights"]
    if len(sources) == 1:
        return ""
    text = "\nWeights: " + "; ".join(f"*{kind}* from {source}" for kind, source in sources.items()) + "."
    if CONTROL in sources:
        text += """ *Recovery* is (tuned - base) / (control on one
device - base), at the same exchange; it is given only where the interval of its denominator excludes zero. results.json has the
paper's own definition too, with one device's base score in place of the control's."""
    return text
