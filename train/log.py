"""Log of a run: metrics.jsonl, and files for TensorBoard on request."""

import importlib.util
import json
import time
from pathlib import Path
from typing import Any

from prism_jax import records
from prism_jax.errors import InputError
from prism_jax.experiments.run_files import Line
from prism_jax.folders import write


class Log:
    """Writes lines of JSON: one for some steps, and one with a `score` for each evaluation.

    A run resumes from a checkpoint, not from its log. So lines after the checkpoint's step are dropped, and lines that
    can't be read are moved aside. Each line ends with `seconds`, the duration of the run so far without its
    interruptions, and with `time`, in seconds since 1970.

    Args:
      out: folder of metrics.jsonl.
      step: step that the run resumes from.
      tensorboard: whether to also write files for TensorBoard.

    Attributes:
      evaluations: lines with a score.
      without_progress: number of evaluations since the best one.
    """

    def __init__(self, out: Path, step: int, *, tensorboard: bool = False) -> None:
        self._path, self._events = out / "metrics.jsonl", None
        self.evaluations: list[dict[str, Any]] = []
        self.without_progress, self._best = 0, float("-inf")
        lines = [line for line in self._read(out / "damaged") if line["step"] <= step]
        for line in lines:
            self._note(line)
        self._before = max((line.get("seconds", 0.0) for line in lines), default=0.0)
        self._began = time.perf_counter()
        write(self._path, "".join(f"{json.dumps(line)}\n" for line in lines))
        if tensorboard:
            check_tensorboard()
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def _read(self, damaged: Path) -> list[dict[str, Any]]:
        """Returns the lines of the file. Lines that can't be read are moved into the folder `damaged`, and reported."""
        lines = (
            self._path.read_bytes().split(b"\n")[:-1] if self._path.exists() else []
        )  # the last line may be incomplete
        read = [_values(line) for line in lines]
        if broken := [i for i, values in enumerate(read) if values is None]:
            damaged.mkdir(exist_ok=True)
            with (damaged / self._path.name).open("ab") as file:
                file.writelines(lines[i] + b"\n" for i in broken)
            print(
                f"passed over: line {', '.join(str(i + 1) for i in broken)} of {self._path}, now in "
                f"{damaged / self._path.name}: it can't be read; an evaluation that stood there does not count for "
                "training.patience"
            )
        return [values for values in read if values is not None]

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *error: object) -> None:
        if self._events:
            self._events.close()

    def write(self, values: dict[str, Any]) -> None:
        """Writes a line with the values of a `step`, immediately to disk."""
        values = values | {"seconds": round(self.seconds, 3), "time": time.time()}
        self._note(values)
        with self._path.open("a") as file:
            file.write(json.dumps(values) + "\n")
        for name, value in values.items():
            if self._events and name not in ("step", "seconds", "time") and value is not None:
                self._events.add_scalar(name, value, values["step"])

    def _note(self, line: dict[str, Any]) -> None:
        """Counts a line if it is an evaluation. A score equal to the best one is no progress."""
        if "score" not in line:
            return
        self.evaluations.append(line)
        self.without_progress = 0 if line["score"] > self._best else self.without_progress + 1
        self._best = max(self._best, line["score"])

    @property
    def seconds(self) -> float:
        """Seconds of the run so far, without its interruptions."""
        return self._before + time.perf_counter() - self._began


def _values(line: bytes) -> Any:
    """Returns the values of a line, or None if it is damaged."""
    try:
        return records.parse(line, Line)
    except ValueError:
        return None


def check_tensorboard() -> None:
    """Checks that files for TensorBoard can be written.

    Raises:
      InputError: if tensorboardX is not installed.
    """
    if importlib.util.find_spec("tensorboardX") is None:
        raise InputError("training.tensorboard needs tensorboardX; run: pip install 'prism_jax[tensorboard]'")
