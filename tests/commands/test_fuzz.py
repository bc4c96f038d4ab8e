"""Files that others wrote, broken in every way that we could think of: each works,
or is one line that says what is wrong.

Cases are drawn at random from a fixed seed. A case takes a good file, breaks it in one place, and lets the command or
the function that reads it have a go.
"""

import contextlib
import dataclasses
import json
import math
import operator
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from helpers.command import command
from helpers.paths import ROOT

from eval.reporting import sweep_plots
from eval.reporting.style import plt
from prism_jax import weights
from prism_jax.assets import hub
from prism_jax.errors import InputError
from prism_jax.exchange.baselines import AllGather
from prism_jax.exchange.segments import SegmentMeans
from prism_jax.experiments import checkpoint
from prism_jax.experiments.recipe import Evaluation, Grid, Setting, Training, load
from prism_jax.layers import lora
from prism_jax.models.bert import BertModel
from prism_jax.models.gpt2 import GPT2Model
from prism_jax.models.vit import ViTModel
from prism_jax.weights import peft_config, peft_files
from train.log import Log

pytestmark = pytest.mark.usefixtures("quick_to_compile")

MODELS = {"bert_tiny": BertModel, "gpt2_tiny": GPT2Model, "vit_tiny": ViTModel}

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, -0.5, 3, 10**6, 10**12, 2**63, 10**400, 1e308, -1e308, 1e-308, math.nan, math.inf,
    "", "x", "$x$^",
    "é\n", [], [None], [1, 2, 3], {}, {"x": 1}, [[[[[]]]]],
)  # fmt: skip
"""Values that are put in the place of another."""


def places(value: Any, at: tuple = ()) -> Iterator[tuple]:
    """The paths of all values in a JSON value; of long lists the first two."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, one in items:
        yield from places(one, (*at, key))


def broken(content: Any, rng: random.Random) -> bytes:
    """A JSON file with one fault."""
    text = json.dumps(content).encode()
    kind = rng.random()
    if kind < 0.15:
        return rng.choice(
            (
                b"", b" ", b"\n", b"\xff\xfe", b"null", b"[]", b"{}", b"3", b'"x"', text[: rng.randrange(len(text))],
                text + b"}",
                b"\xef\xbb\xbf" + text, text.decode().encode("utf-16"), text[:-1] + b', "x": ' + b"[" * 100_000,
                b"[" * 100_000,
                text[:-1] + b', "\xe9": 1}', text.replace(b'": "', b'": "\xff', 1), text.replace(b'": "',
                b'": "\\ud800', 1),
                b"{" + text[1:-1] + b", " + text[1:-1] + b"}", text.replace(b'"', b"'"), text.replace(b":", b"=", 1),
            )
        )  # fmt: skip
    content = json.loads(text)
    *above, last = rng.choice([at for at in places(content) if at])
    where = content
    for key in above:
        where = where[key]
    if kind < 0.35:
        del where[last]
    elif kind < 0.4 and isinstance(where, dict):
        where[f"{last} "] = where.pop(last)
    else:
        where[last] = rng.choice([one for one in VALUES if one is not where[last]])
    return json.dumps(content).encode()


def spoil(path: Path, content: Any, rng: random.Random) -> None:
    """Puts a broken file in the place of a good one, or none, or a folder."""
    kind = rng.random()
    path.unlink(missing_ok=True)
    if kind < 0.04:
        path.mkdir()
    elif kind > 0.04:
        path.write_bytes(broken(content, rng))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def is_refused_or_works(folder: Path, capsys, command: Callable[[], int]) -> None:
    """Nothing is left in `folder` by what refuses."""
    before = contents(folder)
    capsys.readouterr()
    status = command()
    printed = capsys.readouterr()
    assert status in (0, 2), printed
    if status == 2:
        assert printed.err.startswith("error: "), printed
        assert printed.err.count("\n") == 1, printed
        assert contents(folder) == before


@pytest.mark.parametrize("seed", range(30))
def test_plan(seed, tmp_path, capsys):
    rng = random.Random(seed)
    results = {"sweep": ROOT / "docs/results/newsgroups/main", "latency": ROOT / "docs/results/latency/minilm"}
    target = rng.choice(list(results))
    for name, folder in results.items():
        (tmp_path / name).mkdir()
        content = json.loads((folder / "results.json").read_text())
        path = tmp_path / name / "results.json"
        path.write_text(json.dumps(content))
        if name == target:
            spoil(path, content, rng)
    folders = ("--sweep", tmp_path / "sweep", "--calibration", tmp_path / "latency", "--out", tmp_path / "out")
    flags = ("--rate", "50mbit", "--rtt", "5", "--devices", "4", *folders)
    config = ROOT / "configs/bert_newsgroups.py"
    is_refused_or_works(tmp_path, capsys, lambda: command("eval.plan", config, *flags))


@pytest.mark.parametrize("seed", range(20))
def test_report(seed, tmp_path, capsys, monkeypatch):
    rng = random.Random(seed)
    folders = [tmp_path / name for name in ("one", "other")[: rng.choice((1, 2))]]
    for i, folder in enumerate(folders):
        folder.mkdir()
        content = json.loads((ROOT / f"docs/results/newsgroups/full/seed{i}/results.json").read_text())
        content["rows"] = content["rows"][:8]
        (folder / "results.json").write_text(json.dumps(content))
        if i == 0:
            spoil(folder / "results.json", content, rng)
    monkeypatch.setattr(sweep_plots, "save", lambda figure, path: plt.close(figure))  # to draw takes seconds
    is_refused_or_works(tmp_path, capsys, lambda: command("eval.report", *folders, "--out", tmp_path / "out"))


FILES_OF_A_RUN = ("config.json", "checkpoints/16/data/metadata", "checkpoints/16/metrics/metrics")


@pytest.mark.parametrize("seed", range(20))
def test_run(seed, trained, tmp_path, capsys):
    rng, folder = random.Random(seed), Path(shutil.copytree(trained, tmp_path / "run"))
    path = folder / rng.choice(FILES_OF_A_RUN)
    spoil(path, json.loads(path.read_text()), rng)
    is_refused_or_works(tmp_path, capsys, lambda: command("train.export", f"{folder}@16", tmp_path / "out"))


def works_or_refuses(read: Callable[[], Any]) -> None:
    """For a function at the door."""
    with contextlib.suppress(InputError):
        read()


def test_a_checkpoint_with_the_position_of_another_step_is_damaged(trained, tmp_path):
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    path = folder / "checkpoints/16/data/metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"position": {"next_index": 15}}))
    with pytest.raises(InputError, match="checkpoint 16 in .* is damaged"):
        checkpoint.load(folder, 16)
    assert checkpoint.load(folder, 12).step == 12


@pytest.mark.parametrize("seed", range(20))
def test_lines_of_metrics(seed, trained, tmp_path, capsys):
    """A broken line is passed over, and said so; the others stay."""
    rng, path = random.Random(seed), tmp_path / "metrics.jsonl"
    lines = (trained / "metrics.jsonl").read_text().splitlines()
    i = rng.randrange(len(lines))
    line = broken(json.loads(lines[i]), rng).replace(b"\n", b"")
    path.write_bytes(b"\n".join([one.encode() if k != i else line for k, one in enumerate(lines)]) + b"\n")
    with Log(tmp_path, 2**31 - 1):
        pass
    kept = path.read_text().splitlines()
    assert set(lines) - {lines[i]} <= set(kept)
    assert len(kept) == len(lines) or f"passed over: line {i + 1} of" in capsys.readouterr().out


@pytest.mark.parametrize("seed", range(30))
def test_folder_in_the_layout_of_the_hub(seed, tmp_path):
    rng, family = random.Random(seed), random.Random(seed).choice(("bert_tiny", "gpt2_tiny", "vit_tiny"))
    folder = Path(shutil.copytree(ROOT / "tests/golden" / family, tmp_path / "model"))
    index = folder / "model.safetensors.index.json"
    names = hub.read_file(folder / hub.WEIGHTS)
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, hub.WEIGHTS)}))
    path = rng.choice((folder / "config.json", index))
    spoil(path, json.loads(path.read_text()), rng)
    works_or_refuses(lambda: weights.load(MODELS[family], str(folder), num_tokens=8 if family != "vit_tiny" else None))


@pytest.mark.parametrize("seed", range(30))
def test_adapter(seed, tmp_path):
    rng, source = random.Random(seed), str(ROOT / "tests/golden/bert_tiny")
    bert = weights.load(BertModel, source)
    adapted = lora.add(bert.params, lora.LoRA(rank=3, alpha=2.0), jax.random.key(0))
    peft_files.save(tmp_path, bert.model, adapted, base=source)
    path = tmp_path / peft_config.CONFIG
    content = json.loads(path.read_text()) | {"rank_pattern": {"query": 3}, "alpha_pattern": {"key": 2.0}}
    spoil(path, content, rng)
    works_or_refuses(lambda: peft_files.load(tmp_path, bert.model, bert.params))


FIELDS = {
    "num_tokens": 18, "dataset": "toy", "data_source": None, "image_size": None, "buckets": (9,), "revision": None,
    "batch_size": 4,
    "compute_dtype": "float32", "model": BertModel, "weights": "asset:minilm",
    "evaluation": Evaluation(), "evaluation.adapter": None, "evaluation.tuned": None, "evaluation.split": "test",
    "evaluation.limit": 4,
    "setting": Setting(SegmentMeans(3), 2), "setting.exchange": SegmentMeans(3), "setting.num_parts": 2,
    "grid": Grid(), "grid.parts": (2,), "grid.segments": (1,), "grid.exchanges": (AllGather(),),
    "grid.wires": ("int8",), "grid.lengths": (18,),
    "training": Training(), "training.parts": (1,), "training.exchanges": (AllGather(),),
    **{f"training.{one.name}": getattr(Training(),
    one.name) for one in dataclasses.fields(Training) if one.name not in ("parts", "exchanges")},
}  # fmt: skip
"""The fields of a config file, each with a good value."""
MORE_VALUES = (
    "(1,)",
    "('a', 2)",
    "((),)",
    "[2]",
    "{2}",
    "b'x'",
    "1j",
    "int",
    "object()",
    "lambda: 1",
    "10**5000",
    "1e999",
    "'float16'",
    "-3",
)


def config_file(fields: dict[str, str]) -> str:
    def call(kind, names):
        return f"{kind}({', '.join(f'{name}={value}' for name, value in names.items())})"

    own = {name: value for name, value in fields.items() if "." not in name}
    for group in (Evaluation, Setting, Grid, Training):
        name = group.__name__.lower()
        inside = {field.partition(".")[2]: value for field, value in fields.items() if field.startswith(f"{name}.")}
        own.setdefault(name, call(group.__name__, inside))
    return f"""from prism_jax.experiments.recipe import Distillation, Evaluation, Experiment, Grid, Setting, Training
from prism_jax.exchange import AllGather, SegmentMeans, WholeSequence
from prism_jax.models.bert import BertModel

config = {call("Experiment", own)}
"""


def good_fields() -> dict[str, str]:
    """As they are written."""
    named = {"model": "BertModel", "setting.exchange": "SegmentMeans(3)"}
    named |= dict.fromkeys(("grid.exchanges", "training.exchanges"), "(AllGather(),)")
    groups = ("evaluation", "setting", "grid", "training")
    return {name: named.get(name, repr(value)) for name, value in FIELDS.items() if name not in groups}


def test_a_config_file_with_good_fields_is_read(tmp_path):
    path = tmp_path / "good.py"
    path.write_text(config_file(good_fields()))
    assert load(str(path)).training.batch_size == Training().batch_size


@pytest.mark.parametrize("seed", range(60))
def test_field_of_a_config_file(seed, tmp_path):
    rng, path = random.Random(seed), tmp_path / "bad.py"
    name = rng.choice(list(FIELDS))
    values = (*(repr(value) for value in VALUES if value == value and value not in (math.inf, 10**400)), *MORE_VALUES)
    value = rng.choice(values)
    path.write_text(config_file(good_fields() | {name: value}))
    try:
        experiment = load(str(path))
        experiment.check()
    except InputError as error:
        printed = str(error)
    else:
        kinds = (type(FIELDS[name]), type(None), int, float, str)
        assert isinstance(operator.attrgetter(name)(experiment), kinds), value
        return
    assert "\n" not in printed
    assert str(path) in printed or name.rpartition(".")[2] in printed
