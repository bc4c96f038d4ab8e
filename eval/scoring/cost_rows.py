"""The costs of a record of results.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import jax

from eval.scoring.rows import Fields, over_buckets
from prism_jax import cost
from prism_jax.cost import Cost
from prism_jax.exchange.base import Exchanges
from prism_jax.exchange.baselines import AllGather, WholeSequence
from prism_jax.parallel.mesh import OnMesh
from prism_jax.tasks.predict import Predictor, count_by_bucket


@dataclass(frozen=True, kw_only=True)
class Costs(Fields):
    """Cost per device: by formula and, if the name ends in "compiled", from the compiled program.

    FLOPs are those of the blocks' matrix products for one sequence of a task; those outside products are read from the
    compiled program. Bytes are those of the exchanges, the cut and the join for one sequence. With several buckets,
    these are means over the sequences. Collectives and memory (bytes) are those of a whole batch of the longest bucket.

    Compiled programs are read where each part has a device, and their FLOPs, bytes and collectives on CPU devices only;
    otherwise these figures are None.
    """

    flops_per_device: float
    flops_per_device_compiled: float | None
    flops_outside_products: dict[str, float] | None
    bytes_sent_per_device: float
    bytes_sent_per_device_compiled: float | None
    bytes_received_per_device: float
    bytes_received_per_device_compiled: float | None
    collectives: int
    collectives_compiled: int | None
    bytes_split_per_device: float
    bytes_join_per_device: float
    bytes_join_per_device_compiled: float | None
    bytes_vs_all_gather: float | None
    flops_vs_one_device: float
    memory_batch_size: int
    memory_weights_bytes: float
    memory_weights_bytes_compiled: float | None
    memory_activations_bytes: float
    memory_activations_bytes_compiled: float | None

    @classmethod
    def of(cls, predictor: Predictor) -> Self:
        """
        Args:
          predictor: a predictor that has run, so that its programs are compiled.
        """
        model, setting, num_parts = predictor.model, predictor.setting, predictor.setting.num_parts
        examples_of = count_by_bucket(predictor.task, predictor.buckets)
        longest = max(examples_of)

        def formula(exchange: Exchanges, num_parts: int) -> Cost:
            stack, extra_rows = model.config.stack, model.extra_rows
            costs = {n: cost.formula(stack, exchange, num_parts, n, extra_rows) for n in examples_of}
            return mean_cost(costs, examples_of)

        has_device_each = num_parts == 1 or isinstance(predictor.run, OnMesh)
        compiled = None
        if has_device_each and jax.default_backend() == "cpu":
            programs = predictor.programs.items()
            compiled = mean_cost({n: cost.compiled(x, predictor.batch_size) for n, x in programs}, examples_of)
        by_formula = formula(setting.exchange, num_parts)
        memory = cost.memory(model, setting.exchange, num_parts, longest, predictor.batch_size)
        memory_compiled = cost.compiled_memory(predictor.programs[longest]) if has_device_each else None
        all_gather = formula(AllGather(), num_parts).bytes_sent
        split = {n: cost.split_bytes(model, num_parts, n) for n in examples_of}
        join = {n: cost.join_bytes(model, num_parts, n) for n in examples_of}
        return cls(
            flops_per_device=by_formula.flops,
            flops_per_device_compiled=compiled.flops if compiled else None,
            flops_outside_products=compiled.flops_outside if compiled else None,
            bytes_sent_per_device=by_formula.bytes_sent,
            bytes_sent_per_device_compiled=compiled.bytes_sent if compiled else None,
            bytes_received_per_device=by_formula.bytes_received,
            bytes_received_per_device_compiled=compiled.bytes_received if compiled else None,
            collectives=by_formula.collectives,
            collectives_compiled=compiled.collectives if compiled else None,
            bytes_split_per_device=over_buckets(split, examples_of),
            bytes_join_per_device=over_buckets(join, examples_of),
            bytes_join_per_device_compiled=compiled.bytes_join if compiled else None,
            bytes_vs_all_gather=by_formula.bytes_sent / all_gather if num_parts > 1 else None,
            flops_vs_one_device=by_formula.flops / formula(WholeSequence(), 1).flops,
            memory_batch_size=predictor.batch_size,
            memory_weights_bytes=memory.weights,
            memory_weights_bytes_compiled=memory_compiled.weights if memory_compiled else None,
            memory_activations_bytes=memory.activations,
            memory_activations_bytes_compiled=memory_compiled.activations if memory_compiled else None,
        )


def mean_cost(cost_of: Mapping[int, Cost], examples_of: Mapping[int, int]) -> Cost:
    """Returns the mean cost over examples. Collectives are those of the longest length.

    Args:
      cost_of: costs by padded length of the examples.
      examples_of: number of examples by padded length.
    """

    def mean(figure_of: Mapping[int, float]) -> float:
        return over_buckets(figure_of, examples_of)

    labels = sorted({label for at_length in cost_of.values() for label in at_length.flops_outside})
    joins = {length: x.bytes_join for length, x in cost_of.items() if x.bytes_join is not None}
    return Cost(
        flops=mean({length: x.flops for length, x in cost_of.items()}),
        bytes_sent=mean({length: x.bytes_sent for length, x in cost_of.items()}),
        bytes_received=mean({length: x.bytes_received for length, x in cost_of.items()}),
        collectives=cost_of[max(examples_of)].collectives,
        collectives_hidden=cost_of[max(examples_of)].collectives_hidden,
        flops_outside={
            label: mean({length: x.flops_outside.get(label, 0.0) for length, x in cost_of.items()}) for label in labels
        },
        bytes_join=mean(joins) if joins else None,
    )
