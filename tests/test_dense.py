"""The product of dense layers: its derivatives, and what the compiled backward pass recomputes."""

import jax
import jax.numpy as jnp
import numpy as np
from conftest import assert_close

from prism_jax.compiled import read_program
from prism_jax.dense import rows_dot_general


def product(x, kernel):
    return rows_dot_general(x, kernel, None)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_derivatives_equal_those_of_a_plain_product():
    x, kernel, dx, dkernel = random(4, 2, 5, 8), random(8, 6, seed=1), random(4, 2, 5, 8, seed=2), random(8, 6, seed=3)
    out, tangent = jax.jvp(product, (x, kernel), (dx, dkernel))
    assert_close(out, x @ kernel)
    assert_close(tangent, dx @ kernel + x @ dkernel)
    back = random(4, 2, 5, 6, seed=4)
    for function in (product, jax.vmap(product, (0, None)), jax.vmap(product, (1, None), 1)):
        gx, gkernel = jax.vjp(function, jnp.asarray(x), jnp.asarray(kernel))[1](back)
        assert_close(gx, back @ kernel.T)
        assert_close(gkernel, np.einsum("PBTD,PBTM->DM", x, back))


def test_the_backward_pass_grows_with_the_depth_and_not_with_its_square():
    """Counted in the compiled program, on a residual stream of dense layers with norms."""

    def flops(depth):
        def loss(kernels, x_PBTD):
            def part(x):
                for kernel in kernels:
                    centred = x - x.mean(-1, keepdims=True)
                    x = x + jnp.tanh(product(centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1), kernel))
                return x

            return jax.vmap(part)(x_PBTD).sum()

        program = jax.jit(jax.grad(loss)).lower([random(64, 64)] * depth, random(1, 4, 96, 64)).compile()
        return sum(operation.flops for operation in read_program(program.as_text()) if operation.opcode != "dot")

    by_depth = {depth: flops(depth) for depth in (4, 8, 16)}
    assert (by_depth[16] - by_depth[8]) / (by_depth[8] - by_depth[4]) < 2.3
