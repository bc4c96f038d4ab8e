"""What the files of a run hold, as their readers need it; there may be more. Each field stands here once."""

from pathlib import Path
from typing import NotRequired, TypedDict

from prism_jax import records
from prism_jax.errors import InputError
from prism_jax.records import Count, Natural, NotNegative, Positive, Seed


class StartedFrom(TypedDict):
    """The checkpoint of another run."""

    run: str
    step: Natural


class Recipe(TypedDict):
    """Of the experiment's `training`."""

    exchanges: list[str]
    fresh: list[str]
    seed: Seed
    lora_rank: Natural
    lora_alpha: Positive


class Contents(TypedDict):
    """What tells examples from others; beside their number, digests by column."""

    examples: Natural


class Data(TypedDict):
    """What was trained on, and what was held out."""

    training: Contents
    held_out: Contents


class RunConfig(TypedDict):
    """config.json: the experiment, its classes, what the run started from, and its data, where it is not of an earlier version."""

    model: str
    weights: str
    revision: str | None
    dataset: str | None
    num_tokens: Count
    image_size: Count | None
    adapter: str | None
    training: Recipe
    label_names: list[str]
    num_labels: Count | None
    started_from: StartedFrom | None
    data: NotRequired[Data]


class Line(TypedDict):
    """A line of metrics.jsonl."""

    step: Natural
    score: NotRequired[float]
    seconds: NotRequired[NotNegative]


class Position(TypedDict):
    """Where in its data a run stands: before the batch of the next step."""

    next_index: Natural


class Saved(TypedDict):
    """What a checkpoint says beside its arrays. Those of earlier versions lack some."""

    position: Position
    recipe: NotRequired[str]
    sha256: NotRequired[str | None]


class Score(TypedDict):
    """What checkpoints are compared by."""

    score: float


def read_config(run: Path) -> RunConfig:
    """What the config.json of a run says.

    Raises:
      InputError: if it can't be read.
    """
    said = records.read(run / "config.json", RunConfig, "train into a new folder")
    names, number = said["label_names"], said["num_labels"]
    if number not in ({len(names)} if names else {1, None}):
        raise InputError(
            f"{run}/config.json has {len(names)} label_names, but num_labels is {number}; train into a new folder"
        )
    if (before := said["started_from"]) and Path(before["run"]).resolve() == run.resolve():
        raise InputError(f"{run}/config.json says that the run started from itself; train into a new folder")
    return said
