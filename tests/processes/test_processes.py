"""Several real processes of this machine: the results of one process, and what happens when one of them fails."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from helpers import on_processes
from helpers.closeness import assert_close
from helpers.command import command
from helpers.paths import ROOT
from helpers.process import GONE_SECONDS, alive, children, finish, launch, started, wait_for
from helpers.runs import lines
from safetensors.numpy import load_file, save_file

from eval.launch import free_port
from prism_jax.errors import InputError, RunError
from prism_jax.experiments import checkpoint
from prism_jax.parallel import processes
from prism_jax.parallel.meeting import meet
from prism_jax.trees import flatten

pytestmark = pytest.mark.usefixtures("quick_to_compile")

RATE = 1e-4
AN_ADAM_STEP = 2 * RATE
"""AdamW takes a step of the rate along a gradient of almost nothing, whichever sign rounding gives it."""
BEAT = "import os, time\nwhile True: os.write({beats}, b'.'); time.sleep(0.1)"


ELSEWHERE = {
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "all_proxy", "grpc_proxy"), "http://127.0.0.1:9"),
    "JAX_NUM_CPU_DEVICES": "8",
}
"""A proxy and emulated devices, neither of which is for the processes of a run."""


@dataclass(frozen=True)
class Found:
    """Output of two processes, which were started once for all commands, and of one process with emulated devices.
    Each command has a folder of its name."""

    several: Path
    one: Path
    printed: str

    def both(self, *names: str) -> tuple[Path, Path]:
        return self.several.joinpath(*names), self.one.joinpath(*names)


@pytest.fixture(scope="module")
def results(quick_to_compile, toy_config, trained, tmp_path_factory) -> Found:
    exchanges = ["isolated_parts", "segment_means:2:int8"]
    sweep = ["--parts", "2", "--segments", "--exchanges", *exchanges, "--base", trained]
    blocks = ["--exchange", "segment_means:2", "--num-parts", "2", "--checkpoint", trained]
    train = ["--training.frozen", "--training.learning-rate", RATE, "--training.epochs", "2"]
    train += ["--training.exchanges", "segment_means:2", "--training.parts", "2", "--num-parts", "2"]
    train += ["--training.data", "1", "--training.log-every", "1", "--exchange", "segment_means:2"]
    commands = {"eval.sweep": sweep, "eval.blocks": blocks, "train.finetune": train}
    folder = tmp_path_factory.mktemp("processes")
    of_several = [
        [module, toy_config, *flags, "--out", folder / "several" / module] for module, flags in commands.items()
    ]
    for module, flags in commands.items():
        assert command(module, toy_config, *flags, "--out", folder / "one" / module) == 0
    of_several.append(["train.finetune", toy_config, *train, "--resume", "--out", folder / "one" / "train.finetune"])
    of_several.append(["helpers.on_processes", folder / "found.npz"])
    file = folder / "commands.json"
    file.write_text(json.dumps(of_several, default=str))
    emulated = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = launch("-n", "2", "--", "helpers.commands_together", file, **ELSEWHERE, XLA_FLAGS=emulated)
    assert done.returncode == 0, done.stderr
    return Found(folder / "several", folder / "one", done.stdout)


def rows(out: Path) -> list[dict]:
    results = json.loads((out / "results.json").read_text())["rows"]
    return [{name: x for name, x in row.items() if name != "seconds"} for row in results]


@pytest.mark.slow
@pytest.mark.process
def test_the_terminal_alone_prints(results):
    assert "[0] wrote" in results.printed
    assert "[1] wrote" not in results.printed


@pytest.mark.slow
@pytest.mark.process
def test_a_sweep_on_two_processes_has_the_rows_of_one_on_emulated_devices(results):
    several, one = map(rows, results.both("eval.sweep"))
    assert several == one
    assert len(one) == 3


@pytest.mark.slow
@pytest.mark.process
def test_blocks_on_two_processes_are_those_of_one(results):
    several, one = map(rows, results.both("eval.blocks"))
    for a, b in zip(several, one, strict=True):
        assert a["score"] == b["score"]
        if a["block"] is not None:  # the last row is of all blocks together
            assert a["cosine_similarity"] == pytest.approx(b["cosine_similarity"], rel=1e-4)
            assert a["relative_error"] == pytest.approx(b["relative_error"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.process
def test_fine_tuning_on_two_processes_takes_the_steps_of_one(results):
    """Two processes went on with the run of one afterwards, which was done."""
    several, one = results.both("train.finetune")
    losses = [[line["loss"] for line in lines(out) if "loss" in line] for out in (several, one)]
    assert len(losses[0]) == 8
    assert_close(*losses)
    a, b = (checkpoint.load(out, 8) for out in (several, one))
    assert a.step == b.step == 8
    for path, value in flatten(b.params).items():
        # A key's bias adds the same to all scores of a query. Its gradient is rounding alone, in each of the steps.
        steps = a.step if path.endswith("attention/key/bias") else 1
        assert_close(flatten(a.params)[path], value, steps * AN_ADAM_STEP)


def assert_outcomes(path: Path, num_processes: int) -> None:
    """Those of so many processes are those of emulated devices."""
    several, one = np.load(path), on_processes.outcomes(num_processes)
    assert set(several) == set(one)
    for name, values in one.items():
        assert_close(several[name], values)


@pytest.mark.slow
@pytest.mark.process
def test_logits_and_generated_tokens_of_two_processes_are_those_of_emulated_devices(results):
    assert_outcomes(results.several.parent / "found.npz", 2)
    assert len(np.load(results.several.parent / "found.npz")) == len(on_processes.EXCHANGES) + 1 + 1 + 1 + 2 + 2 + 1


@pytest.mark.slow
@pytest.mark.process
def test_an_overlapped_program_on_two_processes_gives_what_forward_gives(results):
    outcomes = np.load(results.several.parent / "found.npz")
    assert_close(outcomes["overlapped"], outcomes["not overlapped"])


@pytest.mark.slow
@pytest.mark.process
def test_logits_and_generated_tokens_of_three_processes_are_those_of_emulated_devices(tmp_path):
    done = launch("-n", 3, "--", "helpers.on_processes", tmp_path / "found.npz")
    assert done.returncode == 0, done.stderr
    assert_outcomes(tmp_path / "found.npz", 3)
    assert len(np.load(tmp_path / "found.npz")) == 1 + 2


@pytest.mark.process
def test_what_the_terminal_refuses_ends_all_in_one_line(tmp_path, toy_config, trained):
    done = launch("-n", "2", "--", "eval.sweep", toy_config, "--parts", "2", "3", "--base", trained, "--out", tmp_path)
    assert done.returncode == 1
    assert "3 devices are needed (3 parts x 1), but 2 processes have 2" in done.stderr
    assert "Traceback" not in done.stderr


@contextlib.contextmanager
def by_hand(*commands: list, folders=(ROOT, ROOT, ROOT), **more: str) -> Iterator[list[subprocess.Popen]]:
    """A process for each command, without the launcher."""
    join = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", str(len(commands)), "--process-id"]
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(started("-m", *words, *join, str(i), cwd=folders[i], **more))
            for i, words in enumerate(commands)
        ]


def ends_by_hand(*commands: list, **how) -> list[tuple[int, str]]:
    with by_hand(*commands, **how) as ranks:
        return [(one.returncode, one.stderr) for one in map(finish, ranks)]


@pytest.mark.slow
@pytest.mark.process
def test_other_flags_or_weights_on_one_process_are_found_before_the_first_step(toy_config, toy_folder, tmp_path):
    mesh = ["--num-parts", "2", "--training.parts", "2", "--training.data", "1", "--out", tmp_path / "run"]
    train = ["train.finetune", toy_config, *mesh, "--exchange"]
    ends = ends_by_hand([*train, "segment_means:2"], [*train, "segment_means:3"])
    assert ends[0][0] != 0
    assert ends[1][0] != 0
    assert "flags, config or version of JAX differ between process 0 and process 1; start all" in ends[0][1]

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
    ends = ends_by_hand(command, command, folders=(here.parent, other.parent))
    assert ends[0][0] != 0
    assert ends[1][0] != 0
    assert "weights differ between process 0 and process 1; start all" in ends[0][1]

    (here.parent / "adapter").mkdir()
    (here.parent / "adapter" / "adapter_config.json").write_text("{}")
    starting = [*command, "--start", "adapter"]
    _, (status, error) = ends_by_hand(starting, starting, folders=(here.parent, other.parent))
    assert status == 2
    assert error == "error: adapter holds an adapter on process 0, but none here; copy it to every machine\n"


@pytest.mark.process
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


def supervising(ranks: str, how: str) -> str:
    """The program that supervises processes, with less patience."""
    return f"import sys; from eval.launch import *; sys.exit(supervise({ranks}, {how}))"


@pytest.mark.process
@pytest.mark.parametrize(
    ("rank", "number", "output"),
    [
        (0, signal.SIGKILL, "was killed by SIGKILL"),
        (1, signal.SIGKILL, "was killed by SIGKILL"),
        (1, signal.SIGSTOP, "stopped answering: no sign of life for 3 seconds"),
    ],
)
def test_a_process_that_is_killed_or_stopped_ends_all(rank, number, output, tmp_path):
    under_way = tmp_path / "under_way"
    program = supervising(
        f"commands(2, 'helpers.numbers_exchanged', [{str(under_way)!r}, '20'], free_port())", "silent=3"
    )
    with started("-c", program) as launcher:
        wait_for(under_way)
        ranks = sorted(children(launcher.pid))
        assert len(ranks) == 2
        os.kill(ranks[rank], number)
        done = finish(launcher, GONE_SECONDS)
        assert done.returncode == 1
        assert done.stderr.rstrip().splitlines()[-1].startswith(f"launch: process {rank} {output}")
        assert "F1" not in done.stderr
        assert not any(map(alive, ranks))


@pytest.mark.slow
@pytest.mark.process
def test_ctrl_c_saves_and_one_process_goes_on(toy_config, tmp_path):
    words = endless(toy_config, tmp_path / "run")
    with started("-m", "eval.launch", "-n", "2", "--", *words) as launcher:
        wait_for_a_step(tmp_path / "run")
        ranks = children(launcher.pid)
        launcher.send_signal(signal.SIGINT)
        assert finish(launcher, GONE_SECONDS).returncode == 130
        assert not any(map(alive, ranks))
    saved = max(int(step.name) for step in (tmp_path / "run" / "checkpoints").iterdir())
    assert command(*words, "--resume", "--training.patience", "1") == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["step"] > saved


@pytest.mark.process
def test_a_process_that_never_comes_ends_all(tmp_path):
    pids = tmp_path / "pids"
    mark = f"import os; open({str(pids)!r}, 'a').write(f'{{os.getpid()}} ')\n"
    commands = [[sys.executable, "-c", mark + BEAT], [sys.executable, "-c", mark + "import time; time.sleep(1000)"]]
    with started("-c", supervising(repr(commands), "come=2.5")) as launcher:
        done = finish(launcher, GONE_SECONDS)
    assert done.returncode == 1
    assert done.stderr == "launch: process 1 never came: no sign of life in 2.5 seconds; all processes are ended\n"
    assert not any(alive(int(pid)) for pid in pids.read_text().split())


@pytest.mark.process
@pytest.mark.parametrize(
    ("num_processes", "lost", "number", "why"),
    [
        (2, 0, signal.SIGKILL, "is gone"),
        (3, 1, signal.SIGKILL, "is gone"),
        (2, 0, signal.SIGSTOP, "was not heard from for 2 s"),
    ],
)
def test_without_the_launcher_the_others_say_in_one_line_which_process_is_lost(
    num_processes, lost, number, why, tmp_path
):
    under_way = tmp_path / "under_way"
    with by_hand(*[["helpers.numbers_exchanged", under_way, 2]] * num_processes) as ranks:
        wait_for(under_way)
        ranks[lost].send_signal(number)
        for i, one in enumerate(ranks):
            if i != lost:
                done = finish(one, GONE_SECONDS)
                assert done.stderr == f"error: process {lost} {why}; this process ends with it\n"
                assert done.returncode == 1


@pytest.mark.process
@pytest.mark.parametrize(
    ("num_processes", "number", "why"),
    [
        (3, signal.SIGKILL, "is gone"),
        pytest.param(2, signal.SIGSTOP, "was not heard from for 2 s", marks=pytest.mark.slow),
    ],
)
def test_a_process_lost_inside_a_gather_of_messages_is_named(num_processes, number, why, tmp_path):
    under_way = tmp_path / "under_way"
    with by_hand(*[["helpers.numbers_exchanged", under_way, 2, "gather"]] * num_processes) as ranks:
        wait_for(under_way)
        *waiting, lost = ranks
        lost.send_signal(number)
        for done in (finish(one, GONE_SECONDS) for one in waiting):
            assert done.stderr == f"error: process {num_processes - 1} {why}; this process ends with it\n"
            assert done.returncode == 1


@pytest.mark.slow
@pytest.mark.process
def test_a_process_that_fails_says_why_and_the_others_that_it_did(tmp_path):
    first, second = ends_by_hand(*[["helpers.numbers_exchanged", tmp_path / "here", 20, "raise"]] * 2)
    assert first == (1, "error: process 1 has ended with status 1; this process ends with it\n")
    assert second[0] == 1
    assert second[1].endswith("ValueError: of process 1 alone\n")
    first, second = ends_by_hand(*[["helpers.numbers_exchanged", tmp_path / "here", 20, "refuse"]] * 2)
    assert first == (2, "error: refused by process 0\n")
    assert second == (2, "error: process 0 has ended with status 2; this process ends with it\n")


def together(*numbers: tuple[int, int], port: int, seconds: float = 20.0) -> list:
    """The bonds, or errors, of processes in threads of this one: (process, number of processes)."""

    def one(process, num_processes):
        try:
            return meet("127.0.0.1", port, num_processes, process, seconds=seconds, lost_after=2.0)
        except (InputError, RunError) as error:
            return error

    with ThreadPoolExecutor() as pool:
        return list(pool.map(one, *zip(*numbers, strict=True)))


def leave(bonds: list) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda bond: bond.leave(), bonds))


def test_those_who_came_say_who_did_not():
    port = free_port()
    output = f"2 of 4 processes came to 127.0.0.1:{port} in 1 s, but not process 1, 3; start all of them"
    for error in together((0, 4), (2, 4), port=port, seconds=1.0):
        assert isinstance(error, RunError)
        assert output in str(error)
    (error,) = together((1, 2), port=port, seconds=0.3)
    assert isinstance(error, RunError)
    assert f"process 0 can't be reached at 127.0.0.1:{port} in 0.3 s (Connection refused)" in str(error)


def test_a_command_says_in_one_line_that_another_process_is_missing(toy_config, capsys):
    join = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", "2", "--join-seconds", "0.3"]
    for process, message in [("0", "but not process 1; start all of them"), ("1", "process 0 can't be reached")]:
        assert command("eval.sweep", toy_config, *join, "--process-id", process) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_other_numbers_of_processes_are_one_line():
    for error in together((0, 2), (1, 3), port=free_port()):
        assert isinstance(error, InputError)
        assert "process 1 was started with --num-processes 3, but process 0 with 2; give all" in str(error)


@pytest.mark.parametrize(
    "words", [b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"member 1 2\n", b"relay no-secret\n", b"\xff" * 100_000]
)
def test_strangers_end_no_run(words):
    port = free_port()
    bonds = together((0, 2), (1, 2), port=port)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as stranger:
        stranger.sendall(words)
        stranger.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            assert stranger.recv(1000).startswith(b"refused" if b"member" in words else b"")
    (error,) = together((1, 2), port=port)
    assert isinstance(error, InputError)
    assert "has no place for a process 1; give every process a different id" in str(error)
    leave(bonds)


def test_process_0_listens_at_the_given_address_alone():
    port = free_port()
    bonds = together((0, 2), (1, 2), port=port)
    listening = [one.laddr for one in psutil.Process().net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    assert [address for address in listening if address.port == port] == [("127.0.0.1", port)]
    assert all(bond.service.parent.stat().st_mode & 0o77 == 0 for bond in bonds)
    leave(bonds)
    assert not any(bond.service.parent.exists() for bond in bonds)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_refused(host):
    with pytest.raises(InputError, match=f"'{host}' is no address of this machine"):
        meet(host, free_port(), 2, 0, seconds=1.0, lost_after=2.0)


def test_other_numbers_of_devices_are_one_line():
    processes._check_devices([0, 0, 1, 1])
    with pytest.raises(InputError, match="process 0 has 2 devices, but process 1 has 1; give all of them as many"):
        processes._check_devices([0, 0, 1])


@pytest.mark.parametrize("length", [0, 7, 64, 1000])
def test_a_value_of_the_terminal_goes_in_pieces(length, monkeypatch):
    """The same arrays on both sides, of few shapes. All are bytes: 64 bits of a size would not pass JAX."""
    sent = []

    def from_process_0(x):
        if processes.is_terminal():
            sent.append(x)
            return x
        mine, theirs = x, sent.pop(0)
        assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
        return theirs

    monkeypatch.setattr(processes, "PIECE_BYTES", 64)
    monkeypatch.setattr(processes, "several", lambda: True)
    monkeypatch.setattr(processes.multihost_utils, "broadcast_one_to_all", from_process_0)
    value = {"text": "x" * length}
    assert processes.from_terminal(lambda: value) is value
    assert {x.dtype for x in sent} == {np.dtype(np.uint8)}
    assert max(x.size for x in sent) <= 64
    assert len({x.shape for x in sent}) <= 6
    monkeypatch.setattr(processes, "is_terminal", lambda: False)
    assert processes.from_terminal(lambda: None) == value
    assert not sent


def test_auto_asks_the_cluster(monkeypatch):
    slurm = {"JOB_ID": "7", "STEP_NODELIST": "n[1-2]", "NTASKS": "2", "PROCID": "1", "LOCALID": "0"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    where, *numbers = processes._resolve_coordinator("auto", None, None)
    assert where.startswith("n1:")
    assert numbers == [2, 1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--coordinator", "nowhere"], "give HOST:PORT"),
        (["--coordinator", "127.0.0.1:99999", "--num-processes", "2", "--process-id", "0"], "give HOST:PORT"),
        (["--coordinator", "127.0.0.1:9999", "--num-processes", "2", "--process-id", "2"], "an id of 0 to P - 1"),
        (["--coordinator", "::1:9999", "--num-processes", "2", "--process-id", "0"], "give HOST:PORT"),
        (["--coordinator", "auto"], "neither SLURM, MPI nor Kubernetes has started this process"),
        (["--num-processes", "2"], "go with --coordinator"),
        (["--join-seconds", "2"], "go with --coordinator"),
        (["--coordinator", "127.0.0.1:9999", "--join-seconds", "nan"], "give a number of seconds above 0"),
        (["--coordinator", "127.0.0.1:9999", "--num-processes", "two"], "invalid int value"),
    ],
)
def test_wrong_flags_are_one_line(flags, message, toy_config, capsys):
    assert command("eval.sweep", toy_config, *flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
