"""Experiments: a frozen record, filled by a file in `configs/` and by flags."""

import dataclasses
import hashlib
import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import flax.linen as nn
import tyro
from msgspec import Meta

from prism_jax import records
from prism_jax.data.text import bucket_lengths
from prism_jax.errors import InputError
from prism_jax.exchange import baselines, segments, text
from prism_jax.exchange.base import Exchange, Exchanges
from prism_jax.exchange.wire import WIRES, Wire
from prism_jax.records import BatchSize, Count, Natural, NotNegative, NumParts, NumTokens, Positive, Seed, Share, Side
from prism_jax.sampling import Sampling
from prism_jax.user_paths import UserPath, expand
from prism_jax.weights import peft_files


def _is_exchange(value: object) -> bool:
    return isinstance(value, Exchange) or (
        isinstance(value, tuple) and bool(value) and all(isinstance(one, Exchange) for one in value)
    )


ExchangeFlag = Annotated[
    Exchanges,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="EXCHANGE",
        instance_from_str=lambda args: text.parse(args[0]),
        is_instance=_is_exchange,
        str_from_instance=lambda value: [text.text_of(value)],
    ),
    Meta(description="an exchange such as SegmentMeans(8), or a tuple with one for each block"),
]
"""An exchange, as `all_gather` or `segment_means:8` on the command line; with commas between them, one for each block."""


ExchangesFlag = Annotated[
    tuple[Exchanges, ...],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[EXCHANGE [EXCHANGE ...]]",
        instance_from_str=lambda args: tuple(text.parse(arg) for arg in args),
        is_instance=lambda value: isinstance(value, tuple) and all(map(_is_exchange, value)),
        str_from_instance=lambda value: [text.text_of(one) for one in value],
    ),
    Meta(description="a tuple of exchanges, such as (IsolatedParts(), SegmentMeans(8))"),
]
"""Several of them, with spaces between."""


@dataclass(frozen=True)
class Training:
    """How `train.finetune` trains."""

    exchanges: ExchangesFlag = (baselines.WholeSequence(),)
    """What the parts exchange while training. Of several, each step draws one: train once, run at any of them."""
    parts: Annotated[tuple[NumParts, ...], Meta(min_length=1, description="one value or several")] = (1,)
    """P while training; drawn likewise."""
    data: NumParts | None = None
    """Devices along the data axis of a data x parts mesh; without it, all parts lie on one device."""
    epochs: Positive = 3.0
    """Times that the training examples are seen."""
    batch_size: BatchSize = 32
    """B, examples of a step."""
    accumulate: Count = 1
    """Steps whose gradients are averaged before the parameters change, with equal weight, even if a batch is not full."""
    learning_rate: Positive = 1e-4
    """The highest."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How it falls to 0 after the warm-up, or that it stays."""
    warmup: Share = 0.1
    """Share of the steps over which it rises."""
    weight_decay: NotNegative = 0.01
    """Of AdamW; biases, norms and embeddings are not decayed."""
    clip: Annotated[float, Meta(gt=0, description="more than 0, or None")] | None = 1.0
    """Largest norm of the gradient; a longer one is shortened to it."""
    label_smoothing: Share = 0.0
    dropout: bool = True
    """Whether to drop out at the model's own rates."""
    augment: bool = False
    """Whether to crop and flip images."""
    fresh: tuple[str, ...] = ("classifier",)
    """First names of the parameters that are drawn at random in place of the source's; what a run to start from trained, stays."""
    frozen: tuple[str, ...] = ()
    """Regular expressions of the paths of parameters that stay as they are, such as `encoder/(token|position)/.*`."""
    lora_rank: Natural = 0
    """Rank of LoRA adapters in the blocks; 0 for none. With them only the adapters and what is in `fresh` are trained."""
    lora_alpha: Positive = 16.0
    """The adapters' outputs are multiplied by lora_alpha / lora_rank."""
    limit: Natural = 0
    """Training examples, at even distances; 0 for all."""
    validation: Annotated[float, Meta(gt=0, lt=1, description="a share between 0 and 1")] = 0.1
    """Share of the training split that is held out, the same whatever the seed, to choose the checkpoint."""
    validation_limit: Natural = 0
    """Held-out examples to score, at even distances; 0 for all."""
    evaluate_every: Natural = 0
    """Steps between two evaluations, each with a checkpoint; 0 for one at the end of each epoch."""
    patience: Annotated[int, Meta(ge=1, description="1 or more, or None")] | None = None
    """Evaluations without a better score after which training ends; without it, training goes on to the end."""
    log_every: Count = 10
    """Steps between two lines of metrics.jsonl."""
    tensorboard: bool = False
    """Write TensorBoard's files too."""
    seed: Seed = 0

    def check(self) -> None:
        """Raises InputError for a value out of its range, and for values that don't go together."""
        records.check_fields(self, "training.")
        if self.data is not None and len(self.parts) > 1:
            raise InputError(
                f"training.data is {self.data} with {len(self.parts)} numbers of parts; a mesh has one number of parts"
            )
        if not self.exchanges:
            raise InputError("training.exchanges is empty; choose one exchange or several")
        for pattern in self.frozen:
            try:
                re.compile(pattern)
            except re.error as error:
                raise InputError(f"training.frozen has {pattern!r}, which is no regular expression: {error}") from error


@dataclass(frozen=True)
class Experiment:
    """One experiment: a model, a data set, and how the model is distributed."""

    model: tyro.conf.Suppress[type[nn.Module]]
    """The model class."""
    weights: UserPath
    """Folder in the hub's layout, hub id, or asset:NAME."""
    num_tokens: NumTokens
    """N, to which a text is cut or padded."""
    dataset: str | None = None
    """Data set by name; none where there is only text to generate."""
    data_source: UserPath | None = None
    """Folder in the hub's layout, or hub id, that stands in for the data set's own."""
    split: str = "test"
    """What is scored: test, held_out (what training holds out of its split), or a split's own name."""
    image_size: Side | None = None
    """Height and width of images in pixels, where they are not the model's own."""
    buckets: tuple[NumTokens, ...] = ()
    """Lengths below N to which shorter texts are padded; the part boundaries of a text follow from its own bucket."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    adapter: UserPath | None = None
    """Folder with a LoRA adapter in PEFT's layout, which is scored; training starts without it."""
    tuned: UserPath | None = None
    """A run of train.finetune (RUN or RUN@STEP) or such a folder, tuned through an exchange: a sweep scores it beside the weights."""
    exchange: ExchangeFlag = segments.SegmentMeans(8)
    """What the parts exchange, where one setting is scored: such as all_gather, segment_means:8."""
    num_parts: NumParts = 2
    """P, where one setting is scored."""
    parts: tuple[NumParts, ...] = (2, 4, 8)
    """The P of a sweep."""
    segments: tuple[int, ...] = (1, 4, 16)
    """The L of a sweep's segment means."""
    exchanges: ExchangesFlag = (baselines.IsolatedParts(), baselines.AllGather())
    """What a sweep runs at every P beside segment means; own exchanges can stand here."""
    wires: tuple[str, ...] = ()
    """Wire formats of a sweep, such as float32 int8, for every exchange that sends something; else each exchange's own."""
    lengths: tuple[NumTokens, ...] = ()
    """The N of a sweep; else num_tokens."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the inputs of matrix products; all else stays float32."""
    limit: Annotated[int, Meta(ge=0, description="a number of examples, or 0 for all")] = 256
    """Examples to score, at even distances over the test split; 0 for all."""
    batch_size: BatchSize = 32
    """B, examples that run together."""
    training: Training = Training()

    def check(self) -> None:
        """Raises InputError for what can be seen to be wrong without loading anything."""
        records.check_fields(self)
        if self.adapter is not None and not (Path(self.adapter) / peft_files.CONFIG).is_file():
            raise InputError(
                f"no adapter in {self.adapter!r}; give a folder with {peft_files.CONFIG}, as train.export --adapter writes it"
            )
        for wire in self.wires:
            if wire not in WIRES:
                raise InputError(f"unknown wire format {wire!r}; known are {', '.join(WIRES)}")
        for num_tokens in self.lengths or (self.num_tokens,):
            bucket_lengths(self.buckets, num_tokens)
        self.training.check()


Flat = Annotated[Experiment, tyro.conf.arg(name="")]
"""An experiment whose fields are flags without a prefix."""

FlatSampling = Annotated[Sampling, tyro.conf.arg(name="")]
"""How tokens are chosen, likewise."""


def load(path: str) -> Experiment:
    """The `config` of a config file.

    Raises:
      InputError: if there is no such file, or it has no experiment named `config`.
    """
    file = Path(path).expanduser()
    if not file.is_file() or file.suffix != ".py":
        raise InputError(f"no config file {path!r}; give a Python file such as configs/bert_newsgroups.py")
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
        raise InputError(f"{path} has no `config = Experiment(...)`")
    records.check_fields(experiment, f"{path}: ")
    if not issubclass(experiment.model, nn.Module):
        raise InputError(f"{path}: model is {experiment.model.__name__}; choose a class such as models.bert.BertModel")
    return expand(experiment)


def to_json(experiment: Experiment) -> dict:
    """The experiment as plain values, for results and for telling two runs apart."""

    def plain(value):
        if isinstance(value, Exchange | Wire):
            return str(value)
        if isinstance(value, type):
            return value.__name__
        if dataclasses.is_dataclass(value):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return [plain(item) for item in value] if isinstance(value, tuple) else value

    return plain(experiment)
