"""Runs the records of a sweep, or takes them from the store of earlier runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.scoring.load import Scoring
from eval.scoring.measure import Measured, References, measure, record
from eval.scoring.rows import failed_row
from eval.scoring.variants import BASE, CONTROL, ONE_DEVICE, TUNED, Planned
from eval.sweeping import store
from prism_jax.errors import InputError
from prism_jax.exchange import arrays
from prism_jax.exchange.setting import Setting
from prism_jax.parallel.processes import from_terminal, several
from prism_jax.parallel.runner import PlacedRunner
from prism_jax.tasks.predict import Predictor
from prism_jax.trees import flatten

RecordId = tuple[int, Setting, str]
"""N, the setting, and the kind of weights of a record."""


class Sweeper:
    """Runs planned records. Loads records of earlier runs first, so that none of them is missing in results.json."""

    def __init__(
        self,
        planned: Sequence[Planned],
        scorings: Mapping[int, Scoring],
        rows: store.Store,
        runners: Mapping[int, PlacedRunner],
    ):
        """
        Args:
          planned: all planned records.
          scorings: model and examples, by N.
          rows: store of earlier runs.
          runners: runners by P.
        """
        self._planned, self._scorings, self._store, self._runners = planned, scorings, rows, runners
        self._predictor: Predictor | None = None
        self._failed: dict[Planned, dict] = {}
        self._rows: dict[Planned, tuple[list[bool], dict]] = {}
        possible = [row for row in planned if not row.impossible]
        self._keys = self._keys_of(possible)
        stored = from_terminal(lambda: [self._store.load(self._keys[_record_id(row)]) for row in possible])
        self._measured: dict[str, Measured] = {
            self._keys[_record_id(row)]: measured for row, measured in zip(possible, stored, strict=True) if measured
        }
        for row in planned:
            if row.impossible:
                self._fail(row, InputError(row.impossible))

    def __call__(self, planned: Planned) -> dict:
        """Returns a record. If it fails, its field "error" has the reason."""
        if planned not in self._failed and not self._at(_record_id(planned)):
            key = self._keys[_record_id(planned)]
            try:
                self._measured[key] = self._measure(planned)
            except Exception as error:
                self._fail(planned, error)
            else:
                self._store.save(key, self._measured[key])
        return self._row(planned)

    @property
    def rows(self) -> list[dict]:
        """The records so far, in the order of the plan."""
        return [self._row(row) for row in self._planned if row in self._failed or self._at(_record_id(row))]

    def _at(self, record_id: RecordId) -> Measured | None:
        return self._measured.get(self._keys.get(record_id, ""))

    def _row(self, planned: Planned) -> dict:
        """Returns a record. Builds it again when a record that it is compared with has been added."""
        if planned in self._failed:
            return self._failed[planned]
        num_tokens, setting, weights = record_id = _record_id(planned)
        one_device = (num_tokens, ONE_DEVICE, BASE if weights in (TUNED, CONTROL) else weights)
        compared = (one_device, (num_tokens, setting, BASE), (num_tokens, ONE_DEVICE, CONTROL))
        present = [self._at(other) is not None for other in compared]
        if self._rows.get(planned, (None, None))[0] != present:
            measured = self._at(record_id)
            assert measured is not None
            references = References(*(None if other == record_id else self._outcomes(other) for other in compared))
            try:
                fields = record(self._scorings[num_tokens], setting, weights, measured, references)
            except Exception as error:
                return self._fail(planned, error)
            self._rows[planned] = present, fields
        return self._rows[planned][1]

    def _outcomes(self, record_id: RecordId) -> np.ndarray | None:
        measured = self._at(record_id)
        return None if measured is None else measured.outcomes

    def _fail(self, planned: Planned, error: Exception) -> dict:
        if several() and not isinstance(error, InputError):
            raise error  # the other processes may not have failed, and are waiting
        self._failed[planned] = failed_row(self._scorings[planned.num_tokens].task, planned, error)
        return self._failed[planned]

    def _keys_of(self, rows: Sequence[Planned]) -> dict[RecordId, str]:
        """Returns for each record a digest of all its inputs."""
        first = next(iter(self._scorings.values()))
        library = store.digest_of_library("eval.scoring.measure", "eval.scoring.rows")
        model = store.digest_of_model(first.model)
        params = {kind: flatten(variant.params) for kind, variant in first.variants.items()}
        weights = {
            kind: store.digest_of_params({path: x for path, x in flat.items() if path.split("/")[0] != arrays.EXCHANGE})
            for kind, flat in params.items()
        }
        stack = first.model.config.stack
        tasks = {N: store.digest_of_task(scoring.task, N) for N, scoring in self._scorings.items()}

        def key(row: Planned) -> str:
            scoring, setting = self._scorings[row.num_tokens], row.setting
            numbers: tuple[Any, ...] = (setting.num_parts, row.num_tokens, scoring.buckets)
            numbers += (scoring.experiment.batch_size, type(self._runners[setting.num_parts]).__name__)
            exchange = store.digest_of_exchange(setting)
            own = arrays.stated(setting.exchange, stack.num_layers, stack.width_of)
            exchange_arrays = store.digest_of_params({path: params[row.weights][path] for path in own})
            inputs = exchange, exchange_arrays, weights[row.weights], tasks[row.num_tokens], model, numbers
            return store.digest(library, *inputs)

        return {_record_id(row): key(row) for row in rows}

    def _measure(self, planned: Planned) -> Measured:
        scoring, setting = self._scorings[planned.num_tokens], planned.setting
        predictor = self._predictor
        if predictor is None or predictor.task is not scoring.task or predictor.setting != setting:
            predictor = self._predictor = scoring.predictor(setting, self._runners[setting.num_parts])
        return measure(scoring, predictor, planned.weights)


def _record_id(planned: Planned) -> RecordId:
    return planned.num_tokens, planned.setting, planned.weights
