"""How long a request takes: what one part computes alone, and what its collectives add on a link.

    seconds = computing + collectives x (fixed + round trips x rtt) + x wire bits / rate + y bytes

The four constants are fitted to measured requests by least squares of relative errors, none below 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls


@dataclass(frozen=True)
class Link:
    """A shaped link.

    Attributes:
      rate: bits a second, each way.
      rtt_ms: round-trip time in milliseconds.
    """

    rate: float
    rtt_ms: float


@dataclass(frozen=True)
class Traffic:
    """What a request sends.

    Attributes:
      collectives: those of the blocks, the split and the join.
      sent: bytes that the device with the most to send sends, payload only.
    """

    collectives: int
    sent: float


@dataclass(frozen=True)
class Constants:
    """What a collective costs.

    Attributes:
      fixed: seconds of a collective that sends nothing.
      round_trips: of a collective.
      bits_on_wire: a bit of payload: headers, and what the shaper makes of them.
      per_byte: seconds a byte takes whatever the rate.
    """

    fixed: float
    round_trips: float
    bits_on_wire: float
    per_byte: float

    def seconds(self, computing: float, traffic: Traffic, link: Link) -> float:
        """Predicted seconds of a request."""
        return computing + float(
            np.dot(_terms(traffic, link), (self.fixed, self.round_trips, self.bits_on_wire, self.per_byte))
        )


def traffic_of(row: dict) -> Traffic:
    """What a row of `eval.latency` sends."""
    if row["num_parts"] == 1:
        return Traffic(0, 0.0)
    sent = row["bytes_sent_per_device"] + row["bytes_join_per_device"]
    return Traffic(row["collectives"] + 2, sent + row["bytes_split_per_device"] * (row["num_parts"] - 1))


def link_of(row: dict) -> Link:
    return Link(row["rate_bits_per_second"], row["rtt_ms"])


def fit(rows: Sequence[dict]) -> Constants:
    """Constants from measured rows of several parts, each with what its part takes alone under `seconds_alone`."""
    rows = [row for row in rows if row["num_parts"] > 1]
    scale = np.array([row["seconds"] for row in rows])
    terms = np.array([_terms(traffic_of(row), link_of(row)) for row in rows]) / scale[:, None]
    beyond = np.array([row["seconds"] - row["seconds_alone"] for row in rows]) / scale
    largest = np.maximum(terms.max(0), 1e-300)  # columns of like size, for the solver
    return Constants(*(nnls(terms / largest, beyond)[0] / largest).tolist())


def predict_each_from_other_links(rows: Sequence[dict]) -> None:
    """Puts `seconds_predicted` into each row, by constants that were fitted to the rows of all other links; None where there are none."""
    for link in {link_of(row) for row in rows}:
        others = [row for row in rows if link_of(row) != link]
        constants = fit(others) if others else None
        for row in rows:
            if link_of(row) == link:
                row["seconds_predicted"] = (
                    constants.seconds(row["seconds_alone"], traffic_of(row), link) if constants else None
                )


def errors(rows: Sequence[dict]) -> np.ndarray:
    """Relative errors of the predictions, of rows of several parts that have one."""
    pairs = [
        (row["seconds_predicted"], row["seconds"]) for row in rows if row["num_parts"] > 1 and row["seconds_predicted"]
    ]
    predicted, measured = np.array(pairs).reshape(-1, 2).T
    return np.abs(predicted / measured - 1)


def _terms(traffic: Traffic, link: Link) -> tuple[float, float, float, float]:
    n, sent = traffic.collectives, traffic.sent
    return n, n * link.rtt_ms / 1e3, 8 * sent / link.rate, sent
