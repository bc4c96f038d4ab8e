"""The Brown corpus: its spelling, and cloze examples that can be checked word by word."""

import re

import numpy as np
import pytest
from helpers.real_assets import real

from prism_jax import assets, data
from prism_jax.data.packaged import brown
from prism_jax.data.packaged.brown import NUM_CONTEXT, STRIDE, cloze_examples, read_paragraphs, spell

VERBS = [f"do{chr(97 + i)}" for i in range(26)]
QUERY = "``/`` He/pps {}/vbd it/ppo-hl ''/'' ,/, she/pps was/bedz Told/vbn-tl ;/. ;/."


def write_text(path, num_sentences, verbs=VERBS):
    """A text whose sentence i has the verb i of `verbs`, two sentences a paragraph."""
    lines = [f"\t{QUERY.format(verbs[i % len(verbs)])}" + "\n" * (1 + i % 2) for i in range(num_sentences)]
    path.write_text("\n\n" + "\n".join(lines))


@pytest.mark.parametrize(
    ("tagged", "spelled"),
    [
        ("``/`` Yes/rb ''/'' ,/, he/pps said/vbd ./.", '"Yes", he said.'),
        ("Why/wrb not/* ?/. ?/.", "Why not?"),
        ("a/at (/( b/nn )/) --/-- c/nn :/: d/nn ;/. ;/. e/nn", "a (b) -- c: d; e"),
        ("and/or/cc Mr./np Jones'/np$ 1/2/cd", "and/or Mr. Jones' 1/2"),
    ],
)
def test_sentences_are_spelled_as_printed(tagged, spelled, tmp_path):
    (tmp_path / "ca01").write_text(f"\n\n\t{tagged}\n\n")
    ((sentence,),) = read_paragraphs(tmp_path / "ca01")
    assert spell(sentence) == spelled


def test_of_a_tag_the_part_before_the_hyphen_counts(tmp_path):
    (tmp_path / "ca01").write_text("\n\n\tCounty/nn-tl ran/vbd-hl ./.-hl\nI/ppss go/vb ./.\n\n\n\tEnd/nn ./.\n")
    assert read_paragraphs(tmp_path / "ca01") == [
        [[("County", "nn"), ("ran", "vbd"), (".", ".")], [("I", "ppss"), ("go", "vb"), (".", ".")]],
        [[("End", "nn"), (".", ".")]],
    ]


def test_a_cloze_example_is_what_it_says(tmp_path):
    write_text(tmp_path / "ca01", 30)
    examples = cloze_examples(read_paragraphs(tmp_path / "ca01"), "ca01", "verb")
    assert len(examples) == len(range(0, 30 - NUM_CONTEXT, STRIDE))
    for i, (context, endings, answer) in enumerate(examples):
        verbs = [VERBS[(i * STRIDE + k) % 26] for k in range(NUM_CONTEXT + 1)]
        assert context == " ".join(f'"He {verb} it", she was Told;' for verb in verbs[:-1])
        assert endings[answer] == f' "He {verbs[-1]} it", she was Told;'
        candidates = [ending.split()[1] for ending in endings]
        assert len(set(candidates)) == 10
        assert set(candidates) <= set(verbs)
    assert len({answer for *_, answer in examples}) > 1


def test_a_poor_context_is_helped_by_the_text(tmp_path):
    write_text(tmp_path / "ca01", 30, VERBS[:3] * 7 + VERBS[3:12])
    ((_, endings, answer), *_) = cloze_examples(read_paragraphs(tmp_path / "ca01"), "ca01", "verb")
    candidates = {ending.split()[1] for ending in endings}
    assert len(candidates) == 10
    assert set(VERBS[:3]) <= candidates
    assert endings[answer].split()[1] in VERBS[:3]


def test_a_poor_text_gives_no_example(tmp_path):
    write_text(tmp_path / "ca01", 30, VERBS[:9])
    assert cloze_examples(read_paragraphs(tmp_path / "ca01"), "ca01", "verb") == []
    assert cloze_examples(read_paragraphs(tmp_path / "ca01"), "ca01", "noun") == []


def random_text(seed, num_sentences=60):
    """Tagged sentences of 4 words each, of every class and of tags that are of none, and a few in another case."""
    rng = np.random.default_rng(seed)
    tags = ["vb", "vbd", "nn", "nns", "in", "np", "at", "nn-tl", "nr"]
    tagged = []
    for _ in range(num_sentences):
        chosen = rng.choice(tags, 4)
        words = [f"{tag.split('-')[0]}{chr(97 + rng.integers(16))}" for tag in chosen]
        upper = [tag == "np" or rng.random() < 0.1 for tag in chosen]
        words = [word.capitalize() if big else word for word, big in zip(words, upper, strict=True)]
        tagged.append(" ".join(f"{word}/{tag}" for word, tag in zip(words, chosen, strict=True)))
    return tagged


@pytest.mark.parametrize(
    ("word_class", "pattern"),
    [
        ("verb", r"\b([a-z]+)/vb[dgnz]?(?![a-z])"),
        ("noun", r"\b([a-z]+)/nns?(?![a-z])"),
        ("preposition", r"\b([a-z]+)/in(?![a-z])"),
        ("name", r"\b([A-Z][a-z]+)/nps?(?![a-z])"),
    ],
)
def test_examples_equal_a_reading_by_patterns(word_class, pattern, tmp_path):
    """Of a random text: which sentences are asked about, and every context, answer and candidate."""
    tagged = random_text(seed=len(word_class))
    (tmp_path / "ca01").write_text("\n".join(tagged))
    plain = [re.sub(r"/\S+", "", sentence) for sentence in tagged]
    expected = {}
    for start in range(0, len(tagged) - 20, 4):
        in_context = set(re.findall(pattern, " ".join(tagged[start : start + 20])))
        removable = set(re.findall(pattern, tagged[start + 20]))
        if removable := removable & in_context if word_class == "name" else removable:
            expected[" ".join(plain[start : start + 20])] = (plain[start + 20], removable, in_context)
    examples = cloze_examples(read_paragraphs(tmp_path / "ca01"), "ca01", word_class)
    assert [context for context, _, _ in examples] == list(expected) != []
    everywhere = set(re.findall(pattern, " ".join(tagged)))
    for context, endings, answer in examples:
        sentence, removable, in_context = expected[context]
        assert endings[answer] == f" {sentence}"
        (place,) = {i for i, words in enumerate(zip(*map(str.split, endings), strict=True)) if len(set(words)) > 1}
        candidates = [ending.split()[place] for ending in endings]
        right = candidates.pop(answer)
        assert right in removable
        assert len(set(candidates)) == 9
        assert right not in candidates
        assert set(candidates) <= everywhere
        assert len(in_context.intersection(candidates)) == min(9, len(in_context - {right}))


def test_every_fifth_text_of_a_genre_is_held_out(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "fetch", lambda asset: tmp_path)
    for name in [f"ca{i:02}" for i in range(1, 11)] + [f"cr{i:02}" for i in range(1, 7)]:
        (tmp_path / name).write_text(f"\n\tThis/dt is/bez {name}/nn ./.\n")
    test, train = data.load("brown", "test"), data.load("brown", "train")
    assert test.inputs["text"] == ["This is ca05.", "This is ca10.", "This is cr05."]
    assert [test.label_names[i] for i in test.labels] == ["news", "news", "humor"]
    assert len(train) == 13
    assert data.load("brown_text", "test").documents == test.inputs["text"]


def test_the_real_cloze_sets_are_the_same_every_time():
    real(brown.BROWN)
    first, again = data.load("brown_cloze/verb", "test"), data.load("brown_cloze/verb", "test")
    assert first.contexts == again.contexts
    assert first.endings == again.endings
    np.testing.assert_array_equal(first.answers, again.answers)
    assert {len(set(endings)) for endings in first.endings} == {10}
    assert np.bincount(first.answers, minlength=10).min() > 100
