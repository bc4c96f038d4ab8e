"""The training step: pure, and it donates its state."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

LossFunction = Callable[[Any, Any, Any], tuple[jax.Array, dict[str, jax.Array]]]
"""`(trained, frozen, batch) -> loss, metrics`."""


@flax.struct.dataclass
class TrainState:
    """All that a step changes.

    Attributes:
      step: steps taken.
      params: the trained parameters.
      opt_state: of the optimiser.
    """

    step: jax.Array
    params: Any
    opt_state: Any


def init_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step, in arrays of its own."""
    params = jax.tree.map(jnp.array, params)
    return TrainState(jnp.int32(0), params, optimizer.init(params))


def make_step(
    loss: LossFunction, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, Any, Any], tuple[TrainState, dict]]:
    """A compiled `step(state, frozen, batch) -> state, metrics`."""

    @partial(jax.jit, donate_argnums=0)
    def step(state, frozen, batch):
        (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(state.params, frozen, batch)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradient), **metrics}
        return TrainState(state.step + 1, params, opt_state), metrics

    return step
