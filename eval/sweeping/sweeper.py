"""The rows of a sweep: run, or taken from what ran before."""

from collections.abc import Mapping, Sequence

import numpy as np

from eval.scoring.measure import Scoring, complete, measure
from eval.scoring.rows import Recovery, failed_row
from eval.scoring.variants import BASE, CONTROL, ONE_DEVICE, TUNED, Planned
from eval.sweeping import store
from prism_jax.errors import InputError
from prism_jax.exchange.setting import Setting
from prism_jax.parallel.processes import from_terminal, several
from prism_jax.parallel.runner import PlacedRunner
from prism_jax.tasks.predict import Predictor


class Sweeper:
    """Runs planned rows, and takes from the store those that ran before: all of these first, so that none is ever missing."""

    def __init__(
        self,
        planned: Sequence[Planned],
        scorings: Mapping[int, Scoring],
        rows: store.Store,
        runners: Mapping[int, PlacedRunner],
    ):
        """
        Args:
          planned: all rows to come.
          scorings: model and examples, by N.
          rows: what ran before.
          runners: by P.
        """
        self._planned, self._scorings, self._store, self._runners = planned, scorings, rows, runners
        self._predictor: Predictor | None = None
        self._measured: dict[tuple[int, Setting, str], tuple[dict, np.ndarray]] = {}
        self._failed: dict[Planned, dict] = {}
        self._rows: dict[Planned, tuple[list[bool], dict]] = {}
        self._library = store.digest_of_library("eval.scoring.measure", "eval.scoring.rows")
        one = next(iter(scorings.values()))
        self._model, params = store.digest_of_model(one.model), one.params
        self._params = {kind: store.digest_of_params(of) for kind, of in params.items()}
        self._tasks = {N: store.digest_of_task(one.task, N) for N, one in scorings.items()}
        for row in planned:
            if row.impossible:
                self._fail(row, InputError(row.impossible))
            else:
                self._is_stored(row)

    def __call__(self, planned: Planned) -> dict:
        """The row; one that fails says why under "error"."""
        if not (planned in self._failed or _place(planned) in self._measured or self._is_stored(planned)):
            try:
                measured, outcomes = self._measure(planned)
            except Exception as error:
                self._fail(planned, error)
            else:
                self._store.save(self._key(planned), measured, outcomes)
                self._measured[_place(planned)] = measured, outcomes
        return self._row(planned)

    @property
    def rows(self) -> list[dict]:
        """The rows that are there, in the order of the plan, as they stand in results.json."""
        return [self._row(one) for one in self._planned if one in self._failed or _place(one) in self._measured]

    def _row(self, planned: Planned) -> dict:
        """Made once, and once more when what it is compared with has come."""
        if planned in self._failed:
            return self._failed[planned]
        N, setting, weights = _place(planned)
        whose = (N, ONE_DEVICE, BASE if weights in (TUNED, CONTROL) else weights)
        others = (whose, (N, setting, BASE), (N, ONE_DEVICE, CONTROL), (N, ONE_DEVICE, BASE))
        there = [place in self._measured for place in others]
        if self._rows.get(planned, (None, None))[0] != there:
            scoring, (measured, outcomes) = self._scorings[N], self._measured[N, setting, weights]
            one_device, *of_recovery = (self._measured.get(place, (None, None))[1] for place in others)
            reference = None if whose == _place(planned) else one_device
            try:
                row = complete(scoring, setting, weights, measured, outcomes, reference)
                if weights == TUNED:
                    recovery = Recovery.of(scoring.task, outcomes, *of_recovery)
                    row |= recovery.to_json() if recovery else {}
            except Exception as error:
                return self._fail(planned, error)
            self._rows[planned] = there, row
        return self._rows[planned][1]

    def _fail(self, planned: Planned, error: Exception) -> dict:
        if several() and not isinstance(error, InputError):
            raise error  # the others may not have failed, and wait
        self._failed[planned] = failed_row(self._scorings[planned.num_tokens].task, planned, error)
        return self._failed[planned]

    def _is_stored(self, planned: Planned) -> bool:
        if found := from_terminal(lambda: self._store.load(self._key(planned))):
            self._measured[_place(planned)] = found
        return found is not None

    def _key(self, planned: Planned) -> str:
        """Of all that a row follows from."""
        scoring, setting = self._scorings[planned.num_tokens], planned.setting
        experiment = scoring.experiment
        return store.digest(
            self._library,
            store.digest_of_exchange(setting),
            self._params[planned.weights],
            self._tasks[planned.num_tokens],
            self._model,
            (
                setting.num_parts,
                experiment.num_tokens,
                scoring.buckets,
                experiment.batch_size,
                type(self._runners[setting.num_parts]).__name__,
            ),
        )

    def _measure(self, planned: Planned) -> tuple[dict, np.ndarray]:
        scoring, setting = self._scorings[planned.num_tokens], planned.setting
        predictor = self._predictor
        if predictor is None or predictor.task is not scoring.task or predictor.setting != setting:
            run, batch_size = self._runners[setting.num_parts], scoring.experiment.batch_size
            predictor = Predictor(scoring.model, scoring.task, setting, run, batch_size, scoring.buckets)
            self._predictor = predictor
        return measure(scoring, predictor, planned.weights)


def _place(planned: Planned) -> tuple[int, Setting, str]:
    return planned.num_tokens, planned.setting, planned.weights
