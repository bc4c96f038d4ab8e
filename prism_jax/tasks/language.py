"""Plain text, and the right one of several endings, for language models."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from prism_jax.data.datasets import Cloze, Elsewhere, outline
from prism_jax.data.text import Tokens
from prism_jax.errors import RunError
from prism_jax.parallel.partition import Parts
from prism_jax.tasks import likelihood
from prism_jax.tasks.base import Head, Task


class _NextTokens(Task):
    """Tasks that train on the likelihood of every next token."""

    def losses(self, head: Head, rows_BRD: jax.Array, parts: Parts, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        log_p_BN = likelihood.log_likelihoods(head, rows_BRD, parts)
        return -log_p_BN.sum(1), (parts.real_BN.sum(1) - 1).astype(jnp.float32)


@dataclass(frozen=True)
class LanguageModelling(_NextTokens):
    """The tokens of plain text, each from those before it in its window.

    Attributes:
      tokens: windows of the documents; each begins with the last token of the one before it, the first of a document with
        the tokenizer's token for that. So every token is predicted once.
      num_bytes: int [windows], UTF-8 bytes of the tokens that a window predicts.
    """

    tokens: Tokens
    num_bytes: np.ndarray

    metrics = ("perplexity", "bits_per_byte")

    @property
    def lengths(self):
        return self.tokens.lengths

    @cached_property
    def labels(self):
        """Tokens and bytes that each window predicts: [windows, 2]."""
        return np.stack([self.lengths - 1, self.num_bytes], axis=1)

    def arrays(self, index, num_tokens, rng):
        batch = self.tokens.padded(index, num_tokens)
        return {"ids": batch["ids"], "mask": batch["mask"]}, np.zeros(len(index), np.int32)

    def bare(self):
        return replace(self, tokens=None, num_bytes=None)

    def outcomes(self, head: Head, rows_BRD: jax.Array, parts: Parts, targets: jax.Array) -> jax.Array:
        return likelihood.log_likelihoods(head, rows_BRD, parts)

    def predictions(self, outcomes):
        return outcomes.sum(1)


@dataclass(frozen=True)
class ClozeTask(_NextTokens):
    """The right one of several endings: the one of the highest likelihood as a whole, given the context.

    Trained as a language model on contexts with their right endings.

    Attributes:
      dataset: the answers.
      contexts: token ids of each context.
      endings: token ids of every ending, those of the first context first.
      num_tokens: N; a context that is too long loses its first tokens.
    """

    dataset: Cloze
    contexts: Sequence[np.ndarray]
    endings: Sequence[np.ndarray]
    num_tokens: int

    metrics = ("accuracy_percent",)

    @property
    def num_choices(self) -> int:
        return len(self.endings) // len(self.contexts)

    @cached_property
    def lengths(self):
        """Of a question, that with its longest ending: all its endings are compared at the same part boundaries."""
        endings = np.array([len(ending) for ending in self.endings]).reshape(-1, self.num_choices)
        whole = np.array([len(context) for context in self.contexts]) + endings.max(1)
        return np.minimum(whole, self.num_tokens).repeat(self.num_choices)

    @property
    def labels(self):
        return self.dataset.answers

    @property
    def training_rows(self):
        return np.arange(len(self.contexts)) * self.num_choices + self.dataset.answers

    def arrays(self, index, num_tokens, rng):
        contexts = [self.contexts[i // self.num_choices] for i in index]
        return likelihood.continuations(contexts, [self.endings[i] for i in index], num_tokens)

    def bare(self):
        contexts, endings = Elsewhere(len(self.contexts)), Elsewhere(len(self.endings))
        return replace(self, dataset=outline(self.dataset), contexts=contexts, endings=endings)

    def outcomes(self, head: Head, rows_BRD: jax.Array, parts: Parts, targets: jax.Array) -> jax.Array:
        log_p_BN = likelihood.log_likelihoods(head, rows_BRD, parts)
        return jnp.where(targets, log_p_BN, 0).sum(1)

    def predictions(self, outcomes):
        if np.isnan(outcomes).any():
            raise RunError(
                f"the likelihoods of {np.isnan(outcomes).sum()} of {len(outcomes)} endings are not numbers, so none is the best; "
                "use weights that did not diverge, or a wire format of a wider range"
            )
        return outcomes.reshape(-1, self.num_choices).argmax(1)
