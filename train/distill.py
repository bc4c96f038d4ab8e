"""Losses by which the exact model teaches the model that runs through an exchange (self-distillation).

The teacher has the weights that training starts from. It runs in the parts of the student, which exchange all keys and
values: so it equals one device, and its rows lie beside those of the student. The losses follow Hinton et al.
(arXiv 1503.02531) for answers, and LoLCATs (arXiv 2410.10254) for the outputs of attention.
"""

from dataclasses import replace
from typing import Any

import flax
import jax
import jax.numpy as jnp

from prism_jax.exchange.base import Exchanges
from prism_jax.exchange.baselines import AllGather
from prism_jax.exchange.keys_values import KeysValues
from prism_jax.experiments.recipe import Distillation
from prism_jax.forward import Head, check_batch
from prism_jax.models.base import Model
from prism_jax.parallel.partition import Layout, Parts
from prism_jax.parallel.runner import Runner
from prism_jax.programs import part_with_insides
from prism_jax.tasks.base import Task
from train.step import LossFunction
from train.trainable import combine

EXACT = KeysValues(AllGather())
"""The exchange of the teacher."""


@flax.struct.dataclass
class Taught:
    """The parameters that a step with a teacher reads, beside its state.

    Attributes:
      frozen: frozen parameters of the student.
      teacher: parameters of the teacher, adapters folded in.
    """

    frozen: Any
    teacher: Any


def losses(task: Task, model: Model, exchange: Exchanges, runner: Runner, factors: Distillation) -> LossFunction:
    """Returns the loss function of a task, as `step.task_losses`, plus the losses by which the teacher teaches.
    `frozen` is a `Taught`."""

    def of_batch(trained: Any, given: Taught, batch: tuple[Parts, jax.Array]) -> tuple[jax.Array, jax.Array]:
        parts, targets = batch
        params = combine(trained, given.frozen)
        check_batch(model, parts, exchange, runner)

        def both(params: tuple[Any, Any], tokens: dict[str, jax.Array], layout: Layout) -> Any:
            rows_BRD, ours = part_with_insides(model, params[0], tokens, layout, exchange)
            without_dropout = replace(layout, keys_B=None)
            exact = jax.lax.stop_gradient(part_with_insides(model, params[1], tokens, without_dropout, EXACT))
            errors = {
                "blocks": relative_error(ours.blocks, exact[1].blocks, layout) if factors.blocks else None,
                "attention": relative_error(ours.attention, exact[1].attention, layout) if factors.attention else None,
            }
            return rows_BRD, exact[0], errors

        rows_BRD, exact_BRD, errors = runner(both, (params, given.teacher), parts)
        head = Head(model, params, runner)
        loss_B, amount_B = task.losses(head, rows_BRD, parts, targets)
        if factors.logits:
            teacher = Head(model, given.teacher, runner)
            loss_B += factors.logits * task.divergence(head, rows_BRD, teacher, exact_BRD, parts)
        for kind, factor in (("blocks", factors.blocks), ("attention", factors.attention)):
            if factor:
                sum_B, count_B = errors[kind].sum(1).T
                loss_B += factor * amount_B * sum_B / count_B
        return loss_B, amount_B

    return of_batch


def relative_error(ours: tuple[jax.Array, ...], exact: tuple[jax.Array, ...], layout: Layout) -> jax.Array:
    """Returns the squared relative error of the rows of real tokens, as their sum and their number, [B, 1, 2], over all
    blocks. Rows beside those of tokens count where the part has a real token."""
    extra_rows = ours[0].shape[1] - layout.part_len
    has_tokens_B1 = layout.real_BT.any(1, keepdims=True)
    real_BR = jnp.concatenate([jnp.repeat(has_tokens_B1, extra_rows, axis=1), layout.real_BT], axis=1)
    sum_B = jnp.zeros(len(real_BR))
    for x_BRD, y_BRD in zip(ours, exact, strict=True):
        size_BR = jnp.maximum((y_BRD**2).sum(-1), jnp.finfo(jnp.float32).tiny)
        sum_B += jnp.where(real_BR, ((x_BRD - y_BRD) ** 2).sum(-1) / size_BR, 0).sum(1)
    return jnp.stack([sum_B, len(ours) * real_BR.sum(1).astype(jnp.float32)], -1)[:, None]
