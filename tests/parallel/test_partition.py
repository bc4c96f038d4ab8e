"""Splitting, and the runners' own errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import prism_jax as pj


def test_split_pads_at_the_end_and_keeps_the_mask():
    batch = {"ids": np.arange(1, 8)[None], "mask": np.array([[0, 1, 1, 1, 1, 0, 1]])}
    parts = pj.split(batch, 3)
    assert parts.tokens["ids"].tolist() == [[1, 2, 3, 4, 5, 6, 7, 0, 0]]
    assert parts.real_BN.astype(int).tolist() == [[0, 1, 1, 1, 1, 0, 1, 0, 0]]
    assert parts.num_tokens == 7
    assert "mask" not in parts.tokens


def test_without_a_mask_all_tokens_are_real_but_the_padding():
    assert pj.split({"x": jnp.ones((2, 5, 4))}, 2).real_BN.tolist() == [[True] * 5 + [False]] * 2


@pytest.mark.parametrize("num_parts", [1, 2, 3, 8])
def test_a_part_gets_its_own_tokens_and_its_place(runner, num_parts):
    num_tokens, run = 19, runner(num_parts)
    part_len = -(-num_tokens // num_parts)

    def look(params, tokens, layout):
        own = jnp.stack([tokens["ids"][0], layout.positions_T, layout.real_BT[0].astype(jnp.int32)], -1)
        return jnp.concatenate([own, jnp.full((layout.part_len, 1), layout.part)], -1)[None]

    parts = run.split({"ids": np.arange(num_tokens, dtype=np.int32)[None] + 100})
    rows = np.asarray(jax.jit(lambda parts: run(look, {}, parts))(parts))[0]
    place = np.arange(num_parts * part_len)
    assert rows[:, 0].tolist() == np.where(place < num_tokens, place + 100, 0).tolist()
    assert rows[:, 1].tolist() == place.tolist()
    assert rows[:, 2].tolist() == (place < num_tokens).astype(int).tolist()
    assert rows[:, 3].tolist() == (place // part_len).tolist()


def test_a_device_holds_its_own_tokens_only():
    parts = pj.on_mesh(4).split({"ids": np.arange(16, dtype=np.int32)[None]})
    assert [shard.data.tolist() for shard in parts.tokens["ids"].addressable_shards] == [
        [list(range(i, i + 4))] for i in range(0, 16, 4)
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: pj.split({"ids": np.zeros((1, 3))}, 4),
            "4 parts asked for, but the sequence has 3 tokens; choose 1 to 3",
        ),
        (lambda: pj.split({"ids": np.zeros((1, 3)), "mask": np.ones((1, 4))}, 2), "the arrays of a batch begin with"),
        (lambda: pj.split({"ids": np.zeros(3)}, 1), "the arrays of a batch begin with"),
        (
            lambda: pj.on_mesh(2, data=2).split({"ids": np.zeros((3, 4))}),
            "a batch of 3 does not cut into 2 on the data axis",
        ),
        (
            lambda: pj.forward(None, {}, pj.split({"ids": np.zeros((1, 8))}, 4), pj.AllGather(), pj.on_one_device(2)),
            "the batch was cut into 4 parts, but the runner has 2; use run.split",
        ),
        (lambda: pj.on_mesh(9), "9 devices are needed .* there are 8 of kind 'cpu'.*JAX_NUM_CPU_DEVICES=9"),
        (lambda: pj.on_mesh(0), "choose 1 or more"),
        (lambda: pj.on_one_device(0), "num_parts is 0; choose 1 or more"),
    ],
)
def test_wrong_splits_and_meshes_say_the_way_out(make, message):
    with pytest.raises(ValueError, match=message):
        make()
