"""Latency model of a request: the time of one part alone, and the time of its collectives on a link.

    seconds = computing + fixed x collectives + rtt x (round trips x collectives of the blocks + ends
            + opening x doublings)
            + bits on wire x payload bits / rate + per byte x payload bytes

`ends` are the round trips of the cut and the join together. `doublings` is how often TCP's window must grow beyond
its first 10 segments (RFC 6928) for one message: log2(1 + bytes / 14,600) for each collective of the blocks. It covers
all round trips of large messages, whatever their cause. The constants are fitted to measured requests by least squares
of relative errors, and are not negative.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from math import log2

import numpy as np

FIRST_WINDOW = 14_600
"""Bytes that TCP sends before it waits for an acknowledgement."""


@dataclass(frozen=True)
class Link:
    """A link between two devices.

    Attributes:
      rate: rate in bits a second, each way.
      rtt_ms: round-trip time in milliseconds.
    """

    rate: float
    rtt_ms: float


@dataclass(frozen=True)
class Traffic:
    """Traffic of a request.

    Attributes:
      collectives: number of collectives of the blocks.
      sent_by_blocks: bytes that a device sends in these collectives, payload only.
      sent: the same bytes plus those of the cut and the join, for the device that sends most.
    """

    collectives: int
    sent_by_blocks: float
    sent: float

    @property
    def doublings(self) -> float:
        """Number of doublings of TCP's window, in all collectives together."""
        return self.collectives and self.collectives * log2(1 + self.sent_by_blocks / self.collectives / FIRST_WINDOW)


@dataclass(frozen=True)
class Constants:
    """Constants of the latency model.

    Attributes:
      fixed: seconds of a collective that sends nothing.
      round_trips: round trips of a collective of the blocks.
      ends: round trips of the cut and the join.
      opening: round trips of a doubling of TCP's window.
      bits_on_wire: bits on the wire for each bit of payload, including headers and the shaper's overhead.
      per_byte: seconds for each byte, independent of the rate.
    """

    fixed: float
    round_trips: float
    ends: float
    opening: float
    bits_on_wire: float
    per_byte: float

    def seconds(self, computing: float, traffic: Traffic, link: Link) -> float:
        """Returns the predicted seconds of a request."""
        return computing + float(np.dot(_terms(traffic, link), astuple(self)))


def traffic_of(row: dict) -> Traffic:
    """Returns the traffic of a record of `eval.latency`."""
    if row["num_parts"] == 1:
        return Traffic(0, 0.0, 0.0)
    sent = row["bytes_sent_per_device"]
    ends = row["bytes_join_per_device"] + row["bytes_split_per_device"] * (row["num_parts"] - 1)
    return Traffic(row["collectives"], sent, sent + ends)


def link_of(row: dict) -> Link:
    """Returns the link of a record, with the rate measured by its ladder, and the round-trip time that was asked for. A
    link between hosts has its measured one."""
    return Link(row["rate_measured"], max(row["rtt_measured_ms"], 0.0) if row["rtt_ms"] is None else row["rtt_ms"])


def fit(rows: Sequence[dict]) -> Constants:
    """Fits the constants to measured records of several parts. Each needs the time of its part alone in
    `seconds_alone`. Requests with hidden collectives are left out: the constants price collectives that are waited for.
    """
    from scipy.optimize import nnls

    rows = [row for row in rows if row["num_parts"] > 1 and not row.get("collectives_hidden")]
    scale = np.array([row["seconds"] for row in rows])
    terms = np.array([_terms(traffic_of(row), link_of(row)) for row in rows]) / scale[:, None]
    communication = np.array([row["seconds"] - row["seconds_alone"] for row in rows]) / scale
    largest = np.maximum(terms.max(0), 1e-300)  # scales the columns to similar size, for the solver
    return Constants(*(nnls(terms / largest, communication)[0] / largest).tolist())


def predict_each_from_other_links(rows: Sequence[dict]) -> None:
    """Adds `seconds_predicted` to each record, from constants fitted to the records of all other links; None if there
    are no others."""
    for link in {link_of(row) for row in rows}:
        others = [row for row in rows if link_of(row) != link]
        constants = fit(others) if others else None
        for row in rows:
            if link_of(row) == link:
                row["seconds_predicted"] = (
                    constants.seconds(row["seconds_alone"], traffic_of(row), link) if constants else None
                )


def errors(rows: Sequence[dict]) -> np.ndarray:
    """Returns the relative errors of the predictions, for records of several parts with a prediction."""
    pairs = [
        (row["seconds_predicted"], row["seconds"]) for row in rows if row["num_parts"] > 1 and row["seconds_predicted"]
    ]
    predicted, measured = np.array(pairs).reshape(-1, 2).T
    return np.abs(predicted / measured - 1)


def _terms(traffic: Traffic, link: Link) -> tuple[float, ...]:
    """Returns the factors of the constants."""
    n, rtt, sends = traffic.collectives, link.rtt_ms / 1e3, traffic.sent > 0
    return n + 2 * sends, n * rtt, sends * rtt, traffic.doublings * rtt, 8 * traffic.sent / link.rate, traffic.sent
