"""A run that tests of training share."""

import pytest
from helpers.command import command
from helpers.runs import WHOLE


@pytest.fixture(scope="module")
def whole(quick_to_compile, toy_config, tmp_path_factory):
    """A run through segment means, from beginning to end."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert command("train.finetune", toy_config, *WHOLE, "--out", out) == 0
    return out
