"""Trains the model of a config on its training split, through the exchanges in `training`.

python -m train.finetune configs/X.py [--out DIR] [--resume] [--start RUN or ADAPTER] [flags]
    -> DIR/config.json, DIR/metrics.jsonl, DIR/checkpoints, DIR/result.json
"""

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from prism_jax.cli import flags
from prism_jax.cli.entry import run
from prism_jax.cli.flags import Flat
from prism_jax.exchange.setting import Setting
from prism_jax.experiments.recipe import Experiment, Training
from prism_jax.folders import write
from prism_jax.parallel.mesh import emulate_devices
from prism_jax.parallel.processes import is_terminal
from prism_jax.user_paths import UserPath
from train.build import build
from train.plan import plan_run


@dataclass(frozen=True)
class Finetune:
    experiment: Flat[Experiment]
    setting: Flat[Setting]
    training: Training
    out: UserPath = "runs/finetune"
    """Folder for all files of the run."""
    resume: bool = False
    """Resume the run in that folder."""
    start: UserPath | None = None
    """Run whose best checkpoint training starts from; RUN@STEP for another checkpoint; or an adapter in PEFT's layout,
    which is folded into the config's weights. The default is the config's weights."""


def main(argv: list[str]) -> None:
    command = flags.parse(Finetune, __doc__, argv)
    out, training = Path(command.out), command.training
    if training.data is not None:
        emulate_devices(max(*training.parts, command.setting.num_parts) * training.data)
    plan = plan_run(command.experiment, command.out, resume=command.resume, start=command.start)
    reached = build(plan).to_the_end()
    if not is_terminal():
        return
    if reached["first_step"] < reached["step"] or not (out / "result.json").exists():
        content = {"command": f"python -m train.finetune {shlex.join(argv)}"} | reached
        write(out / "result.json", json.dumps(content, indent=2) + "\n")
    print(json.dumps(reached, indent=2))
    print(
        f"wrote {out}; score it with eval.evaluate --checkpoint {out}, "
        "the same config, and the same flags for model and data"
    )


if __name__ == "__main__":
    run(main, sys.argv[1:])
