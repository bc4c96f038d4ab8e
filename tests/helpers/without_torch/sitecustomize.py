"""Hides PyTorch from the processes that tests start, as where it is not installed.

Where it is, transformers imports it: more than a second of each process, which none of them needs.
"""

import sys
from importlib.machinery import PathFinder


class WithoutTorch(PathFinder):
    """Finds modules on the path, but not PyTorch."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        return None if fullname == "torch" else super().find_spec(fullname, path, target)


sys.meta_path = [WithoutTorch if finder is PathFinder else finder for finder in sys.meta_path]
