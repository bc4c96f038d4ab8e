"""Computation and communication of a device, in two ways: by formula, and read from the compiled program.

All figures are for one example and one device. A multiply-add counts as 2 FLOPs.
"""

import os
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from prism_jax.cost.hlo import Operation, read_program
from prism_jax.errors import InputError
from prism_jax.exchange.base import Exchanges, check, per_block
from prism_jax.exchange.baselines import IsolatedParts
from prism_jax.exchange.wrapped import wire_of
from prism_jax.forward import encode
from prism_jax.layers.attention import SCORES_BYTES
from prism_jax.layers.config import TransformerConfig
from prism_jax.models.base import Model
from prism_jax.parallel.one_device import on_one_device
from prism_jax.parallel.partition import check_parts, part_length
from prism_jax.parallel.runner import PlacedRunner
from prism_jax.programs import lower, params_shapes, parts_shapes
from prism_jax.records import BatchSize, Count, Natural, check_value


@dataclass(frozen=True)
class Cost:
    """Computation and communication of one device for one example.

    Attributes:
      flops: FLOPs of the matrix products of the blocks, those of the exchanges included.
      bytes_sent: bytes sent by the exchanges of the blocks, to all other parts together.
      bytes_received: bytes received by the exchanges of the blocks, from all other parts together.
      collectives: number of collectives of the exchanges of the blocks, for a whole batch.
      collectives_hidden: collectives whose rows only a later block reads. They need not delay a request.
      share_behind_hidden: share of the blocks that compute while such a collective is under way, the mean of all.
      flops_outside: FLOPs of all other operations of the compiled program, by label; empty for the formula.
      bytes_join: bytes sent to join the rows that the head reads; None for the formula.
    """

    flops: float
    bytes_sent: float
    bytes_received: float
    collectives: int
    collectives_hidden: int = 0
    share_behind_hidden: float = 0.0
    flops_outside: dict[str, float] = field(default_factory=dict)
    bytes_join: float | None = None


def formula(
    stack: TransformerConfig, exchange: Exchanges, num_parts: int, num_tokens: int, extra_rows: int = 0
) -> Cost:
    """Returns the cost by formula. With K = T + (P-1) L rows attended to, a block takes

        2 T D^2 (queries) + 4 K D^2 (keys, values) + 4 T K D (scores, sum of values) + 2 T D^2 (output) + 4 T D M (MLP)

    FLOPs. For M = 4 D this is 20 T D^2 + 4 K D^2 + 4 T K D, which matches the GFLOPs published in the PRISM paper. With
    H heads of F numbers for queries and G for keys and values, queries, scores and output have H F in place of one D,
    and keys and values G F. A gated MLP has 6 T D M. A block sends (P-1) L rows of D numbers, of 4 bytes each or as the
    wire format defines. An exchange of keys and values computes those of T rows in place of K, and its rows have 2 G F
    numbers. The products of an exchange itself, such as the search for codes, are added, see `Exchange.flops`. First
    tokens that every part gets whole are I rows more to attend to, and (P-1) I float32 rows to send. A block whose rows
    nobody would read sends none, see `Exchange.read_after`.

    Args:
      stack: sizes of the blocks.
      exchange: the exchange of all blocks, or one for each.
      num_parts: P, the number of parts.
      num_tokens: N.
      extra_rows: rows that a part computes in addition to its tokens, see `Model`. They count in T, but are not sent.

    Raises:
      InputError: if an exchange can't run on N tokens in P parts, or `extra_rows` is negative.
    """
    check(exchange, num_tokens, num_parts)
    D, M = stack.features, _layers_of_mlp(stack) * stack.mlp_features
    queries, keys = stack.query_features, stack.kv_features
    T = _rows_of_a_part(num_parts, num_tokens, extra_rows)
    flops: float = 0
    moved = collectives = hidden = behind = 0
    for block, block_exchange in enumerate(per_block(exchange, stack.num_layers)):
        own, width = part_length(num_tokens, num_parts), stack.width_of(block_exchange)
        K = T + block_exchange.rows_received(own, num_parts)
        projected = T if block_exchange.keys_values else K
        flops += 4 * T * D * queries + 4 * projected * D * keys + 4 * T * K * queries + 2 * T * D * M
        read_after = block_exchange.read_after(block, stack.num_layers)
        if read_after is None:
            continue
        others = (num_parts - 1) * block_exchange.rows_sent(own)
        first = block_exchange.first_rows if num_parts > 1 else 0
        flops += block_exchange.flops(own, num_parts, width)
        moved += others * wire_of(block_exchange).row_bytes(block_exchange.coded_width(width))
        moved += 4 * (num_parts - 1) * first * width
        in_block = (others > 0) + (first > 0)
        collectives += in_block
        hidden += in_block if read_after else 0
        behind += in_block * read_after
    share_behind = behind / (hidden * stack.num_layers) if hidden else 0.0
    return Cost(flops, moved, moved, collectives, hidden, share_behind)


def _layers_of_mlp(stack: TransformerConfig) -> int:
    return 3 if stack.gated else 2


def _rows_of_a_part(num_parts: int, num_tokens: int, extra_rows: int) -> int:
    check_value("extra_rows", extra_rows, Natural)
    return part_length(num_tokens, num_parts) + (extra_rows if num_parts > 1 else 0)


def reordered_flops(stack: TransformerConfig, num_parts: int, num_tokens: int) -> float:
    """Returns the FLOPs of a device that attends to all N rows in Voltage's other order, without keys and values for
    other parts' rows.

    That order is (x_p W_Q W_K^T) X^T and (A X) W_V, head by head, in place of x_p W_Q (X W_K)^T and A (X W_V). With N =
    P T a block takes 24 T D^2 + 4 H N T D for M = 4 D, without biases. For short parts this is cheaper than `formula`.
    It is a figure for comparison only: no exchange here uses this order. The stack has as many heads of keys as of
    queries, and no gated MLP. Other stacks are refused, and sizes that don't cut.
    """
    check_parts(num_parts, num_tokens)
    if stack.kv_features != stack.features or stack.gated:
        raise InputError(
            "the other order is known for stacks with keys of D numbers and an MLP of two layers; use formula"
        )
    T, D, M = part_length(num_tokens, num_parts), stack.features, stack.mlp_features
    return stack.num_layers * (8 * T * D * D + 4 * T * D * M + 4 * stack.num_heads * num_parts * T * T * D)


@dataclass(frozen=True)
class Memory:
    """Bytes on one device while a batch runs.

    Attributes:
      weights: all weights, which every device holds.
      activations: peak of all other memory, without weights and the batch itself.
    """

    weights: float
    activations: float


def memory(model: Model, exchange: Exchanges, num_parts: int, num_tokens: int, batch_size: int) -> Memory:
    """Returns our estimate: the size of the parameters, and `activations`. Refuses an N that the model can't take."""
    model.check(num_tokens)
    weights = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params_shapes(model)))
    stack, extra_rows = model.config.stack, model.extra_rows
    return Memory(weights, activations(stack, exchange, num_parts, num_tokens, batch_size, extra_rows))


def activations(
    stack: TransformerConfig, exchange: Exchanges, num_parts: int, num_tokens: int, batch_size: int, extra_rows: int = 0
) -> float:
    """Returns our estimate of the activations, in bytes: the larger of the needs of a block's attention and of its MLP.

    Attention holds the rows of the part (T D), the rows attended to (K D, twice in pre-norm, where they are also
    normalised), queries, keys and values (T H F + 2 K G F, keys twice if they are rotated), and scores before and after
    the exponential (2 H T K, or those of one block of queries where they exceed `SCORES_BYTES`). The MLP holds the
    rows, and T M before and after the activation, and once more if it is gated. All in float32. A compiler that reuses
    memory better needs less; one that copies needs more. Keys and values that are shared stand in place of the rows
    attended to (2 K G F). Errors as for `formula`, and for a batch size below 1.
    """
    check(exchange, num_tokens, num_parts)
    check_value("batch_size", batch_size, BatchSize)
    D, H, queries, keys = stack.features, stack.num_heads, stack.query_features, stack.kv_features
    M = _layers_of_mlp(stack) * stack.mlp_features
    kept = 3 if stack.rotary else 2
    T = _rows_of_a_part(num_parts, num_tokens, extra_rows)
    most: float = 0
    for block_exchange in per_block(exchange, stack.num_layers):
        K = T + block_exchange.rows_received(part_length(num_tokens, num_parts), num_parts)
        normed = 2 if stack.norm_first else 1
        rows = T * D * normed + 2 * K * keys if block_exchange.keys_values else T * D + K * D * normed
        scores = min(H * T * K, max(SCORES_BYTES / 4 / batch_size, H * K))
        most = max(most, rows + T * queries + kept * K * keys + 2 * scores, 2 * T * D + T * M)
    return 4 * batch_size * most


def check_memory(model: Model, exchange: Exchanges, num_parts: int, num_tokens: int, batch_size: int) -> None:
    """Raises InputError if the estimated activations of a batch on one device exceed the memory of this machine, or
    as `activations`. The model may be given positions for N tokens later, so they are not checked."""
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    stack, extra_rows = model.config.stack, model.extra_rows
    if (needed := activations(stack, exchange, num_parts, num_tokens, batch_size, extra_rows)) > available:
        raise InputError(
            f"a batch of {batch_size} x {num_tokens} tokens takes some {needed / 1e9:,.0f} GB of a device, "
            f"but this machine has {available / 1e9:,.0f} GB; choose a smaller batch_size"
        )


def compiled_memory(program: jax.stages.Compiled) -> Memory | None:
    """Returns the memory that the program of one device needs according to the compiler; None where it reports nothing.
    Arguments count as weights."""
    analysis = program.memory_analysis()
    return None if analysis is None else Memory(analysis.argument_size_in_bytes, analysis.temp_size_in_bytes)


def cache_bytes(
    stack: TransformerConfig, exchange: Exchanges, num_parts: int, num_tokens: int, max_new_tokens: int
) -> int:
    """Returns the bytes of keys and values that generation keeps for one example on the device of the last part.

    These are a key and a value, G F numbers wide, for each block and each of T + (P-1) L + new rows. On one device, N +
    new rows. Errors as for `formula`, and where there is no new token.
    """
    check(exchange, num_tokens, num_parts)
    check_value("max_new_tokens", max_new_tokens, Count)
    T, item = part_length(num_tokens, num_parts), jnp.dtype(stack.compute_dtype).itemsize
    rows = sum(
        T + block_exchange.rows_received(T, num_parts) + max_new_tokens
        for block_exchange in per_block(exchange, stack.num_layers)
    )
    return 2 * rows * stack.kv_features * item


def compiled(program: jax.stages.Compiled, batch_size: int) -> Cost:
    """Returns the cost of the compiled program of one device. Operations in a loop count once for each iteration."""
    check_value("batch_size", batch_size, BatchSize)
    flops, sent, received, join, collectives, hidden = 0.0, 0.0, 0.0, 0.0, 0, 0
    outside: dict[str, float] = {}
    for operation in read_program(program.as_text() or ""):
        label = _label(operation)
        if label == PRODUCTS:
            flops += operation.flops
        elif operation.flops:
            outside[label] = outside.get(label, 0.0) + operation.flops / batch_size
        if label == "exchange":
            sent += operation.bytes_sent
            received += operation.bytes_received
            times = operation.times if operation.bytes_sent else 0
            collectives += times
            hidden += times if _is_hidden(operation) else 0
        else:
            join += operation.bytes_sent
    flops, sent, received, join = (total / batch_size for total in (flops, sent, received, join))
    outside = dict(sorted(outside.items()))
    return Cost(flops, sent, received, collectives, hidden, flops_outside=outside, bytes_join=join)


def _is_hidden(collective: Operation) -> bool:
    """Returns whether nothing in the block of a collective depends on it, apart from the exchange itself."""
    block = [name for name in collective.scope if name.startswith("block_")]
    return all("exchange" in scope for scope in collective.readers if set(block) & set(scope))


PRODUCTS = "products"

_LABELS = {
    "softmax": "softmax and masks",
    "activation": "activation",
    "norm": "layer norm",
    "norm_1": "layer norm",
    "norm_2": "layer norm",
    "blocks": "biases and residuals",
    "encoder": "embeddings",
}
"""Label for operations that are neither matrix products nor exchanges. The first scope name found decides."""


def _label(operation: Operation) -> str:
    """Returns what an operation belongs to, as a label."""
    scope = operation.scope
    if operation.opcode == "dot" and "blocks" in scope:
        return PRODUCTS
    if "exchange" in scope:
        return "exchange"
    if any(name.endswith(".head") for name in scope):
        return "head"
    return next((label for name, label in _LABELS.items() if name in scope), "elsewhere")


def compiled_from_shapes(model: Model, exchange: Exchanges, run: PlacedRunner, num_tokens: int) -> Cost:
    """Returns the compiled cost of one example. Compiles `forward` from shapes alone, without weights."""
    check(exchange, num_tokens, run.num_parts)
    return compiled(lower(model, exchange, run, 1, num_tokens).compile(), 1)


def split_bytes(model: Model, num_parts: int, num_tokens: int) -> int:
    """Returns the bytes that process 0 sends to one device for one example: its part of every array, and the mask of
    all tokens."""
    check_parts(num_parts, num_tokens)
    model.check(num_tokens)
    if num_parts == 1:
        return 0
    part_len = part_length(num_tokens, num_parts)
    tokens = sum(x.size // num_tokens * part_len * x.dtype.itemsize for x in model.batch_shapes(1, num_tokens).values())
    return tokens + num_parts * part_len


def join_bytes(model: Model, num_parts: int, num_tokens: int) -> int:
    """Returns the bytes that one device sends for one example so that every device gets the rows that the head
    reads."""
    check_parts(num_parts, num_tokens)
    run, parts = on_one_device(num_parts), parts_shapes(model, num_parts, 1, num_tokens)
    rows = jax.eval_shape(
        lambda params, parts: encode(model, params, parts, IsolatedParts(), run), params_shapes(model), parts
    )
    return rows.size * rows.dtype.itemsize // num_parts * (num_parts - 1)
