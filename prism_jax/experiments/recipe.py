"""Experiments: a frozen record, filled by a file in `configs/` and by flags."""

import dataclasses
import hashlib
import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from msgspec import Meta

from prism_jax import records
from prism_jax.data.text import bucket_lengths
from prism_jax.errors import InputError
from prism_jax.exchange import baselines, segments, wire
from prism_jax.exchange.base import Exchange
from prism_jax.exchange.flag_types import ExchangesFlag
from prism_jax.exchange.setting import Setting
from prism_jax.exchange.text import text_of
from prism_jax.exchange.wire import INT2, INT4, Wire
from prism_jax.models.base import Model
from prism_jax.records import BatchSize, Count, Natural, NotNegative, NumParts, NumTokens, Positive, Share, Side
from prism_jax.seeds import Seed
from prism_jax.user_paths import UserPath, expand
from prism_jax.weights import peft_config

T = TypeVar("T")

Group = Annotated[T, tyro.conf.arg(name=""), tyro.conf.Suppress]
"""A group of an experiment's fields. Commands that read the group declare it. Its fields are flags there."""


@dataclass(frozen=True)
class Evaluation:
    """Weights and examples to score."""

    adapter: UserPath | None = None
    """Folder with a LoRA adapter in PEFT's layout, for scoring. Training starts without it."""
    tuned: tyro.conf.Suppress[UserPath | None] = None
    """A run of train.finetune (RUN or RUN@STEP) or a folder with an adapter, tuned through an exchange.
    A sweep scores it beside the base weights."""
    split: str = "test"
    """Split to score: test, held_out (examples that training holds out), or the name of another split."""
    limit: Annotated[int, Meta(ge=0, description="a number of examples, or 0 for all")] = 256
    """Number of examples to score, at even distances over the split; 0 for all. An example of plain text is a window of
    N tokens; several N have as many windows each, and so other text."""

    def check(self) -> None:
        """Raises InputError if the adapter's folder holds no adapter."""
        if self.adapter is not None and not (Path(self.adapter) / peft_config.CONFIG).is_file():
            raise InputError(
                f"no adapter in {self.adapter!r}; give a folder with {peft_config.CONFIG}, "
                "as train.export --adapter writes it"
            )


@dataclass(frozen=True)
class Grid:
    """Settings of a sweep or of a measurement of latency: every exchange on every number of parts."""

    parts: tuple[NumParts, ...] = (2, 4, 8)
    """Numbers of parts, P."""
    segments: tuple[int, ...] = (1, 4, 16)
    """Segments of a part, L, for segment means."""
    exchanges: ExchangesFlag = (
        baselines.IsolatedParts(),
        baselines.AllGather(),
        baselines.AllGather(wire=INT4),
        baselines.AllGather(wire=INT2),
    )
    """Exchanges beside segment means. Exchanges of your own can stand here."""
    wires: tuple[str, ...] = ()
    """Wire formats, such as float32 int8, for all exchanges that send rows, codebooks aside; empty for that of each."""
    lengths: tuple[NumTokens, ...] = ()
    """Numbers of tokens, N; empty for num_tokens alone."""

    def check(self) -> None:
        """Raises InputError for an unknown wire format."""
        wire.check_names(self.wires)


@dataclass(frozen=True)
class Preparation:
    """Preparation of model and data, in training and in other commands alike."""

    fresh: tuple[str, ...] = ("classifier",)
    """Top-level parameters to draw at random instead of loading them.
    Parameters trained by the run given with --start are kept."""
    validation: Annotated[float, Meta(gt=0, lt=1, description="a share between 0 and 1")] = 0.1
    """Share of the training split that is held out to choose the checkpoint. It is the same for every seed."""
    validation_limit: Natural = 0
    """Number of held-out examples to score, at even distances; 0 for all. Of plain text it counts documents."""


@dataclass(frozen=True)
class Distillation:
    """Factors of the losses by which the exact model teaches. It has the weights that training starts from, and no
    exchange. All factors 0 means no teacher."""

    logits: NotNegative = 0.0
    """Factor of the divergence of the answers: Kullback-Leibler for classes and tokens, squared difference for a
    number."""
    blocks: NotNegative = 0.0
    """Factor of the squared relative error of a token after a block, as the mean over tokens and blocks."""
    attention: NotNegative = 0.0
    """The same for the output of the attention of a block."""

    @property
    def teaches(self) -> bool:
        return any((self.logits, self.blocks, self.attention))


@dataclass(frozen=True)
class Training(Preparation):
    """Fields of `train.finetune`."""

    seed: Seed = 0
    """Seed of fresh parameters, of the order of the examples, and of dropout."""
    exchanges: ExchangesFlag = (baselines.WholeSequence(),)
    """Exchanges during training. Each step draws one of them, so one run suits them all."""
    parts: Annotated[tuple[NumParts, ...], Meta(min_length=1, description="one value or several")] = (1,)
    """Numbers of parts, P, during training. Each step draws one of them."""
    data: NumParts | None = None
    """Devices along the data axis of a data x parts mesh; None to run all parts on the same device."""
    epochs: Positive = 3.0
    """Passes over the training examples."""
    batch_size: BatchSize = 32
    """B, examples of a step."""
    accumulate: Count = 1
    """Steps whose gradients are averaged before the parameters change. All count the same,
    even if a batch is not full."""
    learning_rate: Positive = 1e-4
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Course of the learning rate after the warm-up: it falls to 0, or stays constant."""
    warmup: Share = 0.1
    """Share of the steps over which the learning rate rises from 0."""
    weight_decay: NotNegative = 0.01
    """Weight decay of AdamW. Biases, norms and embeddings are not decayed."""
    clip: Annotated[float, Meta(gt=0, description="more than 0, or None")] | None = 1.0
    """Largest norm of the gradient; None for no limit. A longer gradient is scaled down to it."""
    label_smoothing: Share = 0.0
    """Share of the target probability that is spread evenly over all classes."""
    distill: Distillation = Distillation()
    """Losses by which the exact model teaches."""
    dropout: bool = True
    """Whether to use dropout, at the rates of the model's config."""
    augment: bool = False
    """Whether to crop and flip images."""
    frozen: tuple[str, ...] = ()
    """Regular expressions for paths of parameters that are not trained, such as `encoder/(token|position)/.*`."""
    lora_rank: Natural = 0
    """Rank of LoRA adapters in the blocks; 0 for none.
    With adapters, only they and the parameters in `fresh` are trained."""
    lora_alpha: Positive = 16.0
    """The adapters' outputs are multiplied by lora_alpha / lora_rank."""
    limit: Natural = 0
    """Number of training examples, at even distances; 0 for all. Of plain text it counts documents."""
    evaluate_every: Natural = 0
    """Steps between two evaluations, each with a checkpoint; 0 for one evaluation at the end of each epoch."""
    patience: Annotated[int, Meta(ge=1, description="1 or more, or None")] | None = None
    """Number of evaluations without a better score after which training ends; None to train to the end."""
    log_every: Count = 10
    """Steps between two lines of metrics.jsonl."""
    tensorboard: bool = False
    """Whether to write TensorBoard's files too."""

    def check(self) -> None:
        """Raises InputError for a value out of its range, and for values that don't go together."""
        records.check_fields(self, "training.")
        if self.data is not None and len(self.parts) > 1:
            raise InputError(
                f"training.data is {self.data} with {len(self.parts)} numbers of parts, but a mesh has one; "
                "give one value of training.parts"
            )
        if not self.exchanges:
            raise InputError("training.exchanges is empty; choose one exchange or several")
        for pattern in self.frozen:
            try:
                re.compile(pattern)
            except re.error as error:
                raise InputError(
                    f"training.frozen has {pattern!r}, which is no regular expression: {error}; "
                    "give one, such as encoder/.*"
                ) from error


@dataclass(frozen=True)
class Experiment:
    """One experiment: a model, a data set, and a group of fields for each use of them."""

    model: tyro.conf.Suppress[type[Model]]
    """The model class."""
    weights: UserPath
    """Weights: a folder in the hub's layout, a hub id, or asset:NAME."""
    num_tokens: NumTokens
    """Number of tokens, N, to which a text is cut or padded."""
    dataset: str | None = None
    """Data set by name; None to generate text only."""
    data_source: UserPath | None = None
    """Folder in the hub's layout, or hub id, in place of the data set's own source."""
    image_size: Side | None = None
    """Height and width of images in pixels; None for those of the model."""
    buckets: tuple[NumTokens, ...] = ()
    """Lengths below N, to which shorter texts are padded. The bucket of a text fixes the boundaries of its parts."""
    exchange_arrays: UserPath | None = None
    """File with the arrays of exchanges, such as codebooks, from train.calibrate."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; None for its default branch."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the inputs of matrix products. Everything else stays float32."""
    batch_size: BatchSize = 32
    """Number of examples that are scored together, B."""
    evaluation: Group[Evaluation] = Evaluation()
    """Weights and examples that are scored."""
    setting: Group[Setting] = Setting(segments.SegmentMeans(8), 2)
    """Exchange and P of commands that run one setting. In training, of the scores that choose a checkpoint."""
    grid: Group[Grid] = Grid()
    """Settings of commands that run several."""
    training: tyro.conf.Suppress[Training] = Training()
    """Fields of training."""

    def check(self) -> None:
        """Raises InputError for values that are wrong, as far as they show without loading anything."""
        records.check_fields(self)
        self.evaluation.check()
        self.grid.check()
        for num_tokens in self.grid.lengths or (self.num_tokens,):
            bucket_lengths(self.buckets, num_tokens)
        self.training.check()


def load(path: str | Path) -> Experiment:
    """Returns the `config` of a config file.

    Raises:
      InputError: if the file is missing, or has no experiment named `config`.
    """
    file = Path(path).expanduser()
    if not file.is_file() or file.suffix != ".py":
        raise InputError(f"no config file {str(path)!r}; give a Python file such as configs/bert_newsgroups.py")
    name = f"config_file_{file.stem}_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses in it look their own module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise InputError(f"{path} can't be read: {type(error).__name__}: {error}") from error
    if not isinstance(experiment := getattr(module, "config", None), Experiment):
        raise InputError(f"{path} has no `config = Experiment(...)`; add one, as in configs/bert_newsgroups.py")
    records.check_fields(experiment, f"{path}: ")
    if not issubclass(experiment.model, Model):
        raise InputError(f"{path}: model is {experiment.model.__name__}; choose a class such as models.bert.BertModel")
    return expand(experiment)


def to_json(experiment: Experiment) -> dict[str, Any]:
    """Returns the experiment as plain values, for results and for comparing runs.

    Returns:
      Fields by name, those of the groups included. `training` is a nested dict.
    """
    content = {field.name: _plain(getattr(experiment, field.name)) for field in dataclasses.fields(experiment)}
    for name in ("evaluation", "setting", "grid"):
        content |= content.pop(name)
    return content


def _plain(value: Any) -> Any:
    if isinstance(value, Exchange | Wire):
        return str(value)
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, Setting):
        return {"exchange": text_of(value.exchange), "num_parts": value.num_parts}
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):  # in a list of exchanges, a tuple has one for each block
        return [text_of(item) if isinstance(item, tuple) else _plain(item) for item in value]
    return value
