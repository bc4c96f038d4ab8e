"""The training step: pure, and it donates its state."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

LossFunction = Callable[[Any, Any, Any], tuple[jax.Array, jax.Array]]
"""`(trained, frozen, batch) -> losses of the rows, weights of the rows`."""


@flax.struct.dataclass
class TrainState:
    """All that a step changes.

    Attributes:
      step: steps taken.
      params: the trained parameters.
      opt_state: of the optimiser.
      key: random key data; that of a step follows from it and `step`.
      finite: whether every loss, gradient and change so far was a finite number. Where not, the rest is as it was before.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    key: jax.Array
    finite: jax.Array


def init_state(params: Any, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step, in arrays of its own."""
    params = jax.tree.map(jnp.array, params)
    key = jax.random.key_data(jax.random.key(seed))
    return TrainState(jnp.int32(0), params, optimizer.init(params), key, jnp.bool(True))


def step_key(state: TrainState, step: int) -> jax.Array:
    """The random key of a step."""
    return jax.random.fold_in(jax.random.wrap_key_data(state.key), step)


def make_step(
    losses: LossFunction, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, Any, Any, jax.Array], tuple[TrainState, dict]]:
    """A compiled `step(state, frozen, batch, weight_B) -> state, metrics`.

    The loss is the sum of the rows' losses by that of their weights, so what fills up a batch has no part in it. After a
    loss or a change that is not finite the state stays as it was before, in this step and every later one.
    """

    def loss(trained, frozen, batch, weight_B):
        loss_B, amount_B = losses(trained, frozen, batch)
        return (loss_B * weight_B).sum() / (amount_B * weight_B).sum()

    @partial(jax.jit, donate_argnums=0)
    def step(state, frozen, batch, weight_B):
        value, gradient = jax.value_and_grad(loss)(state.params, frozen, batch, weight_B)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        norm = optax.tree.norm(gradient)
        finite = state.finite & jnp.isfinite(value) & jnp.isfinite(norm) & jnp.isfinite(optax.tree.norm(updates))
        new = TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state, state.key, finite)
        new = jax.tree.map(partial(jnp.where, finite), new, replace(state, finite=finite))
        return new, {"loss": value, "gradient_norm": norm, "finite": finite}

    return step
