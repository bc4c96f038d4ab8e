"""Scores of text against Hugging Face's loss, and against sums by hand."""

import jax
import numpy as np
import pytest
from helpers.closeness import assert_close
from helpers.hf_bert import save_hf_model
from helpers.hf_gpt2 import hf_config, run_hf, token_batch
from helpers.tiny import stack_config

import prism_jax as pj
from prism_jax import weights
from prism_jax.forward import Head, encode
from prism_jax.metrics import formulas
from prism_jax.models import gpt2
from prism_jax.tasks import likelihood
from prism_jax.testing import random_params

pytestmark = pytest.mark.usefixtures("quick_to_compile")


def log_likelihoods(model, params, parts, exchange, run):
    rows = encode(model, params, parts, exchange, run)
    return likelihood.log_likelihoods(Head(model, params, run), rows, parts)


@pytest.mark.parity
@pytest.mark.parametrize("padding", ["left", "right"])
def test_loss_equals_hugging_face(padding, runner, tmp_path):
    import torch

    batch = token_batch(padding)
    model = save_hf_model("GPT2LMHeadModel", hf_config("plain"), tmp_path)
    labels = torch.from_numpy(np.where(batch["mask"], batch["ids"], -100).astype(np.int64))
    if padding == "left":
        labels[np.arange(4), batch["mask"].argmax(1)] = -100  # the first real token stands after padding
    expected = run_hf(model, batch, labels=labels).loss.item()
    ours = weights.load(gpt2.GPT2LMHeadModel, str(tmp_path))
    run = runner(3)
    parts = run.split(batch)
    score = jax.jit(lambda params, parts: log_likelihoods(ours.model, params, parts, pj.AllGather(), run))
    scores = np.asarray(score(run.replicate(ours.params), parts))
    scored = batch["mask"][:, 1:] & batch["mask"][:, :-1]
    assert (scores[~scored] == 0).all()
    assert_close(-scores.sum() / scored.sum(), expected)


@pytest.mark.slow
def test_scores_and_gradients_on_a_mesh_of_data_and_parts_are_those_of_one_device():
    model = gpt2.GPT2LMHeadModel(gpt2.GPT2Config(stack_config(causal=True, norm_first=True), 100, 64, 0.0))
    params, batch = random_params(model), token_batch("right")
    results = []
    for run in (pj.on_one_device(3), pj.on_mesh(3, data=2)):

        def total(params, parts, run=run):
            scores = log_likelihoods(model, params, parts, pj.SegmentMeans(2), run)
            return scores.sum(), scores

        (_, scores), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(
            run.replicate(params), run.split(batch)
        )
        results.append((scores, *jax.tree.leaves(gradient)))
    for one, mesh in zip(*results, strict=True):
        assert_close(mesh, one, 1e-4)


@pytest.mark.parity
def test_the_likelihood_of_a_continuation(tmp_path):
    """Against the log-softmax of Hugging Face's logits, one pair at a time without padding."""
    import torch

    model = save_hf_model("GPT2LMHeadModel", hf_config("plain"), tmp_path)
    ours = weights.load(gpt2.GPT2LMHeadModel, str(tmp_path))
    rng = np.random.default_rng(0)
    contexts = [rng.integers(0, 98, n).tolist() for n in (3, 9, 30)]
    endings = [rng.integers(0, 98, n).tolist() for n in (2, 1, 5)]
    batch, scored = likelihood.continuations(contexts, endings, 16)
    run = pj.on_one_device(2)
    score = jax.jit(lambda params, parts: log_likelihoods(ours.model, params, parts, pj.AllGather(), run))
    scores = score(ours.params, run.split(batch))
    for got, context, ending in zip((np.asarray(scores) * scored).sum(1), contexts, endings, strict=True):
        ids = torch.tensor([[*context[-(16 - len(ending)) :], *ending]])
        with torch.no_grad():
            log_p = model(ids).logits.log_softmax(-1)[0]
        at = range(ids.shape[1] - len(ending) - 1, ids.shape[1] - 1)
        assert_close(got, sum(log_p[i, ids[0, i + 1]].item() for i in at))


def test_endings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="context 0 has 1 tokens and its ending 5; .*endings of at most 4"):
        likelihood.continuations([[1]], [[1] * 5], 5)
    with pytest.raises(ValueError, match="context 0 has 0 tokens"):
        likelihood.continuations([[]], [[1]], 5)


def test_the_figures_of_a_uniform_guess():
    """A uniform guess among 256 tokens of one byte: perplexity 256, 8 bits per byte."""
    figures = formulas.summary(-100 * np.log(256), num_tokens=100, num_bytes=100)
    assert figures == pytest.approx({"loss": np.log(256), "perplexity": 256, "bits_per_byte": 8})
