"""Times of encoding and decoding rows for the wire, beside the time of a block."""

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from eval.timing.part_program import compile_part
from prism_jax.exchange.baselines import AllGather
from prism_jax.exchange.wire import WIRES
from prism_jax.models.bert import BERT_BASE
from prism_jax.parallel.partition import part_length

LAYERS = 4
"""Blocks of the program that is timed. A block takes this share of its time; the embeddings are a small rest."""


def stay_on_one_core() -> None:
    """Pins this process to its first core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def measure(wires: Sequence[str], num_parts: int, num_tokens: int, rounds: int) -> list[dict[str, Any]]:
    """Times one part of a stack of BERT-base's size, and its wire work when every row is sent.

    Args:
      wires: names of the formats to time.
      num_parts: P.
      num_tokens: N.
      rounds: times that everything is run, in turn. The times of a record are medians over them.

    Returns:
      A record for each format: seconds to encode the T rows of the part and to decode the (P-1) T rows of the others,
      seconds of a block, and their ratio with its 10th and 90th percentile over the rounds.
    """
    part_len, features = part_length(num_tokens, num_parts), BERT_BASE.stack.features
    own_BLD = jax.random.normal(jax.random.key(0), (1, part_len, features))
    blocks, arguments = compile_part(LAYERS, AllGather(), num_parts, num_tokens)
    calls: list[Callable[[], Any]] = [partial(blocks, *arguments)]
    for wire in (WIRES[name] for name in wires):
        encode = jax.jit(wire.encode).lower(own_BLD).compile()
        sent = np.concatenate([np.asarray(encode(own_BLD))] * (num_parts - 1), axis=1)
        decode = jax.jit(partial(wire.decode, features=features)).lower(sent).compile()
        calls += [partial(encode, own_BLD), partial(decode, sent)]
    seconds = np.array([[_seconds(call) for call in calls] for _ in range(rounds + 1)])[1:]  # the first warms up
    block_seconds = seconds[:, 0] / LAYERS
    records = []
    for i, name in enumerate(wires):
        encode_seconds, decode_seconds = seconds[:, 1 + 2 * i], seconds[:, 2 + 2 * i]
        share = (encode_seconds + decode_seconds) / block_seconds
        records.append(
            {
                "wire": name,
                "row_bytes": WIRES[name].row_bytes(features),
                "num_parts": num_parts,
                "tokens": num_tokens,
                "encode_seconds": float(np.median(encode_seconds)),
                "decode_seconds": float(np.median(decode_seconds)),
                "block_seconds": float(np.median(block_seconds)),
                "share_of_block": float(np.median(share)),
                "share_of_block_p10_p90": [float(x) for x in np.quantile(share, (0.1, 0.9))],
            }
        )
    return records


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - started
