"""Sweeps: what runs, what does not run again, and what happens when a row fails."""

import contextlib
import json
import subprocess
import sys
import types
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.command import command
from helpers.paths import ROOT
from PIL import Image

from eval.reporting import files, sweep_plots, sweep_points, tables
from eval.reporting.markdown import mean_over_runs
from eval.reporting.style import plt
from eval.scoring import variants
from eval.scoring.load import load_scoring
from eval.scoring.measure import Measured
from eval.scoring.rows import SettingFields
from eval.sweeping import store
from eval.sweeping.grid import grid_of_exchanges, is_lossy, plan
from eval.timing import session
from prism_jax.assets import hub
from prism_jax.data.images import load_processor
from prism_jax.exchange.baselines import IsolatedParts
from prism_jax.exchange.codebooks import Codebooks
from prism_jax.exchange.segments import SegmentMeans
from prism_jax.exchange.setting import Setting
from prism_jax.exchange.text import parse
from prism_jax.experiments import recipe
from prism_jax.layers.config import TransformerConfig
from prism_jax.models.vit import ViTConfig
from prism_jax.tasks.classification import Classification
from prism_jax.tasks.inputs import Images
from prism_jax.tasks.predict import Predictor

pytestmark = pytest.mark.usefixtures("quick_to_compile")


@pytest.fixture
def calls(monkeypatch):
    """Records predictions and compilations from now on."""
    seen, predict, compile_ = [], Predictor.__call__, jax.stages.Lowered.compile

    def counted(self, *args, **kwargs):
        seen.append(str(self.setting))
        return predict(self, *args, **kwargs)

    def compiled(self, *args, **kwargs):
        seen.append("compiled")
        return compile_(self, *args, **kwargs)

    monkeypatch.setattr(Predictor, "__call__", counted)
    monkeypatch.setattr(jax.stages.Lowered, "compile", compiled)
    return seen


def rows_of(folder: Path) -> list[dict]:
    return json.loads((folder / "results.json").read_text())["rows"]


def without_time(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


OWN = """
from dataclasses import dataclass, replace

import prism_jax as pj
from prism_jax.experiments import recipe as configs


@dataclass(frozen=True)
class Fickle(pj.Exchange):
    def __call__(self, x_BTD, layout):
        if BROKEN:
            raise RuntimeError("out of luck")
        return pj.AllGather()(x_BTD, layout)

    def rows_sent(self, part_len):
        return part_len


config = replace(configs.load(CONFIG), grid=configs.Grid(exchanges=(Fickle(),), segments=(2,), parts=(2,)))
"""


@pytest.mark.slow
def test_it_goes_on_where_it_was_stopped_and_runs_nothing_twice(
    toy_config, trained, tmp_path, monkeypatch, calls, capsys
):
    path, flags = tmp_path / "own.py", ["--base", trained, "--tuned", trained, "--control", trained]
    flags += ["--out", tmp_path / "out"]
    source = OWN.replace("CONFIG", repr(toy_config))
    path.write_text(source.replace("BROKEN", "False"))
    predict = Predictor.__call__

    def interrupted(self, *args, **kwargs):
        if "fickle" in str(self.setting):
            raise KeyboardInterrupt
        return predict(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "__call__", interrupted)
        assert command("eval.sweep", path, *flags) == 1
    assert "interrupted" in capsys.readouterr().err
    assert [row["weights"] for row in rows_of(tmp_path / "out")] == ["base", "control"]
    # All weights of this test are one: a row is what it follows from, whatever it is called.
    assert calls == ["whole_sequence on 1", "compiled"]
    calls.clear()
    assert command("eval.sweep", path, *flags) == 0
    assert calls == ["fickle on 2", "compiled", "segment_means:2 on 2", "compiled"]
    before = rows_of(tmp_path / "out")
    assert len(before) == 6
    calls.clear()
    assert command("eval.sweep", path, *flags) == 0
    assert calls == []
    assert rows_of(tmp_path / "out") == before
    # Stopped at once, also where nothing of the store is of use any more: whole results stay until others are whole.
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.*")}
    assert {"results.json", "results.csv", "report.md"} <= set(written)
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "__call__", stopped)
        patch.setattr(store, "digest_of_library", lambda *_: "another")
        assert command("eval.sweep", path, *flags) == 1
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.*")} == written
    # Another source of one's own exchange, and a damaged file: these rows alone run again.
    path.write_text(source.replace("BROKEN", "1 == 2"))
    assert command("eval.sweep", path, *flags) == 0
    assert calls == ["fickle on 2", "compiled"]
    assert without_time(rows_of(tmp_path / "out")) == without_time(before)


def stopped(self, *args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_results_have_the_rows_of_the_store_first(toy_config, trained, tmp_path, monkeypatch, calls):
    """A sweep that is stopped, with the first row of the store damaged:
    no row that is there is missing from the results."""
    flags = ["--base", trained, "--parts", 2, "--segments", 1, 2, 3, "--exchanges", "--out", tmp_path]
    predict = Predictor.__call__

    def three(self, *args, **kwargs):
        return stopped(self) if "segment_means:3" in str(self.setting) else predict(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "__call__", three)
        assert command("eval.sweep", toy_config, *flags) == 1
    before = rows_of(tmp_path)
    assert [row["num_segments"] for row in before] == [None, 1, 2]
    first = min((tmp_path / "rows").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    first.write_text("{")
    calls.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "__call__", stopped)
        assert command("eval.sweep", toy_config, *flags) == 1
        assert rows_of(tmp_path) == before
        patch.setattr(Predictor, "__call__", three)
        assert command("eval.sweep", toy_config, *flags) == 1
    # The row that runs again is what the stored ones are compared with.
    assert without_time(rows_of(tmp_path)) == without_time(before)
    assert command("eval.sweep", toy_config, *flags) == 0
    assert [row["num_segments"] for row in rows_of(tmp_path)] == [None, 1, 2, 3]


def test_a_row_that_fails_says_why_and_the_others_go_on(toy_config, trained, tmp_path, capsys):
    path = tmp_path / "own.py"
    path.write_text(OWN.replace("CONFIG", repr(toy_config)).replace("BROKEN", "True"))
    flags = ["--base", trained, "--parts", 2, 3, "--segments", 2, 8, "--out", tmp_path / "out"]
    assert command("eval.sweep", path, *flags) == 1
    printed = capsys.readouterr()
    assert "2 of 7 records failed" in printed.err
    failed = {
        (row["exchange"], row["num_parts"], row["num_segments"]): row["error"] for row in rows_of(tmp_path / "out")
    }
    assert failed["fickle", 2, None] == "RuntimeError: out of luck"
    # L = 8 fits parts of 9 tokens, not parts of 6: that is no failure of the run.
    assert "8 segments asked for, but a part has 6 tokens" in failed["segment_means", 3, 8]
    assert [key for key, error in failed.items() if error is None] == [
        ("whole_sequence", 1, None),
        ("segment_means", 2, 2),
        ("segment_means", 2, 8),
        ("segment_means", 3, 2),
    ]
    report = (tmp_path / "out" / "report.md").read_text()
    assert "fickle on 2, N = 18, base: RuntimeError: out of luck" in report


@pytest.mark.slow
def test_new_weights_need_no_new_program(toy_config, trained, tmp_path, monkeypatch, calls):
    other = tmp_path / "other"
    assert command("train.finetune", toy_config, "--training.seed", 1, "--out", other) == 0
    calls.clear()
    flags = ["--base", trained, "--checkpoints", other, "--parts", 2, "--segments", 2, "--exchanges"]
    monkeypatch.chdir(tmp_path)  # a folder named after the config is the default
    assert command("eval.sweep", toy_config, *flags) == 0
    assert calls.count("compiled") == 2
    assert len(calls) == 2 + 4
    assert [row["weights"] for row in rows_of(Path("runs/toy/sweep"))] == ["base", str(other)] * 2


GRID = ["--parts", 2, "--segments", 2, "--wires", "float32", "int8", "--lengths", 12, 18]
GRID += ["--exchanges", "segment_means:1,all_gather"]


@pytest.fixture(scope="module")
def swept(quick_to_compile, toy_config, trained, tmp_path_factory) -> Path:
    """Two sweeps of the same grid, `mesh` and `one_device`."""
    folder = tmp_path_factory.mktemp("swept")
    for on in ("mesh", "one_device"):
        assert command("eval.sweep", toy_config, "--base", trained, *GRID, "--on", on, "--out", folder / on) == 0
    return folder


@pytest.mark.slow
def test_the_whole_grid_on_a_mesh_and_on_one_device(swept):
    mesh, one_device = rows_of(swept / "mesh"), rows_of(swept / "one_device")
    expected = [
        ("whole_sequence", "float32"),
        ("segment_means:1,all_gather", "float32,float32"),
        ("segment_means:1:int8,all_gather:int8", "int8,int8"),
        ("segment_means", "float32"),
        ("segment_means", "int8"),
    ]
    for rows in (mesh, one_device):
        assert [(row["exchange"], row["wire"]) for row in rows] == expected * 2
        assert [row["tokens"] for row in rows] == [12] * 5 + [18] * 5
    assert "| N | wire |" in (swept / "mesh" / "report.md").read_text()
    assert [row["score"] for row in mesh] == [row["score"] for row in one_device]
    assert mesh[4]["bytes_sent_per_device"] == 2 * 2 * (32 + 4) == mesh[4]["bytes_sent_per_device_compiled"]
    assert one_device[4]["bytes_sent_per_device_compiled"] is None


@pytest.mark.slow
def test_a_report_of_two_sweeps_has_both_side_by_side(swept, tmp_path):
    assert command("eval.report", swept / "mesh", swept / "one_device", "--out", tmp_path) == 0
    report = (tmp_path / "report.md").read_text()
    assert report.count("| whole_sequence |") == 6  # one a run and N, and two of both runs
    assert "40 examples of 12, 18 tokens" in report


@pytest.mark.slow
def test_a_report_to_keep_is_a_page_with_the_plots_that_it_shows(swept, tmp_path):
    chosen = ["--page", "README.md", "--plots", "score_rate", "--out", tmp_path]
    assert command("eval.report", swept / "mesh", *chosen) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "score_rate.png"}
    report, page = (path.read_text().splitlines() for path in (swept / "mesh" / "report.md", tmp_path / "README.md"))
    assert [line for line in report if line.startswith("|")] == [line for line in page if line.startswith("|")]
    assert [line for line in page if line.startswith("![")] == ["![score against compression rate](score_rate.png)"]
    with Image.open(tmp_path / "score_rate.png") as image:
        assert len(image.getcolors()) <= 64


@pytest.mark.slow
def test_what_is_no_sweep_is_refused_in_one_line(swept, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    record = {"block": 0, "metric": "f1", "score": 1.0}
    (tmp_path / "other" / "results.json").write_text(json.dumps({"schema": 1, "rows": [record]}))
    for wrong in ([tmp_path / "nothing"], [tmp_path / "other"], [swept / "mesh", swept / "one_device"], []):
        assert command("eval.report", *wrong) == 2
        (message,) = capsys.readouterr().err.strip().splitlines()
        assert message.startswith("error: ")


@pytest.mark.slow
def test_wrong_flags_leave_an_earlier_sweep_as_it_was(swept, toy_config, trained, capsys):
    before = (swept / "mesh" / "results.json").read_bytes()
    for flags, message in (
        ([*GRID, "--lengths", 12, 41], "a sequence of 41 tokens"),
        (["--checkpoints", "base"], "--checkpoints has 'base', which has a special meaning here"),
    ):
        assert command("eval.sweep", toy_config, "--base", trained, *flags, "--out", swept / "mesh") == 2
        assert message in capsys.readouterr().err
    assert (swept / "mesh" / "results.json").read_bytes() == before
    assert (swept / "mesh" / "report.md").exists()


def test_what_can_run_nowhere_is_refused_at_once(toy_config):
    from dataclasses import replace

    experiment, parts = recipe.load(toy_config), (2, 3)
    with pytest.raises(ValueError, match="10 segments asked for, but a part has 9 tokens"):
        plan(replace(experiment, grid=recipe.Grid(parts, segments=(1, 10))), ("base",))
    with pytest.raises(ValueError, match="19 parts asked for"):
        plan(replace(experiment, grid=recipe.Grid(parts=(2, 19), segments=(1, 3))), ("base",))
    with pytest.raises(ValueError, match="unknown wire format 'int5'; known are"):
        replace(experiment, grid=recipe.Grid(wires=("int5",))).check()


def test_all_rows_in_few_bits_stand_beside_the_means_by_default():
    coded = Codebooks(SegmentMeans(2), 8, 4)
    grid = recipe.Grid(segments=(), exchanges=(coded, SegmentMeans(2)), wires=("int8", "int4"))
    own_format = ["codebooks:8:4:segment_means:2", "segment_means:2:int8", "segment_means:2:int4"]
    assert [str(exchange) for exchange in grid_of_exchanges(grid)] == own_format
    names = [str(exchange) for exchange in grid_of_exchanges(recipe.Grid(segments=(2,)))]
    assert names == ["isolated_parts", "all_gather", "all_gather:int4", "all_gather:int2", "segment_means:2"]


def test_tuned_weights_are_scored_where_something_is_lost(toy_config):
    from dataclasses import replace

    experiment = replace(recipe.load(toy_config), grid=recipe.Grid((2,), segments=(1,), wires=("float32", "int8")))
    rows = [(str(row.setting), row.weights) for row in plan(experiment, ("base", "tuned", "control"))]
    assert [setting for setting, weights in rows if weights == "tuned"] == [
        "all_gather:int8 on 2",
        "segment_means:1 on 2",
        "segment_means:1:int8 on 2",
    ]
    assert [setting for setting, weights in rows if weights == "control"] == ["whole_sequence on 1"]


@pytest.mark.parametrize(
    ("exchange", "expected"),
    [
        ("isolated_parts", False),
        ("all_gather", False),
        ("first_tokens:1:keys_values:all_gather", False),
        ("all_gather,keys_values:all_gather", False),
        ("all_gather:int8", True),
        ("all_gather,isolated_parts", True),
        ("first_tokens:1:isolated_parts", True),
        ("every:2:all_gather", True),
    ],
)
def test_what_loses_something(exchange, expected):
    assert is_lossy(parse(exchange)) == expected


@pytest.mark.slow
def test_a_record_does_not_run_again_for_another_exchange_s_arrays(toy_config, trained, tmp_path, calls):
    flags = [toy_config, "--base", trained, "--parts", 2, "--segments", 2, "--out", tmp_path]
    assert command("eval.sweep", *flags, "--exchanges", "gated_means:1") == 0
    calls.clear()
    assert command("eval.sweep", *flags, "--exchanges", "gated_means:1", "head_means:1:2") == 0
    assert set(calls) == {"compiled", "head_means:1:2 on 2"}


def test_a_record_has_no_nan_in_its_other_metrics():
    assert files.finite({"other_metrics": {"spearman_percent": float("nan"), "rows": 2}}) == {
        "other_metrics": {"spearman_percent": None, "rows": 2}
    }


def test_a_key_changes_with_what_it_stands_for():
    x = np.zeros(3, np.float32)
    keys = [
        store.digest(*things) for things in ((x,), (x.astype(int),), (x, ""), (x[:2],), (x + 1,), ("ab",), ("a", "b"))
    ]
    assert len(set(keys)) == len(keys)


def test_a_change_of_what_an_exchange_is_made_of_is_a_new_row(tmp_path, monkeypatch):
    """Two config files of one name, with an exchange that extends one of a third file, and one that wraps it."""
    pooled, own, around = tmp_path / "pooled.py", tmp_path / "own" / "ideas.py", tmp_path / "around" / "ideas.py"
    own.parent.mkdir()
    around.parent.mkdir()
    head = (
        "from dataclasses import dataclass\nimport prism_jax as pj\nfrom prism_jax.experiments.recipe import "
        "Experiment, Grid, load\n"
    )
    head += "from prism_jax.models.bert import BertModel\n"
    pooled.write_text(f"{head}class First(pj.Segments):\n  def pool(self, x, real): return x[:, :, 0]\n")
    extends = f"{head}from pooled import First\n@dataclass(frozen=True)\nclass Own(First): pass\n"
    own.write_text(f"{extends}config = Experiment(BertModel, '', 8, grid=Grid(exchanges=(Own(1),)))\n")
    wraps = "class Around(pj.Wrapped):\n  def __call__(self, x, layout): return self.of(x, layout)\n"
    inner = f"load({str(own)!r}).grid.exchanges[0]"
    around.write_text(f"{head}{wraps}config = Experiment(BertModel, '', 8, grid=Grid(exchanges=(Around({inner}),)))\n")
    monkeypatch.syspath_prepend(tmp_path)
    exchanges = [recipe.load(str(path)).grid.exchanges[0] for path in (around, own)]

    def digests():
        return [store.digest_of_exchange(Setting(one, 2)) for one in exchanges]

    before, again = digests(), digests()
    pooled.write_text(pooled.read_text().replace("0]", "-1]"))
    assert before == again
    assert all(x != y for x, y in zip(before, digests(), strict=True))
    before = digests()
    around.write_text(around.read_text().replace("self.of(x, layout)", "self.of(x + 1, layout)"))
    assert before[0] != digests()[0]
    assert before[1] == digests()[1]


def test_a_change_of_any_image_is_noticed(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"height": 4, "width": 4}}'
    )
    config = ViTConfig(TransformerConfig(1, 8, 2, 8), image_size=(4, 4), patch_size=(2, 2))
    processor, labels = load_processor(tmp_path), np.zeros(50, int)

    def digest_with(changed: int | None) -> str:
        shades = [Image.new("L", (4, 4), i == changed) for i in range(50)]
        task = Classification(Images(shades, processor, config), labels, ("accuracy_percent",))
        return store.digest_of_task(task, 5)

    assert digest_with(None) == digest_with(None)
    assert len({digest_with(changed) for changed in (None, 0, 1, 2, 49)}) == 5


def test_base_weights_are_read_once_for_all_kinds_of_weights(toy_config, trained, monkeypatch):
    read, open_file = Counter(), hub.safe_open

    @contextlib.contextmanager
    def counted(path, framework):
        with open_file(path, framework) as file:
            yield types.SimpleNamespace(
                keys=file.keys,
                get_slice=file.get_slice,
                get_tensor=lambda name: read.update([(path, name)]) or file.get_tensor(name),
            )

    monkeypatch.setattr(hub, "safe_open", counted)
    experiment = recipe.load(toy_config)
    sources = {"base": str(trained), "tuned": f"{trained}@16", "control": str(trained), "other": f"{trained}@12"}
    scoring = load_scoring(experiment, [], sources)
    assert set(read.values()) == {1}
    assert len(read) > 30
    alone = load_scoring(experiment, [], {"base": f"{trained}@12"}).base.params
    jax.tree.map(np.testing.assert_array_equal, scoring.variants["other"].params, alone)
    assert set(read.values()) == {2}


def test_a_setting_that_can_not_run_at_one_n_is_loaded_for_another(toy_config):
    nine_rows = Setting(SegmentMeans(9), 2)
    scoring = load_scoring(recipe.load(toy_config), [nine_rows], {"base": None}, lengths=(8,), fresh=("classifier",))
    assert scoring.at(8).experiment.num_tokens == 8


def test_a_damaged_row_is_no_row(tmp_path):
    rows = store.Store(tmp_path)
    assert rows.load("key") is None
    kept = dict.fromkeys(("real_tokens_median", "share_in_every_part", "flops_per_device", "flops_vs_one_device"), 1.0)
    kept |= {"flops_per_device_compiled": None, "bytes_sent_per_device": 0, "bytes_sent_per_device_compiled": None}
    kept |= {"seconds": 1.0, "collectives": 6}
    rows.save("key", Measured(kept, np.arange(3)))
    measured = rows.load("key")
    assert (measured.fields, measured.outcomes.tolist()) == (kept, [0, 1, 2])
    rows.save("other", Measured(kept | {"seconds": "1"}, np.arange(3)))
    assert rows.load("other") is None
    for name in ("key.npy", "key.json"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        assert rows.load("key") is None
        (tmp_path / name).write_bytes(whole)


@pytest.mark.parametrize(("metric", "expected"), [("accuracy_percent", [0, 2, 3]), ("perplexity", [0, 1])])
def test_the_pareto_front(metric, expected):
    scores, sent = [50, 40, 60, 90, 80], [0, 10, 10, 20, 30]
    rows = [
        {"metric": metric, "score": score, "bytes_sent_per_device": 1e3 * kb, "number": i}
        for i, (score, kb) in enumerate(zip(scores, sent, strict=True))
    ]
    assert [row["number"] for row in sweep_points.pareto(rows, sweep_points.sent)] == expected


def test_what_recovery_must_not_be_taken_for_is_said(trained, toy_config, tmp_path, capsys):
    printed = json.loads((trained / "config.json").read_text())
    best = json.loads((trained / "result.json").read_text())["best_step"]

    def made(name, run, step, **training):
        (tmp_path / name).mkdir()
        content = printed | {
            "started_from": {"run": str(run), "step": step},
            "training": printed["training"] | training,
        }
        (tmp_path / name / "config.json").write_text(json.dumps(content))
        return str(tmp_path / name)

    prism = {"exchanges": ["segment_means:2"], "parts": [2, 3]}
    tuned, control = made("tuned", trained, best, epochs=1, **prism), made("control", trained, best, epochs=1)
    base = str(trained)
    assert variants.remarks(base, tuned, control) == variants.remarks(f"{base}@{best}", tuned, control) == []
    assert variants.remarks(None, None, None) == variants.remarks(base, None, "configs/adapters/minilm") == []
    assert variants.remarks(base, control, tuned) == ["control was trained through segment_means:2"]
    longer, elsewhere = made("longer", trained, best, epochs=2, **prism), made("elsewhere", tuned, 7, epochs=1)
    assert variants.remarks(base, longer, control) == ["epochs was 2 for tuned, 1 for control"]
    assert variants.remarks(base, tuned, elsewhere) == [f"control started from {tuned}@7, not from base, {base}@{best}"]
    assert variants.remarks(f"{base}@1", tuned, None) == [f"tuned started from {base}@{best}, not from base, {base}@1"]
    flags = [
        "--base",
        trained,
        "--tuned",
        trained,
        "--parts",
        2,
        "--segments",
        2,
        "--exchanges",
        "--out",
        tmp_path / "out",
    ]
    assert command("eval.sweep", toy_config, *flags) == 0
    remark = f"tuned started from the config's own weights, not from base, {base}@{best}"
    assert f"note: {remark}" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "results.json").read_text())["remarks"] == [remark]


@pytest.mark.slow
def test_tuned_weights_of_the_config_are_left_out_beside_another_base(toy_config, trained, tmp_path, capsys):
    own = tmp_path / "own.py"
    own.write_text(Path(toy_config).read_text().replace("limit=40", f"limit=40, tuned={str(trained)!r}"))
    flags = ["--parts", 2, "--segments", 2, "--exchanges", "--base", trained, "--out", tmp_path / "out"]
    for more, kinds in (([], ["base", "base"]), (["--tuned", trained], ["base", "base", "tuned"])):
        assert command("eval.sweep", own, *flags, *more) == 0
        assert [row["weights"] for row in rows_of(tmp_path / "out")] == kinds
        assert ("so it is left out; add --tuned RUN" in capsys.readouterr().out) == (not more)


def test_over_runs_stand_mean_spread_and_the_recovery_of_the_means():
    def rows_of(tokens, as_is, tuned, control, recovery):
        every = {"tokens": tokens, "wire": "float32", "metric": "accuracy_percent"}
        setting = every | {"num_parts": 2, "exchange": "segment_means", "num_segments": 1}
        one_device = every | {"num_parts": 1, "exchange": "whole_sequence", "num_segments": None}
        return [
            one_device | {"weights": "control", "score": control},
            setting | {"weights": "base", "score": as_is},
            setting | {"weights": "tuned", "score": tuned, "recovery_percent": recovery},
        ]

    def run_of(*figures):
        rows = [*rows_of(32, *figures), *rows_of(64, 80.0, 82.0, 90.0, 20.0)]
        return {"model": "BERT", "dataset": "glue/sst2", "rows": rows}

    seeds = {"a": run_of(80.0, 83.0, 85.0, 60.0), "b": run_of(82.0, 86.0, 87.0, 80.0)}
    report = mean_over_runs(seeds)
    assert "| 32 | 2 | segment_means | 1 | float32 | base | 81.00 (1.41) | - |" in report
    assert "| 32 | 2 | segment_means | 1 | float32 | tuned | 84.50 (2.12) | 70 |" in report
    assert "| 64 | 2 | segment_means | 1 | float32 | tuned | 82.00 (0.00) | 20 |" in report
    seeds["b"]["rows"][2]["recovery_percent"] = None
    assert "84.50 (2.12) | - |" in mean_over_runs(seeds)
    assert (
        mean_over_runs({"a": seeds["a"]})
        == mean_over_runs({"a": seeds["a"], "b": seeds["b"] | {"dataset": "cifar10"}})
        == ""
    )


@dataclass(frozen=True)
class TwoNumbers(IsolatedParts):
    num_segments: int
    percent: int


def test_rows_of_an_exchange_with_several_numbers_can_be_told_apart():
    fields = [
        SettingFields.of(Setting(exchange, 2), 8, {8: 1})
        for exchange in (TwoNumbers(1, 50), TwoNumbers(1, 75), TwoNumbers(2, 75), SegmentMeans(1))
    ]
    lines = [(one.exchange, one.num_segments) for one in fields]
    assert lines == [("two_numbers:L:50", 1), ("two_numbers:L:75", 1), ("two_numbers:L:75", 2), ("segment_means", 1)]
    settings = ["two_numbers:1:50", "two_numbers:1:75", "two_numbers:2:75", "segment_means:1"]
    assert [one.setting for one in fields] == settings


@pytest.mark.parametrize("label", ["a", "first token and means:16, int8, L = 16"])
def test_a_legend_stays_inside_its_panel(label):
    figure, panels = sweep_plots.panels_of({"one": {}, "other": {}})
    for axes in panels:
        axes.plot([1, 2], [1, 2])
        for i in range(10):
            axes.plot([], [], label=f"{label} {i}")
        sweep_plots.legend_below(axes)
    figure.canvas.draw()
    left, right = (axes.get_legend().get_window_extent() for axes in panels)
    assert left.x0 >= 0
    assert left.x1 <= right.x0
    assert right.x1 <= figure.bbox.x1
    assert left.y0 >= 0
    assert panels[0].get_window_extent().height > figure.bbox.height / 2
    plt.close(figure)


def test_records_of_a_single_cost_are_drawn(tmp_path):
    content = json.loads((ROOT / "docs" / "results" / "newsgroups" / "main" / "results.json").read_text())
    content["rows"] = [row for row in content["rows"] if row["setting"] == "segment_means:4" and row["num_parts"] == 2]
    panels = sweep_points.panels_of({"one": content})
    assert sweep_plots.draw(sweep_points.PLOTS["score_bytes"], tmp_path / "plot.png", panels)


def test_empty_parts_are_noted():
    row = {"num_parts": 4, "tokens": 128, "share_in_every_part": 0.1, "real_tokens_median": 28.0}
    assert tables.short_texts([{**row, "share_in_every_part": 0.6}, {"error": "failed"}]) is None
    assert "at P = 4, N = 128, where" in tables.short_texts([row, row])


@pytest.mark.process
def test_the_digest_of_the_library_is_of_all_modules_that_are_imported():
    names = ("eval.scoring.measure", *session.SOURCES)
    program = (
        f"import {', '.join(names)}, sys; print(*(one.__file__ for name, "
        "one in sys.modules.items() if name.partition('.')[0] in ('eval', 'prism_jax')))"
    )
    imported = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout
    closure = {str(path) for path in store.import_closure(*names)}
    assert len(imported.split()) > 60
    assert set(imported.split()) <= closure
