"""Costs: the formula against published figures, and against the program that XLA compiled."""

import jax
import pytest
from helpers.cases import one_is_quick
from helpers.closeness import assert_close
from helpers.tiny import LLAMA_BLOCKS, stack_config, tiny_batch

import prism_jax as pj
from prism_jax import cost
from prism_jax.errors import InputError
from prism_jax.exchange import Displaced, KeysValues
from prism_jax.layers import attention
from prism_jax.models.bert import BERT_BASE, BertConfig, BertModel
from prism_jax.models.vit import VIT_BASE, ViTConfig, ViTForImageClassification, ViTModel
from prism_jax.programs import lower, params_shapes, parts_shapes
from prism_jax.testing import random_params

BLOCKS = {"bert": {}, "vit": {"norm_first": True}, "llama": LLAMA_BLOCKS}


def saved(part: float, whole: float) -> float:
    return 100 * (1 - part / whole)


def test_the_bert_headline_by_formula():
    """PRISM paper: BERT-base, N=256, P=2, CR=128."""
    one = cost.formula(BERT_BASE.stack, pj.WholeSequence(), 1, 256)
    prism = cost.formula(BERT_BASE.stack, pj.SegmentMeans(1), 2, 256)
    voltage = cost.formula(BERT_BASE.stack, pj.AllGather(), 2, 256)
    assert one.flops / 1e9 == pytest.approx(45.902, abs=5e-4)
    assert prism.flops / 1e9 == pytest.approx(22.380, abs=5e-4)
    assert saved(prism.flops, one.flops) == pytest.approx(51.24, abs=5e-3)
    assert saved(prism.bytes_sent, voltage.bytes_sent) == pytest.approx(99.2, abs=0.05)
    assert saved(prism.flops, voltage.flops) == pytest.approx(15.8, abs=0.05)


@pytest.mark.parametrize(
    ("num_segments", "published_gflops", "communication_saved"),
    [(10, 17.54, 89.90), (20, 17.86, 79.80), (30, 18.18, 69.70)],
)
def test_the_vit_table_by_formula(num_segments, published_gflops, communication_saved):
    """PRISM paper: ViT-B/16, N=197, P=2. The published GFLOPs hold 0.04 more than the blocks' products."""
    prism = cost.formula(VIT_BASE.stack, pj.SegmentMeans(num_segments), 2, 197)
    voltage = cost.formula(VIT_BASE.stack, pj.AllGather(), 2, 197)
    assert prism.flops / 1e9 == pytest.approx(published_gflops - 0.04, abs=6e-3)
    assert saved(prism.bytes_sent, voltage.bytes_sent) == pytest.approx(communication_saved, abs=5e-3)


@pytest.mark.parametrize("blocks", one_is_quick("vit", BLOCKS))
@pytest.mark.parametrize(
    ("exchange", "num_parts"),
    [
        (pj.IsolatedParts(), 3),
        (pj.AllGather(), 8),
        (pj.SegmentMeans(5), 3),
        ((pj.SegmentMeans(1), pj.AllGather()), 2),
        ((pj.IsolatedParts(), KeysValues(pj.SegmentMeans(2))), 4),
        pytest.param(Displaced(pj.SegmentMeans(2)), 3, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_formula_and_compiled_program_agree(exchange, num_parts, blocks):
    model, num_tokens, batch_size = BertModel(BertConfig(stack_config(**BLOCKS[blocks]))), 30, 3
    program = lower(model, exchange, pj.on_mesh(num_parts), batch_size, num_tokens).compile()
    compiled, formula = (
        cost.compiled(program, batch_size),
        cost.formula(model.config.stack, exchange, num_parts, num_tokens),
    )
    assert compiled.bytes_sent == formula.bytes_sent
    assert compiled.bytes_received == formula.bytes_received == formula.bytes_sent
    assert compiled.collectives == formula.collectives
    assert compiled.collectives_hidden == formula.collectives_hidden
    assert compiled.flops == pytest.approx(formula.flops, rel=1e-2)
    assert compiled.bytes_join == cost.join_bytes(model, num_parts, num_tokens)
    named = {
        "activation",
        "biases and residuals",
        "embeddings",
        "exchange",
        "head",
        "layer norm",
        "softmax and masks",
        "elsewhere",
    }
    assert set(compiled.flops_outside) <= named
    assert compiled.flops_outside.get("elsewhere", 0) < 1e-2 * compiled.flops
    expected = program.cost_analysis()
    everything = compiled.flops + sum(compiled.flops_outside.values())
    assert everything * batch_size == pytest.approx(expected["flops"] + expected["transcendentals"], rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [5, 3])
def test_attention_block_by_block_in_the_whole_model(at_once, monkeypatch):
    """On a mesh, with some of 10 queries at once: the same answer, the same FLOPs, the same collectives,
    fewer scores."""
    config = BertConfig(stack_config(causal=True), vocab_size=100, num_positions=64)
    model, exchange, run = BertModel(config), pj.SegmentMeans(4), pj.on_mesh(3)
    params, batch = random_params(model), tiny_batch(30, padded=True)
    parts = run.split(batch)

    def compiled():
        forward = jax.jit(lambda params, parts: pj.forward(model, params, parts, exchange, run))
        return forward.lower(run.replicate(params), parts).compile()

    whole = compiled()
    monkeypatch.setattr(attention, "SCORES_BYTES", 4 * 3 * 4 * 18 * at_once)
    blocks = compiled()
    assert "while" not in whole.as_text()
    assert "while" in blocks.as_text()
    assert_close(blocks(run.replicate(params), parts)[0], whole(run.replicate(params), parts)[0])
    formula, ours = cost.formula(config.stack, exchange, 3, 30), cost.compiled(blocks, 3)
    assert (ours.flops, ours.bytes_sent, ours.collectives) == (formula.flops, formula.bytes_sent, formula.collectives)


def test_voltage_s_other_order():
    """Written out for one block: the FLOPs of each product, two for a multiply-add."""
    stack, T, N = stack_config(), 8, 32
    D, H, F, M = 32, 4, 8, 64
    by_product = [T * D * D, H * T * F * D, H * T * D * N, H * T * N * D, H * T * D * F, T * D * D, 2 * T * D * M]
    assert cost.reordered_flops(stack, 4, 30) == 2 * stack.num_layers * sum(by_product)
    voltage = {
        P: (cost.formula(VIT_BASE.stack, pj.AllGather(), P, 197).flops, cost.reordered_flops(VIT_BASE.stack, P, 197))
        for P in (2, 4, 8)
    }
    assert [reordered < usual for usual, reordered in voltage.values()] == [False, True, True]


def test_bytes_of_the_split():
    model = BertModel(BertConfig(stack_config()))
    assert cost.split_bytes(model, 1, 30) == 0
    # 4 parts of 8 tokens: ids and types, 4 bytes each, and the mask of all 32 places.
    assert cost.split_bytes(model, 4, 30) == 2 * 4 * 8 + 32


@pytest.mark.parametrize(("exchange", "num_parts"), [(pj.SegmentMeans(2), 3), (pj.AllGather(), 4)], ids=str)
def test_formula_and_compiled_program_agree_for_images(exchange, num_parts):
    config = ViTConfig(stack_config(norm_first=True), image_size=(20, 24), patch_size=(4, 4))
    model, num_tokens = ViTModel(config), config.num_tokens
    compiled = cost.compiled_from_shapes(model, exchange, pj.on_mesh(num_parts), num_tokens)
    formula = cost.formula(config.stack, exchange, num_parts, num_tokens)
    assert compiled.bytes_sent == formula.bytes_sent
    assert compiled.flops == pytest.approx(formula.flops, rel=1e-2)
    assert compiled.bytes_join == cost.join_bytes(model, num_parts, num_tokens)
    assert compiled.flops_outside.get("elsewhere", 0) < 1e-2 * compiled.flops
    part_len = -(-num_tokens // num_parts)
    assert compiled.flops_outside["embeddings"] == pytest.approx(2 * part_len * 48 * 32, rel=0.1)
    # Pixels of the patches of one part, 4 bytes each, and the mask of all places.
    assert cost.split_bytes(model, num_parts, num_tokens) == part_len * 48 * 4 + num_parts * part_len


def test_the_patch_embedding_of_vit_base_is_told_apart():
    """197 patches of 768 numbers (the empty one of the class token too) to 768 features: 2 * 197 * 768^2 FLOPs."""
    one = cost.compiled_from_shapes(ViTForImageClassification(VIT_BASE), pj.WholeSequence(), pj.on_mesh(1), 197)
    assert one.flops_outside["embeddings"] / 1e9 == pytest.approx(0.2324, rel=5e-3)
    assert one.flops == cost.formula(VIT_BASE.stack, pj.WholeSequence(), 1, 197).flops


def shapes_in(jaxpr):
    """The operation and the shape of everything that a traced program makes, inner programs included."""
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            yield equation.primitive.name, getattr(variable.aval, "shape", ())
        for value in equation.params.values():
            for inner in value if isinstance(value, list | tuple) else [value]:
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    yield from shapes_in(getattr(inner, "jaxpr", inner))


@pytest.mark.parametrize(
    ("exchange", "num_parts"), [(pj.SegmentMeans(3), 4), (pj.IsolatedParts(), 5), (pj.AllGather(), 4)], ids=str
)
@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
def test_the_traced_program_computes_keys_and_values_for_its_context_only(exchange, num_parts, causal):
    num_tokens, features, layers, heads = 57, 32, 2, 4
    config = BertConfig(stack_config(causal=causal), vocab_size=20, num_positions=64)
    model, run = BertModel(config), pj.on_mesh(num_parts)
    program = jax.jit(lambda params, parts: pj.forward(model, params, parts, exchange, run))
    traced = program.trace(*run.shapes(params_shapes(model), parts_shapes(model, num_parts, 1, num_tokens)))
    part_len = -(-num_tokens // num_parts)
    context = part_len + (num_parts - 1) * exchange.rows_sent(part_len)
    made = list(shapes_in(traced.jaxpr))
    products = [shape for name, shape in made if name == "dot_general"]
    # Keys and values have K rows; queries, attention output and MLP output T rows, which is the same where nothing is
    # sent.
    others = 3 * layers
    assert products.count((context, features)) == 2 * layers + (others if context == part_len else 0)
    assert products.count((part_len, features)) == others + (2 * layers if context == part_len else 0)
    assert products.count((1, heads, part_len, context)) == layers
    assert not [shape for _, shape in made if len(shape) >= 2 and min(shape[-2:]) >= num_tokens]


@pytest.mark.parametrize(
    ("exchange", "num_parts", "num_tokens", "message"),
    [
        (pj.SegmentMeans(5), 3, 12, "5 segments asked for, but a part has 4 tokens"),
        (KeysValues(pj.SegmentMeans(5)), 3, 12, "5 segments asked for, but a part has 4 tokens"),
        (pj.WholeSequence(), 2, 12, "the whole sequence lies on 1 device"),
        (pj.AllGather(), 13, 12, "13 parts asked for, but the sequence has 12 tokens"),
        ((Displaced(pj.AllGather()), pj.AllGather()), 2, 12, "give it alone, for all blocks"),
    ],
    ids=str,
)
def test_what_can_not_run_has_no_cost(exchange, num_parts, num_tokens, message):
    with pytest.raises(InputError, match=message):
        cost.formula(stack_config(), exchange, num_parts, num_tokens)


def test_a_batch_beyond_all_memory_is_refused():
    cost.check_memory(BertModel(BERT_BASE), pj.SegmentMeans(1), 2, 256, 1)
    with pytest.raises(InputError, match="1000000 x 512 tokens takes some .* GB .*; choose a smaller batch_size"):
        cost.check_memory(BertModel(BERT_BASE), pj.SegmentMeans(1), 2, 512, 1_000_000)


BERT, VIT = (
    BertModel(BertConfig(stack_config(), num_positions=64)),
    ViTModel(ViTConfig(stack_config(norm_first=True), image_size=(20, 24), patch_size=(4, 4))),
)
OF_SIZES = {
    "formula": lambda P, N: cost.formula(BERT.config.stack, pj.AllGather(), P, N),
    "reordered_flops": lambda P, N: cost.reordered_flops(BERT.config.stack, P, N),
    "activations": lambda P, N: cost.activations(BERT.config.stack, pj.AllGather(), P, N, 1),
    "memory": lambda P, N: cost.memory(BERT, pj.AllGather(), P, N, 1),
    "check_memory": lambda P, N: cost.check_memory(BERT, pj.AllGather(), P, N, 1),
    "cache_bytes": lambda P, N: cost.cache_bytes(BERT.config.stack, pj.AllGather(), P, N, 4),
    "split_bytes": lambda P, N: cost.split_bytes(BERT, P, N),
    "join_bytes": lambda P, N: cost.join_bytes(BERT, P, N),
    "compiled_from_shapes": lambda P, N: cost.compiled_from_shapes(BERT, pj.AllGather(), pj.on_one_device(P), N),
}
"""Every function of a number of parts and of tokens."""


@pytest.mark.parametrize("name", OF_SIZES)
@pytest.mark.parametrize(
    ("num_parts", "num_tokens", "message"),
    [
        (1, 0, "num_tokens is 0; choose 1 or more"),
        (3, -30, "num_tokens is -30; choose 1 or more"),
        (0, 30, "(0 parts asked for|num_parts is 0).*; choose 1"),
        (-2, 30, "(-2 parts asked for|num_parts is -2).*; choose 1"),
        (31, 30, "31 parts asked for, but the sequence has 30 tokens; choose 1 to 30"),
    ],
)
def test_impossible_sizes_have_no_cost(name, num_parts, num_tokens, message):
    with pytest.raises(InputError, match=message):
        OF_SIZES[name](num_parts, num_tokens)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (lambda: cost.formula(BERT.config.stack, pj.AllGather(), 2, 30, -1), "extra_rows is -1; choose 0 or more"),
        (lambda: cost.activations(BERT.config.stack, pj.AllGather(), 2, 30, 0), "batch_size is 0; choose 1 or more"),
        (lambda: cost.memory(BERT, pj.AllGather(), 2, 30, -1), "batch_size is -1; choose 1 or more"),
        (lambda: cost.check_memory(BERT, pj.AllGather(), 2, 30, -1), "batch_size is -1; choose 1 or more"),
        (lambda: cost.memory(BERT, pj.SegmentMeans(16), 2, 30, 1), "16 segments asked for, but a part has 15 tokens"),
        (lambda: cost.memory(BERT, pj.AllGather(), 2, 65, 1), "the position table has 64 rows"),
        (lambda: cost.split_bytes(BERT, 2, 65), "the position table has 64 rows"),
        (lambda: cost.split_bytes(VIT, 1, 30), "choose num_tokens = 31"),
        (lambda: cost.cache_bytes(BERT.config.stack, pj.AllGather(), 2, 30, 0), "max_new_tokens is 0; choose 1"),
        (lambda: cost.cache_bytes(BERT.config.stack, pj.SegmentMeans(16), 2, 30, 4), "16 segments asked for"),
    ],
)
def test_other_impossible_sizes_have_no_cost(asked, message):
    with pytest.raises(InputError, match=message):
        asked()


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_program_of_no_example_has_no_cost(batch_size):
    program = lower(BERT, pj.WholeSequence(), pj.on_one_device(1), 1, 8).compile()
    with pytest.raises(InputError, match=f"batch_size is {batch_size}; choose 1 or more"):
        cost.compiled(program, batch_size)
