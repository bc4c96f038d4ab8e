"""Types of fields that hold exchanges: how flags spell them, and which values a config file may give them."""

from typing import Annotated

import tyro
from msgspec import Meta

from prism_jax.exchange import text
from prism_jax.exchange.base import Exchange, Exchanges


def _is_exchange(value: object) -> bool:
    return isinstance(value, Exchange) or (
        isinstance(value, tuple) and bool(value) and all(isinstance(item, Exchange) for item in value)
    )


ExchangeFlag = Annotated[
    Exchanges,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="EXCHANGE",
        instance_from_str=lambda args: text.parse(args[0]),
        is_instance=_is_exchange,
        str_from_instance=lambda value: [text.text_of(value)],
    ),
    Meta(description="an exchange such as SegmentMeans(8), or a tuple with one for each block"),
]
"""An exchange, as `all_gather` or `segment_means:8` on the command line; with commas between them,
one for each block."""


ExchangesFlag = Annotated[
    tuple[Exchanges, ...],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[EXCHANGE [EXCHANGE ...]]",
        instance_from_str=lambda args: tuple(text.parse(arg) for arg in args),
        is_instance=lambda value: isinstance(value, tuple) and all(map(_is_exchange, value)),
        str_from_instance=lambda value: [text.text_of(exchange) for exchange in value],
    ),
    Meta(description="a tuple of exchanges, such as (IsolatedParts(), SegmentMeans(8))"),
]
"""Several exchanges, with spaces between them."""
