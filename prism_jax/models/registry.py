"""Finds the family and the class of a model, by Hugging Face's names or by ours."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

from prism_jax.assets import hub
from prism_jax.errors import InputError
from prism_jax.models import (
    bert,
    bert_hf,
    deit,
    deit_hf,
    dinov2,
    dinov2_hf,
    distilbert,
    distilbert_hf,
    gpt2,
    gpt2_hf,
    llama,
    llama_hf,
    qwen2,
    qwen2_hf,
    qwen3,
    qwen3_hf,
    roberta,
    roberta_hf,
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

    @cached_property
    def classes(self) -> dict[str, type[Model]]:
        """The model classes by their names, in the order of their module; those with a head."""
        return {
            name: kind
            for name, kind in vars(self.models).items()
            if isinstance(kind, type)
            and issubclass(kind, Model)
            and kind.__module__ == self.models.__name__
            and kind.head is not Model.head
        }

    @property
    def architectures(self) -> dict[str, type[Model]]:
        """The model classes that have the name of Hugging Face's, by it."""
        return {name: kind for name, kind in self.classes.items() if architecture_of(kind) == name}


FAMILIES = {
    "bert": Family(bert, bert_hf),
    "deit": Family(deit, deit_hf),
    "dinov2": Family(dinov2, dinov2_hf),
    "distilbert": Family(distilbert, distilbert_hf),
    "gpt2": Family(gpt2, gpt2_hf),
    "llama": Family(llama, llama_hf),
    "qwen2": Family(qwen2, qwen2_hf),
    "qwen3": Family(qwen3, qwen3_hf),
    "roberta": Family(roberta, roberta_hf),
    "vit": Family(vit, vit_hf),
}
"""The families by Hugging Face's `model_type`."""


def auto(source: str | Path, revision: str | None = None) -> type[Model]:
    """Returns the class of the model in a source, by `model_type` and `architectures` in its config.json:

        weights.load(models.auto(source), source)

    A config.json that names no architecture gives the class without a head, as `transformers.AutoModel` does.

    Args:
      source: a folder, a hub id or an asset, see `hub.resolve`.
      revision: branch, tag or commit of a hub id.

    Raises:
      InputError: if there is no such source, or no class here for its model. The message lists those that there are.
    """
    folder = hub.resolve(str(source), revision, ("config.json",))
    attributes = hub.read_hub_config(folder, FAMILIES)
    known = FAMILIES[attributes["model_type"]].architectures
    named = attributes.get("architectures") or [*known][:1]
    if kind := next((known[name] for name in named if name in known), None):
        return kind
    raise InputError(
        f"{folder}/config.json says architectures {', '.join(named)}; of {attributes['model_type']}, implemented are "
        f"{', '.join(known)}; give one of these classes to weights.load yourself"
    )


def family_of(kind: type[Model]) -> Family:
    """Returns the family that a model class belongs to, or that it extends a class of."""
    return _family_and_class(kind)[0]


def class_named(name: str) -> type[Model]:
    """Returns one of our model classes by its name. Raises InputError for any other name."""
    for family in FAMILIES.values():
        if name in family.classes:
            return family.classes[name]
    raise InputError(f"{name} is no model of {', '.join(FAMILIES)}; open it with the config file that defines it")


def architecture_of(kind: type[Model]) -> str:
    """Returns the name of Hugging Face's class for a model class."""
    return getattr(kind, "architecture", _family_and_class(kind)[1].__name__)


def _family_and_class(kind: type[Model]) -> tuple[Family, type[Model]]:
    for base in kind.__mro__:
        for family in FAMILIES.values():
            if base.__module__ == family.models.__name__:
                return family, base
    raise InputError(
        f"{kind.__name__} is no model of {', '.join(FAMILIES)}, so Hugging Face has no name for it; "
        "extend a class of theirs"
    )
