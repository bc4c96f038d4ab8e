"""The first training steps of each family against PyTorch's, and against stored ones where torch is not installed."""

import json

import pytest
from helpers.cases import one_is_quick
from helpers.closeness import assert_close
from helpers.paths import GOLDEN
from helpers.training_steps import families, our_steps, torch_steps

import prism_jax as pj

pytestmark = pytest.mark.usefixtures("quick_to_compile")

FAMILIES = families()
STORED = json.loads((GOLDEN / "training_steps.json").read_text())
"""Of Hugging Face's PyTorch models and `torch.optim.AdamW`, written by `python tests/golden/make.py`."""


def assert_same(steps: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    for name in ("loss", "gradient_norm"):
        assert_close([step[name] for step in steps], [step[name] for step in expected])


@pytest.mark.parametrize("family", one_is_quick("gpt2", FAMILIES))
@pytest.mark.parametrize(
    ("exchange", "num_parts"),
    [
        pytest.param(pj.WholeSequence(), 1, id="whole"),
        pytest.param(pj.AllGather(), 3, id="all", marks=pytest.mark.slow),
    ],
)
def test_golden_steps_without_torch(family, exchange, num_parts):
    assert_same(our_steps(FAMILIES[family], exchange, num_parts), STORED[family])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stored_steps_change_loss_and_gradient(family):
    """Else any optimizer would pass."""
    losses, norms = ([step[name] for step in STORED[family]] for name in ("loss", "gradient_norm"))
    assert losses[0] > losses[1] + 1e-2 > losses[2] + 2e-2
    assert min(norms) > 1  # clipped


@pytest.mark.parity
@pytest.mark.parametrize("family", FAMILIES)
def test_steps_equal_pytorch(family):
    reference = torch_steps(FAMILIES[family])
    assert_same(our_steps(FAMILIES[family], pj.WholeSequence(), 1), reference)
    assert_same(STORED[family], reference)
