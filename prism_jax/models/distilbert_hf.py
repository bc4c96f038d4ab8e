"""Hugging Face's config and tensor names for DistilBERT."""

from dataclasses import replace

from prism_jax.layers.activations import ACTIVATIONS
from prism_jax.models import bert_hf
from prism_jax.models.bert import BertConfig
from prism_jax.models.hf_names import ANY, Entry, Table, Tie, linear, norm, refuse_unsupported

ATTRIBUTES = {
    "n_layers": "stack.num_layers",
    "dim": "stack.features",
    "n_heads": "stack.num_heads",
    "hidden_dim": "stack.mlp_features",
    "activation": "stack.activation",
    "dropout": "stack.dropout",
    "attention_dropout": "stack.attention_dropout",
    "initializer_range": "stack.init_scale",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "num_positions",
    "seq_classif_dropout": "classifier_dropout",
}
"""Our fields by the attributes of a Hugging Face DistilBertConfig."""

SUPPORTED = dict.fromkeys(ATTRIBUTES, ANY) | {
    "model_type": {"distilbert"},
    "activation": set(ACTIVATIONS),
    "sinusoidal_pos_embds": ANY,  # how the position table began; the file has it
    "qa_dropout": ANY,  # of a head that we lack
    "tie_weights_": {True},
    "tie_word_embeddings": {True},
    "chunk_size_feed_forward": {0},
    "is_encoder_decoder": {False},
    "pruned_heads": {None, ()},
}
"""Values of a Hugging Face DistilBertConfig that are implemented, by attribute."""


def config_from_hf(hf_config: dict, num_labels: int | None = None) -> BertConfig:
    """Returns our config, from the attributes of a Hugging Face `DistilBertConfig`.

    Args:
      hf_config: `DistilBertConfig.to_dict()`.
      num_labels: C, classes of the head; None for those of the checkpoint.

    Raises:
      InputError: if an attribute has a value that is not implemented; all of them are listed.
    """
    refuse_unsupported(hf_config, SUPPORTED)
    return bert_hf.read(ATTRIBUTES, hf_config, num_types=0, num_labels=num_labels or len(hf_config["id2label"]))


def config_to_hf(config: BertConfig) -> dict:
    """Returns the attributes of the Hugging Face `DistilBertConfig` that equals a config of ours.

    Raises:
      InputError: if there is none.
    """
    rate = config.stack.dropout if config.classifier_dropout is None else config.classifier_dropout
    return bert_hf.write("distilbert", ATTRIBUTES, replace(config, classifier_dropout=rate), num_types=0)


def table(config: BertConfig) -> Table:
    """Returns Hugging Face's names for our parameters."""
    entries = [
        Entry("embeddings.word_embeddings.weight", "encoder/token/embedding"),
        Entry("embeddings.position_embeddings.weight", "encoder/position/embedding"),
        *norm("embeddings.LayerNorm", "encoder/norm"),
        *linear("classifier", "classifier"),  # of every token
        *linear("pre_classifier", "classifier/dense"),
        *linear("classifier", "classifier/out_proj"),
        *linear("vocab_transform", "transform"),
        *norm("vocab_layer_norm", "norm"),
        Entry("vocab_projector.bias", "bias"),
    ]
    for i in range(config.stack.num_layers):
        module, layer = f"transformer.layer.{i}", f"encoder/blocks/block_{i}"
        entries += [
            *linear(f"{module}.attention.q_lin", f"{layer}/attention/query"),
            *linear(f"{module}.attention.k_lin", f"{layer}/attention/key"),
            *linear(f"{module}.attention.v_lin", f"{layer}/attention/value"),
            *linear(f"{module}.attention.out_lin", f"{layer}/attention/output"),
            *norm(f"{module}.sa_layer_norm", f"{layer}/norm_1"),
            *linear(f"{module}.ffn.lin1", f"{layer}/mlp/up"),
            *linear(f"{module}.ffn.lin2", f"{layer}/mlp/down"),
            *norm(f"{module}.output_layer_norm", f"{layer}/norm_2"),
        ]
    return Table(
        entries=tuple(entries),
        base="DistilBertModel",
        prefix="distilbert.",
        heads=("classifier.", "pre_classifier.", "vocab_"),
        unused=(r"embeddings\.position_ids", r"qa_outputs\..*"),
        ties=(Tie("embeddings.word_embeddings.weight", "vocab_projector.weight", "DistilBertForMaskedLM"),),
    )
