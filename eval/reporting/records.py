"""Types of results.json, and the readers that check it against them."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from prism_jax import records
from prism_jax.metrics.scores import METRICS
from prism_jax.records import Count, Finite, Natural

SCHEMA = 1
FILE = "results.json"

Amount = Annotated[float, Meta(ge=0, le=1e30)]
Above = Annotated[float, Meta(gt=0, le=1e30)]
Bytes = Annotated[float, Meta(ge=0, le=1e18)]
Seconds = Annotated[float, Meta(ge=1e-9, le=1e9)]
Milliseconds = Annotated[float, Meta(ge=0, le=1e9, description="0 or more milliseconds, up to 1e9")]
Rate = Annotated[float, Meta(ge=1, le=1e18)]
Interval = tuple[Finite, Finite]
Metric = Annotated[str, Meta(pattern=rf"^({'|'.join(METRICS)})\Z")]


class EnvironmentJson(TypedDict):
    jax: str
    devices: str
    emulated: bool
    cpu: str
    cores: Count
    commit: str | None


class Record(TypedDict):
    """A record of a sweep, whether it ran or not. docs/commands.md explains the fields."""

    setting: str
    exchange: str
    wire: str
    num_parts: Count
    num_segments: Count | None
    compression_rate: Above | None
    tokens: Count
    weights: str
    metric: Metric
    score: Finite | None
    score_ci95: Interval | None
    difference_to_one_device: Finite | None
    difference_ci95: Interval | None
    recovery_percent: NotRequired[Finite | None]
    recovery_ci95: NotRequired[Interval | None]
    last_part_difference_to_one_device: NotRequired[Finite | None]
    last_part_difference_ci95: NotRequired[Interval | None]
    error: NotRequired[str | None]


class StoredFields(TypedDict):
    """Fields of a record that are stored for a resumed sweep."""

    real_tokens_median: Amount
    share_in_every_part: Annotated[float, Meta(ge=0, le=1)]
    flops_per_device: Above
    flops_per_device_compiled: Amount | None
    flops_vs_one_device: Above
    bytes_sent_per_device: Bytes
    bytes_sent_per_device_compiled: Bytes | None
    seconds: Amount


class MeasuredFields(StoredFields):
    """Fields of a record that ran, besides its setting and score."""

    examples: Count


class SweepJson(TypedDict):
    schema: Literal[1]
    model: str
    dataset: str
    weights: dict[str, str]
    remarks: NotRequired[list[str]]
    command: str
    environment: EnvironmentJson
    rows: list[Record]


class PartAlone(TypedDict):
    """Time of one part of a setting alone, and its traffic."""

    setting: str
    num_parts: Count
    tokens: Count
    batch_size: Count
    seconds: Seconds
    bytes_sent_per_device: Bytes
    bytes_split_per_device: Bytes
    bytes_join_per_device: Bytes
    collectives: Natural
    collectives_hidden: NotRequired[Natural]
    share_behind_hidden: NotRequired[Annotated[float, Meta(ge=0, le=1)]]


class Timed(PartAlone):
    """A request of `eval.latency`. The rates and times of its link are null if they are unknown: over loopback all, and
    between hosts the requested ones."""

    seconds_p10: Seconds
    seconds_p90: Seconds
    seconds_alone: Seconds
    link: str
    rate_bits_per_second: Rate | None
    rate_measured: Rate | None
    rtt_ms: Milliseconds | None
    rtt_measured_ms: NotRequired[float | None]
    parts_per_core: NotRequired[Count]


class Shaped(TypedDict):
    """Fields of a request over a shaped link."""

    rate_bits_per_second: Rate
    rate_measured: Rate
    rtt_ms: Milliseconds


class Measurement(TypedDict):
    rate_bits_per_second: Rate


class Ladder(TypedDict):
    """Measurement of a link."""

    link: str
    measured: Measurement


class Scaled(TypedDict):
    """A measurement of `eval.scale`."""

    exchange: str
    num_parts: Count
    tokens: Count
    layers: Count
    seconds: Seconds
    memory_activations_bytes_compiled: Above


class Scales(TypedDict):
    schema: Literal[1]
    environment: EnvironmentJson
    rows: list[Scaled]


class Calibration(TypedDict):
    schema: Literal[1]
    model: str
    environment: EnvironmentJson
    rows: list[Timed]
    parts_alone: list[PartAlone]
    ladders: list[Ladder]


def read_sweep(folder: Path | str) -> Any:
    """Reads the results of eval.sweep or eval.evaluate, see `SweepJson`.

    Raises:
      InputError: if they can't be read, or have no record with a score.
    """

    def check(content: Any) -> None:
        for i, row in enumerate(content["rows"]):
            if not row.get("error"):
                records.checked(row, MeasuredFields, f"rows[{i}]")
        if not any(row["score"] is not None for row in content["rows"]):
            raise ValueError("it holds no scored records")
        if len(metrics := {row["metric"] for row in content["rows"]}) > 1:
            raise ValueError(f"it has records of several metrics, {', '.join(sorted(metrics))}")

    return _read(folder, SweepJson, "run eval.sweep first, or name a folder that it wrote", check)


def read_calibration(
    folder: Path | str, way_out: str = "run eval.latency first, or name a folder that it wrote"
) -> Any:
    """Reads the results of eval.latency, complete or not, see `Calibration`.

    Raises:
      InputError: if they can't be read.
    """

    def check(content: Any) -> None:
        for i, row in enumerate(content["rows"]):
            if row["rate_bits_per_second"] is not None:
                records.checked(row, Shaped, f"rows[{i}]")

    return _read(folder, Calibration, way_out, check)


def read_scales(folder: Path | str) -> Any:
    """Reads the results of eval.scale, see `Scales`.

    Raises:
      InputError: if they can't be read.
    """
    return _read(folder, Scales, "choose another --out")


def _read(folder: Path | str, kind: type, way_out: str, check: Callable[[Any], None] = lambda content: None) -> Any:
    """Reads the results.json of a folder. `check` raises a ValueError for faults that the type can't express."""
    path = Path(folder) / FILE
    content: Any = records.read(path, kind, way_out)
    with records.refusing(path, way_out):
        check(content)
    return content
