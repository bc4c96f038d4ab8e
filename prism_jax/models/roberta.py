"""RoBERTa (arXiv 1907.11692), equal to Hugging Face's `RobertaModel` and the heads on it: BERT's blocks, with other
positions and other heads. For its batches, see `models.bert`.

Positions count real tokens, from `pad_id + 1` on. The mask says which tokens are real. Hugging Face's model
derives this from the ids: those other than `pad_id` are real.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp

from prism_jax.models.bert import (
    BertForMaskedLM,
    BertForSentenceEmbedding,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    BertWithClassTokens,
)
from prism_jax.models.heads import TwoLayerClassifier


class RobertaModel(BertModel):
    """Every hidden state, and the pooler's output."""


class RobertaForSequenceClassification(BertForSequenceClassification):
    """Logits from the class row, `<s>`: a dense layer, tanh, and the output layer."""

    label_layers: ClassVar[tuple[str, ...]] = ("classifier/out_proj",)

    def setup(self):
        self.encoder = self.encoder_class(self.config)
        self.classifier = TwoLayerClassifier(self.config.stack, self.config.num_labels)  # type: ignore[assignment]

    def head(self, rows_BRD: jax.Array, real_BN: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Returns logits [B, C]."""
        row_BD = self.dropped(self.class_row(rows_BRD, real_BN), keys_B)
        return self.classifier.out_proj(self.dropped(jnp.tanh(self.classifier.dense(row_BD)), keys_B, site=1))


class RobertaForTokenClassification(BertForTokenClassification):
    """Logits for every token, as for named entities."""


class RobertaForMaskedLM(BertForMaskedLM):
    """Logits of the vocabulary for every token: a dense layer, a norm, and the token table once more."""

    activation: ClassVar[str | None] = "gelu"


class RobertaForSentenceEmbedding(BertForSentenceEmbedding):
    """The mean of the hidden states of the real tokens, as sentence-transformers pools them. Not normalised."""

    architecture: ClassVar[str] = "RobertaModel"


class RobertaWithClassTokens(BertWithClassTokens, RobertaForSequenceClassification):
    """`RobertaForSequenceClassification` with a class token on every part. The parameters are the same."""

    architecture: ClassVar[str] = "RobertaForSequenceClassification"
