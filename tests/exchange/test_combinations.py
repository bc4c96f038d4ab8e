"""Exchanges around one another: what can't stand around what is refused, with the way out."""

import pytest

from prism_jax.errors import InputError
from prism_jax.exchange.text import parse


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keys_values:isolated_parts", "isolated_parts sends nothing, so it shares no keys and values; choose"),
        ("principal:8:isolated_parts", "isolated_parts sends nothing, so there is nothing to project; choose"),
        ("codebooks:8:4:isolated_parts", "codebooks can't send the rows of isolated_parts; choose"),
        ("codebooks:8:4:all_gather:int8", "codebooks can't send the rows of all_gather:int8; choose"),
        ("keys_values:means_after_norm:2", "keys and values come behind the norm, so means_after_norm:2 can't"),
        ("principal:8:means_after_norm:2", "a basis is made of rows before the norm, but means_after_norm:2 sends"),
        ("codebooks:8:4:means_after_norm:2", "codebooks are made of rows before the norm, but means_after_norm:2"),
        ("keys_values:keys_values:all_gather", "keys_values:all_gather shares keys and values already; leave one"),
        ("principal:8:principal:4:all_gather", "principal:4:all_gather projects its rows already; leave one"),
        ("keys_values:codebooks:8:4:all_gather", "keys_values:codebooks:8:4:all_gather has .*; put them in front"),
        ("keys_values:principal:8:all_gather", "keys_values:principal:8:all_gather has .*; put them in front"),
        ("principal:8:codebooks:4:4:all_gather", "principal:8:codebooks:4:4:all_gather has .*; put them in front"),
        (
            "displaced:isolated_parts",
            "isolated_parts sends nothing, so there are no rows to keep; choose one that sends",
        ),
        ("every:2:keys_values:all_gather", "keys_values:all_gather sends what its own block alone can read, behind"),
        ("displaced:means_after_norm:2", "means_after_norm:2 sends what its own block alone can read, behind a norm"),
        (
            "displaced:every:2:displaced:all_gather",
            "every:2:displaced:all_gather keeps rows already; leave one displaced out",
        ),
        ("every:2:every:2:all_gather", "every:2:all_gather keeps rows already; leave one every out"),
        ("every:0:all_gather", "period is 0; choose 1 or more"),
        (
            "first_tokens:1:displaced:all_gather",
            "first_tokens:1:displaced:all_gather wraps .*; put first tokens inside",
        ),
        ("keys_values:displaced:all_gather", "keys and values are those of one block, but displaced:all_gather keeps"),
        ("keys_values", "and an exchange such as all_gather at the end"),
        ("principal:0:all_gather", "rank is 0; choose 1 or more"),
        ("codebooks:8:3:all_gather", "bits is 3; choose 2, 4 or 8"),
    ],
)
def test_what_can_not_be_wrapped_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse(text)
