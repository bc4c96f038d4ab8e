"""Hugging Face's config and tensor names for GPT-2."""

from prism_jax.layers.activations import ACTIVATIONS
from prism_jax.layers.config import TransformerConfig
from prism_jax.models.gpt2 import GPT2Config
from prism_jax.models.hf_names import (
    ANY,
    Entry,
    Table,
    Tie,
    check_written,
    norm,
    read_attributes,
    refuse_unsupported,
    write_attributes,
)

ATTRIBUTES = {
    "n_layer": "stack.num_layers",
    "n_embd": "stack.features",
    "n_head": "stack.num_heads",
    "n_inner": "stack.mlp_features",
    "activation_function": "stack.activation",
    "layer_norm_epsilon": "stack.norm_eps",
    "resid_pdrop": "stack.dropout",
    "attn_pdrop": "stack.attention_dropout",
    "embd_pdrop": "embedding_dropout",
    "initializer_range": "stack.init_scale",
    "vocab_size": "vocab_size",
    "n_positions": "num_positions",
}
"""Our fields by the attributes of a Hugging Face GPT2Config."""

SUPPORTED = dict.fromkeys(ATTRIBUTES, ANY) | {
    "model_type": {"gpt2"},
    "activation_function": set(ACTIVATIONS),
    "n_ctx": ANY,  # of old configs; n_positions stands for it
    "scale_attn_weights": {True},
    "scale_attn_by_inverse_layer_idx": {False},
    "reorder_and_upcast_attn": {False},
    "add_cross_attention": {False},
    "is_decoder": {False, True},
    "tie_word_embeddings": {True},
    "chunk_size_feed_forward": {0},
    "is_encoder_decoder": {False},
    "is_causal": {True},
    "pruned_heads": {None, ()},
    "summary_type": ANY,  # of a head that we lack
    "summary_use_proj": ANY,
    "summary_activation": ANY,
    "summary_proj_to_labels": ANY,
    "summary_first_dropout": ANY,
}
"""Values of a Hugging Face GPT2Config that are implemented, by attribute. `refuse_unsupported` names all others."""


def config_from_hf(hf_config: dict, num_labels: int | None = None) -> GPT2Config:
    """Returns our config, from `GPT2Config.to_dict()`; no head of ours has labels.

    Raises:
      InputError: if an attribute has a value that is not implemented; all of them are listed.
    """
    refuse_unsupported(hf_config, SUPPORTED)
    return _read(hf_config)


def _read(hf_config: dict) -> GPT2Config:
    stack, own = read_attributes(ATTRIBUTES, hf_config)
    stack["mlp_features"] = stack["mlp_features"] or 4 * stack["features"]
    return GPT2Config(TransformerConfig(**stack, causal=True), **own)


def config_to_hf(config: GPT2Config) -> dict:
    """Returns the attributes of the Hugging Face `GPT2Config` that equals a config of ours.

    Raises:
      InputError: if there is none.
    """
    attributes = write_attributes(ATTRIBUTES, config)
    check_written("gpt2", config, _read(attributes))
    return {"model_type": "gpt2"} | attributes


def table(config: GPT2Config) -> Table:
    """Returns Hugging Face's names for our parameters. A `Conv1D` has a weight (in, out), as Flax does."""
    entries = [
        Entry("wte.weight", "encoder/token/embedding"),
        Entry("wpe.weight", "encoder/position/embedding"),
        *norm("ln_f", "encoder/norm"),
    ]
    for i in range(config.stack.num_layers):
        module, layer = f"h.{i}", f"encoder/blocks/block_{i}"
        for column, name in enumerate(("query", "key", "value")):
            entries += _conv1d(f"{module}.attn.c_attn", f"{layer}/attention/{name}", (column, 3))
        entries += [
            *_conv1d(f"{module}.attn.c_proj", f"{layer}/attention/output"),
            *_conv1d(f"{module}.mlp.c_fc", f"{layer}/mlp/up"),
            *_conv1d(f"{module}.mlp.c_proj", f"{layer}/mlp/down"),
            *norm(f"{module}.ln_1", f"{layer}/norm_1"),
            *norm(f"{module}.ln_2", f"{layer}/norm_2"),
        ]
    return Table(
        entries=tuple(entries),
        base="GPT2Model",
        prefix="transformer.",
        heads=("lm_head.", "score.", "classifier.", "qa_outputs.", "multiple_choice_head."),
        unused=(
            r"h\.\d+\.attn\.(masked_)?bias",
            r"(score|classifier|qa_outputs|multiple_choice_head)\..*",
        ),
        ties=(Tie("wte.weight", "lm_head.weight", "GPT2LMHeadModel"),),
    )


def _conv1d(module: str, layer: str, column: tuple[int, int] = (0, 1)) -> tuple[Entry, Entry]:
    kernel = Entry(f"{module}.weight", f"{layer}/kernel", column=column)
    return kernel, Entry(f"{module}.bias", f"{layer}/bias", column=column)
