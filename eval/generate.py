"""Continues prompts, with a cache on the device of the last part.

python -m eval.generate configs/X.py --prompt "Once upon a time" ["A second one" ...] [--prompt-file FILE] [--chat]
        [--max-new-tokens 64] [--temperature 0.8] [--top-k 50] [--top-p 0.95] [--seed 0] [--exchange segment_means:8]
        [--num-parts 4] [--checkpoint RUN] [flags]
    -> streams the texts, then compares cache bytes and tokens per second with one device; DIR/results.json
"""

import sys
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import jax

from eval.generating import prompts
from eval.generating.stream import compare, prompt_layout, stop_tokens, stream_texts
from eval.reporting import files
from eval.reporting.text_table import Column, TextTable
from eval.scoring.load import check_variant, is_run, load_variant
from prism_jax.cli import flags
from prism_jax.cli.entry import output_folder, run
from prism_jax.cli.flags import Flat
from prism_jax.data import text
from prism_jax.errors import InputError
from prism_jax.exchange.baselines import WholeSequence
from prism_jax.exchange.setting import Setting
from prism_jax.experiments import exchange_arrays, recipe
from prism_jax.experiments.recipe import Evaluation, Experiment, Preparation
from prism_jax.generation import Generator
from prism_jax.parallel.mesh import emulate_devices, on_mesh
from prism_jax.parallel.one_device import on_one_device
from prism_jax.parallel.processes import check_same, from_terminal, is_terminal, several
from prism_jax.progress import say
from prism_jax.records import Count
from prism_jax.sampling import Sampling
from prism_jax.user_paths import UserPath
from prism_jax.weights import Pretrained


@dataclass(frozen=True)
class Generate:
    UNREAD: ClassVar = {
        **dict.fromkeys(
            (
                *("--batch-size", "--data-source", "--split", "--limit"),
                *("--training.validation", "--training.validation-limit"),
            ),
            "--prompt or --prompt-file, with the texts to continue",
        ),
        "--buckets": "--bucket",
    }
    experiment: Flat[Experiment]
    evaluation: Flat[Evaluation]
    setting: Flat[Setting]
    training: Preparation
    prompt: tuple[str, ...] = ()
    """One or more texts to continue."""
    prompt_file: UserPath | None = None
    """File with more of them: a text on each line, or with the name .jsonl a JSON string on each line."""
    chat: bool = False
    """Each prompt is a message of a user, which the model answers. It is put into the tokenizer's chat template."""
    max_new_tokens: Count = 64
    sampling: Flat[Sampling] = Sampling()
    stop: str | None = None
    """The only token that ends a text. The default is those of generation_config.json, else of config.json, else the
    tokenizer's."""
    bucket: Count = 16
    """Prompts are padded on the left to a multiple of this many tokens. Part boundaries depend on the padded length."""
    compare: bool = True
    """Compare cache and speed with one device, after the texts."""
    checkpoint: UserPath | None = None
    """Folder of a train.finetune run (its best checkpoint, or RUN@STEP), or of an adapter in PEFT's layout. The default
    is the config's weights."""
    out: UserPath = "runs/generate"
    """Folder for the results."""


def check(experiment: Experiment, command: Generate) -> Pretrained:
    """Raises the errors of a model and its weights that show before they are read. Returns the model without
    parameters."""
    exchange_arrays.check(experiment.exchange_arrays)
    found = check_variant(experiment, command.checkpoint).pretrained
    if not is_run(command.checkpoint):
        exchange_arrays.check_complete(experiment.exchange_arrays, found.model, [command.setting.exchange])
    return found


def speed_table(rows: list[dict]) -> str:
    """Returns cache and speed as text, each with its ratio to the first record."""
    first = rows[0]
    columns = (Column("exchange", 20), Column("parts", 5, right=True), Column("cache MB", 10, right=True))
    others = (Column(title, 9, right=True) for title in ("vs first", "tokens/s", "vs first"))
    cells = []
    for row in rows:
        speed = row["tokens_per_second"]
        speeds = (f"{speed:.1f}", f"{speed / first['tokens_per_second']:.2f}") if speed else ("-", "-")
        cache = (f"{row['cache_bytes'] / 1e6:.3f}", f"{row['cache_bytes'] / first['cache_bytes']:.2f}")
        cells.append((row["exchange"], str(row["num_parts"]), *cache, *speeds))
    return TextTable((*columns, *others)).text(cells)


def main(argv: list[str]) -> None:
    command = flags.parse(Generate, __doc__, argv)
    experiment, setting, new = command.experiment, command.setting, command.max_new_tokens
    if not hasattr(experiment.model, "prefill"):
        raise InputError(
            f"{experiment.model.__name__} does not generate text; choose a config of a causal language model, such as "
            "configs/smollm2.py"
        )
    texts = from_terminal(lambda: prompts.all_of(command.prompt, command.prompt_file))
    if not texts:
        raise InputError('no prompt; give --prompt "Once upon a time", or --prompt-file with several texts')
    if several() and setting.num_parts != jax.device_count():
        raise InputError(
            f"num_parts is {setting.num_parts}; choose {jax.device_count()}, the number of devices of all processes"
        )
    emulate_devices(setting.num_parts)
    out = output_folder(command.out)
    # No split is read. Texts have lengths of their own, but an experiment with the weights of a run must have its N.
    to_load = replace(experiment, evaluation=replace(command.evaluation, split="test"))
    to_load = to_load if is_run(command.checkpoint) else replace(to_load, num_tokens=1)
    found = check(to_load, command)
    assert found.folder is not None  # the folder of the tokenizer
    tokenizer = text.load_tokenizer(found.folder, found.model.config.vocab_size)
    if command.chat:
        texts = from_terminal(lambda: prompts.as_chats(tokenizer, texts))
    ids = from_terminal(lambda: prompts.token_ids(tokenizer, texts, chat=command.chat))
    stop = stop_tokens(tokenizer, found.folder, command.stop)
    print(prompt_layout(found.model, setting, command.bucket, ids, new), flush=True)
    say(f"reading weights: {command.checkpoint or experiment.weights}")
    loaded = load_variant(to_load, None, command.checkpoint)
    check_same("weights", loaded.params)
    make = partial(Generator, loaded.model, loaded.params, bucket=command.bucket)
    parts = make(setting.exchange, on_mesh(setting.num_parts))
    say("compiling")
    added = stream_texts(parts, tokenizer, texts, ids, new, command.sampling, stop)
    rows = []
    if command.compare:
        rows = compare([make(WholeSequence(), on_one_device(1)), parts], ids, new, command.sampling)
    if not is_terminal():
        return
    if command.compare:
        print(speed_table(rows))
    content = {"schema": files.SCHEMA, "config": recipe.to_json(experiment), "environment": files.environment()}
    content["texts"] = [{"prompt": text, "new": more} for text, more in zip(texts, added, strict=True)]
    files.write_json(out, content | {"rows": rows})
    print(f"wrote {out}/results.json")


if __name__ == "__main__":
    run(main, sys.argv[1:])
