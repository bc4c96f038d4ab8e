"""Arrays of exchanges in the tree of parameters: `exchange/NAME/block_I/ARRAY`.

An exchange that needs arrays, such as codebooks, states their shapes and is given those of its block before it runs.
"""

from typing import Any

import jax

from prism_jax.errors import InputError
from prism_jax.exchange.base import Exchange, Exchanges, as_tuple, per_block

EXCHANGE = "exchange"
"""First name of the arrays in a tree of parameters."""


def shapes(exchange: Exchanges, num_layers: int, features: int) -> dict[str, Any]:
    """Returns the shapes of the arrays of exchanges as a tree of parameters. It is empty if they have none.

    Args:
      exchange: of all blocks, or one for each.
      num_layers: number of blocks.
      features: D.
    """
    tree: dict[str, Any] = {}
    for i, of_block in enumerate(per_block(exchange, num_layers)):
        if arrays := of_block.arrays(features):
            tree.setdefault(of_block.arrays_name, {})[f"block_{i}"] = arrays
    return {EXCHANGE: tree} if tree else {}


def bind(exchange: Exchanges, params: Any, num_layers: int, features: int) -> Exchanges:
    """Returns the exchange of each block with its arrays, or `exchange` itself if it has none.

    Args:
      exchange: of all blocks, or one for each.
      params: of the model, the arrays among them.
      num_layers: number of blocks.
      features: D.

    Raises:
      InputError: if the parameters lack an array, or have it in another shape.
    """
    if not any(one.arrays(features) for one in as_tuple(exchange)):
        return exchange
    return tuple(
        _bind(of_block, params.get(EXCHANGE, {}).get(of_block.arrays_name, {}).get(f"block_{i}", {}), features)
        for i, of_block in enumerate(per_block(exchange, num_layers))
    )


def _bind(exchange: Exchange, arrays: dict[str, jax.Array], features: int) -> Exchange:
    for name, wanted in exchange.arrays(features).items():
        if name not in arrays:
            raise InputError(
                f"the weights lack the arrays of {exchange}; make them with train.calibrate, and give its file with "
                "--exchange-arrays"
            )
        if arrays[name].shape != wanted.shape:
            raise InputError(
                f"{exchange} needs {name} of shape {wanted.shape}, but the weights have {arrays[name].shape}; "
                "make them again with train.calibrate"
            )
    return exchange.with_arrays(arrays)
