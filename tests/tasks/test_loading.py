"""The order of the examples: every one once an epoch, in its own bucket, from any point on."""

import json

import numpy as np
import pytest

from prism_jax.data.text import Tokens, bucket_lengths, bucket_of
from prism_jax.tasks.batches import scoring_batches, steps_per_epoch, training_batches
from prism_jax.tasks.classification import Classification
from prism_jax.tasks.inputs import Texts

LENGTHS = np.random.default_rng(0).integers(3, 30, 41)
BUCKETS = bucket_lengths((8, 16), 32)


@pytest.fixture
def task():
    ids = [np.full(n, i, np.int32) for i, n in enumerate(LENGTHS)]
    texts = Texts(Tokens(ids, [np.zeros_like(one) for one in ids]))
    return Classification(texts, np.arange(len(LENGTHS)) % 3, ("accuracy_percent",))


def test_every_row_once_an_epoch_in_its_own_bucket(task):
    batches, epoch = iter(training_batches(task, BUCKETS, 4, seed=1)), steps_per_epoch(task, BUCKETS, 4)
    orders = []
    for _ in range(2):
        seen = [next(batches) for _ in range(epoch)]
        rows = np.concatenate([batch.index for batch in seen])
        assert sorted(rows) == list(range(len(LENGTHS)))
        orders.append(rows.tolist())
        for batch in seen:
            assert batch.tokens["ids"].shape == (4, batch.num_tokens)
            assert (bucket_of(LENGTHS[batch.index], BUCKETS) == batch.num_tokens).all()
            assert batch.weight_B.sum() == len(batch.index)
            real = batch.tokens["ids"][np.arange(len(batch.index)), 0]
            assert real.tolist() == batch.index.tolist()
            assert (batch.targets[: len(batch.index)] == batch.index % 3).all()
    assert orders[0] != orders[1]


def test_an_example_s_bucket_is_its_own():
    assert bucket_of(np.array([1, 8, 9, 16, 17, 32]), (8, 16, 32)).tolist() == [8, 8, 16, 16, 32, 32]


@pytest.mark.parametrize("stop", [0, 1, 5, 13, 30])
def test_going_on_from_any_point_gives_the_same_batches(task, stop):
    whole = iter(training_batches(task, BUCKETS, 4, seed=3))
    for _ in range(stop):
        next(whole)
    state = json.loads(json.dumps(whole.get_state()))
    again = iter(training_batches(task, BUCKETS, 4, seed=3))
    again.set_state(state)
    for _ in range(4):
        a, b = next(whole), next(again)
        assert a.index.tolist() == b.index.tolist()
        np.testing.assert_array_equal(a.tokens["ids"], b.tokens["ids"])


def test_scoring_sees_every_row_once(task):
    seen = list(scoring_batches(task, BUCKETS, 4))
    assert sorted(np.concatenate([batch.index for batch in seen])) == list(range(len(LENGTHS)))
    assert [batch.num_tokens for batch in seen] == sorted(batch.num_tokens for batch in seen)
