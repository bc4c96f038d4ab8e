"""Dropout, and what a config refuses. The block itself is tested against Hugging Face's models."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers.closeness import assert_close
from helpers.tiny import stack_config, tiny_batch, tiny_bert

import prism_jax as pj
from prism_jax import cost
from prism_jax.layers.activations import ACTIVATIONS
from prism_jax.layers.config import TransformerConfig
from prism_jax.layers.dropout import dropout, keep_factors
from prism_jax.layers.embeddings import embedding
from prism_jax.models.bert import BERT_BASE, BertForMaskedLM, BertForSequenceClassification, BertModel
from prism_jax.models.gpt2 import GPT2, GPT2LMHeadModel
from prism_jax.models.vit import VIT_BASE, ViTForImageClassification
from prism_jax.programs import lower

pytestmark = pytest.mark.usefixtures("quick_to_compile")


def layout(*, block: int = 0, part: int = 0, key: int | None = 0) -> pj.Layout:
    keys = (
        None if key is None else jax.vmap(jax.random.fold_in, (0, None))(jax.random.split(jax.random.key(key), 2), part)
    )
    return pj.Layout(jnp.int32(part), jnp.ones((2, 8), bool), keys, num_parts=2, num_tokens=8, block=block)


def test_dropout_keeps_the_share_it_says_and_the_expectation():
    keep = np.asarray(keep_factors((2, 500, 200), 0.3, layout().block_keys_B, site=0))
    assert np.unique(keep).tolist() == pytest.approx([0, 1 / 0.7])
    assert keep.mean() == pytest.approx(1, abs=0.01)
    assert np.abs(keep[0] - keep[1]).max() > 0


def test_every_block_part_site_and_key_drops_something_else():
    masks = [keep_factors((2, 4, 8), 0.5, layout(block=b, part=p, key=k).block_keys_B, site=s)
             for b, p, s, k in [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]]  # fmt: skip
    assert len({np.asarray(mask).tobytes() for mask in masks}) == 5
    again = keep_factors((2, 4, 8), 0.5, layout().block_keys_B, site=0)
    np.testing.assert_array_equal(again, masks[0])


@pytest.mark.parametrize(
    "model",
    [
        BertForSequenceClassification(BERT_BASE),
        BertForMaskedLM(BERT_BASE),
        GPT2LMHeadModel(GPT2),
        ViTForImageClassification(VIT_BASE),
    ],
    ids=lambda model: type(model).__name__,
)
def test_logits_are_float32_under_bfloat16_products(model):
    stack = replace(model.config.stack, num_layers=1, compute_dtype="bfloat16")
    model = type(model)(replace(model.config, stack=stack))
    num_tokens = getattr(model.config, "num_tokens", 12)
    shapes = lower(model, pj.WholeSequence(), pj.on_one_device(1), 1, num_tokens).out_info
    assert shapes.dtype == jnp.float32


def test_without_keys_nothing_is_dropped():
    x = jnp.ones((2, 4, 8))
    assert dropout(x, 0.5, layout(key=None).block_keys_B, site=0) is x


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_heads": 3}, "32 features don't divide into 3 heads"),
        ({"num_heads": 0}, "32 features don't divide into 0 heads"),
        ({"compute_dtype": "float8"}, "compute_dtype is 'float8'; choose one of float32, bfloat16"),
        ({"activation": "mish"}, "unknown activation 'mish'; known are gelu, gelu_new"),
    ],
)
def test_wrong_configs_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**{"num_layers": 1, "features": 32, "num_heads": 4, "mlp_features": 64} | values)


def test_bfloat16_products_keep_a_float32_residual_stream():
    """Rounding to 8 bits of mantissa, 2^-9 at each product: far from float32's 1e-7, and far from an error of 1."""
    model, params = tiny_bert(norm_first=True)
    low = BertModel(replace(model.config, stack=replace(model.config.stack, compute_dtype="bfloat16")))
    batch, run = tiny_batch(19, padded=False), pj.on_one_device(3)

    def hidden(model):
        return jax.jit(lambda params, parts: pj.forward(model, params, parts, pj.SegmentMeans(2), run)[0])

    exact, rough = hidden(model)(params, run.split(batch)), hidden(low)(params, run.split(batch))
    assert rough.dtype == jnp.float32
    error = np.abs(np.asarray(exact - rough)).max() / np.abs(exact).max()
    assert 1e-4 < error < 2e-2

    mesh = pj.on_mesh(3)
    lowered = lower(low, pj.SegmentMeans(2), mesh, 3, 19).as_text()
    products = re.findall(r"stablehlo.dot_general.*: \(tensor<[^>]*x(\w+)>, tensor<[^>]*x(\w+)>\)", lowered)
    assert len(products) >= 2 * 8
    assert products.count(("f32", "f32")) == 1  # the pooler
    assert set(products) == {("bf16", "bf16"), ("f32", "f32")}
    assert re.findall(r"all_gather.*?\(tensor<[^>]*x(f32|bf16)>\)", lowered, re.DOTALL).count("bf16") == 0
    compiled = cost.compiled(lower(low, pj.SegmentMeans(2), mesh, 1, 19).compile(), 1)
    assert compiled.bytes_sent == cost.formula(low.config.stack, pj.SegmentMeans(2), 3, 19).bytes_sent


def test_exact_gelu_and_its_derivatives_are_those_of_the_closed_form():
    x = np.linspace(-9, 9, 2001)
    cdf, density = scipy.stats.norm.cdf(x), scipy.stats.norm.pdf(x)
    gelu = ACTIVATIONS["gelu"]
    assert_close(gelu(jnp.float32(x)), x * cdf, 1e-6)
    assert_close(jax.vmap(jax.grad(gelu))(jnp.float32(x)), cdf + x * density, 1e-6)
    assert_close(jax.vmap(jax.grad(jax.grad(gelu)))(jnp.float32(x)), (2 - x**2) * density, 1e-6)
    assert_close(jax.jvp(gelu, (jnp.float32(x),), (jnp.float32(x),))[1], x * (cdf + x * density), 1e-6)


def test_an_id_without_a_row_is_no_other_s():
    for rows in (1, 5):
        table = embedding(rows, stack_config())
        variables = table.init(jax.random.key(0), jnp.zeros(1, jnp.int32))
        results = np.asarray(table.apply(variables, jnp.array([0, rows - 1, rows, -1, -rows])))
        np.testing.assert_array_equal(results[:2], variables["params"]["embedding"][jnp.array([0, rows - 1])])
        assert np.isnan(results[2:]).all()
