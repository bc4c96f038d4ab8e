"""LoRA (arXiv 2106.09685): low-rank adapters as more parameters.

An adapter is three parameters beside a kernel [D, M] of the tree, which `dense.Dense` looks for: `lora_a` [D, r],
`lora_b` [r, M] and `lora_scale` [], which is alpha / r. The first two are to be trained (`is_trained`). On disk they
lie in PEFT's layout, see `prism_jax.weights.peft_files`.

    adapted = lora.add(pretrained.params, lora.LoRA(rank=8, alpha=16), jax.random.key(0))
    ...                                                                      # train the leaves where is_trained(path)
    peft_files.save(folder, pretrained.model, adapted, base="org/name")   # peft.PeftModel.from_pretrained opens it
    plain = lora.merge(adapted)                                              # no cost at inference
    weights.load(BertForSequenceClassification, "org/name", adapter=folder)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flax
import jax
import jax.numpy as jnp

from prism_jax.errors import InputError

TARGETS = ("query", "key", "value", "output", "up", "down", "gate")
"""Dense layers of a block. Only gated ones have a gate."""

NAMES = ("lora_a", "lora_b", "lora_scale")
"""Parameters of an adapter."""


@dataclass(frozen=True)
class LoRA:
    """Adapters to add: their layers, rank and scale.

    Attributes:
      rank: r.
      alpha: the adapter's output is scaled by alpha / r.
      targets: layers of a block, of TARGETS.
    """

    rank: int = 8
    alpha: float = 16
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self):
        if self.rank < 1 or not (math.isfinite(self.alpha) and self.alpha > 0):
            raise InputError(f"LoRA of rank {self.rank} and alpha {self.alpha}; choose rank >= 1 and alpha > 0")
        unknown = [name for name in self.targets if name not in TARGETS]
        if unknown or not self.targets:
            raise InputError(f"LoRA's targets are {', '.join(self.targets) or 'none'}; choose of {', '.join(TARGETS)}")


def is_trained(path: Sequence[str]) -> bool:
    """Returns whether LoRA trains the parameter at `path`, a tuple of names."""
    return path[-1] in ("lora_a", "lora_b")


def has_adapters(params: Any) -> bool:
    """Returns whether a kernel of the parameters has an adapter."""
    return any(map(is_trained, flax.traverse_util.flatten_dict(params)))


def add(params: Any, lora: LoRA, key: jax.Array) -> Any:
    """Returns the parameters with fresh adapters, which change no answer.

    B is 0, and A uniform within 1 / sqrt(D), as in PEFT.

    Raises:
      InputError: if there are adapters already, or the rank is larger than a layer.
    """
    if has_adapters(params):
        raise InputError("the parameters have adapters already; fold them in with lora.merge first")
    flat = flax.traverse_util.flatten_dict(params)
    layers = [path[:-1] for path in flat if "blocks" in path and path[-1] == "kernel" and path[-2] in lora.targets]
    for layer, layer_key in zip(sorted(layers), jax.random.split(key, len(layers)), strict=True):
        D, M = flat[*layer, "kernel"].shape
        if lora.rank > max(D, M):
            raise InputError(f"LoRA of rank {lora.rank} in a layer of {D} x {M}; choose a rank of {max(D, M)} or less")
        bound = 1 / math.sqrt(D)
        flat[*layer, "lora_a"] = jax.random.uniform(layer_key, (D, lora.rank), jnp.float32, -bound, bound)
        flat[*layer, "lora_b"] = jnp.zeros((lora.rank, M), jnp.float32)
        flat[*layer, "lora_scale"] = jnp.float32(lora.alpha / lora.rank)
    return flax.traverse_util.unflatten_dict(flat)


def joined(params: Any, below: Any) -> Any:
    """Returns the parameters with adapters that answer as their own and those of `below` together. Their ranks add up.

    Args:
      params: with adapters, trained on kernels into which those of `below` were folded.
      below: adapters of the same layers or of others.
    """
    flat, others = flax.traverse_util.flatten_dict(params), flax.traverse_util.flatten_dict(below)
    for layer in [path[:-1] for path in others if path[-1] == "lora_a"]:
        a_DV, b_VM, scale = adapter = [others[*layer, name] for name in NAMES]
        if (*layer, "lora_a") in flat:
            a_DW, b_WM, own_scale = (flat[*layer, name] for name in NAMES)
            b = jnp.concatenate([b_WM, b_VM * (scale / own_scale)])
            adapter = [jnp.concatenate([a_DW, a_DV], axis=1), b, own_scale]
        flat |= {(*layer, name): x for name, x in zip(NAMES, adapter, strict=True)}
    return flax.traverse_util.unflatten_dict(flat)


def merge(params: Any) -> Any:
    """Returns the parameters without adapters, with kernels W + scale A B: the same answers."""
    flat = flax.traverse_util.flatten_dict(params)
    for layer in [path[:-1] for path in flat if path[-1] == "lora_a"]:
        a_DW, b_WM, scale = (flat.pop((*layer, name)) for name in NAMES)
        flat[*layer, "kernel"] = flat[*layer, "kernel"] + scale * jnp.matmul(a_DW, b_WM, precision="float32")
    return flax.traverse_util.unflatten_dict(flat)
