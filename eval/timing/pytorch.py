"""Compares one device of ours with the same model in Hugging Face's PyTorch, with the same weights."""

import copy
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import optax

import prism_jax as pj
from eval.reporting import files
from eval.reporting.text_table import Column, TextTable
from eval.timing.families import CAUSAL, MODELS, NEW_TOKENS
from prism_jax import weights
from prism_jax.data import images
from prism_jax.errors import InputError
from prism_jax.models.base import Model
from prism_jax.progress import Progress

try:
    import torch
    import transformers
except ImportError as error:
    raise InputError("eval.speed compares with PyTorch, which is not installed; pip install torch") from error

if TYPE_CHECKING:
    from eval.speed import Speed

CLASSES = {
    "vit": transformers.AutoModelForImageClassification,
    "bert": transformers.AutoModelForSequenceClassification,
    "gpt2": transformers.AutoModelForCausalLM,
    "llama": transformers.AutoModelForCausalLM,
}
LEARNING_RATE = 1e-5


@dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    Attributes:
      run: does the work once.
      logits: returns the computed logits.
    """

    run: Callable[[], None]
    logits: Callable[[], np.ndarray]


def without_dropout(model: Model, compute_dtype: str) -> Model:
    """Returns the model with all dropout rates at 0."""
    stack = replace(model.config.stack, dropout=0.0, attention_dropout=0.0, compute_dtype=compute_dtype)
    config = replace(model.config, stack=stack)
    return type(model)(replace(config, embedding_dropout=0.0) if hasattr(config, "embedding_dropout") else config)


def inputs(family: str, config: Any, batch_size: int, num_tokens: int) -> dict[str, np.ndarray]:
    """Returns the inputs of PyTorch's model, with labels."""
    rng = np.random.default_rng(0)
    if family == "vit":
        pixels = rng.normal(size=(batch_size, config.num_channels, *config.image_size)).astype(np.float32)
        return {"pixel_values": pixels, "labels": rng.integers(0, config.num_labels, batch_size)}
    ids = rng.integers(0, config.vocab_size, (batch_size, num_tokens))
    return {"input_ids": ids, "labels": ids if family in CAUSAL else rng.integers(0, config.num_labels, batch_size)}


def jax_arm(model: Model, params: Any, family: str, step: str, batch: dict[str, np.ndarray]) -> Arm:
    """Returns our arm, compiled. Its work includes cutting pixels into patches and the batch into parts."""
    run, exchange = pj.on_one_device(1), pj.WholeSequence()

    def split():
        if family == "vit":
            return run.split({"patches": images.patchify(batch["pixel_values"], model.config)})
        return run.split({"ids": batch["input_ids"].astype(np.int32)})

    forward = jax.jit(lambda params, parts: pj.forward(model, params, parts, exchange, run))
    optimizer = optax.adamw(LEARNING_RATE)

    def loss(params, parts, labels):
        logits = pj.forward(model, params, parts, exchange, run)
        if family in CAUSAL:
            logits, labels = logits[:, :-1], labels[:, 1:]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(params, opt_state, parts, labels):
        gradient = jax.grad(loss)(params, parts, labels)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    state = jax.tree.map(jax.numpy.array, (params, optimizer.init(params))) if step == "training" else None
    generator = None
    if step == "generation":
        generator = pj.Generator(model, params, exchange, run, bucket=batch["input_ids"].shape[1])

    def work():
        nonlocal state
        if generator is not None:
            generator(batch["input_ids"].tolist(), NEW_TOKENS)
        elif step == "inference":
            jax.block_until_ready(forward(params, split()))
        else:
            assert state is not None
            state = jax.block_until_ready(update(*state, split(), batch["labels"]))

    return Arm(work, lambda: np.asarray(forward(params, split())))


def pytorch_arm(model: Any, step: str, batch: dict[str, np.ndarray]) -> Arm:
    """Returns the arm of Hugging Face's model, in its usual form."""
    tensors = {name: torch.from_numpy(value) for name, value in batch.items()}
    labels = tensors.pop("labels")
    options = {"use_cache": False} if model.config.model_type in CAUSAL else {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE) if step == "training" else None

    def work():
        if step == "generation":
            mask = torch.ones_like(tensors["input_ids"])
            length = {"min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS}
            model.generate(**tensors, attention_mask=mask, do_sample=False, pad_token_id=0, **length)
        elif optimizer is None:
            with torch.inference_mode():
                model(**tensors, **options)
        else:
            optimizer.zero_grad()
            model(**tensors, **options, labels=labels).loss.backward()
            optimizer.step()

    def logits():
        with torch.inference_mode():
            return model(**tensors, **options).logits.numpy()

    return Arm(work, logits)


def time_in_turn(ours: Arm, reference: Arm, rounds: int, seconds: float) -> np.ndarray:
    """Returns the seconds [rounds, 2] of both arms in turn, after a warm-up of both."""
    ours.run()
    reference.run()
    times: list[tuple[float, float]] = []
    started = time.perf_counter()
    while len(times) < rounds and (len(times) < 3 or time.perf_counter() - started < seconds):
        started_ours = time.perf_counter()
        ours.run()
        started_reference = time.perf_counter()
        reference.run()
        times.append((started_reference - started_ours, time.perf_counter() - started_reference))
    return np.array(times)


TABLE = TextTable(
    (
        *(Column("family", 6), Column("step", 10), Column("B", 3, right=True)),
        *(Column(title, 8, right=True) for title in ("ours s", "theirs s")),
        *(Column(title, 6, right=True) for title in ("ratio", "p10", "p90")),
        Column("error", 8, right=True),
    )
)


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Returns a record as texts, in the order of the columns."""
    return (
        *(row["family"], row["step"], str(row["batch_size"])),
        *(f"{row[name]:.3f}" for name in ("seconds", "seconds_pytorch")),
        *(f"{row[name]:.2f}" for name in ("ratio", "ratio_p10", "ratio_p90")),
        f"{row['error']:.1e}",
    )


def compare(command: "Speed", out: Path) -> None:
    """Measures all combinations of the command. Prints each record when it is complete, and writes all at the end."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rows: list[dict] = []
    environment = files.environment() | {"torch": torch.__version__, "transformers": transformers.__version__}
    config = {name: value for name, value in dataclasses.asdict(command).items() if name != "out"}
    content = {"schema": files.SCHEMA, "config": config, "environment": environment}
    print(TABLE.header, flush=True)
    num_records = len(command.families) * len(command.steps) * len(command.batch_sizes)
    progress = Progress(total=num_records, desc="records", unit="record")
    for family in command.families:
        model = without_dropout(MODELS[family], command.compute_dtype)
        params = pj.init_params(model, jax.random.key(0))
        with tempfile.TemporaryDirectory() as folder:
            weights.export(weights.Pretrained(model, params), Path(folder))
            pytorch_model = CLASSES[family].from_pretrained(folder).eval()
        for step in command.steps:
            for batch_size in command.batch_sizes:
                batch = inputs(family, model.config, batch_size, command.num_tokens)
                ours, reference = (
                    jax_arm(model, params, family, step, batch),
                    pytorch_arm(copy.deepcopy(pytorch_model), step, batch),
                )
                row = {"family": family, "step": step, "batch_size": batch_size} | _measure(command, ours, reference)
                rows.append(row)
                progress.write(TABLE.line(cells(row)))
                progress.update()
    progress.close()
    files.write_json(out, content | {"rows": rows})


def _measure(command: "Speed", ours: Arm, reference: Arm) -> dict:
    """Returns the fields of a record. `error` is that of our logits, relative to PyTorch's largest, before any training
    step."""
    expected = reference.logits()
    error = np.abs(ours.logits() - expected).max() / np.abs(expected).max()
    times = time_in_turn(ours, reference, command.rounds, command.seconds)
    p10, median, p90 = np.percentile(times[:, 0] / times[:, 1], [10, 50, 90])
    seconds, seconds_pytorch = np.median(times, axis=0)
    return {
        "rounds": len(times),
        "seconds": float(seconds),
        "seconds_pytorch": float(seconds_pytorch),
        "ratio": float(median),
        "ratio_p10": float(p10),
        "ratio_p90": float(p90),
        "error": float(error),
    }
