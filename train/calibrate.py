"""Makes the codebooks of exchanges, from rows of a few hundred training examples on one device.

python -m train.calibrate configs/X.py --exchanges codebooks:48:8:all_gather [codebooks:24:8:all_gather ...]
        [--base RUN] [--examples 256] [--out DIR] [flags]
    -> DIR/exchange.safetensors, for the flag --exchange-arrays of other commands
"""

import sys
from dataclasses import dataclass
from typing import Literal

from prism_jax.cli import flags
from prism_jax.cli.entry import output_folder, run
from prism_jax.cli.flags import Flat
from prism_jax.errors import InputError
from prism_jax.exchange.base import as_tuple
from prism_jax.exchange.codebooks import Codebooks, check_groups
from prism_jax.exchange.flag_types import ExchangesFlag
from prism_jax.experiments.build import check_run, load_training_data
from prism_jax.experiments.exchange_arrays import FILE, save
from prism_jax.experiments.recipe import Experiment
from prism_jax.parallel.processes import refuse_several
from prism_jax.records import Count
from prism_jax.user_paths import UserPath
from train import codebook_fit


@dataclass(frozen=True)
class Calibrate:
    experiment: Flat[Experiment]
    exchanges: ExchangesFlag = ()
    """Exchanges with codebooks, such as codebooks:48:8:all_gather."""
    base: UserPath | None = None
    """A run of train.finetune (RUN or RUN@STEP) whose rows are read, in place of the config's weights."""
    examples: Count = 256
    """Number of training examples, at even distances."""
    rows: Count = 16384
    """Most rows of a block that codebooks are fitted to."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type of the centroids in the file."""
    out: UserPath = "runs/calibrate"
    """Folder for the file."""


def main(argv: list[str]) -> None:
    command = flags.parse(Calibrate, __doc__, argv)
    refuse_several("train.calibrate runs")
    named = dict.fromkeys(in_block for exchange in command.exchanges for in_block in as_tuple(exchange))
    books = [exchange for exchange in named if isinstance(exchange, Codebooks)]
    if not books:
        raise InputError("--exchanges names no codebooks; give some, such as codebooks:48:8:all_gather")
    if others := [str(exchange) for exchange in named if not isinstance(exchange, Codebooks)]:
        raise InputError(f"{others[0]} has no codebooks to make; name only exchanges such as codebooks:48:8:all_gather")
    books = list({exchange.arrays_name: exchange for exchange in books}.values())  # whatever they wrap
    if command.base:
        check_run(command.experiment, command.base)
    out = output_folder(command.out)
    dataset, _ = load_training_data(command.experiment)
    pretrained = codebook_fit.load(command.experiment, dataset, command.base)
    for exchange in books:
        check_groups(exchange.groups, exchange.bits, pretrained.model.config.stack.features)
    rows = codebook_fit.rows_of_blocks(command.experiment, pretrained, dataset, command.examples, command.rows)
    seed = command.experiment.training.seed
    arrays = {exchange.arrays_name: codebook_fit.fit(exchange, rows, seed) for exchange in books}
    source = command.base or command.experiment.evaluation.adapter or command.experiment.weights
    save(out / FILE, arrays, source, command.dtype)
    print(f"wrote {out}/{FILE}: {', '.join(map(str, books))}, from {len(rows[0])} rows of each block")


if __name__ == "__main__":
    run(main, sys.argv[1:])
