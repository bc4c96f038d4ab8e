"""Commands that score, measure and report. Run from the checkout: `python -m eval.sweep configs/X.py`."""
