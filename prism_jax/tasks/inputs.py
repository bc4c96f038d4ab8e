"""The inputs of a task: texts, images or endings, as rows of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from prism_jax.data import images
from prism_jax.data.text import Tokens
from prism_jax.tasks import likelihood


class Inputs(Protocol):
    """The rows that a model reads."""

    @property
    def lengths(self) -> np.ndarray:
        """Real tokens of each row."""

    def arrays(self, index: np.ndarray, num_tokens: int, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
        """Returns rows as arrays [B, N, ...].

        Args:
          index: of the rows, int [B].
          num_tokens: N, to which they are padded.
          rng: for augmentation; None for none.
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
    """Images, decoded and processed when a batch asks for them.

    Attributes:
      images: of Pillow.
      processor: see `images.load_processor`.
      config: of the ViT.
      augment: whether to crop and flip the images of a batch that comes with random numbers.
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
    """Contexts, each with several endings: a row for every ending.

    Attributes:
      contexts: token ids of each context.
      endings: token ids of every ending, those of the first context first; as many for each context.
      num_tokens: N; a context that is too long loses its first tokens.
    """

    contexts: Sequence[np.ndarray]
    endings: Sequence[np.ndarray]
    num_tokens: int

    @property
    def num_choices(self) -> int:
        """Endings of a context."""
        return len(self.endings) // len(self.contexts)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Real tokens of a context with its longest ending:
        all its endings are compared at the same part boundaries."""
        endings = np.array([len(ending) for ending in self.endings]).reshape(-1, self.num_choices)
        longest = np.array([len(context) for context in self.contexts]) + endings.max(1)
        return np.minimum(longest, self.num_tokens).repeat(self.num_choices)

    def arrays(self, index: np.ndarray, num_tokens: int, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
        """Returns `ids`, `mask`, and `scored` bool [B, N - 1]: the predictions that belong to the ending."""
        contexts = [self.contexts[i // self.num_choices] for i in index]
        batch, scored = likelihood.continuations(contexts, [self.endings[i] for i in index], num_tokens)
        return batch | {"scored": scored}
