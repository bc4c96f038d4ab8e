"""Entry points and modules of training. Run from the checkout: `python -m train.finetune configs/X.py`."""
