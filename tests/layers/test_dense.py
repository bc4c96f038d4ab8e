"""The product of dense layers: its derivatives. Those of whole models are in test_gpt2.py, against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.closeness import assert_close

import prism_jax as pj
from prism_jax.layers.dense import DOT_GENERALS
from prism_jax.parallel.partition import PARTS

pytestmark = pytest.mark.usefixtures("quick_to_compile")


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_derivatives_equal_those_of_a_plain_product():
    product = DOT_GENERALS["float32"]
    x, kernel, dx, dkernel = random(4, 2, 5, 8), random(8, 6, seed=1), random(4, 2, 5, 8, seed=2), random(8, 6, seed=3)
    out, tangent = jax.jvp(product, (x, kernel), (dx, dkernel))
    assert_close(out, x @ kernel)
    assert_close(tangent, dx @ kernel + x @ dkernel)
    back = random(4, 2, 5, 6, seed=4)
    parts = jax.vmap(product, (1, None), 1, axis_name=PARTS)
    out, tangent = jax.jvp(parts, (x, kernel), (dx, dkernel))
    assert_close(out, x @ kernel)
    assert_close(tangent, dx @ kernel + x @ dkernel)
    for function in (product, jax.vmap(product, (0, None)), jax.vmap(product, (1, None), 1), parts):
        gx, gkernel = jax.vjp(function, jnp.asarray(x), jnp.asarray(kernel))[1](back)
        assert_close(gx, back @ kernel.T)
        assert_close(gkernel, np.einsum("PBTD,PBTM->DM", x, back))


def rounded(x):
    return np.asarray(jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float32))


@pytest.mark.parametrize("runner", [pj.on_one_device(2), pj.on_mesh(2)])
def test_bfloat16_products_round_their_factors_and_nothing_else(runner):
    product, x_BND, kernel = DOT_GENERALS["bfloat16"], random(3, 8, 16), random(16, 6, seed=1)
    back_BNM = random(3, 8, 6, seed=2)

    def backed(kernel, parts):
        def part(kernel, tokens, layout):
            y_BTM = product(tokens["x"], kernel)
            return jnp.concatenate([y_BTM, y_BTM * tokens["back"]], -1)

        y_BNM, products_BNM = jnp.split(runner(part, kernel, parts), 2, -1)
        return products_BNM.sum(), y_BNM

    parts = runner.split({"x": x_BND, "back": back_BNM, "mask": np.ones((3, 8), bool)})
    gradient, y_BNM = jax.jit(jax.grad(backed, has_aux=True))(runner.replicate(jnp.asarray(kernel)), parts)
    assert gradient.dtype == y_BNM.dtype == jnp.float32
    assert_close(y_BNM, rounded(x_BND) @ rounded(kernel))
    assert_close(gradient, np.einsum("BND,BNM->DM", rounded(x_BND), rounded(back_BNM)))
