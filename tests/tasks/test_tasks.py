"""Losses and predictions of the tasks, against PyTorch's losses and against counting by hand."""

import jax
import numpy as np
import pytest
from helpers.closeness import assert_close
from helpers.tiny import save_toy_tokenizer, stack_config, tiny_batch
from PIL import Image

import prism_jax as pj
from prism_jax import tasks
from prism_jax.data import images
from prism_jax.data.datasets import Corpus, Labelled
from prism_jax.data.text import Tokens, load_tokenizer
from prism_jax.forward import Head, encode
from prism_jax.models.bert import BERT_BASE, BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel
from prism_jax.models.gpt2 import GPT2, GPT2LMHeadModel
from prism_jax.models.vit import VIT_BASE, ViTForImageClassification
from prism_jax.tasks import likelihood
from prism_jax.tasks.classification import Classification, Regression
from prism_jax.tasks.inputs import Endings, Texts
from prism_jax.tasks.language import ClozeTask, LanguageModelling
from prism_jax.testing import random_params
from prism_jax.weights import Pretrained

pytestmark = pytest.mark.usefixtures("quick_to_compile")

RUN = pj.on_one_device(1)


def answers(task, model, params, parts, targets):
    """Losses, amounts, outcomes and logits, by one program."""

    @jax.jit
    def program(params, parts, targets):
        rows, head = encode(model, params, parts, pj.WholeSequence(), RUN), Head(model, params, RUN)
        logits = pj.forward(model, params, parts, pj.WholeSequence(), RUN)
        return *task.losses(head, rows, parts, targets), task.outcomes(head, rows, parts, targets), logits

    return program(params, parts, targets)


@pytest.mark.parity
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_classification_loss_is_pytorch_s(smoothing):
    import torch

    model = BertForSequenceClassification(BertConfig(stack_config(), vocab_size=100, num_positions=64, num_labels=5))
    params = random_params(model)
    batch, labels = tiny_batch(9, padded=True), np.array([4, 0, 2])
    task = Classification(Texts(None), labels, (), smoothing)
    parts = RUN.split(batch)
    loss_B, amount_B, outcomes, logits = answers(task, model, params, parts, labels)
    logits = torch.from_numpy(np.array(logits))
    loss = torch.nn.CrossEntropyLoss(label_smoothing=smoothing, reduction="none")
    assert_close(loss_B, loss(logits, torch.from_numpy(labels)).numpy())
    assert amount_B.tolist() == [1, 1, 1]
    assert outcomes.tolist() == logits.argmax(-1).tolist()


@pytest.mark.slow
def test_a_number_in_place_of_a_class():
    model = BertForSequenceClassification(BertConfig(stack_config(), vocab_size=100, num_positions=64, num_labels=1))
    params = random_params(model)
    labels = np.array([0.5, 4.0, 2.5])
    task = Regression(Texts(None), labels, ("pearson_percent",))
    parts = RUN.split(tiny_batch(9, padded=False))
    loss_B, _, scores, _ = answers(task, model, params, parts, labels.astype(np.float32))
    assert_close(loss_B, (np.asarray(scores) - labels) ** 2)
    assert tasks.num_labels(Labelled("d", {"text": "abc"}, labels, ())) == 1


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_toy_tokenizer(folder)
    tokenizer = load_tokenizer(folder, 99)
    tokenizer.eos_token = "[SEP]"
    return tokenizer


@pytest.mark.parametrize("num_tokens", [2, 3, 5, 64])
def test_windows_predict_every_token_once(tokenizer, num_tokens):
    documents = ["w1 w2 w3 w4 w5 w6 w7", "w8", "", "w9 w10"]
    tokens, num_bytes = likelihood.windows(tokenizer, documents, num_tokens)
    predicted = np.concatenate([ids[1:] for ids in tokens.ids])
    assert predicted.tolist() == [x for one in documents for x in tokenizer(one, add_special_tokens=False)["input_ids"]]
    assert num_bytes.sum() == sum(len(one.encode()) for one in documents)
    assert max(tokens.lengths) <= num_tokens
    starts = [ids[0] for ids in tokens.ids]
    assert starts.count(tokenizer.eos_token_id) == 3  # one for each document with text


@pytest.mark.parametrize(("max_windows", "kept"), [(3, [1, 3, 5]), (9, range(6))])
def test_a_long_text_is_scored_on_windows_at_even_distances(tmp_path, max_windows, kept):
    """A window counts, not a document: a novel is one document."""
    save_toy_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "[SEP]"}')
    words = [f"w{i}" for i in range(1, 23)]
    pretrained = Pretrained(GPT2LMHeadModel(GPT2), None, tmp_path)
    task = tasks.prepare(Corpus("d", [" ".join(words)]), pretrained, 5, max_windows=max_windows)
    ids, _ = task.arrays(np.arange(len(kept)), 5, None)
    first = [4 * i for i in kept]  # a window predicts four words
    vocabulary = load_tokenizer(tmp_path, 99).get_vocab()
    assert ids["ids"][:, 1].tolist() == [vocabulary[words[i]] for i in first]
    predicted = [words[i : i + 4] for i in first]
    num_bytes = [sum(map(len, of)) + len(of) - (i == 0) for i, of in zip(kept, predicted, strict=True)]
    assert task.labels.tolist() == [[len(of), size] for of, size in zip(predicted, num_bytes, strict=True)]


def test_bytes_of_letters_outside_ascii(tokenizer):
    _, num_bytes = likelihood.windows(tokenizer, ["é w1 é"], 3)  # windows of 2 predicted tokens, then 1
    assert num_bytes.tolist() == [2 + 1 + 2, 1 + 2]


def test_the_ending_with_the_highest_likelihood_as_a_whole_is_chosen():
    contexts = [np.array([7, 8, 9]), np.array([5])]
    endings = [np.array(ids) for ids in ([1, 2], [3], [4, 4, 4], [6])]
    task = ClozeTask(Endings(contexts, endings, num_tokens=5), np.array([1, 0]))
    assert task.lengths.tolist() == [5, 5, 4, 4]  # so that all endings of a question get the same part boundaries
    assert task.training_index.tolist() == [1, 2]
    assert task.predictions(np.array([-2.0, -3.0, -9.0, -8.0])).tolist() == [0, 1]
    batch, scored = task.arrays(np.array([0, 3]), 5, None)
    assert batch["ids"].tolist() == [[7, 8, 9, 1, 2], [5, 6, 0, 0, 0]]
    assert scored.tolist() == [[False, False, True, True], [True, False, False, False]]


def test_the_loss_of_a_language_model_counts_what_it_predicts():
    from prism_jax.models.gpt2 import GPT2Config

    stack = stack_config(norm_first=True, causal=True)
    model = GPT2LMHeadModel(GPT2Config(stack, vocab_size=99, num_positions=32))
    params = random_params(model)
    ids = [np.array([1, 2, 3, 4]), np.array([5, 6])]
    task = LanguageModelling(Texts(Tokens(ids, ids)), np.array([[3, 3], [1, 1]]))
    batch, targets = task.arrays(np.array([0, 1]), 6, None)
    parts = RUN.split(batch)
    loss_B, amount_B, kept, logits = answers(task, model, params, parts, targets)
    assert amount_B.tolist() == [3, 1]
    assert_close(task.predictions(np.asarray(kept)), -np.asarray(loss_B))
    log_p = np.asarray(jax.nn.log_softmax(logits))
    assert_close(loss_B, -np.array([log_p[0, [0, 1, 2], [2, 3, 4]].sum(), log_p[1, 0, 6]]))


def test_a_crop_is_a_part_of_the_image_and_follows_from_the_random_numbers():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    image, colours = Image.fromarray(pixels), {tuple(pixel) for row in pixels.tolist() for pixel in row}
    sizes = set()
    for seed in range(20):
        part = images.crop_and_flip(image, np.random.default_rng(seed))
        again = images.crop_and_flip(image, np.random.default_rng(seed))
        assert np.array_equal(part, again)
        assert {tuple(pixel) for row in np.asarray(part).tolist() for pixel in row} <= colours
        assert part.width <= 30
        assert part.height <= 20
        assert 0.35 <= part.width * part.height / 600 <= 1
        sizes.add(part.size)
    assert len(sizes) > 10


TEXTS = Labelled("d", {"text": ["a"]}, np.zeros(1, int), ("no", "yes"))
PICTURES = Labelled("d", {"image": [None]}, np.zeros(1, int), ("no", "yes"))


@pytest.mark.parametrize(
    ("model", "dataset", "message"),
    [
        (BertForMaskedLM(BERT_BASE), TEXTS, "BertForMaskedLM gives no class to a text; choose a model such as Bert"),
        (BertModel(BERT_BASE), TEXTS, "BertModel gives no class to a text"),
        (GPT2LMHeadModel(GPT2), TEXTS, "GPT2LMHeadModel gives no class to a text"),
        (ViTForImageClassification(VIT_BASE), TEXTS, "ViTForImageClassification takes no texts"),
        (BertForSequenceClassification(BERT_BASE), PICTURES, "takes no images; choose a model such as ViT"),
        (BertForSequenceClassification(BERT_BASE), Corpus("d", ["a"]), "gives no likelihood to a text"),
        (
            BertForMaskedLM(BERT_BASE),
            Corpus("d", ["a"]),
            "gives no likelihood to a text; choose a model such as GPT2LM",
        ),
    ],
)
def test_models_that_do_not_answer_what_is_asked_are_refused(model, dataset, message):
    with pytest.raises(ValueError, match=message):
        tasks.check_model(model, dataset, 32)


def test_logits_that_are_not_finite_have_no_class():
    model = BertForSequenceClassification(BertConfig(stack_config(), vocab_size=100, num_positions=64, num_labels=2))
    params = random_params(model)
    batch = tiny_batch(9, padded=False)
    task = Classification(Texts(None), np.array([0, 1, 0]), ())
    parts = RUN.split(batch | {"ids": np.where(np.arange(3)[:, None] == 1, 99, batch["ids"] % 99)})
    params["encoder"]["token"]["embedding"][99] = np.inf
    *_, outcomes, _ = answers(task, model, params, parts, np.zeros(3, int))
    outcomes = np.asarray(outcomes)
    with pytest.raises(RuntimeError, match="the logits of 1 of 3 examples are not finite"):
        task.predictions(outcomes)
    cloze = ClozeTask(Endings([np.ones(1)], [np.ones(1)] * 2, 8), np.zeros(1, int))
    with pytest.raises(RuntimeError, match="the likelihoods of 1 of 2 endings are not numbers"):
        cloze.predictions(np.array([-1.0, np.nan]))


@pytest.mark.parametrize("more", [{"smoothing": 0.1}, {"augment": True}])
def test_a_recipe_that_a_data_set_can_not_follow_is_refused(more):
    pretrained = Pretrained(GPT2LMHeadModel(GPT2), None)
    with pytest.raises(ValueError, match="which d has none of"):
        tasks.prepare(Corpus("d", ["a"]), pretrained, 32, **more)


def test_models_that_do_answer_are_taken():
    tasks.check_model(BertForSequenceClassification(BERT_BASE), TEXTS, 32)
    tasks.check_model(GPT2LMHeadModel(GPT2), Corpus("d", ["a"]), 32)


@pytest.mark.parametrize(
    ("names", "metrics", "message"),
    [
        (("a", "b", "c"), ("accuracy_percent", "f1_percent"), "f1_percent takes the classes 0 and 1, not .0, 1, 2."),
        (("a", "b"), ("pearson_percent",), "pearson_percent takes numbers"),
        ((), ("accuracy_percent",), "accuracy_percent takes classes"),
        (("a", "b"), ("f1",), "d has the metric 'f1'; choose from accuracy_percent, f1_percent"),
    ],
)
def test_metrics_that_do_not_take_the_answers_are_refused(names, metrics, message):
    with pytest.raises(ValueError, match=message):
        tasks.check_metrics(Labelled("d", {"text": ["a"]}, np.zeros(1), names, metrics))


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (
            3,
            np.array([1, 2, 3]),
            "d has labels from 1 to 3 .int64.; give whole numbers from 0 to 2, which label_names names",
        ),
        (3, np.array([0, -1, 2]), "d has labels from -1 to 2"),
        (2, np.array([0.9, 1.0]), "d has labels from 0.9 to 1.0 .float64.; give whole numbers"),
        (3, np.array([0, 1]), "d has 3 text, 2 labels; give as many of each"),
    ],
)
def test_labels_that_are_no_classes_are_refused(texts, labels, message):
    with pytest.raises(ValueError, match=message):
        tasks.check_labels(Labelled("d", {"text": ["a"] * texts}, labels, ("a", "b", "c")))


def test_labels_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="d has labels that are no finite numbers"):
        tasks.check_labels(Labelled("d", {"text": ["a", "b"]}, np.array([0.5, np.nan]), ()))
    tasks.check_labels(Labelled("d", {"text": ["a", "b"]}, np.array([0.5, 2]), ()))
    tasks.check_labels(Labelled("d", {"text": ["a", "b"]}, None, ("a", "b")))
