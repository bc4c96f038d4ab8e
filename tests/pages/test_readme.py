"""The code of the README and of the pages in docs/ runs as it stands."""

import inspect
import json
import re
import shutil
import sys
import textwrap
import types
from pathlib import Path

import jax
import optax
import pytest
from flax import nnx
from helpers.closeness import assert_close
from helpers.command import command
from helpers.paths import GOLDEN, ROOT
from helpers.tiny import hidden_states, save_toy_tokenizer, tiny_batch, tiny_bert
from safetensors.numpy import load_file

import prism_jax as pj
from eval.reporting.records import read_sweep
from prism_jax import weights
from prism_jax.forward import encode
from prism_jax.models.bert import BertForSequenceClassification
from prism_jax.testing import random_params

pytestmark = pytest.mark.usefixtures("quick_to_compile")

DOCS = [page for page in sorted((ROOT / "docs").rglob("*.md")) if "results" not in page.relative_to(ROOT).parts]
PAGES = {page: page.read_text() for page in (ROOT / "README.md", *DOCS)}
EVERYTHING = "\n".join(PAGES.values())
NAMES = (
    "check_exchange|LastTokens|LearnedPower|cost[.]compiled_from_shapes|BertForSentenceEmbedding|encode_part|pj[.]overlapped|"
    "ViTForImageFeatures|pj[.]Generator|DictReader|models[.]auto|nnx[.]Module"
)
BLOCKS = {
    re.search(NAMES, block)[0]: block for block in re.findall(r"```python\n(.*?)```", EVERYTHING, flags=re.DOTALL)
}


def test_the_cost_example_prints_what_it_says(capsys):
    exec(BLOCKS["cost.compiled_from_shapes"], {})
    printed = capsys.readouterr().out.splitlines()
    output = re.findall(r"# (\d.*)", BLOCKS["cost.compiled_from_shapes"])
    assert output
    assert set(output) <= set(printed)


def test_the_python_example(toy_folder):
    names = {}
    exec(BLOCKS["BertForSentenceEmbedding"].replace("asset:minilm", str(toy_folder)), names)
    assert names["vectors"].shape == (2, 32)
    elsewhere = pj.on_one_device(4)
    bert, batch = names["bert"], names["batch"]
    again = pj.forward(bert.model, bert.params, elsewhere.split(batch), pj.SegmentMeans(4), elsewhere)
    assert abs(jax.device_get(names["vectors"]) - jax.device_get(again)).max() < 1e-5


def test_the_image_example(tmp_path, monkeypatch):
    from PIL import Image

    folder = shutil.copytree(GOLDEN / "vit_tiny", tmp_path / "vit")
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 12, "width": 21}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (50, 40), "red").save("photo.jpg")
    names = {}
    exec(BLOCKS["ViTForImageFeatures"].replace("asset:dinov2", str(folder)).replace("(224, 224)", "(24, 18)"), names)
    assert names["features"].shape == (1, 32)


def test_the_class_is_found_in_the_example():
    names = {}
    exec(BLOCKS["models.auto"].replace("openai-community/gpt2", str(GOLDEN / "gpt2_tiny")), names)
    assert type(names["loaded"].model).__name__ == "GPT2LMHeadModel"


def test_the_step_with_nnx_is_the_plain_one(tmp_path):
    model = BertForSequenceClassification(tiny_bert()[0].config)
    params, batch, labels = random_params(model), tiny_batch(12, padded=True), jax.numpy.array([0, 1, 1])
    weights.export(weights.Pretrained(model, params), tmp_path)
    names = {}
    exec(BLOCKS["nnx.Module"].replace("org/name", str(tmp_path)), names)
    network = names["OnParts"](model, params, pj.SegmentMeans(4), pj.on_mesh(3))
    optimizer = nnx.Optimizer(network, optax.sgd(0.5), wrt=nnx.Param)
    parts = network.run.split(batch)

    @jax.jit
    def plain(params):
        logits = pj.forward(model, params, parts, pj.SegmentMeans(4), network.run)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    value, gradient = jax.jit(jax.value_and_grad(plain))(params)
    assert_close(names["step"](network, optimizer, parts, labels), value)
    expected = jax.tree.map(lambda x, dx: x - 0.5 * dx, params, gradient)
    assert max(abs(dx).max() for dx in jax.tree.leaves(gradient)) > 1e-2
    for x, wanted in zip(jax.tree.leaves(network.params), jax.tree.leaves(expected), strict=True):
        assert_close(x, wanted)


def test_the_generation_example(tmp_path, capsys):
    folder = shutil.copytree(GOLDEN / "gpt2_tiny", tmp_path / "gpt2")
    save_toy_tokenizer(folder)
    names = {}
    exec(BLOCKS["pj.Generator"].replace("openai-community/gpt2", str(folder)), names)
    assert [len(tokens) for tokens in names["new"]] == [20, 20]
    assert str(names["tokenizer"].batch_decode(names["new"])) in capsys.readouterr().out


def test_the_exchange_of_ones_own(toy_config, tmp_path, monkeypatch, capsys):
    block = BLOCKS["LastTokens"]
    assert len(block.splitlines()) < 30
    (tmp_path / "last_tokens.py").write_text(block.replace("configs/bert_newsgroups.py", toy_config))
    monkeypatch.setattr(weights, "load", with_fresh_head(weights.load))
    flags = ["--segments", "1", "--parts", "2", "3", "--out", tmp_path / "out"]
    assert command("eval.sweep", tmp_path / "last_tokens.py", *flags) == 0
    assert capsys.readouterr().out.count("last_tokens") == 4
    one = ["--exchange", "last_tokens:6", "--num-parts", "3", "--out", tmp_path / "one"]
    assert command("eval.evaluate", tmp_path / "last_tokens.py", *one) == 0


@pytest.mark.slow
def test_the_exchange_that_learns(toy_config, trained, tmp_path):
    block = BLOCKS["LearnedPower"]
    assert len(block.splitlines()) < 40
    (tmp_path / "learned.py").write_text(block.replace("configs/bert_newsgroups.py", toy_config))
    through = ["--training.exchanges", "learned_power:segment_means:1", "--training.parts", "3", "--start", trained]
    through += ["--exchange", "learned_power:segment_means:1", "--num-parts", "3", "--out", tmp_path / "run"]
    assert command("train.finetune", tmp_path / "learned.py", *through) == 0
    assert command("train.export", tmp_path / "run", tmp_path / "exported") == 0
    powers = load_file(tmp_path / "exported" / "exchange.safetensors")
    assert sorted(powers) == [f"exchange/learned_power/block_{i}/power" for i in range(2)]
    assert all(power.shape == () and abs(power - 1) > 1e-4 for power in powers.values())


def test_the_overlapped_program_of_the_page():
    """On a tiny BERT in place of BERT-base."""
    names = {}
    tiny = "BertConfig, BertModel\nfrom helpers.tiny import stack_config"
    block = BLOCKS["pj.overlapped"].replace("BERT_BASE, BertModel", tiny)
    exec(block.replace("BERT_BASE", "BertConfig(stack_config())"), names)
    assert names["hidden"].shape == (1, 256, 32)


def with_fresh_head(load):
    """The toy data set has no trained head."""
    return lambda *args, **kwargs: load(*args, **kwargs | {"fresh": ("classifier",)})


def test_the_quoted_lines_are_those_of_the_source():
    # The formatter has its own idea of blank lines.
    source = textwrap.dedent(inspect.getsource(encode).split('"""')[2])
    assert BLOCKS["encode_part"].replace("\n\n", "\n").replace("\n\n", "\n").strip() in source.replace("\n\n", "\n")


@pytest.mark.slow
def test_sending_all_last_tokens_is_an_all_gather(monkeypatch):
    """The example exchange is right: with every token sent it is exact."""
    names = {}
    exec(BLOCKS["LastTokens"].split("config = ")[0], names)
    model, params = tiny_bert(causal=True)
    batch = tiny_batch(12, padded=True)
    expected = hidden_states(model, params, batch, pj.WholeSequence(), pj.on_one_device(1))
    assert_close(hidden_states(model, params, batch, names["LastTokens"](4), pj.on_mesh(3)), expected)
    monkeypatch.setitem(sys.modules, "last_tokens", types.SimpleNamespace(**names))
    exec(BLOCKS["check_exchange"], {})


COMMANDS = re.findall(
    r"python -m (?:eval\.launch -n 2 -- )?((?:eval|train)\.\w+)\s(.*?)(?=python -m|`|&&|\n\n|\Z)",
    EVERYTHING,
    flags=re.DOTALL,
)


MODULES = sorted({module for module, _ in COMMANDS})


def test_every_command_stands_on_a_page():
    entries = [path for package in ("eval", "train") for path in (ROOT / package).glob("*.py")]
    assert sorted(f"{path.parent.name}.{path.stem}" for path in entries if "__main__" in path.read_text()) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_every_command_has_the_flags_that_are_named(module, toy_config, capsys):
    named = {flag for of, words in COMMANDS if of == module for flag in re.findall(r"--[a-z][a-z-.]*[a-z]", words)}
    named -= {"--tyro-write-completion"}  # of the library, and not in its help
    source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text()
    for config in ([toy_config], []) if "flags.parse(" in source else ([],):
        assert command(module, *config, "--help") == 0
    there = set(re.findall(r"--[a-z][a-z-.]*[a-z]", capsys.readouterr().out))
    assert named <= there, f"{module} has no {', '.join(named - there)}"


def test_every_field_that_is_written_is_explained(trained, toy_config, tmp_path):
    explained = (ROOT / "docs" / "commands.md").read_text()
    flags = ["--base", trained, "--control", trained, "--tuned", trained, "--parts", 2, "--segments", 2, "--exchanges"]
    assert command("eval.sweep", toy_config, *flags, "--out", tmp_path) == 0
    written = set()
    for path in (tmp_path / "results.json", ROOT / "docs" / "results" / "tales" / "main" / "results.json"):
        content = json.loads(path.read_text())
        written |= {*content, *(name for row in content["rows"] for name in row)}
    for line in (trained / "metrics.jsonl").read_text().splitlines():
        written |= {name for name in json.loads(line) if not name.startswith("held_out_")}
    written |= {*json.loads((trained / "result.json").read_text())}
    assert len(written) > 50
    assert [name for name in written if f"`{name.removesuffix('_compiled')}`" not in explained] == []


@pytest.mark.slow
def test_a_data_set_of_ones_own(toy_config, tmp_path, monkeypatch):
    rows = [f"w{3 + i % 2} w5,{'no' if i % 2 else 'yes'}" for i in range(40)]
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,label", *rows]))
    (tmp_path / "mine.py").write_text(BLOCKS["DictReader"].replace("configs/bert_newsgroups.py", toy_config))
    monkeypatch.chdir(tmp_path)
    # At the config's rate, which is for a head alone, every parameter together learns nothing from one seed of three.
    flags = ["--training.learning-rate", 0.003, "--training.frozen", "--training.no-dropout"]
    assert command("train.finetune", "mine.py", *flags, "--training.batch-size", 8, "--out", "run") == 0
    assert json.loads(Path("run/config.json").read_text())["label_names"] == ["no", "yes"]
    assert json.loads(Path("run/result.json").read_text())["evaluation"]["score"] == 100


def test_the_table_of_the_main_job_has_its_records():
    of_names = {
        "one device": ("whole_sequence", "base"),
        "Voltage": ("all_gather", "base"),
        "isolated parts": ("isolated_parts", "base"),
        "PRISM": ("segment_means:4", "base"),
        "PRISM, tuned": ("segment_means:4", "tuned"),
        "learned means in int3, tuned": ("head_means:4:12:int3", "tuned"),
    }
    rows = read_sweep(ROOT / "docs/results/newsgroups/main")["rows"]
    at_four = {(row["setting"], row["weights"]): row for row in rows if row["num_parts"] in (1, 4)}
    lines = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", (ROOT / "README.md").read_text()).splitlines()
    for name, record in of_names.items():
        (line,) = (line for line in lines if line.startswith(f"| {name} |"))
        row = at_four[record]
        numbers = [row["score"], *row["score_ci95"]]
        if row["num_parts"] > 1:
            numbers += [row["difference_to_one_device"], *row["difference_ci95"]]
        stated = [float(x) for x in re.findall(r"[-+]?\d+\.\d+", line.partition("|")[2].partition("|")[2])]
        costs = [row["flops_per_device"] / 1e9, row["bytes_sent_per_device"] / 1e3]
        assert stated == pytest.approx([*(round(x, 1) for x in numbers), round(costs[0], 3), round(costs[1], 1)])


def test_the_plan_says_what_the_page_says(tmp_path, capsys):
    printed_command = re.search(
        r"^    python -m eval\.plan (configs.*?)\n\n", EVERYTHING, flags=re.MULTILINE | re.DOTALL
    )
    words = printed_command[1].replace("\\\n", " ").split()
    assert command("eval.plan", *words, "--out", tmp_path) == 0
    printed = " ".join(capsys.readouterr().out.split())
    (paragraph,) = re.findall(r"(?:^> .*\n)+", EVERYTHING, flags=re.MULTILINE)
    assert " ".join(paragraph.replace("\n> ", " ").removeprefix("> ").split()) in printed


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_anchor_is_a_heading():
    anchors = [
        (page, (page.parent / target).resolve() if target else page, anchor)
        for page in PAGES
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)", page.read_text())
    ]
    assert len(anchors) > 10
    assert [(page.name, anchor) for page, target, anchor in anchors if anchor not in anchors_of(target)] == []


def test_every_link_leads_to_a_file_and_every_stored_picture_has_one():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    links = [
        (page.parent / target).resolve()
        for page in pages
        for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text())
    ]
    assert len(links) > 60
    assert [str(path) for path in links if not path.exists()] == []
    assert set((ROOT / "docs").rglob("*.png")) <= set(links)
