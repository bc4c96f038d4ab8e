"""Rotary positions, by complex numbers; and the places of rows under an exchange, by counting."""

import jax
import jax.numpy as jnp
import numpy as np
from helpers.closeness import assert_close

import prism_jax as pj
from prism_jax.layers.rotary import Rotary, rotate
from prism_jax.parallel.partition import Layout


def test_a_pair_of_features_is_a_complex_number_that_turns():
    rng = np.random.default_rng(0)
    y_BTHF, place_BT = rng.normal(size=(2, 5, 3, 8)).astype(np.float32), np.array([[0, 1, 2, 3, 4], [7, 7, 2.5, 0, 90]])
    numbers = y_BTHF[..., :4] + 1j * y_BTHF[..., 4:]
    turned = numbers * np.exp(1j * place_BT[..., None, None] * 100.0 ** (-np.arange(4) / 4))
    ours = rotate(jnp.asarray(y_BTHF), jnp.asarray(place_BT), Rotary(100.0))
    assert_close(np.asarray(ours), np.concatenate([turned.real, turned.imag], -1).astype(np.float32))


def places(exchange, mask, num_parts, part):
    """The places of the context's rows, [B, K], and their weights."""
    real_BN = jnp.asarray(np.pad(mask, ((0, 0), (0, -mask.shape[1] % num_parts))))
    layout = Layout(jnp.int32(part), real_BN, None, num_parts=num_parts, num_tokens=mask.shape[1])

    def context(part):
        here = Layout(part, real_BN, None, num_parts=num_parts, num_tokens=mask.shape[1])
        return exchange(jnp.zeros((len(mask), here.part_len, 4)), here)

    contexts = jax.vmap(context, axis_name="parts")(jnp.arange(num_parts))
    place_BK = contexts.place_BK[part] if contexts.place_BK is not None else layout.places(contexts.last_K[part])
    return np.asarray(place_BK), np.asarray(contexts.weight_BK[part])


def test_a_mean_stands_at_the_mean_place_of_its_real_tokens():
    """11 tokens in 2 parts of 2 segments; the second text has 3 tokens of padding in front, the third 4 behind."""
    mask = np.ones((3, 11), bool)
    mask[1, :3], mask[2, 7:] = False, False
    place_BK, weight_BK = places(pj.SegmentMeans(2), mask, 2, 0)
    before = np.cumsum(mask, 1) - mask
    for i in range(3):
        for k, tokens in enumerate([[6, 7, 8], [9, 10]]):  # the other part's segments; token 11 is padding
            real = [before[i, t] for t in tokens if mask[i, t]]
            assert weight_BK[i, 6 + k] == len(real)
            assert not real or place_BK[i, 6 + k] == np.float32(np.mean(real))
        assert (place_BK[i, :6] == before[i, :6]).all()


def test_a_row_that_is_sent_whole_stands_where_its_token_stands():
    mask = np.ones((2, 12), bool)
    mask[1, :5] = False
    place_BK, weight_BK = places(pj.AllGather(), mask, 3, 1)
    order = [*range(4, 12), *range(4)]
    assert (np.where(weight_BK > 0, place_BK, 0) == np.where(mask, np.cumsum(mask, 1) - 1, 0)[:, order]).all()
