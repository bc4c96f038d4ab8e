"""Data sets by name."""

import os
from collections.abc import Callable
from pathlib import Path

from prism_jax.data import hub_sets, packaged
from prism_jax.data.datasets import Dataset
from prism_jax.errors import InputError

DATASETS: dict[str, Callable[[str], Dataset]] = dict(packaged.DATASETS)
"""Data sets that need no source, by name. Each is a function from the split to the data. You can add your own."""


def load(name: str | None, split: str, source: str | Path | None = None) -> Dataset:
    """Loads a data set by name.

    Args:
      name: a key of `DATASETS` or of `hub_sets.DATASETS`.
      split: "train" or "test"; sets from the hub also have their original split names.
      source: a folder in the hub's layout, or a hub id, that replaces the set's default hub id.

    Raises:
      InputError: if the name, the split or the source is unknown.
      AssetError: if the data can't be fetched.
    """
    check(name, source)
    assert name
    if name in hub_sets.DATASETS:
        return hub_sets.DATASETS[name](split, None if source is None else os.path.expanduser(source))
    return DATASETS[name](split)


def check(name: str | None, source: str | Path | None = None) -> None:
    """Raises InputError if a data set's name is unknown, or it does not take a source. Reads nothing."""
    known = ", ".join([*DATASETS, *hub_sets.DATASETS])
    if name is None:
        raise InputError(f"this config has no dataset; add --dataset, one of {known}")
    if name not in hub_sets.DATASETS and name not in DATASETS:
        raise InputError(f"unknown dataset {name!r}; known are {known}")
    if source is not None and name not in hub_sets.DATASETS:
        raise InputError(f"the data set {name!r} comes with a package, not from {str(source)!r}; leave the source out")
