"""The first tokens of a text, whole on every part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.closeness import assert_close
from helpers.tiny import LLAMA_BLOCKS, hidden_states, prompts_of, tiny_batch, tiny_bert, tiny_llama

import prism_jax as pj
from prism_jax import cost
from prism_jax.errors import InputError
from prism_jax.exchange import FirstTokens, KeysValues
from prism_jax.exchange.text import parse
from prism_jax.forward import encode
from prism_jax.testing import check_exchange

pytestmark = pytest.mark.usefixtures("quick_to_compile")


@pytest.mark.parametrize(
    ("blocks", "run"),
    [({}, pj.on_one_device(3)), (LLAMA_BLOCKS, pj.on_one_device(3)), (LLAMA_BLOCKS, pj.on_mesh(3))],
    ids=["bert", "llama", "llama_mesh"],
)
def test_with_all_other_rows_it_equals_one_device(blocks, run):
    """Padded on either side; 8 first tokens of 19 in 3 parts of 7 lie on two parts."""
    model, params = tiny_bert(**blocks)
    batch = tiny_batch(19, padded=True)
    batch["mask"][1] = batch["mask"][1, ::-1]
    expected = hidden_states(model, params, batch, pj.WholeSequence(), pj.on_one_device(1))
    for exchange in (FirstTokens(pj.AllGather(), 1), FirstTokens(KeysValues(pj.SegmentMeans(7)), 8)):
        assert_close(hidden_states(model, params, batch, exchange, run), expected)


@pytest.mark.parametrize("of", [pj.SegmentMeans(2), pj.AllGather()], ids=str)
def test_every_token_counts_once_on_every_part(of):
    """The weights of all rows add up to the real tokens, also of a text of fewer tokens than are kept whole."""
    real_BN = jnp.asarray([[1] * 12, [0] * 5 + [1] * 7, [1] * 2 + [0] * 10], bool)
    layouts = [pj.Layout(jnp.int32(part), real_BN, None, num_parts=3, num_tokens=12) for part in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *layouts)
    context = jax.vmap(FirstTokens(of, 3), axis_name="parts")(jnp.zeros((3, 3, 4, 8)), stacked)
    np.testing.assert_array_equal(context.weight_BK.sum(-1), [[12, 7, 2]] * 3)


def test_a_part_alone_sees_the_first_tokens_and_its_own():
    """By gradient, in a causal model of 12 tokens on 3 parts."""
    model, params = tiny_llama()
    run, ids = pj.on_one_device(3), np.arange(12, dtype=np.int32)[None]

    def rows(table):
        with_table = params | {"encoder": params["encoder"] | {"token": {"embedding": table}}}
        hidden = encode(model, with_table, run.split({"ids": ids}), parse("first_tokens:2:isolated_parts"), run)
        return hidden[0] @ np.linspace(-1, 1, 32, dtype=np.float32)

    influence = np.abs(np.asarray(jax.jit(jax.jacfwd(rows))(params["encoder"]["token"]["embedding"]))).sum(-1)[:, :12]
    expected = np.kron(np.eye(3), np.ones((4, 4))).astype(bool) | (np.arange(12) < 2)[None]
    assert ((influence > 1e-6) == (expected & np.tril(np.ones((12, 12), bool)))).all()


@pytest.mark.parametrize("text", ["first_tokens:2:segment_means:2", "keys_values:first_tokens:1:all_gather:int4"])
def test_the_compiled_program_computes_and_sends_what_the_formula_says(text):
    (model, _), exchange = tiny_bert(**LLAMA_BLOCKS), parse(text)
    formula = cost.formula(model.config.stack, exchange, 3, 18)
    compiled = cost.compiled_from_shapes(model, exchange, pj.on_mesh(3), 18)
    assert (compiled.flops, compiled.bytes_sent, compiled.collectives) == (formula.flops, formula.bytes_sent, 4)
    width = 2 * 2 * 12 if exchange.keys_values else 32
    without = cost.formula(model.config.stack, parse(text.replace(f"first_tokens:{exchange.first_rows}:", "")), 3, 18)
    assert formula.bytes_sent - without.bytes_sent == 2 * 2 * exchange.first_rows * width * 4


@pytest.mark.slow
def test_it_is_an_exchange_like_all_others():
    check_exchange(parse("first_tokens:2:segment_means:2"))


def test_generation_goes_on_from_them():
    """Prompts of several lengths, padded on the left."""
    (model, params), prompts = tiny_llama(), prompts_of(12, 9)
    exact = pj.Generator(model, params, pj.WholeSequence(), pj.on_one_device(1))(prompts, 6)
    assert pj.Generator(model, params, FirstTokens(pj.AllGather(), 2), pj.on_one_device(3))(prompts, 6) == exact


def test_two_of_them_are_refused():
    with pytest.raises(InputError, match="keeps first tokens already; leave one first_tokens out"):
        parse("first_tokens:2:first_tokens:1:all_gather")
    with pytest.raises(InputError, match="num_first is 0; choose 1 or more"):
        parse("first_tokens:0:all_gather")
