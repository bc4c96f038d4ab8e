"""Strict for every test: eight emulated devices, no silent rank promotion, full float32 products."""

import gc
import os
import shutil
from pathlib import Path

import jax
import pytest
from helpers import letters

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch starts: its threads would wait for each other's core
if os.environ.get("PRISM_JAX_TEST_LETTERS") != "0":
    letters.install("prism_jax")  # before anything imports it

from helpers.command import command
from helpers.paths import GOLDEN
from helpers.quick import Compiler
from helpers.tiny import save_toy_tokenizer

import prism_jax as pj

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "float32")
UNREADABLE = "Error reading persistent compilation cache entry"
jax.devices()  # JAX starts here, with these eight
gc.freeze()  # what is imported stays: else every full collection walks through it, a sixteenth of all time
gc.set_threshold(50_000)


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "parity(*modules): compares with Hugging Face's PyTorch models; needs torch, or these modules"
    )


def pytest_runtest_setup(item):
    """Skips a parity test where its modules are missing. Without the marker such a test fails there."""
    for mark in item.iter_markers("parity"):
        for module in mark.args or ["torch"]:
            pytest.importorskip(module)


def pytest_sessionfinish():
    """pytest collects all garbage five times when it ends, to find what fails in a finaliser. Once is enough."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def compiled_once(request):
    """Compiled programs are kept from test to test and from run to run,
    in pytest's own cache (`--cache-clear` empties it).

    A process that is killed while it writes a program leaves a part of it; JAX then compiles anew, with a warning.
    """
    settings = {
        "jax_compilation_cache_dir": str(request.config.cache.mkdir("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))  # for other processes
        patch.setenv("PYTHONWARNINGS", f"ignore:{UNREADABLE}")
        yield


@pytest.fixture(scope="session")
def compiler():
    with Compiler() as compiler:
        yield compiler


def is_quick(item: pytest.Item) -> bool:
    return "quick_to_compile" in item.fixturenames


def pytest_collection_modifyitems(items):
    """Modules that compile alike follow one another."""
    quick = {item.getparent(pytest.Module) for item in items if is_quick(item)}
    items.sort(key=lambda item: item.getparent(pytest.Module) in quick)


@pytest.fixture(scope="module", autouse=True)
def as_users_compile(request, compiler):
    """All of XLA's optimisations, in modules that do not ask for `quick_to_compile`: parity and cost, among others."""
    of_module = (item for item in request.session.items if item.getparent(pytest.Module) is request.node)
    if not any(map(is_quick, of_module)):
        compiler.be_quick(False)


@pytest.fixture(scope="module")
def quick_to_compile(compiler):
    """Programs without most of XLA's optimisations, by its older code generator, for tests that compile many tiny ones.
    Modules that ask for it one after the other share what they compile.
    """
    compiler.be_quick(True)


@pytest.fixture(params=[pj.on_one_device, pj.on_mesh], ids=["one_device", "mesh"])
def runner(request):
    return request.param


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

import prism_jax as pj
from prism_jax import data
from prism_jax.data.datasets import Labelled
from prism_jax.experiments.recipe import Evaluation, Experiment, Grid, Training
from prism_jax.models.bert import BertForSequenceClassification


def toy(split):
    rng = np.random.default_rng(split == "test")
    labels = rng.integers(0, 3, 60)
    words = lambda label: (label if rng.random() < 0.7 else rng.integers(3, 90) for _ in range(rng.integers(4, 20)))
    texts = [" ".join(f"w{{word}}" for word in words(label)) for label in labels]
    return Labelled(f"toy, {{split}}", {{"text": texts}}, labels, ("zero", "one", "two"))


data.DATASETS["toy"] = toy

config = Experiment(
    model=BertForSequenceClassification,
    weights={str(toy_folder)!r},
    dataset="toy",
    num_tokens=18,
    batch_size=16,
    evaluation=Evaluation(limit=40),
    grid=Grid(parts=(2, 3), segments=(1, 3), exchanges=(pj.IsolatedParts(), pj.AllGather())),
    training=Training(epochs=4, batch_size=16, learning_rate=0.05, frozen=("encoder/.*",)),
)
""")
    return str(path)


@pytest.fixture(scope="session")
def trained(toy_config, tmp_path_factory):
    """A run that trained the head of the toy config."""
    out = tmp_path_factory.mktemp("trained") / "run"
    assert command("train.finetune", toy_config, "--out", out) == 0
    return out
