"""Exchanges: rows that the parts send each other before a block."""

from prism_jax.exchange.base import Context, Exchange, Exchanges, Sending
from prism_jax.exchange.baselines import AllGather, IsolatedParts, WholeSequence
from prism_jax.exchange.codebooks import Codebooks
from prism_jax.exchange.segments import MeansAfterNorm, SegmentMeans, Segments, UnscaledMeans, WeightedMeans
from prism_jax.exchange.wire import WIRES, Wire
from prism_jax.exchange.wrapped import Wrapped

__all__ = [
    "WIRES",
    "AllGather",
    "Codebooks",
    "Context",
    "Exchange",
    "Exchanges",
    "IsolatedParts",
    "MeansAfterNorm",
    "SegmentMeans",
    "Segments",
    "Sending",
    "UnscaledMeans",
    "WeightedMeans",
    "WholeSequence",
    "Wire",
    "Wrapped",
]
