"""DistilBERT (arXiv 1910.01108), equal to Hugging Face's `DistilBertModel` and the heads on it: BERT's blocks, without
token types and without a pooler. For its batches, see `models.bert`.

In training, `stack.dropout` also drops outputs of attention, as in BERT. Hugging Face's model does not drop these.
"""

from typing import ClassVar

import jax

from prism_jax.layers.dropout import dropout
from prism_jax.models.bert import (
    AbstractBert,
    BertForMaskedLM,
    BertForSentenceEmbedding,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertWithClassTokens,
)
from prism_jax.models.heads import TwoLayerClassifier


class DistilBertModel(AbstractBert):
    """Every hidden state."""

    def setup(self):
        self.encoder = self.encoder_class(self.config)

    def head(self, rows_BRD: jax.Array, real_BN: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Returns hidden states [B, N, D]."""
        return rows_BRD[:, : real_BN.shape[1]]


class DistilBertForSequenceClassification(BertForSequenceClassification):
    """Logits from the class row: a dense layer, ReLU, and the output layer."""

    label_layers: ClassVar[tuple[str, ...]] = ("classifier/out_proj",)

    def setup(self):
        self.encoder = self.encoder_class(self.config)
        self.classifier = TwoLayerClassifier(self.config.stack, self.config.num_labels)  # type: ignore[assignment]

    def head(self, rows_BRD: jax.Array, real_BN: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Returns logits [B, C]."""
        hidden_BD = jax.nn.relu(self.classifier.dense(self.class_row(rows_BRD, real_BN)))
        return self.classifier.out_proj(self.dropped(hidden_BD, keys_B))


class DistilBertForTokenClassification(BertForTokenClassification):
    """Logits for every token, as for named entities."""

    def dropped(self, x: jax.Array, keys_B: jax.Array | None, site: int = 0) -> jax.Array:
        return dropout(x, self.config.stack.dropout, keys_B, site)


class DistilBertForMaskedLM(BertForMaskedLM):
    """Logits of the vocabulary for every token: a dense layer, a norm, and the token table once more."""


class DistilBertForSentenceEmbedding(BertForSentenceEmbedding):
    """The mean of the hidden states of the real tokens, as sentence-transformers pools them. Not normalised."""

    architecture: ClassVar[str] = "DistilBertModel"


class DistilBertWithClassTokens(BertWithClassTokens, DistilBertForSequenceClassification):
    """`DistilBertForSequenceClassification` with a class token on every part. The parameters are the same."""

    architecture: ClassVar[str] = "DistilBertForSequenceClassification"
