"""Dropout that is the same however a batch is cut over a mesh."""

import jax
import jax.numpy as jnp


def keep_factors(shape: tuple[int, ...], rate: float, keys_B: jax.Array | None, site: int) -> jax.Array | None:
    """Returns dropout as factors, 0 or 1 / (1 - rate); None without keys or with a rate of 0.

    Each example has a key and each `site` of a block its own factors, so cutting the batch over a mesh changes nothing.
    """
    if keys_B is None or rate == 0.0:
        return None
    keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, site)
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, jnp.float32(1 - rate), shape[1:]))(keys_B)
    return kept.astype(jnp.float32) / (1 - rate)


def dropout(x: jax.Array, rate: float, keys_B: jax.Array | None, site: int) -> jax.Array:
    """Returns `x` with dropout, see `keep_factors`."""
    keep = keep_factors(x.shape, rate, keys_B, site)
    return x if keep is None else x * keep.astype(x.dtype)
