"""Heads that several families have."""

import flax.linen as nn

from prism_jax.layers.config import TransformerConfig
from prism_jax.layers.transformer import head_dense


class TwoLayerClassifier(nn.Module):
    """The two layers of a classifier, `dense` from D to D and `out_proj` to C. What is between them is the model's."""

    stack: TransformerConfig
    num_labels: int

    def setup(self):
        self.dense = head_dense(self.stack.features, self.stack)
        self.out_proj = head_dense(self.num_labels, self.stack)
