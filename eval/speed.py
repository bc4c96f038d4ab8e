"""Compares the speed of one device with the same Hugging Face PyTorch model, on the same threads, in turn.

python -m eval.speed [--families vit bert gpt2 llama] [--batch-sizes 1 8 32] [--steps inference training generation]
                     [--threads 2] [--compute-dtype bfloat16] [--out DIR]
    -> prints a line for each record as it finishes; DIR/results.json
"""

import os
import sys
from dataclasses import dataclass
from typing import Annotated, Literal

from eval.timing.families import check_length
from prism_jax.cli import flags
from prism_jax.cli.entry import output_folder, run
from prism_jax.errors import InputError
from prism_jax.records import ONE_OR_MORE, BatchSize, Count, Natural, NumTokens, Positive
from prism_jax.user_paths import UserPath


@dataclass(frozen=True)
class Speed:
    families: Annotated[tuple[Literal["vit", "bert", "gpt2", "llama"], ...], ONE_OR_MORE] = ("vit", "bert", "gpt2")
    """Families of models with random weights, at base size; llama is SmolLM2-135M."""
    batch_sizes: Annotated[tuple[BatchSize, ...], ONE_OR_MORE] = (1, 8, 32)
    steps: Annotated[tuple[Literal["inference", "training", "generation"], ...], ONE_OR_MORE] = (
        "inference",
        "training",
    )
    """"inference" is a forward pass; "training" is forward, backward and AdamW, without dropout; "generation" is a
    prompt and 32 new tokens, of gpt2 and llama."""
    num_tokens: NumTokens = 128
    """N of the texts; an image has 197 tokens."""
    threads: Natural = 0
    """Number of cores for both; 0 for all cores of this process."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of our matrix products. PyTorch always uses float32."""
    rounds: Count = 20
    """Largest number of times that each arm is timed, in turn."""
    seconds: Positive = 30.0
    """Seconds after which a record ends. Each arm is timed at least three times."""
    out: UserPath = "runs/speed"
    """Folder for the results."""


def main(argv: list[str]) -> None:
    command = flags.parse_flags(Speed, __doc__, argv)
    if not hasattr(os, "sched_setaffinity"):
        raise InputError("eval.speed gives both the same cores, which this system has no call for; run it on Linux")
    cores = sorted(os.sched_getaffinity(0))
    if command.threads > len(cores):
        raise InputError(f"{command.threads} threads asked for, but this process has {len(cores)} cores; choose fewer")
    if command.num_tokens < 2:
        raise InputError(
            f"num_tokens is {command.num_tokens}; choose 2 or more, so that there is a next token to learn"
        )
    if "generation" in command.steps and (others := {"vit", "bert"} & set(command.families)):
        raise InputError(f"{', '.join(sorted(others))} can't generate text; choose --families gpt2 llama")
    check_length(command.families, command.steps, command.num_tokens)
    out = output_folder(command.out)
    os.sched_setaffinity(0, cores[: command.threads or len(cores)])  # before JAX and PyTorch start their threads
    from eval.timing import pytorch

    pytorch.compare(command, out)
    print(f"wrote {out}/results.json")


if __name__ == "__main__":
    run(main, sys.argv[1:])
