"""Learned arrays of exchanges, fitted block by block to the attention of the exact model.

Each block gets the rows that it reads on one device, so its error is its own and not that of the blocks before. The
loss is that of LoLCATs (arXiv 2410.10254), the error of the outputs of attention. Nothing but the arrays changes.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import optax

from prism_jax.data.datasets import Dataset, subset
from prism_jax.data.text import bucket_lengths
from prism_jax.errors import InputError
from prism_jax.exchange import arrays
from prism_jax.exchange.base import Exchange, Exchanges
from prism_jax.exchange.setting import Setting
from prism_jax.experiments.recipe import Experiment
from prism_jax.forward import bound, check_batch
from prism_jax.layers.transformer import Attention, Block
from prism_jax.models.base import Model
from prism_jax.parallel.one_device import on_one_device
from prism_jax.parallel.partition import Layout, Parts
from prism_jax.parallel.runner import Runner
from prism_jax.progress import Progress
from prism_jax.tasks import prepare
from prism_jax.tasks.batches import training_batches
from prism_jax.trees import flatten, unflatten
from prism_jax.weights import Pretrained
from train.distill import EXACT, relative_error

BATCH_SIZE = 16
"""Examples of a step."""


def check(kind: type[Model], exchange: Exchange) -> None:
    """Raises InputError if the arrays of an exchange can't be fitted in a block alone, in models of a class."""
    if exchange.remembers:
        raise InputError(
            f"{exchange} reads rows of an earlier block, but arrays are fitted in each block alone; "
            "name the exchange inside, and use its file for both"
        )
    if kind.extra_rows:
        raise InputError(
            f"{kind.__name__} has a class token on every part, but arrays are fitted without it; "
            "use the config of the plain model, whose file serves both"
        )


def check_starts(exchange: Exchange, width_of: arrays.WidthOf) -> None:
    """Raises InputError if a learned array of an exchange, or of one that it wraps, has no start."""
    for _, owner in arrays.owners(exchange):
        for name, spec in owner.arrays(width_of(exchange)).items():
            if spec.start is None and not isinstance(owner, arrays.FromRows):
                raise InputError(
                    f"{owner} has an array without a start, which can't be fitted; {arrays.way_to_start(name, spec)}"
                )


def fit(
    experiment: Experiment,
    pretrained: Pretrained,
    dataset: Dataset,
    examples: int,
    settings: Sequence[Setting],
    steps: int,
    rate: float,
) -> dict[str, Any]:
    """Returns the learned arrays that exchanges share, by their name, by block, and by their own names.

    Args:
      experiment: the experiment.
      pretrained: the model, with the arrays of the exchange that are not learned.
      dataset: training examples.
      examples: number of examples to read, at even distances.
      settings: exchanges and numbers of parts, in turn.
      steps: number of steps of Adam.
      rate: learning rate of the first step. It falls to 0 by a cosine.
    """
    model = pretrained.model
    lengths = bucket_lengths(experiment.buckets, experiment.num_tokens)
    task = prepare(subset(dataset, examples), pretrained, experiment.num_tokens)
    batches = training_batches(task, lengths, BATCH_SIZE, experiment.training.seed)
    adam = optax.adam(optax.cosine_decay_schedule(rate, steps))

    def step_through(setting: Setting, run: Runner) -> Any:
        @jax.jit
        def step(learned: Any, state: Any, params: Any, batch: Parts, weight_B: jax.Array) -> tuple[Any, Any]:
            def loss(learned: Any) -> jax.Array:
                sum_B, count_B = attention_errors(model, with_learned(params, learned), batch, setting.exchange, run).T
                return (weight_B * sum_B).sum() / (weight_B * count_B).sum()

            updates, state = adam.update(jax.grad(loss)(learned), state)
            return optax.apply_updates(learned, updates), state

        return step

    stack = model.config.stack
    exchanges = [setting.exchange for setting in settings]
    learned: Any = arrays.starts(exchanges, stack.num_layers, stack.width_of)
    state, params = adam.init(learned), jax.device_put(pretrained.params)
    runners = [on_one_device(setting.num_parts) for setting in settings]
    in_turn = itertools.cycle(zip(runners, map(step_through, settings, runners), strict=True))
    steps_left = Progress(range(steps), ", ".join(map(str, settings)), unit="step")
    for _, batch, (run, step) in zip(steps_left, batches, in_turn, strict=False):
        ahead = step(learned, state, params, run.split(batch.tokens), batch.weight_B)
        learned, state = jax.block_until_ready(ahead)  # so that the progress is true
    return unflatten(jax.device_get(learned))[arrays.EXCHANGE]


def with_learned(params: Any, learned: Any) -> Any:
    """Returns parameters with arrays given by path."""
    return unflatten({**flatten(params), **learned})


def attention_errors(model: Model, params: Any, parts: Parts, exchange: Exchanges, run: Runner) -> jax.Array:
    """Returns the squared relative errors of the outputs of attention, with exact rows before each block: their sum
    over the tokens and blocks of each example, and their number, [B, 2]."""
    check_batch(model, parts, exchange, run)

    def errors(params: Any, tokens: dict[str, jax.Array], layout: Layout) -> jax.Array:
        with_arrays, outputs = bound(model, exchange, params), []

        def run_twice(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
            """Runs each block through the exchange, and then exactly. The next one gets the exact rows."""
            if context.method_name != "__call__" or not isinstance(context.module, Block | Attention):
                return call(*args, **kwargs)
            if isinstance(context.module, Attention):
                outputs.append(call(*args, **kwargs))
                return outputs[-1]
            x_BTD, of_block, of_layout = args
            call(x_BTD, of_block, of_layout)
            return call(x_BTD, EXACT, of_layout)

        with nn.intercept_methods(run_twice):
            model.apply({"params": params}, tokens, layout, with_arrays, method="part")
        return relative_error(tuple(outputs[::2]), jax.lax.stop_gradient(tuple(outputs[1::2])), layout)

    return run(errors, params, parts).sum(1)
