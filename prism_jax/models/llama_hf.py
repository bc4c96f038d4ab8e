"""Hugging Face's config and tensor names for Llama, and what those of Qwen2 and Qwen3 share with them."""

from collections.abc import Mapping
from typing import Any

from prism_jax.errors import InputError
from prism_jax.layers.activations import ACTIVATIONS
from prism_jax.layers.config import TransformerConfig
from prism_jax.layers.rotary import Rotary
from prism_jax.models.hf_names import (
    ANY,
    OFF,
    Entry,
    Table,
    Tie,
    check_written,
    linear,
    read_attributes,
    refuse_unsupported,
    write_attributes,
)
from prism_jax.models.llama import LlamaConfig

SHARED = {
    "num_hidden_layers": "stack.num_layers",
    "hidden_size": "stack.features",
    "num_attention_heads": "stack.num_heads",
    "num_key_value_heads": "stack.num_kv_heads",
    "intermediate_size": "stack.mlp_features",
    "hidden_act": "stack.activation",
    "rms_norm_eps": "stack.norm_eps",
    "attention_dropout": "stack.attention_dropout",
    "initializer_range": "stack.init_scale",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "num_positions",
    "tie_word_embeddings": "tied",
}
"""Our fields by the attributes that Llama, Qwen2 and Qwen3 have."""

ATTRIBUTES = SHARED | {
    "head_dim": "stack.head_features",
    "attention_bias": "stack.qkv_bias",
    "mlp_bias": "stack.mlp_bias",
}
"""Our fields by the attributes of a Hugging Face LlamaConfig."""

SUPPORTED_SHARED = dict.fromkeys(SHARED, ANY) | {
    "hidden_act": set(ACTIVATIONS),
    "rope_parameters": ANY,  # read by `rotary_from_hf`
    "chunk_size_feed_forward": {0},
    "is_causal": {True},
}

SUPPORTED = (
    SUPPORTED_SHARED
    | dict.fromkeys(ATTRIBUTES.keys() - SHARED.keys(), ANY)
    | {"model_type": {"llama"}, "pretraining_tp": ANY}  # how weights were cut in pretraining; transformers ignores it
)
"""Values of a Hugging Face LlamaConfig that are implemented, by attribute. `refuse_unsupported` names all others."""

ROTARY = {
    "default": {"rope_theta": "theta"},
    "linear": {"rope_theta": "theta", "factor": "factor"},
    "llama3": {
        "rope_theta": "theta",
        "factor": "factor",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
        "original_max_position_embeddings": "original_positions",
    },
}
"""Our fields of `Rotary` by the keys of a config's `rope_parameters`, for each `rope_type` that is implemented."""


def config_from_hf(hf_config: dict, num_labels: int | None = None) -> LlamaConfig:
    """Returns our config, from `LlamaConfig.to_dict()`; no head of ours has labels.

    Raises:
      InputError: if an attribute has a value that is not implemented; all of them are listed.
    """
    refuse_unsupported(hf_config, SUPPORTED)
    return read(ATTRIBUTES, hf_config, output_bias=hf_config["attention_bias"])


def read(names: Mapping[str, str], hf_config: dict, **of_stack: Any) -> LlamaConfig:
    """Returns our config, from attributes whose values are all implemented.

    Args:
      names: our fields by the attributes of a config.
      hf_config: attributes of a Hugging Face config.
      **of_stack: fields of the stack that no attribute has.
    """
    stack, own = read_attributes(names, hf_config)
    stack |= {"rms_norm": True, "gated": True, "causal": True, "rotary": rotary_from_hf(hf_config["rope_parameters"])}
    return LlamaConfig(TransformerConfig(**stack | of_stack), **own)


def rotary_from_hf(parameters: Mapping[str, Any]) -> Rotary:
    """Returns rotary positions, from `rope_parameters`.

    Raises:
      InputError: if their type or another key is not implemented.
    """
    kind = parameters.get("rope_type", "default")
    if kind not in ROTARY:
        raise InputError(f"rope_type is {kind!r}, which is not implemented; implemented are {', '.join(ROTARY)}")
    fields = ROTARY[kind]
    harmless = {"rope_type": kind, "type": kind, "partial_rotary_factor": 1}  # transformers 4 wrote "type"
    unknown = {key: x for key, x in parameters.items() if key not in fields and x not in OFF and x != harmless.get(key)}
    if unknown:
        raise InputError(
            f"rope_parameters of type {kind} have {unknown}, which is not implemented; implemented are "
            f"{', '.join(fields)}"
        )
    if missing := [key for key in fields if parameters.get(key) is None]:
        raise InputError(f"rope_parameters of type {kind} lack {', '.join(missing)}; correct config.json")
    return Rotary(scaling=kind, **{ours: parameters[key] for key, ours in fields.items()})


def rotary_to_hf(rotary: Rotary) -> dict[str, Any]:
    """Returns `rope_parameters`: the inverse of `rotary_from_hf`."""
    return {"rope_type": rotary.scaling} | {key: getattr(rotary, ours) for key, ours in ROTARY[rotary.scaling].items()}


def config_to_hf(config: LlamaConfig) -> dict:
    """Returns the attributes of the Hugging Face `LlamaConfig` that equals a config of ours."""
    return write("llama", ATTRIBUTES, config, output_bias=config.stack.qkv_bias)


def write(model_type: str, names: Mapping[str, str], config: LlamaConfig, **of_stack: Any) -> dict:
    """Returns the attributes of a Hugging Face config: the inverse of `read`.

    Raises:
      InputError: if the family has no such model, so that transformers would read another one.
    """
    if config.stack.rotary is None:
        raise InputError(f"{model_type} has rotary positions, but rotary is None; give one, or keep the model as a run")
    rope = rotary_to_hf(config.stack.rotary)
    # transformers below 5 reads these two in place of rope_parameters
    scaling = None if rope["rope_type"] == "default" else {key: x for key, x in rope.items() if key != "rope_theta"}
    old = {"rope_theta": rope["rope_theta"], "rope_scaling": scaling}
    attributes = {"model_type": model_type, "rope_parameters": rope} | write_attributes(names, config)
    check_written(model_type, config, read(names, attributes, **of_stack))
    return attributes | old


def table(config: LlamaConfig, architecture: str = "LlamaForCausalLM") -> Table:
    """Returns Hugging Face's names for our parameters.

    Args:
      config: sizes of the model.
      architecture: Hugging Face's class with the head.
    """
    stack = config.stack
    entries = [Entry("embed_tokens.weight", "encoder/token/embedding"), Entry("norm.weight", "encoder/norm/scale")]
    if not config.tied:
        entries += linear("lm_head", "lm_head", bias=False)
    for i in range(stack.num_layers):
        module, layer = f"layers.{i}", f"encoder/blocks/block_{i}"
        for hf_name, name in {"q": "query", "k": "key", "v": "value"}.items():
            entries += linear(f"{module}.self_attn.{hf_name}_proj", f"{layer}/attention/{name}", bias=stack.qkv_bias)
        entries += linear(f"{module}.self_attn.o_proj", f"{layer}/attention/output", bias=stack.output_bias)
        for name in ("gate", "up", "down"):
            entries += linear(f"{module}.mlp.{name}_proj", f"{layer}/mlp/{name}", bias=stack.mlp_bias)
        entries += [
            Entry(f"{module}.input_layernorm.weight", f"{layer}/norm_1/scale"),
            Entry(f"{module}.post_attention_layernorm.weight", f"{layer}/norm_2/scale"),
        ]
        if stack.query_key_norm:
            entries += [
                Entry(f"{module}.self_attn.{hf_name}_norm.weight", f"{layer}/attention/{name}_norm/scale")
                for hf_name, name in {"q": "query", "k": "key"}.items()
            ]
    return Table(
        entries=tuple(entries),
        base=architecture.replace("ForCausalLM", "Model"),
        prefix="model.",
        heads=("lm_head.", "score.", "classifier.", "qa_outputs."),
        unused=(r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq", r"(score|classifier|qa_outputs)\..*"),
        ties=(Tie("embed_tokens.weight", "lm_head.weight", architecture),) if config.tied else (),
    )
