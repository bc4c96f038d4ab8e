"""Data sets that ordinary packages carry, by name. Each is fetched when it is first asked for,
see `prism_jax.assets`."""

from collections.abc import Callable

from prism_jax.data.datasets import Dataset
from prism_jax.data.packaged import brown, corpora, images, texts

DATASETS: dict[str, Callable[[str], Dataset]] = {
    **texts.DATASETS,
    **corpora.DATASETS,
    **brown.DATASETS,
    **images.DATASETS,
}
"""Functions from the split ("train" or "test") to the data."""
