"""Rotary positions (arXiv 2104.09864): queries and keys are turned by the place of their token."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from msgspec import Meta

from prism_jax.errors import InputError
from prism_jax.records import Count, Positive, check_fields

Factor = Annotated[float, Meta(ge=1, description="1 or more")]


@dataclass(frozen=True)
class Rotary:
    """Angles by which the features of a head turn from one token to the next.

    Attributes:
      theta: base of the frequencies: pair f of a head of F features turns by `theta ** (-2 f / F)`.
      scaling: "default" for these frequencies, "linear" for all of them divided by `factor`, "llama3" for those of long
        waves divided by it and those of short waves kept (Llama 3.1).
      factor: of the scaling, 1 or more.
      low_freq_factor: of llama3. Waves longer than `original_positions / low_freq_factor` are divided whole.
      high_freq_factor: of llama3. Waves shorter than `original_positions / high_freq_factor` are kept.
      original_positions: of llama3, the longest sequence before it was scaled.
    """

    theta: Positive = 10_000.0
    scaling: Literal["default", "linear", "llama3"] = "default"
    factor: Factor = 1.0
    low_freq_factor: Positive = 1.0
    high_freq_factor: Positive = 4.0
    original_positions: Count = 8192

    def __post_init__(self) -> None:
        check_fields(self)
        if self.scaling == "llama3" and self.low_freq_factor >= self.high_freq_factor:
            raise InputError(
                f"low_freq_factor is {self.low_freq_factor} and high_freq_factor {self.high_freq_factor}; "
                "choose a low_freq_factor below high_freq_factor"
            )

    def frequencies(self, head_features: int) -> np.ndarray:
        """Returns the radians that each pair of features turns from one token to the next, float64 [F / 2]."""
        base = self.theta ** (-np.arange(0, head_features, 2) / head_features)
        if self.scaling == "default":
            return base
        if self.scaling == "linear":
            return base / self.factor
        waves = self.original_positions * base / (2 * math.pi)  # that fit into the original sequence
        kept = (waves - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = np.clip(kept, 0, 1)
        return base * (kept + (1 - kept) / self.factor)


def rotate(y_BTHF: jax.Array, place_BT: jax.Array, rotary: Rotary) -> jax.Array:
    """Returns queries or keys, turned by the place of their rows. Float32, [B, T, H, F].

    Feature f of a head forms a pair with feature f + F / 2, as in Hugging Face's models.

    Args:
      y_BTHF: queries or keys.
      place_BT: place of each row in its text, see `Context`.
      rotary: the frequencies.
    """
    turn = jnp.asarray(rotary.frequencies(y_BTHF.shape[-1]), jnp.float32)
    angle = place_BT.astype(jnp.float32)[:, :, None, None] * turn[None, None, None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = jnp.split(y_BTHF.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
