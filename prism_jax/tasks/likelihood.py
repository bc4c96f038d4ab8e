"""Log-likelihoods of text under a language model, and text as sequences to score."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from prism_jax.data.text import Tokens, string
from prism_jax.errors import InputError
from prism_jax.forward import Head
from prism_jax.parallel.partition import Layout, Parts


def log_likelihoods(head: Head, rows_BRD: jax.Array, parts: Parts) -> jax.Array:
    """Computes the log-likelihood of each token, given the tokens before it, in nats.

    Holds the logits of only one sequence at a time.

    Args:
      head: head of a language model, for example `models.gpt2.GPT2LMHeadModel(config)`.
      rows_BRD: returned by `forward.encode`.
      parts: the batch, cut by `run.split`.

    Returns:
      [B, N - 1]. Index i holds the value of token i + 1; 0 if token i or i + 1 is padding.
    """
    ids_BN = head.run(_ids_of_part, (), parts)[:, : parts.num_tokens]

    def log_p_of_example(params: Any, example: tuple[jax.Array, jax.Array]) -> jax.Array:
        rows_RD, ids_N = example
        log_p = _log_p(head, params, rows_RD, parts.num_tokens)
        return jnp.take_along_axis(log_p, ids_N[1:, None], axis=1)[:, 0]

    # The gradient computes the logits again.
    log_p = head.run.one_by_one(jax.checkpoint(log_p_of_example), head.params, (rows_BRD, ids_BN))
    return _where_predicted(log_p, parts)


def divergences(head: Head, rows_BRD: jax.Array, teacher: Head, teacher_BRD: jax.Array, parts: Parts) -> jax.Array:
    """Computes the Kullback-Leibler divergence of the next token's probabilities from those of a teacher, in nats.

    Has no gradient of the teacher. Arguments and shape as for `log_likelihoods`.
    """

    def of_example(params: tuple[Any, Any], example: tuple[jax.Array, jax.Array]) -> jax.Array:
        ours, exact = (
            _log_p(one, own, rows_RD, parts.num_tokens)
            for one, own, rows_RD in zip((head, teacher), params, example, strict=True)
        )
        return optax.losses.kl_divergence_with_log_targets(ours, jax.lax.stop_gradient(exact))

    params = (head.params, teacher.params)
    return _where_predicted(head.run.one_by_one(jax.checkpoint(of_example), params, (rows_BRD, teacher_BRD)), parts)


def _log_p(head: Head, params: Any, rows_RD: jax.Array, num_tokens: int) -> jax.Array:
    """Returns the log-probabilities of each next token, [N - 1, V], float32, from the rows of one example."""
    real_1N = jnp.ones((1, num_tokens), bool)
    logits_1NV: Any = head.model.apply({"params": params}, rows_RD[None], real_1N, method="head")
    return jax.nn.log_softmax(logits_1NV[0, :-1].astype(jnp.float32))


def _where_predicted(values: jax.Array, parts: Parts) -> jax.Array:
    """Returns values of predicted tokens [B, N - 1], with 0 where the token or the one before it is padding."""
    real_BN = parts.real_BN[:, : parts.num_tokens]
    return jnp.where(real_BN[:, 1:] & real_BN[:, :-1], values, 0)


def _ids_of_part(params: Any, tokens: dict[str, jax.Array], layout: Layout) -> jax.Array:
    return tokens["ids"]


def continuations(
    contexts: Sequence[Sequence[int]], endings: Sequence[Sequence[int]], num_tokens: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns a batch of contexts with one ending each, padded on the right, to score the endings.

    `(log_likelihoods(...) * scored).sum(1)` is then the log-likelihood of each ending, given its context.

    Args:
      contexts: token ids of each context, at least one.
      endings: token ids of each ending, at least one.
      num_tokens: N. A context that is too long loses its first tokens.

    Returns:
      The batch, and `scored` bool [B, N - 1], with the indices of `log_likelihoods`.

    Raises:
      InputError: if a context or an ending is empty, or an ending does not fit.
    """
    ids = np.zeros((len(contexts), num_tokens), np.int32)
    mask, scored = np.zeros(ids.shape, bool), np.zeros(ids.shape, bool)
    for i, (context, ending) in enumerate(zip(contexts, endings, strict=True)):
        if not len(context) or not 0 < len(ending) < num_tokens:
            raise InputError(
                f"context {i} has {len(context)} tokens and its ending {len(ending)}; "
                f"give at least 1 each, and endings of at most {num_tokens - 1}"
            )
        kept = [*context[-(num_tokens - len(ending)) :], *ending]
        ids[i, : len(kept)], mask[i, : len(kept)] = kept, True
        scored[i, len(kept) - len(ending) : len(kept)] = True
    return {"ids": ids, "mask": mask}, scored[:, 1:]


def token_ids(tokenizer: Any, texts: Sequence[str], data_name: str = "the texts") -> list[np.ndarray]:
    """Returns the token ids of each text, without special tokens.

    Args:
      tokenizer: a Hugging Face tokenizer.
      texts: strings.
      data_name: name of the data, for errors.

    Raises:
      InputError: if a text is no string.
    """
    strings = [string(text, i, data_name) for i, text in enumerate(texts)]
    if not strings:
        return []
    return [np.array(ids, np.int32) for ids in tokenizer(strings, add_special_tokens=False)["input_ids"]]


def windows(
    tokenizer: Any, documents: Sequence[str], num_tokens: int, data_name: str = "the texts"
) -> tuple[Tokens, np.ndarray]:
    """Cuts plain text into windows of N tokens, so that every token of it is predicted exactly once.

    Each document starts with the tokenizer's token for a beginning (for GPT-2, the token for the end of the previous
    text). Each further window starts with the last token of the window before it.

    Args:
      tokenizer: a Hugging Face tokenizer.
      documents: strings.
      num_tokens: N.
      data_name: name of the data, for errors.

    Returns:
      The windows, and the number of UTF-8 bytes that each predicts, int [windows].

    Raises:
      InputError: if the tokenizer has no token for a beginning, N is below 2, or the documents hold no text.
    """
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if first is None:
        raise InputError("the tokenizer has no token for the beginning or the end of a text; choose one that has")
    if num_tokens < 2:
        raise InputError(f"num_tokens is {num_tokens}; choose 2 or more, to predict a token from another")
    ids, num_bytes = [], []
    for i, document in enumerate(documents):
        out = tokenizer(
            string(document, i, data_name), add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        tokens = np.array([first, *out["input_ids"]], np.int32)
        bytes_before = np.concatenate([[0], np.cumsum([len(letter.encode()) for letter in document])]).astype(int)
        ends = bytes_before[[0, *(end for _, end in out["offset_mapping"])]]
        for start in range(0, len(tokens) - 1, num_tokens - 1):
            window = tokens[start : start + num_tokens]
            ids.append(window)
            num_bytes.append(ends[start + len(window) - 1] - ends[start])
    if not ids:
        raise InputError(f"there is no text in {data_name}; choose another data set or source")
    pad = tokenizer.pad_token_id or 0
    return Tokens(ids, [np.zeros_like(window) for window in ids], (pad, 0)), np.array(num_bytes)
