"""Batches of a task. Grain fixes their order, and loads them in the background."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import grain
import numpy as np

from prism_jax.data.text import bucket_of
from prism_jax.tasks.base import Task


@dataclass(frozen=True)
class Batch:
    """Sequences of one length bucket.

    Attributes:
      tokens: arrays [B, N, ...] for `run.split`.
      targets: targets of the task's loss.
      weight_B: float32, the loss weights: 1 for a sequence and 0 for a filler.
      index: indices of the sequences, without fillers.
    """

    tokens: dict[str, np.ndarray]
    targets: np.ndarray
    weight_B: np.ndarray
    index: np.ndarray

    @property
    def num_tokens(self) -> int:
        return next(iter(self.tokens.values())).shape[1]


def training_batches(task: Task, buckets: Sequence[int], batch_size: int, seed: int) -> grain.IterDataset:
    """Returns endless batches: every sequence once in each epoch, in an order that depends on the seed.

    Their iterator has `get_state` and `set_state`. A batch holds sequences of one bucket. The last batch of a bucket is
    filled up with repeated sequences of loss weight 0.

    Args:
      task: the task to train on.
      buckets: lengths, from `bucket_lengths`.
      batch_size: B.
      seed: seed of the order and of the augmentation.
    """
    plans = _plans(task, task.training_index, buckets, batch_size, seed).seed(seed).shuffle().repeat()
    batches = plans.random_map(partial(_load, task, batch_size))
    return batches.to_iter_dataset(_read_options())


def steps_per_epoch(task: Task, buckets: Sequence[int], batch_size: int) -> int:
    """Returns the number of batches in an epoch."""
    _, counts = np.unique(bucket_of(task.lengths[task.training_index], buckets), return_counts=True)
    return int((-(-counts // batch_size)).sum())


def scoring_batches(task: Task, buckets: Sequence[int], batch_size: int) -> Iterator[Batch]:
    """Yields batches with every sequence once, bucket after bucket."""
    plans = _plans(task, np.arange(len(task.lengths)), buckets, batch_size, None)
    return iter(plans.map(lambda plan: _load(task, batch_size, plan, None)).to_iter_dataset(_read_options()))


def _plans(
    task: Task, index: np.ndarray, buckets: Sequence[int], batch_size: int, seed: int | None
) -> grain.MapDataset:
    """Returns the plans `(index, length)` of an epoch's batches."""
    buckets_of, plans = bucket_of(task.lengths[index], buckets), []
    for bucket in np.unique(buckets_of):
        order = grain.MapDataset.source(index[buckets_of == bucket])
        order = order if seed is None else order.seed(seed).shuffle()
        plans.append(order.batch(batch_size).map(lambda chosen, bucket=int(bucket): (chosen, bucket)))
    return grain.MapDataset.concatenate(plans)


def _load(
    task: Task,
    batch_size: int,
    plan: tuple[np.ndarray, int],
    rng: np.random.Generator | None,
) -> Batch:
    index, num_tokens = plan
    filled = np.concatenate([index, np.repeat(index[-1:], batch_size - len(index))])
    tokens, targets = task.arrays(filled, num_tokens, rng)
    weight_B = (np.arange(batch_size) < len(index)).astype(np.float32)
    return Batch(tokens, targets, weight_B, index)


def _read_options() -> grain.ReadOptions:
    return grain.ReadOptions(num_threads=min(4, os.cpu_count() or 1), prefetch_buffer_size=8)
