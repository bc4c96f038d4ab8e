"""The optimiser: its schedule by hand, its mask, accumulation, and the step."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.closeness import assert_close

from prism_jax.experiments.recipe import Training
from train.optimizer import decayed, optimizer, schedule
from train.step import init_state, make_step

pytestmark = pytest.mark.usefixtures("quick_to_compile")

RECIPE = Training(learning_rate=1.0, warmup=0.2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", [0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        ("constant", [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("cosine", [0.5, 1, *(0.5 * (1 + np.cos(np.pi * np.arange(8) / 8)))]),
    ],
)
def test_schedules(name, expected):
    rate = schedule(replace(RECIPE, schedule=name), 10)
    assert_close([rate(step) for step in range(10)], expected)


def test_matrices_alone_are_decayed():
    names = ("kernel", "bias", "scale", "embedding", "class_token", "lora_a")
    params = {name: jnp.zeros(2 if name in ("bias", "scale", "class_token") else (2, 2)) for name in names}
    assert [name for name, is_decayed in decayed({"layer": params})["layer"].items() if is_decayed] == [
        "kernel",
        "lora_a",
    ]


def losses(trained, frozen, batch):
    x, y = batch
    return (x @ trained["kernel"] - y) ** 2, jnp.ones(len(y))


def problem(rows: int):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 3)).astype(np.float32)
    return {"kernel": np.zeros(3, np.float32)}, (x, x @ np.array([1.0, -2, 3], np.float32))


def test_two_halves_accumulated_are_one_batch():
    params, (x, y) = problem(16)
    whole, halves = replace(RECIPE, schedule="constant"), replace(RECIPE, schedule="constant", accumulate=2)
    results = []
    for recipe, size in ((whole, 16), (halves, 8)):
        rule = optimizer(recipe, 6)
        step, state = make_step(losses, rule), init_state(params, rule, 0)
        for _ in range(3):
            for start in range(0, 16, size):
                rows = slice(start, start + size)
                state, _ = step(state, {}, (x[rows], y[rows]), np.ones(size, np.float32))
        results.append(state.params["kernel"])
    assert_close(results[1], results[0])
    assert (results[0] != 0).all()


def test_rows_of_weight_0_have_no_part_in_a_step():
    params, (x, y) = problem(8)
    results = []
    for filled in (0, 5):
        rule = optimizer(RECIPE, 10)
        batch = np.concatenate([x, x[:filled] + 7]), np.concatenate([y, y[:filled] - 9])
        weight_B = np.concatenate([np.ones(8), np.zeros(filled)]).astype(np.float32)
        state, shown = make_step(losses, rule)(init_state(params, rule, 0), {}, batch, weight_B)
        results.append((state.params["kernel"], shown["loss"]))
    jax.tree.map(assert_close, *results)


def test_after_a_step_that_is_not_finite_nothing_changes_any_more():
    params, (x, y) = problem(8)
    rule, ones = optimizer(RECIPE, 10), np.ones(8, np.float32)
    step, state = make_step(losses, rule), init_state(params, rule, 0)
    state, _ = step(state, {}, (x, y), ones)
    good = jax.device_get(state)
    for targets in (y * np.nan, y):
        state, shown = step(state, {}, (x, targets), ones)
        assert not shown["finite"]
    bad = jax.device_get(state)
    jax.tree.map(np.testing.assert_array_equal, replace(bad, finite=good.finite), good)
    assert bad.step == 1


def test_a_gradient_that_is_not_finite_is_not_accumulated():
    """Its loss is finite, and so is the change of the step that only accumulates."""

    def root(trained, frozen, batch):
        return jnp.sqrt(batch[0] @ trained["kernel"]), jnp.ones(len(batch[1]))

    params, (x, y) = problem(8)  # the root of 0
    rule = optimizer(replace(RECIPE, accumulate=2), 10)
    state = init_state(params, rule, 0)
    before = jax.device_get(state)
    state, shown = make_step(root, rule)(state, {}, (x, y), np.ones(8, np.float32))
    assert shown["loss"] == 0
    assert not shown["finite"]
    jax.tree.map(np.testing.assert_array_equal, replace(jax.device_get(state), finite=before.finite), before)
