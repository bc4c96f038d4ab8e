"""Collectives that are under way while blocks compute: a function of parts, cut into programs."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from helpers.closeness import assert_close
from helpers.tiny import random_batch, stack_config

import prism_jax as pj
from prism_jax import cost
from prism_jax.errors import InputError
from prism_jax.exchange import arrays
from prism_jax.exchange.text import parse
from prism_jax.forward import encode
from prism_jax.models.bert import BertConfig, BertModel
from prism_jax.models.gpt2 import GPT2Config, GPT2LMHeadModel
from prism_jax.models.vit import ViTConfig, ViTForImageClassification
from prism_jax.parallel import overlapped
from prism_jax.parallel.cutting import cut
from prism_jax.parallel.mesh import OnMesh
from prism_jax.parallel.overlapped import Gather, OverlappedOnMesh, Programs, trace
from prism_jax.parallel.partition import PARTS
from prism_jax.programs import parts_shapes
from prism_jax.testing import random_params
from prism_jax.trees import unflatten

pytestmark = pytest.mark.usefixtures("quick_to_compile")

PRODUCTS = 8
"""Matrix products of a block: queries, keys, values, scores, sums of values, output, and two of the MLP."""

POST_NORM, PRE_NORM = (replace(stack_config(norm_first=norm_first), num_layers=4) for norm_first in (False, True))
MODELS = {
    "bert": BertModel(BertConfig(POST_NORM, vocab_size=100, num_positions=64)),
    "gpt2": GPT2LMHeadModel(GPT2Config(replace(PRE_NORM, causal=True), vocab_size=100, num_positions=64)),
    "vit": ViTForImageClassification(ViTConfig(PRE_NORM, image_size=(12, 16), patch_size=(4, 4))),
}
NUM_TOKENS = 13

EXCHANGES = [
    *("all_gather", "all_gather:int4", "segment_means:2", "every:2:all_gather:int4", "codebooks:8:4:all_gather"),
    *("displaced:all_gather:int4", "displaced:every:2:all_gather", "every:2:displaced:segment_means:2:int8"),
    *("displaced:first_tokens:1:segment_means:2", "keys_values:all_gather:int8", "means_after_norm:2"),
]


def params_of(model, exchange) -> dict:
    """Random parameters, those of the exchange among them."""
    stack, rng = model.config.stack, np.random.default_rng(1)
    stated = arrays.stated(exchange, stack.num_layers, stack.width_of)
    return {**random_params(model), **unflatten({path: rng.normal(size=x.shape) for path, x in stated.items()})}


QUICK = ("bert", 2, "displaced:all_gather:int4")
CASES = [
    *(("bert", 2, text) for text in EXCHANGES),
    *((family, 4, text) for family in MODELS for text in ("displaced:all_gather:int4", "segment_means:2")),
]


@pytest.mark.parametrize(
    ("family", "num_parts", "text"),
    [case if case == QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_the_programs_give_what_forward_gives(family, num_parts, text):
    """Of every family, whose parts are kept apart by padding or a causal mask; called twice, since a call for the same
    shapes compiles nothing."""
    model, exchange, run = MODELS[family], parse(text), pj.on_mesh(num_parts)
    params, parts = run.replicate(params_of(model, exchange)), run.split(random_batch(model, NUM_TOKENS))
    expected = jax.jit(lambda params, parts: pj.forward(model, params, parts, exchange, run))(params, parts)
    program = pj.overlapped(model, exchange, run)
    for _ in range(2):
        jax.tree.map(assert_close, program(params, parts), expected)
    formula = cost.formula(model.config.stack, exchange, num_parts, NUM_TOKENS, model.extra_rows)
    compiled = [cost.compiled(one, 2) for one in program.launches]
    assert sum(one.collectives for one in compiled) == formula.collectives
    assert sum(one.bytes_sent for one in compiled) == formula.bytes_sent


class Cutter(OnMesh):
    """Cuts the function of a part, in place of running it."""

    def __call__(self, function, params, parts):
        return cut(trace(self, function, params, parts)[0])[0]


def products_under_way(stretches) -> list[int]:
    """For each collective, the matrix products that are launched behind it before the first stretch that reads it."""
    counts = []
    for i, collective in enumerate(stretches):
        if collective.is_collective:
            behind = stretches[i + 1 :]
            first = next(j for j, one in enumerate(behind) if set(collective.writes) & set(one.reads))
            counts.append(sum(one.products for one in behind[:first]))
    return counts


@pytest.mark.parametrize("text", EXCHANGES)
def test_a_hidden_collective_is_read_behind_a_block_that_does_not_need_it(text):
    """As many as the formula says. Behind each of the others, a block's queries at most are computed meanwhile."""
    model, exchange = MODELS["bert"], parse(text)
    params, parts = jax.eval_shape(lambda: params_of(model, exchange)), parts_shapes(model, 2, 2, NUM_TOKENS)
    stretches = encode(model, params, parts, exchange, Cutter(pj.on_mesh(2).mesh))
    formula, products = cost.formula(model.config.stack, exchange, 2, NUM_TOKENS), products_under_way(stretches)
    assert len(products) == formula.collectives
    assert sum(count >= PRODUCTS for count in products) == formula.collectives_hidden
    assert all(count <= 1 for count in products if count < PRODUCTS)
    assert sum(one.products for one in stretches) >= PRODUCTS * model.config.stack.num_layers


def test_an_overlapped_program_is_refused_where_it_would_be_traced():
    model, run = MODELS["bert"], pj.on_mesh(2)
    with pytest.raises(InputError, match="parts on OnOneDevice exchange nothing that could be hidden; give on_mesh"):
        pj.overlapped(model, pj.SegmentMeans(2), pj.on_one_device(2))
    program = pj.overlapped(model, pj.SegmentMeans(2), run)
    params, parts = run.replicate(random_params(model)), run.split(random_batch(model, NUM_TOKENS))
    for transformed in (jax.jit(program), jax.grad(lambda params, parts: program(params, parts)[0].sum())):
        with pytest.raises(InputError, match="gives values only, outside of jit and grad; use forward there"):
            transformed(params, parts)


def test_a_collective_inside_a_loop_is_refused():
    def gathers(x):
        return jax.lax.map(lambda row: jax.lax.all_gather(row, PARTS), x)

    mesh, cut_rows = pj.on_mesh(2).mesh, jax.P(PARTS)
    on_parts = jax.shard_map(gathers, mesh=mesh, in_specs=cut_rows, out_specs=cut_rows, check_vma=False)
    rows = jax.device_put(np.zeros((4, 3), np.float32), jax.NamedSharding(mesh, cut_rows))
    with pytest.raises(InputError, match="a collective inside a scan can't be overlapped; use forward, or unroll it"):
        cut(jax.make_jaxpr(on_parts)(rows))


def test_gathers_of_all_parts_go_as_messages_over_connections_that_are_there(monkeypatch):
    """Processes connect by collectives, which would meet those of the program. Other collectives are programs."""
    run, connected = OverlappedOnMesh(pj.on_mesh(2).mesh), []
    monkeypatch.setattr(overlapped, "by_messages", lambda mesh: True)
    monkeypatch.setattr(overlapped, "messages", lambda: connected.append("once"))

    def collect(params, tokens, layout):
        x = tokens["x"]
        alone = jax.lax.all_gather(x, PARTS, axis_index_groups=[[0], [1]])
        return jax.lax.psum(x, PARTS) + alone.sum(0) + jax.lax.all_gather(x, PARTS).sum(0)

    programs = Programs(run, collect, {}, run.split({"x": np.zeros((1, 4, 3), np.float32)}))
    collectives = [(one.steps[0].eqn, program) for one, program in programs.launches if one.is_collective]
    assert len(collectives) == 3
    assert connected == ["once"]
    for eqn, program in collectives:
        gathers_all = eqn.primitive.name == "all_gather" and eqn.params["axis_index_groups"] is None
        assert isinstance(program, Gather) == gathers_all
