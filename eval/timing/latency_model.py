"""Latency model of a request: the time of one part alone, and the time of its collectives on a link.

    seconds = computing + fixed x collectives + rtt x (round trips x collectives of the blocks + ends
            + opening x doublings)
            + bits on wire x payload bits / rate + per byte x payload bytes
            - hidden collectives x min(wait, computing behind it)

`ends` are the round trips of the cut and the join together. `doublings` is how often TCP's window must grow beyond
its first 10 segments (RFC 6928) for one message: log2(1 + bytes / 14,600) for each collective of the blocks. It covers
all round trips of large messages, whatever their cause. The wait of a collective is its share of the terms with the
round-trip time and the rate. A hidden one waits only for what is left after the blocks that compute meanwhile.

The constants are fitted by least squares of relative errors to measured requests that hide nothing. They are not
negative.
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
      message: bytes that a device sends to one other device in such a collective, payload only.
      sent_by_blocks: bytes that it sends in all of them to all others.
      sent: the same bytes plus those of the cut and the join, for the device that sends most.
      hidden: number of collectives that are under way while blocks compute.
      share_behind: share of the computing that takes place meanwhile, for each of them.
    """

    collectives: int
    message: float
    sent_by_blocks: float
    sent: float
    hidden: int = 0
    share_behind: float = 0.0

    @property
    def doublings(self) -> float:
        """Number of doublings of TCP's window, in all collectives together."""
        return self.collectives * log2(1 + self.message / FIRST_WINDOW)


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
        seconds = computing + float(np.dot(_terms(traffic, link), astuple(self)))
        return seconds - traffic.hidden * min(self._wait(traffic, link), traffic.share_behind * computing)

    def _wait(self, traffic: Traffic, link: Link) -> float:
        """Returns the seconds that a collective of the blocks is under way."""
        round_trips = self.round_trips * traffic.collectives + self.opening * traffic.doublings
        seconds = round_trips * link.rtt_ms / 1e3 + self.bits_on_wire * 8 * traffic.sent_by_blocks / link.rate
        return seconds / max(traffic.collectives, 1)


def traffic_of(row: dict) -> Traffic:
    """Returns the traffic of a record of `eval.latency`."""
    if row["num_parts"] == 1:
        return Traffic(0, 0.0, 0.0, 0.0)
    number, sent, others = row["collectives"], row["bytes_sent_per_device"], row["num_parts"] - 1
    ends = row["bytes_join_per_device"] + row["bytes_split_per_device"] * others
    # An older record does not tell how long a hidden collective may be under way.
    share_behind = row.get("share_behind_hidden", 0.0)
    return Traffic(
        number, sent / max(number * others, 1), sent, sent + ends, row.get("collectives_hidden", 0), share_behind
    )


def link_of(row: dict) -> Link:
    """Returns the link of a record, with the rate measured by its ladder, and the round-trip time that was asked for. A
    link between hosts has its measured one."""
    return Link(row["rate_measured"], max(row["rtt_measured_ms"], 0.0) if row["rtt_ms"] is None else row["rtt_ms"])


def computing_of(row: dict) -> float:
    """Returns the seconds in which the parts of a record compute. Parts that share a core do so in turn."""
    return row["seconds_alone"] * row.get("parts_per_core", 1)


def fit(rows: Sequence[dict]) -> Constants:
    """Fits the constants to measured records of several parts. Each needs the time of its part alone in
    `seconds_alone`. Requests with hidden collectives are left out: the constants price collectives that are waited for.
    """
    from scipy.optimize import nnls

    rows = [row for row in rows if row["num_parts"] > 1 and not row.get("collectives_hidden")]
    scale = np.array([row["seconds"] for row in rows])
    terms = np.array([_terms(traffic_of(row), link_of(row)) for row in rows]) / scale[:, None]
    communication = np.array([row["seconds"] - computing_of(row) for row in rows]) / scale
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
                    constants.seconds(computing_of(row), traffic_of(row), link) if constants else None
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
