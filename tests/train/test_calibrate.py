"""Codebooks from training rows, in files, scoring, training and export."""

import json
import os
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.closeness import assert_close
from helpers.command import command
from helpers.tiny import tiny_batch, tiny_bert
from safetensors.numpy import load_file, save_file

import prism_jax as pj
from prism_jax import data, weights
from prism_jax.errors import InputError
from prism_jax.exchange import AllGather, Codebooks, GatedMeans, HeadMeans
from prism_jax.exchange.text import parse
from prism_jax.experiments import recipe
from prism_jax.experiments.build import load_training_data
from prism_jax.experiments.checkpoint import best_step
from prism_jax.experiments.exchange_arrays import save, source_of, with_arrays
from prism_jax.programs import part_with_insides
from prism_jax.tasks import prepare
from prism_jax.trees import flatten
from prism_jax.weights import Pretrained
from train import fit_codebooks
from train.calibrate import sharing
from train.distill import EXACT
from train.fit_codebooks import fit
from train.fit_learned import attention_errors

pytestmark = pytest.mark.usefixtures("quick_to_compile")

LACKS = "the weights lack the arrays of codebooks:16:8:all_gather; make them with train.calibrate"
POWER = """
from dataclasses import dataclass
from prism_jax.exchange import BlockArray, array_field


@dataclass(frozen=True)
class Power(pj.Wrapped):
    power: object = array_field()

    def arrays(self, features):
        return {"power": BlockArray(())}

    def __call__(self, x_BTD, layout):
        context = self.of(x_BTD, layout)
        return context.replace(weight_BK=context.weight_BK ** self.power)
"""
"""Lines of a config with an exchange of its own, whose learned array has no start."""

BOOKS = "codebooks:16:8:all_gather"


@pytest.fixture(scope="module")
def calibrated(toy_config, trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("calibrated") / "books"
    flags = ["--exchanges", BOOKS, "--base", trained, "--examples", 20, "--out", out]
    assert command("train.calibrate", toy_config, *flags) == 0
    return out / "exchange.safetensors"


def test_centroids_are_the_rows_if_these_are_few_and_else_their_clusters():
    rng = np.random.default_rng(0)
    few = rng.normal(size=(9, 32)).astype(np.float32)
    arrays = fit(Codebooks(AllGather(), 8, 4), [np.concatenate([few, few])], seed=0)
    for group, centroids_JE in enumerate(arrays["block_0"]["centroids"]):
        piece = few[:, 4 * group : 4 * group + 4]
        assert {tuple(x) for x in centroids_JE} == {tuple(x) for x in piece}
    middles = 10 * rng.normal(size=(16, 4))
    rows = (middles[rng.integers(0, 16, 2000)] + 0.01 * rng.normal(size=(2000, 4))).astype(np.float32)
    centroids_JE = fit(Codebooks(AllGather(), 1, 8), [rows], seed=0)["block_0"]["centroids"][0]
    nearest = np.linalg.norm(rows[:, None] - centroids_JE[None], axis=-1).min(1)
    assert nearest.max() < 0.1 < 1 < np.linalg.norm(rows - rows.mean(0), axis=-1).min()


def test_rows_that_differ_by_rounding_alone_share_a_centroid():
    rng = np.random.default_rng(0)
    places = rng.normal(size=(9, 4)).astype(np.float32)
    rows = (places[rng.integers(0, 9, 500)] * (1 + 1e-7 * rng.integers(0, 2, (500, 1)))).astype(np.float32)
    assert len(np.unique(rows, axis=0)) > 16
    centroids_JE = fit(Codebooks(AllGather(), 1, 4), [rows], seed=0)["block_0"]["centroids"][0]
    assert centroids_JE.shape == (16, 4)
    np.testing.assert_allclose(np.unique(centroids_JE.round(4), axis=0), np.unique(places.round(4), axis=0), atol=2e-4)


def test_a_sweep_scores_through_calibrated_codebooks(calibrated, toy_config, trained, tmp_path, capsys):
    assert {name: x.shape for name, x in load_file(calibrated).items()} == {
        f"exchange/codebooks_16_8/block_{i}/centroids": (16, 256, 2) for i in range(2)
    }
    read = flatten(with_arrays(Pretrained(None, {}), str(calibrated)).params)
    assert {name: x.tolist() for name, x in read.items()} == {
        name: x.tolist() for name, x in load_file(calibrated).items()
    }
    flags = ["--base", trained, "--parts", 3, "--segments", "--exchanges", "all_gather", BOOKS]
    assert command("eval.sweep", toy_config, *flags, "--exchange-arrays", calibrated, "--out", tmp_path / "sweep") == 0
    whole, exact, coded = json.loads((tmp_path / "sweep" / "results.json").read_text())["rows"]
    assert (coded["exchange"], coded["wire"]) == (BOOKS, "codes")
    assert coded["bytes_sent_per_device"] == coded["bytes_sent_per_device_compiled"]
    assert coded["bytes_sent_per_device"] * 8 == exact["bytes_sent_per_device"]  # 16 bytes in place of 128
    assert exact["score"] == whole["score"]
    assert coded["score"] > 50  # chance is 33
    printed = capsys.readouterr().out
    assert "were made for" not in printed
    scores = [found.start() for line in printed.splitlines() if (found := re.search(r"accuracy %|\d+[.]\d \[\d", line))]
    assert scores == scores[:1] * 4  # header and records are aligned
    words = ["--exchange", BOOKS, "--num-parts", 2, "--exchange-arrays", calibrated, "--out", tmp_path / "other"]
    best = f"{trained.parent}/./{trained.name}@{best_step(trained)}"
    assert command("eval.evaluate", toy_config, "--checkpoint", best, *words) == 0
    assert "were made for" not in capsys.readouterr().out
    assert command("eval.evaluate", toy_config, "--checkpoint", f"{trained}@16", *words) == 0
    assert f"were made for {trained}, but the base weights are {trained}@16" in capsys.readouterr().out
    assert command("eval.evaluate", toy_config, "--checkpoint", trained, "--exchange", BOOKS, "--num-parts", 3) != 0
    assert LACKS in capsys.readouterr().err


@pytest.mark.slow
def test_training_leaves_codebooks_as_they_are_and_export_writes_them(calibrated, toy_config, trained, tmp_path):
    flags = ["--start", trained, "--training.epochs", 1, "--training.exchanges", BOOKS, "--training.parts", 3]
    flags += ["--exchange-arrays", calibrated, "--exchange", BOOKS, "--num-parts", 3]
    assert command("train.finetune", toy_config, *flags, "--out", tmp_path / "run") == 0
    assert command("train.export", tmp_path / "run", tmp_path / "exported") == 0
    before, after = load_file(calibrated), load_file(tmp_path / "exported" / "exchange.safetensors")
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before)
    assert (tmp_path / "exported" / "model.safetensors").exists()


@pytest.mark.slow
def test_codes_of_keys_and_values_in_a_basis_are_scored(toy_config, trained, tmp_path):
    """More bytes lose less, down to nothing; the basis of 64 components is exact."""
    names = [f"codebooks:{groups}:8:principal:64:keys_values:all_gather" for groups in (32, 1)]
    flags = ["--exchanges", *names, "--base", trained, "--examples", 40, "--out", tmp_path]
    assert command("train.calibrate", toy_config, *flags) == 0
    arrays = {name: x for name, x in load_file(tmp_path / "exchange.safetensors").items() if "basis" in name}
    for basis in arrays.values():
        np.testing.assert_allclose(basis.T @ basis, np.eye(64), atol=1e-5)
    sweep = ["--base", trained, "--parts", 3, "--segments", "--limit", 0, "--out", tmp_path / "sweep"]
    sweep += ["--exchanges", *names, "principal:64:keys_values:all_gather"]
    sweep += ["--exchange-arrays", tmp_path / "exchange.safetensors"]
    assert command("eval.sweep", toy_config, *sweep) == 0
    whole, fine, coarse, all_components = json.loads((tmp_path / "sweep" / "results.json").read_text())["rows"]
    assert all_components["score"] == whole["score"]
    assert abs(fine["difference_to_one_device"]) <= abs(coarse["difference_to_one_device"])
    assert (
        fine["bytes_sent_per_device"] == fine["bytes_sent_per_device_compiled"] == 32 * coarse["bytes_sent_per_device"]
    )
    assert fine["flops_per_device"] == fine["flops_per_device_compiled"]


def test_a_file_in_float16_holds_the_rounded_centroids(tmp_path):
    arrays = {"books": {"block_0": {"centroids": np.array([[0.1, 1e-3]])}}}
    save(tmp_path / "half.safetensors", arrays, "somewhere", "float16")
    assert source_of(str(tmp_path / "half.safetensors")) == "somewhere"
    (half,) = load_file(tmp_path / "half.safetensors").values()
    assert half.dtype == np.float16
    assert (half == np.array([[0.1, 1e-3]], np.float16)).all()
    for number in (1e6, np.nan):
        arrays["books"]["block_0"]["centroids"][0, 0] = number
        with pytest.raises(InputError, match="numbers beyond the range of float16; choose float32"):
            save(tmp_path / "half.safetensors", arrays, "somewhere", "float16")


def test_a_transposed_array_is_written_as_it_reads(tmp_path):
    transposed = np.arange(6.0).reshape(2, 3).T
    save(tmp_path / "arrays.safetensors", {"books": {"block_0": {"basis": transposed}}}, "somewhere")
    (read,) = load_file(tmp_path / "arrays.safetensors").values()
    assert read.tolist() == transposed.tolist()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"exchange/books": [1.0]}, "holds exchange/books, no arrays of exchanges"),
        ({"encoder/kernel": [1.0]}, "holds encoder/kernel, no arrays of exchanges"),
        ({"exchange/a/block_0/centroids": [np.nan]}, "holds numbers that are not finite"),
        ({"exchange/a/block_0/centroids": [1]}, "no arrays of exchanges"),
    ],
)
def test_a_file_of_something_else_is_refused(tensors, message, tmp_path):
    arrays = {name: np.array(x, np.int64 if isinstance(x[0], int) else np.float32) for name, x in tensors.items()}
    save_file(arrays, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=message):
        with_arrays(Pretrained(None, {}), str(tmp_path / "other.safetensors"))
    with pytest.raises(InputError, match="no file"):
        with_arrays(Pretrained(None, {}), str(tmp_path / "none.safetensors"))


def test_wrong_input_is_refused_in_one_line_before_anything_slow(toy_config, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "load", None)
    monkeypatch.setattr(weights, "load", None)
    for flags, message in (
        (["--exchanges", "all_gather"], "all_gather has no arrays to make"),
        ([], "--exchanges is empty"),
        (["--exchanges", BOOKS, "all_gather"], "all_gather has no arrays to make"),
        (["--exchanges", "codebooks:8:4:means_after_norm:2"], "codebooks are made of rows before the norm"),
        (["--exchanges", "codebooks:8:4"], "and an exchange such as all_gather at the end"),
        (["--exchanges", "codebooks:7:8:all_gather", "--base", trained], "7 groups of 8 bits for rows of 32 features"),
        (["--exchanges", "gated_means:1", "--parts", 1], "2 or more, since one part exchanges nothing"),
        (["--exchanges", BOOKS, "--dataset", "imdb"], "unknown dataset 'imdb'"),
        (["--exchanges", "displaced:gated_means:1", "--base", trained], "name the exchange inside, and use its file"),
        (["--exchanges", "gated_means:9", "--base", trained], "9 segments asked for, but a part has 5 tokens"),
    ):
        assert command("train.calibrate", toy_config, *flags, "--out", tmp_path / "out") == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("module", ["train.finetune", "eval.sweep", "eval.evaluate", "eval.blocks"])
def test_arrays_that_nothing_gives_are_missed_before_anything_slow(
    module, calibrated, toy_config, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(data, "load", None)
    monkeypatch.setattr(weights, "load", None)
    through = {"eval.sweep": ["--exchanges", BOOKS], "train.finetune": ["--training.exchanges", BOOKS]}
    through = [*through.get(module, ["--exchange", BOOKS]), "--out", tmp_path / "out"]
    through += {"eval.sweep": [], "train.finetune": ["--training.parts", 3]}.get(module, ["--num-parts", 3])
    assert command(module, toy_config, *through) == 2
    assert LACKS in capsys.readouterr().err
    other = [word.replace(":16:", ":8:") if word == BOOKS else word for word in through]
    assert command(module, toy_config, *other, "--exchange-arrays", calibrated) == 2
    assert "the weights lack the arrays of codebooks:8:8:all_gather" in capsys.readouterr().err
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    assert command(module, toy_config, *through, "--exchange-arrays", calibrated) == 2
    assert "choose a smaller batch_size" in capsys.readouterr().err


def test_a_learned_array_without_a_start_is_told_to_have_one(toy_config, trained, tmp_path, capsys):
    file = tmp_path / "config.py"
    file.write_text(Path(toy_config).read_text() + POWER)
    way_out = "give power a start, as in BlockArray((), start=0.0)"
    flags = ["--exchanges", "power:segment_means:1", "--base", trained, "--parts", 3, "--out", tmp_path / "fit"]
    assert command("train.calibrate", file, *flags) == 2
    fault = "power:segment_means:1 has an array without a start, which can't be fitted"
    assert f"{fault}; {way_out}\n" in capsys.readouterr().err
    flags = ["--exchange", "power:segment_means:1", "--checkpoint", trained, "--num-parts", 3]
    assert command("eval.evaluate", file, *flags, "--out", tmp_path / "out") == 2
    fault = "the weights lack the arrays of power:segment_means:1"
    assert f"{fault}; {way_out}, or give a file that has it with --exchange-arrays" in capsys.readouterr().err


def test_exchanges_that_share_learned_arrays_are_fitted_together():
    texts = ["head_means:4:12", "gated_means:2", "first_tokens:1:head_means:2:12", "codebooks:8:4:gated_means:1"]
    groups = sharing(map(parse, [*texts, "head_means:4:6"]))
    assert [[str(exchange) for exchange in group] for group in groups] == [texts[::2], texts[1::2], ["head_means:4:6"]]


def test_the_error_of_attention_is_that_of_each_block_on_exact_rows():
    model, params = tiny_bert()
    batch, exchange, run = tiny_batch(12, padded=True), GatedMeans(1), pj.on_one_device(3)
    fitted = np.asarray(attention_errors(model, params, run.split(batch), exchange, run))

    def attention(e):
        inside = jax.jit(
            lambda params, parts: run.each(lambda *args: part_with_insides(model, *args, e)[1], params, parts)
        )
        return [np.asarray(x, float)[batch["mask"]] for x in inside(params, run.split(batch)).attention]

    exact = attention(EXACT)
    through = [attention((exchange, EXACT))[0], attention((EXACT, exchange))[1]]  # the blocks before are exact
    errors = [(((x - y) ** 2).sum(-1) / (y**2).sum(-1)).sum() for x, y in zip(through, exact, strict=True)]
    assert_close(fitted.sum(0), [sum(errors), 2 * batch["mask"].sum()])


@pytest.mark.parametrize(
    ("one", "two", "arrays"),
    [
        (GatedMeans(1), GatedMeans(2), {"gated_means": ["gate_D"]}),
        pytest.param(
            *(HeadMeans(1, 2), HeadMeans(2, 2), {"head_means_2_keys_values": ["gate_GF", "map_CGFF", "shift_CGF"]}),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["rows", "keys and values"],
)
def test_fitted_learned_means_bring_attention_closer_to_the_exact_one(one, two, arrays, toy_config, trained, tmp_path):
    flags = ["--exchanges", one, two, "--base", trained, "--examples", 40, "--parts", 3]
    assert command("train.calibrate", toy_config, *flags, "--steps", 20, "--out", tmp_path) == 0
    paths = [f"exchange/{name}/block_{i}/{array}" for name, own in arrays.items() for i in range(2) for array in own]
    assert sorted(load_file(tmp_path / "exchange.safetensors")) == paths
    experiment, run = recipe.load(str(toy_config)), pj.on_one_device(3)
    dataset, _ = load_training_data(experiment)
    pretrained = fit_codebooks.load(experiment, dataset, str(trained))
    tokens, _ = prepare(dataset, pretrained, experiment.num_tokens).arrays(np.arange(16), experiment.num_tokens, None)
    fitted = with_arrays(pretrained, str(tmp_path / "exchange.safetensors"))
    before, after = (
        attention_errors(x.model, x.params, run.split(tokens), one, run)[:, 0].sum() for x in (pretrained, fitted)
    )
    assert after < 0.95 * before
