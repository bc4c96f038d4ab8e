"""Commands that run in this process."""

import runpy
import sys

import pytest


def command(module: str, *argv: object) -> int:
    """Runs `python -m module argv` in this process; returns the exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module, *map(str, argv)])
        patch.delitem(sys.modules, module, raising=False)  # it runs afresh, as __main__
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=False)
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    return 0
