"""Texts or images with a label each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from prism_jax.data import images
from prism_jax.data.datasets import Labelled, outline
from prism_jax.data.text import Tokens
from prism_jax.errors import RunError
from prism_jax.parallel.partition import Parts
from prism_jax.tasks.base import Head, Task

NO_CLASS = -1
"""The outcome of an example whose logits are not finite."""


class Inputs(Protocol):
    """Texts or images as rows of a batch."""

    @property
    def lengths(self) -> np.ndarray: ...

    def arrays(self, index: np.ndarray, num_tokens: int, rng: np.random.Generator | None) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class Texts:
    """Tokenised texts."""

    tokens: Tokens

    @property
    def lengths(self) -> np.ndarray:
        return self.tokens.lengths

    def arrays(self, index, num_tokens, rng):
        return self.tokens.padded(index, num_tokens)


@dataclass(frozen=True)
class Images:
    """Images, decoded and processed when a batch asks for them.

    Attributes:
      images: of Pillow.
      processor: see `images.load_processor`.
      config: of the ViT.
      augment: whether to crop and flip, where a batch is given random numbers.
    """

    images: Sequence[Any]
    processor: Any
    config: Any
    augment: bool = False

    @property
    def lengths(self) -> np.ndarray:
        return np.full(len(self.images), self.config.num_tokens)

    def arrays(self, index, num_tokens, rng):
        chosen = [self.images[int(i)] for i in index]
        if self.augment and rng is not None:
            chosen = [images.crop_and_flip(image, rng) for image in chosen]
        return images.process(self.processor, chosen, self.config)


@dataclass(frozen=True)
class Classification(Task):
    """A label for each text or image; a number in place of a class where the data set names no classes.

    Attributes:
      dataset: the labels.
      inputs: its texts or images.
      smoothing: of the labels, in the loss.
    """

    dataset: Labelled
    inputs: Inputs
    smoothing: float = 0.0

    @property
    def lengths(self):
        return self.inputs.lengths

    @property
    def metrics(self):
        return self.dataset.metrics

    @property
    def labels(self):
        return self.dataset.labels

    def arrays(self, index, num_tokens, rng):
        labels = np.zeros(len(self.dataset), int) if self.labels is None else self.labels
        dtype = np.int32 if self.dataset.label_names else np.float32
        return self.inputs.arrays(index, num_tokens, rng), labels[index].astype(dtype)

    def bare(self):
        return replace(self, dataset=outline(self.dataset), inputs=None)

    def losses(self, head: Head, rows_BRD: jax.Array, parts: Parts, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits_BC = head(rows_BRD, parts)
        if self.dataset.label_names:
            one_hot_BC = optax.smooth_labels(jax.nn.one_hot(targets, logits_BC.shape[1]), self.smoothing)
            loss_B = optax.softmax_cross_entropy(logits_BC, one_hot_BC)
        else:
            loss_B = (logits_BC[:, 0] - targets) ** 2
        return loss_B, jnp.ones_like(loss_B)

    def outcomes(self, head: Head, rows_BRD: jax.Array, parts: Parts, targets: jax.Array) -> jax.Array:
        logits_BC = head(rows_BRD, parts)
        if not self.dataset.label_names:
            return logits_BC[:, 0]
        return jnp.where(jnp.isfinite(logits_BC).all(-1), logits_BC.argmax(-1), NO_CLASS)

    def predictions(self, outcomes):
        if self.dataset.label_names and (outcomes == NO_CLASS).any():
            raise RunError(
                f"the logits of {(outcomes == NO_CLASS).sum()} of {len(outcomes)} examples are not finite, so they have no class; "
                "use weights that did not diverge, or a wire format of a wider range"
            )
        return outcomes
