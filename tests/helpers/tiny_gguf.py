"""Tiny Llama models in GGUF files, as llama.cpp's converter writes them."""

from pathlib import Path

import numpy as np

FEATURES, HEADS, KEY_HEADS, MLP, BLOCKS, HEAD = 32, 4, 2, 64, 2, 8

BYTES = [chr(i) for i in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
"""The signs of the 256 bytes in a byte-level vocabulary; the last 68 stand for unprintable ones."""

MERGES = ["h e", "Ġ t", "Ġt he", "Ġ Ġ", "Ċ Ċ", "1 2", "Ġ 1"]

METADATA = {
    "llama.block_count": BLOCKS,
    "llama.context_length": 64,
    "llama.embedding_length": FEATURES,
    "llama.feed_forward_length": MLP,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KEY_HEADS,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 100_000.0,
    "llama.rope.dimension_count": HEAD,
    "general.license": "mit",
}

BYTE_LEVEL = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": [
        "<|endoftext|>",
        "<|start|>",
        *BYTES,
        *(merge.replace(" ", "") for merge in MERGES),
        "<tool>",
    ],
    "tokenizer.ggml.token_type": [3, 3, *[1] * (256 + len(MERGES)), 4],
    "tokenizer.ggml.merges": MERGES,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 0,
    "tokenizer.ggml.padding_token_id": 0,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.chat_template": "{% for m in messages %}<|start|>{{ m['content'] }}<|endoftext|>{% endfor %}",
}

PIECES = ["\u2581", "t", "h", "e", "a", "b", "he", "\u2581t", "\u2581the", "ab", "the"]

SENTENCE_PIECE = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *PIECES],
    "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * len(PIECES)],
    "tokenizer.ggml.scores": [0.0] * 259 + [-9.0] * 6 + [-1.0, -2.0, -3.0, -4.0, -5.0],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
}


def hf_tensors(num_tokens: int, *, tied: bool = True) -> dict[str, np.ndarray]:
    """Random tensors under the names of Hugging Face's LlamaForCausalLM."""
    rng = np.random.default_rng(0)
    shapes = {"model.embed_tokens": (num_tokens, FEATURES), "model.norm": (FEATURES,)}
    if not tied:
        shapes["lm_head"] = (num_tokens, FEATURES)
    for i in range(BLOCKS):
        shapes |= {
            f"model.layers.{i}.input_layernorm": (FEATURES,),
            f"model.layers.{i}.post_attention_layernorm": (FEATURES,),
            f"model.layers.{i}.self_attn.q_proj": (HEADS * HEAD, FEATURES),
            f"model.layers.{i}.self_attn.k_proj": (KEY_HEADS * HEAD, FEATURES),
            f"model.layers.{i}.self_attn.v_proj": (KEY_HEADS * HEAD, FEATURES),
            f"model.layers.{i}.self_attn.o_proj": (FEATURES, HEADS * HEAD),
            f"model.layers.{i}.mlp.gate_proj": (MLP, FEATURES),
            f"model.layers.{i}.mlp.up_proj": (MLP, FEATURES),
            f"model.layers.{i}.mlp.down_proj": (FEATURES, MLP),
        }
    return {f"{name}.weight": rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers": "blk",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def llama_cpp_name(name: str) -> str:
    for expected, ours in NAMES.items():
        name = name.replace(expected, ours)
    return name


def in_pairs(weight: np.ndarray) -> np.ndarray:
    """llama.cpp's order of the rows of queries and keys: those that Hugging Face rotates together are neighbours."""
    result = np.empty_like(weight)
    for head in range(0, len(weight), HEAD):
        for half in range(2):
            for i in range(HEAD // 2):
                result[head + 2 * i + half] = weight[head + half * (HEAD // 2) + i]
    return result


def llama_cpp_tensors(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors under llama.cpp's names, in its order."""
    return {
        llama_cpp_name(name): in_pairs(x) if "q_proj" in name or "k_proj" in name else x for name, x in tensors.items()
    }


def write(path: Path, tensors: dict[str, np.ndarray], metadata: dict, kind: str = "F32", architecture="llama") -> Path:
    """Writes a file with tensors under llama.cpp's names, in the type `kind` where they have two dimensions."""
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    for name, x in tensors.items():
        quantised = gguf.GGMLQuantizationType[kind if x.ndim == 2 else "F32"]
        if x.dtype == np.float32:
            writer.add_tensor(name, gguf.quantize(x, quantised), raw_dtype=quantised)
        else:
            writer.add_tensor(name, x)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_tiny(path: Path, tokenizer: dict | None = None, *, tied: bool = True, kind: str = "F32") -> Path:
    """Writes a whole tiny model."""
    tokenizer = BYTE_LEVEL if tokenizer is None else tokenizer
    tensors = hf_tensors(len(tokenizer["tokenizer.ggml.tokens"]), tied=tied)
    return write(path, llama_cpp_tensors(tensors), METADATA | tokenizer, kind)
