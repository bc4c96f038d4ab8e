"""The first training steps of the tiny models of tests/golden, by this repository and by PyTorch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

import prism_jax as pj
from helpers.paths import GOLDEN
from prism_jax import weights
from prism_jax.data import images
from prism_jax.experiments.recipe import Training
from prism_jax.models.bert import BertForSequenceClassification
from prism_jax.models.gpt2 import GPT2LMHeadModel
from prism_jax.models.llama import LlamaForCausalLM
from prism_jax.models.vit import ViTForImageClassification
from prism_jax.tasks.base import Task
from prism_jax.tasks.classification import Classification
from prism_jax.tasks.language import LanguageModelling
from train.optimizer import optimizer
from train.step import init_state, make_step, task_losses
from train.trainable import divide

NUM_STEPS = 3
RECIPE = Training(
    learning_rate=1e-3, warmup=0.0, schedule="linear", weight_decay=1.0, clip=1.0, dropout=False, fresh=()
)
"""The learning rate falls from 1e-3 to 0 in NUM_STEPS updates."""

NOT_DECAYED = (
    "word_embeddings",
    "token_type_embeddings",
    "position_embeddings",
    "cls_token",
    "wte",
    "wpe",
    "embed_tokens",
)
"""Hugging Face's names of embeddings."""


@dataclass(frozen=True)
class Family:
    """A tiny model and the batch that it is trained on, over and over.

    Attributes:
      model: class of the model.
      folder: its folder in tests/golden.
      batch: arrays of the batch, as the golden files have them.
      labels: a class for each example; None for a language model.
    """

    model: type[nn.Module]
    folder: Path
    batch: dict[str, np.ndarray]
    labels: tuple[int, ...] | None

    @property
    def task(self) -> Task:
        """The task without its rows, which a loss does not ask for."""
        if self.labels is None:
            return LanguageModelling(None, None)
        return Classification(None, None, ())


def families() -> dict[str, Family]:
    bert, gpt2, llama, vit = (
        json.loads((GOLDEN / f"{name}.json").read_text()) for name in ("bert", "gpt2", "llama", "vit")
    )
    pairs = {name: np.array(value) for name, value in bert[0]["batch"].items()}
    tokens = {"ids": np.array(gpt2[0]["ids"], np.int32), "mask": np.array(gpt2[0]["mask"], bool)}
    pixels = {"pixels": np.array(vit["pixels"], np.float32)}
    return {
        "bert": Family(BertForSequenceClassification, GOLDEN / bert[0]["folder"], pairs, (0, 3, 1, 4)),
        "gpt2": Family(GPT2LMHeadModel, GOLDEN / gpt2[0]["folder"], tokens, None),
        "llama": Family(LlamaForCausalLM, GOLDEN / llama[0]["folder"], tokens, None),
        "vit": Family(ViTForImageClassification, GOLDEN / vit["folder"], pixels, (2, 4)),
    }


def our_steps(family: Family, exchange: pj.Exchange, num_parts: int) -> list[dict[str, float]]:
    """The loss and the norm of the gradient of each step, through an exchange."""
    loaded, run = weights.load(family.model, str(family.folder)), pj.on_one_device(num_parts)
    batch = family.batch
    if "pixels" in batch:
        batch = {"patches": images.patchify(batch["pixels"], loaded.model.config)}
    num_rows = len(next(iter(batch.values())))
    targets = np.array(family.labels or [0] * num_rows, np.int32)
    trained, frozen = divide(loaded.params, RECIPE)
    rule = optimizer(RECIPE, NUM_STEPS)
    step = make_step(task_losses(family.task, loaded.model, exchange, run), rule)
    state, steps = init_state(trained, rule, RECIPE.seed), []
    for _ in range(NUM_STEPS):
        state, metrics = step(state, frozen, (run.split(batch), targets), np.ones(num_rows, np.float32))
        steps.append({name: float(metrics[name]) for name in ("loss", "gradient_norm")})
    return steps


def torch_steps(family: Family) -> list[dict[str, float]]:
    """The same, by Hugging Face's model in PyTorch with `torch.optim.AdamW`, without dropout."""
    import torch
    import transformers

    model = getattr(transformers, family.model.__name__).from_pretrained(family.folder).eval()
    embeddings, others = [], []
    for name, parameter in model.named_parameters():
        is_decayed = parameter.ndim > 1 and not any(part in NOT_DECAYED for part in name.split("."))
        (others if is_decayed else embeddings).append(parameter)
    groups = [{"params": others, "weight_decay": RECIPE.weight_decay}, {"params": embeddings, "weight_decay": 0.0}]
    rule = torch.optim.AdamW(groups, lr=RECIPE.learning_rate, betas=(0.9, 0.999), eps=1e-8)
    rate = torch.optim.lr_scheduler.LambdaLR(rule, lambda updates: 1 - updates / NUM_STEPS)
    steps = []
    for _ in range(NUM_STEPS):
        rule.zero_grad()
        loss = model(**_torch_inputs(family)).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), RECIPE.clip)
        rule.step()
        rate.step()
        steps.append({"loss": loss.item(), "gradient_norm": norm.item()})
    return steps


def _torch_inputs(family: Family) -> dict[str, Any]:
    import torch

    if "pixels" in family.batch:
        inputs = {"pixel_values": torch.from_numpy(family.batch["pixels"])}
    else:
        names = {"ids": "input_ids", "types": "token_type_ids", "mask": "attention_mask"}
        inputs = {names[name]: torch.from_numpy(x.astype(np.int64)) for name, x in family.batch.items()}
    if family.labels is None:  # -100: no token to predict
        labels = torch.from_numpy(np.where(family.batch["mask"], family.batch["ids"], -100).astype(np.int64))
    else:
        labels = torch.tensor(family.labels)
    return inputs | {"labels": labels}
