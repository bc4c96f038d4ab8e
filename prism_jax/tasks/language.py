"""Tasks of language models: plain text, and the choice among several endings."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from prism_jax.errors import RunError
from prism_jax.forward import Head
from prism_jax.parallel.partition import Parts
from prism_jax.tasks import likelihood
from prism_jax.tasks.base import Arrays, Task


class _NextTokens(Task):
    """Training on the likelihood of every next token."""

    def losses(self, head: Head, rows_BRD: jax.Array, parts: Parts, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        log_p_BN = likelihood.log_likelihoods(head, rows_BRD, parts)
        return -log_p_BN.sum(1), (parts.real_BN.sum(1) - 1).astype(jnp.float32)

    def divergence(
        self, head: Head, rows_BRD: jax.Array, teacher: Head, teacher_BRD: jax.Array, parts: Parts
    ) -> jax.Array:
        """Kullback-Leibler of the next token, in nats."""
        return likelihood.divergences(head, rows_BRD, teacher, teacher_BRD, parts).sum(1)


@dataclass(frozen=True)
class LanguageModelling(_NextTokens):
    """Prediction of each token of plain text from the tokens before it in its window.

    Labels are the numbers of tokens and of UTF-8 bytes that each window predicts, int [windows, 2].
    """

    metrics: tuple[str, ...] = ("perplexity", "bits_per_byte")

    def arrays(self, index: np.ndarray, num_tokens: int, rng: np.random.Generator | None) -> Arrays:
        batch = self.inputs.arrays(index, num_tokens, rng)
        return {"ids": batch["ids"], "mask": batch["mask"]}, np.zeros(len(index), np.int32)

    def outcomes(self, head: Head, rows_BRD: jax.Array, parts: Parts, targets: jax.Array) -> jax.Array:
        return likelihood.log_likelihoods(head, rows_BRD, parts)

    def predictions(self, outcomes: np.ndarray) -> np.ndarray:
        return outcomes.sum(1)


@dataclass(frozen=True)
class ClozeTask(_NextTokens):
    """Choice among several endings: the ending with the highest total likelihood given the context.

    A sequence is a context with one ending; the sequences of a context are neighbours. Labels are the right endings,
    int [contexts]. Training is language modelling on contexts with their right endings.
    """

    metrics: tuple[str, ...] = ("accuracy_percent",)

    @property
    def num_choices(self) -> int:
        """Number of endings of a context."""
        return len(self.lengths) // len(self._answers)

    @property
    def training_index(self) -> np.ndarray:
        return np.arange(len(self._answers)) * self.num_choices + self._answers

    @property
    def _answers(self) -> np.ndarray:
        assert self.labels is not None
        return self.labels

    def arrays(self, index: np.ndarray, num_tokens: int, rng: np.random.Generator | None) -> Arrays:
        batch = self.inputs.arrays(index, num_tokens, rng)
        return {"ids": batch["ids"], "mask": batch["mask"]}, batch["scored"]

    def outcomes(self, head: Head, rows_BRD: jax.Array, parts: Parts, targets: jax.Array) -> jax.Array:
        log_p_BN = likelihood.log_likelihoods(head, rows_BRD, parts)
        return jnp.where(targets, log_p_BN, 0).sum(1)

    def predictions(self, outcomes: np.ndarray) -> np.ndarray:
        if np.isnan(outcomes).any():
            raise RunError(
                f"the likelihoods of {np.isnan(outcomes).sum()} of {len(outcomes)} endings are not numbers, "
                "so none is the best; use weights that did not diverge, or a wire format of a wider range"
            )
        return outcomes.reshape(-1, self.num_choices).argmax(1)
