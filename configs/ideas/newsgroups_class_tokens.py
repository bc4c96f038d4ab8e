r"""A [CLS] on every part of a BERT that was fine-tuned on one device, see prism_jax/models/class_tokens.py.

python -m eval.sweep configs/ideas/newsgroups_class_tokens.py --base runs/exact --out runs/class_tokens
"""

from dataclasses import replace

from prism_jax.experiments import recipe as configs
from prism_jax.models.bert import BertWithClassTokens

config = replace(configs.load("configs/bert_newsgroups.py"), model=BertWithClassTokens)
