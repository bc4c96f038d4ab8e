"""Streams generated texts, and compares generation with one device."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from prism_jax import cost, records
from prism_jax.errors import InputError
from prism_jax.exchange.setting import Setting
from prism_jax.exchange.text import text_of
from prism_jax.generation import Generator, padded_length
from prism_jax.models.base import Model
from prism_jax.parallel.partition import part_length
from prism_jax.parallel.processes import from_terminal, is_terminal
from prism_jax.progress import Progress
from prism_jax.records import Natural
from prism_jax.sampling import Sampling

ROUNDS = 3
"""Number of times that each arm is timed, in turn."""


class Stops(TypedDict, total=False):
    """Keys of generation_config.json and config.json that are read."""

    eos_token_id: Natural | list[Natural] | None


def stop_tokens(tokenizer: Any, folder: Path, text: str | None) -> tuple[int, ...]:
    """Returns the ids of the tokens that end a text.

    These are the token `text` alone, if it is given. Otherwise the `eos_token_id` of generation_config.json (where null
    means none), or else of config.json; it is an id or a list of ids. Otherwise the tokenizer's end of text, if it has
    one.

    Raises:
      InputError: if `text` is not one token, or a file has anything but ids.
    """
    if text is not None:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise InputError(f"--stop is one token, but the tokenizer cuts {text!r} into {len(ids)}; choose another")
        return tuple(ids)
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        content: Stops = records.read(path, Stops, "give --stop, or correct it") if path.is_file() else {}
        eos = content.get("eos_token_id")
        if eos is not None:
            return tuple(eos) if isinstance(eos, list) else (eos,)
        if name == "generation_config.json" and "eos_token_id" in content:
            return ()
    return () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)


def prompt_layout(
    model: Model, setting: Setting, bucket: int, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> str:
    """Returns a line for each prompt: its real tokens in every part. If earlier parts have none, no exchange is tested.

    Raises:
      InputError: if a prompt can't be processed.
    """
    lines, num_parts = [], setting.num_parts
    for i, prompt in enumerate(prompts):
        padded = padded_length(model, setting, bucket, i, prompt, max_new_tokens)
        part_len = part_length(padded, num_parts)
        ends = np.minimum(part_len * np.arange(1, num_parts + 1), padded)
        before = np.maximum(ends - (padded - len(prompt)), 0)
        counts = np.diff(before, prepend=0)
        hint = "; all in the last part, so nothing is exchanged" if num_parts > 1 and counts[-1] == len(prompt) else ""
        lines.append(f"prompt {i}: {len(prompt)} tokens, in the parts {' '.join(map(str, counts))}{hint}")
    return "\n".join(lines) + "\n"


def stream_texts(
    generator: Generator,
    tokenizer: Any,
    texts: Sequence[str],
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling,
    stop: Sequence[int],
) -> list[str]:
    """Prints each text as it grows, in the order of the prompts. Returns the new text of each.

    The new text is the tokenizer's text of all new tokens. An incomplete character is printed once it is complete, or
    as U+FFFD if its text ends.
    """
    tokens: list[list[int]] = [[] for _ in prompts]
    waiting, finished, added, shown = ["" for _ in prompts], set(), ["" for _ in prompts], 0
    print(texts[0], end="", flush=True)
    for step in generator.stream(prompts, max_new_tokens, sampling=sampling, stop_tokens=stop):
        for prompt, token, last in zip(step.prompts, step.tokens, step.finished, strict=True):
            tokens[prompt].append(int(token))
            text = tokenizer.decode(tokens[prompt], skip_special_tokens=True)
            text = text if last else text.rstrip("\ufffd")
            waiting[prompt] += text[len(added[prompt]) :]
            added[prompt] = text
            if last:
                finished.add(prompt)
        while shown < len(texts):
            print(waiting[shown], end="", flush=True)
            waiting[shown] = ""
            if shown not in finished:
                break
            shown += 1
            print("\n" + (f"\n{texts[shown]}" if shown < len(texts) else ""), end="", flush=True)
    return added


def compare(
    arms: Sequence[Generator], prompts: Sequence[Sequence[int]], max_new_tokens: int, sampling: Sampling
) -> list[dict]:
    """Measures cache and speed of generators on the same prompts. They take turns, after a run that compiles. The first
    one is the reference."""
    seconds: list[list[tuple[float, float]]] = [[] for _ in arms]
    for i in Progress(range(ROUNDS + 1), "measuring", unit="round"):
        for arm, times in zip(arms, seconds, strict=True):
            from_terminal(lambda: None)  # a barrier: all processes begin together
            if arm.run.num_parts == 1 and not is_terminal():
                continue
            measured = _time(arm, prompts, max_new_tokens, sampling)
            if i:
                times.append(measured)
    rows: list[dict] = []
    for arm, times in zip(arms, seconds, strict=True):
        compiled = arm.compiled_cache_bytes(prompts, max_new_tokens)
        if not times:  # measured by another process
            continue
        config, num_parts = arm.model.config.stack, arm.run.num_parts
        lengths = [arm.padded_length(i, prompt, max_new_tokens) for i, prompt in enumerate(prompts)]
        prefill, decode = np.median(times, axis=0)
        rows.append(
            {
                "exchange": text_of(arm.exchange),
                "num_parts": num_parts,
                "prompts": len(prompts),
                "prompt_tokens": sum(map(len, prompts)),
                "new_tokens": max_new_tokens * len(prompts),
                "cache_bytes": sum(
                    cost.cache_bytes(config, arm.exchange, num_parts, n, max_new_tokens) for n in lengths
                ),
                "cache_bytes_compiled": compiled or None,
                "seconds_prompts": float(prefill),
                "tokens_per_second": (max_new_tokens - 1) * len(prompts) / float(decode) if decode else None,
            }
        )
    return rows


def _time(
    generator: Generator, prompts: Sequence[Sequence[int]], max_new_tokens: int, sampling: Sampling
) -> tuple[float, float]:
    """Returns the seconds until the prompts' first tokens, and the seconds for all other tokens."""
    prefill = decode = 0.0
    begun: set[int] = set()
    before = time.perf_counter()
    for step in generator.stream(prompts, max_new_tokens, sampling=sampling):
        now = time.perf_counter()
        if step.prompts[0] in begun:
            decode += now - before
        else:
            prefill += now - before
        begun |= set(step.prompts)
        before = now
    return prefill, decode
