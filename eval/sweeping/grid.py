"""The grid of a sweep."""

from collections.abc import Collection

from eval.scoring.variants import CONTROL, ONE_DEVICE, TUNED, Planned, impossible_reason
from prism_jax.data.text import bucket_lengths
from prism_jax.errors import InputError
from prism_jax.exchange.base import Exchange, Exchanges, as_tuple
from prism_jax.exchange.baselines import AllGather, IsolatedParts, WholeSequence
from prism_jax.exchange.first_tokens import FirstTokens
from prism_jax.exchange.keys_values import KeysValues
from prism_jax.exchange.segments import SegmentMeans
from prism_jax.exchange.setting import Setting
from prism_jax.exchange.wire import FLOAT32, WIRES, Wire
from prism_jax.exchange.wrapped import has_own_wire, sender, with_wire
from prism_jax.experiments.recipe import Experiment, Grid


def plan(experiment: Experiment, weights: Collection[str]) -> list[Planned]:
    """Returns the planned records in the order in which they run: for each N one device, the reference, then every
    exchange on every P.

    Args:
      experiment: the experiment, with its grid.
      weights: kinds of weights. Tuned ones are scored where the exchange is lossy, the control on one device only, and
        all others wherever base is.

    Raises:
      InputError: if an N, a P or an exchange can't run anywhere on the grid.
    """
    rows: list[Planned] = []
    lengths = list(dict.fromkeys(experiment.grid.lengths or (experiment.num_tokens,)))
    parts = [num_parts for num_parts in dict.fromkeys(experiment.grid.parts) if num_parts != 1]
    exchanges = grid_of_exchanges(experiment.grid)
    for num_tokens in lengths:
        rows += [Planned(num_tokens, ONE_DEVICE, kind) for kind in weights if kind != TUNED]
        for setting in (Setting(exchange, num_parts) for num_parts in parts for exchange in exchanges):
            reason = impossible_reason(setting, bucket_lengths(experiment.buckets, num_tokens))
            rows += [
                Planned(num_tokens, setting, kind, reason)
                for kind in weights
                if kind != CONTROL and (kind != TUNED or is_lossy(setting.exchange))
            ]
    refuse_impossible_values(rows)
    return rows


def grid_of_exchanges(grid: Grid) -> list[Exchanges]:
    """Returns the exchanges of a sweep, each in every wire format of the grid."""
    exchanges = [*grid.exchanges, *map(SegmentMeans, grid.segments)]
    if not grid.wires:
        return list(dict.fromkeys(exchanges))
    return list(dict.fromkeys(with_format(exchange, WIRES[wire]) for exchange in exchanges for wire in grid.wires))


def with_format(exchange: Exchanges, wire: Wire) -> Exchanges:
    """Returns an exchange, or one for each block, in a wire format. Exchanges that send nothing, or in a format of
    their own, stay unchanged."""

    def convert(exchange: Exchange) -> Exchange:
        return with_wire(exchange, wire) if sender(exchange) and not has_own_wire(exchange) else exchange

    return convert(exchange) if isinstance(exchange, Exchange) else tuple(map(convert, exchange))


def is_lossy(exchange: Exchanges) -> bool:
    """Returns whether an exchange sends rows, or keys and values, but not all of them unchanged before each block."""
    blocks = as_tuple(exchange)
    sends_nothing = all(isinstance(block, WholeSequence | IsolatedParts) for block in blocks)
    return not (sends_nothing or all(map(_sends_all, blocks)))


def _sends_all(exchange: Exchange) -> bool:
    while isinstance(exchange, KeysValues | FirstTokens):
        exchange = exchange.of
    return isinstance(exchange, AllGather) and exchange.wire == FLOAT32


def refuse_impossible_values(rows: list[Planned]) -> None:
    """Raises InputError if a value of the grid has no record that can run."""
    for value in (
        lambda row: ("N", row.num_tokens),
        lambda row: ("P", row.setting.num_parts),
        lambda row: ("exchange", row.setting.exchange),
    ):
        reasons: dict = {}
        for row in rows:
            reasons.setdefault(value(row), []).append(row.impossible)
        for several_reasons in reasons.values():
            if None not in several_reasons:
                raise InputError(several_reasons[0])
