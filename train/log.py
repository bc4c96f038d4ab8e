"""What a run says of itself: metrics.jsonl, and TensorBoard's files where they are asked for."""

import importlib.util
import json
import time
from pathlib import Path
from typing import Any

from prism_jax import records
from prism_jax.cli.entry import write
from prism_jax.errors import InputError
from prism_jax.experiments.run_files import Line


class Log:
    """Lines of JSON, one for some steps and one for each evaluation, which holds a `score`.

    Lines after the step that training goes on from are dropped, and lines that can't be read are set aside: checkpoints, not the
    log, are what a run goes on from. Each line ends with `seconds`, what the run has taken so far without its interruptions, and
    `time`, that of the day since 1970.
    """

    def __init__(self, out: Path, step: int, *, tensorboard: bool = False):
        self._path, self._events = out / "metrics.jsonl", None
        self._lines = [line for line in self._read(out / "damaged") if line["step"] <= step]
        self._before = max((line.get("seconds", 0.0) for line in self._lines), default=0.0)
        self._began = time.perf_counter()
        write(self._path, "".join(f"{json.dumps(line)}\n" for line in self._lines))
        if tensorboard:
            check_tensorboard()
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def _read(self, damaged: Path) -> list[dict[str, Any]]:
        """The lines that are there; what can't be read is kept in the folder `damaged`, with a line that says so."""
        lines = self._path.read_bytes().split(b"\n")[:-1] if self._path.exists() else []  # the last may be half written
        read = [_values(line) for line in lines]
        if broken := [i for i, values in enumerate(read) if values is None]:
            damaged.mkdir(exist_ok=True)
            with (damaged / self._path.name).open("ab") as file:
                file.writelines(lines[i] + b"\n" for i in broken)
            print(
                f"passed over: line {', '.join(str(i + 1) for i in broken)} of {self._path}, now in {damaged / self._path.name}: it can't be "
                "read; an evaluation that stood there does not count for training.patience"
            )
        return [values for values in read if values is not None]

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *error: object) -> None:
        if self._events:
            self._events.close()

    def write(self, values: dict[str, Any]) -> None:
        """A line of values of a `step`, on disk at once."""
        values = values | {"seconds": round(self.seconds, 3), "time": time.time()}
        self._lines.append(values)
        with self._path.open("a") as file:
            file.write(json.dumps(values) + "\n")
        for name, value in values.items():
            if self._events and name not in ("step", "seconds", "time") and value is not None:
                self._events.add_scalar(name, value, values["step"])

    @property
    def seconds(self) -> float:
        """What the run has taken, up to the step that it went on from and since then."""
        return self._before + time.perf_counter() - self._began

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        return [line for line in self._lines if "score" in line]

    @property
    def without_progress(self) -> int:
        """Evaluations since the best one."""
        scores = [line["score"] for line in self.evaluations]
        return len(scores) - 1 - scores.index(max(scores)) if scores else 0


def _values(line: bytes) -> Any:
    """What a line says; None for what no run writes."""
    try:
        return records.parse(line, Line)
    except ValueError:
        return None


def check_tensorboard() -> None:
    """Raises InputError if TensorBoard's files can't be written."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise InputError("training.tensorboard needs tensorboardX; run: pip install 'prism_jax[tensorboard]'")
