"""Saves checkpoints of a run in the background."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp

from prism_jax.errors import RunError, SaveError, one_line
from prism_jax.experiments.checkpoint import NoCheckpoints, digest_of_state, open_manager, steps_in


@contextmanager
def saving(run: Path) -> Iterator[ocp.CheckpointManager | NoCheckpoints]:
    """Opens the checkpoints of a run to save more of them, see `open_manager`. On exit, waits until all are saved.

    Raises:
      SaveError: if one of them could not be saved.
    """
    manager, original_hook = open_manager(run), sys.unraisablehook
    sys.unraisablehook = partial(_show_unless_closed, original_hook)
    try:
        try:
            yield manager
        finally:
            with _as_save_error(manager):
                manager.close()
    finally:
        if not isinstance(sys.exception(), SaveError):  # after a SaveError, threads run until the process ends
            sys.unraisablehook = original_hook


def _show_unless_closed(original_hook: Callable, unraisable: Any) -> None:
    """Hides errors of TensorStore's threads that can't report their writes after another write has failed."""
    if str(unraisable.exc_value) != "Event loop is closed":
        original_hook(unraisable)


def save(
    manager: ocp.CheckpointManager | NoCheckpoints,
    step: int,
    state: Any,
    data: grain.DatasetIterator,
    metrics: dict[str, float],
    recipe_digest: str,
) -> None:
    """Saves a state and its position in the data in the background. `finish` waits for it.

    Arrays are saved from the host, so that they can be read with other or fewer devices. `restore_last`
    refuses a checkpoint with another `recipe_digest`.

    Raises:
      RunError: if Orbax refuses to save it.
      SaveError: if it, or the previous one, could not be saved.
    """
    if isinstance(manager, NoCheckpoints):
        return
    state = jax.device_get(state)
    metadata = {"recipe": recipe_digest, "position": data.get_state(), "sha256": digest_of_state(state)}
    both = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(metadata))
    with _as_save_error(manager):
        accepted = manager.save(step, args=both, metrics=metrics)
    if not accepted:
        raise RunError(
            f"checkpoint {step} was not saved in {manager.directory}; the last one is {manager.latest_step()}"
        )


def finish(manager: ocp.CheckpointManager | NoCheckpoints) -> None:
    """Waits until all checkpoints are saved.

    Raises:
      SaveError: if one of them could not be saved.
    """
    with _as_save_error(manager):
        manager.wait_until_finished()


@contextmanager
def _as_save_error(manager: ocp.CheckpointManager | NoCheckpoints) -> Iterator[None]:
    """Turns errors of Orbax, TensorStore or the file system into a SaveError of one line."""
    try:
        yield
    except Exception as error:
        if isinstance(manager, NoCheckpoints):
            raise
        steps, code = steps_in(Path(manager.directory).parent), re.search(r"os_error_code='(\d+)'", str(error))
        reason = one_line(error)
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        elif code:
            reason = os.strerror(int(code[1]))
        raise SaveError(
            f"a checkpoint can't be saved in {manager.directory}: {reason}; "
            f"{'those of steps ' + ', '.join(map(str, steps)) + ' are' if steps else 'none is'} there; "
            "when this is mended, go on with --resume"
        ) from error
