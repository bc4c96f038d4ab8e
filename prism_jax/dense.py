"""The matrix product of dense layers, arranged for a fast backward pass.

The gradient of a kernel is a product over all rows. Left to themselves, JAX and XLA write it over several axes, parts and
examples, and XLA on a CPU then copies the transposed input of every layer, recomputing for each copy the residual stream
from the first block on: time that grows with the square of the depth. ViT-base at B = 8 took 1.6 times as long.
"""

import jax
import jax.numpy as jnp


@jax.custom_jvp
def _rows_dot(x_RD: jax.Array, kernel_DM: jax.Array) -> jax.Array:
    return x_RD @ kernel_DM


@_rows_dot.defjvp
def _rows_dot_jvp(primals, tangents):
    (x_RD, kernel_DM), (dx_RD, dkernel_DM) = primals, tangents
    # A 1 that XLA drops, but that belongs to this part as x does. So JAX takes the gradient of the kernel part by part,
    # over one axis of rows, and adds up the parts' gradients afterwards.
    of_this_part = jnp.where(x_RD[0, 0] == x_RD[0, 0], 1, 1).astype(kernel_DM.dtype)
    return x_RD @ kernel_DM, dx_RD @ kernel_DM + x_RD @ (dkernel_DM * of_this_part)


def rows_dot_general(x, kernel_DM, dimension_numbers, precision=None, preferred_element_type=None):
    """The `dot_general` of `flax.linen.Dense`: contracts the last axis of `x` with the first of the kernel."""
    return _rows_dot(x.reshape(-1, x.shape[-1]), kernel_DM).reshape(*x.shape[:-1], -1)
