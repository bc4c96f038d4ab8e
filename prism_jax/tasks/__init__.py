"""Tasks: creates the task of a data set for a model, and checks that they fit."""

from dataclasses import replace

import jax
import numpy as np

from prism_jax.data import images
from prism_jax.data.datasets import Corpus, Dataset, Labelled, even_indices
from prism_jax.data.text import cut, load_tokenizer
from prism_jax.errors import InputError
from prism_jax.exchange.baselines import WholeSequence
from prism_jax.forward import forward
from prism_jax.metrics.scores import METRICS
from prism_jax.models.base import Model
from prism_jax.parallel.one_device import on_one_device
from prism_jax.parallel.processes import from_terminal
from prism_jax.programs import params_shapes, parts_shapes
from prism_jax.tasks import likelihood
from prism_jax.tasks.base import Task
from prism_jax.tasks.classification import Classification, Regression
from prism_jax.tasks.inputs import Endings, Images, Inputs, Texts
from prism_jax.tasks.language import ClozeTask, LanguageModelling
from prism_jax.tasks.placeholder import placeholder
from prism_jax.weights import Pretrained


def prepare(
    dataset: Dataset,
    pretrained: Pretrained,
    num_tokens: int,
    *,
    augment: bool = False,
    smoothing: float = 0.0,
    max_windows: int = 0,
) -> Task:
    """Returns the task of a data set for a model. On processes other than 0 its inputs are a `Placeholder`.

    Args:
      dataset: the data set.
      pretrained: the model. Its folder holds the tokenizer or image processor.
      num_tokens: N, the length at which texts are cut.
      augment: whether to crop and flip images in training.
      smoothing: label smoothing in the loss, 0 for none.
      max_windows: number of windows of plain text to keep, at even distances; 0 for all.

    Raises:
      InputError: if the model's answers don't fit the data set, a metric does not take them, labels are none of the
        classes, or there are no classes to smooth or no images to augment.
    """
    check_model(pretrained.model, dataset, num_tokens)
    check_metrics(dataset)
    check_labels(dataset)
    if smoothing and not getattr(dataset, "label_names", ()):
        raise InputError(
            f"labels are smoothed between classes, which {dataset.name} has none of; set label_smoothing to 0"
        )
    if augment and "image" not in getattr(dataset, "inputs", ()):
        raise InputError(f"images are cropped and flipped, which {dataset.name} has none of; leave augment out")
    return from_terminal(
        lambda: _prepare(dataset, pretrained, num_tokens, augment, smoothing, max_windows),
        lambda task: replace(task, inputs=placeholder(task.inputs, num_tokens)),
    )


def _prepare(
    dataset: Dataset, pretrained: Pretrained, num_tokens: int, augment: bool, smoothing: float, max_windows: int
) -> Task:
    model = pretrained.model
    if isinstance(dataset, Labelled):
        inputs = _labelled_inputs(dataset, pretrained, num_tokens, augment)
        if not dataset.label_names:
            return Regression(inputs, dataset.labels, dataset.metrics)
        return Classification(inputs, dataset.labels, dataset.metrics, smoothing)
    tokenizer = load_tokenizer(pretrained.folder, model.config.vocab_size)
    if isinstance(dataset, Corpus):
        windows, num_bytes = likelihood.windows(tokenizer, dataset.documents, num_tokens, dataset.name)
        labels = np.stack([windows.lengths - 1, num_bytes], axis=1)
        kept = even_indices(len(labels), max_windows)
        return LanguageModelling(Texts(windows.take(kept)), labels[kept])
    contexts = likelihood.token_ids(tokenizer, dataset.contexts, dataset.name)
    endings = likelihood.token_ids(
        tokenizer, [ending for endings in dataset.endings for ending in endings], f"the endings of {dataset.name}"
    )
    choices = len(endings) // max(len(contexts), 1)
    for i, ending in enumerate(endings):
        if not len(contexts[i // choices]) or not 0 < len(ending) < num_tokens:
            raise InputError(
                f"example {i // choices} of {dataset.name} has a context of {len(contexts[i // choices])} tokens and "
                f"an ending of {len(ending)}; each needs 1 or more, and an ending fewer than num_tokens, {num_tokens}"
            )
    return ClozeTask(Endings(contexts, endings, num_tokens), dataset.answers)


def _labelled_inputs(dataset: Labelled, pretrained: Pretrained, num_tokens: int, augment: bool) -> Inputs:
    config = pretrained.model.config
    if "image" in dataset.inputs:
        processor = images.load_processor(pretrained.folder, config.image_size)
        return Images(dataset.inputs["image"], processor, config, augment)
    tokenizer = load_tokenizer(pretrained.folder, config.vocab_size)
    tokens = cut(tokenizer, dataset.inputs["text"], num_tokens, dataset.inputs.get("pair"), dataset.name)
    tokens.check(config.vocab_size, getattr(config, "num_types", 0))
    return Texts(tokens)


def num_labels(dataset: Dataset | None) -> int | None:
    """Returns C, the number of classes of a head for this data set. 1 for regression; None if the data set needs no
    such head."""
    return (len(dataset.label_names) or 1) if isinstance(dataset, Labelled) else None


def check_metrics(dataset: Dataset) -> None:
    """Raises InputError if a metric of a data set is unknown, or does not take the data set's answers."""
    if not isinstance(dataset, Labelled):
        return
    if unknown := [name for name in dataset.metrics if name not in METRICS]:
        raise InputError(f"{dataset.name} has the metric {unknown[0]!r}; choose from {', '.join(METRICS)}")
    answers = np.arange(len(dataset.label_names)) if dataset.label_names else np.zeros(1)
    for name in dataset.metrics:
        METRICS[name].check(name, answers, answers)


def check_labels(dataset: Dataset) -> None:
    """Raises InputError unless there is a label for every input, and each is a class of the data set or a finite
    number."""
    if not isinstance(dataset, Labelled):
        return
    counts = {name: len(items) for name, items in dataset.inputs.items()}
    if dataset.labels is not None:
        counts["labels"] = len(dataset.labels)
    if len(set(counts.values())) != 1:
        message = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise InputError(f"{dataset.name} has {message}; give as many of each")
    if dataset.labels is None or not len(dataset):
        return
    labels, last = np.asarray(dataset.labels), len(dataset.label_names) - 1
    if dataset.label_names and (labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() > last):
        raise InputError(
            f"{dataset.name} has labels from {labels.min()} to {labels.max()} ({labels.dtype}); "
            f"give whole numbers from 0 to {last}, which label_names names"
        )
    if not np.isfinite(labels).all():
        raise InputError(f"{dataset.name} has labels that are no finite numbers; leave these examples out")


def check_model(model: Model, dataset: Dataset, num_tokens: int) -> None:
    """Raises InputError if a model's inputs or answers don't fit a data set."""
    name = type(model).__name__
    inputs, example = model.batch_shapes(1, num_tokens), "BertForSequenceClassification"
    wanted: tuple[int | None, ...]
    if isinstance(dataset, Labelled):
        wanted, kind = ((1, num_labels(dataset)), "class") if dataset.label_names else ((1, 1), "number")
        if "image" in dataset.inputs:
            example, item, array = "ViTForImageClassification", "image", "patches"
        else:
            item, array = "text", "ids"
    else:
        vocab_size = getattr(model.config, "vocab_size", None)
        wanted, kind, example, item, array = (
            (1, num_tokens, vocab_size),
            "likelihood",
            "GPT2LMHeadModel",
            "text",
            "ids",
        )
    if array not in inputs:
        raise InputError(f"{name} takes no {item}s; choose a model such as {example}")
    run = on_one_device(1)
    answer = jax.eval_shape(
        lambda params, parts: forward(model, params, parts, WholeSequence(), run),
        params_shapes(model),
        parts_shapes(model, 1, 1, num_tokens),
    )
    causal = model.config.stack.causal or isinstance(dataset, Labelled)
    if getattr(answer, "shape", None) != wanted or not causal:
        raise InputError(
            f"{name} gives no {kind} to {'an image' if item == 'image' else 'a text'}; choose a model such as {example}"
        )
