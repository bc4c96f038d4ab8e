"""Assets of the package registries."""

import os
from pathlib import Path

import pytest

from prism_jax import assets
from prism_jax.assets import Asset
from prism_jax.errors import AssetError


def real(asset: Asset) -> Path:
    """The folder of an asset for a test of the real thing; the test is skipped where that would need a download.

    PRISM_JAX_TEST_DOWNLOADS=1 fetches what is not cached.
    """
    if not assets.is_cached(asset) and not os.environ.get("PRISM_JAX_TEST_DOWNLOADS"):
        pytest.skip(f"asset {asset.name!r} is not cached; PRISM_JAX_TEST_DOWNLOADS=1 fetches it")
    try:
        return assets.fetch(asset)
    except AssetError as error:
        pytest.skip(str(error))


def minilm() -> Path:
    try:
        return assets.fetch(assets.MINILM)
    except AssetError as error:
        pytest.skip(str(error))


SENTENCES = [
    "Segment means stand for many tokens.",
    "A mesh of small devices.",
    "The weather in Turin was mild, wet and grey all week.",
]
