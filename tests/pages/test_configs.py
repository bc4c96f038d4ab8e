"""Every recipe in configs/ trains, is scored, and says what to expect."""

import ast
import io
import json
import re
import shlex
import shutil
from collections import defaultdict
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.command import command
from helpers.paths import GOLDEN, ROOT
from helpers.tiny import save_toy_tokenizer
from PIL import Image

from prism_jax import data
from prism_jax.cli import flags
from prism_jax.data.datasets import Corpus, Labelled
from prism_jax.experiments import recipe
from prism_jax.models.registry import family_of

pytestmark = pytest.mark.usefixtures("quick_to_compile")

RECIPES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
METRICS = {"text": "perplexity", "tales": "perplexity", "glue/stsb": "pearson_percent"}
"""The official one of a data set, where it is not the accuracy."""


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch, tmp_path):
    """Recipes name files from the root. No test leaves a copy of its data in the user's cache."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def sentences(number: int, length: int = 12) -> list[str]:
    rng = np.random.default_rng(number)
    return [" ".join(f"w{i}" for i in rng.integers(0, 90, length)) for _ in range(number)]


def pictures(number: int) -> list[dict]:
    def png(i):
        buffer = io.BytesIO()
        Image.new("RGB", (32, 32), (8 * i, 0, 255 - 8 * i)).save(buffer, "png")
        return buffer.getvalue()

    return [{"bytes": png(i), "path": None} for i in range(number)]


def columns(dataset: str) -> tuple[str, dict]:
    """Folder and columns of 20 examples of a set of the hub."""
    labels = [i % 2 for i in range(20)]
    name, _, task = dataset.partition("/")
    if name == "glue":
        pair = {"sentence1": sentences(20, 5), "sentence2": sentences(20, 5)}
        texts = pair if task == "stsb" else {"sentence": sentences(20)}
        return task, texts | {"label": [i % 6 * 0.8 for i in range(20)] if task == "stsb" else labels}
    if name == "cbt":
        options = [[f"w{10 * k + i % 10}" for k in range(10)] for i in range(20)]
        answers = [words[i % 10] for i, words in enumerate(options)]
        story = [sentences(20, 1)] * 20
        return task, {"sentences": story, "question": ["w1 XXXXX w2"] * 20, "answer": answers, "options": options}
    if name == "text":
        return "", {"text": sentences(20)}
    of_image = {"cifar10": "label", "cifar100": "fine_label", "imagenet": "label"}
    return "", {"image" if name == "imagenet" else "img": pictures(20), of_image[name]: labels}


def save_data(dataset: str, folder: Path) -> None:
    """A tiny copy of a set in the hub's layout."""
    inside, of = columns(dataset)
    for split in ("train", "test", "validation"):
        path = folder / inside / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        if dataset == "imagenet":  # with the five classes of the tiny ViT's own head
            features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list("abcde"))}
            datasets.Dataset.from_dict(of, datasets.Features(features)).to_parquet(path)
        else:
            pq.write_table(pa.table(of), path)


PACKAGED = {
    "newsgroups": lambda split: Labelled(split, {"text": sentences(20)}, np.arange(20) % 3, ("a", "b", "c")),
    "tales": lambda split: Corpus(split, sentences(20, 8)),
}
"""Small data sets in place of those of packages."""


SMALL = {
    "bert": {
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 40,
    },
    "gpt2": {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 40},
}
"""Values that make a config of the repository a tiny one."""


def save_model(experiment: recipe.Experiment, folder: Path) -> list:
    """A tiny model of a recipe's family, in the hub's layout; returns the flags that fit the recipe to it."""
    family = family_of(experiment.model).models.__name__.rpartition(".")[2]
    if Path(experiment.weights).is_dir():  # a config to train from scratch, with its own tokenizer
        shutil.copytree(experiment.weights, folder)
        small = SMALL[family]
        (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | small))
        return ["--num-tokens", 32, "--buckets"]
    shutil.copytree(GOLDEN / f"{family}_tiny", folder)
    if family == "vit":
        settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 12, "width": 21}}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
        return ["--num-tokens", 13, "--image-size", 12] if experiment.image_size else ["--num-tokens", 22]
    if family == "dinov2":
        settings = {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 16}, "do_center_crop": True}
        settings |= {"crop_size": {"height": 12, "width": 12}, "image_mean": [0.5], "image_std": [0.2]}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
        return ["--num-tokens", 10, "--image-size", 12]
    if not (folder / "tokenizer.json").exists():
        save_toy_tokenizer(folder)
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": "[SEP]"}))
    return ["--num-tokens", 32, "--buckets"]


def flags_of_a_tiny_copy(experiment: recipe.Experiment, dataset: str, folder: Path, monkeypatch) -> list:
    chosen = ["--weights", folder / "model", *save_model(experiment, folder / "model")]
    chosen += ["--exchange", "segment_means:2", "--num-parts", 2, "--batch-size", 16, "--dataset", dataset]
    if dataset in PACKAGED:
        monkeypatch.setitem(data.DATASETS, dataset, PACKAGED[dataset])
        return chosen
    save_data(dataset, folder / "data")
    return [*chosen, "--data-source", folder / "data"]


OTHER_TASKS = ["glue/stsb"]
"""Pairs of texts, and a number to predict."""
TRAINED = [name for name in RECIPES if recipe.load(str(ROOT / "configs" / f"{name}.py")).dataset]


QUICK = {"bert_newsgroups"}
"""The others are slow together, and one by one like these."""


@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        *(pytest.param(name, None, marks=[pytest.mark.slow] * (name not in QUICK)) for name in TRAINED),
        *(pytest.param("bert_glue", task, marks=pytest.mark.slow) for task in OTHER_TASKS),
    ],
)
def test_a_recipe_trains_and_is_scored(name, dataset, tmp_path, monkeypatch, capsys):
    path = f"configs/{name}.py"
    experiment = recipe.load(path)
    dataset = dataset or experiment.dataset
    tiny = flags_of_a_tiny_copy(experiment, dataset, tmp_path, monkeypatch)
    steps = ["--training.batch-size", 32, "--training.epochs", 2, "--training.log-every", 1]
    steps += ["--training.exchanges", "segment_means:2", "--training.parts", 2, "--training.validation", 0.2]
    trained = tmp_path / "run"
    status = command("train.finetune", path, *tiny, *steps, "--out", trained)
    assert status == 0, capsys.readouterr().err
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    metric = METRICS.get(dataset, "accuracy_percent")
    assert all(f"held_out_{metric}" in line for line in lines if "score" in line)
    assert (trained / "checkpoints" / "2").is_dir()

    scored = ["--checkpoint", trained, "--out", tmp_path / "scored"]
    status = command("eval.evaluate", path, *tiny, *scored)
    assert status == 0, capsys.readouterr().err
    (row,) = json.loads((tmp_path / "scored" / "results.json").read_text())["rows"]
    assert (row["metric"], row["exchange"], row["num_parts"]) == (metric, "segment_means", 2)
    assert row["examples"] == 20
    assert np.isfinite(row["score"])


@pytest.mark.parametrize("name", sorted(set(RECIPES) - set(TRAINED)))
def test_a_recipe_without_data_generates(name, tmp_path, capsys):
    fitting = save_model(recipe.load(f"configs/{name}.py"), tmp_path / "model")
    tiny = ["--weights", tmp_path / "model", *(flag for flag in fitting if flag != "--buckets")]
    tiny += ["--exchange", "segment_means:2", "--prompt", "w1 w2", "--max-new-tokens", 3, "--out", tmp_path / "out"]
    assert command("eval.generate", f"configs/{name}.py", *tiny) == 0, capsys.readouterr().err
    (text,) = json.loads((tmp_path / "out" / "results.json").read_text())["texts"]
    assert len(text["new"].split()) <= 3


def docstring(name: str) -> str:
    return ast.get_docstring(ast.parse(Path(f"configs/{name}.py").read_text())) or ""


@pytest.mark.parametrize("name", RECIPES)
def test_the_commands_of_a_recipe_are_understood(name, monkeypatch, capsys):
    """The entry points read them as they stand in the file, to the end of the line, and stop there."""
    understood, parse = [], flags.parse

    def parse_and_stop(*args):
        understood.append(parse(*args))
        raise SystemExit(0)

    monkeypatch.setattr(flags, "parse", parse_and_stop)
    typed = re.sub(r"(?<!\\)\\\n *", " ", Path(f"configs/{name}.py").read_text().split('"""')[1])
    indented = [line.strip() for line in typed.splitlines() if line.startswith("    ")]
    commands = [re.fullmatch(rf"python -m (\S+) (configs/{name}\.py.*)", line) for line in indented]
    assert all(commands), f"this is no command: {indented[commands.index(None)]}"
    assert commands, "begin the recipe with its command"
    for module, line in (match.groups() for match in commands):
        assert command(module, *shlex.split(line)) == 0, capsys.readouterr().err
    assert len(understood) == len(commands)


def measured_with(name: str) -> list[float]:
    """The scores and milliseconds in stored records of a recipe, and the means over the seeds of an experiment."""
    values, of_seeds = [], defaultdict(list)
    for path in Path("docs/results").rglob("results.json"):
        content = json.loads(path.read_text())
        if f"configs/{name}.py" in content.get("command", ""):
            for row in content["rows"]:
                values += [row["score"]] if row.get("score") else []
                values += [1e3 * row["seconds"]] if "rtt_ms" in row else []
                if path.parent.name.startswith("seed"):
                    of_seeds[path.parent.parent, row["setting"], row["num_parts"], row["weights"]].append(row["score"])
    return values + [float(np.mean(scores)) for scores in of_seeds.values()]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_to_expect_and_what_was_measured(name):
    expected = " ".join(docstring(name).partition("Expected: ")[2].split()).partition("The recipe is")[0]
    ours = re.search(r"ours \((?:docs/|JAX).*", expected)
    assert ours or re.search("not yet measured|tested", expected), 'add "Expected: " and numbers, or "not yet measured"'
    if ours:
        values = measured_with(name)
        for number in re.findall(r"\d+\.\d+(?!\.\d)\b|\d+(?= ms)", ours[0].partition("), ")[2]):
            decimals = len(number.partition(".")[2])
            assert any(f"{value:.{decimals}f}" == number for value in values), f"no record of {name} gives {number}"
    assert "Weights: " in docstring(name), 'add "Weights: " and where they come from'


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_short(name):
    assert len(Path(f"configs/{name}.py").read_text().splitlines()) <= 45
