"""Bases and codebooks of exchanges, from the rows that the blocks of a model read."""

import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from prism_jax.data.datasets import Dataset, subset
from prism_jax.data.text import bucket_lengths
from prism_jax.exchange.base import Context, Exchange, own_rows
from prism_jax.exchange.codebooks import Codebooks
from prism_jax.exchange.principal import Principal
from prism_jax.experiments import checkpoint
from prism_jax.experiments.build import check_same_classes, load_model, load_run
from prism_jax.experiments.recipe import Experiment
from prism_jax.layers import lora
from prism_jax.parallel.partition import Layout
from prism_jax.progress import Progress
from prism_jax.tasks import prepare
from prism_jax.tasks.batches import scoring_batches
from prism_jax.tasks.predict import num_batches
from prism_jax.weights import Pretrained

ITERATIONS = 25
"""Most iterations of k-means."""


@dataclass(frozen=True)
class _Recording(Exchange):
    """One device, which keeps the rows that the exchange of each block is called on."""

    rows: list[jax.Array] = field(compare=False)
    of_keys_values: bool

    @property
    def keys_values(self) -> bool:
        return self.of_keys_values

    def __call__(self, x_BTD: jax.Array, layout: Layout) -> Context:
        self.rows.append(x_BTD)
        return own_rows(x_BTD, layout)


def load(experiment: Experiment, dataset: Dataset, base: str | None) -> Pretrained:
    """Returns the model whose rows are read, adapters folded in.

    Args:
      experiment: the experiment.
      dataset: training examples.
      base: `RUN` or `RUN@STEP`; None for the config's weights and adapter.
    """
    if base is None:
        return load_model(experiment, dataset)
    trained = checkpoint.named(base)
    checkpoint.check_same_model(trained.run, trained.config, experiment)
    check_same_classes(trained, dataset)
    pretrained = load_run(trained, experiment.model, experiment.compute_dtype, experiment.training.fresh)
    return replace(pretrained, params=lora.merge(pretrained.params))


def rows_of_blocks(
    experiment: Experiment,
    pretrained: Pretrained,
    dataset: Dataset,
    examples: int,
    most: int,
    *,
    keys_values: bool = False,
) -> list[np.ndarray]:
    """Returns rows of real tokens that each block reads on one device, [rows, D] for each block.

    Args:
      experiment: the experiment.
      pretrained: the model.
      dataset: training examples.
      examples: number of examples to read, at even distances.
      most: largest number of rows of a block. They are drawn at random, of the same tokens in every block.
      keys_values: whether to return keys and values side by side in place of rows, [rows, 2 G F].
    """
    model, stack = pretrained.model, pretrained.model.config.stack

    @jax.jit
    def read(params: Any, tokens: dict[str, jax.Array], real_BN: jax.Array) -> list[jax.Array]:
        rows: list[jax.Array] = []
        layout = Layout(jnp.int32(0), real_BN, None, 1, real_BN.shape[1])
        model.apply(
            {"params": params}, tokens, layout, (_Recording(rows, keys_values),) * stack.num_layers, method="part"
        )
        return rows

    task = prepare(subset(dataset, examples), pretrained, experiment.num_tokens)
    lengths = bucket_lengths(experiment.buckets, experiment.num_tokens)
    kept: list[list[np.ndarray]] = [[] for _ in range(stack.num_layers)]
    params = jax.device_put(pretrained.params)
    chosen = np.random.default_rng(experiment.training.seed).permutation(int(np.sum(task.lengths)))[:most]
    wanted, read_before = np.zeros(int(np.sum(task.lengths)), bool), 0
    wanted[chosen] = True
    batches = scoring_batches(task, lengths, experiment.batch_size)
    for batch in Progress(batches, "rows", num_batches(task, lengths, experiment.batch_size), unit="batch"):
        tokens = dict(batch.tokens)
        real_BN = np.asarray(tokens.pop("mask", np.ones((len(batch.weight_B), batch.num_tokens))), bool)
        tokens_read = np.argwhere(real_BN & (batch.weight_B > 0)[:, None])
        chosen = tokens_read[wanted[read_before : read_before + len(tokens_read)]]
        read_before += len(tokens_read)
        for block, x_BND in zip(kept, read(params, tokens, real_BN), strict=True):
            block.append(np.asarray(x_BND)[*chosen.T])
    return [np.concatenate(block) for block in kept]


def fit_basis(principal: Principal, rows: list[np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Returns the basis of each block: the first principal components of its rows.

    Args:
      principal: gives their number.
      rows: of each block, [rows, D].
    """
    arrays = {}
    for i, of_block in enumerate(rows):
        mean = of_block.mean(0, dtype=np.float64)
        components = np.linalg.eigh(np.cov((of_block - mean).T)).eigenvectors[:, ::-1]  # by falling variance
        arrays[f"block_{i}"] = {
            "mean": mean.astype(np.float32),
            "basis": components[:, large_beside_small(principal.rank)].astype(np.float32),
        }
    return arrays


def coordinates(rows: list[np.ndarray], bases: dict[str, dict[str, np.ndarray]]) -> list[np.ndarray]:
    """Returns the coordinates of the rows of each block in bases of `fit_basis`, [rows, W]."""
    of_blocks = (bases[f"block_{i}"] for i in range(len(rows)))
    return [(x - own["mean"]) @ own["basis"] for x, own in zip(rows, of_blocks, strict=True)]


def large_beside_small(rank: int) -> np.ndarray:
    """Returns an order of components that are numbered by falling variance: pairs of a large and a small one. Groups
    of an even number of neighbours then have like products of variances (eigenvalue allocation, Ge et al. 2013)."""
    half = rank // 2
    pairs = np.stack([np.arange(half), rank - 1 - np.arange(half)], 1)
    return np.concatenate([pairs.reshape(-1), np.arange(half, rank - half)])


def fit(books: Codebooks, rows: list[np.ndarray], seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Returns the centroids of each block, by k-means in each group of features.

    Args:
      books: gives the groups and the number of centroids.
      rows: of each block, [rows, D].
      seed: of the first centroids.
    """
    arrays = {}
    with Progress(total=len(rows) * books.groups, desc=str(books), unit="codebook") as progress:
        for i, of_block in enumerate(rows):
            centroids = []
            for piece in np.split(of_block, books.groups, axis=1):
                centroids.append(_centroids(piece, 2**books.bits, seed))
                progress.update()
            arrays[f"block_{i}"] = {"centroids": np.stack(centroids)}
    return arrays


def _centroids(piece: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Returns [number, E]: the distinct rows themselves if there are no more of them, repeated to fill the number."""
    distinct = np.unique(piece, axis=0)
    if len(distinct) <= number:
        return np.resize(distinct, (number, piece.shape[1])).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # rows that differ by rounding alone share a centroid
        means = KMeans(number, init="random", n_init=1, max_iter=ITERATIONS, random_state=seed).fit(piece)
    return means.cluster_centers_.astype(np.float32)
