"""The ways to run a model, judged by their limits, as a table and as a paragraph."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from eval.reporting.tables import UNITS
from eval.reporting.text_table import Column, TextTable


class Limits(NamedTuple):
    """Limits of a choice.

    Attributes:
      devices: largest number of devices.
      drop: largest loss against one device, in the units of the score.
    """

    devices: int
    drop: float


@dataclass(frozen=True)
class Candidate:
    """A way to run the model.

    Attributes:
      setting: the exchange as on the command line.
      num_parts: P, the number of devices.
      weights: "base" or "tuned".
      score: score, in the units of the metric.
      drop: loss against one device, in the same units; below 0 for a gain.
      drop_ci95: its 95 % interval; None if the sweep has none, and for one device.
      seconds: predicted latency of a request.
      sent: bytes that a device sends for a request, including the cut and the join.
      rejected: the reason why it is not chosen; None for the chosen one.
    """

    setting: str
    num_parts: int
    weights: str
    score: float
    drop: float
    drop_ci95: tuple[float, float] | None
    seconds: float
    sent: float
    rejected: str | None = None

    @property
    def name(self) -> str:
        """The way to run, as text."""
        if self.num_parts == 1:
            return "one device"
        return f"{self.setting} on {self.num_parts} devices with {self.weights} weights"

    @property
    def loss(self) -> str:
        """The loss against one device with its interval, as text."""
        drop, *ends = (f"{round(value, 1) + 0.0:.1f}" for value in (self.drop, *(self.drop_ci95 or ())))  # no -0.0
        return f"{drop} [{', '.join(ends)}]" if ends else drop

    def needs_more_devices(self, limits: Limits) -> bool:
        return self.num_parts > limits.devices

    def loses_more(self, limits: Limits) -> bool:
        return self.drop > limits.drop

    def surely_within(self, limit: float) -> bool:
        """Returns whether the whole interval of the loss is at most `limit`. One device loses nothing."""
        return self.num_parts == 1 or (self.drop_ci95 is not None and self.drop_ci95[1] <= limit)


class Drop(NamedTuple):
    """Score of a setting, its loss against one device, and the interval of the loss. See `Candidate`."""

    score: float
    drop: float
    ci95: tuple[float, float] | None


def verdicts(candidates: Sequence[Candidate], limits: Limits) -> list[Candidate]:
    """Returns the candidates, fastest first, with the reason of rejection for all but the best one."""
    judged: list[Candidate] = []
    best: Candidate | None = None
    for candidate in sorted(candidates, key=lambda candidate: (candidate.seconds, candidate.drop)):
        if candidate.needs_more_devices(limits):
            rejected = f"needs {candidate.num_parts} devices"
        elif candidate.loses_more(limits):
            rejected = f"loses {candidate.drop:.2g}, more than {limits.drop:g}"
        elif best is not None:
            rejected = f"{candidate.seconds / best.seconds - 1:.0%} slower"
        else:
            rejected, best = None, candidate
        judged.append(replace(candidate, rejected=rejected))
    return judged


def table(candidates: Sequence[Candidate], metric: str) -> str:
    """Returns the candidates as text."""
    one_device = next(candidate for candidate in candidates if candidate.num_parts == 1)
    columns = (
        *(Column("exchange", 23), Column("devices", 7), Column("weights", 7), Column("predicted ms", 12)),
        *(Column("one device / it", 15), Column(UNITS[metric], max(11, len(UNITS[metric]))), Column("loses", 6)),
        *(Column("kB sent", 9), Column("", 0)),
    )
    rows = [
        (
            *(candidate.setting, str(candidate.num_parts), candidate.weights, f"{1e3 * candidate.seconds:.1f}"),
            *(f"{one_device.seconds / candidate.seconds:.2f}", f"{candidate.score:.1f}", f"{candidate.drop:.1f}"),
            *(f"{candidate.sent / 1e3:.1f}", candidate.rejected or "chosen"),
        )
        for candidate in candidates
    ]
    return TextTable(columns).text(rows)


def answer(candidates: Sequence[Candidate], limits: Limits, measured: Collection[int]) -> str:
    """Returns the answer as a paragraph: the choice, the next two, and what ruled out the others.

    Args:
      candidates: of `verdicts`, fastest first.
      limits: those of the verdicts.
      measured: the numbers of devices on which requests were measured.
    """
    few_enough = [candidate for candidate in candidates if not candidate.needs_more_devices(limits)]
    best, *slower = usable = [candidate for candidate in few_enough if not candidate.loses_more(limits)]
    sentences = [_choice(best, next(candidate for candidate in candidates if candidate.num_parts == 1), measured)]
    if not best.surely_within(limits.drop):
        sure = next(candidate for candidate in usable if candidate.surely_within(limits.drop))
        loss = f"may reach {best.drop_ci95[1]:.1f}" if best.drop_ci95 else "has no interval in the sweep"
        sentences.append(
            f"Its loss {loss}; the fastest whose interval ends within {limits.drop:g} is {sure.name}, "
            f"{1e3 * sure.seconds:.1f} ms."
        )
    if slower:
        following = (f"{one.name} ({1e3 * one.seconds:.1f} ms, loss {one.loss})" for one in slower[:2])
        sentences.append(f"Next: {', '.join(following)}.")
    ruled_out = {
        "the number of devices": len(candidates) - len(few_enough),
        "the loss": len(few_enough) - len(usable),
        "the time": len(slower[2:]),
    }
    if counts := [f"{count} by {reason}" for reason, count in ruled_out.items() if count]:
        sentences.append(f"Ruled out: {', '.join(counts)}.")
    return " ".join(sentences)


def _choice(best: Candidate, one_device: Candidate, measured: Collection[int]) -> str:
    if best.num_parts == 1:
        return (
            f"Use one device: {1e3 * best.seconds:.1f} ms, and nothing else that may be used is predicted to be faster."
        )
    caveat = "" if best.num_parts in measured else f"; requests on {best.num_parts} devices were not measured"
    return (
        f"Use {best.name}: {1e3 * best.seconds:.1f} ms predicted, {one_device.seconds / best.seconds:.2f} times as "
        f"fast as one device, for a loss of {best.loss} and {best.sent / 1e3:.1f} kB sent by each{caveat}."
    )
