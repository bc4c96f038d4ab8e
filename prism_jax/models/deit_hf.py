"""Hugging Face's config and tensor names for DeiT."""

from prism_jax.models import vit_hf
from prism_jax.models.hf_names import Table, refuse_unsupported
from prism_jax.models.vit import ViTConfig

SUPPORTED = vit_hf.SUPPORTED | {"model_type": {"deit"}}
"""Values of a Hugging Face DeiTConfig that are implemented, by attribute."""


def config_from_hf(hf_config: dict, num_labels: int | None = None) -> ViTConfig:
    """Returns our config, from the attributes of a Hugging Face `DeiTConfig`.

    Args:
      hf_config: `DeiTConfig.to_dict()`.
      num_labels: C, classes of the head; None for those of the checkpoint.

    Raises:
      InputError: if an attribute has a value that is not implemented; all of them are listed.
    """
    refuse_unsupported(hf_config, SUPPORTED)
    labels = num_labels or len(hf_config["id2label"])
    return vit_hf.read(vit_hf.ATTRIBUTES, hf_config, distilled=True, num_labels=labels)


def config_to_hf(config: ViTConfig) -> dict:
    """Returns the attributes of the Hugging Face `DeiTConfig` that equals a config of ours.

    Raises:
      InputError: if there is none.
    """
    return vit_hf.write("deit", vit_hf.ATTRIBUTES, config, distilled=True)


def table(config: ViTConfig) -> Table:
    """Returns Hugging Face's names for our parameters."""
    heads = ("classifier", "cls_classifier", "distillation_classifier")
    return vit_hf.table(config, "DeiTModel", "deit.", heads)
