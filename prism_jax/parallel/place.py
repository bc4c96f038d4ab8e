"""Choice between the two runners."""

from collections.abc import Collection
from typing import Literal

from prism_jax.parallel.mesh import emulate_devices, on_mesh
from prism_jax.parallel.one_device import on_one_device
from prism_jax.parallel.processes import refuse_several
from prism_jax.parallel.runner import GenerationRunner

Place = Literal["mesh", "one_device"]
"""Where the parts run: on a device each, or all on the same device."""


def make_runner(place: Place, num_parts: int) -> GenerationRunner:
    """Returns a runner of `num_parts` parts.

    Raises:
      InputError: if there are too few devices.
    """
    return on_mesh(num_parts) if place == "mesh" else on_one_device(num_parts)


def make_runners(on: Place, numbers: Collection[int]) -> dict[int, GenerationRunner]:
    """Returns a runner for each number of parts, as requested by the flag `--on`. Emulates devices where a CPU has too
    few.

    Raises:
      InputError: if there are too few devices, or `--on one_device` is used with several processes.
    """
    if on == "one_device":
        refuse_several("--on one_device runs")
    else:
        emulate_devices(max(numbers))
    return {num_parts: make_runner(on, num_parts) for num_parts in numbers}
