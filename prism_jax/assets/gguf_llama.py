"""Converts a Llama model from a GGUF file (the format of llama.cpp) to the hub's layout, in float32.

The `gguf` library reads the file and dequantises its tensors, one at a time: the tensors are written in turn, so that
no more than one is in memory.

llama.cpp rotates neighbouring features of queries and keys, where Hugging Face rotates feature i with i + F/2 of a
head's F features. So the rows of both weights lie in another order in the file. It is undone.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from prism_jax.assets import gguf_config, gguf_tokenizer
from prism_jax.errors import InputError, one_line

TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}

BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Hugging Face's names of modules by their name in the file: outside the blocks, and in a block."""


@dataclass(frozen=True)
class GgufLlama:
    """A Llama model in a GGUF file. Its metadata, and the names, shapes and types of its tensors, have been checked.

    Attributes:
      metadata: all values of the file, by key.
      config: the attributes of Hugging Face's LlamaConfig.
      tensors: the library's tensors by Hugging Face's names.
    """

    metadata: Mapping[str, Any]
    config: Mapping[str, Any]
    tensors: Mapping[str, Any]

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensors in float32."""
        return 4 * sum(prod(_shape(tensor)) for tensor in self.tensors.values())

    def write(self, folder: Path) -> None:
        """Writes a folder in the hub's layout."""
        _write_float32(folder / "model.safetensors", self.tensors, self.config)
        tokens = gguf_tokenizer.write(self.metadata, folder, self.config["max_position_embeddings"])
        for name, content in (
            ("config.json", {**self.config, **tokens}),
            ("generation_config.json", gguf_config.generation_config(self.metadata, tokens)),
        ):
            (folder / name).write_text(json.dumps(content, indent=2) + "\n")


def convert(folder: Path) -> None:
    """Converts a folder with one GGUF file to the hub's layout. Deletes that file."""
    (path,) = folder.glob("*.gguf")
    read(path).write(folder)
    path.unlink()


def read(path: Path) -> GgufLlama:
    """Reads all of a GGUF file but the values of its tensors.

    Raises:
      InputError: if the `gguf` library is missing, the file is no whole GGUF file, its architecture is not Llama, or
        it has attributes, a tokenizer, or tensors that are missing or not implemented.
    """
    metadata, tensors = _open(path)
    if (architecture := metadata.get("general.architecture")) != "llama":
        raise InputError(f"{path} holds the architecture {architecture!r}; implemented in GGUF files is 'llama'")
    try:
        config = gguf_config.config(metadata, tied="output.weight" not in tensors)
        gguf_tokenizer.check(metadata, config["vocab_size"])
    except ValueError as error:
        raise InputError(f"{path} can't be converted: {one_line(error, 400)}; give another file") from error
    names = _names(config)
    faults = [f"{name} is unknown{_hint(name)}" for name in sorted(tensors.keys() - set(names.values()))]
    for hf_name, name in names.items():
        faults += _faults(name, tensors.get(name), _wanted_shape(hf_name, config))
    if faults:
        more = f"; and {len(faults) - 20} more" if len(faults) > 20 else ""
        raise InputError(f"the tensors of {path} are not those of a Llama model: {'; '.join(faults[:20])}{more}")
    return GgufLlama(metadata, config, {hf_name: tensors[name] for hf_name, name in names.items()})


def _open(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the metadata and the tensors of a GGUF file. Tensors are read on first use."""
    try:
        import gguf
    except ImportError as error:
        raise InputError(f"{path} is read by the library gguf; run: pip install 'prism_jax[gguf]'") from error
    try:
        reader = gguf.GGUFReader(path)
        if reader.byte_order != "I":
            raise ValueError("its numbers have the other byte order")
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # the library may raise anything for a damaged file
        raise InputError(f"{path} is not a whole GGUF file: {one_line(error)}; download it again") from error
    return metadata, {tensor.name: tensor for tensor in reader.tensors}


def _names(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns the names of tensors in the file by Hugging Face's."""
    top = {f"{hf_name}.weight": f"{name}.weight" for name, hf_name in TOP.items()}
    if config["tie_word_embeddings"]:
        del top["lm_head.weight"]
    return top | {
        f"model.layers.{i}.{hf_name}.weight": f"blk.{i}.{name}.weight"
        for i in range(config["num_hidden_layers"])
        for name, hf_name in BLOCK.items()
    }


def _wanted_shape(hf_name: str, config: Mapping[str, Any]) -> tuple[int, ...]:
    """Returns the shape of a weight, (out, in), or of a norm's scale."""
    features, mlp_features, rows = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    queries, keys = (config["head_dim"] * config[f"num_{kind}_heads"] for kind in ("attention", "key_value"))
    module = hf_name.split(".")[-2]
    shapes = {
        **dict.fromkeys(("embed_tokens", "lm_head"), (rows, features)),
        **dict.fromkeys(("gate_proj", "up_proj"), (mlp_features, features)),
        **dict.fromkeys(("k_proj", "v_proj"), (keys, features)),
        "q_proj": (queries, features),
        "o_proj": (features, queries),
        "down_proj": (features, mlp_features),
    }
    return shapes.get(module, (features,))


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(map(int, reversed(tensor.shape)))


def _hint(name: str) -> str:
    return ", since a scaled rotary embedding is not implemented" if name == "rope_freqs.weight" else ""


def _faults(name: str, tensor: Any, shape: tuple[int, ...]) -> list[str]:
    if tensor is None:
        return [f"{name} is missing"]
    if _shape(tensor) != shape:
        return [f"{name} has shape {_shape(tensor)}, not {shape}"]
    import gguf

    try:
        gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[tensor.tensor_type][1]), np.uint8), tensor.tensor_type)
    except NotImplementedError:
        return [f"{name} has the type {tensor.tensor_type.name}, which the library gguf does not dequantise"]
    return []


def _values(tensors: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[np.ndarray]:
    """Yields the values of tensors, float32, with the rows of queries and keys in Hugging Face's order."""
    import gguf

    for hf_name, tensor in tensors.items():
        values = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(_shape(tensor))
        for module, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
            if f".{module}." in hf_name:
                values = in_halves(values, config[heads])
        yield values


def in_halves(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """Returns a weight (out, in) with row 2 i + j of each head, of F rows, moved to row j F/2 + i."""
    out, features = weight.shape
    return weight.reshape(num_heads, out // num_heads // 2, 2, features).swapaxes(1, 2).reshape(out, features)


def _write_float32(path: Path, tensors: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Writes a safetensors file, one tensor at a time, which the library of the format does not offer.

    The format: the header's length in 8 bytes, the header in JSON, the values without gaps.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for hf_name, tensor in tensors.items():
        shape = _shape(tensor)
        begin, end = end, end + 4 * prod(shape)
        header[hf_name] = {"dtype": "F32", "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in _values(tensors, config):
            file.write(np.ascontiguousarray(values, "<f4").data)
