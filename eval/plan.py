"""Chooses how to run a model on a link: the number of devices and the exchange, or one device alone.

python -m eval.plan configs/X.py --rate 50mbit --rtt 5 --devices 4 --max-drop 1.0 [--examples 1] [--sweep DIR]
    [--calibration DIR]
        [--out DIR]
    -> every setting with its predicted latency, its loss, its bytes, and why it was not chosen; DIR/plan.json

Scores come from a sweep of the config (`eval.sweep`). Times come from a calibration on the same devices: `eval.latency`
with --rates and --rtts. All times are predictions. Times on more than two devices are extrapolated.
"""

import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from eval.links import shaped
from eval.reporting.records import SCHEMA, Milliseconds, read_calibration, read_sweep
from eval.reporting.tables import UNITS
from eval.reporting.text_table import Column, TextTable
from eval.scoring.variants import CONTROL
from eval.timing import latency_model
from eval.timing.latency_model import Constants, Link
from prism_jax.cli import flags
from prism_jax.cli.entry import output_folder, run, write
from prism_jax.cli.flags import Flat
from prism_jax.errors import InputError
from prism_jax.experiments.recipe import Experiment
from prism_jax.metrics import scores
from prism_jax.records import Count, NotNegative
from prism_jax.user_paths import UserPath


@dataclass(frozen=True)
class Plan:
    experiment: Flat[Experiment]
    rate: str | None = None
    """Rate of the link between the devices, for example 50mbit. Required."""
    rtt: Milliseconds = 0.0
    """Round-trip time of the link, in milliseconds."""
    devices: Count = 2
    """Largest number of devices."""
    max_drop: NotNegative = 1.0
    """Largest allowed loss to one device, in the units of the score (points, for an accuracy)."""
    examples: Count = 1
    """B, the examples of a request."""
    sweep: UserPath | None = None
    """Folder of a sweep. The default is runs/NAME/sweep, where NAME is the config's."""
    calibration: UserPath | None = None
    """Folder of `eval.latency`. The default is runs/NAME/latency."""
    out: UserPath | None = None
    """Folder for plan.json. The default is runs/NAME/plan."""

    @property
    def link(self) -> Link:
        """The link of the flags. Raises InputError if the rate is missing or wrong."""
        if self.rate is None:
            raise InputError("give the --rate of the link, such as 50mbit")
        return Link(shaped.rate_of(self.rate), self.rtt)


@dataclass(frozen=True)
class Candidate:
    """A way to run the model.

    Attributes:
      setting: the exchange as on the command line.
      num_parts: P, the number of devices.
      weights: "base", "tuned" or the name of a further checkpoint.
      score: score, in the units of the metric.
      drop: loss to one device, in the same units; below 0 for a gain.
      seconds: predicted latency of a request.
      sent: bytes that a device sends for a request, including the cut and the join.
      rejected: the reason why it is not chosen; None for the chosen one.
    """

    setting: str
    num_parts: int
    weights: str
    score: float
    drop: float
    seconds: float
    sent: float
    rejected: str | None = None


def main(argv: list[str]) -> None:
    command = flags.parse(Plan, __doc__, argv)
    name, link = Path(argv[0]).stem, command.link
    sweep = read_sweep(command.sweep or f"runs/{name}/sweep")
    calibration = read_calibration(command.calibration or f"runs/{name}/latency")
    if sweep["model"] != calibration["model"]:
        raise InputError(
            f"the sweep is of {sweep['model']}, but the calibration of {calibration['model']}; "
            "name folders of one model"
        )
    measured = _measured(calibration, command)
    latency_model.predict_each_from_other_links(measured)
    constants = latency_model.fit(measured)
    candidates = verdicts(candidates_of(sweep, calibration, command, constants), command)
    regrets = regrets_on_measured_links(measured, _drops(sweep, command), command.max_drop)
    out = output_folder(command.out or f"runs/{name}/plan")
    print(table(candidates, sweep["rows"][0]["metric"]))
    print(verdict(candidates, {row["num_parts"] for row in measured}))
    errors = latency_model.errors(measured)
    print(
        f"the calibration ({calibration['environment']['cpu']}, {len({*map(latency_model.link_of, measured)})} links): "
        f"each link predicted from the others is off by {np.median(errors):.0%} in the median"
        + (f"; the choice there costs {_spread(regrets)} over the best" if regrets else "")
    )
    content = {
        "schema": SCHEMA,
        "link": asdict(link),
        "constants": asdict(constants),
        "candidates": [asdict(candidate) for candidate in candidates],
        "regrets": regrets,
    }
    write(out / "plan.json", json.dumps(content, indent=2))
    print(f"wrote {out}/plan.json")


def candidates_of(sweep: dict, calibration: dict, command: Plan, constants: Constants) -> list[Candidate]:
    """Returns every setting that was both scored and timed.

    Raises:
      InputError: if one device is not among them.
    """
    parts_alone = {
        (row["setting"], row["num_parts"]): row
        for row in calibration["parts_alone"]
        if (row["tokens"], row["batch_size"]) == (command.experiment.num_tokens, command.examples)
    }
    candidates = []
    for (setting, num_parts, weights), (score, drop) in _drops(sweep, command).items():
        if part := parts_alone.get((setting, num_parts)):
            traffic = latency_model.traffic_of(part)
            seconds = constants.seconds(part["seconds"], traffic, command.link)
            candidates.append(Candidate(setting, num_parts, weights, score, drop, seconds, traffic.sent))
    if not any(candidate.num_parts == 1 for candidate in candidates):
        raise InputError(
            f"one device at N = {command.experiment.num_tokens} and B = {command.examples} was not both scored and "
            "timed; run eval.sweep and eval.latency with the same --num-tokens, and --batch-sizes with that B"
        )
    return candidates


def verdicts(candidates: Sequence[Candidate], command: Plan) -> list[Candidate]:
    """Returns the candidates, fastest first, with the reason of rejection for all but the best one."""
    judged: list[Candidate] = []
    best: Candidate | None = None
    for candidate in sorted(candidates, key=lambda candidate: (candidate.seconds, candidate.drop)):
        if candidate.num_parts > command.devices:
            rejected = f"needs {candidate.num_parts} devices"
        elif candidate.drop > command.max_drop:
            rejected = f"loses {candidate.drop:.2g}, more than {command.max_drop:g}"
        elif best is not None:
            rejected = f"{candidate.seconds / best.seconds - 1:.0%} slower"
        else:
            rejected, best = None, candidate
        judged.append(replace(candidate, rejected=rejected))
    return judged


def regrets_on_measured_links(measured: Sequence[dict], drops: dict, max_drop: float) -> list[dict]:
    """Returns for each measured link the regret: how much longer the choice by the other links' constants took than the
    best choice."""
    allowed = {(setting, parts) for (setting, parts, _), (_, drop) in drops.items() if drop <= max_drop or parts == 1}
    regrets = []
    for link in dict.fromkeys(map(latency_model.link_of, measured)):
        rows = [
            row
            for row in measured
            if latency_model.link_of(row) == link and (row["setting"], row["num_parts"]) in allowed
        ]
        if len(rows) > 1 and all(row["seconds_predicted"] for row in rows):
            chosen = min(rows, key=lambda row: row["seconds_predicted"])
            best = min(rows, key=lambda row: row["seconds"])
            regret = chosen["seconds"] / best["seconds"] - 1
            regrets.append({**asdict(link), "chosen": chosen["setting"], "best": best["setting"], "regret": regret})
    return regrets


def table(candidates: Sequence[Candidate], metric: str) -> str:
    """Returns the candidates as text."""
    one_device = next(candidate for candidate in candidates if candidate.num_parts == 1)
    columns = (
        *(Column("exchange", 23), Column("devices", 7), Column("weights", 7), Column("predicted ms", 12)),
        *(Column("one device / it", 15), Column(UNITS[metric], max(11, len(UNITS[metric]))), Column("loses", 6)),
        *(Column("kB sent", 9), Column("", 0)),
    )
    rows = [
        (
            *(candidate.setting, str(candidate.num_parts), candidate.weights, f"{1e3 * candidate.seconds:.1f}"),
            *(f"{one_device.seconds / candidate.seconds:.2f}", f"{candidate.score:.1f}", f"{candidate.drop:.1f}"),
            *(f"{candidate.sent / 1e3:.1f}", candidate.rejected or "chosen"),
        )
        for candidate in candidates
    ]
    return TextTable(columns).text(rows)


def verdict(candidates: Sequence[Candidate], measured: Collection[int]) -> str:
    """Returns the choice in one sentence. Notes if requests on that number of devices were not measured."""
    best = next(candidate for candidate in candidates if candidate.rejected is None)
    one_device = next(candidate for candidate in candidates if candidate.num_parts == 1)
    if best.num_parts == 1:
        return (
            f"Use one device: {1e3 * best.seconds:.1f} ms, and nothing else that may be used is predicted to be faster."
        )
    caveat = "" if best.num_parts in measured else f"; requests on {best.num_parts} devices were not measured"
    return (
        f"Use {best.setting} on {best.num_parts} devices with {best.weights} weights: "
        f"{1e3 * best.seconds:.1f} ms predicted, {one_device.seconds / best.seconds:.2f} times as fast as one device, "
        f"for a loss of {best.drop:.1f} and {best.sent / 1e3:.1f} kB sent by each{caveat}."
    )


def _drops(sweep: dict, command: Plan) -> dict[tuple[str, int, str], tuple[float, float]]:
    """Returns the score and the loss to one device of each setting and kind of weights, if both are known. The control
    is left out: it is a reference, not a choice.
    """
    drops = {}
    for row in sweep["rows"]:
        if row["score"] is None or row["weights"] == CONTROL or row["tokens"] != command.experiment.num_tokens:
            continue
        difference = 0.0 if row["num_parts"] == 1 else row["difference_to_one_device"]
        if difference is None:
            continue
        sign = -1 if scores.METRICS[row["metric"]].higher_is_better else 1
        drop = sign * difference + 0.0  # turns -0.0 into 0.0
        drops[row["setting"], row["num_parts"], row["weights"]] = (row["score"], drop)
    return drops


def _measured(calibration: dict, command: Plan) -> list[dict]:
    wanted = {"tokens": command.experiment.num_tokens, "batch_size": command.examples}
    rows = [row for row in calibration["rows"] if row["rate_bits_per_second"] and wanted.items() <= row.items()]
    if len({latency_model.link_of(row) for row in rows if row["num_parts"] > 1}) < 2:
        raise InputError(
            f"the calibration has fewer than two shaped links between devices at N = {wanted['tokens']} and B = "
            f"{wanted['batch_size']}; run eval.latency "
            "with the same --num-tokens and --batch-sizes, and two or more --rates or --rtts"
        )
    return rows


def _spread(regrets: Sequence[dict]) -> str:
    values = [link["regret"] for link in regrets]
    return f"{np.median(values):.0%} in the median and {max(values):.0%} at worst"


if __name__ == "__main__":
    run(main, sys.argv[1:])
