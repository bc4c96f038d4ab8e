"""The config of a LoRA adapter in PEFT's layout: adapter_config.json."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, TypedDict

from prism_jax.assets import hub
from prism_jax.errors import InputError
from prism_jax.models.hf_names import ANY, Table, refuse_unsupported
from prism_jax.parallel.processes import from_terminal
from prism_jax.records import Count, Finite

CONFIG = "adapter_config.json"

SUPPORTED = {
    "peft_type": {"LORA"},
    "bias": {"none"},
    "init_lora_weights": {True, False, "gaussian", "eva", "orthogonal"},  # other values also change the base weights
}
"""Supported values of attributes of PEFT's config."""

HARMLESS = (
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config", "fan_in_fan_out",
    "inference_mode", "lora_alpha",
    "lora_dropout", "megatron_core", "modules_to_save", "peft_version", "qalora_group_size", "r", "rank_pattern",
    "revision",
    "target_modules", "task_type", "use_rslora",
)  # fmt: skip
"""Attributes that are read, or that don't affect the computation. All other attributes must be off: None, False or
empty."""


class _Json(TypedDict, total=False):
    """Attributes of PEFT's config that are read."""

    r: Count
    lora_alpha: Finite
    rank_pattern: dict[str, Count] | None
    alpha_pattern: dict[str, Finite] | None
    target_modules: str | list[str] | None
    modules_to_save: list[str] | None
    use_rslora: bool | None


def is_adapter(folder: Path | str) -> bool:
    """Returns whether a folder holds an adapter in PEFT's layout on process 0. Called on every process.

    Raises:
      InputError: if this process has no such adapter.
    """
    here = (Path(folder) / CONFIG).is_file()
    if (everywhere := from_terminal(lambda: here)) and not here:
        raise InputError(f"{folder} holds an adapter on process 0, but none here; copy it to every machine")
    return everywhere


@dataclass(frozen=True)
class PeftConfig:
    """A LoRA config. The fields have PEFT's names, meanings and defaults."""

    r: int = 8
    lora_alpha: float = 8
    rank_pattern: Mapping[str, int] | None = None
    alpha_pattern: Mapping[str, float] | None = None
    target_modules: str | list[str] | None = None
    modules_to_save: list[str] | None = None
    use_rslora: bool | None = None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads the config in a folder.

        Raises:
          InputError: if there is no config, or it has unsupported values. All of them are listed.
        """
        if not (folder / CONFIG).is_file():
            raise InputError(
                f"no {CONFIG} in {folder}; give a folder that peft_files.save or PEFT's save_pretrained wrote"
            )
        config_json = hub.read_json(folder / CONFIG, _Json)
        off = {name: {None, False, ()} for name in config_json}
        refuse_unsupported(config_json, off | SUPPORTED | dict.fromkeys(HARMLESS, ANY), kind="LoRA")
        fields: dict[str, Any] = {name: value for name, value in config_json.items() if name in _Json.__annotations__}
        return cls(**fields)

    def write(self, folder: Path, base: str, task: str | None, *, fan_in_fan_out: bool) -> None:
        """Writes the config for inference.

        Args:
          folder: where `read` finds it.
          base: source of the base model.
          task: PEFT's name of the task; None for none of them.
          fan_in_fan_out: whether the adapted layers of the base model keep their weights as [inputs, outputs].
        """
        attributes = {
            "peft_type": "LORA",
            "task_type": task,
            "base_model_name_or_path": base,
            **{name: value for name, value in asdict(self).items() if name != "use_rslora"},
            "fan_in_fan_out": fan_in_fan_out,
            "bias": "none",
            "lora_dropout": 0.0,
            "inference_mode": True,
        }
        (folder / CONFIG).write_text(json.dumps(attributes, indent=2) + "\n")

    def has_adapter(self, table: Table, module: str) -> bool:
        """Returns whether the config gives a module an adapter, by PEFT's rules."""
        targets = self.target_modules or ()
        names = [prefix + name for prefix in ("", table.prefix) for name in (module, table.module_name(module))]
        if isinstance(targets, str):
            return targets == "all-linear" or any(_matches(targets, name) for name in names)
        return any(f".{name}".endswith(f".{target}") for target in targets for name in names)

    def is_whole(self, table: Table, tensor: str) -> bool:
        """Returns whether the config saves the module of a tensor completely."""
        return any(f".{name}." in f".{table.prefix}{tensor}" for name in self.modules_to_save or ())

    def rank_and_scale(self, module: str) -> tuple[int, float]:
        """Returns the rank of a module's adapter, and the factor of its output."""
        rank = _of_pattern(self.rank_pattern, module, self.r)
        alpha = _of_pattern(self.alpha_pattern, module, self.lora_alpha)
        return rank, alpha / (math.sqrt(rank) if self.use_rslora else rank)


def _of_pattern(pattern: Mapping[str, Any] | None, name: str, default: Any) -> Any:
    """Returns the first value whose key matches the end of a module's name, as in PEFT; otherwise the default."""
    return next((value for key, value in (pattern or {}).items() if _matches(rf"(.*\.)?({key})", name)), default)


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error as error:
        raise InputError(
            f"{CONFIG} has the pattern {pattern!r}, which is no regular expression: {error}; correct it"
        ) from error
