"""The texts that generation goes on with: from flags, from a file, or as messages of a chat."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prism_jax.errors import InputError, one_line


def read(path: str | Path) -> list[str]:
    """Returns the prompts of a file: each line of a text file, or each string of a JSON-lines file (`.jsonl`).

    In JSON lines a prompt may have line breaks.

    Raises:
      InputError: if the file can't be read, a line is empty or no JSON string, or there is none.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read: {one_line(error)}; give a UTF-8 text file of prompts") from error
    lines = text.removesuffix("\n").split("\n") if text else []
    prompts = [_from_json(path, i, line) for i, line in enumerate(lines, 1)] if path.suffix == ".jsonl" else lines
    for i, prompt in enumerate(prompts, 1):
        if not prompt.strip():
            raise InputError(f"line {i} of {path} is empty; give a prompt on every line")
    if not prompts:
        raise InputError(f"{path} is empty; give a prompt on every line")
    return prompts


def all_of(given: Sequence[str], path: str | Path | None) -> list[str]:
    """Returns the prompts that are given, and then those of a file, if any. Errors as for `read`."""
    return [*given, *(read(path) if path else ())]


def _from_json(path: Path, i: int, line: str) -> str:
    try:
        prompt = json.loads(line)
    except ValueError:
        prompt = None
    if not isinstance(prompt, str):
        raise InputError(f'line {i} of {path} is {line[:40]!r}, which is no JSON string; give one such as "Hello"')
    return prompt


def as_chats(tokenizer: Any, messages: Sequence[str]) -> list[str]:
    """Returns each message of a user in the tokenizer's chat template, up to where the answer begins.

    Raises:
      InputError: if the tokenizer has no template, or the template refuses a message.
    """
    if not tokenizer.chat_template:
        raise InputError("the tokenizer has no chat template; leave out --chat, or choose a model tuned for chats")

    def in_template(message: str) -> str:
        try:
            chat = [{"role": "user", "content": message}]
            return tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        except Exception as error:  # a template is a program of the tokenizer's author
            raise InputError(
                f"the chat template refuses {message[:40]!r}: {one_line(error)}; "
                "leave out --chat, or change the message"
            ) from error

    return [in_template(message) for message in messages]


def token_ids(tokenizer: Any, texts: Sequence[str], *, chat: bool) -> list[list[int]]:
    """Returns the ids of each text. A chat template writes the special tokens itself, so none is added to a chat."""
    return [tokenizer(text, add_special_tokens=not chat)["input_ids"] for text in texts]
