"""Strict for every test: eight emulated devices, no silent rank promotion, full float32 products."""

import functools
import os
import runpy
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import prism_jax as pj
from prism_jax import assets
from prism_jax.assets import Asset
from prism_jax.errors import AssetError
from prism_jax.layers.transformer import TransformerConfig
from prism_jax.models.bert import BertConfig, BertModel

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "float32")
jax.devices()  # JAX starts here, with these eight


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "parity(*modules): compares with Hugging Face's PyTorch models; needs torch, or these modules"
    )


def pytest_runtest_setup(item):
    """Skips a parity test where its modules are missing. Without the marker such a test fails there."""
    for mark in item.iter_markers("parity"):
        for module in mark.args or ["torch"]:
            pytest.importorskip(module)


def assert_close(ours, theirs, tolerance: float = 1e-5) -> None:
    """max|a - b| <= tolerance max(1, max|b|)."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, f"shapes {ours.shape} and {theirs.shape}"
    bound, error = tolerance * max(1.0, np.abs(theirs).max(initial=0.0)), np.abs(ours - theirs).max(initial=0.0)
    assert error <= bound, f"max|a - b| = {error:.3g}, allowed {bound:.3g}"


def stack_config(*, norm_first: bool = False, causal: bool = False, dropout: float = 0.0) -> TransformerConfig:
    """A tiny stack. Its weights are large enough for attention to be far from uniform."""
    return TransformerConfig(
        2, 32, 4, 64, norm_first=norm_first, causal=causal, dropout=dropout, attention_dropout=dropout, init_scale=0.3
    )


@functools.cache
def tiny_bert(**kwargs) -> tuple[BertModel, dict]:
    model = BertModel(BertConfig(stack_config(**kwargs), vocab_size=100, num_positions=64))
    return model, pj.init_params(model, jax.random.key(0))


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


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory):
    """A program that several tests or processes need is compiled once."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))  # for other processes
        yield


@pytest.fixture(scope="module")
def quick_to_compile():
    """Programs without most of XLA's optimisations, for tests that compile many tiny ones. Parity and cost are tested with them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # for other processes
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(params=[pj.on_one_device, pj.on_mesh], ids=["one_device", "mesh"])
def runner(request):
    return request.param


def run(module: str, *argv, monkeypatch) -> int:
    """Runs `python -m module argv` in this process; returns the exit status."""
    monkeypatch.setattr(sys, "argv", [module, *map(str, argv)])
    monkeypatch.delitem(sys.modules, module, raising=False)  # it runs afresh, as __main__
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=False)
    except SystemExit as stop:
        return stop.code or 0
    return 0


GOLDEN = Path(__file__).parent / "golden"


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


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory):
    """The tiny BERT with a tokenizer, as a folder in the hub's layout."""
    folder = Path(shutil.copytree(GOLDEN / "bert_tiny", tmp_path_factory.mktemp("toy") / "model"))
    save_toy_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def toy_config(toy_folder, tmp_path_factory):
    """A config file of its own data set: which of three words occurs most often."""
    path = tmp_path_factory.mktemp("config") / "toy.py"
    path.write_text(f"""
import numpy as np

from prism_jax import data
from prism_jax.data.datasets import Labelled
from prism_jax.experiments.recipe import Experiment, Training
from prism_jax.models.bert import BertForSequenceClassification


def toy(split):
    rng = np.random.default_rng(split == "test")
    labels = rng.integers(0, 3, 60)
    texts = [" ".join(f"w{{label if rng.random() < 0.7 else rng.integers(3, 90)}}" for _ in range(rng.integers(4, 20))) for label in labels]
    return Labelled(f"toy, {{split}}", {{"text": texts}}, labels, ("zero", "one", "two"))


data.DATASETS["toy"] = toy

config = Experiment(
    model=BertForSequenceClassification,
    weights={str(toy_folder)!r},
    dataset="toy",
    num_tokens=18,
    parts=(2, 3),
    segments=(1, 3),
    limit=40,
    batch_size=16,
    training=Training(epochs=4, batch_size=16, learning_rate=0.05, frozen=("encoder/.*",)),
)
""")
    return str(path)


@pytest.fixture(scope="session")
def trained(toy_config, tmp_path_factory):
    """A run that trained the head of the toy config."""
    out = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        assert run("train.finetune", toy_config, "--out", out, monkeypatch=patch) == 0
    return out


def real(asset: Asset) -> Path:
    """The folder of an asset for a test of the real thing; the test is skipped where that would need a download.

    PRISM_JAX_TEST_DOWNLOADS=1 fetches what is not cached.
    """
    if not assets.is_cached(asset) and not os.environ.get("PRISM_JAX_TEST_DOWNLOADS"):
        pytest.skip(f"asset {asset.name!r} is not cached; PRISM_JAX_TEST_DOWNLOADS=1 fetches it")
    try:
        return assets.fetch(asset)
    except AssetError as error:
        pytest.skip(str(error))
