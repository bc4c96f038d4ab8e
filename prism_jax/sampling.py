"""Choice of the next token in generation: the most likely token, or a random one, as in Hugging Face's `generate`."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from prism_jax.errors import InputError
from prism_jax.seeds import check_seed

NO_TOKEN = -1
"""Token id returned in place of a token when logits are not finite."""


@dataclass(frozen=True)
class Sampling:
    """Settings for the choice of the next token.

    The same seed, prompt number and weights give the same text.
    """

    temperature: float = 0.0
    """Divides the logits. 0, the default, takes the most likely token."""
    top_k: int = 0
    """Samples among the k most likely tokens. 0, the default, means all."""
    top_p: float = 1.0
    """Samples among the most likely tokens that together reach this probability (nucleus sampling, arXiv 1904.09751).
    More than 0, up to 1; the default, 1, means all."""
    seed: int = 0
    """Seed of the random numbers, 0 to 2**32 - 1."""

    def __post_init__(self):
        if not 0 <= self.temperature < np.inf:
            raise InputError(f"temperature is {self.temperature}; choose 0 for the most likely token, or more")
        if 0 < self.temperature < np.finfo(np.float32).tiny:
            raise InputError(
                f"temperature is {self.temperature}, which float32 can't represent; choose 0, or 1.2e-38 or more"
            )
        check_seed(self.seed)
        if self.top_k < 0:
            raise InputError(f"top_k is {self.top_k}; choose a number of tokens, or 0 for all")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}; choose more than 0, up to 1")
        if self.temperature == 0 and (self.top_k or self.top_p < 1):
            raise InputError(
                "top_k and top_p choose among tokens, but temperature 0 always takes the most likely one; "
                "choose a temperature above 0, or leave them out"
            )

    def filter(self, logits_BV: jax.Array) -> jax.Array:
        """Returns the logits divided by the temperature, with -inf outside of top k, and then outside of top p.

        Keeps the same tokens as the warpers of Hugging Face's `generate`, including ties: all tokens that are as likely
        as the k-th, and, at the border of top p, the last of equally likely tokens.
        """
        # XLA divides by an array, but multiplies by the reciprocal of a scalar. That rounds differently, which changes
        # ties.
        temperature_BV = jnp.where(jnp.isnan(logits_BV), jnp.nan, jnp.float32(self.temperature))
        below_BV = (logits_BV - logits_BV.max(-1, keepdims=True)) / temperature_BV  # the most likely is 0: no overflow
        logits_BV = logits_BV / temperature_BV
        logits_BV = jnp.where(jnp.isfinite(logits_BV).all(-1, keepdims=True), logits_BV, below_BV)
        if 0 < self.top_k < logits_BV.shape[-1]:
            kth_B1 = jax.lax.top_k(logits_BV, self.top_k)[0][:, -1:]
            logits_BV = jnp.where(logits_BV < kth_B1, -jnp.inf, logits_BV)
        if self.top_p < 1:
            rising_BV = jnp.argsort(logits_BV, axis=-1)
            p_BV = jax.nn.softmax(jnp.take_along_axis(logits_BV, rising_BV, axis=-1))
            with jax.enable_x64(True):  # float32 would lose the border among many equal tokens
                up_to_BV = jnp.cumsum(p_BV, axis=-1, dtype=jnp.float64).astype(jnp.float32)
            outside_BV = (up_to_BV <= 1 - self.top_p).at[:, -1].set(False)
            outside_BV = jnp.take_along_axis(outside_BV, jnp.argsort(rising_BV, axis=-1), axis=-1)
            logits_BV = jnp.where(outside_BV, -jnp.inf, logits_BV)
        return logits_BV

    def choose(self, logits_BV: jax.Array, keys_B: jax.Array) -> jax.Array:
        """Returns the next token of each example, int32 [B]; NO_TOKEN where logits are not finite."""
        if self.temperature == 0:
            chosen_B = logits_BV.argmax(-1)
        else:  # normalised: added to large logits, the sampling noise would be rounded away
            chosen_B = jax.vmap(jax.random.categorical)(keys_B, jax.nn.log_softmax(self.filter(logits_BV)))
        return jnp.where(jnp.isfinite(logits_BV).all(-1), chosen_B, NO_TOKEN).astype(jnp.int32)


GREEDY = Sampling()
"""Takes the most likely token at every step."""
