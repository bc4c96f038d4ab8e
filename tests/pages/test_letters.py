"""The checker of the dimension letters sees wrong ranks and unequal letters, in arguments and in local variables."""

import importlib
import sys

import numpy as np
import pytest
from helpers import letters

MODULE = '''
"""A module with letters."""

import numpy as np


def add(x_BT, y_BT):
    """Adds."""
    z_BT = x_BT + y_BT
    for row_T in z_BT:
        if True:
            total_B = z_BT.sum(1)
    return total_B


def rounds_of_a_loop(sizes):
    for size in sizes:
        x_T = np.ones(size)
    return x_T


def wrong_local(x_BT):
    sum_BT = x_BT.sum(1)
    return sum_BT


def wrong_in_a_loop(x_BT):
    for x_B in [x_BT]:
        pass


def wrong_in_a_block(x_BT):
    with open(__file__):
        y_TB = x_BT


def inner(x_BT):
    def other_call(x_BT):
        return x_BT

    return other_call(x_BT.T)
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "lettered.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(letters._Finder, "packages", ("lettered",))
    monkeypatch.setattr(sys, "meta_path", [letters._Finder, *sys.meta_path])
    yield importlib.import_module("lettered")
    del sys.modules["lettered"]


def test_shapes_that_fit_their_names_pass(module):
    np.testing.assert_array_equal(module.add(np.ones((2, 3)), np.ones((1, 3))), [6, 6])
    assert module.inner(np.ones((2, 3))).shape == (3, 2)  # letters of an inner function are its own
    assert len(module.rounds_of_a_loop([2, 3])) == 3  # and those of a round of a loop
    assert module.add.__code__.co_filename.endswith("lettered.py")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda module: module.add(np.ones(2), 1), r"x_BT has 1 axes: \(2,\)"),
        (lambda module: module.add(np.ones((2, 3)), np.ones((2, 4))), "T of y_BT is 4, but T of x_BT is 3"),
        (lambda module: module.wrong_local(np.ones((2, 3))), "sum_BT has 1 axes"),
        (lambda module: module.wrong_in_a_loop(np.ones((2, 3))), "x_B has 2 axes"),
        (lambda module: module.wrong_in_a_block(np.ones((2, 3))), "T of y_TB is 2, but T of x_BT is 3"),
    ],
)
def test_others_are_refused(call, message, module):
    with pytest.raises(letters.LettersError, match=message):
        call(module)


def test_a_package_that_is_imported_already_would_go_unchecked():
    with pytest.raises(ImportError, match="is imported before its letters can be checked"):
        letters.install("helpers")
