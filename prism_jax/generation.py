"""Text generation: all parts process the prompt, then the device of the last part continues alone.

Part boundaries are fixed by the prompt; only the last part grows. For each block, its device keeps the keys and values
of all rows that it attended to: its own rows, and the rows from the earlier parts (means under PRISM, every row under
Voltage). A new token comes after all of them, so it attends to all of them. It needs no mask and no communication, and
adds one row to the cache.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from prism_jax.data.text import check_ids
from prism_jax.errors import InputError, RunError
from prism_jax.exchange.base import Exchanges
from prism_jax.exchange.setting import Setting
from prism_jax.forward import bound
from prism_jax.layers.attention import KVCache
from prism_jax.models.base import Model
from prism_jax.parallel.partition import Layout, Parts, part_length
from prism_jax.parallel.runner import GenerationRunner
from prism_jax.sampling import GREEDY, NO_TOKEN, Sampling

Caches = tuple[KVCache, ...]
"""One cache for each block."""


class Step(NamedTuple):
    """One new token for each of several prompts.

    Attributes:
      prompts: int [examples], indices of the prompts.
      tokens: int [examples].
      finished: bool [examples], whether the token is the last one of its prompt.
    """

    prompts: np.ndarray
    tokens: np.ndarray
    finished: np.ndarray


class Generator:
    """Continues prompts with a language model. Programs are compiled once for each shape, not for each prompt.

    The device of the last part holds the cache and computes all new tokens. With several processes, all of them make
    the same calls with the same prompts, and all receive the tokens.
    """

    def __init__(
        self,
        model: Model,
        params: Any,
        exchange: Exchanges,
        run: GenerationRunner,
        *,
        bucket: int = 16,
    ):
        """
        Args:
          model: for example `models.gpt2.GPT2LMHeadModel(config)`.
          params: its parameters.
          exchange: used between the parts while the prompt is processed.
          run: where the parts run.
          bucket: a prompt is padded on the left to the next multiple of this many tokens. Part boundaries depend on the
            padded length alone, and prompts of one padded length share compiled programs.
        """
        if bucket < 1:
            raise InputError(f"bucket is {bucket}; choose 1 token or more")
        self.model, self.exchange, self.run, self.bucket = model, exchange, run, bucket
        self._params = run.replicate(params)
        self._last_params = run.last_copy(self._params) if run.last_here else None

        def prefill(params: Any, parts: Parts) -> Any:
            def one_part(params: Any, tokens: dict[str, jax.Array], layout: Layout) -> Any:
                return model.apply({"params": params}, tokens, layout, bound(model, exchange, params), method="prefill")

            return run.each(one_part, params, parts)

        @partial(jax.jit, static_argnums=(3, 4))
        def first(
            params: Any, rows_BTD: jax.Array, caches: Caches, index: int, max_new_tokens: int
        ) -> tuple[jax.Array, Caches]:
            row_B1D = rows_BTD[:, index : index + 1]
            logits_B1V: Any = model.apply({"params": params}, row_B1D, jnp.ones((1, 1), bool), method="head")
            return logits_B1V[:, 0], tuple(cache.grow(max_new_tokens) for cache in caches)

        @partial(jax.jit, donate_argnums=3)
        def extend(params: Any, ids_B: jax.Array, place_B: jax.Array, caches: Caches, room: jax.Array) -> Any:
            return model.apply({"params": params}, ids_B, place_B, caches, room, method="extend")

        @partial(jax.jit, static_argnums=0)
        def choose(sampling: Sampling, logits_BV: jax.Array, keys_B: jax.Array, i: int) -> jax.Array:
            return sampling.choose(logits_BV, jax.vmap(jax.random.fold_in, (0, None))(keys_B, i))

        self._prefill, self._first, self._extend, self._choose = jax.jit(prefill), first, extend, choose

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        *,
        sampling: Sampling = GREEDY,
        stop_tokens: Collection[int] = (),
    ) -> list[list[int]]:
        """Returns the new tokens of each prompt. If generation ends at a stop token, it is included as the last one."""
        new: list[list[int]] = [[] for _ in prompts]
        for step in self.stream(prompts, max_new_tokens, sampling=sampling, stop_tokens=stop_tokens):
            for prompt, token in zip(step.prompts, step.tokens, strict=True):
                new[prompt].append(int(token))
        return new

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        *,
        sampling: Sampling = GREEDY,
        stop_tokens: Collection[int] = (),
    ) -> Iterator[Step]:
        """Yields new tokens as they are computed. Prompts of one padded length run together, one length after another.

        Args:
          prompts: token ids, of any lengths.
          max_new_tokens: limit for each prompt.
          sampling: how the next token is chosen.
          stop_tokens: token ids that end a text.

        Raises:
          InputError: if a prompt is empty or has an unknown token, there are more tokens than the model has positions,
            or the exchange can't run on a prompt.
          RunError: if the logits of a token are not finite.
        """
        for num_tokens, numbers in self._groups(prompts, max_new_tokens):
            yield from self._stream_group(num_tokens, numbers, prompts, max_new_tokens, sampling, stop_tokens)

    def logits(self, prompts: Sequence[Sequence[int]], continuation_BN: np.ndarray) -> np.ndarray:
        """Returns the logits [B, 1 + N, V] that predict each token of the given continuations, and the token after
        them.

        They are computed with the cache, so they show how an exchange changes generation on given text. The prompts
        must have one padded length.
        """
        check_ids(continuation_BN, self.model.config.vocab_size, "a continuation")
        lengths = {self.padded_length(i, prompt, continuation_BN.shape[1]) for i, prompt in enumerate(prompts)}
        if len(lengths) != 1:
            raise InputError(f"the prompts are padded to several lengths, {sorted(lengths)}; give those of one length")
        batch, new = continuation_BN.shape
        logits_BV, place_B, caches = self._start(prompts, lengths.pop(), new)
        if not self.run.last_here:
            return self.run.from_last(np.zeros((batch, 1 + new, self.model.config.vocab_size), np.float32))
        all_logits = [logits_BV]
        for i, ids_B in enumerate(continuation_BN.T):
            logits_BV, caches = self._extend(self._last_params, ids_B, place_B + i, caches, new - i)
            all_logits.append(logits_BV)
        return self.run.from_last(np.stack(jax.device_get(all_logits), axis=1))

    def compiled_cache_bytes(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> int:
        """Returns the size of all prompts' caches on the last part's device according to the compiler, in bytes.
        Returns 0 where the compiler reports nothing.

        Includes keys and values, as in `cost.cache_bytes`, and a count for each row.
        """
        total = 0
        for num_tokens, numbers in self._groups(prompts, max_new_tokens):
            _, place_B, caches = self._start([prompts[i] for i in numbers], num_tokens, max_new_tokens)
            if self.run.last_here:
                ids_B = np.zeros(len(numbers), np.int32)
                extend = self._extend.lower(self._last_params, ids_B, place_B, caches, max_new_tokens)
                analysis = extend.compile().memory_analysis()
                total += analysis.alias_size_in_bytes if analysis else 0  # a step takes and returns the cache
        return int.from_bytes(self.run.from_last(np.frombuffer(total.to_bytes(8), np.uint8)).tobytes())

    def _groups(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[tuple[int, list[int]]]:
        """Returns the padded lengths, each with the indices of its prompts."""
        groups: dict[int, list[int]] = {}
        for i, prompt in enumerate(prompts):
            groups.setdefault(self.padded_length(i, prompt, max_new_tokens), []).append(i)
        return sorted(groups.items())

    def padded_length(self, i: int, prompt: Sequence[int], max_new_tokens: int) -> int:
        """Returns N, the padded length of prompt `i`, see `padded_length`."""
        setting = Setting(self.exchange, self.run.num_parts)
        return padded_length(self.model, setting, self.bucket, i, prompt, max_new_tokens)

    def _start(
        self, prompts: Sequence[Sequence[int]], num_tokens: int, max_new_tokens: int
    ) -> tuple[Any, np.ndarray, Any]:
        """Runs the prompts over the parts.

        Returns:
          The logits [B, V] of the next token, its position [B], and the last part's caches with room for the new
          tokens. Logits and caches lie on the last part's device; on processes without it they are None.
        """
        run = self.run
        lengths = np.array([len(prompt) for prompt in prompts])
        mask = np.arange(num_tokens)[None] >= num_tokens - lengths[:, None]
        ids = np.zeros(mask.shape, np.int32)
        ids[mask] = np.concatenate([np.asarray(prompt, np.int32) for prompt in prompts])
        prefilled = self._prefill(self._params, run.split({"ids": ids, "mask": mask}))
        if not run.last_here:
            return None, lengths, None
        rows_BTD, caches = run.last_part(prefilled)
        index = num_tokens - 1 - (run.num_parts - 1) * part_length(num_tokens, run.num_parts)
        logits_BV, caches = self._first(self._last_params, rows_BTD, caches, index, max_new_tokens)
        return logits_BV, lengths, caches

    def _stream_group(
        self,
        num_tokens: int,
        numbers: Sequence[int],
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        sampling: Sampling,
        stop_tokens: Collection[int],
    ) -> Iterator[Step]:
        """Streams the prompts of the given indices, which have one padded length."""
        numbers_B = np.array(numbers)
        logits_BV, place_B, caches = self._start([prompts[i] for i in numbers], num_tokens, max_new_tokens)
        keys_B = jax.vmap(partial(jax.random.fold_in, jax.random.key(sampling.seed)))(numbers_B)
        choose = partial(self._choose, replace(sampling, seed=0))  # only the keys depend on the seed
        running_B = np.ones(len(numbers), bool)
        for i in range(max_new_tokens):
            chosen_B = choose(logits_BV, keys_B, i) if self.run.last_here else np.zeros(len(numbers), np.int32)
            ids_B = self.run.from_last(np.asarray(chosen_B))
            if (ids_B[running_B] == NO_TOKEN).any():
                raise RunError(
                    f"the logits of new token {i} of prompt {numbers_B[running_B & (ids_B == NO_TOKEN)][0]} are not "
                    "finite, so none follows; use weights that did not diverge, or a wire format of a wider range"
                )
            finished_B = np.isin(ids_B, list(stop_tokens)) if i + 1 < max_new_tokens else running_B
            yield Step(numbers_B[running_B], ids_B[running_B], finished_B[running_B])
            running_B = running_B & ~finished_B
            if not running_B.any():
                return
            if self.run.last_here:
                logits_BV, caches = self._extend(self._last_params, ids_B, place_B + i, caches, max_new_tokens - i)


def padded_length(
    model: Model, setting: Setting, bucket: int, i: int, prompt: Sequence[int], max_new_tokens: int
) -> int:
    """Returns N, the padded length of prompt `i`. Part boundaries depend on it. The model needs no parameters.

    Raises:
      InputError: if the prompt can't be processed.
    """
    config, num_parts = model.config, setting.num_parts
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens}; choose 1 or more")
    if np.ndim(prompt) != 1:
        raise InputError(
            f"prompt {i} is {str(prompt)[:40]!r}, which is no list of token ids; give a list of prompts, "
            "such as [[1, 2, 3]]"
        )
    if not len(prompt):
        raise InputError(f"prompt {i} is empty; give at least one token")
    check_ids(prompt, config.vocab_size, f"prompt {i}")
    if len(prompt) + max_new_tokens > config.num_positions:
        raise InputError(
            f"prompt {i} has {len(prompt)} tokens, and with {max_new_tokens} new ones passes the "
            f"{config.num_positions} positions of the model; choose a shorter prompt or fewer new tokens"
        )
    num_tokens = min(-(-len(prompt) // bucket) * bucket, config.num_positions)
    setting.check([num_tokens])
    if (num_parts - 1) * part_length(num_tokens, num_parts) >= num_tokens:
        raise InputError(f"{num_tokens} tokens leave none for the last of {num_parts} parts; choose fewer parts")
    return num_tokens
