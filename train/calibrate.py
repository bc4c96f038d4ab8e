"""Makes the arrays of exchanges, from a few hundred training examples on one device: codebooks, bases, learned means.

python -m train.calibrate configs/X.py --exchanges codebooks:48:8:all_gather [head_means:4:12 ...]
        [--base RUN] [--examples 256] [--parts 2 4] [--steps 60] [--rate 0.005] [--seed 0] [--out DIR]
        [flags]
    -> DIR/exchange.safetensors, for the flag --exchange-arrays of other commands
"""

import itertools
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from prism_jax import data
from prism_jax.cli import flags
from prism_jax.cli.entry import output_folder, run
from prism_jax.cli.flags import Flat
from prism_jax.data.datasets import Dataset
from prism_jax.data.text import bucket_lengths
from prism_jax.errors import InputError
from prism_jax.exchange.arrays import EXCHANGE, FromRows, owners, owns_arrays
from prism_jax.exchange.base import Exchange, as_tuple
from prism_jax.exchange.codebooks import Codebooks
from prism_jax.exchange.flag_types import ExchangesFlag
from prism_jax.exchange.principal import Principal
from prism_jax.exchange.setting import Setting
from prism_jax.experiments.build import check_run, find_model, find_model_of_run, load_training_data
from prism_jax.experiments.exchange_arrays import FILE, save
from prism_jax.experiments.recipe import Experiment
from prism_jax.parallel.processes import refuse_several
from prism_jax.progress import say
from prism_jax.records import Count
from prism_jax.seeds import Seed
from prism_jax.user_paths import UserPath
from prism_jax.weights import Pretrained
from train import fit_codebooks, fit_learned


@dataclass(frozen=True)
class Calibrate:
    UNREAD: ClassVar = {"--exchange-arrays": "--out, the folder of the file that it makes", "--training.seed": "--seed"}
    experiment: Flat[Experiment]
    exchanges: ExchangesFlag = ()
    """Exchanges with arrays, such as codebooks:48:8:all_gather or head_means:4:12."""
    base: UserPath | None = None
    """A run of train.finetune (RUN or RUN@STEP) whose rows are read, in place of the config's weights."""
    examples: Count = 256
    """Number of training examples, at even distances. Of plain text it counts documents."""
    rows: Count = 16384
    """Most rows of a block that codebooks and bases are fitted to."""
    parts: tuple[Annotated[int, Meta(ge=2, description="2 or more, since one part exchanges nothing")], ...] = (2, 4)
    """Numbers of parts, P, through which learned arrays are fitted, in turn."""
    steps: Count = 60
    """Steps by which learned arrays are fitted, of 16 examples each. --batch-size is that of reading rows for codebooks
    and bases."""
    rate: Annotated[float, Meta(gt=0, description="more than 0")] = 5e-3
    """Learning rate of the first of these steps. It falls to 0 by a cosine."""
    seed: Seed = 0
    """Seed of the first centroids, of the rows that they are fitted to, and of the order of examples."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type of the arrays in the file."""
    out: UserPath = "runs/calibrate"
    """Folder for the file."""


Made = Mapping[str, tuple[FromRows, str | None]]
"""Exchanges with codebooks or a basis, by the name of their arrays. Codebooks come with the name of their basis."""


def to_make(exchanges: Collection[Exchange]) -> Made:
    """Returns the exchanges whose codebooks and bases are to be made, bases first.

    Raises:
      InputError: if there are none, or an exchange has none.
    """
    if not exchanges:
        raise InputError("--exchanges is empty; name some, such as codebooks:48:8:all_gather")
    made: dict[str, tuple[FromRows, str | None]] = {}  # whatever they wrap
    for exchange in exchanges:
        own = {name: owner for name, owner in owners(exchange) if isinstance(owner, FromRows)}
        if not own and not is_learned(exchange):
            raise InputError(f"{exchange} has no arrays to make; name only exchanges such as codebooks:48:8:all_gather")
        basis = next((name for name, owner in own.items() if isinstance(owner, Principal)), None)
        made |= {name: (owner, basis if isinstance(owner, Codebooks) else None) for name, owner in own.items()}
    return dict(sorted(made.items(), key=lambda item: isinstance(item[1][0], Codebooks)))


def learns(owner: Exchange) -> bool:
    """Returns whether an exchange has arrays of its own that are trained."""
    return owns_arrays(owner) and not isinstance(owner, FromRows)


def is_learned(exchange: Exchange) -> bool:
    """Returns whether an exchange, or one that it wraps, has arrays that are trained."""
    return any(learns(owner) for _, owner in owners(exchange))


def sharing(exchanges: Iterable[Exchange]) -> list[list[Exchange]]:
    """Returns exchanges in groups. Those of a group share learned arrays, directly or by way of others of the group."""
    groups: list[list[Exchange]] = []
    for exchange in exchanges:
        names = {name for name, owner in owners(exchange) if learns(owner)}
        joined = [group for group in groups if names & {name for one in group for name, _ in owners(one)}]
        groups = [*(group for group in groups if group not in joined), [*itertools.chain(*joined), exchange]]
    return groups


def check(command: Calibrate, made: Made, learned: Sequence[Exchange]) -> None:
    """Raises InputError if an exchange does not fit the model, before data and weights are read."""
    experiment = command.experiment
    lengths = bucket_lengths(experiment.buckets, experiment.num_tokens)
    for exchange in learned:
        fit_learned.check(experiment.model, exchange)
        for num_parts in command.parts:
            Setting(exchange, num_parts).check(lengths)
    of_run = check_run(experiment, command.base) if command.base else None
    data.check(experiment.dataset, experiment.data_source)
    checked = find_model_of_run(experiment, of_run) if of_run else find_model(experiment)
    width_of = checked.pretrained.model.config.stack.width_of
    for owner, _ in made.values():
        owner.arrays(width_of(owner))  # refuses what does not fit
    for exchange in learned:
        fit_learned.check_starts(exchange, width_of)


def make(command: Calibrate, made: Made, pretrained: Pretrained, dataset: Dataset) -> dict[str, Any]:
    """Returns codebooks and bases, by the name of their arrays."""
    rows = {
        keys_values: fit_codebooks.rows_of_blocks(
            command.experiment, pretrained, dataset, command.examples, command.rows, keys_values=keys_values
        )
        for keys_values in sorted({owner.keys_values for owner, _ in made.values()})
    }
    arrays: dict[str, Any] = {}
    for name, (owner, basis) in made.items():
        own = rows[owner.keys_values]
        if isinstance(owner, Principal):
            arrays[name] = fit_codebooks.fit_basis(owner, own)
        else:
            coded = fit_codebooks.coordinates(own, arrays[basis]) if basis else own
            arrays[name] = fit_codebooks.fit(owner, coded, command.seed)
    return arrays


def main(argv: list[str]) -> None:
    command = flags.parse(Calibrate, __doc__, argv)
    training = replace(command.experiment.training, seed=command.seed)
    command = replace(command, experiment=replace(command.experiment, training=training))
    refuse_several("train.calibrate runs")
    named = dict.fromkeys(in_block for exchange in command.exchanges for in_block in as_tuple(exchange))
    made, learned = to_make(named), list(filter(is_learned, named))
    out = output_folder(command.out)
    check(command, made, learned)
    experiment = command.experiment
    dataset, _ = load_training_data(experiment)
    say(f"reading weights: {command.base or experiment.weights}")
    pretrained = fit_codebooks.load(experiment, dataset, command.base)
    arrays = make(command, made, pretrained, dataset)
    for group in sharing(learned):
        settings = [Setting(exchange, num_parts) for exchange in group for num_parts in command.parts]
        with_made = replace(pretrained, params={**pretrained.params, EXCHANGE: arrays})
        arrays |= fit_learned.fit(
            experiment, with_made, dataset, command.examples, settings, command.steps, command.rate
        )
    source = command.base or experiment.evaluation.adapter or experiment.weights
    save(out / FILE, arrays, source, command.dtype)
    print(f"wrote {out}/{FILE}: {', '.join(map(str, named))}, from {command.examples} examples")


if __name__ == "__main__":
    run(main, sys.argv[1:])
