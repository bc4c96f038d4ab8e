"""Finds the family of a model, by Hugging Face's name or by ours."""

from dataclasses import dataclass
from types import ModuleType

from prism_jax.errors import InputError
from prism_jax.models import (
    bert,
    bert_hf,
    gpt2,
    gpt2_hf,
    llama,
    llama_hf,
    qwen2,
    qwen2_hf,
    qwen3,
    qwen3_hf,
    vit,
    vit_hf,
)
from prism_jax.models.base import Model


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
      models: module of its config and its classes.
      hf: module of Hugging Face's names: `config_from_hf`, `config_to_hf` and `table`.
    """

    models: ModuleType
    hf: ModuleType


FAMILIES = {
    "bert": Family(bert, bert_hf),
    "gpt2": Family(gpt2, gpt2_hf),
    "llama": Family(llama, llama_hf),
    "qwen2": Family(qwen2, qwen2_hf),
    "qwen3": Family(qwen3, qwen3_hf),
    "vit": Family(vit, vit_hf),
}
"""The families by Hugging Face's `model_type`."""


def family_of(kind: type[Model]) -> Family:
    """Returns the family that a model class belongs to, or that it extends a class of."""
    return _family_and_class(kind)[0]


def class_named(name: str) -> type[Model]:
    """Returns one of our model classes by its name. Raises InputError for any other name."""
    for kind in (getattr(family.models, name, None) for family in FAMILIES.values()):
        if isinstance(kind, type) and issubclass(kind, Model):
            return kind
    raise InputError(f"{name} is no model of {', '.join(FAMILIES)}; open it with the config file that defines it")


def architecture_of(kind: type[Model]) -> str:
    """Returns the name of Hugging Face's class for a model class."""
    return getattr(kind, "architecture", _family_and_class(kind)[1].__name__)


def _family_and_class(kind: type[Model]) -> tuple[Family, type[Model]]:
    for base in kind.__mro__:
        for family in FAMILIES.values():
            if getattr(family.models, base.__name__, None) is base:
                return family, base
    raise InputError(f"{kind.__name__} is no model of {', '.join(FAMILIES)}, so Hugging Face has no name for it")
