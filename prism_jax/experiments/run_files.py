"""Types of the files of a run, with the keys that readers need. Files may have more keys."""

import os
from pathlib import Path
from typing import NotRequired, TypedDict

from prism_jax import records
from prism_jax.errors import InputError
from prism_jax.records import Count, Natural, NotNegative, Positive
from prism_jax.seeds import Seed


class StartedFrom(TypedDict):
    """The checkpoint of another run, from which a run started."""

    run: str
    step: Natural


class TrainingJson(TypedDict):
    """Fields of the experiment's `training`."""

    exchanges: list[str]
    fresh: list[str]
    seed: Seed
    lora_rank: Natural
    lora_alpha: Positive
    parts: NotRequired[list[Count]]


class Contents(TypedDict):
    """Fingerprint of a data set: its number of examples, and further keys with a digest of each column."""

    examples: Natural


class Data(TypedDict):
    """Fingerprints of the training examples and of the held-out examples."""

    training: Contents
    held_out: Contents


class RunConfig(TypedDict):
    """config.json: the experiment, its classes, the start of the run, and its data (missing in earlier versions)."""

    model: str
    weights: str
    revision: str | None
    dataset: str | None
    num_tokens: Count
    image_size: Count | None
    adapter: str | None
    training: TrainingJson
    label_names: list[str]
    num_labels: Count | None
    started_from: StartedFrom | None
    data: NotRequired[Data]
    exchange_arrays: NotRequired[str | None]


class Line(TypedDict):
    """A line of metrics.jsonl."""

    step: Natural
    score: NotRequired[float]
    seconds: NotRequired[NotNegative]


class Position(TypedDict):
    """Position of a run in its data: before the batch of the next step."""

    next_index: Natural


class Saved(TypedDict):
    """Metadata of a checkpoint. Earlier versions lack some keys."""

    position: Position
    recipe: NotRequired[str]
    sha256: NotRequired[str | None]


class SavedScore(TypedDict):
    """Metrics of a checkpoint: the score that ranks it."""

    score: float


def read_config(run: Path) -> RunConfig:
    """Returns the config.json of a run.

    Raises:
      InputError: if it can't be read, or the run started from itself, directly or through other runs.
    """
    config = _read(run)
    names, number = config["label_names"], config["num_labels"]
    if number not in ({len(names)} if names else {1, None}):
        raise InputError(
            f"{run}/config.json has {len(names)} label_names, but num_labels is {number}; train into a new folder"
        )
    folders, start = [run.resolve()], config["started_from"]
    while start:
        folder = Path(start["run"]).resolve()
        if folder in folders:
            route = f", by way of {', '.join(map(str, folders[1:]))}" if folders[1:] else ""
            raise InputError(f"{run}/config.json says that the run started from itself{route}; train into a new folder")
        folders.append(folder)
        start = _read(folder)["started_from"] if os.path.exists(folder / "config.json") else None
    return config


def _read(run: Path) -> RunConfig:
    return records.read(run / "config.json", RunConfig, "train into a new folder")
