"""Cases of which the default run takes one."""

from collections.abc import Iterable

import pytest


def one_is_quick(quick: object, cases: Iterable) -> list:
    """All cases, those but one marked as slow."""
    return [case if case == quick else pytest.param(case, marks=pytest.mark.slow) for case in cases]
