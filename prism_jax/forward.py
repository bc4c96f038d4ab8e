"""The one path that every model takes. Read this first.

A model has three methods that run here, see `models.base.Model`:
  `part(tokens, layout, exchange) -> rows_BRD`   embeds, runs the blocks, picks the rows that the head reads; every part
  `head(rows_BRD, real_BN, keys_B)`              from the joined rows [B, P*R, D] to the answer; on every device
  `check(num_tokens)`                            raises InputError for sequences that the model can't take
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from prism_jax.errors import InputError
from prism_jax.exchange import arrays
from prism_jax.exchange.base import Exchanges, check
from prism_jax.models.base import Model
from prism_jax.parallel.partition import Layout, Parts
from prism_jax.parallel.runner import Runner


def forward(model: Model, params: Any, parts: Parts, exchange: Exchanges, run: Runner) -> Any:
    """Encodes every part on its own device, joins the rows that the head reads, and runs the head.

    A pure function of `params` and `parts`: jit it, differentiate it. Cut the batch first: `parts = run.split(batch)`.
    On a mesh, take the gradient inside `jit`, or inside `with jax.set_mesh(run.mesh)`.

    Args:
      model: for instance `models.bert.BertForSequenceClassification(config)`.
      params: the model's parameters.
      parts: a batch, cut by `run.split`.
      exchange: one exchange, or a tuple with one for each block.
      run: `on_mesh(P)` or `on_one_device(P)`.

    Returns:
      What the model's head returns.

    Raises:
      InputError: if the model or the exchange can't run on this many tokens and parts, the batch was cut into another
        number of parts, or the parameters lack arrays of the exchange.
    """
    rows_BRD = encode(model, params, parts, exchange, run)
    return Head(model, params, run)(rows_BRD, parts)


def encode(model: Model, params: Any, parts: Parts, exchange: Exchanges, run: Runner) -> jax.Array:
    """Returns the joined rows that the head reads, [B, P*R, D]. Arguments and errors as for `forward`."""
    check_batch(model, parts, exchange, run)

    def encode_part(params: Any, tokens: dict[str, jax.Array], layout: Layout) -> Any:
        with_arrays = bound(model, exchange, params)
        return model.apply({"params": params}, tokens, layout, with_arrays, method="part")

    return run(encode_part, params, parts)


def check_batch(model: Model, parts: Parts, exchange: Exchanges, run: Runner) -> None:
    """Raises InputError if a runner, a model or an exchange can't run on a batch that was cut into parts."""
    if parts.num_parts != run.num_parts:
        raise InputError(
            f"the batch was cut into {parts.num_parts} parts, but the runner has {run.num_parts}; use run.split(batch)"
        )
    model.check(parts.num_tokens)
    check(exchange, parts.num_tokens, run.num_parts)


def bound(model: Model, exchange: Exchanges, params: Any) -> Exchanges:
    """Returns the exchange with its arrays from `params`, one for each block if it has any, see `exchange.arrays`."""
    return arrays.bind(exchange, params, model.config.stack.num_layers, model.config.stack.width_of)


@dataclass(frozen=True)
class Head:
    """The head of a model, on the rows that the parts returned. Tasks read it.

    Attributes:
      model: the model that gave the rows.
      params: its parameters.
      run: the runner that joined the rows.
    """

    model: Model
    params: Any
    run: Runner

    def __call__(self, rows_BRD: jax.Array, parts: Parts) -> Any:
        """Returns the answer for a whole batch, from the rows of `encode`."""
        keys_B = parts.keys_B
        if keys_B is not None:  # not those of any part
            keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, parts.num_parts)
        real_BN = jnp.asarray(parts.real_BN)[:, : parts.num_tokens]  # NumPy's, outside of jit
        return self.model.apply({"params": self.params}, rows_BRD, real_BN, keys_B, method="head")
