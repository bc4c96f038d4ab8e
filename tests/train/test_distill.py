"""Losses by which the exact model teaches, against their formulas in NumPy."""

import json

import jax
import numpy as np
import pytest
from helpers.closeness import assert_close
from helpers.command import command
from helpers.tiny import random_tokens, stack_config, tiny_batch, tiny_gpt2

import prism_jax as pj
from prism_jax.exchange import Codebooks
from prism_jax.experiments.recipe import Distillation
from prism_jax.models.bert import BertConfig, BertForSequenceClassification, BertWithClassTokens
from prism_jax.programs import part_with_insides
from prism_jax.tasks.classification import Classification, Regression
from prism_jax.tasks.language import LanguageModelling
from prism_jax.testing import random_params
from train import distill

pytestmark = pytest.mark.usefixtures("quick_to_compile")

TARGETS = np.array([0, 1, 1])


def a_pair(kind=BertForSequenceClassification, dropout=0.0):
    """A model, parameters of a teacher, and others of a student."""
    model = kind(BertConfig(stack_config(dropout=dropout), vocab_size=100, num_positions=64, class_id=2))
    teacher, other = (random_params(model, seed) for seed in (0, 1))
    return model, teacher, jax.tree.map(lambda x, y: x + 0.3 * y, teacher, other)


def losses_of(task, model, exchange, run, weights, student, teacher, batch, targets=TARGETS, key=None):
    """Losses and amounts, for each example."""
    program = jax.jit(_loss(task, model, exchange, run, weights, student, targets))
    return program(*map(run.replicate, (student, teacher)), run.split(batch, key))[1]


def gradients_of(task, model, exchange, run, weights, student, teacher, batch, targets=TARGETS):
    """Gradients of student and teacher, and the same."""
    loss = _loss(task, model, exchange, run, weights, student, targets)
    program = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    return program(*map(run.replicate, (student, teacher)), run.split(batch))


def _loss(task, model, exchange, run, weights, student, targets):
    of_batch = distill.losses(task, model, exchange, run, weights)
    frozen = jax.tree.map(lambda _: None, student)

    def loss(student, teacher, parts):
        loss_B, amount_B = of_batch(student, distill.Taught(frozen, teacher), (parts, targets))
        return loss_B.sum(), (loss_B, amount_B)

    return loss


def logits_of(model, params, batch, exchange, run):
    program = jax.jit(lambda params, parts: pj.forward(model, params, parts, exchange, run))
    return np.asarray(program(params, run.split(batch)), float)


def on_one_device(model, params, batch, exchange, num_parts):
    """Logits and insides, the rows of tokens of all parts joined."""
    run = pj.on_one_device(num_parts)
    parts = run.split(batch)
    insides = jax.jit(
        lambda params, parts: run.each(
            lambda *part: part_with_insides(model, part[0], part[1], part[2], exchange)[1], params, parts
        )
    )(params, parts)
    num_tokens = batch["ids"].shape[1]
    insides = jax.tree.map(lambda x: np.asarray(x, float)[:, :num_tokens], insides)
    return logits_of(model, params, batch, exchange, run), insides


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def relative_error(ours, exact, mask):
    """The mean over blocks and real tokens, for each example."""
    errors = [((x - y) ** 2).sum(-1) / (y**2).sum(-1) for x, y in zip(ours, exact, strict=True)]
    return np.mean([(error * mask).sum(1) / mask.sum(1) for error in errors], axis=0)


def test_the_losses_are_those_of_their_formulas():
    model, teacher, student = a_pair()
    batch, exchange = tiny_batch(19, padded=True), pj.SegmentMeans(2)
    logits, ours = on_one_device(model, student, batch, exchange, 3)
    exact_logits, exact = on_one_device(model, teacher, batch, pj.WholeSequence(), 1)
    plain = -log_softmax(logits)[np.arange(3), TARGETS]
    p = log_softmax(exact_logits)
    expected = {
        "logits": (np.exp(p) * (p - log_softmax(logits))).sum(-1),
        "blocks": relative_error(ours.blocks, exact.blocks, batch["mask"]),
        "attention": relative_error(ours.attention, exact.attention, batch["mask"]),
    }
    assert min(x.min() for x in expected.values()) > 1e-3
    weights = {"logits": 0.7, "blocks": 1.1, "attention": 0.4}
    how = Classification(None, None, ()), model, exchange, pj.on_mesh(3), Distillation(**weights)
    (to_student, to_teacher), (ours_B, amount_B) = gradients_of(*how, student, teacher, batch)
    assert_close(ours_B, plain + sum(weights[name] * loss_B for name, loss_B in expected.items()))
    assert (np.asarray(amount_B) == 1).all()
    assert max(np.abs(x).max() for x in jax.tree.leaves(to_student["encoder"])) > 1e-3
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(to_teacher))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [BertForSequenceClassification, BertWithClassTokens])
def test_a_student_that_equals_its_teacher_has_nothing_to_learn(kind):
    model, teacher, _ = a_pair(kind)
    weights, batch = Distillation(logits=1.0, blocks=1.0, attention=1.0), tiny_batch(19, padded=True)
    how = Classification(None, None, ()), model, pj.AllGather(), pj.on_one_device(3)
    taught_B, _ = losses_of(*how, weights, teacher, teacher, batch)
    plain_B, _ = losses_of(*how, Distillation(), teacher, teacher, batch)
    assert_close(taught_B, plain_B)
    how = Classification(None, None, ()), model, pj.SegmentMeans(2), pj.on_one_device(3)
    taught_B, _ = losses_of(*how, weights, teacher, teacher, batch)
    plain_B, _ = losses_of(*how, Distillation(), teacher, teacher, batch)
    assert (taught_B > plain_B + 1e-3)[:2].all()  # all tokens of the third lie in one part


@pytest.mark.slow
def test_a_data_axis_changes_nothing():
    model, teacher, student = a_pair()
    weights, batch = Distillation(logits=1.0, blocks=1.0, attention=1.0), tiny_batch(12, padded=True, batch_size=4)
    losses = []
    for run in (pj.on_one_device(2), pj.on_mesh(2, data=2)):
        how = Classification(None, None, ()), model, pj.SegmentMeans(2), run, weights
        losses.append(gradients_of(*how, student, teacher, batch, np.array([0, 1, 1, 0])))
    (gradients, (one_B, _)), (on_mesh, (mesh_B, _)) = losses
    assert_close(mesh_B, one_B)
    assert_close(*(jax.flatten_util.ravel_pytree(x[0])[0] for x in (on_mesh, gradients)))


@pytest.mark.slow
def test_only_the_student_drops_out():
    """The teacher is exact whatever the key; two keys give the student two losses."""
    model, teacher, _ = a_pair(dropout=0.5)
    how = Classification(None, None, ()), model, pj.AllGather(), pj.on_one_device(2)
    weights, batch = Distillation(blocks=1.0), tiny_batch(8, padded=False)
    keyed = [losses_of(*how, weights, teacher, teacher, batch, key=jax.random.key(seed))[0] for seed in (0, 1)]
    assert (keyed[0] != keyed[1]).all()
    none_B, _ = losses_of(*how, weights, teacher, teacher, batch)
    plain_B, _ = losses_of(*how, Distillation(), teacher, teacher, batch)
    assert_close(none_B, plain_B)


@pytest.mark.slow
def test_a_number_diverges_by_its_squared_difference():
    model, teacher, student = a_pair()
    batch, exchange, run = tiny_batch(12, padded=False), pj.SegmentMeans(2), pj.on_one_device(3)
    (ours, _), (exact, _) = (
        on_one_device(model, params, batch, how, parts)
        for params, how, parts in ((student, exchange, 3), (teacher, pj.WholeSequence(), 1))
    )
    how = Regression(None, None, ()), model, exchange, run
    loss_B, _ = losses_of(*how, Distillation(logits=2.0), student, teacher, batch, np.zeros(3, np.float32))
    assert_close(loss_B, ours[:, 0] ** 2 + 2 * (ours[:, 0] - exact[:, 0]) ** 2)


@pytest.mark.slow
def test_next_tokens_diverge_by_their_probabilities(runner):
    model, teacher = tiny_gpt2()
    student = jax.tree.map(lambda x: 1.1 * x, teacher)
    ids, mask = random_tokens(2, 11), np.ones((2, 11), bool)
    mask[1, :4] = False
    batch, exchange = {"ids": ids, "mask": mask}, pj.SegmentMeans(2)
    ours, exact = (
        log_softmax(logits_of(model, params, batch, how, pj.on_one_device(num_parts)))[:, :-1]
        for params, how, num_parts in ((student, exchange, 3), (teacher, pj.WholeSequence(), 1))
    )
    predicted = mask[:, 1:] & mask[:, :-1]
    divergence_B = ((np.exp(exact) * (exact - ours)).sum(-1) * predicted).sum(1)
    likelihood_B = (np.take_along_axis(ours, ids[:, 1:, None], 2)[..., 0] * predicted).sum(1)
    how = LanguageModelling(None, None), model, exchange, runner(3), Distillation(logits=0.5)
    loss_B, amount_B = losses_of(*how, student, teacher, batch, np.zeros(2, np.int32))
    assert_close(loss_B, 0.5 * divergence_B - likelihood_B)
    assert np.asarray(amount_B).tolist() == [10, 6]


@pytest.mark.slow
def test_a_run_with_a_teacher_reaches_its_end_and_resumes_only_with_the_same_one(toy_config, trained, tmp_path, capsys):
    run = tmp_path / "run"
    flags = [toy_config, "--start", trained, "--training.exchanges", "segment_means:1", "--training.parts", 3]
    flags += ["--exchange", "segment_means:1", "--num-parts", 3, "--training.epochs", 1, "--out", run]
    teach = ["--training.distill.logits", 1, "--training.distill.attention", 0.5]
    assert command("train.finetune", *flags, *teach) == 0
    noted = json.loads((run / "config.json").read_text())["training"]["distill"]
    assert noted == {"logits": 1.0, "blocks": 0.0, "attention": 0.5}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["loss"]) for line in lines if "loss" in line)
    assert command("train.finetune", *flags, "--resume", "--training.distill.logits", 2) != 0
    assert "was started with different training.distill" in capsys.readouterr().err
    assert command("train.finetune", *flags, *teach, "--resume") == 0
    assert command("train.finetune", *flags, "--training.distill.logits", -1) != 0
    assert "training.distill.logits is -1" in capsys.readouterr().err
    assert command("train.finetune", toy_config, *teach, "--out", tmp_path / "new") != 0
    assert "classifier would be drawn at random; train it without an exchange first" in capsys.readouterr().err


@pytest.mark.slow
def test_codes_are_taught_too():
    """The gradient passes the codes straight through; the teacher needs none."""
    model, teacher, student = a_pair()
    exchange = Codebooks(pj.AllGather(), 8, 4)
    rng = np.random.default_rng(0)
    books = {f"block_{i}": {"centroids": rng.normal(size=(8, 16, 4)).astype(np.float32)} for i in range(2)}
    student = {**student, "exchange": {"codebooks_8_4": books}}
    how = Classification(None, None, ()), model, exchange, pj.on_one_device(3), Distillation(blocks=1.0)
    (to_student, _), (loss_B, _) = gradients_of(*how, student, teacher, tiny_batch(12, padded=True))
    assert np.isfinite(loss_B).all()
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(to_student["exchange"]))
