"""How long a request takes: what one part computes alone, and what its collectives add on a link.

    seconds = computing + fixed x collectives + rtt x (round trips x collectives of the blocks + ends
            + opening x doublings)
            + bits on wire x payload bits / rate + per byte x payload bytes

`ends` are the round trips of the split and the join together. `doublings`, log2(1 + bytes / 14,600) for each collective
of the blocks, is how often TCP's window must open beyond its first 10 segments (RFC 6928) for one message; it stands
for what large messages take in round trips, however they come about. The constants are fitted to measured requests by
least squares of relative errors, none below 0.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from math import log2

import numpy as np
from scipy.optimize import nnls

FIRST_WINDOW = 14_600
"""Bytes that TCP sends before it waits for an answer."""


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
      collectives: those of the blocks.
      sent_by_blocks: bytes that a device sends in them, payload only.
      sent: the same with the split and the join, of the device that sends most.
    """

    collectives: int
    sent_by_blocks: float
    sent: float

    @property
    def doublings(self) -> float:
        """Of TCP's window, in all collectives together."""
        return self.collectives and self.collectives * log2(1 + self.sent_by_blocks / self.collectives / FIRST_WINDOW)


@dataclass(frozen=True)
class Constants:
    """What a collective costs.

    Attributes:
      fixed: seconds of a collective that sends nothing.
      round_trips: of a collective of the blocks.
      ends: round trips of the split and the join.
      opening: round trips of a doubling.
      bits_on_wire: a bit of payload: headers, and what the shaper makes of them.
      per_byte: seconds a byte takes whatever the rate.
    """

    fixed: float
    round_trips: float
    ends: float
    opening: float
    bits_on_wire: float
    per_byte: float

    def seconds(self, computing: float, traffic: Traffic, link: Link) -> float:
        """Predicted seconds of a request."""
        return computing + float(np.dot(_terms(traffic, link), astuple(self)))


def traffic_of(row: dict) -> Traffic:
    """What a row of `eval.latency` sends."""
    if row["num_parts"] == 1:
        return Traffic(0, 0.0, 0.0)
    sent = row["bytes_sent_per_device"]
    ends = row["bytes_join_per_device"] + row["bytes_split_per_device"] * (row["num_parts"] - 1)
    return Traffic(row["collectives"], sent, sent + ends)


def link_of(row: dict) -> Link:
    """The link of a row, with the rate that its ladder showed."""
    return Link(row["rate_measured"], row["rtt_ms"])


def fit(rows: Sequence[dict]) -> Constants:
    """Constants from measured rows of several parts, each with what its part takes alone under `seconds_alone`."""
    rows = [row for row in rows if row["num_parts"] > 1]
    scale = np.array([row["seconds"] for row in rows])
    terms = np.array([_terms(traffic_of(row), link_of(row)) for row in rows]) / scale[:, None]
    beyond = np.array([row["seconds"] - row["seconds_alone"] for row in rows]) / scale
    largest = np.maximum(terms.max(0), 1e-300)  # columns of like size, for the solver
    return Constants(*(nnls(terms / largest, beyond)[0] / largest).tolist())


def predict_each_from_other_links(rows: Sequence[dict]) -> None:
    """Puts `seconds_predicted` into each row, by constants that were fitted to the rows of all other links;
    None where there are none."""
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


def _terms(traffic: Traffic, link: Link) -> tuple[float, ...]:
    """What the constants are multiplied by."""
    n, rtt, several = traffic.collectives, link.rtt_ms / 1e3, traffic.sent > 0
    return n + 2 * several, n * rtt, several * rtt, traffic.doublings * rtt, 8 * traffic.sent / link.rate, traffic.sent
