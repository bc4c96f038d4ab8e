"""Where devices talk: CONTRIBUTING.md names the files,
and a compiled model sends nothing outside of exchange and join."""

import ast

import jax
import numpy as np
import pytest
from helpers.paths import ROOT
from helpers.tiny import stack_config

import prism_jax as pj
from prism_jax.cost.hlo import read_program
from prism_jax.forward import Head, encode
from prism_jax.models.bert import BertConfig, BertForTokenClassification
from prism_jax.models.gpt2 import GPT2Config, GPT2LMHeadModel
from prism_jax.programs import params_shapes, parts_shapes
from prism_jax.tasks.inputs import Texts
from prism_jax.tasks.language import LanguageModelling

pytestmark = pytest.mark.usefixtures("quick_to_compile")

COMMUNICATION = {
    *("all_gather", "all_to_all", "pmax", "pmean", "pmin", "ppermute", "pshuffle", "psum", "psum_scatter", "pswapaxes"),
    *("reshard", "shard_map", "pmap", "process_allgather", "broadcast_one_to_all", "sync_global_devices"),
}
"""Functions of JAX that communicate, or run on several devices."""

FILES = {
    "exchange/base.py": {"all_gather"},
    "parallel/mesh.py": {"reshard", "shard_map"},
    "parallel/overlapped.py": {"shard_map"},
    "parallel/transfer.py": {"ppermute", "shard_map"},
    "parallel/processes.py": {"process_allgather", "broadcast_one_to_all", "sync_global_devices"},
}
SOURCES = [path for folder in ("prism_jax", "eval", "train", "configs") for path in (ROOT / folder).rglob("*.py")]


def of_jax(tree: ast.AST) -> set[str]:
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names |= {name.name for node in imports if str(node.module).startswith("jax") for name in node.names}
    return names & COMMUNICATION


def test_devices_talk_in_the_named_files_alone():
    sources = {path: of_jax(ast.parse(path.read_text())) for path in SOURCES}
    assert len(sources) > 100
    named = {ROOT / "prism_jax" / name: functions for name, functions in FILES.items()}
    assert {path: functions for path, functions in sources.items() if functions} == named
    page = (ROOT / "CONTRIBUTING.md").read_text()
    for name in (*FILES, "parallel/one_device.py"):
        assert f"`{name}`" in page


def test_one_file_maps_over_parts_inside_a_device():
    def maps_over_an_axis(tree: ast.AST) -> bool:
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        return any(word.arg == "axis_name" for call in calls for word in call.keywords)

    assert [path.name for path in SOURCES if maps_over_an_axis(ast.parse(path.read_text()))] == ["one_device.py"]


def of_classes(run, params, parts, exchange):
    return pj.forward(CLASSES, params, parts, exchange, run)


def of_next_tokens(run, params, parts, exchange):
    rows_BRD = encode(NEXT_TOKENS, params, parts, exchange, run)
    task = LanguageModelling(Texts(None), np.zeros((2, 2)))
    return task.outcomes(Head(NEXT_TOKENS, params, run), rows_BRD, parts, None)


CLASSES = BertForTokenClassification(BertConfig(stack_config(), vocab_size=100, num_positions=64))
NEXT_TOKENS = GPT2LMHeadModel(GPT2Config(stack_config(norm_first=True, causal=True), 100, 64))


@pytest.mark.parametrize(("model", "program"), [(CLASSES, of_classes), (NEXT_TOKENS, of_next_tokens)])
@pytest.mark.parametrize("exchange", [pj.IsolatedParts(), pj.SegmentMeans(2, wire=pj.WIRES["int8"])], ids=str)
def test_a_compiled_model_sends_in_exchange_and_join_alone(model, program, exchange):
    run = pj.on_mesh(3)
    shapes = run.shapes(params_shapes(model), parts_shapes(model, 3, 2, 17))
    compiled = jax.jit(lambda params, parts: program(run, params, parts, exchange)).lower(*shapes).compile()
    scopes = [operation.scope for operation in read_program(compiled.as_text()) if operation.bytes_sent]
    in_blocks = [scope for scope in scopes if "exchange" in scope]
    assert len(in_blocks) == (0 if exchange == pj.IsolatedParts() else model.config.stack.num_layers)
    assert all("blocks" in scope for scope in in_blocks)
    joins = [scope for scope in scopes if "exchange" not in scope]
    assert joins
    # JAX 0.12 gives the join the scope of the map whose rows it joins.
    assert [scope for scope in joins if "join" not in scope and scope[-1] != "shard_map"] == []
