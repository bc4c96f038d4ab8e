"""Hugging Face's config and tensor names for Qwen3."""

from prism_jax.models import llama_hf
from prism_jax.models.hf_names import ANY, Table, refuse_unsupported
from prism_jax.models.llama import LlamaConfig
from prism_jax.models.qwen2_hf import WINDOWS, with_kinds_of_layers

ATTRIBUTES = llama_hf.SHARED | {"head_dim": "stack.head_features", "attention_bias": "stack.qkv_bias"}
"""Our fields by the attributes of a Hugging Face Qwen3Config."""

SUPPORTED = llama_hf.SUPPORTED_SHARED | WINDOWS | {"head_dim": ANY, "attention_bias": ANY, "model_type": {"qwen3"}}
"""Values of a Hugging Face Qwen3Config that are implemented, by attribute."""


def config_from_hf(hf_config: dict, num_labels: int | None = None) -> LlamaConfig:
    """Returns our config, from `Qwen3Config.to_dict()`; no head of ours has labels.

    Raises:
      InputError: if an attribute has a value that is not implemented; all of them are listed.
    """
    refuse_unsupported(with_kinds_of_layers(hf_config), SUPPORTED)
    return llama_hf.read(ATTRIBUTES, hf_config, **_of_stack(hf_config["attention_bias"]))


def _of_stack(bias: bool) -> dict[str, bool]:
    """Returns the fields of the stack that no attribute has."""
    return {"output_bias": bias, "mlp_bias": False, "query_key_norm": True}


def config_to_hf(config: LlamaConfig) -> dict:
    """Returns the attributes of the Hugging Face `Qwen3Config` that equals a config of ours."""
    return llama_hf.write("qwen3", ATTRIBUTES, config, **_of_stack(config.stack.qkv_bias)) | {
        "use_sliding_window": False
    }


def table(config: LlamaConfig) -> Table:
    """Returns Hugging Face's names for our parameters."""
    return llama_hf.table(config, "Qwen3ForCausalLM")
