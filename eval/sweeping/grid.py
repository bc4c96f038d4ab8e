"""Which rows a sweep has."""

from collections.abc import Collection

from eval.scoring.variants import CONTROL, ONE_DEVICE, TUNED, Planned
from prism_jax.data.text import bucket_lengths
from prism_jax.errors import InputError
from prism_jax.exchange.base import Exchange, Exchanges, as_tuple, sender, with_wire
from prism_jax.exchange.baselines import AllGather, IsolatedParts, WholeSequence
from prism_jax.exchange.segments import SegmentMeans
from prism_jax.exchange.setting import Setting
from prism_jax.exchange.wire import FLOAT32, WIRES, Wire
from prism_jax.experiments.recipe import Experiment, Grid


def plan(experiment: Experiment, weights: Collection[str]) -> list[Planned]:
    """The rows, in the order in which they run: for each N one device, as the reference,
    then every exchange on every P.

    Args:
      experiment: its grid.
      weights: kinds of weights; tuned ones are scored where something is lost on the way, the control on one device
        only, what else there is wherever base is.

    Raises:
      InputError: for an N, a P or an exchange that can run nowhere on the grid.
    """
    rows: list[Planned] = []
    lengths = list(dict.fromkeys(experiment.grid.lengths or (experiment.num_tokens,)))
    parts = [num_parts for num_parts in dict.fromkeys(experiment.grid.parts) if num_parts != 1]
    exchanges = grid_of_exchanges(experiment.grid)
    for num_tokens in lengths:
        rows += [Planned(num_tokens, ONE_DEVICE, kind) for kind in weights if kind != TUNED]
        for setting in (Setting(exchange, num_parts) for num_parts in parts for exchange in exchanges):
            reason = why_impossible(setting, bucket_lengths(experiment.buckets, num_tokens))
            rows += [
                Planned(num_tokens, setting, kind, reason)
                for kind in weights
                if kind != CONTROL and (kind != TUNED or loses(setting.exchange))
            ]
    refuse_hopeless(rows)
    return rows


def grid_of_exchanges(grid: Grid) -> list[Exchanges]:
    """The exchanges of a sweep, each in every wire format that was asked for."""
    exchanges = [*grid.exchanges, *map(SegmentMeans, grid.segments)]
    if not grid.wires:
        return list(dict.fromkeys(exchanges))
    return list(dict.fromkeys(in_format(exchange, WIRES[wire]) for exchange in exchanges for wire in grid.wires))


def in_format(exchange: Exchanges, wire: Wire) -> Exchanges:
    """An exchange, or several, in a wire format, whatever it was in; what sends nothing stays as it is."""

    def one(exchange: Exchange) -> Exchange:
        return with_wire(exchange, wire) if sender(exchange) else exchange

    return one(exchange) if isinstance(exchange, Exchange) else tuple(map(one, exchange))


def loses(exchange: Exchanges) -> bool:
    """Whether an exchange sends something, but not everything as it is."""
    return not all(
        isinstance(one, WholeSequence | IsolatedParts) or (isinstance(one, AllGather) and one.wire == FLOAT32)
        for one in as_tuple(exchange)
    )


def why_impossible(setting: Setting, lengths: tuple[int, ...]) -> str | None:
    try:
        setting.check(lengths)
    except InputError as error:
        return str(error)
    return None


def refuse_hopeless(rows: list[Planned]) -> None:
    """Raises InputError for a value of the grid with which no row can run."""
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
