"""What stands in a row of results.json: the setting, the score, the cost."""

import jax
import numpy as np

from eval.scoring.variants import Planned
from prism_jax import cost
from prism_jax.errors import InputError, RunError
from prism_jax.exchange.base import Exchange, as_tuple, name_of, wire_of, with_wire
from prism_jax.exchange.baselines import AllGather, WholeSequence
from prism_jax.exchange.setting import Setting
from prism_jax.exchange.text import text_of
from prism_jax.exchange.wire import FLOAT32
from prism_jax.metrics import scores
from prism_jax.parallel.mesh import OnMesh
from prism_jax.parallel.partition import part_length
from prism_jax.tasks.base import Task
from prism_jax.tasks.language import LanguageModelling
from prism_jax.tasks.predict import Predictor, rows_by_bucket


def predicted_in_last_part(num_tokens: int, num_parts: int) -> range:
    """The places of `language.log_likelihoods` that are predicted from a row of the last part, in a window of N tokens."""
    return range((num_parts - 1) * part_length(num_tokens, num_parts), num_tokens - 1)


def last_part_row(
    task: LanguageModelling, outcomes: np.ndarray, reference: np.ndarray | None, setting: Setting, num_tokens: int
) -> dict:
    """Perplexity of the tokens of the last part, in windows of all N tokens, beside one device's.

    These tokens see their own part whole and the parts before it through the exchange, as generated ones do: the price of
    generation.
    """
    predicted = predicted_in_last_part(num_tokens, setting.num_parts)
    whole = task.lengths == num_tokens
    if not whole.any() or not predicted:
        return {}
    labels = np.full((whole.sum(), 2), len(predicted))
    metric, here = scores.METRICS["perplexity"], outcomes[whole][:, predicted].sum(1)
    value, interval = scores.score(metric, here, labels)
    difference, difference_interval = None, None
    if reference is not None:
        exact = reference[whole][:, predicted].sum(1)
        difference, difference_interval = scores.difference(metric, here, exact, labels)
    return {
        "last_part_perplexity": value,
        "last_part_perplexity_ci95": interval,
        "last_part_difference_to_one_device": difference,
        "last_part_difference_ci95": difference_interval,
        "last_part_windows": int(whole.sum()),
    }


def recovery_row(
    task: Task,
    tuned: np.ndarray,
    as_is: np.ndarray | None,
    control: np.ndarray | None,
    one_device: np.ndarray | None,
) -> dict:
    """How much of what an exchange loses fine-tuning through it won back, from what was kept of each row; nothing without a control."""
    if as_is is None or control is None or one_device is None:
        return {}
    assert task.labels is not None
    metric = scores.METRICS[task.metrics[0]]
    tuned, as_is, control, one_device = map(task.predictions, (tuned, as_is, control, one_device))
    value, interval = scores.recovery(metric, tuned, as_is, control, task.labels) or (None, None)
    published = scores.recovery_published(*(metric.value(x, task.labels) for x in (tuned, as_is, one_device)))
    return {"recovery_percent": value, "recovery_ci95": interval, "recovery_percent_as_published": published}


def setting_row(setting: Setting, num_tokens: int, rows: dict[int, int]) -> dict:
    """What was run; the compression rate is the mean over the rows that are padded to each length."""
    exchange = setting.exchange
    one = exchange if isinstance(exchange, Exchange) else None

    def rate(length):
        part_len = part_length(length, setting.num_parts)
        sent = one.rows_sent(part_len) if one and setting.num_parts > 1 else 0
        return part_len / sent if sent else None

    rates = {length: rate(length) for length in rows}
    known = None not in rates.values()
    num_segments = getattr(one, "num_segments", None)
    if one:
        only_segments = list(one.parameters()) == ["num_segments"]
        name, wire = name_of(type(one)) if only_segments else str(with_wire(one, FLOAT32)), wire_of(one).name
    else:
        name, wire = text_of(exchange), ",".join(wire_of(each).name for each in as_tuple(exchange))
    return {
        "setting": text_of(exchange),
        "exchange": name,
        "wire": wire,
        "num_parts": setting.num_parts,
        "num_segments": num_segments,
        "compression_rate": sum(rows[n] * rates[n] for n in rows) / sum(rows.values()) if known else None,
        "tokens": num_tokens,
    }


def planned_row(planned: Planned) -> dict:
    """What a row is to be."""
    return setting_row(planned.setting, planned.num_tokens, {planned.num_tokens: 1}) | {"weights": planned.weights}


def failed_row(task: Task, planned: Planned, error: Exception) -> dict:
    """What was to run, and why it did not."""
    kind = "" if isinstance(error, InputError | RunError) else f"{type(error).__name__}: "
    nothing = dict.fromkeys(("score", "score_ci95", "difference_to_one_device", "difference_ci95"))
    row = planned_row(planned) | {"metric": task.metrics[0], **nothing, "examples": None}
    return row | {"error": kind + " ".join(str(error).split())[:500]}


def score_row(task: Task, outcomes: np.ndarray, reference: np.ndarray | None) -> dict:
    """The score, its paired difference to one device, where that is another setting, and the task's other metrics."""
    predictions = task.predictions(outcomes)
    chosen, *others = (scores.METRICS[name] for name in task.metrics)
    if task.labels is None:
        nothing = dict.fromkeys(("score", "score_ci95", "difference_to_one_device", "difference_ci95"))
        return {"metric": chosen.name, **nothing, "other_metrics": {}, "examples": len(predictions)}
    value, interval = scores.score(chosen, predictions, task.labels)
    difference, difference_interval = (
        (None, None)
        if reference is None
        else scores.difference(chosen, predictions, task.predictions(reference), task.labels)
    )
    return {
        "metric": chosen.name,
        "score": value,
        "score_ci95": interval,
        "difference_to_one_device": difference,
        "difference_ci95": difference_interval,
        "other_metrics": {one.name: scores.score(one, predictions, task.labels)[0] for one in others},
        "examples": len(predictions),
    }


def cost_row(predictor: Predictor) -> dict:
    """The cost of one row of the task on one device, by formula and from the compiled programs (read on CPU devices only, each with a part).

    With several buckets, the mean over the rows that are padded to each; collectives and memory of a whole batch of the longest.
    """
    model, setting = predictor.model, predictor.setting
    stack, num_parts = model.config.stack, setting.num_parts
    rows = rows_by_bucket(predictor.task, predictor.buckets)
    on_a_device_each = num_parts == 1 or isinstance(predictor.run, OnMesh)
    readable = on_a_device_each and jax.default_backend() == "cpu"

    def mean(cost_of):
        return sum(count * cost_of(bucket) for bucket, count in rows.items()) / sum(rows.values())

    read = {n: cost.compiled(program, predictor.batch_size) for n, program in predictor.programs.items() if readable}
    ours = {n: cost.formula(stack, setting.exchange, num_parts, n) for n in rows}
    one_device = mean(lambda n: cost.formula(stack, WholeSequence(), 1, n).flops)
    all_gather = mean(lambda n: cost.formula(stack, AllGather(), num_parts, n).bytes_sent)
    places = sorted({place for one in read.values() for place in one.flops_outside})
    longest = max(rows)
    estimate = cost.memory(model, setting.exchange, num_parts, longest, predictor.batch_size)
    said = cost.compiled_memory(predictor.programs[longest]) if on_a_device_each else None
    return {
        "flops_per_device": mean(lambda n: ours[n].flops),
        "flops_per_device_compiled": mean(lambda n: read[n].flops) if read else None,
        "flops_outside_products": {p: mean(lambda n, p=p: read[n].flops_outside.get(p, 0.0)) for p in places}
        if read
        else None,
        "bytes_sent_per_device": mean(lambda n: ours[n].bytes_sent),
        "bytes_sent_per_device_compiled": mean(lambda n: read[n].bytes_sent) if read else None,
        "bytes_received_per_device": mean(lambda n: ours[n].bytes_received),
        "bytes_received_per_device_compiled": mean(lambda n: read[n].bytes_received) if read else None,
        "collectives": ours[longest].collectives,
        "collectives_compiled": read[longest].collectives if read else None,
        "bytes_split_per_device": mean(lambda n: cost.split_bytes(model, num_parts, n)),
        "bytes_join_per_device": mean(lambda n: cost.join_bytes(model, num_parts, n)),
        "bytes_join_per_device_compiled": mean(lambda n: read[n].bytes_join) if read else None,
        "bytes_vs_all_gather": mean(lambda n: ours[n].bytes_sent) / all_gather if num_parts > 1 else None,
        "flops_vs_one_device": mean(lambda n: ours[n].flops) / one_device,
        "memory_batch_size": predictor.batch_size,
        "memory_weights_bytes": estimate.weights,
        "memory_weights_bytes_compiled": said.weights if said else None,
        "memory_activations_bytes": estimate.activations,
        "memory_activations_bytes_compiled": said.activations if said else None,
    }
