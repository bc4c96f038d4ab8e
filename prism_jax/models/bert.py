"""BERT (arXiv 1810.04805), equal to Hugging Face's `BertModel` and what stands on it.

A batch holds `ids` int32 [B, N], and optionally `types` int32 [B, N] (which sentence of a pair a token belongs to;
absent: 0) and `mask` [B, N] (1 = real). Padding may stand on either side; positions count from the left all the same,
as in Hugging Face's model.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from prism_jax.exchange.base import Exchanges
from prism_jax.layers.transformer import (
    ACTIVATIONS,
    Stack,
    TransformerConfig,
    check_length,
    dropout,
    embedding,
    head_dense,
    layer_norm,
    vocabulary_logits,
)
from prism_jax.parallel.partition import Layout
from prism_jax.records import Count, Share, Width


@dataclass(frozen=True)
class BertConfig:
    """A BERT model.

    Attributes:
      stack: the blocks.
      vocab_size: V.
      num_positions: rows of the position table, the longest N.
      num_types: rows of the token type table.
      num_labels: C, classes of a classification head.
      classifier_dropout: rate on what a classifier reads; None for that of the stack.
    """

    stack: TransformerConfig
    vocab_size: Count = 30522
    num_positions: Count = 512
    num_types: Count = 2
    num_labels: Width = 2
    classifier_dropout: Share | None = None


BERT_BASE = BertConfig(TransformerConfig(12, 768, 12, 3072, norm_first=False, dropout=0.1, attention_dropout=0.1))
"""`google-bert/bert-base-uncased`: 109,482,240 parameters with its pooler."""


class BertEncoder(nn.Module):
    """Embeddings and blocks."""

    config: BertConfig

    def setup(self):
        config, stack = self.config, self.config.stack
        self.token = embedding(config.vocab_size, stack)
        self.type = embedding(config.num_types, stack)
        self.position = embedding(config.num_positions, stack)
        self.norm = layer_norm(stack)
        self.blocks = Stack(stack)

    def __call__(self, tokens: dict[str, jax.Array], layout: Layout, exchange: Exchanges) -> jax.Array:
        return self.blocks(self.embed(tokens, layout), exchange, layout)[0]

    def embed(self, tokens: dict[str, jax.Array], layout: Layout) -> jax.Array:
        """The rows before the first block."""
        config, stack = self.config, self.config.stack
        ids_BT = tokens["ids"]
        types_BT = tokens.get("types", jnp.zeros_like(ids_BT))
        position_T = jnp.minimum(layout.positions_T, config.num_positions - 1)  # P*T may pass N by up to P - 1
        x_BTD = self.norm(self.token(ids_BT) + self.type(types_BT) + self.position(position_T)[None])
        return dropout(x_BTD, stack.dropout, replace(layout, block=stack.num_layers).block_keys_B, site=0)


class _Bert(nn.Module):
    """What all heads share. Abstract: a head sets up its own layers and has `head`,
    and `read` if it needs fewer rows."""

    config: BertConfig
    encoder_class: ClassVar[type[nn.Module]] = BertEncoder

    def part(self, tokens, layout, exchange):
        return self.read(self.encoder(tokens, layout, exchange), layout)

    def read(self, x_BTD: jax.Array, layout: Layout) -> jax.Array:
        """The rows of this part that the head reads: all of them."""
        return x_BTD

    def dropped(self, x: jax.Array, keys_B: jax.Array | None) -> jax.Array:
        """What a classifier reads, with dropout where keys are given."""
        own = self.config.classifier_dropout
        return dropout(x, self.config.stack.dropout if own is None else own, keys_B, site=0)

    def check(self, num_tokens: int) -> None:
        check_length(self.config.num_positions, num_tokens)

    def batch_shapes(self, batch_size: int, num_tokens: int) -> dict[str, jax.ShapeDtypeStruct]:
        shape = jax.ShapeDtypeStruct((batch_size, num_tokens), jnp.int32)
        return {"ids": shape, "types": shape}


def class_row(rows_BRD: jax.Array) -> jax.Array:
    """The first row of the first part: `[CLS]`."""
    return rows_BRD[:, 0]


class BertModel(_Bert):
    """Every hidden state, and the pooler's output."""

    def setup(self):
        self.encoder = self.encoder_class(self.config)
        self.pooler = head_dense(self.config.stack.features, self.config.stack)

    def head(
        self, rows_BRD: jax.Array, real_BN: jax.Array, keys_B: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Hidden states [B, N, D] and pooled [B, D]."""
        return rows_BRD[:, : real_BN.shape[1]], jnp.tanh(self.pooler(class_row(rows_BRD)))


class BertForSequenceClassification(_Bert):
    """Logits from the class row: pooler, tanh, classifier."""

    def setup(self):
        self.encoder = self.encoder_class(self.config)
        self.pooler = head_dense(self.config.stack.features, self.config.stack)
        self.classifier = head_dense(self.config.num_labels, self.config.stack)

    def read(self, x_BTD: jax.Array, layout: Layout) -> jax.Array:
        return x_BTD[:, :1]

    def head(self, rows_BRD: jax.Array, real_BN: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Logits [B, C]."""
        pooled_BD = jnp.tanh(self.pooler(class_row(rows_BRD)))
        return self.classifier(self.dropped(pooled_BD, keys_B))


class BertForTokenClassification(_Bert):
    """Logits for every token, as for named entities."""

    def setup(self):
        self.encoder = self.encoder_class(self.config)
        self.classifier = head_dense(self.config.num_labels, self.config.stack)

    def head(self, rows_BRD: jax.Array, real_BN: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Logits [B, N, C]."""
        return self.classifier(self.dropped(rows_BRD[:, : real_BN.shape[1]], keys_B))


class BertForMaskedLM(_Bert):
    """Logits of the vocabulary for every token: a dense layer, a norm, and the token table once more."""

    def setup(self):
        self.encoder = self.encoder_class(self.config)
        self.transform = head_dense(self.config.stack.features, self.config.stack)
        self.norm = layer_norm(self.config.stack)
        self.bias = self.param("bias", nn.initializers.zeros, (self.config.vocab_size,), jnp.float32)

    def head(self, rows_BRD: jax.Array, real_BN: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Logits [B, N, V]."""
        stack = self.config.stack
        h_BND = ACTIVATIONS[stack.activation](self.transform(rows_BRD[:, : real_BN.shape[1]]))
        return vocabulary_logits(self.norm(h_BND), self.encoder.token, stack) + self.bias[None, None]


class BertForSentenceEmbedding(_Bert):
    """The mean of the hidden states of the real tokens, as sentence-transformers pools them. Not normalised."""

    architecture: ClassVar[str] = "BertModel"

    def setup(self):
        self.encoder = self.encoder_class(self.config)

    def read(self, x_BTD: jax.Array, layout: Layout) -> jax.Array:
        return jnp.where(layout.real_BT[..., None], x_BTD, 0).sum(1, keepdims=True)

    def head(self, rows_BRD: jax.Array, real_BN: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Embeddings [B, D]."""
        return rows_BRD.sum(1) / jnp.maximum(real_BN.sum(1, keepdims=True), 1)
