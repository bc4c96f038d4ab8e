"""Hugging Face's config and tensor names for BERT."""

from prism_jax.layers.transformer import ACTIVATIONS, TransformerConfig
from prism_jax.models.bert import BertConfig
from prism_jax.models.hf_names import (
    ANY,
    Entry,
    Table,
    Tie,
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
"""Attributes of a Hugging Face BertConfig, and ours."""

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
"""What each attribute of a Hugging Face BertConfig may be. `refuse_unsupported` names the rest."""


def config_from_hf(hf_config: dict, num_labels: int | None = None) -> BertConfig:
    """Our config from the attributes of a Hugging Face `BertConfig`.

    Args:
      hf_config: `BertConfig.to_dict()`.
      num_labels: classes of the head, where it is not the checkpoint's own.

    Raises:
      InputError: if an attribute has a value that is not implemented; all of them are listed.
    """
    refuse_unsupported(hf_config, SUPPORTED)
    stack, own = read_attributes(ATTRIBUTES, hf_config)
    return BertConfig(
        TransformerConfig(**stack, norm_first=False), **own, num_labels=num_labels or len(hf_config["id2label"])
    )


def config_to_hf(config: BertConfig) -> dict:
    """The attributes of the Hugging Face `BertConfig` of a config of ours."""
    return {"model_type": "bert"} | write_attributes(ATTRIBUTES, config)


def table(config: BertConfig) -> Table:
    """Hugging Face's names for our parameters."""
    entries = [
        Entry("embeddings.word_embeddings.weight", "encoder/token/embedding"),
        Entry("embeddings.position_embeddings.weight", "encoder/position/embedding"),
        Entry("embeddings.token_type_embeddings.weight", "encoder/type/embedding"),
        *norm("embeddings.LayerNorm", "encoder/norm"),
        *linear("pooler.dense", "pooler"),
        *linear("classifier", "classifier"),
        *linear("cls.predictions.transform.dense", "transform"),
        *norm("cls.predictions.transform.LayerNorm", "norm"),
        Entry("cls.predictions.bias", "bias"),
    ]
    for i in range(config.stack.num_layers):
        theirs, ours = f"encoder.layer.{i}", f"encoder/blocks/block_{i}"
        entries += [
            *linear(f"{theirs}.attention.self.query", f"{ours}/attention/query"),
            *linear(f"{theirs}.attention.self.key", f"{ours}/attention/key"),
            *linear(f"{theirs}.attention.self.value", f"{ours}/attention/value"),
            *linear(f"{theirs}.attention.output.dense", f"{ours}/attention/output"),
            *norm(f"{theirs}.attention.output.LayerNorm", f"{ours}/norm_1"),
            *linear(f"{theirs}.intermediate.dense", f"{ours}/mlp/up"),
            *linear(f"{theirs}.output.dense", f"{ours}/mlp/down"),
            *norm(f"{theirs}.output.LayerNorm", f"{ours}/norm_2"),
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
