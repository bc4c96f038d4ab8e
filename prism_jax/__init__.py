"""prism_jax: one Transformer over several small devices (PRISM, arXiv 2507.12145).

Arrays carry their dimensions as a suffix (`x_BTD`). The letters, for the whole package:

    B  examples of a batch           H  attention heads
    N  tokens of a sequence          G  heads of keys and values
    P  parts (devices)               F  features of a head
    Q  the other parts               A  features of all heads, side by side
    T  tokens of a part, ceil(N/P)   M  width of the MLP
    L  rows that a part sends        V  vocabulary
    K  rows that a part attends to   C  classes
    D  features of a token           R  rows of a part that the head reads
    S  tokens of the longest segment U  queries that are attended at once
    X  groups of features            W  rank of an adapter or a basis
    E  features of a group           J  centroids of a group
    I  first tokens, kept whole

`N` in the shape of an array that is cut into parts is `P*T`: the sequence with its padding.
"""

import importlib
from typing import TYPE_CHECKING, Any

from prism_jax.errors import InputError, RunError
from prism_jax.exchange.base import Context, Exchange, Sending
from prism_jax.exchange.baselines import AllGather, IsolatedParts, WholeSequence
from prism_jax.exchange.segments import SegmentMeans, Segments
from prism_jax.exchange.wire import WIRES, Wire
from prism_jax.exchange.wrapped import Wrapped
from prism_jax.forward import forward
from prism_jax.generation import Generator
from prism_jax.parallel.mesh import emulate_devices, on_mesh
from prism_jax.parallel.one_device import on_one_device
from prism_jax.parallel.partition import Layout, Parts, split
from prism_jax.programs import init_params, overlapped
from prism_jax.sampling import Sampling

if TYPE_CHECKING:
    from prism_jax import cost, data, exchange, experiments, metrics, models, tasks, testing, weights

__version__ = "0.1.0"

__all__ = [
    "WIRES",
    "AllGather",
    "Context",
    "Exchange",
    "Generator",
    "InputError",
    "IsolatedParts",
    "Layout",
    "Parts",
    "RunError",
    "Sampling",
    "SegmentMeans",
    "Segments",
    "Sending",
    "WholeSequence",
    "Wire",
    "Wrapped",
    "cost",
    "data",
    "emulate_devices",
    "exchange",
    "experiments",
    "forward",
    "init_params",
    "metrics",
    "models",
    "on_mesh",
    "on_one_device",
    "overlapped",
    "split",
    "tasks",
    "testing",
    "weights",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Imports a package on its first use, as in `pj.weights.load`: some of them import slow libraries."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return importlib.import_module(f"{__name__}.{name}")
