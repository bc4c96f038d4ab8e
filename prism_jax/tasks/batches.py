"""Batches of a task, in an order that Grain keeps, made beside the training step."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import grain
import numpy as np

from prism_jax.data.text import bucket_of
from prism_jax.errors import InputError
from prism_jax.tasks.base import Task


@dataclass(frozen=True)
class Batch:
    """Rows of one length bucket.

    Attributes:
      tokens: arrays [B, N, ...] for `run.split`.
      targets: what the task's loss compares with.
      weight_B: float32, 1 for a row and 0 for what only fills up the batch.
      index: of the rows, without what fills up.
    """

    tokens: dict[str, np.ndarray]
    targets: np.ndarray
    weight_B: np.ndarray
    index: np.ndarray

    @property
    def num_tokens(self) -> int:
        return next(iter(self.tokens.values())).shape[1]


def training_batches(
    task: Task, buckets: Sequence[int], batch_size: int, seed: int, *, shard: tuple[int, int] = (0, 1)
) -> grain.IterDataset:
    """Batches without end: every row once an epoch, in an order that follows from the seed.

    An iterator over them has `get_state` and `set_state`. A batch holds rows of one bucket; the last one of a bucket is
    filled up with rows of weight 0.

    Args:
      task: what to train on.
      buckets: lengths, from `bucket_lengths`.
      batch_size: B.
      seed: of the order and of augmentation.
      shard: (i, n): the i-th of n equal pieces of every batch, one for each host.

    Raises:
      InputError: if B does not cut into n pieces.
    """
    if batch_size % shard[1]:
        raise InputError(
            f"a batch of {batch_size} does not cut into {shard[1]} pieces; choose a multiple of {shard[1]}"
        )
    plans = _plans(task, task.training_rows, buckets, batch_size, seed).seed(seed).shuffle().repeat()
    batches = plans.random_map(partial(_load, task, batch_size, shard))
    return batches.to_iter_dataset(_read_options())


def steps_per_epoch(task: Task, buckets: Sequence[int], batch_size: int) -> int:
    """Batches of an epoch."""
    _, counts = np.unique(bucket_of(task.lengths[task.training_rows], buckets), return_counts=True)
    return int((-(-counts // batch_size)).sum())


def scoring_batches(task: Task, buckets: Sequence[int], batch_size: int) -> Iterator[Batch]:
    """Every row once, bucket after bucket."""
    plans = _plans(task, np.arange(len(task.lengths)), buckets, batch_size, None)
    return iter(plans.map(lambda plan: _load(task, batch_size, (0, 1), plan, None)).to_iter_dataset(_read_options()))


def _plans(task: Task, rows: np.ndarray, buckets: Sequence[int], batch_size: int, seed: int | None) -> grain.MapDataset:
    """Returns the plans `(rows, length)` of an epoch's batches."""
    of_row, several = bucket_of(task.lengths[rows], buckets), []
    for bucket in np.unique(of_row):
        order = grain.MapDataset.source(rows[of_row == bucket])
        order = order if seed is None else order.seed(seed).shuffle()
        several.append(order.batch(batch_size).map(lambda index, bucket=int(bucket): (index, bucket)))
    return grain.MapDataset.concatenate(several)


def _load(
    task: Task,
    batch_size: int,
    shard: tuple[int, int],
    plan: tuple[np.ndarray, int],
    rng: np.random.Generator | None,
) -> Batch:
    index, num_tokens = plan
    filled = np.concatenate([index, np.repeat(index[-1:], batch_size - len(index))])
    piece = np.arange(batch_size).reshape(shard[1], -1)[shard[0]]
    tokens, targets = task.arrays(filled[piece], num_tokens, rng)
    weight_B = (piece < len(index)).astype(np.float32)
    return Batch(tokens, targets, weight_B, index)


def _read_options() -> grain.ReadOptions:
    return grain.ReadOptions(num_threads=min(4, os.cpu_count() or 1), prefetch_buffer_size=8)
