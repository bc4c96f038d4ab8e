"""Exchanges: rows that the parts send each other before a block."""

from prism_jax.exchange.base import Context, Exchange, Exchanges, Sending
from prism_jax.exchange.baselines import AllGather, IsolatedParts, WholeSequence
from prism_jax.exchange.block_array import BlockArray, array_field
from prism_jax.exchange.changes import Changes
from prism_jax.exchange.codebooks import Codebooks
from prism_jax.exchange.first_tokens import FirstTokens
from prism_jax.exchange.gated_means import GatedMeans
from prism_jax.exchange.head_means import HeadMeans
from prism_jax.exchange.keys_values import KeysValues
from prism_jax.exchange.memory import Displaced, Every
from prism_jax.exchange.principal import Principal
from prism_jax.exchange.segments import MeansAfterNorm, SegmentMeans, Segments, UnscaledMeans, WeightedMeans
from prism_jax.exchange.sigma_points import SigmaPoints
from prism_jax.exchange.wire import WIRES, Wire
from prism_jax.exchange.wrapped import Wrapped

__all__ = [
    "WIRES",
    "AllGather",
    "BlockArray",
    "Changes",
    "Codebooks",
    "Context",
    "Displaced",
    "Every",
    "Exchange",
    "Exchanges",
    "FirstTokens",
    "GatedMeans",
    "HeadMeans",
    "IsolatedParts",
    "KeysValues",
    "MeansAfterNorm",
    "Principal",
    "SegmentMeans",
    "Segments",
    "Sending",
    "SigmaPoints",
    "UnscaledMeans",
    "WeightedMeans",
    "WholeSequence",
    "Wire",
    "Wrapped",
    "array_field",
]
