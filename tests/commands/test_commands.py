"""The entry points, run as a user runs them, on a tiny model and data set."""

import csv
import json
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from helpers.command import command
from helpers.paths import GOLDEN
from helpers.tiny import save_toy_tokenizer

from eval import timing
from prism_jax import data, weights
from prism_jax.cli import entry, flags
from prism_jax.cli.flags import Flat
from prism_jax.errors import InputError, LostError
from prism_jax.experiments import recipe, run_files
from prism_jax.parallel import processes
from prism_jax.weights import peft_files

pytestmark = pytest.mark.usefixtures("quick_to_compile")

ROW = [
    "exchange",
    "wire",
    "num_parts",
    "num_segments",
    "compression_rate",
    "tokens",
    "metric",
    "score",
    "score_ci95",
    "examples",
    "flops_per_device",
    "flops_per_device_compiled",
    "bytes_sent_per_device",
    "bytes_sent_per_device_compiled",
    "bytes_vs_all_gather",
    "flops_vs_one_device",
    "seconds",
    "difference_to_one_device",
    "difference_ci95",
    "real_tokens_median",
    "share_in_every_part",
    "bytes_split_per_device",
    "bytes_join_per_device",
]


def test_sweep(toy_config, trained, tmp_path, capsys):
    out = tmp_path / "sweep"
    flags = ["--base", trained, "--segments", 3, "--out", out]
    assert command("eval.sweep", toy_config, *flags) == 0
    results = json.loads((out / "results.json").read_text())
    rows = results["rows"]
    assert results["schema"] == 1
    assert results["environment"]["devices"].startswith("8 x")
    assert [(row["exchange"], row["num_parts"], row["num_segments"]) for row in rows] == [
        ("whole_sequence", 1, None),
        *(
            (name, p, n)
            for p in (2, 3)
            for name, n in (("isolated_parts", None), ("all_gather", None), ("segment_means", 3))
        ),
    ]
    assert not set(ROW) - set(rows[0])
    by_name = {(row["exchange"], row["num_parts"], row["num_segments"]): row for row in rows}
    one, voltage, prism = (
        by_name["whole_sequence", 1, None],
        by_name["all_gather", 3, None],
        by_name["segment_means", 3, 3],
    )
    assert voltage["score"] == one["score"]
    assert voltage["difference_to_one_device"] == 0
    assert one["difference_to_one_device"] is None
    assert prism["compression_rate"] == 2
    assert prism["bytes_vs_all_gather"] == 0.5
    assert one["examples"] == 40
    assert one["share_in_every_part"] == 1
    for row in rows:
        assert row["bytes_sent_per_device"] == row["bytes_sent_per_device_compiled"]
        assert row["flops_per_device"] == pytest.approx(row["flops_per_device_compiled"], rel=1e-2)
        assert row["score_ci95"][0] < row["score"] < row["score_ci95"][1]
    with (out / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    assert "python -m eval.sweep" in (out / "report.md").read_text()
    for name in ("score_bytes.png", "score_flops.png", "score_rate.png", "compute_parts.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
        assert f"({name})" in (out / "report.md").read_text()
    printed = capsys.readouterr().out
    assert printed.count("segment_means") == 2


def test_one_exchange_for_each_block(toy_config, trained, tmp_path, capsys):
    flags = ["--checkpoint", trained, "--num-parts", "2", "--out", tmp_path]
    assert command("eval.evaluate", toy_config, *flags, "--exchange", "segment_means:2,isolated_parts") == 0
    (row,) = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert row["exchange"] == "segment_means:2,isolated_parts"
    assert row["bytes_sent_per_device"] == 2 * 32 * 4
    three = ["--exchange", "all_gather,all_gather,all_gather"]
    assert command("eval.evaluate", toy_config, *flags, *three) == 2
    assert "3 exchanges given for 2 blocks; give one, or 2" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_through_an_exchange_for_each_block_is_read_again(toy_config, trained, tmp_path):
    through, run = "segment_means:2,isolated_parts", tmp_path / "run"
    flags = ["--start", trained, "--training.exchanges", through, "--training.parts", 2, "--training.epochs", 1]
    flags += ["--exchange", through, "--num-parts", 2, "--out", run]
    assert command("train.finetune", toy_config, *flags) == 0
    config_json = json.loads((run / "config.json").read_text())
    assert (config_json["training"]["exchanges"], config_json["exchange"]) == ([through], through)
    assert command("train.finetune", toy_config, *flags, "--resume") == 0
    scored = ["--base", trained, "--tuned", run, "--parts", 2, "--segments", "--exchanges", through]
    assert command("eval.sweep", toy_config, *scored, "--out", tmp_path / "sweep") == 0
    assert command("train.export", run, tmp_path / "exported") == 0


@pytest.mark.parametrize(
    ("module", "flags", "message"),
    [
        (
            "eval.sweep",
            ["nothing.py"],
            "no config file 'nothing.py'; give a Python file such as configs/bert_newsgroups.py",
        ),
        ("eval.sweep", [], "the first argument is a config file"),
        ("eval.sweep", ["CONFIG", "--segments", "1", "12"], "12 segments asked for, but a part has 9 tokens"),
        (
            "eval.sweep",
            ["CONFIG", "--parts", "19"],
            "19 parts asked for, but the sequence has 18 tokens; choose 1 to 18",
        ),
        (
            "eval.sweep",
            ["CONFIG", "--parts", "9", "--segments", "1"],
            "9 devices are needed, but JAX has started already",
        ),
        ("eval.sweep", ["CONFIG", "--num-tokens", "41"], "a sequence of 41 tokens, but the position table has 40 rows"),
        ("eval.sweep", ["CONFIG", "--limit", "-3"], "limit is -3; choose a number of examples, or 0 for all"),
        ("eval.sweep", ["CONFIG", "--limit", "many"], "--limit"),
        ("eval.sweep", ["CONFIG", "--dataset", "imdb"], "unknown dataset 'imdb'; known are"),
        ("eval.sweep", ["CONFIG", "--weights", "/nowhere/at/all"], "no folder '/nowhere/at/all'"),
        ("eval.sweep", ["CONFIG", "--adapter", "nowhere"], "nowhere"),
        ("eval.sweep", ["CONFIG", "--colour", "red"], "Unrecognized options: --colour"),
        ("eval.evaluate", ["CONFIG", "--exchange", "telepathy"], "unknown exchange 'telepathy'; known are"),
        (
            "eval.evaluate",
            ["CONFIG", "--checkpoint", "nowhere"],
            "no checkpoints in nowhere; give the --out folder of a train.finetune run",
        ),
        ("eval.evaluate", ["CONFIG", "--batch-size", "0"], "batch_size is 0; choose 1 or more"),
        ("eval.sweep", ["CONFIG", "--parts", "0"], "parts is (0,); choose 1 or more"),
        ("eval.sweep", ["CONFIG", "--out", __file__], "can't write to"),
        ("eval.sweep", ["CONFIG", "--segments", "0"], "num_segments is 0; choose 1 or more"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(module, flags, message, toy_config, tmp_path, capsys):
    flags = [toy_config if flag == "CONFIG" else flag for flag in flags]
    assert (
        command(
            module,
            *flags,
            *(["--out", tmp_path / "out"] if flags and "--out" not in flags else []),
        )
        == 2
    )
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_run_or_a_damaged_one(toy_config, trained, tmp_path, capsys):
    flags = ["--checkpoint", trained, "--num-parts", "2", "--exchange", "isolated_parts", "--out", tmp_path / "out"]
    assert command("eval.evaluate", toy_config, *flags, "--num-tokens", "12") == 2
    assert "was trained with different num_tokens; use the same values" in capsys.readouterr().err
    flags[1] = shutil.copytree(trained, tmp_path / "damaged")
    for path in flags[1].glob("checkpoints/*/state/**/*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert command("eval.evaluate", toy_config, *flags) == 2
    assert "is damaged or of another model" in capsys.readouterr().err.strip().splitlines()[-1]


def test_runs_are_checked_once_and_before_anything_else_is_found(toy_config, trained, tmp_path, monkeypatch, capsys):
    def no_data(*args):
        raise InputError("read no further")

    read, runs = run_files._read, []
    monkeypatch.setattr(run_files, "_read", lambda run: runs.append(run) or read(run))
    monkeypatch.setattr(data, "load", no_data)
    flags = ["--base", trained, "--tuned", trained, "--out", tmp_path / "out"]
    assert command("eval.sweep", toy_config, *flags) == 2
    assert "read no further" in capsys.readouterr().err
    assert runs == [trained]
    monkeypatch.setattr(weights, "find", None)
    assert command("eval.sweep", toy_config, "--tuned", "nowhere", "--out", tmp_path / "out") == 2
    assert "no checkpoints in nowhere" in capsys.readouterr().err


def test_a_config_file_without_a_config_or_with_an_error(tmp_path, capsys):
    (tmp_path / "empty.py").write_text("x = 1")
    assert command("eval.sweep", tmp_path / "empty.py") == 2
    assert "has no `config = Experiment(...)`" in capsys.readouterr().err
    (tmp_path / "broken.py").write_text("import nothing_of_that_name")
    assert command("eval.sweep", tmp_path / "broken.py") == 2
    assert "can't be read: ModuleNotFoundError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "flags", "message"),
    [
        ("train.finetune", ["--parts", 2], "--parts does nothing in this command; use --training.parts"),
        ("train.finetune", ["--limit", 7], "--limit does nothing in this command; use --training.limit"),
        ("eval.evaluate", ["--segments", 2], "--segments does nothing in this command; use --exchange"),
        ("eval.blocks", ["--lengths", 16], "--lengths does nothing in this command; use --num-tokens"),
        ("eval.sweep", ["--num-parts", 4], "--num-parts does nothing in this command; use --parts"),
        (
            "eval.latency",
            ["--exchange=all_gather"],
            "--exchange does nothing in this command; use --exchanges or --segments",
        ),
        (
            "eval.generate",
            ["--training.epochs", 4],
            "--training.epochs does nothing in this command; it is for train.finetune",
        ),
        ("train.finetune", ["--training.epoch", 4], "--training.epoch, 4; similar are --training.epochs"),
        (
            "eval.sweep",
            ["--training.seed", 1],
            "--training.seed does nothing in this command; it is for train.finetune",
        ),
        ("eval.plan", ["--batch-size", 8], "--batch-size does nothing in this command; use --examples"),
        ("eval.plan", ["--weights", "x"], "--weights does nothing in this command; use --sweep and --calibration"),
        ("eval.latency", ["--batch-size", 8], "--batch-size does nothing in this command; use --batch-sizes"),
        ("eval.latency", ["--buckets", 8], "--buckets does nothing in this command; use --lengths"),
        ("eval.generate", ["--buckets", 8], "--buckets does nothing in this command; use --bucket"),
        ("eval.generate", ["--limit=8"], "--limit does nothing in this command; use --prompt"),
        (
            "eval.generate",
            ["--training.validation", 0.5],
            "--training.validation does nothing in this command; use --pro",
        ),
        ("train.calibrate", ["--exchange_arrays", "x"], "--exchange-arrays does nothing in this command; use --out"),
        ("train.calibrate", ["--training.seed", 1], "--training.seed does nothing in this command; use --seed"),
    ],
)
def test_flags_that_would_do_nothing_are_refused(module, flags, message, toy_config, tmp_path, capsys):
    assert command(module, toy_config, *flags, "--out", tmp_path) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "flags"),
    [
        ("eval.evaluate", []),
        ("eval.blocks", []),
        ("train.finetune", ["--training.exchanges", "segment_means:4", "--training.parts", 2]),
        ("eval.generate", ["--prompt", "w1"]),
    ],
)
def test_an_exchange_on_one_part_is_refused(module, flags, tmp_path, capsys):
    """This recipe has one part, so that the flag alone would score one device."""
    flags = [*flags, "--exchange", "segment_means:4", "--out", tmp_path / "out"]
    assert command(module, "configs/bert_newsgroups.py", *flags) == 2
    assert capsys.readouterr().err == (
        "error: segment_means:4 on 1 part exchanges nothing; give --num-parts, such as 2, "
        "or --exchange whole_sequence\n"
    )


@dataclass(frozen=True)
class Even:
    number: int = 1

    def check(self):
        if self.number % 2:
            raise InputError("choose an even number")


@dataclass(frozen=True)
class EvenOf(Even):
    experiment: Flat[recipe.Experiment] = None


def test_what_a_command_checks_itself_is_checked_where_it_is_parsed(toy_config):
    for parse, kind, argv in ((flags.parse_flags, Even, []), (flags.parse, EvenOf, [toy_config])):
        assert parse(kind, "", [*argv, "--number", "2"]).number == 2
        with pytest.raises(InputError, match="choose an even number"):
            parse(kind, "", [*argv, "--number", "3"])


def test_what_a_command_never_reads_may_stand_in_its_config(toy_config, tmp_path):
    """It is no flag, and stays as the config has it."""
    from eval.plan import Plan

    file = tmp_path / "config.py"
    file.write_text(
        "from dataclasses import replace\nfrom prism_jax.experiments import recipe\n"
        f"config = replace(recipe.load({toy_config!r}), batch_size=7, buckets=(9,))\n"
    )
    parsed = flags.parse(Plan, "", [str(file), "--num-tokens", "8"])
    assert parsed.experiment == replace(recipe.load(str(file)), num_tokens=8)
    assert type(parsed) is Plan


@pytest.mark.parametrize("module", ["eval.sweep", "eval.evaluate", "eval.blocks", "eval.generate", "train.finetune"])
def test_help(module, toy_config, capsys):
    assert command(module, "--help") == 0
    assert "usage: CONFIG [flags]" in capsys.readouterr().out
    assert command(module, toy_config, "--help") == 0
    assert "--num-tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "flag"),
    [
        ("eval.speed", "--batch-sizes"),
        ("eval.paper", "--out"),
        ("eval.report", "DIR [DIR ...]"),
        ("train.export", "DIR"),
    ],
)
def test_help_without_a_config(module, flag, capsys):
    assert command(module, "--help") == 0
    assert flag in capsys.readouterr().out


@pytest.mark.parametrize("name", ["adapter", "tuned"])
def test_the_shipped_adapters_fit_their_config(name):
    from prism_jax.layers.config import TransformerConfig
    from prism_jax.models.bert import BertConfig, BertForSequenceClassification

    folder = Path(getattr(recipe.load("configs/bert_newsgroups.py").evaluation, name))
    assert peft_files.num_labels(folder) == 20
    minilm = BertConfig(TransformerConfig(6, 384, 12, 1536, norm_first=False), num_labels=20)
    tensors = peft_files.read(folder, BertForSequenceClassification(minilm))
    assert {path.split("/")[0] for path in tensors} == {"encoder", "pooler", "classifier"}
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())
    assert (folder / peft_files.WEIGHTS).stat().st_size < 1_000_000
    assert json.loads((folder / "result.json").read_text())["command"].startswith("python -m train.finetune configs/")


@pytest.fixture
def gpt2_config(tmp_path):
    """The recipe for GPT-2 on a tiny model, whose tokenizer puts no special tokens around a text."""
    folder = Path(shutil.copytree(GOLDEN / "gpt2_tiny", tmp_path / "gpt2"))
    save_toy_tokenizer(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": None}))  # no text ends early
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": None}))
    return ["configs/gpt2.py", "--weights", folder, "--bucket", 16, "--out", tmp_path / "out"]


def test_generate_streams_and_measures(gpt2_config, tmp_path, capsys):
    prompts = ["w1 w2 w3 w4 w5 w6 w7 w8 w9", "w5 w6"]
    flags = ["--prompt", *prompts, "--max-new-tokens", 5, "--num-parts", 2, "--exchange", "segment_means:2"]
    assert command("eval.generate", *gpt2_config, *flags) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [text["prompt"] for text in results["texts"]] == prompts
    printed = capsys.readouterr()
    assert printed.err.startswith(f"reading weights: {gpt2_config[2]}\ncompiling\n")
    for text in results["texts"]:
        assert len(text["new"].split()) == 5
        assert text["prompt"] + text["new"] in printed.out
    one, prism = results["rows"]
    assert (one["exchange"], prism["exchange"], prism["num_parts"]) == ("whole_sequence", "segment_means:2", 2)
    # 2 prompts, keys and values, 2 blocks, 32 features of 4 bytes; 16 tokens and 5 new ones, or 8, 2 means and 5
    assert one["cache_bytes"] == 2 * 2 * 2 * 32 * 4 * (16 + 5)
    assert prism["cache_bytes"] == 2 * 2 * 2 * 32 * 4 * (8 + 2 + 5)
    # and a count of 4 bytes for each row
    assert one["cache_bytes_compiled"] == one["cache_bytes"] + 2 * 2 * 4 * (16 + 5)
    assert prism["cache_bytes_compiled"] == prism["cache_bytes"] + 2 * 2 * 4 * (8 + 2 + 5)
    assert prism["tokens_per_second"] > 0

    exact = ["--exchange", "all_gather", "--no-compare"]
    assert command("eval.generate", *gpt2_config, *flags, *exact) == 0
    on_parts = json.loads((tmp_path / "out" / "results.json").read_text())
    assert on_parts["rows"] == []
    whole = ["--num-parts", 1, "--exchange", "whole_sequence", "--no-compare"]
    assert command("eval.generate", *gpt2_config, *flags, *whole) == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["texts"] == on_parts["texts"]


def test_generate_stops_at_a_token_and_samples_by_seed(gpt2_config, tmp_path):
    def text(*flags):
        flags = ["--prompt", "w1 w2", "--no-compare", "--num-parts", 1, "--exchange", "whole_sequence", *flags]
        assert command("eval.generate", *gpt2_config, *flags) == 0
        return json.loads((tmp_path / "out" / "results.json").read_text())["texts"][0]["new"].split()

    assert text("--max-new-tokens", 8)[:2] == ["w77", "w77"]
    assert text("--max-new-tokens", 8, "--stop", "w77") == ["w77"]
    (gpt2_config[2] / "generation_config.json").write_text(json.dumps({"eos_token_id": [98, 5 + 77]}))
    assert text("--max-new-tokens", 8) == ["w77"]
    assert text("--max-new-tokens", 8, "--stop", "w1")[:2] == ["w77", "w77"]
    sampled = [text("--max-new-tokens", 8, "--temperature", 2, "--top-k", 20, "--seed", seed) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]


def test_generate_takes_prompts_from_files_and_answers_in_the_chat_template(gpt2_config, tmp_path):
    """A chat is the template around a message: the same text as the whole prompt by hand."""

    def texts(*flags):
        flags = [*flags, "--max-new-tokens", 4, "--no-compare", "--num-parts", 1, "--exchange", "whole_sequence"]
        assert command("eval.generate", *gpt2_config, *flags) == 0
        return json.loads((tmp_path / "out" / "results.json").read_text())["texts"]

    (tmp_path / "prompts.jsonl").write_text('"w1 w2"\n"w5"\n')
    (tmp_path / "prompts.txt").write_text("\ufeffw1 w2\r\nw5\u2028w6\n")
    assert [text["prompt"] for text in texts("--prompt-file", tmp_path / "prompts.txt")] == ["w1 w2", "w5\u2028w6"]
    given = texts("--prompt", "w1 w2", "w5", "--prompt-file", tmp_path / "prompts.jsonl")
    assert given[:2] == given[2:]
    settings = json.loads((gpt2_config[2] / "tokenizer_config.json").read_text())
    template = "{% for m in messages %}w3 {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}w4{% endif %}"
    (gpt2_config[2] / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    assert texts("--prompt", "w1 w2", "--chat") == texts("--prompt", "w3 w1 w2 w4")


def test_a_language_model_s_run_is_scored_exported_and_goes_on_alike(gpt2_config, tmp_path):
    """Its evaluation is that of training, to the last bit; its text is that of the weights that it exports."""
    lines = "w1 w2 w3 w4 w5 w6 w7 w8 w9 " * 8
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        (tmp_path / "data" / f"{split}.txt").write_text("\n\n".join([lines] * 30))
    config, *weights, _, _, _, _ = gpt2_config
    output = weights[1] / "tokenizer_config.json"
    output.write_text(json.dumps(json.loads(output.read_text()) | {"eos_token": "[SEP]"}))
    small = ["--num-tokens", 16, "--num-parts", 1, "--exchange", "whole_sequence"]
    of_run = ["--dataset", "text", *small]
    scored = [*of_run, "--data-source", tmp_path / "data"]
    steps = ["--training.fresh", "--training.epochs", 1, "--training.learning-rate", 0.01, "--training.no-dropout"]
    assert command("train.finetune", config, *weights, *scored, *steps, "--out", tmp_path / "run") == 0
    evaluation = json.loads((tmp_path / "run" / "result.json").read_text())["evaluation"]
    flags = [
        *weights,
        *scored,
        "--checkpoint",
        f"{tmp_path / 'run'}@{evaluation['step']}",
        "--split",
        "held_out",
        "--on",
        "one_device",
    ]
    assert command("eval.evaluate", config, *flags, "--out", tmp_path / "scored") == 0
    (row,) = json.loads((tmp_path / "scored" / "results.json").read_text())["rows"]
    assert row["score"] == evaluation["held_out_perplexity"]
    assert command("train.export", tmp_path / "run", tmp_path / "exported") == 0

    def text(*flags):
        flags = [
            "--prompt",
            "w1 w2 w3",
            "--max-new-tokens",
            6,
            "--no-compare",
            *small,
            *flags,
            "--out",
            tmp_path / "out",
        ]
        assert command("eval.generate", config, *flags) == 0
        return json.loads((tmp_path / "out" / "results.json").read_text())["texts"][0]["new"].split()

    learned = text(*weights, *of_run, "--checkpoint", tmp_path / "run")
    assert learned == text("--weights", tmp_path / "exported")
    assert learned != text(*weights)


def test_a_sweep_of_plain_text_over_several_lengths_says_what_each_is_scored_on(gpt2_config, tmp_path, capsys):
    (tmp_path / "test.txt").write_text("w1 w2 w3 w4 w5 w6 w7 w8 w9 " * 8)
    config, *weights, _, _, _, _ = gpt2_config
    tokenizer = weights[1] / "tokenizer_config.json"
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text()) | {"eos_token": "[SEP]"}))
    flags = [*weights, "--dataset", "text", "--data-source", tmp_path, "--num-tokens", 16]
    flags += ["--parts", 1, "--lengths", 8, 16]
    for limit, examples in ((0, "11 examples of 8 tokens, 5 examples of 16 tokens"), (4, "4 examples of 8, 16 tokens")):
        assert command("eval.sweep", config, *flags, "--limit", limit, "--out", tmp_path / str(limit)) == 0
        note = "note: --limit keeps 4 windows of plain text at each N, so every N has another text"
        assert (note in capsys.readouterr().out) == (limit == 4)
        assert f"{examples}, padding included; " in (tmp_path / str(limit) / "report.md").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "no prompt; give --prompt"),
        (["--prompt", "w1", "--chat"], "the tokenizer has no chat template; leave out --chat"),
        (["--prompt-file", "none.txt"], "none.txt can't be read"),
        (["--prompt-file", "LICENSE"], "line 1 of LICENSE is empty; give a prompt on every line"),
        (["--prompt", "w1", "--top-k", "5"], "temperature 0 always takes the most likely one"),
        (["--prompt", "w1", "--stop", "w1 w2"], "--stop is one token, but the tokenizer cuts 'w1 w2' into 2"),
        (["--prompt", "w1", "--exchange", "codebooks:8:8:all_gather"], "the weights lack the arrays of codebooks:8:8"),
        (["--prompt", "w1", "--exchange-arrays", "nowhere"], "no file 'nowhere'; make it with train.calibrate"),
        (["--prompt", "w1", "--max-new-tokens", "500"], "prompt 0 has 1 tokens, and with 500 new ones passes the 128"),
        (["--prompt", ""], "prompt 0 is empty"),
        (["--prompt", "w1", "--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["--prompt", "w1", "--exchange", "segment_means:9"], "9 segments asked for, but a part has 8 tokens"),
        (["--prompt", "w1", "--compute-dtype", "float8"], "--help lists the flags"),
    ],
)
def test_generate_refuses_wrong_input(gpt2_config, flags, message, monkeypatch, capsys):
    monkeypatch.setattr(weights, "load", None)
    assert command("eval.generate", *gpt2_config, *flags) == 2
    output = capsys.readouterr().err.strip().splitlines()[-1]
    assert output.startswith("error: ")
    assert message in output


def test_a_prompt_of_a_file_that_is_too_long_is_refused_before_weights_are_read(
    gpt2_config, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(weights, "load", None)
    (tmp_path / "prompts.txt").write_text(f"w1 w2\n{'w3 ' * 100}\n")
    assert command("eval.generate", *gpt2_config, "--prompt-file", tmp_path / "prompts.txt") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: prompt 1 has 100 tokens, and with 64 new ones passes the 128 positions")


def test_generate_needs_a_language_model_and_scoring_a_dataset(toy_config, gpt2_config, tmp_path, capsys):
    assert command("eval.generate", toy_config, "--prompt", "w1") == 2
    assert "BertForSequenceClassification does not generate text" in capsys.readouterr().err
    assert command("eval.evaluate", "configs/gpt2.py", "--out", tmp_path) == 2
    assert "this config has no dataset" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parity
def test_speed_compares_with_pytorch(tmp_path, monkeypatch, capsys):
    from eval.timing import pytorch
    from prism_jax.models import gpt2

    stack = replace(gpt2.GPT2.stack, num_layers=2, features=32, num_heads=4, mlp_features=64)
    tiny = gpt2.GPT2LMHeadModel(gpt2.GPT2Config(stack, vocab_size=99, num_positions=16))
    monkeypatch.setitem(pytorch.MODELS, "gpt2", tiny)
    flags = ["--families", "gpt2", "--batch-sizes", 1, 3, "--num-tokens", 12, "--rounds", 3, "--out", tmp_path]
    assert command("eval.speed", *flags) == 0
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [(row["step"], row["batch_size"]) for row in rows] == [
        (step, size) for step in ("inference", "training") for size in (1, 3)
    ]
    for row in rows:
        assert row["error"] < 1e-5  # the same model on both sides
        assert 0 < row["ratio_p10"] <= row["ratio"] <= row["ratio_p90"]
        assert row["rounds"] == 3
    capsys.readouterr()
    assert command("eval.speed", "--threads", 1000) == 2
    assert "1000 threads asked for, but this process has" in capsys.readouterr().err
    assert command("eval.speed", "--families", "t5") == 2
    for flags in (["--rounds", 0], ["--batch-sizes", 0], ["--num-tokens", 1], ["--num-tokens", 600]):
        assert command("eval.speed", *flags, "--out", tmp_path) == 2
        assert "choose" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--threads", 1000], "1000 threads asked for, but this process has"),
        (["--num-tokens", 1], "num_tokens is 1; choose 2 or more"),
        (["--num-tokens", 600], "a sequence of 600 tokens, but the position table has 512 rows"),
        (["--families", "gpt2", "--num-tokens", 1025], "the position table has 1024 rows"),
        (["--families", "vit", "--steps", "generation"], "vit can't generate text"),
        (
            ["--families", "gpt2", "llama", "--steps", "generation", "--num-tokens", 993],
            "num_tokens is 993, which leaves no room for 32 new tokens in gpt2; choose 992 or fewer",
        ),
    ],
)
def test_speed_refuses_before_pytorch_is_imported(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.delattr(timing, "pytorch", raising=False)
    monkeypatch.setitem(sys.modules, "eval.timing.pytorch", None)  # to import it would fail
    assert command("eval.speed", *flags, "--out", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_last_part_s_predictions():
    from eval.scoring.rows import predicted_in_last_part

    # 8 tokens, parts of 4: rows 4, 5 and 6 predict tokens 5, 6 and 7.
    assert list(predicted_in_last_part(8, 2)) == [4, 5, 6]
    assert list(predicted_in_last_part(5, 1)) == [0, 1, 2, 3]
    assert not predicted_in_last_part(9, 4)  # parts of 3: the last holds padding only


def test_costs_are_means_over_rows():
    from eval.scoring.rows import SettingFields
    from prism_jax.exchange.segments import SegmentMeans
    from prism_jax.exchange.setting import Setting
    from prism_jax.tasks.predict import count_by_bucket

    task = type("Task", (), {"lengths": np.array([3, 4, 7, 16, 15, 16, 12])})()
    rows = count_by_bucket(task, (4, 8, 16))
    assert rows == {4: 2, 8: 1, 16: 4}
    fields = SettingFields.of(Setting(SegmentMeans(2), 2), 16, rows)
    assert fields.compression_rate == (2 * 1 + 1 * 2 + 4 * 4) / 7


def test_evaluations_without_progress(tmp_path):
    from train.log import Log

    log = Log(tmp_path, 0)
    assert log.without_progress == 0
    for step, score, expected in ((1, 0.5, 0), (2, 0.4, 1), (3, 0.5, 2), (4, 0.6, 0), (5, -1e30, 1)):
        log.write({"step": step, "score": score})
        log.write({"step": step, "loss": 1.0})
        assert log.without_progress == expected
    assert Log(tmp_path, 3).without_progress == 2  # gone on from step 3
    (tmp_path / "metrics.jsonl").write_text((tmp_path / "metrics.jsonl").read_text() + '{"step": 4, "sc')
    assert len(Log(tmp_path, 9).evaluations) == 3


def test_tensorboard_gets_the_same_figures(tmp_path):
    from tensorboardX.proto import event_pb2

    from train.log import Log

    with Log(tmp_path, 0, tensorboard=True) as log:
        log.write({"step": 3, "loss": 0.25, "held_out_pearson_percent": None})
    (path,) = (tmp_path / "tensorboard").iterdir()
    content, start, seen = path.read_bytes(), 0, []
    while start < len(content):  # TFRecord: length, checksum, event, checksum
        length = int.from_bytes(content[start : start + 8], "little")
        event = event_pb2.Event.FromString(content[start + 12 : start + 12 + length])
        seen += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        start += 16 + length
    assert seen == [(3, "loss", 0.25)]


def test_the_share_of_examples_with_tokens_in_every_part():
    from eval.scoring.load import Scoring
    from prism_jax.experiments.recipe import Experiment

    lengths = np.array([8, 7, 6, 4, 1])
    experiment = Experiment(model=None, weights="", num_tokens=8)
    task = type("Task", (), {"lengths": lengths})()
    shares = [Scoring(experiment, None, {}, None, None, task).share_in_every_part(p) for p in (1, 2, 3, 4)]
    # Parts of 8; 4 and 4; 3, 3 and 2; 2 each.
    assert shares == [1.0, 0.6, 0.4, 0.4]


def test_a_command_that_lost_a_process_lets_the_bond_say_why_first(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(processes, "wait_for_bond", lambda: asked.append("bond"))

    def main(argv):
        raise LostError("no connection with process 1: it has closed the connection")

    with pytest.raises(SystemExit) as ended:
        entry.run(main, [])
    assert (ended.value.code, asked) == (1, ["bond"])
    assert capsys.readouterr().err == "error: no connection with process 1: it has closed the connection\n"
