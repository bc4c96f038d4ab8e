"""The one path that every model takes. Read this first.

A model has three methods that run here, see `models.base.Model`:
  `part(tokens, layout, exchange) -> rows_BRD`   embeds, runs the blocks, picks the rows that the head reads; every part
  `head(rows_BRD, real_BN, keys_B)`              from the joined rows [B, P*R, D] to the answer; on the terminal
  `check(num_tokens)`                            raises InputError for sequences that the model can't take
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from prism_jax.errors import InputError
from prism_jax.exchange import arrays
from prism_jax.exchange.base import Exchanges, check
from prism_jax.exchange.baselines import WholeSequence
from prism_jax.layers.transformer import Attention, Block
from prism_jax.models.base import Model
from prism_jax.parallel.partition import Layout, Parts, split
from prism_jax.parallel.runner import PlacedRunner, Runner
from prism_jax.trees import unflatten


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
      InputError: if the model or the exchange can't run on this many tokens and parts.
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


@flax.struct.dataclass
class Insides:
    """What the blocks of a part compute, [B, T, D] for each block. Rows beside those of tokens stand in front.

    Attributes:
      blocks: rows after each block.
      attention: output of the attention of each block, before it is added to the rows.
    """

    blocks: tuple[jax.Array, ...]
    attention: tuple[jax.Array, ...]


def part_with_insides(
    model: Model, params: Any, tokens: dict[str, jax.Array], layout: Layout, exchange: Exchanges
) -> tuple[jax.Array, Insides]:
    """Returns the rows of one part that the head reads, and what its blocks compute. Called as `Model.part`."""

    def is_kept(module: nn.Module, method: str) -> bool:
        return isinstance(module, Block | Attention) and method == "__call__"

    how: dict[str, Any] = {"method": "part", "capture_intermediates": is_kept, "mutable": ["intermediates"]}
    rows_BRD, kept = model.apply({"params": params}, tokens, layout, bound(model, exchange, params), **how)
    by_block: dict[str, jax.Array] = {}
    by_attention: dict[str, jax.Array] = {}
    for (*_, module, name, _), (value,) in flax.traverse_util.flatten_dict(kept["intermediates"]).items():
        if name == "attention":
            by_attention[module] = value
        else:
            by_block[name] = value[0]
    names = [f"block_{i}" for i in range(len(by_block))]
    return rows_BRD, Insides(tuple(by_block[name] for name in names), tuple(by_attention[name] for name in names))


def block_outputs(model: Model, params: Any, parts: Parts, exchange: Exchanges, run: Runner) -> tuple[jax.Array, ...]:
    """Returns the rows [B, P*T, D] that each block gives, each part's with that part,
    to compare exchanges block by block."""

    def every_block(params: Any, tokens: dict[str, jax.Array], layout: Layout) -> tuple[jax.Array, ...]:
        return part_with_insides(model, params, tokens, layout, exchange)[1].blocks

    return run.each(every_block, params, parts)


def init_params(model: Model, key: jax.Array) -> Any:
    """Returns freshly drawn parameters for `model`."""
    shapes = model.batch_shapes(1, 1)
    tokens = {name: jnp.zeros(x.shape, x.dtype) for name, x in shapes.items()}
    num_tokens = next(iter(shapes.values())).shape[1]
    layout = Layout(jnp.int32(0), jnp.ones((1, num_tokens), bool), None, num_parts=1, num_tokens=num_tokens)

    def init(module: Any) -> Any:
        return module.head(module.part(tokens, layout, WholeSequence()), layout.real_BN)

    return nn.init(init, model)(key)["params"]


def params_shapes(model: Model) -> Any:
    """Returns the shapes of the parameters of `model`, without making them."""
    return jax.tree.map(lambda x: x, _params_shapes(model))  # a new tree


@lru_cache(maxsize=64)
def _params_shapes(model: Model) -> Any:
    """Returns the same, traced once for a model."""
    return jax.eval_shape(lambda: init_params(model, jax.random.key(0)))


def parts_shapes(model: Model, num_parts: int, batch_size: int, num_tokens: int) -> Parts:
    """Returns the shapes of a batch that is cut into parts."""
    shapes = model.batch_shapes(batch_size, num_tokens)
    return jax.eval_shape(lambda: split({name: jnp.zeros(x.shape, x.dtype) for name, x in shapes.items()}, num_parts))


def lower(model: Model, exchange: Exchanges, run: PlacedRunner, batch_size: int, num_tokens: int) -> jax.stages.Lowered:
    """Lowers `forward` for one shape of batches, without values. `.compile()` gives a program of `(params, parts)`."""

    def program(params: Any, parts: Parts) -> Any:
        return forward(model, params, parts, exchange, run)

    parts = parts_shapes(model, run.num_parts, batch_size, num_tokens)
    stack = model.config.stack
    of_exchange = {
        path: jax.ShapeDtypeStruct(spec.shape, jnp.float32)
        for path, spec in arrays.stated(exchange, stack.num_layers, stack.width_of).items()
    }
    params = {**params_shapes(model), **unflatten(of_exchange)}
    return jax.jit(program).lower(*run.shapes(params, parts))
