"""Entry points and parts of training. Run from the checkout: `python -m train.finetune configs/X.py`."""
