"""Hugging Face's config and tensor names for Qwen2."""

from prism_jax.models import llama_hf
from prism_jax.models.hf_names import ANY, Table, refuse_unsupported
from prism_jax.models.llama import LlamaConfig

WINDOWS = {
    "use_sliding_window": {False},
    "sliding_window": {None},
    "max_window_layers": ANY,  # of sliding windows
    "layer_types": {("full_attention",)},
}
"""Values that are implemented of the attributes that say which blocks see a window only."""

SUPPORTED = llama_hf.SUPPORTED_SHARED | WINDOWS | {"model_type": {"qwen2"}}
"""Values of a Hugging Face Qwen2Config that are implemented, by attribute."""


OF_STACK = {"qkv_bias": True, "output_bias": False, "mlp_bias": False}
"""Fields of the stack that no attribute has."""


def config_from_hf(hf_config: dict, num_labels: int | None = None) -> LlamaConfig:
    """Returns our config, from `Qwen2Config.to_dict()`; no head of ours has labels.

    Raises:
      InputError: if an attribute has a value that is not implemented; all of them are listed.
    """
    refuse_unsupported(with_kinds_of_layers(hf_config), SUPPORTED)
    return llama_hf.read(llama_hf.SHARED, hf_config, **OF_STACK)


def with_kinds_of_layers(hf_config: dict) -> dict:
    """Returns the attributes with every kind of layer once, in place of one for each layer."""
    return hf_config | {"layer_types": sorted(set(hf_config.get("layer_types") or ["full_attention"]))}


def config_to_hf(config: LlamaConfig) -> dict:
    """Returns the attributes of the Hugging Face `Qwen2Config` that equals a config of ours."""
    return llama_hf.write("qwen2", llama_hf.SHARED, config, **OF_STACK) | {"use_sliding_window": False}


def table(config: LlamaConfig) -> Table:
    """Returns Hugging Face's names for our parameters."""
    return llama_hf.table(config, "Qwen2ForCausalLM")
