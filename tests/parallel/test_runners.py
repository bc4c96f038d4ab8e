"""Runners fulfil the protocols that functions ask for, and no function takes a runner or a model untyped."""

import ast
import inspect
from pathlib import Path

import numpy as np
import pytest

import prism_jax as pj
from eval.timing.part_alone import FirstPart
from prism_jax.parallel.mesh import OnMesh
from prism_jax.parallel.one_device import OnOneDevice
from prism_jax.parallel.runner import GenerationRunner, LastPart, PlacedRunner, Placement, Runner

ROOT = Path(pj.__file__).parent.parent
PARTS = {Runner: 5, Placement: 5, LastPart: 4}


def members(protocol: type) -> dict[str, object]:
    return {
        name: member
        for base in protocol.__mro__
        for name, member in vars(base).items()
        if getattr(base, "_is_protocol", False) and (name == "__call__" or not name.startswith("_"))
    }


def test_protocols_are_narrow_and_disjoint():
    own = {protocol: members(protocol) for protocol in PARTS}
    assert {protocol: len(names) for protocol, names in own.items()} == PARTS
    assert set(members(PlacedRunner)) == {*own[Runner], *own[Placement]}
    assert set(members(GenerationRunner)) == {name for names in own.values() for name in names}
    assert len(members(GenerationRunner)) == sum(PARTS.values())


@pytest.mark.parametrize(
    ("make", "protocols"),
    [(OnMesh, PARTS), (OnOneDevice, PARTS), (FirstPart, [Runner])],
    ids=["on_mesh", "on_one_device", "first_part"],
)
def test_runners_have_every_member_with_the_protocol_s_arguments(make, protocols):
    for protocol in protocols:
        for name, member in members(protocol).items():
            if not isinstance(member, property):
                assert inspect.signature(getattr(make, name)) == inspect.signature(member), name
            else:
                assert name in {*make.__dataclass_fields__, *dir(make)}


def test_the_first_part_of_one_is_the_whole_batch():
    def double(params, tokens, layout):
        return params * tokens["x"] + layout.part

    for run in (FirstPart(1), pj.on_one_device(1)):
        parts = run.split({"x": np.arange(6.0).reshape(2, 3)})
        assert run(double, 2, parts).tolist() == [[0, 2, 4], [6, 8, 10]]
        assert run.one_by_one(lambda params, row: params * row, 2, parts.tokens["x"]).tolist()[1] == [6, 8, 10]


def test_the_first_part_stands_in_for_the_others():
    run = FirstPart(3)
    parts = run.split({"x": np.arange(5.0)[None]})
    assert run(lambda params, tokens, layout: tokens["x"], (), parts).tolist() == [[0, 1, 0, 1, 0, 1]]


def test_no_function_takes_an_untyped_runner_or_model():
    names, untyped, typed = {"run", "runner", "runners", "model", "models"}, [], 0
    for path in (path for package in ("prism_jax", "eval", "train") for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.Lambda):
                for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
                    if argument.arg in names:
                        typed += argument.annotation is not None
                        if argument.annotation is None:
                            untyped.append(f"{path}:{node.lineno} {argument.arg}")
    assert untyped == []
    assert typed > 40
