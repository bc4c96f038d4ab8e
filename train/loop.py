"""The training loop: draw an exchange, take a step, score what is held out, keep a checkpoint."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import grain
import jax
import jax.numpy as jnp
import numpy as np

from prism_jax.errors import RunError
from prism_jax.exchange.setting import Setting
from prism_jax.experiments import checkpoint, saving
from prism_jax.experiments.recipe import Training
from prism_jax.layers import lora
from prism_jax.metrics import scores
from prism_jax.parallel.processes import from_terminal, on_any
from prism_jax.parallel.runner import PlacedRunner
from prism_jax.tasks.predict import Predictor
from prism_jax.trees import flatten, unflatten
from train.clock import Clock, Progress
from train.log import Log
from train.step import TrainState, step_key

LOWEST = -1e30
"""The score of a checkpoint that was not scored, or whose score is undefined."""


@dataclass
class Run:
    """A run under way.

    Attributes:
      steps: a compiled step for each setting that is trained through.
      runners: by number of parts.
      frozen: parameters that stay as they are, by path.
      training: the recipe.
      recipe: its digest, which checkpoints carry.
      predictor: for the held-out examples.
    """

    steps: dict[Setting, Callable]
    runners: dict[int, PlacedRunner]
    frozen: dict[str, Any]
    training: Training
    recipe: str
    predictor: Predictor
    clock: Clock = field(default_factory=Clock, init=False)

    def to_the_end(
        self, state: TrainState, batches: grain.DatasetIterator, num_steps: int, every: int, manager, log: Log
    ) -> dict:
        """Steps, evaluations and checkpoints up to step `num_steps`, or until `patience` is spent."""
        first = step = int(state.step)
        pending, compiled = None, set[tuple[Setting, int]]()
        progress = Progress(step, num_steps)
        with stopping() as stop:
            stopped = False
            while step < num_steps and not stopped and not from_terminal(lambda: self._out_of_patience(log)):
                began, position, setting = time.perf_counter(), batches.get_state(), self._draw(step)
                state, shown, num_tokens = self._step(state, step, setting, batches)
                step += 1
                before, pending = pending, (step, shown, position)
                finite = self._look_at(before, progress, log)
                evaluate = step % every == 0 or step == num_steps
                stopped = on_any(bool(stop))
                if finite and (evaluate or stopped):
                    before, pending = pending, None
                    finite = self._look_at(before, progress, log)
                if (setting, num_tokens) in compiled:
                    self.clock.count(time.perf_counter() - began)
                compiled.add((setting, num_tokens))
                if not finite:
                    self._keep_last_good(state, before, batches, manager)
                if evaluate:
                    self._evaluate(state, step, batches, manager, log)
            if step not in manager.all_steps():
                self._save(manager, step, state, batches, LOWEST)
            saving.finish(manager)
        progress.close()
        if stopped and step < num_steps:
            raise RunError(f"stopped at step {step} of {num_steps}, which is saved; go on with --resume")
        clock = self.clock
        return {
            "first_step": first,
            "step": step,
            "best_step": manager.best_step(),
            "evaluation": next((line for line in log.evaluations if line["step"] == manager.best_step()), None),
            "seconds": round(log.seconds, 1),
            "seconds_a_step": round(clock.stepping / clock.steps, 3) if clock.steps else None,
            "share_of_time_waiting_for_data": round(clock.waited / clock.stepping, 4) if clock.steps else None,
        }

    def _step(self, state, step, setting, batches):
        batch = self.clock.next_of(batches)
        key = step_key(state, step) if self.training.dropout else None
        runner = self.runners[setting.num_parts]
        on_devices = (runner.split(batch.tokens, key), runner.broadcast(batch.targets))
        state, shown = self.steps[setting](state, self.frozen, on_devices, batch.weight_B)
        self.clock.started(shown["loss"])
        return state, shown, batch.num_tokens

    def _draw(self, step: int) -> Setting:
        settings = list(self.steps)
        return settings[np.random.default_rng((self.training.seed, step)).integers(len(settings))]

    def _look_at(self, pending, progress, log) -> bool:
        """Reads the metrics of a step, one step late, so that the next one is already under way. Whether it was finite."""
        if pending is None:
            return True
        step, shown = pending[0], jax.device_get(pending[1])
        progress.at(step, float(shown["loss"]))
        if shown["finite"] and step % self.training.log_every == 0:
            values = {name: float(shown[name]) for name in ("loss", "gradient_norm")}
            log.write({"step": step, **values, "waited": round(self.clock.waited, 3)})
        return bool(shown["finite"])

    def _keep_last_good(self, state, failed, batches, manager) -> NoReturn:
        """Saves the state as it was before the step that failed, with its place in the data, and ends the run."""
        step, shown, position = failed
        batches.set_state(position)
        if step - 1 not in manager.all_steps():
            state = replace(state, finite=jnp.ones_like(state.finite))
            self._save(manager, step - 1, state, batches, LOWEST)
        saving.finish(manager)
        raise RunError(
            f"the loss of step {step} is {float(shown['loss']):g}, or the change that it makes is not finite; the state after step "
            f"{step - 1} is saved; lower training.learning_rate, in a new folder with --start RUN@{step - 1}"
        )

    def _evaluate(self, state, step, batches, manager, log) -> None:
        task, params = self.predictor.task, lora.merge(unflatten(self.frozen | flatten(state.params)))
        params = self.predictor.run.replicate(params)
        outcomes = self.predictor(params, "held out")
        try:
            predictions = task.predictions(outcomes)
        except RunError:
            self._save(manager, step, state, batches, LOWEST)
            raise
        assert task.labels is not None
        values = {name: float(scores.METRICS[name].value(predictions, task.labels)) for name in task.metrics}
        chosen = scores.METRICS[task.metrics[0]]
        score = values[chosen.name] if chosen.higher_is_better else -values[chosen.name]
        score = score if math.isfinite(score) else LOWEST
        held_out = {f"held_out_{name}": x if math.isfinite(x) else None for name, x in values.items()}
        log.write({"step": step, checkpoint.SCORE: score, **held_out})
        self._save(manager, step, state, batches, score)

    def _save(self, manager, step, state, batches, score: float) -> None:
        saving.save(manager, step, state, batches, {checkpoint.SCORE: score}, self.recipe)

    def _out_of_patience(self, log: Log) -> bool:
        return self.training.patience is not None and log.without_progress >= self.training.patience


@contextmanager
def stopping() -> Iterator[list]:
    """A list that is filled when the process is asked to stop (Ctrl-C, SIGTERM); asked once more, it stops at once."""
    asked: list[int] = []

    def ask(number, frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
