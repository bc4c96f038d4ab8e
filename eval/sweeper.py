"""The rows of a sweep: run, or taken from what ran before."""

from collections.abc import Mapping

import numpy as np

from eval import store
from eval.grid import BASE, CONTROL, ONE_DEVICE, TUNED, Planned
from eval.rows import failed_row, recovery_row
from eval.scoring import Scoring, complete, measure
from prism_jax.errors import InputError
from prism_jax.prediction import Predictor, Setting
from prism_jax.processes import from_terminal, several
from prism_jax.runners import Runner


class Sweeper:
    """Runs planned rows, and takes from the store those that ran before.

    Attributes:
      rows: finished, as they stand in results.json.
    """

    def __init__(self, scorings: Mapping[int, Scoring], rows: store.Store, runners: Mapping[int, Runner]):
        """
        Args:
          scorings: model and examples, by N.
          rows: what ran before.
          runners: by P.
        """
        self.rows = list[dict]()
        self._scorings, self._store, self._runners = scorings, rows, runners
        self._predictor: Predictor | None = None
        self._kept: dict[tuple[int, Setting, str], np.ndarray] = {}
        self._library = store.digest_of_library()
        one = next(iter(scorings.values()))
        self._model, params = store.digest_of_model(one.model), one.params
        self._params = {kind: store.digest_of_params(of) for kind, of in params.items()}
        self._tasks = {N: store.digest_of_task(one.task, N) for N, one in scorings.items()}

    def __call__(self, planned: Planned) -> dict:
        """The row; one that fails says why under "error"."""
        N, setting, weights = planned.num_tokens, planned.setting, planned.weights
        scoring, kept = self._scorings[N], self._kept
        whose = BASE if weights in (TUNED, CONTROL) else weights
        try:
            if planned.impossible:
                raise InputError(planned.impossible)
            measured, outcomes = self._measured(planned)
            row = complete(scoring, setting, weights, measured, outcomes, kept.get((N, ONE_DEVICE, whose)))
            if weights == TUNED:
                others = ((N, setting, BASE), (N, ONE_DEVICE, CONTROL), (N, ONE_DEVICE, BASE))
                row |= recovery_row(scoring.task, outcomes, *map(kept.get, others))
            kept[N, setting, weights] = outcomes
        except Exception as error:
            if several() and not isinstance(error, InputError):
                raise  # the others may not have failed, and wait
            row = failed_row(scoring.task, planned, error)
        self.rows.append(row)
        return row

    def _measured(self, planned: Planned) -> tuple[dict, np.ndarray]:
        scoring, setting = self._scorings[planned.num_tokens], planned.setting
        run = self._runners[setting.num_parts]
        experiment = scoring.experiment
        key = store.digest(
            self._library,
            store.digest_of_exchange(setting),
            self._params[planned.weights],
            self._tasks[planned.num_tokens],
            self._model,
            (setting.num_parts, experiment.num_tokens, scoring.buckets, experiment.batch_size, type(run).__name__),
        )
        if found := from_terminal(lambda: self._store.load(key)):
            return found
        predictor = self._predictor
        if predictor is None or predictor.task is not scoring.task or predictor.setting != setting:
            predictor = Predictor(scoring.model, scoring.task, setting, run, experiment.batch_size, scoring.buckets)
            self._predictor = predictor
        measured, outcomes = measure(scoring, predictor, planned.weights)
        self._store.save(key, measured, outcomes)
        return measured, outcomes
