"""Seeds: those that JAX would cut are refused, the largest one is used."""

from itertools import pairwise

import jax
import numpy as np
import pytest
from helpers.paths import GOLDEN

from prism_jax import weights
from prism_jax.errors import InputError
from prism_jax.experiments.recipe import Training
from prism_jax.generation import Sampling
from prism_jax.models.bert import BertForSequenceClassification
from prism_jax.seeds import LARGEST, check_seed
from prism_jax.tasks.batches import training_batches

pytestmark = pytest.mark.usefixtures("quick_to_compile")


def load(seed):
    return weights.load(
        BertForSequenceClassification, str(GOLDEN / "bert_tiny"), num_labels=3, fresh=["classifier"], seed=seed
    ).params["classifier"]["kernel"]


@pytest.mark.parametrize("seed", [-1, 2**32, 2**70, 1.0, True, "1", None], ids=str)
def test_a_seed_that_would_be_another_is_refused(seed):
    for use in (
        check_seed,
        load,
        lambda seed: Sampling(1.0, seed=seed),
    ):
        with pytest.raises(InputError, match=f"seed is {seed}; choose a whole number from 0 to 4294967295"):
            use(seed)
    with pytest.raises(InputError, match="training.seed is"):
        Training(seed=seed).check()


def test_the_largest_seed_is_its_own():
    assert LARGEST == 2**32 - 1
    Training(seed=LARGEST).check()
    Sampling(1.0, seed=LARGEST)
    drawn = [np.asarray(load(seed)) for seed in (0, LARGEST - 1, LARGEST)]
    assert all((one != other).any() for one, other in pairwise(drawn))
    assert len({tuple(jax.random.key_data(jax.random.key(seed)).tolist()) for seed in (0, 1, LARGEST)}) == 3
    task = type("Task", (), {"training_index": np.arange(8), "lengths": np.full(8, 4)})()
    training_batches(task, (4,), 2, LARGEST)
