"""Hides PyTorch from the processes that tests start, as where it is not installed.

Where it is, transformers imports it: more than a second of each process, which none of them needs.
"""

import sys

sys.modules["torch"] = None  # it can't be imported, and importlib finds none
