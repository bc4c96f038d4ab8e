"""Program of one part alone, on one core, without the other parts."""

import os
import resource
import time
from dataclasses import replace
from multiprocessing.queues import Queue
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from prism_jax import cost
from prism_jax.exchange.base import Exchange
from prism_jax.models.bert import BERT_BASE, BertConfig, BertModel
from prism_jax.parallel.one_device import alone
from prism_jax.parallel.partition import Layout, part_length
from prism_jax.programs import init_params

AT_LEAST_SECONDS, AT_MOST_RUNS = 5.0, 20
"""Seconds and number of runs after which a measurement ends."""


def compile_part(
    layers: int, exchange: Exchange, num_parts: int, num_tokens: int
) -> tuple[jax.stages.Compiled, tuple[Any, dict[str, jax.Array], Layout]]:
    """Returns the compiled program of one part of a stack of BERT-base's size, and its arguments."""
    model = BertModel(BertConfig(replace(BERT_BASE.stack, num_layers=layers), vocab_size=100, num_positions=num_tokens))
    params, T = init_params(model, jax.random.key(0)), part_length(num_tokens, num_parts)
    tokens = {name: jnp.zeros((1, T), jnp.int32) for name in model.batch_shapes(1, T)}
    layout = Layout(jnp.int32(0), jnp.ones((1, T * num_parts), bool), None, num_parts, num_tokens)

    def part(params: Any, tokens: dict[str, jax.Array], layout: Layout) -> Any:
        return model.apply({"params": params}, tokens, layout, exchange, method="part")

    return jax.jit(alone(part, num_parts)).lower(params, tokens, layout).compile(), (params, tokens, layout)


def measure(queue: Queue, layers: int, exchange: Exchange, num_parts: int, num_tokens: int) -> None:
    """Body of a process: measures time and memory of one part, and puts the record into a queue."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    program, arguments = compile_part(layers, exchange, num_parts, num_tokens)
    jax.block_until_ready(program(*arguments))
    seconds: list[float] = []
    while sum(seconds) < AT_LEAST_SECONDS and len(seconds) < AT_MOST_RUNS:
        started = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        seconds.append(time.perf_counter() - started)
    stack, memory = replace(BERT_BASE.stack, num_layers=layers), cost.compiled_memory(program)
    queue.put(
        {
            "seconds": float(np.median(seconds)),
            "runs": len(seconds),
            "flops": cost.formula(stack, exchange, num_parts, num_tokens).flops,
            "memory_activations_bytes_compiled": memory.activations if memory else None,
            "peak_resident_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        }
    )
