r"""A [CLS] on every part of a BERT that was fine-tuned on one device, see prism_jax/models/class_tokens.py.
Texts are padded on the right.

python -m eval.sweep configs/ideas/newsgroups_class_tokens.py --base runs/exact --out runs/class_tokens
"""

from dataclasses import replace

import jax.numpy as jnp

from prism_jax.experiments import recipe as configs
from prism_jax.models import bert
from prism_jax.models.class_tokens import mean_of_class_rows, with_class_row

CLS = 101
"""Of BERT's uncased vocabulary."""


class Encoder(bert.BertEncoder):
    def __call__(self, tokens, layout, exchange):
        first = jnp.array(0)
        class_D = self.norm(self.token(jnp.array(CLS)) + self.type(first) + self.position(first))
        return with_class_row(self.blocks, self.embed(tokens, layout), class_D, layout, exchange)


class ClassTokens(bert.BertForSequenceClassification):
    encoder_class = Encoder

    def head(self, rows_BRD, real_BN, keys_B=None):
        return super().head(mean_of_class_rows(rows_BRD, real_BN), real_BN, keys_B)


config = replace(configs.load("configs/bert_newsgroups.py"), model=ClassTokens)
