"""Activations by their Hugging Face names."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp


@jax.custom_jvp
def exact_gelu(x: jax.Array) -> jax.Array:
    """`x Phi(x)`, elementwise, with Phi the normal distribution function (arXiv 1606.08415).

    The derivative is written out, `Phi(x) + x phi(x)`: JAX 0.12 can't differentiate `erfc` inside `shard_map`.
    """
    return x * (0.5 * jax.lax.erfc(-x * math.sqrt(0.5)))


@exact_gelu.defjvp
def _exact_gelu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    z = -x * math.sqrt(0.5)
    cdf = 0.5 * jax.lax.erfc(z)
    density = math.sqrt(0.5 / math.pi) * jnp.exp(-(z * z))  # the compiler shares this exponential with erfc
    return x * cdf, (cdf + x * density) * dx


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": exact_gelu,
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}
"""Activations by their Hugging Face name."""
