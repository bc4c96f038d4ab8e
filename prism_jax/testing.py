"""Checks an exchange on tiny models with random weights. The tests of this repository use it too."""

import sys
from functools import partial
from typing import Any

import jax
import numpy as np

from prism_jax import cost
from prism_jax.errors import InputError
from prism_jax.exchange import arrays
from prism_jax.exchange.base import Exchange
from prism_jax.exchange.wire import FLOAT32
from prism_jax.exchange.wrapped import with_wire
from prism_jax.forward import forward
from prism_jax.layers.config import TransformerConfig
from prism_jax.layers.rotary import Rotary
from prism_jax.models.base import Model
from prism_jax.models.bert import BertConfig, BertModel
from prism_jax.parallel.mesh import on_mesh
from prism_jax.parallel.one_device import on_one_device
from prism_jax.parallel.partition import Parts
from prism_jax.parallel.runner import PlacedRunner
from prism_jax.programs import params_shapes
from prism_jax.trees import unflatten

NUM_PARTS, NUM_TOKENS = 3, 17
"""Three parts: two of 6 tokens and a last one of 5."""
TOLERANCE = 1e-5
"""Largest allowed difference, relative to the largest value. Built-in exchanges differ by 0 within one program, and by
7e-7 between parts on the same device and on a device each."""


def check_exchange(exchange: Exchange, *, causal: bool = True) -> None:
    """Runs an exchange in a post-norm model, and in a pre-norm model with a causal mask and rotary positions.

    Args:
      exchange: must run on 17 tokens in 3 parts.
      causal: False for an exchange that is not meant for models with a causal mask.

    Raises:
      InputError: if a token sees a later one; if the content of padding or of another example changes an answer;
        if the parts give another result on a device each than on the same device, or send a number of bytes other than
        `cost.formula` states. The last two are checked only where there are 3 devices (`emulate_devices(3)`), the bytes
        only on a CPU.
    """
    exact = with_wire(exchange, FLOAT32)
    mesh = on_mesh(NUM_PARTS) if jax.device_count() >= NUM_PARTS else None
    for norm_first in (False, True):
        masked = norm_first and causal
        rotary = Rotary() if norm_first else None
        stack = TransformerConfig(2, 32, 4, 64, norm_first=norm_first, causal=masked, rotary=rotary, init_scale=0.3)
        model = BertModel(BertConfig(stack, vocab_size=100, num_positions=NUM_TOKENS))
        params = {**random_params(model), **_random_arrays(exact, stack)}
        hidden = partial(_hidden, model, params, exact)
        run, rng = on_one_device(NUM_PARTS), np.random.default_rng(0)
        ids, others = rng.integers(0, 100, (2, 2, NUM_TOKENS)).astype(np.int32)
        real = np.arange(NUM_TOKENS) < np.array([[NUM_TOKENS], [8]])
        answer = hidden(ids, real, run)
        same = partial(_same, exchange, answer)
        new_padding = hidden(np.where(real, ids, others), real, run)
        same(new_padding, real, "the content of padding changes an answer")
        new_neighbour = hidden(np.stack([others[0], ids[1]]), real, run)
        same(new_neighbour, real & [[False], [True]], "another example of the batch changes an answer")
        for position in range(1, NUM_TOKENS) if masked else ():
            before = real & (np.arange(NUM_TOKENS) < position)
            changed = hidden(np.where(before, ids, others), real, run)
            same(changed, before, f"the tokens from {position} on change what is computed before them")
        if mesh:
            fault = "the parts give another answer on a device each than on the same device"
            same(hidden(ids, real, mesh), real, fault)
            if jax.default_backend() == "cpu":
                _check_bytes(model, exchange, mesh)
    if not mesh:
        print(
            f"check_exchange({exchange}): not checked with a part on each of {NUM_PARTS} devices; "
            f"call pj.emulate_devices({NUM_PARTS}) before",
            file=sys.stderr,
        )


def random_params(model: Model, seed: int = 0, scale: float = 0.3) -> Any:
    """Returns normal parameters, scales around 1. Unlike `init_params` it compiles nothing."""
    rng = np.random.default_rng(seed)

    def draw(path: tuple[Any, ...], spec: jax.ShapeDtypeStruct) -> np.ndarray:
        around = 1 if path[-1].key.startswith("scale") else 0
        return (around + scale * rng.normal(size=spec.shape)).astype(spec.dtype)

    return jax.tree_util.tree_map_with_path(draw, params_shapes(model))


def _random_arrays(exchange: Exchange, stack: TransformerConfig) -> dict[str, Any]:
    specs, rng = arrays.stated(exchange, stack.num_layers, stack.width_of), np.random.default_rng(1)
    return unflatten({path: rng.normal(size=spec.shape).astype(np.float32) for path, spec in specs.items()})


@partial(jax.jit, static_argnums=(0, 1, 2))
def _encoded(
    model: BertModel, exchange: Exchange, run: PlacedRunner, params: Any, parts: Parts
) -> tuple[jax.Array, ...]:
    return forward(model, params, parts, exchange, run)


def _hidden(
    model: BertModel, params: Any, exchange: Exchange, ids: np.ndarray, real: np.ndarray, run: PlacedRunner
) -> np.ndarray:
    parts = run.split({"ids": ids, "types": np.zeros_like(ids), "mask": real})
    return np.asarray(_encoded(model, exchange, run, run.replicate(params), parts)[0])


def _same(exchange: Exchange, answer: np.ndarray, other: np.ndarray, where: np.ndarray, fault: str) -> None:
    """Raises InputError if two answers differ at the tokens where `where` is True."""
    difference = np.abs(answer - other)[where].max(initial=0) / np.abs(answer[where]).max(initial=1)
    if not difference <= TOLERANCE:
        raise InputError(f"{exchange} can't be trusted: {fault} (by {difference:.2g} of its size)")


def _check_bytes(model: BertModel, exchange: Exchange, mesh: PlacedRunner) -> None:
    sent = cost.compiled_from_shapes(model, exchange, mesh, num_tokens=NUM_TOKENS).bytes_sent
    expected = cost.formula(model.config.stack, exchange, NUM_PARTS, NUM_TOKENS).bytes_sent
    if sent != expected:
        raise InputError(
            f"{exchange} can't be trusted: it sends {sent:.0f} bytes for an example, "
            f"but by its rows_sent and its wire format it is {expected:.0f}; make the two agree"
        )
