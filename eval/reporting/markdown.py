"""Writes a page with the tables and plots of one sweep, or of several side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from eval.reporting import sweep_plots, tables
from eval.reporting.sweep_points import PLOTS, panels_of, scored
from eval.scoring.variants import BASE, CONTROL
from prism_jax.folders import write

FINAL_FILES = ("results.csv", "report.md", *(f"{name}.png" for name in PLOTS))
"""Files that are written after the last record. Until then, results.json grows record by record, but results of a
finished sweep are only replaced by complete ones."""


def write_report(
    out: Path,
    contents: Mapping[str, dict],
    page: str = "report.md",
    plots: Sequence[str] = tuple(PLOTS),
) -> list[str]:
    """Writes the page and its plots; returns the names of the files.

    Args:
      out: folder of the page.
      contents: contents of results.json, by name of the run.
      page: file name of the page.
      plots: names of the plots to draw.
    """
    panels = panels_of(contents)
    drawn = [name for name in plots if sweep_plots.draw(PLOTS[name], out / f"{name}.png", panels)]
    write(out / page, markdown(contents, drawn))
    return [page, *(f"{name}.png" for name in drawn)]


def markdown(contents: Mapping[str, dict], drawn: Sequence[str]) -> str:
    """Returns the page."""
    sections = [section(content, name if len(contents) > 1 else None) for name, content in contents.items()]
    pictures = "\n\n".join(f"![{PLOTS[name].title}]({name}.png)\n\n{PLOTS[name].explanation}" for name in drawn)
    commands = "".join(f"    {content['command']}\n" for content in contents.values())
    return f"""{"".join(sections)}{mean_over_runs(contents)}
{HOW_TO_READ}

{pictures}

Run it again:

{commands}"""


def mean_over_runs(contents: Mapping[str, dict]) -> str:
    """Returns a table of the mean over runs, for example of several seeds, for the settings that all runs scored. Empty
    if there is none."""
    kinds = {(content["model"], content["dataset"], scored(content)[0]["metric"]) for content in contents.values()}
    if len(contents) == 1 or len(kinds) > 1:
        return ""
    names = ("tokens", "num_parts", "exchange", "num_segments", "wire", "weights")
    runs = [{tuple(row[name] for name in names): row for row in scored(content)} for content in contents.values()]
    common = [key for key in runs[0] if all(key in run for run in runs)]
    if not common:
        return ""
    mean = {key: np.mean([run[key]["score"] for run in runs]) for key in common}
    controls = {key[0]: mean[key] for key in common if key[-1] == CONTROL}
    header = ("N", "parts", "exchange", "L", "wire", "weights", f"{tables.UNITS[kinds.pop()[-1]]} (sd)", "recovery %")
    lines = [header, ["---"] * len(header)]
    for key in common:
        spread, recovery = np.std([run[key]["score"] for run in runs], ddof=1), "-"
        as_is = (*key[:-1], BASE)
        has_recovery = (
            all(run[key].get("recovery_percent") is not None for run in runs) and key[0] in controls and as_is in mean
        )
        if has_recovery and controls[key[0]] != mean[as_is]:
            recovery = f"{100 * (mean[key] - mean[as_is]) / (controls[key[0]] - mean[as_is]):.0f}"
        lines.append((*(str(x or "-") for x in key), f"{mean[key]:.2f} ({spread:.2f})", recovery))
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"""# All {len(contents)} runs

The mean over the runs and the standard deviation between them. Recovery is that of the means, where each run has one.

{table}

"""


def section(content: dict, name: str | None) -> str:
    """Returns the table of one run, and its environment."""
    rows, environment = content["rows"], content["environment"]
    first = scored(content)[0]
    kind = (
        "emulated CPU devices; their accuracy is that of real ones, their time is not"
        if environment["emulated"]
        else "devices"
    )
    lengths: dict[int, dict[str, None]] = {}
    for row in scored(content):
        lengths.setdefault(row["examples"], {})[str(row["tokens"])] = None
    examples = ", ".join(f"{number} examples of {', '.join(tokens)} tokens" for number, tokens in lengths.items())
    medians = dict.fromkeys(f"{row['real_tokens_median']:.0f}" for row in scored(content))
    machine = f"JAX {environment['jax']}, {environment['cpu']}, {environment['cores']} cores"
    columns = tables.columns(rows, first["metric"])
    failed = [row for row in rows if row.get("error")]
    failures = "\n".join(
        f"- {row['exchange']} on {row['num_parts']}, N = {row['tokens']}, {row['weights']}: {row['error']}"
        for row in failed
    )
    return f"""# {f"{name}: " if name else ""}{content["model"]} on {content["dataset"]}

{examples}, padding included; the median has {", ".join(medians)} real ones.
{environment["devices"]} ({kind}), {machine}, commit {environment["commit"]}.{weights(content)}

{tables.markdown_table(rows, columns)}
{f"{chr(10)}Records that did not run:{chr(10)}{chr(10)}{failures}{chr(10)}" if failed else ""}
"""


HOW_TO_READ = """- *CR* is the compression rate, tokens of a part over rows that it sends.
- A score has its 95 % interval (accuracy: Wilson; other figures: bootstrap).
- *Vs one device* is the difference from one device on the same examples with the same weights, with its
  95 % interval. Tuned and control are compared with base.
- *GFLOPs* are the matrix products of the blocks, *kB sent* the bytes of the block exchanges. Both are
  per device and example, by the formula / in the compiled program. results.json has everything else
  that the program computes, and the bytes of the cut and the join.
- *Real tokens* is the median over the examples, without padding. *In every part* is the share of the
  examples with real tokens in every part. The others test the exchange less, or not at all.
- *Last part* (language models) is the difference for the tokens of the last part alone, in full
  windows. They see the other parts through the exchange, as generated tokens do.
- *s* is wall time, compilation included. Emulated devices share the cores, so it says nothing about real ones."""


def weights(content: dict) -> str:
    """Returns the sources of the kinds of weights, if there are several."""
    sources = content["weights"]
    if len(sources) == 1:
        return ""
    text = "\nWeights: " + "; ".join(f"*{kind}* from {source}" for kind, source in sources.items()) + "."
    if CONTROL in sources:
        text += """
*Recovery* is (tuned - base) / (control on one device - base), at the same exchange. It is given only
where the interval of its denominator excludes zero. results.json has the paper's own definition too,
with one device's base score in place of the control's."""
    return text + "".join(f"\nNote: {remark}." for remark in content.get("remarks", ()))
