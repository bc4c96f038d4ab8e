"""BERT (arXiv 1810.04805), equal to Hugging Face's `BertModel` and the heads on it.

A batch holds `ids` int32 [B, N], and optionally `types` int32 [B, N] (which sentence of a pair a token belongs to;
absent: 0) and `mask` [B, N] (1 = real). Padding may stand on either side; positions count from the left all the same,
as in Hugging Face's model.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from prism_jax.errors import InputError
from prism_jax.exchange.base import Exchanges
from prism_jax.layers.activations import ACTIVATIONS
from prism_jax.layers.config import TransformerConfig
from prism_jax.layers.dropout import dropout
from prism_jax.layers.embeddings import check_length, embedding, vocabulary_logits
from prism_jax.layers.transformer import Stack, head_dense, layer_norm
from prism_jax.models.base import ClassRowModel, Model
from prism_jax.models.class_tokens import WithClassTokens, class_positions, with_class_row
from prism_jax.parallel.partition import Layout
from prism_jax.records import Count, Natural, Share, Width


@dataclass(frozen=True)
class BertConfig:
    """A BERT model.

    Attributes:
      stack: the blocks.
      vocab_size: V.
      num_positions: rows of the position table.
      num_types: rows of the token type table; 0 for a model without one (DistilBERT).
      pad_id: token of padding, in RoBERTa. It is the position of padding too; real tokens have those after it. None
        where positions count from the left, padding included.
      num_labels: C, classes of a classification head.
      classifier_dropout: rate on the input of a classifier; None for that of the stack.
      class_id: token that stands in front of every text, `[CLS]`; only a class token on every part needs it.
    """

    stack: TransformerConfig
    vocab_size: Count = 30522
    num_positions: Count = 512
    num_types: Natural = 2
    pad_id: Natural | None = None
    num_labels: Width = 2
    classifier_dropout: Share | None = None
    class_id: Natural | None = None

    @property
    def first_position(self) -> int:
        """Position of the first real token of a text without padding."""
        return 0 if self.pad_id is None else self.pad_id + 1


BERT_BASE = BertConfig(TransformerConfig(12, 768, 12, 3072, norm_first=False, dropout=0.1, attention_dropout=0.1))
"""`google-bert/bert-base-uncased`: 109,482,240 parameters with its pooler."""


class BertEncoder(nn.Module):
    """Embeddings and blocks."""

    config: BertConfig

    def setup(self):
        config, stack = self.config, self.config.stack
        self.token = embedding(config.vocab_size, stack)
        if config.num_types:
            self.type = embedding(config.num_types, stack)
        self.position = embedding(config.num_positions, stack)
        self.norm = layer_norm(stack)
        self.blocks = Stack(stack)

    def __call__(self, tokens: dict[str, jax.Array], layout: Layout, exchange: Exchanges) -> jax.Array:
        return self.blocks(self.embed(tokens, layout), exchange, layout)[0]

    def embed(self, tokens: dict[str, jax.Array], layout: Layout) -> jax.Array:
        """Returns the rows before the first block, [B, T, D]."""
        x_BTD = self.of_tokens(tokens["ids"], tokens.get("types")) + self.of_positions(layout)
        keys_B = replace(layout, block=self.config.stack.num_layers).block_keys_B
        return dropout(self.norm(x_BTD), self.config.stack.dropout, keys_B, site=0)

    def of_tokens(self, ids: jax.Array, types: jax.Array | None) -> jax.Array:
        """Returns the embeddings of ids and types of one shape, [..., D]. Types are 0 where they are None."""
        if not self.config.num_types:
            return self.token(ids)
        return self.token(ids) + self.type(jnp.zeros_like(ids) if types is None else types)

    def of_positions(self, layout: Layout) -> jax.Array:
        """Returns the position embeddings of this part's tokens, [1 or B, T, D]."""
        config = self.config
        if config.pad_id is None:
            position_T = jnp.minimum(layout.positions_T, config.num_positions - 1)  # P*T may pass N by up to P - 1
            return self.position(position_T)[None]
        position_BT = layout.real_before_BT + config.first_position
        return self.position(jnp.where(layout.real_BT, position_BT, config.pad_id))


class BertEncoderWithClassTokens(BertEncoder):
    """Embeddings and blocks, with a class token on every part if there are several."""

    def __call__(self, tokens: dict[str, jax.Array], layout: Layout, exchange: Exchanges) -> jax.Array:
        x_BTD = self.embed(tokens, layout)
        if layout.num_parts == 1:
            return self.blocks(x_BTD, exchange, layout)[0]
        assert self.config.class_id is not None  # `check` refuses it
        position_B = class_positions(layout.real_BN)
        ids_B = jnp.full_like(position_B, self.config.class_id)
        if self.config.pad_id is not None:  # the first real token, wherever it stands
            position_B = jnp.full_like(position_B, self.config.first_position)
        class_BD = self.norm(self.of_tokens(ids_B, None) + self.position(position_B))
        return with_class_row(self.blocks, x_BTD, class_BD, layout, exchange)


class AbstractBert(Model):
    """The base of the BERT models. Abstract: a subclass sets up the encoder and its head, and has `head`."""

    config: BertConfig
    encoder_class: ClassVar[type[nn.Module]] = BertEncoder

    def dropped(self, x: jax.Array, keys_B: jax.Array | None, site: int = 0) -> jax.Array:
        """Returns the input of a layer of a classifier, with dropout where keys are given."""
        own = self.config.classifier_dropout
        return dropout(x, self.config.stack.dropout if own is None else own, keys_B, site)

    def check(self, num_tokens: int) -> None:
        check_length(self.config.num_positions, num_tokens, self.config.first_position)

    def batch_shapes(self, batch_size: int, num_tokens: int) -> dict[str, jax.ShapeDtypeStruct]:
        shape = jax.ShapeDtypeStruct((batch_size, num_tokens), jnp.int32)
        return {"ids": shape, "types": shape} if self.config.num_types else {"ids": shape}


class BertModel(AbstractBert):
    """Every hidden state, and the pooler's output."""

    def setup(self):
        self.encoder = self.encoder_class(self.config)
        self.pooler = head_dense(self.config.stack.features, self.config.stack)

    def head(
        self, rows_BRD: jax.Array, real_BN: jax.Array, keys_B: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns hidden states [B, N, D] and pooled [B, D]."""
        return rows_BRD[:, : real_BN.shape[1]], jnp.tanh(self.pooler(rows_BRD[:, 0]))


class BertForSequenceClassification(ClassRowModel, AbstractBert):
    """Logits from the class row: pooler, tanh, classifier."""

    def setup(self):
        self.encoder = self.encoder_class(self.config)
        self.pooler = head_dense(self.config.stack.features, self.config.stack)
        self.classifier = head_dense(self.config.num_labels, self.config.stack)

    def head(self, rows_BRD: jax.Array, real_BN: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Returns logits [B, C]."""
        pooled_BD = jnp.tanh(self.pooler(self.class_row(rows_BRD, real_BN)))
        return self.classifier(self.dropped(pooled_BD, keys_B))


class BertWithClassTokens(WithClassTokens, BertForSequenceClassification):
    """`BertForSequenceClassification` with a class token on every part. The parameters are the same."""

    architecture: ClassVar[str] = "BertForSequenceClassification"
    encoder_class = BertEncoderWithClassTokens

    def check(self, num_tokens: int) -> None:
        super().check(num_tokens)
        if self.config.class_id is None:
            raise InputError(
                f"{type(self).__name__} needs the id of [CLS], but class_id is None; "
                "give BertConfig(class_id=...), or load a folder with a tokenizer"
            )


class BertForTokenClassification(AbstractBert):
    """Logits for every token, as for named entities."""

    def setup(self):
        self.encoder = self.encoder_class(self.config)
        self.classifier = head_dense(self.config.num_labels, self.config.stack)

    def head(self, rows_BRD: jax.Array, real_BN: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Returns logits [B, N, C]."""
        return self.classifier(self.dropped(rows_BRD[:, : real_BN.shape[1]], keys_B))


class BertForMaskedLM(AbstractBert):
    """Logits of the vocabulary for every token: a dense layer, a norm, and the token table once more."""

    activation: ClassVar[str | None] = None
    """Of the head, a key of ACTIVATIONS; None for that of the blocks."""

    def setup(self):
        self.encoder = self.encoder_class(self.config)
        self.transform = head_dense(self.config.stack.features, self.config.stack)
        self.norm = layer_norm(self.config.stack)
        self.bias = self.param("bias", nn.initializers.zeros, (self.config.vocab_size,), jnp.float32)

    def head(self, rows_BRD: jax.Array, real_BN: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Returns logits [B, N, V]."""
        stack = self.config.stack
        h_BND = ACTIVATIONS[self.activation or stack.activation](self.transform(rows_BRD[:, : real_BN.shape[1]]))
        return vocabulary_logits(self.norm(h_BND), self.encoder.token, stack) + self.bias[None, None]


class BertForSentenceEmbedding(AbstractBert):
    """The mean of the hidden states of the real tokens, as sentence-transformers pools them. Not normalised."""

    architecture: ClassVar[str] = "BertModel"

    def setup(self):
        self.encoder = self.encoder_class(self.config)

    def read(self, x_BTD: jax.Array, layout: Layout) -> jax.Array:
        return jnp.where(layout.real_BT[..., None], x_BTD, 0).sum(1, keepdims=True)

    def head(self, rows_BRD: jax.Array, real_BN: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Returns embeddings [B, D]."""
        return rows_BRD.sum(1) / jnp.maximum(real_BN.sum(1, keepdims=True), 1)
