"""Hugging Face's config and tensor names for BERT, and what those of RoBERTa share with them."""

from collections.abc import Mapping
from typing import Any

from prism_jax.errors import InputError
from prism_jax.layers.activations import ACTIVATIONS
from prism_jax.layers.config import TransformerConfig
from prism_jax.models.bert import BertConfig
from prism_jax.models.hf_names import (
    ANY,
    Entry,
    Table,
    Tie,
    check_written,
    linear,
    norm,
    read_attributes,
    refuse_unsupported,
    write_attributes,
)

ATTRIBUTES = {
    "num_hidden_layers": "stack.num_layers",
    "hidden_size": "stack.features",
    "num_attention_heads": "stack.num_heads",
    "intermediate_size": "stack.mlp_features",
    "hidden_act": "stack.activation",
    "layer_norm_eps": "stack.norm_eps",
    "hidden_dropout_prob": "stack.dropout",
    "attention_probs_dropout_prob": "stack.attention_dropout",
    "initializer_range": "stack.init_scale",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "num_positions",
    "type_vocab_size": "num_types",
    "classifier_dropout": "classifier_dropout",
}
"""Our fields by the attributes of a Hugging Face BertConfig."""

SUPPORTED = dict.fromkeys(ATTRIBUTES, ANY) | {
    "model_type": {"bert"},
    "hidden_act": set(ACTIVATIONS),
    "position_embedding_type": {"absolute"},
    "is_decoder": {False},
    "add_cross_attention": {False},
    "tie_word_embeddings": {True},
    "chunk_size_feed_forward": {0},
    "is_encoder_decoder": {False},
    "directionality": {"bidi"},
    "pruned_heads": {None, ()},
}
"""Values of a Hugging Face BertConfig that are implemented, by attribute. `refuse_unsupported` names all others."""


def config_from_hf(hf_config: dict, num_labels: int | None = None) -> BertConfig:
    """Returns our config, from the attributes of a Hugging Face `BertConfig`.

    Args:
      hf_config: `BertConfig.to_dict()`.
      num_labels: C, classes of the head; None for those of the checkpoint.

    Raises:
      InputError: if an attribute has a value that is not implemented; all of them are listed.
    """
    refuse_unsupported(hf_config, SUPPORTED)
    return read(ATTRIBUTES, hf_config, num_labels=num_labels or len(hf_config["id2label"]))


def read(names: Mapping[str, str], hf_config: dict, **own: Any) -> BertConfig:
    """Returns our config, from attributes whose values are all implemented.

    Args:
      names: our fields by the attributes of a config.
      hf_config: attributes of a Hugging Face config.
      **own: fields that no attribute has.
    """
    stack, named = read_attributes(names, hf_config)
    config = BertConfig(TransformerConfig(**stack, norm_first=False), **named, **own)
    if "type_vocab_size" in names and config.num_types == 0:
        raise InputError("type_vocab_size is 0, but every token of this family has a type; choose 1 or more")
    return config


def config_to_hf(config: BertConfig) -> dict:
    """Returns the attributes of the Hugging Face `BertConfig` that equals a config of ours.

    Raises:
      InputError: if there is none.
    """
    return write("bert", ATTRIBUTES, config)


def write(model_type: str, names: Mapping[str, str], config: BertConfig, **own: Any) -> dict:
    """Returns the attributes of a Hugging Face config: the inverse of `read`."""
    attributes = write_attributes(names, config)
    check_written(model_type, config, read(names, attributes, **own))
    return {"model_type": model_type} | attributes


def encoder(config: BertConfig) -> list[Entry]:
    """Returns Hugging Face's names for the embeddings and the blocks."""
    entries = [
        Entry("embeddings.word_embeddings.weight", "encoder/token/embedding"),
        Entry("embeddings.position_embeddings.weight", "encoder/position/embedding"),
        Entry("embeddings.token_type_embeddings.weight", "encoder/type/embedding"),
        *norm("embeddings.LayerNorm", "encoder/norm"),
    ]
    for i in range(config.stack.num_layers):
        module, layer = f"encoder.layer.{i}", f"encoder/blocks/block_{i}"
        entries += [
            *linear(f"{module}.attention.self.query", f"{layer}/attention/query"),
            *linear(f"{module}.attention.self.key", f"{layer}/attention/key"),
            *linear(f"{module}.attention.self.value", f"{layer}/attention/value"),
            *linear(f"{module}.attention.output.dense", f"{layer}/attention/output"),
            *norm(f"{module}.attention.output.LayerNorm", f"{layer}/norm_1"),
            *linear(f"{module}.intermediate.dense", f"{layer}/mlp/up"),
            *linear(f"{module}.output.dense", f"{layer}/mlp/down"),
            *norm(f"{module}.output.LayerNorm", f"{layer}/norm_2"),
        ]
    return entries


def table(config: BertConfig) -> Table:
    """Returns Hugging Face's names for our parameters."""
    entries = [
        *encoder(config),
        *linear("pooler.dense", "pooler"),
        *linear("classifier", "classifier"),
        *linear("cls.predictions.transform.dense", "transform"),
        *norm("cls.predictions.transform.LayerNorm", "norm"),
        Entry("cls.predictions.bias", "bias"),
    ]
    return Table(
        entries=tuple(entries),
        base="BertModel",
        prefix="bert.",
        heads=("classifier.", "cls."),
        unused=(
            r"embeddings\.position_ids",
            r"cls\.seq_relationship\..*",
            r"qa_outputs\..*",
        ),
        ties=(
            Tie("embeddings.word_embeddings.weight", "cls.predictions.decoder.weight", "BertForMaskedLM"),
            Tie("cls.predictions.bias", "cls.predictions.decoder.bias", "BertForMaskedLM"),
        ),
    )
