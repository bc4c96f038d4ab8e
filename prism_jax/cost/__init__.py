"""What a device computes and sends, two ways: by formula, and read from the compiled program.

Both are per example and per device. FLOPs are 2 for each multiply-add.
"""

import os
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from prism_jax.cost.hlo import Operation, read_program
from prism_jax.errors import InputError
from prism_jax.exchange.base import Exchanges, per_block, wire_of
from prism_jax.exchange.baselines import IsolatedParts
from prism_jax.forward import encode, lower, params_shapes, parts_shapes
from prism_jax.layers.attention import SCORES_BYTES
from prism_jax.layers.transformer import TransformerConfig
from prism_jax.models.base import Model
from prism_jax.parallel.one_device import on_one_device
from prism_jax.parallel.partition import part_length
from prism_jax.parallel.runner import PlacedRunner


@dataclass(frozen=True)
class Cost:
    """What one device does for one example.

    Attributes:
      flops: matrix products of the blocks.
      bytes_sent: by the block exchanges, to all other parts together.
      bytes_received: by the block exchanges, from all other parts together.
      collectives: of the block exchanges, for a whole batch.
      flops_outside: FLOPs of everything else that the compiled program does, by name; empty for the formula.
      bytes_join: sent to join the rows that the head reads; None for the formula.
    """

    flops: float
    bytes_sent: float
    bytes_received: float
    collectives: int
    flops_outside: dict[str, float] = field(default_factory=dict)
    bytes_join: float | None = None


def formula(
    stack: TransformerConfig, exchange: Exchanges, num_parts: int, num_tokens: int, extra_rows: int = 0
) -> Cost:
    """Returns the cost by formula: with K = T + (P-1) L rows attended to, a block takes

        2 T D^2 (queries) + 4 K D^2 (keys, values) + 4 T K D (scores, sum of values) + 2 T D^2 (output) + 4 T D M (MLP)

    which for M = 4 D is 20 T D^2 + 4 K D^2 + 4 T K D, as the PRISM paper's published GFLOPs have it; and sends (P-1) L
    rows of D numbers, each of 4 bytes or as the wire format has it.

    Args:
      stack: sizes of the blocks.
      exchange: of all blocks, or one for each.
      num_parts: P.
      num_tokens: N.
      extra_rows: rows that a part computes beside its tokens, see `Model`. T counts them; they are not sent.
    """
    D, M = stack.features, stack.mlp_features
    T = _rows_of_a_part(num_parts, num_tokens, extra_rows)
    flops = moved = collectives = 0
    for one in per_block(exchange, stack.num_layers):
        others = (num_parts - 1) * one.rows_sent(part_length(num_tokens, num_parts))
        K = T + others
        flops += 4 * T * D * D + 4 * K * D * D + 4 * T * K * D + 4 * T * D * M
        moved += others * wire_of(one).row_bytes(D)
        collectives += others > 0
    return Cost(flops, moved, moved, collectives)


def _rows_of_a_part(num_parts: int, num_tokens: int, extra_rows: int) -> int:
    return part_length(num_tokens, num_parts) + (extra_rows if num_parts > 1 else 0)


def reordered_flops(stack: TransformerConfig, num_parts: int, num_tokens: int) -> float:
    """FLOPs of a device that attends to all N rows without keys and values for rows of others: Voltage's other order.

    (x_p W_Q W_K^T) X^T and (A X) W_V, head by head, in place of x_p W_Q (X W_K)^T and A (X W_V): with N = P T a block
    takes 24 T D^2 + 4 H N T D for M = 4 D, biases left out. Cheaper than `formula` for short parts. A figure to compare
    with; no exchange here computes so.
    """
    T, D, M = part_length(num_tokens, num_parts), stack.features, stack.mlp_features
    return stack.num_layers * (8 * T * D * D + 4 * T * D * M + 4 * stack.num_heads * num_parts * T * T * D)


@dataclass(frozen=True)
class Memory:
    """Bytes on one device while a batch runs.

    Attributes:
      weights: every device holds all of them.
      activations: the most that is needed at once beside weights and the batch itself.
    """

    weights: float
    activations: float


def memory(model: Model, exchange: Exchanges, num_parts: int, num_tokens: int, batch_size: int) -> Memory:
    """Our estimate: the parameters, and `activations`."""
    weights = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params_shapes(model)))
    stack, extra_rows = model.config.stack, model.extra_rows
    return Memory(weights, activations(stack, exchange, num_parts, num_tokens, batch_size, extra_rows))


def activations(
    stack: TransformerConfig,
    exchange: Exchanges,
    num_parts: int,
    num_tokens: int,
    batch_size: int,
    extra_rows: int = 0,
) -> float:
    """Our estimate of bytes: of a block, what must be there at once in its attention or in its MLP, whichever is more.

    Attention holds the rows of the part (T D), those attended to (K D, in pre-norm again when normalised), queries,
    keys and values ((T + 2 K) D), and scores before and after the exponential (2 H T K, or of a block of them where
    they pass `SCORES_BYTES`). The MLP holds the rows, and T M before and after the activation. All in float32. A
    compiler that reuses memory better needs less, one that copies needs more.
    """
    D, M, H = stack.features, stack.mlp_features, stack.num_heads
    T = _rows_of_a_part(num_parts, num_tokens, extra_rows)
    most: float = 0
    for one in per_block(exchange, stack.num_layers):
        K = T + (num_parts - 1) * one.rows_sent(part_length(num_tokens, num_parts))
        rows = T * D + K * D * (2 if stack.norm_first else 1)
        scores = min(H * T * K, max(SCORES_BYTES / 4 / batch_size, H * K))
        most = max(most, rows + (T + 2 * K) * D + 2 * scores, 2 * T * D + 2 * T * M)
    return 4 * batch_size * most


def check_memory(model: Model, exchange: Exchanges, num_parts: int, num_tokens: int, batch_size: int) -> None:
    """Raises InputError for a batch whose activations on one device, by our estimate,
    are more than all memory of this machine."""
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    stack, extra_rows = model.config.stack, model.extra_rows
    if (needed := activations(stack, exchange, num_parts, num_tokens, batch_size, extra_rows)) > there:
        raise InputError(
            f"a batch of {batch_size} x {num_tokens} tokens takes some {needed / 1e9:,.0f} GB of a device, "
            f"but this machine has {there / 1e9:,.0f} GB; choose a smaller batch_size"
        )


def compiled_memory(program: jax.stages.Compiled) -> Memory | None:
    """What the compiler says that the program of one device needs; None where it says nothing.
    Arguments count as weights."""
    said = program.memory_analysis()
    return None if said is None else Memory(said.argument_size_in_bytes, said.temp_size_in_bytes)


def cache_bytes(
    stack: TransformerConfig, exchange: Exchanges, num_parts: int, num_tokens: int, max_new_tokens: int
) -> int:
    """Bytes of keys and values that generation keeps for one example on the device of the last part.

    Two for each of T + (P-1) L + new rows and each block, D numbers wide; N + new rows on one device.
    """
    T, item = part_length(num_tokens, num_parts), jnp.dtype(stack.compute_dtype).itemsize
    rows = sum(T + (num_parts - 1) * one.rows_sent(T) + max_new_tokens for one in per_block(exchange, stack.num_layers))
    return 2 * rows * stack.features * item


def compiled(program: jax.stages.Compiled, batch_size: int) -> Cost:
    """The cost that the compiled program of one device states, loops counted as often as they run."""
    flops, sent, received, join, collectives = 0.0, 0.0, 0.0, 0.0, 0
    outside: dict[str, float] = {}
    for operation in read_program(program.as_text() or ""):
        place = _place(operation)
        if place == PRODUCTS:
            flops += operation.flops
        elif operation.flops:
            outside[place] = outside.get(place, 0.0) + operation.flops / batch_size
        if place == "exchange":
            sent += operation.bytes_sent
            received += operation.bytes_received
            collectives += operation.times if operation.bytes_sent else 0
        else:
            join += operation.bytes_sent
    flops, sent, received, join = (total / batch_size for total in (flops, sent, received, join))
    return Cost(flops, sent, received, collectives, dict(sorted(outside.items())), join)


PRODUCTS = "products"

_PLACES = {
    "softmax": "softmax and masks",
    "activation": "activation",
    "norm": "layer norm",
    "norm_1": "layer norm",
    "norm_2": "layer norm",
    "blocks": "biases and residuals",
    "encoder": "embeddings",
}
"""What a name in the scope of an operation, neither product nor exchange, says of its place:
the first that is there."""


def _place(operation: Operation) -> str:
    """Where in the model an operation belongs."""
    scope = operation.scope
    if "exchange" in scope:
        return "exchange"
    if operation.opcode == "dot" and "blocks" in scope:
        return PRODUCTS
    if any(name.endswith(".head") for name in scope):
        return "head"
    return next((place for name, place in _PLACES.items() if name in scope), "elsewhere")


def lowered(model: Model, exchange: Exchanges, run: PlacedRunner, num_tokens: int) -> Cost:
    """The compiled cost of one example, without weights: compiles `forward` from shapes alone."""
    return compiled(lower(model, exchange, run, 1, num_tokens).compile(), 1)


def split_bytes(model: Model, num_parts: int, num_tokens: int) -> int:
    """Bytes that the terminal sends to one device for one example: its part of every array,
    and the mask of all tokens."""
    if num_parts == 1:
        return 0
    part_len = part_length(num_tokens, num_parts)
    tokens = sum(x.size // num_tokens * part_len * x.dtype.itemsize for x in model.batch_shapes(1, num_tokens).values())
    return tokens + num_parts * part_len


def join_bytes(model: Model, num_parts: int, num_tokens: int) -> int:
    """Bytes that one device sends for one example so that every device has the rows that the head reads."""
    run, parts = on_one_device(num_parts), parts_shapes(model, num_parts, 1, num_tokens)
    rows = jax.eval_shape(
        lambda params, parts: encode(model, params, parts, IsolatedParts(), run), params_shapes(model), parts
    )
    return rows.size * rows.dtype.itemsize // num_parts * (num_parts - 1)
