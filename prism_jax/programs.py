"""Programs around `forward`: its lowered form, freshly drawn parameters, and what the blocks compute inside."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from prism_jax.errors import InputError
from prism_jax.exchange import arrays
from prism_jax.exchange.base import Exchanges
from prism_jax.exchange.baselines import WholeSequence
from prism_jax.forward import Head, bound, encode, forward
from prism_jax.layers.transformer import Attention, Block
from prism_jax.models.base import Model
from prism_jax.parallel.mesh import OnMesh
from prism_jax.parallel.overlapped import Gather, OverlappedOnMesh
from prism_jax.parallel.partition import Layout, Parts, split
from prism_jax.parallel.runner import PlacedRunner, Runner
from prism_jax.trees import unflatten


@flax.struct.dataclass
class Insides:
    """Outputs inside the blocks of a part, [B, T, D] for each block. Rows beside those of tokens stand in front.

    Attributes:
      blocks: rows after each block.
      attention: output of the attention of each block, before it is added to the rows.
    """

    blocks: tuple[jax.Array, ...]
    attention: tuple[jax.Array, ...]


def part_with_insides(
    model: Model, params: Any, tokens: dict[str, jax.Array], layout: Layout, exchange: Exchanges
) -> tuple[jax.Array, Insides]:
    """Returns the rows of one part that the head reads, and the outputs inside its blocks. Called as `Model.part`."""

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


@dataclass(frozen=True)
class Overlapped:
    """`forward` on a mesh, as several programs: blocks compute while rows are under way. Made by `overlapped`.

    Attributes:
      model: the model.
      exchange: one exchange, or a tuple with one for each block.
      run: the runner, for this model and exchange alone.
    """

    model: Model
    exchange: Exchanges
    run: OverlappedOnMesh

    def __call__(self, params: Any, parts: Parts) -> Any:
        """Returns what `forward` returns. The first call for a shape compiles.

        Raises:
          InputError: inside jit or grad; or if the model or the exchange can't run on this many tokens and parts.
        """
        rows_BRD = encode(self.model, params, parts, self.exchange, self.run)
        return _head(self.model, OnMesh(self.run.mesh))(params, rows_BRD, parts)

    @property
    def launches(self) -> list[jax.stages.Compiled | Gather]:
        """The programs and gathers up to the join, in the order of their launch, for all shapes so far."""
        return [program for made in self.run.made.values() for _, program in made.launches]


def overlapped(model: Model, exchange: Exchanges, run: OnMesh) -> Overlapped:
    """Returns `forward` as a program of `(params, parts)` that hides the collectives of `displaced` behind the blocks.

    It gives values only. Call it outside of jit, with parameters from `run.replicate` and parts from `run.split`.

    Raises:
      InputError: if the runner has no mesh.
    """
    if not isinstance(run, OnMesh):
        raise InputError(f"parts on {type(run).__name__} exchange nothing that could be hidden; give on_mesh(P)")
    return Overlapped(model, exchange, OverlappedOnMesh(run.mesh))


@cache
def _head(model: Model, run: OnMesh) -> Callable[[Any, jax.Array, Parts], Any]:
    return jax.jit(lambda params, rows_BRD, parts: Head(model, params, run)(rows_BRD, parts))
