"""Chooses how to run a model on a link: the number of devices and the exchange, or one device alone.

python -m eval.plan configs/X.py --rate 50mbit --rtt 5 --devices 4 --max-drop 1.0 [--examples 1] [--sweep DIR]
    [--calibration DIR]
        [--out DIR]
    -> every setting with its predicted latency, its loss, its bytes, and why it was not chosen; the choice, the next
       two, and what ruled out the others; DIR/plan.json

Scores come from a sweep of the config (`eval.sweep`). Times come from a calibration on the same devices: `eval.latency`
with --rates and --rtts. All times are predictions. Times on more than two devices are extrapolated.

The loss itself decides, not its interval. Where the interval of the choice passes the limit, the fastest setting whose
interval does not is named too.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from eval.links import shaped
from eval.planning.candidates import Candidate, Drop, Limits, answer, table, verdicts
from eval.reporting.records import SCHEMA, Milliseconds, read_calibration, read_sweep
from eval.scoring.variants import BASE, TUNED
from eval.timing import latency_model
from eval.timing.latency_model import Constants, Link
from eval.timing.measurements import HOSTS
from prism_jax.cli import flags
from prism_jax.cli.entry import output_folder, run
from prism_jax.cli.flags import Flat
from prism_jax.errors import InputError
from prism_jax.experiments.recipe import Experiment
from prism_jax.folders import write
from prism_jax.metrics import scores
from prism_jax.records import Count, NotNegative
from prism_jax.user_paths import UserPath


@dataclass(frozen=True)
class Plan:
    UNREAD: ClassVar = {
        "--batch-size": "--examples",
        **dict.fromkeys(
            (
                *("--weights", "--revision", "--dataset", "--data-source", "--image-size", "--buckets"),
                *("--compute-dtype", "--exchange-arrays"),
            ),
            "--sweep and --calibration, folders of results with other values",
        ),
    }
    experiment: Flat[Experiment]
    rate: str | None = None
    """Rate of the link between the devices, for example 50mbit. The default is the link of a calibration between real
    hosts."""
    rtt: Milliseconds = 0.0
    """Round-trip time of the link, in milliseconds. It goes with --rate."""
    devices: Count = 2
    """Largest number of devices."""
    max_drop: NotNegative = 1.0
    """Largest allowed loss against one device, in the units of the score (points, for an accuracy)."""
    examples: Count = 1
    """B, the examples of a request."""
    sweep: UserPath | None = None
    """Folder of a sweep. The default is runs/NAME/sweep, where NAME is the config's."""
    calibration: UserPath | None = None
    """Folder of `eval.latency`. The default is runs/NAME/latency."""
    out: UserPath | None = None
    """Folder for plan.json. The default is runs/NAME/plan."""

    def link(self, measured: Sequence[dict]) -> Link:
        """Returns the link of the flags, or else the one between the hosts of a calibration.

        Raises:
          InputError: if the rate is wrong, or it is missing and no link between hosts was measured.
        """
        if self.rate is not None:
            return Link(shaped.rate_of(self.rate), self.rtt)
        between_hosts = {latency_model.link_of(row) for row in measured if row["link"] == HOSTS}
        if self.rtt or len(between_hosts) != 1:
            raise InputError("give the --rate of the link, such as 50mbit, or a --calibration between real hosts alone")
        return between_hosts.pop()

    def of_request(self, row: dict) -> bool:
        """Returns whether a record is of the N and B that are asked for."""
        return (row["tokens"], row["batch_size"]) == (self.experiment.num_tokens, self.examples)

    @property
    def limits(self) -> Limits:
        return Limits(self.devices, self.max_drop)


def main(argv: list[str]) -> None:
    command = flags.parse(Plan, __doc__, argv)
    name = Path(argv[0]).stem
    if command.rate is not None:
        shaped.rate_of(command.rate)  # a wrong one is seen before anything is read
    sweep = read_sweep(command.sweep or f"runs/{name}/sweep")
    calibration = read_calibration(command.calibration or f"runs/{name}/latency")
    if sweep["model"] != calibration["model"]:
        raise InputError(
            f"the sweep is of {sweep['model']}, but the calibration of {calibration['model']}; "
            "name folders of one model"
        )
    measured = [row for row in calibration["rows"] if row["rate_measured"] and command.of_request(row)]
    link = command.link(measured)
    _check_links(measured, link, command)
    latency_model.predict_each_from_other_links(measured)
    constants = latency_model.fit(measured)
    candidates = verdicts(candidates_of(sweep, calibration, command, constants, link), command.limits)
    regrets = regrets_on_measured_links(measured, _drops(sweep, command), command.max_drop)
    out = output_folder(command.out or f"runs/{name}/plan")
    print(table(candidates, sweep["rows"][0]["metric"]))
    print(answer(candidates, command.limits, {row["num_parts"] for row in measured}))
    print(f"the calibration ({calibration['environment']['cpu']}): {_trust(measured, regrets)}")
    content = {
        "schema": SCHEMA,
        "link": asdict(link),
        "constants": asdict(constants),
        "candidates": [asdict(candidate) for candidate in candidates],
        "regrets": regrets,
    }
    write(out / "plan.json", json.dumps(content, indent=2))
    print(f"wrote {out}/plan.json")


def candidates_of(sweep: dict, calibration: dict, command: Plan, constants: Constants, link: Link) -> list[Candidate]:
    """Returns every setting that was both scored and timed.

    Raises:
      InputError: if one device is not among them.
    """
    parts_alone = {
        (row["setting"], row["num_parts"]): row for row in calibration["parts_alone"] if command.of_request(row)
    }
    candidates = []
    for (setting, num_parts, weights), (score, drop, ci95) in _drops(sweep, command).items():
        if part := parts_alone.get((setting, num_parts)):
            traffic = latency_model.traffic_of(part)
            seconds = constants.seconds(part["seconds"], traffic, link)
            candidates.append(Candidate(setting, num_parts, weights, score, drop, ci95, seconds, traffic.sent))
    if not any(candidate.num_parts == 1 for candidate in candidates):
        raise InputError(
            f"one device at N = {command.experiment.num_tokens} and B = {command.examples} was not both scored and "
            "timed; run eval.sweep and eval.latency with the same --num-tokens, and --batch-sizes with that B"
        )
    return candidates


def regrets_on_measured_links(
    measured: Sequence[dict], drops: dict[tuple[str, int, str], Drop], max_drop: float
) -> list[dict]:
    """Returns for each measured link the regret: how much longer the choice by the other links' constants took than the
    best choice."""
    allowed = {
        (setting, parts) for (setting, parts, _), (_, drop, _) in drops.items() if drop <= max_drop or parts == 1
    }
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


def _drops(sweep: dict, command: Plan) -> dict[tuple[str, int, str], Drop]:
    """Returns the score and the loss against one device of each setting with base or tuned weights, if both are known.

    The control is a reference, not a choice. Further checkpoints are compared with themselves, not with base.
    """
    drops = {}
    for row in sweep["rows"]:
        if (
            row["score"] is None
            or row["weights"] not in (BASE, TUNED)
            or row["tokens"] != command.experiment.num_tokens
        ):
            continue
        difference = 0.0 if row["num_parts"] == 1 else row["difference_to_one_device"]
        if difference is None:
            continue
        sign = -1 if scores.METRICS[row["metric"]].higher_is_better else 1
        signed = [sign * end + 0.0 for end in row["difference_ci95"] or ()]  # turns -0.0 into 0.0
        drops[row["setting"], row["num_parts"], row["weights"]] = Drop(
            row["score"],
            sign * difference + 0.0,
            (min(signed), max(signed)) if signed else None,
        )
    return drops


def _check_links(measured: Sequence[dict], link: Link, command: Plan) -> None:
    """Raises InputError if the measured links say nothing about a link: one link speaks for itself alone."""
    links = {latency_model.link_of(row) for row in measured if row["num_parts"] > 1}
    if len(links) < 2 and links != {link}:
        raise InputError(
            f"the calibration has fewer than two shaped links between devices at N = {command.experiment.num_tokens} "
            f"and B = {command.examples}; run eval.latency with the same --num-tokens and --batch-sizes, and two or "
            "more --rates or --rtts"
        )


def _trust(measured: Sequence[dict], regrets: Sequence[dict]) -> str:
    """Returns how well the links of a calibration predict each other, as text."""
    errors = latency_model.errors(measured)
    if not len(errors):
        return "it has the link that is asked for, and no other to check the times"
    links = len({latency_model.link_of(row) for row in measured})
    text = f"each of {links} links, predicted from the others, is off by {np.median(errors):.0%} in the median"
    if not regrets:
        return text
    values = [link["regret"] for link in regrets]
    return f"{text}; the choice there costs {np.median(values):.0%} in the median and {max(values):.0%} at worst"


if __name__ == "__main__":
    run(main, sys.argv[1:])
