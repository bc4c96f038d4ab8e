"""Arrays of exchanges in the tree of parameters: `exchange/NAME/block_I/ARRAY`.

An exchange that needs arrays, such as codebooks, states them and is given those of its block before it runs. An
exchange of keys and values has arrays of another NAME than one of rows.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from prism_jax.errors import InputError
from prism_jax.exchange.base import Exchange, Exchanges, as_tuple, per_block
from prism_jax.exchange.block_array import BlockArray
from prism_jax.exchange.codebooks import Codebooks
from prism_jax.exchange.principal import Principal
from prism_jax.exchange.wrapped import Wrapped

EXCHANGE = "exchange"
"""First name of the arrays in a tree of parameters."""

FromRows = Codebooks | Principal
"""Exchanges whose arrays `train.calibrate` makes from the rows of a model. They have no start."""

WidthOf = Callable[[Exchange], int]
"""Returns the numbers in a row that an exchange is called on, in some model: its `TransformerConfig.width_of`."""


def owners(exchange: Exchange) -> Iterator[tuple[str, Exchange]]:
    """Yields an exchange and the ones that it wraps, each with NAME, from the outside in."""
    suffix = "_keys_values" if exchange.keys_values else ""
    while True:
        yield exchange.arrays_name + suffix, exchange
        if not isinstance(exchange, Wrapped):
            return
        exchange = exchange.of


def owns_arrays(exchange: Exchange) -> bool:
    """Returns whether an exchange may have arrays of its own, beside those of one that it wraps."""
    return type(exchange).arrays is not Exchange.arrays


def stated(exchange: Exchanges, num_layers: int, width_of: WidthOf) -> dict[str, BlockArray]:
    """Returns the arrays that exchanges need, by their paths `exchange/NAME/block_I/ARRAY`.

    Args:
      exchange: one for all blocks, or one for each.
      num_layers: number of blocks.
      width_of: numbers in the rows of an exchange.
    """
    return {
        f"{EXCHANGE}/{name}/block_{i}/{array}": spec
        for i, of_block in enumerate(per_block(exchange, num_layers))
        for name, owner in owners(of_block)
        for array, spec in owner.arrays(width_of(of_block)).items()
    }


def has_arrays(exchange: Exchanges, width_of: WidthOf) -> bool:
    """Returns whether an exchange, or one of several, needs arrays."""
    return any(owner.arrays(width_of(one)) for one in as_tuple(exchange) for _, owner in owners(one))


def starts(exchanges: Iterable[Exchanges], num_layers: int, width_of: WidthOf) -> dict[str, jax.Array]:
    """Returns the initial values of the trained arrays, by path."""
    specs = {path: spec for one in exchanges for path, spec in stated(one, num_layers, width_of).items()}
    return {path: _start(spec.shape, spec.start) for path, spec in specs.items() if spec.start is not None}


def _start(shape: tuple[int, ...], value: float) -> jax.Array:
    return jnp.full(shape, value, jnp.float32)


def bind(exchange: Exchanges, params: Any, num_layers: int, width_of: WidthOf) -> Exchanges:
    """Returns the exchange of each block with its arrays, or `exchange` itself if it has none.

    A trained array that the parameters lack has its initial value.

    Args:
      exchange: one for all blocks, or one for each.
      params: of the model, the arrays among them.
      num_layers: number of blocks.
      width_of: numbers in the rows of an exchange.

    Raises:
      InputError: if the parameters lack an array, or have it in another shape.
    """
    if not has_arrays(exchange, width_of):
        return exchange

    def with_those_of_block(of_block: Exchange, i: int) -> Exchange:
        width = width_of(of_block)
        *outer, innermost = (
            _with_arrays(owner, params.get(EXCHANGE, {}).get(name, {}).get(f"block_{i}", {}), width)
            for name, owner in owners(of_block)
        )
        for wrapped in reversed(outer):
            assert isinstance(wrapped, Wrapped)
            innermost = replace(wrapped, of=innermost)
        return innermost

    return tuple(with_those_of_block(of_block, i) for i, of_block in enumerate(per_block(exchange, num_layers)))


def way_to_start(name: str, spec: BlockArray) -> str:
    """Returns the advice for a learned array without a start."""
    return f"give {name} a start, as in BlockArray({spec.shape}, start=0.0)"


def _with_arrays(exchange: Exchange, arrays: dict[str, jax.Array], features: int) -> Exchange:
    """Returns an exchange with its own arrays."""
    own = {}
    for name, spec in exchange.arrays(features).items():
        if name in arrays:
            own[name] = arrays[name]
        elif spec.start is not None:
            own[name] = _start(spec.shape, spec.start)
        else:
            way_out = (
                "make them with train.calibrate, and give its file with --exchange-arrays"
                if isinstance(exchange, FromRows)
                else f"{way_to_start(name, spec)}, or give a file that has it with --exchange-arrays"
            )
            raise InputError(f"the weights lack the arrays of {exchange}; {way_out}")
        if own[name].shape != spec.shape:
            way_out = (
                "make them again with train.calibrate"
                if isinstance(exchange, FromRows)
                else "give those of the same exchange"
            )
            raise InputError(
                f"{exchange} needs {name} of shape {spec.shape}, but the weights have {own[name].shape}; {way_out}"
            )
    return exchange.with_arrays(own) if own else exchange
