"""The tokenizer of a GGUF file (the format of llama.cpp), as files in the hub's layout.

The file holds the vocabulary, and how it was learned: by byte-level BPE with its merges, or by SentencePiece's BPE with
a score for each token. Before that a text is divided into words, by a rule that the file names.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from prism_jax import records
from prism_jax.records import Natural

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONTROL, USER_DEFINED = 3, 4
"""Types of tokens that are found in a text before it is cut. Those of control are special."""

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The words of Llama 3."""

WORDS = {"gpt-2": None, "smollm": None, "llama-bpe": LLAMA_3, "llama3": LLAMA_3, "llama-v3": LLAMA_3}
"""The words of a byte-level tokenizer, by their name in the file. None: those of GPT-2."""

MODELS = ("gpt2", "llama")
"""Names of byte-level BPE and of SentencePiece's BPE in the file."""

SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""Special tokens: their names in the file by Hugging Face's."""

SPACE = "\u2581"
"""SentencePiece's sign for a space."""

Header = TypedDict(
    "Header",
    {
        "tokenizer.ggml.model": str,
        "tokenizer.ggml.tokens": list[str],
        "tokenizer.ggml.token_type": list[int],
        "tokenizer.ggml.pre": NotRequired[str],
        "tokenizer.ggml.merges": NotRequired[list[str]],
        "tokenizer.ggml.scores": NotRequired[list[float]],
        "tokenizer.ggml.bos_token_id": NotRequired[Natural],
        "tokenizer.ggml.eos_token_id": NotRequired[Natural],
        "tokenizer.ggml.eot_token_id": NotRequired[Natural],
        "tokenizer.ggml.eom_token_id": NotRequired[Natural],
        "tokenizer.ggml.unknown_token_id": NotRequired[Natural],
        "tokenizer.ggml.padding_token_id": NotRequired[Natural],
        "tokenizer.ggml.add_bos_token": NotRequired[bool],
        "tokenizer.ggml.add_eos_token": NotRequired[bool],
        "tokenizer.ggml.add_space_prefix": NotRequired[bool],
        "tokenizer.chat_template": NotRequired[str],
    },
)
"""Types of the values that are read."""


def check(metadata: Mapping[str, Any], vocab_size: int) -> None:
    """Raises ValueError unless `write` can write the tokenizer, and it has a token for each row of the model's
    table."""
    records.checked(metadata, Header)
    model, words = (metadata.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if model not in MODELS:
        raise ValueError(f"its tokenizer is {model!r}; implemented are {', '.join(MODELS)}")
    if model == "gpt2" and words not in WORDS:
        raise ValueError(f"its tokenizer cuts words as {words!r} does; implemented are {', '.join(WORDS)}")
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    if len(tokens) != vocab_size:
        raise ValueError(f"it has {len(tokens)} tokens, but a vocabulary of {vocab_size}")
    if len(set(tokens)) < len(tokens) or len(types) != len(tokens):
        raise ValueError(f"its {len(tokens)} tokens are {len(set(tokens))} different ones, of {len(types)} types")
    for name in (*SPECIAL.values(), "eot", "eom"):
        if (token_id := metadata.get(f"tokenizer.ggml.{name}_token_id", 0)) >= len(tokens):
            raise ValueError(f"its {name} token has the id {token_id}, but there are {len(tokens)} tokens")
    key = "tokenizer.ggml.merges" if model == "gpt2" else "tokenizer.ggml.scores"
    if key not in metadata:
        raise ValueError(f"{key} is missing")
    if model == "gpt2":
        known = set(tokens)
        for merge in metadata[key]:
            left, _, right = merge.partition(" ")
            if not {left, right, left + right} <= known:
                raise ValueError(f"it merges {merge!r}, of which its vocabulary does not have all")
    elif len(metadata[key]) != len(tokens):
        raise ValueError(f"it has {len(metadata[key])} scores for {len(tokens)} tokens")


def write(metadata: Mapping[str, Any], folder: Path, max_length: int) -> dict[str, int | None]:
    """Writes tokenizer.json and tokenizer_config.json. Returns the ids of special tokens, by Hugging Face's names."""
    ids = {f"{name}_token_id": metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in SPECIAL.items()}
    tokens = metadata["tokenizer.ggml.tokens"]
    _build(metadata).save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        **{name.removesuffix("_id"): tokens[token_id] for name, token_id in ids.items() if token_id is not None},
    }
    if template := metadata.get("tokenizer.chat_template"):
        settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    del ids["unk_token_id"]
    return ids


def _build(metadata: Mapping[str, Any]) -> "Tokenizer":
    from tokenizers import AddedToken

    byte_level = metadata["tokenizer.ggml.model"] == "gpt2"
    tokenizer = _byte_level(metadata) if byte_level else _sentence_piece(metadata)
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    for kind, add in ((CONTROL, tokenizer.add_special_tokens), (USER_DEFINED, tokenizer.add_tokens)):
        matching = (token for token, token_type in zip(tokens, types, strict=True) if token_type == kind)
        add([AddedToken(token, normalized=False, special=kind == CONTROL) for token in matching])
    _add_ends(tokenizer, metadata)
    return tokenizer


def _byte_level(metadata: Mapping[str, Any]) -> "Tokenizer":
    """Returns a byte-level BPE tokenizer. SmolLM's cuts out each digit, before GPT-2's words are found."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocab = {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    words = metadata["tokenizer.ggml.pre"]
    pattern = WORDS[words]
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=pattern is not None))
    steps: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)]
    if pattern:
        steps = [pre_tokenizers.Split(Regex(pattern), "isolated"), *steps]
    if words == "smollm":
        steps = [pre_tokenizers.Digits(individual_digits=True), *steps]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_piece(metadata: Mapping[str, Any]) -> "Tokenizer":
    """Returns SentencePiece's BPE, which merges the pair with the highest score first. A text begins with a space."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    unknown = metadata.get("tokenizer.ggml.unknown_token_id")
    tokenizer = Tokenizer(
        models.BPE(
            {token: i for i, token in enumerate(tokens)},
            _merges(tokens, scores),
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    signs, spaces = normalizers.Replace(" ", SPACE), decoders.Replace(SPACE, " ")
    plain = [spaces, decoders.ByteFallback(), decoders.Fuse()]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), signs])
        tokenizer.decoder = decoders.Sequence([*plain, decoders.Strip(" ", 1, 0)])
    else:
        tokenizer.normalizer, tokenizer.decoder = signs, decoders.Sequence(plain)
    return tokenizer


def _merges(tokens: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Returns all pairs of tokens that make a token, those with the highest score first."""
    known = set(tokens)
    pairs = [
        (score, token[:i], token[i:])
        for token, score in zip(tokens, scores, strict=True)
        for i in range(1, len(token))
        if token[:i] in known and token[i:] in known
    ]
    pairs.sort(key=lambda pair: (pair[0], len(pair[1])), reverse=True)
    return [(left, right) for _, left, right in pairs]


def _add_ends(tokenizer: "Tokenizer", metadata: Mapping[str, Any]) -> None:
    """Lets the tokenizer begin each text with its first special token, and end it with the last, if the file says so.

    llama.cpp begins texts of SentencePiece and of Llama 3, where the file does not say.
    """
    from tokenizers import processors

    starts = metadata["tokenizer.ggml.model"] == "llama" or WORDS[metadata["tokenizer.ggml.pre"]] is not None
    single, pair, special = ["$A"], ["$B:1"], []
    for name, default, at in (("bos", starts, 0), ("eos", False, 1)):
        token_id = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if token_id is not None and metadata.get(f"tokenizer.ggml.add_{name}_token", default):
            token = metadata["tokenizer.ggml.tokens"][token_id]
            special.append((token, token_id))
            single.insert(at * len(single), token)
            pair.insert(at * len(pair), f"{token}:1")
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, pair=[*single, *pair], special_tokens=special
        )
