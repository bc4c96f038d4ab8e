"""Generation against Hugging Face's `generate`, and the cache against the whole sequence at the same part boundaries."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close
from test_bert import save_hf_model
from test_gpt2 import hf_config

import prism_jax as pj
from prism_jax import cost, weights
from prism_jax.exchange import segment_table
from prism_jax.models import gpt2

pytestmark = pytest.mark.usefixtures("quick_to_compile")


def tiny_gpt2(num_layers: int = 2):
    stack = replace(gpt2.GPT2.stack, num_layers=num_layers, features=32, num_heads=4, mlp_features=64, init_scale=0.3)
    model = gpt2.GPT2LMHeadModel(gpt2.GPT2Config(stack, vocab_size=99, num_positions=128))
    return model, pj.init_params(model, jax.random.key(0))


def random_tokens(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 98, shape).astype(np.int32)


def prompts_of(*lengths):
    return [random_tokens(n, seed=i).tolist() for i, n in enumerate(lengths)]


def hugging_face_generate(model, prompts, new, **kwargs):
    """Greedy, as one batch padded on the left; cut after the stop token."""
    import torch

    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    out = model.generate(ids, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=0, **kwargs)
    return out[:, longest:].tolist()


@pytest.mark.parametrize(
    ("exchange", "run"),
    [
        (pj.WholeSequence(), pj.on_one_device(1)),
        (pj.AllGather(), pj.on_one_device(3)),
        (pj.AllGather(), pj.on_mesh(4)),
    ],
    ids=["whole", "all_gather_one_device", "all_gather_mesh"],
)
def test_greedy_tokens_are_those_of_hugging_face(exchange, run, tmp_path):
    theirs = save_hf_model("GPT2LMHeadModel", hf_config("plain"), tmp_path)
    ours = weights.load(gpt2.GPT2LMHeadModel, str(tmp_path))
    generator = pj.Generator(ours.model, ours.params, exchange, run, bucket=16)
    for prompts in (prompts_of(5, 17, 17, 40, 1), prompts_of(9), prompts_of(16, 2)):
        expected = hugging_face_generate(theirs, prompts, 20, eos_token_id=None)
        assert generator(prompts, 20) == expected
        stop = expected[0][7]
        cut = [tokens[: tokens.index(stop) + 1] if stop in tokens else tokens for tokens in expected]
        assert generator(prompts, 20, stop_token=stop) == cut


@dataclass(frozen=True)
class MeansOfFirst(pj.Exchange):
    """Segment means of the first `length` rows of a part, cut as if there were no others."""

    length: int
    num_segments: int

    def __call__(self, x_BTD, layout):
        index_LS, inside_LS = segment_table(self.length, self.num_segments)
        real_BPLS = layout.real_BPT[:, :, index_LS] & inside_LS[None, None]
        own_BLS = layout.real_BT[:, index_LS] & inside_LS[None]
        total_BLD = (x_BTD[:, index_LS] * own_BLS[..., None]).sum(2)
        mean_BLD = total_BLD / jnp.maximum(own_BLS.sum(-1), 1)[..., None]
        return self.share(x_BTD, mean_BLD, real_BPLS.sum(-1), layout.positions_PT[:, index_LS[:, -1]], layout)

    def rows_sent(self, part_len):
        return self.num_segments


@pytest.mark.parametrize(
    ("exchange", "same_with_room", "run"),
    [
        (pj.SegmentMeans(3), lambda T: MeansOfFirst(T, 3), pj.on_one_device(2)),
        (pj.SegmentMeans(3), lambda T: MeansOfFirst(T, 3), pj.on_mesh(4)),
        (pj.AllGather(), lambda T: MeansOfFirst(T, T), pj.on_one_device(2)),
        (pj.IsolatedParts(), lambda T: pj.IsolatedParts(), pj.on_mesh(4)),
        ((pj.SegmentMeans(2), pj.AllGather()), lambda T: (MeansOfFirst(T, 2), MeansOfFirst(T, T)), pj.on_mesh(4)),
    ],
    ids=["segment_means-one_device", "segment_means-mesh", "all_gather-one_device", "isolated-mesh", "per_block-mesh"],
)
def test_cached_logits_equal_teacher_forced_logits_at_the_same_boundaries(exchange, same_with_room, run):
    """The whole text at once: every part has room for the new tokens at its end, but only the last one uses it."""
    model, params = tiny_gpt2()
    new, num_tokens, num_parts = 6, 24, run.num_parts
    T = num_tokens // num_parts
    prompts, continuation = prompts_of(24, 19, 17), random_tokens(3, new, seed=9)
    generator = pj.Generator(model, params, exchange, run, bucket=8)
    cached = generator.logits(prompts, continuation)

    ids, mask = np.zeros((3, num_parts, T + new), np.int32), np.zeros((3, num_parts, T + new), bool)
    for i, prompt in enumerate(prompts):
        padding = num_tokens - len(prompt)
        ids[i, :, :T] = np.concatenate([np.zeros(padding, np.int32), prompt]).reshape(num_parts, T)
        mask[i, :, :T] = (np.arange(num_tokens) >= padding).reshape(num_parts, T)
        ids[i, -1, T:], mask[i, -1, T:] = continuation[i], True
    batch = {"ids": ids.reshape(3, -1), "mask": mask.reshape(3, -1)}
    at_once = pj.on_one_device(num_parts)
    whole = pj.forward(model, params, at_once.split(batch), same_with_room(T), at_once)
    assert_close(cached, np.asarray(whole)[:, -new - 1 :])


def test_padding_and_neighbours_change_nothing():
    """Under a lossy exchange too: boundaries follow from a prompt's own length."""
    model, params = tiny_gpt2()
    generator = pj.Generator(model, params, pj.SegmentMeans(2), pj.on_one_device(2), bucket=16)
    prompts = prompts_of(5, 30, 17, 16)
    assert generator(prompts, 8) == [generator([prompt], 8)[0] for prompt in prompts]


def test_no_program_is_compiled_again_for_another_prompt_or_token():
    model, params = tiny_gpt2()
    generator = pj.Generator(model, params, pj.SegmentMeans(2), pj.on_mesh(2), bucket=16)
    generator(prompts_of(5, 12), 8, sampling=pj.Sampling(0.5, seed=1))
    programs = (generator._prefill, generator._first, generator._extend, generator._choose)
    before = [program._cache_size() for program in programs]
    generator(prompts_of(16, 1), 8, sampling=pj.Sampling(0.5, seed=2))
    assert [program._cache_size() for program in programs] == before == [1, 1, 1, 1]


@pytest.mark.parametrize("exchange", [pj.SegmentMeans(3), pj.AllGather(), pj.IsolatedParts()], ids=str)
def test_a_new_token_needs_no_other_device_and_the_cache_has_the_size_that_cost_says(exchange):
    model, params = tiny_gpt2()
    generator = pj.Generator(model, params, exchange, pj.on_mesh(4), bucket=32)
    *_, caches = generator._start(prompts_of(30, 32), 32, 10)
    assert {device for x in jax.tree.leaves(caches) for device in x.devices()} == {jax.devices()[3]}
    held = sum(cache.k_BHKF.nbytes + cache.v_BHKF.nbytes for cache in caches)
    assert held == 2 * cost.cache_bytes(model.config.stack, exchange, 4, 32, 10)
    K = {3: 8 + 3 * 3 + 10, 8: 32 + 10, 0: 8 + 10}[exchange.rows_sent(8)]
    assert held == 2 * 2 * 2 * K * 32 * 4  # examples, keys and values, blocks, rows, features, bytes
    text = (
        generator._extend.lower(generator._last_params, np.zeros(2, np.int32), np.zeros(2, int), caches, 10)
        .compile()
        .as_text()
    )
    assert not any(
        collective in text for collective in ("all-gather", "all-reduce", "collective-permute", "all-to-all")
    )


def test_sampling_filters_equal_hugging_face():
    torch = pytest.importorskip("torch")
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = 3 * np.random.default_rng(0).normal(size=(5, 50)).astype(np.float32)
    for temperature, top_k, top_p in [(0.7, 0, 1.0), (1.0, 5, 1.0), (1.3, 0, 0.6), (0.9, 12, 0.5), (1.0, 0, 0.01)]:
        warpers = [TemperatureLogitsWarper(temperature)]
        warpers += [TopKLogitsWarper(top_k)] if top_k else []
        warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
        expected = torch.from_numpy(logits)
        for warper in warpers:
            expected = warper(None, expected)
        ours = np.asarray(pj.Sampling(temperature, top_k, top_p).filter(jnp.asarray(logits)))
        kept = np.isfinite(expected.numpy())
        assert ((ours > -1e8) == kept).all()
        assert_close(ours[kept], expected.numpy()[kept])


def test_sampled_tokens_follow_the_probabilities_and_the_seed():
    logits = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
    keys = jax.random.split(jax.random.key(0), 4000)
    chosen = pj.Sampling(1.0, top_k=3).choose(jnp.tile(logits, (4000, 1)), keys)
    share = np.bincount(chosen, minlength=4) / 4000
    np.testing.assert_allclose(share, np.array([0.5, 0.3, 0.15, 0]) / 0.95, atol=0.03)

    model, params = tiny_gpt2()

    generator = pj.Generator(model, params, pj.SegmentMeans(2), pj.on_one_device(2))

    def sampled(seed, *prompts):
        return generator(prompts, 8, sampling=pj.Sampling(1.0, seed=seed))

    one, two = prompts_of(5, 7)
    assert sampled(1, one) == sampled(1, one)
    assert sampled(1, one, two)[0] == sampled(1, one)[0]
    assert sampled(1, one) != sampled(2, one)
    assert sampled(1, one, one)[0] != sampled(1, one, one)[1]


@pytest.mark.parametrize(
    ("prompts", "new", "message"),
    [
        ([[1], []], 5, "prompt 1 is empty"),
        ([[1, 99]], 5, "prompt 0 holds tokens outside of 0 to 98"),
        ([[1] * 125], 5, "prompt 0 has 125 tokens, and with 5 new ones passes the 128 positions"),
        ([[1]], 0, "max_new_tokens is 0; choose 1 or more"),
        ([[1]], 5, "9 segments asked for, but a part has 8 tokens"),
    ],
)
def test_wrong_prompts_are_refused(prompts, new, message):
    model, params = tiny_gpt2()
    exchange = pj.SegmentMeans(9 if message.startswith("9") else 2)
    generator = pj.Generator(model, params, exchange, pj.on_one_device(2), bucket=16)
    with pytest.raises(ValueError, match=message):
        generator(prompts, new)


def test_a_last_part_without_tokens_is_refused():
    model, params = tiny_gpt2()
    with pytest.raises(ValueError, match="5 tokens leave none for the last of 4 parts; choose fewer parts"):
        pj.Generator(model, params, pj.AllGather(), pj.on_one_device(4), bucket=5)([[1, 2]], 3)
    with pytest.raises(ValueError, match="choose on_mesh\\(P\\) without one"):
        pj.Generator(model, params, pj.AllGather(), pj.on_mesh(2, data=2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": 1, "top_k": -1}, "top_k is -1"),
        ({"temperature": 1, "top_p": 0}, "top_p is 0; choose more than 0, up to 1"),
        ({"top_k": 4}, "temperature 0 always takes the most likely one"),
    ],
)
def test_wrong_sampling_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        pj.Sampling(**values)
