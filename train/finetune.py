"""Trains the classification head of a config on its training split, and keeps the encoder as it is.

python -m train.finetune configs/X.py [--out DIR] [--resume] [flags]
    -> DIR/config.json, DIR/metrics.jsonl, DIR/checkpoints, DIR/head.safetensors
"""

import json
import shlex
import sys
from dataclasses import dataclass

from prism_jax import config
from prism_jax.command import output_folder, run
from train.head import train_head


@dataclass(frozen=True)
class Finetune:
    experiment: config.Flat
    out: str = "runs/finetune"
    """Folder for all that the run writes."""
    resume: bool = False
    """Go on with the run in that folder."""


def main(argv: list[str]) -> None:
    command = config.parse(Finetune, __doc__, argv)
    out = output_folder(command.out)
    origin = {"command": f"python -m train.finetune {shlex.join(argv)}"} | train_head(
        command.experiment, out, command.resume
    )
    (out / "head.json").write_text(json.dumps(origin, indent=2) + "\n")
    print(json.dumps(origin, indent=2))
    print(f"wrote {out}/head.safetensors; score it with: python -m eval.evaluate {argv[0]} --checkpoint {out}")


if __name__ == "__main__":
    run(main, sys.argv[1:])
