"""What the parts tell each other before a block."""

from prism_jax.exchange.base import Context, Exchange, Exchanges, Wrapped
from prism_jax.exchange.baselines import AllGather, IsolatedParts, WholeSequence
from prism_jax.exchange.segments import MeansAfterNorm, SegmentMeans, Segments, UnscaledMeans
from prism_jax.exchange.wire import WIRES, Wire

__all__ = [
    "WIRES",
    "AllGather",
    "Context",
    "Exchange",
    "Exchanges",
    "IsolatedParts",
    "MeansAfterNorm",
    "SegmentMeans",
    "Segments",
    "UnscaledMeans",
    "WholeSequence",
    "Wire",
    "Wrapped",
]
