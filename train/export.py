"""Exports the model of a run for transformers' AutoModel...from_pretrained, or for peft.

python -m train.export RUN DIR [--adapter [--dtype float16]]
    RUN: the --out folder of a train.finetune run (its best checkpoint), or RUN@STEP
    DIR: a new or empty folder, for config.json, model.safetensors and the tokenizer of the initial weights;
         with --adapter, only the LoRA adapter is written, in PEFT's layout
"""

import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

from prism_jax import weights
from prism_jax.assets import hub
from prism_jax.cli import flags
from prism_jax.cli.entry import output_folder, run
from prism_jax.errors import InputError
from prism_jax.exchange.arrays import EXCHANGE, owners, owns_arrays
from prism_jax.exchange.base import as_tuple
from prism_jax.exchange.text import parse
from prism_jax.experiments import checkpoint, exchange_arrays
from prism_jax.experiments.build import load_run
from prism_jax.folders import check_empty, new_folder, whole
from prism_jax.layers import lora
from prism_jax.models.registry import class_named
from prism_jax.trees import unflatten
from prism_jax.user_paths import UserPath
from prism_jax.weights import peft_config, peft_files


@dataclass(frozen=True)
class Export:
    run: tyro.conf.Positional[UserPath]
    """Folder of a train.finetune run (its best checkpoint), or RUN@STEP."""
    dir: tyro.conf.Positional[UserPath]
    """New or empty folder."""
    adapter: bool = False
    """Write the LoRA adapter and the modules that were trained completely, in PEFT's layout. If the run started from an
    adapter, both are written as one, whose rank is the sum. By default, the whole model is written."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type of an adapter's tensors."""

    def check(self) -> None:
        """Raises InputError if a type is given for a whole model."""
        if self.dtype != "float32" and not self.adapter:
            raise InputError(
                f"--dtype {self.dtype} is for an adapter, and a whole model is written in float32; add --adapter, "
                "or leave --dtype out"
            )


def arrays_beside(trained: checkpoint.Trained) -> str | None:
    """Returns the file of arrays that a run's exchanges used and that it did not train; None if there is none.

    Raises:
      InputError: if the file is gone.
    """
    path, used, of_ones_own = trained.config.get("exchange_arrays"), set(), False
    for text in filter(None, (*trained.config["training"]["exchanges"], trained.config.get("exchange"))):
        try:
            named = [pair for exchange in as_tuple(parse(str(text))) for pair in owners(exchange)]
        except InputError:  # its class is in the config's file, which is not read here
            of_ones_own = True
            continue
        used |= {name for name, owner in named if owns_arrays(owner)}
    lacking = sorted(used - trained.params.get(EXCHANGE, {}).keys())
    if not path or not (lacking or of_ones_own):
        return None
    if Path(path).is_file():
        return path
    if lacking:
        raise InputError(f"no file {path!r}, from which the run in {trained.run} took {lacking[0]}; put it back")
    return None  # one's own exchange may have trained all that it has


def main(argv: list[str]) -> None:
    command = flags.parse_flags(Export, __doc__, argv)
    trained = checkpoint.named(command.run)
    recipes = [run.config["training"] for run in checkpoint.chain(trained)] if command.adapter else []
    if not all(recipe["lora_rank"] for recipe in recipes):
        raise InputError(
            f"the run in {command.run}, or one that it started from, trained more than adapters; "
            "leave --adapter out to write the whole model"
        )
    path = arrays_beside(trained)
    out = output_folder(command.dir)
    check_empty(out)
    loaded = load_run(trained, class_named(trained.config["model"]))
    own_arrays = loaded.params.get(EXCHANGE)
    all_arrays = exchange_arrays.with_arrays(loaded, path).params.get(EXCHANGE)
    loaded = replace(loaded, params={name: tree for name, tree in loaded.params.items() if name != EXCHANGE})
    if command.adapter:
        modules, params = {name for recipe in recipes for name in recipe["fresh"]}, loaded.params
        if trained.config["adapter"]:  # folded into the weights that this run began with
            below = peft_files.read(trained.config["adapter"], loaded.model)
            below = {path: x for path, x in below.items() if path.split("/")[0] not in modules}  # which are saved whole
            modules |= {path.split("/")[0] for path in below if path.split("/")[-1] not in lora.NAMES}
            params = lora.joined(params, unflatten(below))
        base = hub.public_name(trained.config["weights"])
        names = trained.config["label_names"]
        with new_folder(out) as folder:
            peft_files.save(
                folder,
                loaded.model,
                params,
                base=base,
                whole=sorted(modules),
                dtype=command.dtype,
                label_names=names,
            )
        written = [peft_config.CONFIG, peft_files.WEIGHTS]
    else:
        plain = replace(loaded, params=lora.merge(loaded.params))
        weights.export(plain, out, trained.config["label_names"])
        written = ["config.json", "model.safetensors"]
    if own_arrays:
        exchange_arrays.save(out / exchange_arrays.FILE, all_arrays, command.run)
    elif path:
        with whole(out / exchange_arrays.FILE) as partial:
            shutil.copyfile(path, partial)
    if all_arrays:
        written.append(exchange_arrays.FILE)
    print(f"wrote {out}/{', '.join(written)}: step {trained.step} of {command.run}")


if __name__ == "__main__":
    run(main, sys.argv[1:])
