"""Prints versions, devices and machine, for a bug report.

python -m eval.environment
    -> JSON on stdout
"""

import json
import platform
import sys
from dataclasses import dataclass
from importlib import metadata

import prism_jax as pj
from eval.reporting import files
from prism_jax.cli import flags
from prism_jax.cli.entry import run

PACKAGES = ("jaxlib", "flax", "optax", "numpy", "transformers", "orbax-checkpoint", "datasets", "grain")
"""Distributions whose versions are printed beside those of results.json."""


@dataclass(frozen=True)
class Environment:
    """Has no flags."""


def main(argv: list[str]) -> None:
    flags.parse_flags(Environment, __doc__, argv)
    packages = {name: metadata.version(name) for name in PACKAGES}
    described = {"prism_jax": pj.__version__} | files.environment() | packages | {"system": platform.platform()}
    print(json.dumps(described, indent=2))


if __name__ == "__main__":
    run(main, sys.argv[1:])
