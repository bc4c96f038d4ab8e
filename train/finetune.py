"""Trains the classification head of a config on its training split, and keeps the encoder as it is.

python -m train.finetune configs/X.py [--out DIR] [--resume] [flags]
    -> DIR/config.json, DIR/metrics.jsonl, DIR/checkpoints, DIR/head.safetensors
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from prism_jax import config
from prism_jax.command import run
from prism_jax.errors import InputError
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
    out, asked = Path(command.out), config.to_json(command.experiment)
    started = out / "config.json"
    if started.exists():
        if not command.resume:
            raise InputError(f"{out} holds a run already; add --resume to go on with it, or choose another --out")
        before = json.loads(started.read_text())
        differing = [name for name in asked if asked[name] != before.get(name)]
        if differing:
            raise InputError(
                f"{out} was started with another {', '.join(differing)}; choose another --out, or the same values"
            )
    out.mkdir(parents=True, exist_ok=True)
    started.write_text(json.dumps(asked, indent=2))
    origin = train_head(command.experiment, out)
    print(json.dumps(origin, indent=2))
    print(f"wrote {out}/head.safetensors; score it with: python -m eval.evaluate {argv[0]} --checkpoint {out}")


if __name__ == "__main__":
    run(main, sys.argv[1:])
