"""Tiny models with random weights, and batches for them."""

import functools
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

import prism_jax as pj
from prism_jax.layers.config import TransformerConfig
from prism_jax.layers.rotary import Rotary
from prism_jax.models import gpt2, llama
from prism_jax.models.bert import BertConfig, BertModel
from prism_jax.testing import random_params

LLAMA_BLOCKS = {
    "norm_first": True,
    "causal": True,
    "activation": "silu",
    "num_kv_heads": 2,
    "head_features": 12,
    "qkv_bias": False,
    "output_bias": False,
    "mlp_bias": False,
    "rms_norm": True,
    "query_key_norm": True,
    "gated": True,
    "rotary": Rotary(100.0),
}
"""Options of Llama's and Qwen3's blocks, all at once."""


def stack_config(
    *, norm_first: bool = False, causal: bool = False, dropout: float = 0.0, **kwargs
) -> TransformerConfig:
    """A tiny stack. Its weights are large enough for attention to be far from uniform."""
    return TransformerConfig(
        num_layers=2,
        features=32,
        num_heads=4,
        mlp_features=64,
        norm_first=norm_first,
        causal=causal,
        dropout=dropout,
        attention_dropout=dropout,
        init_scale=0.3,
        **kwargs,
    )


@functools.cache
def tiny_bert(**kwargs) -> tuple[BertModel, dict]:
    model = BertModel(BertConfig(stack_config(**kwargs), vocab_size=100, num_positions=64))
    return model, random_params(model)


def tiny_batch(num_tokens: int, *, padded: bool, batch_size: int = 3) -> dict:
    """Random tokens; `padded`: 1 example of full length, 1 of half, 1 short and padded on the left."""
    rng = np.random.default_rng(num_tokens)
    mask = np.ones((batch_size, num_tokens), bool)
    if padded:
        mask[1, (num_tokens + 1) // 2 :] = False
        mask[2, :-2] = False
    return {
        "ids": rng.integers(0, 100, (batch_size, num_tokens)).astype(np.int32),
        "types": rng.integers(0, 2, (batch_size, num_tokens)).astype(np.int32),
        "mask": mask,
    }


@functools.cache
def _program(config, exchange, run):
    """One compiled program for all batches of a shape."""
    return jax.jit(lambda params, parts: pj.forward(BertModel(config), params, parts, exchange, run))


def hidden_states(model, params, batch, exchange, run) -> np.ndarray:
    """Hidden states [B, N, D] of the real tokens, 0 elsewhere."""
    hidden, _ = _program(model.config, exchange, run)(run.replicate(params), run.split(batch))
    return np.where(batch["mask"][..., None], hidden, 0)


def save_toy_tokenizer(folder: Path) -> None:
    """A tokenizer of 99 words, as a folder in the hub's layout has it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(94))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    fast.save_pretrained(folder)


def tiny_llama():
    model = llama.LlamaForCausalLM(llama.LlamaConfig(stack_config(**LLAMA_BLOCKS), vocab_size=99, num_positions=128))
    return model, pj.init_params(model, jax.random.key(0))


def tiny_gpt2(num_layers: int = 2):
    stack = replace(gpt2.GPT2.stack, num_layers=num_layers, features=32, num_heads=4, mlp_features=64, init_scale=0.3)
    model = gpt2.GPT2LMHeadModel(gpt2.GPT2Config(stack, vocab_size=99, num_positions=128))
    return model, random_params(model)


def random_tokens(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 98, shape).astype(np.int32)


def prompts_of(*lengths):
    return [random_tokens(n, seed=i).tolist() for i, n in enumerate(lengths)]


def random_batch(model, num_tokens: int) -> dict[str, np.ndarray]:
    """Two random examples of tokens or patches; where there is a mask, the second is padded to half."""
    rng, batch = np.random.default_rng(0), {}
    for name, shape in model.batch_shapes(2, num_tokens).items():
        if np.issubdtype(shape.dtype, np.floating):
            batch[name] = rng.normal(size=shape.shape).astype(shape.dtype)
        else:
            batch[name] = rng.integers(0, 2 if name == "types" else 50, shape.shape).astype(shape.dtype)
    if "mask" in batch:
        batch["mask"] = np.arange(num_tokens)[None] < np.array([[num_tokens], [num_tokens // 2]])
    return batch
