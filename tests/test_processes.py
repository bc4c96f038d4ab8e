"""Several real processes of this machine: the results of one process, and what happens when one of them fails."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import on_processes
import pytest
from conftest import assert_close, run
from safetensors.numpy import load_file, save_file

from eval.launch import free_port
from prism_jax import checkpoint
from prism_jax.processes import LOST_AFTER_SECONDS
from prism_jax.weights import flatten

pytestmark = pytest.mark.usefixtures("quick_to_compile")

ROOT = Path(__file__).parent.parent
GONE_SECONDS = 30
RATE = 1e-4
AN_ADAM_STEP = 2 * RATE
"""AdamW takes a step of the rate along a gradient of almost nothing, whichever sign rounding gives it."""
BEAT = "import os, time\nwhile True: os.write({beats}, b'.'); time.sleep(0.5)"


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | more


def launch(*words, **more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "eval.launch", *map(str, words)]
    return subprocess.run(
        command, cwd=ROOT, env=environment(**more), capture_output=True, text=True, timeout=240, check=False
    )


def rows(out: Path) -> list[dict]:
    found = json.loads((out / "results.json").read_text())["rows"]
    return [{name: x for name, x in row.items() if name != "seconds"} for row in found]


def test_a_sweep_on_two_processes_has_the_rows_of_one_on_emulated_devices(toy_config, trained, tmp_path, monkeypatch):
    exchanges = ["isolated_parts", "all_gather:bfloat16", "segment_means:2", "segment_means:2:int8", "unscaled_means:2"]
    flags = [toy_config, "--parts", "2", "--segments", "--exchanges", *exchanges, "--base", str(trained)]
    done = launch("-n", "2", "--", "eval.sweep", *flags, "--out", tmp_path / "several")
    assert done.returncode == 0, done.stderr
    assert "[0] wrote" in done.stdout
    assert "[1] wrote" not in done.stdout
    assert run("eval.sweep", *flags, "--out", tmp_path / "one", monkeypatch=monkeypatch) == 0
    assert rows(tmp_path / "several") == rows(tmp_path / "one")
    assert len(rows(tmp_path / "one")) == 6


def test_blocks_on_two_processes_are_those_of_one(toy_config, trained, tmp_path, monkeypatch):
    flags = [toy_config, "--exchange", "segment_means:2", "--num-parts", "2", "--checkpoint", trained]
    done = launch("-n", "2", "--", "eval.blocks", *flags, "--out", tmp_path / "several")
    assert done.returncode == 0, done.stderr
    assert run("eval.blocks", *flags, "--out", tmp_path / "one", monkeypatch=monkeypatch) == 0
    several, one = (json.loads((tmp_path / name / "results.json").read_text())["rows"] for name in ("several", "one"))
    for a, b in zip(several, one, strict=True):
        assert a["score"] == b["score"]
        if a["block"] is not None:  # the last row is of all blocks together
            assert a["cosine_similarity"] == pytest.approx(b["cosine_similarity"], rel=1e-4)
            assert a["relative_error"] == pytest.approx(b["relative_error"], rel=1e-4)


@pytest.mark.parametrize("num_processes", [2, 3])
def test_logits_and_generated_tokens_are_those_of_emulated_devices(num_processes, tmp_path):
    where = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = launch("-n", num_processes, "--", "on_processes", tmp_path / "found.npz", **where)
    assert done.returncode == 0, done.stderr
    found, expected = np.load(tmp_path / "found.npz"), on_processes.outcomes(num_processes)
    assert set(found) == set(expected)
    assert len(expected) == 3 * len(on_processes.EXCHANGES) + 2 + (num_processes == 2)
    for name, values in expected.items():
        assert_close(found[name], values)


def test_fine_tuning_on_two_processes_takes_the_steps_of_one_and_one_restores_it(toy_config, tmp_path, monkeypatch):
    flags = [toy_config, "--training.frozen", "--training.learning-rate", str(RATE), "--training.epochs", "2"]
    flags += ["--training.exchanges", "segment_means:2", "--training.parts", "2", "--num-parts", "2"]
    flags += ["--training.data", "1", "--training.log-every", "1", "--exchange", "segment_means:2"]
    done = launch("-n", "2", "--", "train.finetune", *flags, "--out", tmp_path / "several")
    assert done.returncode == 0, done.stderr
    assert run("train.finetune", *flags, "--out", tmp_path / "one", monkeypatch=monkeypatch) == 0
    several, one = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("several", "one")
    )
    losses = [[line["loss"] for line in lines if "loss" in line] for lines in (several, one)]
    assert len(losses[0]) == 8
    assert_close(*losses)
    a, b = (checkpoint.load(tmp_path / name, 8) for name in ("several", "one"))
    assert a.step == b.step == 8
    for path, value in flatten(b.params).items():
        assert_close(flatten(a.params)[path], value, AN_ADAM_STEP)
    done = launch("-n", "2", "--", "train.finetune", *flags, "--resume", "--out", tmp_path / "one")
    assert done.returncode == 0, done.stderr


def test_what_the_terminal_refuses_ends_all_in_one_line(tmp_path, toy_config, trained):
    done = launch("-n", "2", "--", "eval.sweep", toy_config, "--parts", "2", "3", "--base", trained, "--out", tmp_path)
    assert done.returncode == 1
    assert "3 devices are needed (3 parts x 1), but 2 processes have 2" in done.stderr
    assert "Traceback" not in done.stderr


def two_by_hand(first: list, second: list, port: int, folders=(ROOT, ROOT)) -> list[tuple[int, str]]:
    join = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", "2", "--process-id"]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", *map(str, words), *join, str(i)],
            cwd=folders[i],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i, words in enumerate((first, second))
    ]
    return [(one.returncode, said) for one in started for said in [one.communicate(timeout=120)[1]]]


def test_other_flags_or_weights_on_one_process_are_found_before_the_first_step(toy_config, toy_folder, tmp_path):
    mesh = ["--num-parts", "2", "--training.parts", "2", "--training.data", "1", "--out", tmp_path / "run"]
    train = ["train.finetune", toy_config, *mesh, "--exchange"]
    ends = two_by_hand([*train, "segment_means:2"], [*train, "segment_means:3"], free_port())
    assert ends[0][0] != 0
    assert ends[1][0] != 0
    assert "other flags, config or version of JAX on process 1 than on process 0" in ends[0][1]

    other = Path(shutil.copytree(toy_folder, tmp_path / "there" / "model"))
    here = Path(shutil.copytree(toy_folder, tmp_path / "here" / "model"))
    tensors = load_file(other / "model.safetensors")
    name = sorted(tensors)[0]
    save_file(tensors | {name: tensors[name] + 1}, other / "model.safetensors", metadata={"format": "pt"})
    text = Path(toy_config).read_text().replace(repr(str(toy_folder)), "'model'")
    (tmp_path / "toy.py").write_text(text)
    command = [
        "train.finetune",
        tmp_path / "toy.py",
        *mesh,
        "--exchange",
        "segment_means:2",
        "--training.exchanges",
        "segment_means:2",
    ]
    ends = two_by_hand(command, command, free_port(), (here.parent, other.parent))
    assert ends[0][0] != 0
    assert ends[1][0] != 0
    assert "other weights on process 1 than on process 0" in ends[0][1]


def test_a_taken_port_is_refused(toy_config, tmp_path):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = launch("-n", "2", "--port", port, "--", "eval.sweep", toy_config, "--parts", "2", "--out", tmp_path)
    assert done.returncode == 1
    assert f"port {port} of this machine can't be used: Address already in use; choose another" in done.stderr


def endless(config, out: Path) -> list[str]:
    """Fine-tuning on two processes that would take for ever."""
    mesh = ["--training.data", "1", "--training.parts", "2", "--num-parts", "2", "--training.epochs", "100000"]
    exchanges = ["--exchange", "segment_means:2", "--training.exchanges", "segment_means:2"]
    return ["train.finetune", str(config), *mesh, *exchanges, "--training.log-every", "1", "--out", str(out)]


def wait_for_a_step(out: Path) -> None:
    log, until = out / "metrics.jsonl", time.monotonic() + 90
    while not (log.exists() and log.stat().st_size):
        assert time.monotonic() < until, "no step in 90 seconds"
        time.sleep(0.2)


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks processes up in /proc")
@pytest.mark.parametrize(
    ("rank", "number", "said"),
    [
        (0, signal.SIGKILL, "was killed by SIGKILL"),
        (1, signal.SIGKILL, "was killed by SIGKILL"),
        (1, signal.SIGSTOP, "stopped answering"),
    ],
)
def test_a_process_that_is_killed_or_stopped_ends_all(rank, number, said, toy_config, tmp_path):
    command = [sys.executable, "-m", "eval.launch", "-n", "2", "--", *endless(toy_config, tmp_path / "run")]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True) as launcher:
        wait_for_a_step(tmp_path / "run")
        ranks = sorted(children(launcher.pid))
        assert len(ranks) == 2
        began = time.monotonic()
        os.kill(ranks[rank], number)
        stderr = launcher.communicate(timeout=GONE_SECONDS)[1]
        assert time.monotonic() - began < GONE_SECONDS
        assert launcher.returncode == 1
    assert stderr.rstrip().splitlines()[-1].startswith(f"launch: process {rank} {said}")
    assert not any(map(alive, ranks))


def test_ctrl_c_saves_and_one_process_goes_on(toy_config, tmp_path, monkeypatch):
    command = endless(toy_config, tmp_path / "run")
    launcher = subprocess.Popen(
        [sys.executable, "-m", "eval.launch", "-n", "2", "--", *command], cwd=ROOT, env=environment()
    )
    wait_for_a_step(tmp_path / "run")
    ranks = children(launcher.pid)
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(timeout=GONE_SECONDS) == 130
    assert not any(map(alive, ranks))
    saved = max(int(step.name) for step in (tmp_path / "run" / "checkpoints").iterdir())
    assert run(*command, "--resume", "--training.patience", "1", monkeypatch=monkeypatch) == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["step"] > saved


def test_a_process_that_never_comes_ends_all(tmp_path):
    pids = tmp_path / "pids"
    mark = f"import os; open({str(pids)!r}, 'a').write(f'{{os.getpid()}} ')\n"
    commands = [[sys.executable, "-c", mark + BEAT], [sys.executable, "-c", mark + "import time; time.sleep(1000)"]]
    program = f"import sys; from eval.launch import supervise; sys.exit(supervise({commands!r}))"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert time.monotonic() - began < GONE_SECONDS
    assert done.returncode == 1
    assert done.stderr == "launch: process 1 never came: no sign of life in 15 seconds; all processes are ended\n"
    assert not any(alive(int(pid)) for pid in pids.read_text().split())


def test_without_the_launcher_a_stopped_process_ends_the_other(toy_config, tmp_path):
    join = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", "2", "--process-id"]
    command = [sys.executable, "-m", *endless(toy_config, tmp_path / "run"), *join]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    ranks = [subprocess.Popen([*command, str(i)], cwd=ROOT, env=environment(), **quiet) for i in range(2)]
    try:
        wait_for_a_step(tmp_path / "run")
        began = time.monotonic()
        ranks[0].send_signal(signal.SIGSTOP)
        assert ranks[1].wait(timeout=3 * LOST_AFTER_SECONDS) != 0
        assert time.monotonic() - began < 2 * LOST_AFTER_SECONDS
    finally:
        for one in ranks:
            one.kill()
            one.wait()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--coordinator", "nowhere"], "give HOST:PORT"),
        (["--coordinator", "127.0.0.1:99999", "--num-processes", "2", "--process-id", "0"], "give HOST:PORT"),
        (["--coordinator", "127.0.0.1:9999", "--num-processes", "2", "--process-id", "2"], "an id of 0 to P - 1"),
        (["--num-processes", "2"], "go with --coordinator"),
        (["--coordinator", "127.0.0.1:9999", "--num-processes", "two"], "invalid int value"),
    ],
)
def test_wrong_flags_are_one_line(flags, message, toy_config, capsys, monkeypatch):
    assert run("eval.sweep", toy_config, *flags, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
