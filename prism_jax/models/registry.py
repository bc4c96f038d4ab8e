"""The families of models, by Hugging Face's names and by ours."""

from types import ModuleType

import flax.linen as nn

from prism_jax.errors import InputError
from prism_jax.models import bert, gpt2, vit

FAMILIES = {"bert": bert, "gpt2": gpt2, "vit": vit}
"""Modules of the families, by Hugging Face's `model_type`."""


def family_of(kind: type[nn.Module]) -> ModuleType:
    """The module of the family that a model class belongs to, or that it extends a class of."""
    return _family_and_class(kind)[0]


def class_named(name: str) -> type[nn.Module]:
    """One of our model classes by its name."""
    for kind in (getattr(family, name, None) for family in FAMILIES.values()):
        if isinstance(kind, type) and issubclass(kind, nn.Module):
            return kind
    raise InputError(
        f"{name} is no model of {', '.join(FAMILIES)}, but of a config file of one's own; open it with that"
    )


def architecture_of(kind: type[nn.Module]) -> str:
    """Hugging Face's class for a model class."""
    return getattr(kind, "architecture", _family_and_class(kind)[1].__name__)


def _family_and_class(kind: type[nn.Module]) -> tuple[ModuleType, type[nn.Module]]:
    for base in kind.__mro__:
        for family in FAMILIES.values():
            if getattr(family, base.__name__, None) is base:
                return family, base
    raise InputError(f"{kind.__name__} is no model of {', '.join(FAMILIES)}, so Hugging Face has no name for it")
