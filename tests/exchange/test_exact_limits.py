"""Where an exchange loses nothing, P parts must equal one device."""

import jax
import numpy as np
import pytest
from helpers.closeness import assert_close
from helpers.tiny import LLAMA_BLOCKS, hidden_states, tiny_batch, tiny_bert
from jax.flatten_util import ravel_pytree

import prism_jax as pj
from prism_jax.exchange.text import parse

pytestmark = pytest.mark.usefixtures("quick_to_compile")

NUM_TOKENS = 19


STACKS = {
    "bert": {},
    "vit": {"norm_first": True},
    "gpt2": {"norm_first": True, "causal": True},
    "post_norm_causal": {"causal": True, "layer_scale": True},
    "llama": LLAMA_BLOCKS,
}


@pytest.mark.parametrize(
    ("stack", "num_parts"), [*((stack, 3) for stack in STACKS), ("bert", 1), ("bert", 8), ("gpt2", 2), ("gpt2", 8)]
)
def test_all_gather_and_one_token_segments_equal_one_device(stack, num_parts):
    """3 parts of 19 tokens are padded by 2, and of 8 parts the last one has no token of its own. Below, the runners
    agree."""
    model, params = tiny_bert(**STACKS[stack])
    one_token_each = (pj.SegmentMeans(-(-NUM_TOKENS // num_parts)),) if num_parts == 3 else ()
    for padded in (False, True):
        batch = tiny_batch(NUM_TOKENS, padded=padded)
        expected = hidden_states(model, params, batch, pj.WholeSequence(), pj.on_one_device(1))
        for exchange in (pj.AllGather(), *one_token_each):
            assert_close(hidden_states(model, params, batch, exchange, pj.on_mesh(num_parts)), expected)


def test_lossy_exchanges_are_not_exact():
    """Guards the tests above: they would notice an exchange that is only nearly right."""
    model, params = tiny_bert()
    batch = tiny_batch(NUM_TOKENS, padded=False)
    expected = hidden_states(model, params, batch, pj.WholeSequence(), pj.on_one_device(1))
    for exchange in (pj.IsolatedParts(), pj.SegmentMeans(1), (pj.AllGather(), pj.SegmentMeans(1))):
        assert np.abs(hidden_states(model, params, batch, exchange, pj.on_mesh(3)) - expected).max() > 1e-2


@pytest.mark.parametrize(
    ("exchange", "num_parts", "dropout"),
    [
        (pj.SegmentMeans(3), 4, 0.2),
        pytest.param(pj.AllGather(), 4, 0.0, marks=pytest.mark.slow),
        pytest.param(pj.IsolatedParts(), 4, 0.0, marks=pytest.mark.slow),
        ((pj.SegmentMeans(2, wire=pj.WIRES["int8"]), pj.AllGather()), 2, 0.0),
        pytest.param(
            parse("keys_values:segment_means:2,first_tokens:1:segment_means:2"), 4, 0.2, marks=pytest.mark.slow
        ),
    ],
    ids=str,
)
def test_the_runners_agree_in_values_and_gradients(exchange, num_parts, dropout):
    """So what an exchange computes is tested on one of them."""
    model, params = tiny_bert(dropout=dropout)
    batch = tiny_batch(NUM_TOKENS, padded=True)

    def value_and_gradient(run):
        parts = run.split(batch, key=jax.random.key(1) if dropout else None)

        def loss(params, parts):
            hidden, _ = pj.forward(model, params, parts, exchange, run)
            hidden = jax.numpy.where(batch["mask"][..., None], hidden, 0)
            return (hidden**3).sum(), hidden

        return jax.jit(jax.grad(loss, has_aux=True))(run.replicate(params), parts)

    gradient, value = value_and_gradient(pj.on_one_device(num_parts))
    mesh_gradient, mesh_value = value_and_gradient(pj.on_mesh(num_parts))
    assert_close(mesh_value, value)
    assert_close(ravel_pytree(mesh_gradient)[0], ravel_pytree(gradient)[0])


def test_a_data_axis_changes_nothing():
    model, params = tiny_bert(dropout=0.2)
    batch = tiny_batch(NUM_TOKENS, padded=True, batch_size=4)

    def hidden(run):
        parts = run.split(batch, key=jax.random.key(1))
        return jax.jit(lambda params, parts: pj.forward(model, params, parts, pj.SegmentMeans(2), run))(
            run.replicate(params), parts
        )[0]

    assert_close(hidden(pj.on_mesh(2, data=4)), hidden(pj.on_one_device(2)))
