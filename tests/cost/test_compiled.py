"""The reader of compiled programs, on programs whose cost is known."""

import jax
import jax.numpy as jnp
import pytest

from prism_jax.cost.hlo import read_program
from prism_jax.parallel.mesh import on_mesh
from prism_jax.parallel.partition import PARTS


def compile_text(function, *args) -> str:
    return jax.jit(function).lower(*args).compile().as_text()


def flops(text: str, opcode: str = "dot") -> float:
    return sum(operation.flops for operation in read_program(text) if operation.opcode == opcode)


def test_products_in_loops_count_as_often_as_they_run():
    x, w = jnp.ones((8, 16)), jnp.ones((16, 16))

    def inner(x, _):
        return jnp.tanh(x @ w), None

    def outer(x, _):
        return jax.lax.scan(inner, x, length=3)[0], None

    once = 2 * 8 * 16 * 16
    assert flops(compile_text(lambda x: inner(x, None)[0], x)) == once
    assert flops(compile_text(lambda x: jax.lax.scan(inner, x, length=5)[0], x)) == 5 * once
    assert flops(compile_text(lambda x: jax.lax.scan(outer, x, length=4)[0], x)) == 12 * once


def test_batched_products():
    a, b = jnp.ones((3, 4, 5)), jnp.ones((3, 5, 6))
    assert flops(compile_text(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), a, b)) == 2 * 3 * 4 * 5 * 6


def collective_bytes(body, num_parts: int = 4, dtype=jnp.float32) -> tuple[dict[str, float], str]:
    """Bytes that one of 4 devices sends, by collective, for an input of [2, 8] numbers a device."""
    mesh, x = on_mesh(num_parts).mesh, jnp.ones((2, 8 * num_parts), dtype)
    x = jax.device_put(x, jax.NamedSharding(mesh, jax.P(None, PARTS)))
    run = jax.shard_map(body, mesh=mesh, in_specs=jax.P(None, PARTS), out_specs=jax.P(None, PARTS), check_vma=False)
    operations = [operation for operation in read_program(compile_text(run, x)) if operation.bytes_sent]
    return {operation.opcode: operation.bytes_sent for operation in operations}


SHARD = 2 * 8 * 4


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (lambda x: jax.lax.all_gather(x, PARTS), {"all-gather": 3 * SHARD}),
        (lambda x: jax.lax.psum(x, PARTS), {"all-reduce": 2 * SHARD * 3 / 4}),
        (lambda x: jax.lax.ppermute(x, PARTS, [(i, (i + 1) % 4) for i in range(4)]), {"collective-permute": SHARD}),
        (lambda x: jax.lax.all_to_all(x, PARTS, 1, 1, tiled=True), {"all-to-all": SHARD * 3 / 4}),
        (lambda x: jax.lax.psum_scatter(x, PARTS, scatter_dimension=1, tiled=True), {"reduce-scatter": SHARD * 3 / 4}),
    ],
    ids=["all_gather", "psum", "ppermute", "all_to_all", "psum_scatter"],
)
def test_bytes_of_collectives(body, expected):
    assert collective_bytes(body) == expected


def test_collectives_in_loops_count_as_often_as_they_run():
    def body(x):
        return jax.lax.scan(lambda x, _: (jax.lax.all_gather(x, PARTS).sum(0), None), x, length=7)[0]

    assert collective_bytes(body) == {"all-gather": 7 * 3 * SHARD}


def test_a_loop_of_unknown_length_is_refused():
    text = compile_text(lambda x: jax.lax.while_loop(lambda x: x.sum() < 100, lambda x: x @ x, x), jnp.ones((4, 4)))
    with pytest.raises(ValueError, match="no known trip count"):
        read_program(text)


def test_other_text_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        read_program("module {}")
