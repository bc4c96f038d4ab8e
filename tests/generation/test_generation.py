"""Generation against Hugging Face's `generate`,
and the cache against the whole sequence at the same part boundaries."""

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.closeness import assert_close
from helpers.hf_bert import save_hf_model
from helpers.hf_gpt2 import hf_config
from helpers.hf_llama import hf_config as hf_llama_config
from helpers.tiny import prompts_of, random_tokens, tiny_gpt2, tiny_llama

import prism_jax as pj
from prism_jax import cost, weights
from prism_jax.errors import RunError
from prism_jax.exchange import KeysValues
from prism_jax.exchange.memory import Displaced
from prism_jax.exchange.segments import segment_table
from prism_jax.models.gpt2 import GPT2LMHeadModel
from prism_jax.models.llama import LlamaForCausalLM
from prism_jax.models.qwen3 import Qwen3ForCausalLM

pytestmark = pytest.mark.usefixtures("quick_to_compile")

hf_gpt2 = partial(hf_config, "plain")
hf_llama, hf_qwen3 = partial(hf_llama_config, "grouped"), partial(hf_llama_config, "qwen3")


def hugging_face_generate(model, prompts, new, **kwargs):
    """Greedy, as one batch padded on the left; cut after the stop token."""
    import torch

    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    out = model.generate(ids, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=0, **kwargs)
    return out[:, longest:].tolist()


@pytest.mark.parity
@pytest.mark.parametrize(
    ("kind", "config", "exchange", "run"),
    [
        pytest.param(GPT2LMHeadModel, hf_gpt2, pj.WholeSequence(), pj.on_one_device(1), marks=pytest.mark.slow),
        (GPT2LMHeadModel, hf_gpt2, pj.AllGather(), pj.on_one_device(3)),
        (GPT2LMHeadModel, hf_gpt2, pj.AllGather(), pj.on_mesh(4)),
        (Qwen3ForCausalLM, hf_qwen3, KeysValues(pj.AllGather()), pj.on_one_device(3)),
        (LlamaForCausalLM, hf_llama, pj.AllGather(), pj.on_mesh(4)),
    ],
    ids=["whole", "all_gather_one_device", "all_gather_mesh", "qwen3_keys_values", "llama_mesh"],
)
def test_greedy_tokens_are_those_of_hugging_face(kind, config, exchange, run, tmp_path):
    reference = save_hf_model(kind.__name__, config(), tmp_path)
    ours = weights.load(kind, str(tmp_path))
    generator = pj.Generator(ours.model, ours.params, exchange, run, bucket=16)
    short = (prompts_of(9), prompts_of(16, 2)) if run.num_parts == 1 else ()
    for prompts in (prompts_of(5, 17, 17, 40, 1), *short):
        expected = hugging_face_generate(reference, prompts, 20, eos_token_id=None)
        assert generator(prompts, 20) == expected
        stop = expected[0][7]
        cut = [tokens[: tokens.index(stop) + 1] if stop in tokens else tokens for tokens in expected]
        assert generator(prompts, 20, stop_tokens=[stop]) == cut


@dataclass(frozen=True)
class MeansOfFirst(pj.Sending):
    """Segment means of the first `length` rows of a part, cut as if there were no others."""

    length: int
    num_segments: int

    def __call__(self, x_BTD, layout):
        index_LS, inside_LS = segment_table(self.length, self.num_segments)
        real_BPLS = layout.real_BPT[:, :, index_LS] & inside_LS[None, None]
        own_BLS = layout.real_BT[:, index_LS] & inside_LS[None]
        total_BLD = (x_BTD[:, index_LS] * own_BLS[..., None]).sum(2)
        mean_BLD = total_BLD / jnp.maximum(own_BLS.sum(-1), 1)[..., None]
        before_BPLS = layout.real_before_BN.reshape(layout.real_BPT.shape)[:, :, index_LS]
        place_BPL = (before_BPLS * real_BPLS).sum(-1) / jnp.maximum(real_BPLS.sum(-1), 1)
        last_PL = layout.positions_PT[:, index_LS[:, -1]]
        return self.share(x_BTD, mean_BLD, real_BPLS.sum(-1), last_PL, layout, place_BPL)

    def rows_sent(self, part_len):
        return self.num_segments


@pytest.mark.parametrize(
    ("tiny", "exchange", "same_with_room", "run"),
    [
        (tiny_llama, pj.SegmentMeans(3), lambda T: MeansOfFirst(T, 3), pj.on_one_device(2)),
        pytest.param(
            tiny_gpt2, pj.SegmentMeans(3), lambda T: MeansOfFirst(T, 3), pj.on_mesh(4), marks=pytest.mark.slow
        ),
        (tiny_gpt2, pj.AllGather(), lambda T: MeansOfFirst(T, T), pj.on_one_device(2)),
        pytest.param(
            tiny_gpt2,
            Displaced(pj.SegmentMeans(3)),
            lambda T: Displaced(MeansOfFirst(T, 3)),
            pj.on_one_device(2),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            tiny_gpt2, pj.IsolatedParts(), lambda T: pj.IsolatedParts(), pj.on_mesh(4), marks=pytest.mark.slow
        ),
        (
            tiny_gpt2,
            (pj.SegmentMeans(2), pj.AllGather()),
            lambda T: (MeansOfFirst(T, 2), MeansOfFirst(T, T)),
            pj.on_mesh(4),
        ),
    ],
    ids=[
        "llama-one_device",
        "segment_means-mesh",
        "all_gather-one_device",
        "displaced-one_device",
        "isolated-mesh",
        "per_block-mesh",
    ],
)
def test_cached_logits_equal_teacher_forced_logits_at_the_same_boundaries(tiny, exchange, same_with_room, run):
    """The whole text at once: every part has room for the new tokens at its end, but only the last one uses it."""
    model, params = tiny()
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
    program = jax.jit(lambda params, parts: pj.forward(model, params, parts, same_with_room(T), at_once))
    whole = program(params, at_once.split(batch))
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


@pytest.mark.parametrize(
    ("tiny", "exchange"),
    [(tiny_gpt2, pj.SegmentMeans(3)), (tiny_llama, pj.AllGather()), (tiny_gpt2, pj.IsolatedParts())],
    ids=["segment_means", "llama_all_gather", "isolated_parts"],
)
def test_a_new_token_needs_no_other_device_and_the_cache_has_the_size_that_cost_says(tiny, exchange):
    model, params = tiny()
    generator = pj.Generator(model, params, exchange, pj.on_mesh(4), bucket=32)
    *_, caches = generator._start(prompts_of(30, 32), 32, 10)
    assert {device for x in jax.tree.leaves(caches) for device in x.devices()} == {jax.devices()[3]}
    held = sum(cache.k_BGKF.nbytes + cache.v_BGKF.nbytes for cache in caches)
    assert held == 2 * cost.cache_bytes(model.config.stack, exchange, 4, 32, 10)
    K = {3: 8 + 3 * 3 + 10, 8: 32 + 10, 0: 8 + 10}[exchange.rows_sent(8)]
    features = 2 * 12 if tiny is tiny_llama else 32
    assert held == 2 * 2 * 2 * K * features * 4  # examples, keys and values, blocks, rows, features, bytes
    text = (
        generator._extend.lower(generator._last_params, np.zeros(2, np.int32), np.zeros(2, int), caches, 10)
        .compile()
        .as_text()
    )
    assert not any(
        collective in text for collective in ("all-gather", "all-reduce", "collective-permute", "all-to-all")
    )


@pytest.mark.parametrize("size", [0, 3 << 30])
def test_a_cache_above_two_gibibytes_has_its_size(size, monkeypatch):
    """On several processes the size goes through JAX, which has no int64 here. The compiler's figure is made up."""
    run = pj.on_mesh(2)
    monkeypatch.setattr(type(run), "from_last", lambda self, x: np.asarray(jnp.asarray(x)))
    generator = pj.Generator(*tiny_gpt2(), pj.AllGather(), run)
    compiled = SimpleNamespace(memory_analysis=lambda: SimpleNamespace(alias_size_in_bytes=size))
    generator._extend = SimpleNamespace(lower=lambda *args: SimpleNamespace(compile=lambda: compiled))
    assert generator.compiled_cache_bytes([[1, 2, 3]], 4) == size


@pytest.mark.parity
def test_sampling_filters_equal_hugging_face(monkeypatch):
    """Where logits tie, are huge, or lie an ulp apart.
    PyTorch's own sort leaves open which of many equal ones come first."""
    import torch
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    monkeypatch.setattr(torch, "sort", partial(torch.sort, stable=True))
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(5, 300))
    kinds = [3 * normal, np.round(normal), 1e-5 * normal - 100, 1e9 * np.round(normal) - 1e10, 0 * normal]
    settings = [
        (0.7, 0, 1.0),
        (1.0, 5, 1.0),
        (1e-8, 5, 1.0),
        (1.3, 0, 0.6),
        (1e-8, 0, 0.5),
        (0.9, 12, 0.25),
        (1.0, 0, 0.01),
    ]
    for logits in np.float32(kinds):
        for temperature, top_k, top_p in settings:
            warpers = [TemperatureLogitsWarper(temperature)]
            warpers += [TopKLogitsWarper(top_k)] if top_k else []
            warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
            expected = torch.from_numpy(logits)
            for warper in warpers:
                expected = warper(None, expected)
            ours = jax.jit(pj.Sampling(temperature, top_k, top_p).filter)(logits)
            np.testing.assert_array_equal(ours, expected.numpy())


@pytest.mark.parametrize(
    ("sampling", "logits", "kept"),
    [
        (pj.Sampling(1e-8, top_k=2), [-100, -101, -102, -99], [0, 3]),
        (pj.Sampling(1.2e-38, top_k=3), [100, -100, 99, 98], [0, 2, 3]),  # the division overflows
        (pj.Sampling(1.0, top_k=2), [1, 3, 1, 1, 0], [0, 1, 2, 3]),  # all that tie with the second
        (pj.Sampling(1.0, top_p=0.5), [0, 0, 0, 0], [2, 3]),
        (pj.Sampling(1.0, top_p=0.51), [0, 0, 0, 0], [1, 2, 3]),
        (pj.Sampling(1.0, top_p=0.5), [0] * 50_000, range(25_000, 50_000)),
        (pj.Sampling(1.0, top_k=3, top_p=0.5), np.log([0.1, 0.4, 0.3, 0.2]), [1, 2]),  # of the three that are left
        (pj.Sampling(1.0, top_p=1e-9), [5, 5, 4], [1]),
    ],
)
def test_sampling_keeps_the_most_likely_tokens(sampling, logits, kept):
    filtered = np.asarray(sampling.filter(jnp.array([logits], jnp.float32))[0])
    np.testing.assert_array_equal(filtered > -np.inf, np.isin(np.arange(len(logits)), kept))


def test_tokens_are_drawn_from_those_that_are_kept_however_cold():
    """Five tokens of 40, all equally likely at any temperature."""
    logits = np.full((2000, 40), -101, np.float32)
    logits[:, 3:40:8] = -100
    keys = jax.random.split(jax.random.key(0), len(logits))
    share = np.bincount(pj.Sampling(1e-8, top_k=5).choose(jnp.asarray(logits), keys), minlength=40) / len(logits)
    np.testing.assert_allclose(share, np.where(logits[0] == -100, 0.2, 0), atol=0.04)


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
        ([1, 2], 5, "prompt 0 is '1', which is no list of token ids; give a list of prompts, such as"),
        ("w1", 5, "prompt 0 is 'w', which is no list of token ids"),
        ([[[1, 2]]], 5, "prompt 0 is '..1, 2..', which is no list of token ids"),
        ([[1, 99]], 5, "prompt 0 holds the token id 99, but the model's table has 99 rows, 0 to 98"),
        ([[1], [3, -1]], 5, "prompt 1 holds the token id -1, but"),
        ([[1, 2.5]], 5, "prompt 0 holds float64 in place of each token id; give whole numbers from 0 to 98"),
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


def test_continuations_with_unknown_tokens_are_refused():
    model, params = tiny_gpt2()
    with pytest.raises(ValueError, match="a continuation holds the token id 99, but"):
        pj.Generator(model, params, pj.AllGather(), pj.on_one_device(1)).logits([[1]], np.array([[99]]))


@pytest.mark.parametrize("sampling", [pj.Sampling(), pj.Sampling(1.0, top_p=0.9)], ids=["greedy", "sampled"])
def test_weights_that_diverged_give_no_token(sampling):
    model, params = tiny_gpt2()
    params = jax.tree.map(lambda x: x * jnp.inf, params)
    with pytest.raises(RunError, match="the logits of new token 0 of prompt 0 are not finite, so none follows"):
        pj.Generator(model, params, pj.AllGather(), pj.on_one_device(1))([[1]], 2, sampling=sampling)


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
        ({"temperature": 1e-40}, "temperature is 1e-40, which float32 can't represent; choose 0, or 1.2e-38 or more"),
        ({"temperature": 1, "top_k": -1}, "top_k is -1"),
        ({"temperature": 1, "top_p": 0}, "top_p is 0; choose more than 0, up to 1"),
        ({"top_k": 4}, "temperature 0 always takes the most likely one"),
    ],
)
def test_wrong_sampling_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        pj.Sampling(**values)
