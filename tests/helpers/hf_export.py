"""Our exports, opened by Hugging Face's library."""

from pathlib import Path

from prism_jax import models, weights
from prism_jax.models.registry import class_named
from prism_jax.weights import Pretrained


def loaded_by_auto(name: str, folder: Path) -> Pretrained:
    """The weights of Hugging Face's class `name`, in the class of ours that `models.auto` finds."""
    kind = models.auto(folder)
    assert kind is class_named(name)
    return weights.load(kind, str(folder))


def reopened(ours: Pretrained, expected, folder: Path):
    """The model that the class of `theirs` reads from an export: from every tensor, and no other one."""
    weights.export(ours, folder)
    model, report = type(expected).from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()
