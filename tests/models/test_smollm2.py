"""SmolLM2-135M-Instruct, the real weights, against PyTorch: `pytest -m parity`, where the asset is cached."""

import jax
import numpy as np
import optax
import pytest
from helpers.closeness import assert_close
from helpers.real_assets import real

import prism_jax as pj
from prism_jax import assets, data, weights
from prism_jax.data import text
from prism_jax.exchange import KeysValues
from prism_jax.models.llama import SMOLLM2_135M, LlamaForCausalLM

pytestmark = [pytest.mark.parity, pytest.mark.slow]


@pytest.fixture(scope="module")
def smollm2():
    return weights.load(LlamaForCausalLM, str(real(assets.SMOLLM2)))


@pytest.fixture(scope="module")
def reference(smollm2):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(smollm2.folder).eval()


def alice(smollm2) -> np.ndarray:
    """The first 2,048 tokens of the book as 4 sequences."""
    book = (real(data.packaged.corpora.ALICE) / "alice29.txt").read_text(encoding="utf-8-sig")
    tokenizer = text.load_tokenizer(smollm2.folder, smollm2.model.config.vocab_size)
    return np.array(tokenizer(" ".join(book.split()))["input_ids"][:2048], np.int32).reshape(4, 512)


def test_logits_and_perplexity_equal_pytorch(smollm2, reference):
    import torch

    assert smollm2.model.config == SMOLLM2_135M
    ids, run = alice(smollm2), pj.on_one_device(1)
    ours = jax.jit(lambda params, parts: pj.forward(smollm2.model, params, parts, pj.WholeSequence(), run))
    logits = np.asarray(ours(smollm2.params, run.split({"ids": ids})))
    with torch.inference_mode():
        expected = reference(torch.from_numpy(ids.astype(np.int64))).logits.numpy()
    assert_close(logits, expected)
    perplexity = np.exp(optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], ids[:, 1:]).mean())
    assert perplexity == pytest.approx(27.294, abs=1e-3)


def test_greedy_answers_equal_pytorch(smollm2, reference):
    """Of a chat, on three parts that share all keys and values."""
    import torch

    tokenizer = text.load_tokenizer(smollm2.folder, smollm2.model.config.vocab_size)
    chat = [{"role": "user", "content": "Name three rivers of Europe."}]
    ids = tokenizer(tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))["input_ids"]
    with torch.inference_mode():
        prompt = torch.tensor([ids])
        everywhere = torch.ones_like(prompt)  # the template holds the id of padding, which transformers would mask
        whole = reference.generate(
            prompt, attention_mask=everywhere, max_new_tokens=24, do_sample=False, eos_token_id=None
        )
    generator = pj.Generator(smollm2.model, smollm2.params, KeysValues(pj.AllGather()), pj.on_one_device(3))
    assert generator([ids], 24) == [whole[0, len(ids) :].tolist()]
