"""Dense layers: their matrix product, arranged for a fast backward pass, and their low-rank adapter.

The gradient of a kernel is a product over all rows. Where parts are batched on the same device, JAX by itself writes it
over two axes, parts and rows, and XLA on a CPU then copies the transposed input of every layer. Here parts and rows are
one axis.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import DotGeneralT
from jax.custom_batching import custom_vmap

from prism_jax.layers.parameters import ReadParameters
from prism_jax.parallel.partition import PARTS

Product = Callable[[jax.Array, jax.Array], jax.Array]


def _float32_product(x_BTD: jax.Array, kernel_DM: jax.Array) -> jax.Array:
    return (x_BTD.reshape(-1, x_BTD.shape[-1]) @ kernel_DM).reshape(*x_BTD.shape[:-1], -1)


def _bfloat16_product(x_BTD: jax.Array, kernel_DM: jax.Array) -> jax.Array:
    """Returns the product of rounded factors, added up in float32. Its gradients are computed likewise.

    No result is bfloat16: XLA on a CPU would leave its fast path (AMX) for that, and round partial sums of gradients.
    """
    axes = tuple(jax.sharding.get_abstract_mesh().manual_axes)
    if axes:  # each device has its own gradient of the replicated kernel; these are added up where it is cast
        kernel_DM = jax.lax.pcast(kernel_DM, axes, to="varying")
    return _rounded_product(x_BTD, kernel_DM)


def _rounded_einsum(subscripts: str, *factors: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, *(x.astype(jnp.bfloat16) for x in factors), preferred_element_type=jnp.float32)


@jax.custom_vjp
def _rounded_product(x_BTD: jax.Array, kernel_DM: jax.Array) -> jax.Array:
    return _rounded_einsum("BTD,DM->BTM", x_BTD, kernel_DM)


def _product_and_factors(x_BTD: jax.Array, kernel_DM: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    x_BTD, kernel_DM = x_BTD.astype(jnp.bfloat16), kernel_DM.astype(jnp.bfloat16)
    return _rounded_einsum("BTD,DM->BTM", x_BTD, kernel_DM), (x_BTD, kernel_DM)


def _gradients(factors: tuple[jax.Array, jax.Array], gradient_BTM: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_BTD, kernel_DM = factors
    gradient_x_BTD = _rounded_einsum("BTM,DM->BTD", gradient_BTM, kernel_DM)
    return gradient_x_BTD, _rounded_einsum("BTD,BTM->DM", x_BTD, gradient_BTM)


_rounded_product.defvjp(_product_and_factors, _gradients)


def _dot_general(product: Product) -> DotGeneralT:
    """Returns a `dot_general` for `flax.linen.Dense` that calls a product. It treats the parts of a `vmap` as rows."""
    batched_product = custom_vmap(product)

    @batched_product.def_vmap
    def one_axis_of_rows(axis_size, batched, x, kernel):
        if tuple(batched) == (True, False):
            return product(x.reshape(-1, *x.shape[2:]), kernel).reshape(*x.shape[:-1], -1), True
        axes = [0 if is_batched else None for is_batched in batched]
        return jax.vmap(product, in_axes=axes, axis_size=axis_size)(x, kernel), True

    def dot_general(x, kernel_DM, dimension_numbers=None, precision=None, preferred_element_type=None):
        dot = batched_product if _inside_one_device() else product
        return dot(x.reshape(-1, *x.shape[-2:]), kernel_DM).reshape(*x.shape[:-1], -1)

    return dot_general


def _inside_one_device() -> bool:
    """Returns whether the trace is of parts batched by `vmap`, not of one part on a mesh or of no parts."""
    try:
        jax.lax.axis_size(PARTS)
    except NameError:
        return False
    return PARTS not in jax.sharding.get_abstract_mesh().manual_axes


DOT_GENERALS = {"float32": _dot_general(_float32_product), "bfloat16": _dot_general(_bfloat16_product)}
"""Products by compute dtype, the type of their factors. They contract the last axis of x [..., T, D] with the first of
the kernel. Inputs and results are float32."""


class Dense(ReadParameters, nn.Dense):
    """`flax.linen.Dense`, plus a low-rank adapter (arXiv 2106.09685) where its parameters hold one,
    see `prism_jax.layers.lora`:

        y = x W + b + scale (x A) B        A = lora_a [D, r],  B = lora_b [r, M],  scale = lora_scale []

    The parameters decide; there is no flag. Training A and B alone computes no gradient of W.
    """

    dot_general: DotGeneralT = DOT_GENERALS["float32"]

    def __call__(self, inputs: jax.Array) -> jax.Array:
        y = super().__call__(inputs)
        if not self.has_variable("params", "lora_a"):
            return y
        low = self._adapter("lora_scale") * self.dot_general(inputs, self._adapter("lora_a"))
        return y + self.dot_general(low, self._adapter("lora_b"))

    def _adapter(self, name: str) -> jax.Array:
        return self.get_variable("params", name)
