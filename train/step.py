"""The training step. It is a pure function that donates its state."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from prism_jax.exchange.base import Exchanges
from prism_jax.forward import Head, encode
from prism_jax.models.base import Model
from prism_jax.parallel.partition import Parts
from prism_jax.parallel.runner import Runner
from prism_jax.tasks.base import Task
from train.trainable import combine

LossFunction = Callable[[Any, Any, Any], tuple[jax.Array, jax.Array]]
"""`(trained, frozen, batch) -> losses of the sequences [B], numbers of their predictions [B]`. With a teacher,
the second argument is a `distill.Taught`."""

StepFunction = Callable[["TrainState", Any, Any, Any], tuple["TrainState", dict[str, jax.Array]]]
"""`(state, frozen, batch, weight_B) -> state, metrics`, compiled. The metrics are `loss`,
`gradient_norm` and `finite`."""


@flax.struct.dataclass
class TrainState:
    """All values that a step changes.

    Attributes:
      step: number of steps taken.
      params: trained parameters, with None for frozen ones.
      opt_state: state of the optimizer.
      key: random key data of the run; `step_key` derives the key of a step from it.
      finite: whether every loss, gradient and update so far was finite. If not, the other fields are those before the
        first step that was not.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    key: jax.Array
    finite: jax.Array


def init_state(params: Any, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """Returns the state before the first step. It shares no array with `params`, since a step donates its state."""
    params = jax.tree.map(jnp.array, params)
    key = jax.random.key_data(jax.random.key(seed))
    return TrainState(jnp.int32(0), params, optimizer.init(params), key, jnp.bool(True))


def step_key(state: TrainState, step: int) -> jax.Array:
    """Returns the random key of a step."""
    return jax.random.fold_in(jax.random.wrap_key_data(state.key), step)


def task_losses(task: Task, model: Model, exchange: Exchanges, runner: Runner) -> LossFunction:
    """Returns the loss function of a task for a model that runs on `runner` with `exchange` between the parts.

    A batch is the pair of `runner.split(tokens)` and the targets.
    """

    def losses(trained: Any, frozen: Any, batch: tuple[Parts, jax.Array]) -> tuple[jax.Array, jax.Array]:
        parts, targets = batch
        params = combine(trained, frozen)
        rows_BRD = encode(model, params, parts, exchange, runner)
        return task.losses(Head(model, params, runner), rows_BRD, parts, targets)

    return losses


def make_step(losses: LossFunction, optimizer: optax.GradientTransformation) -> StepFunction:
    """Returns a compiled training step.

    The loss of a batch is the sum of the sequences' losses divided by the number of their predictions. Both sums take
    the loss weights `weight_B` as factors: sequences that only fill up a batch have 0 and change neither. After a loss,
    gradient or update that is not finite, the state stays unchanged, in this step and in all later ones.
    """

    def loss(trained: Any, frozen: Any, batch: Any, weight_B: jax.Array) -> jax.Array:
        loss_B, amount_B = losses(trained, frozen, batch)
        return (loss_B * weight_B).sum() / (amount_B * weight_B).sum()

    @partial(jax.jit, donate_argnums=0)
    def step(
        state: TrainState, frozen: Any, batch: Any, weight_B: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        value, gradient = jax.value_and_grad(loss)(state.params, frozen, batch, weight_B)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        norm = optax.tree.norm(gradient)
        finite = state.finite & jnp.isfinite(value) & jnp.isfinite(norm) & jnp.isfinite(optax.tree.norm(updates))
        new = TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state, state.key, finite)
        new = jax.tree.map(partial(jnp.where, finite), new, replace(state, finite=finite))
        return new, {"loss": value, "gradient_norm": norm, "finite": finite}

    return step
