"""The training loop: draws a setting, takes a step, scores the held-out examples, saves a checkpoint."""

import json
import math
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any, NoReturn, TypeAlias

import grain
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from prism_jax.errors import RunError
from prism_jax.exchange.setting import Setting
from prism_jax.experiments import checkpoint, saving
from prism_jax.experiments.run_files import read_config
from prism_jax.folders import write
from prism_jax.layers import lora
from prism_jax.metrics import scores
from prism_jax.parallel.processes import from_terminal, is_terminal, on_any
from prism_jax.progress import Progress, say
from prism_jax.tasks.predict import Predictor
from train.clock import Clock
from train.distill import Taught
from train.late_metrics import LateMetrics, StartedStep
from train.log import Log
from train.plan import Plan
from train.step import StepFunction, TrainState, step_key
from train.trainable import combine, without_none

NOTED = ("exchanges", "parts")
"""Fields of `Training` that may change when a run resumes, and change what it is trained through. A line says so."""

LOWEST = -1e30
"""Score of a checkpoint that was not scored, or whose score is undefined."""

Manager: TypeAlias = ocp.CheckpointManager | checkpoint.NoCheckpoints


@dataclass
class Run:
    """State of a run between two steps.

    Attributes:
      plan: the plan of the run.
      steps: a compiled step for each setting of the training.
      frozen: frozen parameters, with None for trained ones.
      teacher: parameters of the teacher, see `train.distill`; None without one.
      state: state after the last step. A step donates it.
      batches: iterator over the batches of all further steps.
      predictor: predicts the held-out examples.
      num_steps: number of steps at the end of the run.
      evaluate_every: number of steps between two evaluations.
      summary: line to print before the first step.
    """

    plan: Plan
    steps: Mapping[Setting, StepFunction]
    frozen: Any
    teacher: Any
    state: TrainState
    batches: grain.DatasetIterator
    predictor: Predictor
    num_steps: int
    evaluate_every: int
    summary: str
    clock: Clock = field(default_factory=Clock, init=False)

    def to_the_end(self) -> dict[str, Any]:
        """Trains up to step `num_steps`, or until the patience is used up. Resumes from the last complete checkpoint,
        if there is one.

        Returns:
          The content of result.json: steps, the best checkpoint's evaluation, and times in seconds.

        Raises:
          InputError: if there are checkpoints, but none is complete and of this run.
          RunError: if the loss is not finite, or training was interrupted.
          SaveError: if a checkpoint could not be saved.
        """
        plan = self.plan
        unreadable = from_terminal(lambda: checkpoint.set_aside_unreadable(plan.folder))
        with saving.saving(plan.folder) as manager:
            self._restore(manager, unreadable)
            first = int(self.state.step)
            if 0 < first < self.num_steps:
                self._note_changes()
            if first < self.num_steps:  # else config.json keeps what the run was trained through
                write(plan.folder / "config.json", json.dumps(plan.config, indent=2))
            print(self.summary, flush=True)
            if first < self.num_steps:
                say("compiling the first step")
            with Log(plan.folder, first, tensorboard=plan.training.tensorboard) as log:
                last = self._train(first, manager, log)
                return self._result(first, last, manager, log)

    def _restore(self, manager: Manager, unreadable: list[str]) -> None:
        """Restores the last complete checkpoint. Prints which ones were skipped, including `unreadable`."""
        state, step, damaged = checkpoint.restore_last(
            manager, without_none(self.state), self.batches, self.plan.recipe_digest
        )
        self.state = jax.tree.unflatten(jax.tree.structure(self.state), jax.tree.leaves(state))
        for reason in (*unreadable, *damaged):
            print(f"passed over: {reason}")
        if self.plan.resume and step is None:
            print(f"no checkpoint in {self.plan.folder} yet; training starts from the beginning")

    def _note_changes(self) -> None:
        """Prints a line for each of `NOTED` that differs from the run in the folder, as its config.json has it."""
        if not is_terminal():
            return
        before: Mapping[str, Any] = read_config(self.plan.folder)["training"]
        now = self.plan.config["training"]
        for name in NOTED:
            if (old := before.get(name)) is not None and list(new := now[name]) != old:
                print(
                    f"note: the run goes on with other training.{name} than before: {' '.join(map(str, old))} until "
                    f"now, {' '.join(map(str, new))} from here on"
                )

    def _train(self, first: int, manager: Manager, log: Log) -> int:
        """Trains from step `first`, and returns the last step."""
        step, late = first, LateMetrics()
        progress = Progress(total=self.num_steps, initial=first, desc="training", unit="step", leave=True)
        compiled = set[tuple[Setting, int]]()
        stopped = spent = False
        with stop_requests() as requests:
            while step < self.num_steps:
                stopped, spent = on_any(bool(requests), self._is_patience_spent(log))
                if stopped or spent:
                    break
                began, setting = self.clock.now(), self._draw(step)
                started, num_tokens = self._start(step, setting)
                step += 1
                evaluate = step % self.evaluate_every == 0 or step == self.num_steps
                self._report(late.push(started), progress, manager, log)
                if evaluate:
                    self._report(late.flush(), progress, manager, log)
                if (setting, num_tokens) in compiled:
                    self.clock.count(self.clock.now() - began)
                compiled.add((setting, num_tokens))
                if evaluate:
                    self._evaluate(step, manager, log)
            self._report(late.flush(), progress, manager, log)
            if step not in manager.all_steps():
                self._save(step, manager, LOWEST)
            saving.finish(manager)
        progress.close()
        if stopped:
            raise RunError(f"stopped at step {step} of {self.num_steps}, which is saved; go on with --resume")
        return step

    def _is_patience_spent(self, log: Log) -> bool:
        patience = self.plan.training.patience
        return patience is not None and log.without_progress >= patience

    def _draw(self, step: int) -> Setting:
        settings = list(self.steps)
        return settings[np.random.default_rng((self.plan.training.seed, step)).integers(len(settings))]

    def _start(self, step: int, setting: Setting) -> tuple[StartedStep, int]:
        """Starts the step after `step`. Returns it, and the length of its batch in tokens."""
        position = self.batches.get_state()
        batch = self.clock.next_of(self.batches)
        key = step_key(self.state, step) if self.plan.training.dropout else None
        runner = self.plan.runners[setting.num_parts]
        on_devices = (runner.split(batch.tokens, key), runner.broadcast(batch.targets))
        given = self.frozen if self.teacher is None else Taught(self.frozen, self.teacher)
        self.state, metrics = self.steps[setting](self.state, given, on_devices, batch.weight_B)
        self.clock.started(metrics["loss"])
        return StartedStep(step + 1, position, metrics), batch.num_tokens

    def _report(self, step: StartedStep | None, progress: Progress, manager: Manager, log: Log) -> None:
        """Shows and logs a finished step. Ends the run if the step was not finite. Does nothing for None."""
        if step is None:
            return
        progress.set_postfix_str(f"loss={float(step.metrics['loss']):.4g}", refresh=False)
        progress.update(step.number - progress.n)
        if not step.metrics["finite"]:
            self._save_before(step, manager)
        if step.number % self.plan.training.log_every == 0:
            values = {name: float(step.metrics[name]) for name in ("loss", "gradient_norm")}
            log.write({"step": step.number, **values, "waited": round(self.clock.waited, 3)})

    def _save_before(self, failed: StartedStep, manager: Manager) -> NoReturn:
        """Saves the state before a step that was not finite, with its position in the data, and ends the run."""
        self.batches.set_state(failed.position)
        last = failed.number - 1
        if last not in manager.all_steps():
            self.state = replace(self.state, finite=jnp.ones_like(self.state.finite))
            self._save(last, manager, LOWEST)
        saving.finish(manager)
        raise RunError(
            f"the loss of step {failed.number} is {float(failed.metrics['loss']):g}, "
            f"or the change that it makes is not finite; the state after step {last} is saved; "
            f"lower training.learning_rate, in a new folder with --start RUN@{last}"
        )

    def _evaluate(self, step: int, manager: Manager, log: Log) -> None:
        """Scores the held-out examples, logs the score and saves a checkpoint with it."""
        task = self.predictor.task
        params = self.predictor.run.replicate(lora.merge(combine(self.state.params, self.frozen)))
        outcomes = self.predictor(params, "held out")
        try:
            predictions = task.predictions(outcomes)
        except RunError:
            self._save(step, manager, LOWEST)
            raise
        assert task.labels is not None
        values = {name: float(scores.METRICS[name].value(predictions, task.labels)) for name in task.metrics}
        chosen = scores.METRICS[task.metrics[0]]
        score = values[chosen.name] if chosen.higher_is_better else -values[chosen.name]
        score = score if math.isfinite(score) else LOWEST
        held_out = {f"held_out_{name}": x if math.isfinite(x) else None for name, x in values.items()}
        log.write({"step": step, checkpoint.SCORE: score, **held_out})
        self._save(step, manager, score)

    def _save(self, step: int, manager: Manager, score: float) -> None:
        state, metrics = without_none(self.state), {checkpoint.SCORE: score}
        saving.save(manager, step, state, self.batches, metrics, self.plan.recipe_digest)

    def _result(self, first: int, last: int, manager: Manager, log: Log) -> dict[str, Any]:
        best, clock = manager.best_step(), self.clock
        return {
            "first_step": first,
            "step": last,
            "best_step": best,
            "evaluation": next((line for line in log.evaluations if line["step"] == best), None),
            "seconds": round(log.seconds, 1),
            "seconds_a_step": round(clock.stepping / clock.steps, 3) if clock.steps else None,
            "share_of_time_waiting_for_data": round(clock.waited / clock.stepping, 4) if clock.steps else None,
        }


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Yields a list of received stop signals (Ctrl-C, SIGTERM). The second signal stops the process at once."""
    requests: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if requests:
            raise KeyboardInterrupt
        requests.append(number)

    handlers = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requests
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
