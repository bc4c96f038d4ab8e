"""Inputs of a task: texts, images or endings, as sequences of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from prism_jax.data import images
from prism_jax.data.text import Tokens
from prism_jax.tasks import likelihood


class Inputs(Protocol):
    """The sequences that a model reads."""

    @property
    def lengths(self) -> np.ndarray:
        """Number of real tokens of each sequence."""

    def arrays(self, index: np.ndarray, num_tokens: int, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
        """Returns sequences as arrays [B, N, ...].

        Args:
          index: indices of the sequences, int [B].
          num_tokens: N, the padded length.
          rng: random numbers for augmentation; None for no augmentation.
        """


@dataclass(frozen=True)
class Texts:
    """Tokenised texts."""

    tokens: Tokens

    @property
    def lengths(self) -> np.ndarray:
        return self.tokens.lengths

    def arrays(self, index: np.ndarray, num_tokens: int, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
        return self.tokens.padded(index, num_tokens)


@dataclass(frozen=True)
class Images:
    """Images that are decoded and processed on access.

    Attributes:
      images: Pillow images.
      processor: see `images.load_processor`.
      config: the ViT's config.
      augment: whether to crop and flip the images of a batch if random numbers are given.
    """

    images: Sequence[Any]
    processor: Any
    config: Any
    augment: bool = False

    @property
    def lengths(self) -> np.ndarray:
        return np.full(len(self.images), self.config.num_tokens)

    def arrays(self, index: np.ndarray, num_tokens: int, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
        chosen = [self.images[int(i)] for i in index]
        if self.augment and rng is not None:
            chosen = [images.crop_and_flip(image, rng) for image in chosen]
        return images.process(self.processor, chosen, self.config)


@dataclass(frozen=True)
class Endings:
    """Contexts with several endings each: a sequence for every ending.

    Attributes:
      contexts: token ids of each context.
      endings: token ids of every ending, ordered by context; the same number for each context.
      num_tokens: N. A context that is too long loses its first tokens.
    """

    contexts: Sequence[np.ndarray]
    endings: Sequence[np.ndarray]
    num_tokens: int

    @property
    def num_choices(self) -> int:
        """Number of endings of a context."""
        return len(self.endings) // len(self.contexts)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Number of real tokens of a context with its longest ending, so that all its endings are compared at the same
        part boundaries."""
        endings = np.array([len(ending) for ending in self.endings]).reshape(-1, self.num_choices)
        longest = np.array([len(context) for context in self.contexts]) + endings.max(1)
        return np.minimum(longest, self.num_tokens).repeat(self.num_choices)

    def arrays(self, index: np.ndarray, num_tokens: int, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
        """Returns `ids`, `mask`, and `scored` bool [B, N - 1], which marks the predictions of the ending's tokens."""
        contexts = [self.contexts[i // self.num_choices] for i in index]
        batch, scored = likelihood.continuations(contexts, [self.endings[i] for i in index], num_tokens)
        return batch | {"scored": scored}
