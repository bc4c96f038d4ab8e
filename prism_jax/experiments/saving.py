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
    """The checkpoints of a run that saves more of them, see `open_manager`. It ends when they are saved.

    Raises:
      SaveError: if one of them could not be saved.
    """
    manager, shown = open_manager(run), sys.unraisablehook
    sys.unraisablehook = partial(_show, shown)
    try:
        try:
            yield manager
        finally:
            with _explaining(manager):
                manager.close()
    finally:
        if not isinstance(sys.exception(), SaveError):  # after one, threads go on until the process has ended
            sys.unraisablehook = shown


def _show(shown: Callable, unraisable: Any) -> None:
    """Leaves out that threads of TensorStore find nobody to tell of their writes, after one of these has failed."""
    if str(unraisable.exc_value) != "Event loop is closed":
        shown(unraisable)


def save(
    manager: ocp.CheckpointManager | NoCheckpoints,
    step: int,
    state: Any,
    data: grain.DatasetIterator,
    metrics: dict[str, float],
    recipe: str,
) -> None:
    """Saves a state and the position of its data in the background; `finish` waits for it.

    The arrays are saved from the host, so that they can be read where there are other devices, or fewer. `recipe`
    stands for what was trained: a checkpoint of another one is refused.

    Raises:
      RunError: if Orbax does not take it.
      SaveError: if it, or the one before, could not be saved.
    """
    if isinstance(manager, NoCheckpoints):
        return
    state = jax.device_get(state)
    said = {"recipe": recipe, "position": data.get_state(), "sha256": digest_of_state(state)}
    both = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(said))
    with _explaining(manager):
        taken = manager.save(step, args=both, metrics=metrics)
    if not taken:
        raise RunError(
            f"checkpoint {step} was not saved in {manager.directory}; the last one is {manager.latest_step()}"
        )


def finish(manager: ocp.CheckpointManager | NoCheckpoints) -> None:
    """Waits until all checkpoints are saved.

    Raises:
      SaveError: if one of them could not be saved.
    """
    with _explaining(manager):
        manager.wait_until_finished()


@contextmanager
def _explaining(manager: ocp.CheckpointManager | NoCheckpoints) -> Iterator[None]:
    """Says in one line what Orbax, TensorStore or the file system could not do."""
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
