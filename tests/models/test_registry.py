"""The class of a model is found by its config.json, and the pages list what can be found."""

import json

import pytest
from helpers.paths import GOLDEN, ROOT

from prism_jax import models
from prism_jax.errors import InputError
from prism_jax.models.registry import FAMILIES, architecture_of, class_named, family_of

TINY = sorted(GOLDEN.glob("*_tiny"))


def test_the_class_of_every_golden_folder_is_found():
    for folder in TINY:
        (named,) = json.loads((folder / "config.json").read_text())["architectures"]
        assert models.auto(folder).__name__ == named
    assert {json.loads((folder / "config.json").read_text())["model_type"] for folder in TINY} <= {*FAMILIES}


def test_a_class_of_ours_belongs_to_one_family_and_has_a_name_of_hugging_faces():
    kinds = [(family, name, kind) for family in FAMILIES.values() for name, kind in family.classes.items()]
    assert len(kinds) > 15
    for family, name, kind in kinds:
        assert family_of(kind) is family
        assert class_named(name) is kind
        assert architecture_of(kind) in family.architectures


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model_type": "gpt2"}, "GPT2Model"),
        ({"model_type": "gpt2", "architectures": None}, "GPT2Model"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "BertForMaskedLM"),
        ({"model_type": "bert", "architectures": ["BertForPreTraining", "BertForMaskedLM"]}, "BertForMaskedLM"),
    ],
)
def test_auto(config, name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert models.auto(str(tmp_path)) is class_named(name)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "mamba"}, "says model_type 'mamba'; implemented are bert, .*vit$"),
        ({}, "model_type"),
        ({"model_type": "bert", "architectures": "BertModel"}, "architectures"),
        (
            {"model_type": "bert", "architectures": ["BertForQuestionAnswering"]},
            "says architectures BertForQuestionAnswering; of bert, implemented are BertModel, .*; give one of these",
        ),
    ],
)
def test_what_auto_refuses(config, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message) as error:
        models.auto(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="no folder '.*nowhere'; give"):
        models.auto("./nowhere")


def test_the_page_lists_what_is_implemented():
    """Its table is this one, made from the registry."""
    lines = ["| `model_type` | Hugging Face's classes | classes of our own |", "|---|---|---|"]
    for model_type, family in FAMILIES.items():
        own = [name for name in family.classes if name not in family.architectures]
        lines.append(f"| `{model_type}` | {_names(family.architectures)} | {_names(own)} |".replace("|  |", "| |"))
    table = "\n".join(lines)
    assert table in (ROOT / "docs" / "python.md").read_text(), f"docs/python.md lacks this table:\n{table}"


def _names(names) -> str:
    return ", ".join(f"`{name}`" for name in names)
