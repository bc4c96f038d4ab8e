"""The results.json of `eval.latency`: read when a measurement resumes, and written as it grows."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from eval.reporting import files
from eval.reporting.records import read_calibration
from prism_jax.errors import InputError
from prism_jax.exchange.setting import Setting
from prism_jax.exchange.text import text_of
from prism_jax.parallel.processes import from_terminal

LOOPBACK, HOSTS = "loopback", "hosts"
"""Names of links without shaping: between processes of this machine, and between several hosts."""

SAME = ("config", "model", "weights", "library", "processes")
"""Fields of the file that must not change when a measurement resumes. The machine must not change either."""


@dataclass(frozen=True)
class LinkFields:
    """Fields of a record that describe the link between the processes.

    Attributes:
      link: name of the link.
      rate_bits_per_second: requested rate, each way; None without shaping.
      rtt_ms: requested round-trip time, in milliseconds; None without shaping.
    """

    link: str
    rate_bits_per_second: float | None = None
    rtt_ms: float | None = None


class Measurements:
    """Records of requests, times of single parts, and the ladders that measure links.

    All processes hold the same measurements. Process 0 reads the file. Every process writes it into its
    `output_folder`.
    """

    def __init__(self, path: Path, header: dict[str, Any]):
        """Reads the measurements of an earlier call of the same command. Called on every process.

        Args:
          path: path of results.json.
          header: content of the file without the measurements.

        Raises:
          InputError: if the file has measurements of other inputs or of another machine.
        """
        self._path, self._header = path, header
        earlier = from_terminal(lambda: _read(path, header))
        self._tables: dict[tuple[LinkFields, int, int], list[dict]] = {}
        self._parts_alone: dict[tuple[int, int], list[dict]] = {}
        for row in earlier["rows"]:
            link = LinkFields(row["link"], row["rate_bits_per_second"], row["rtt_ms"])
            self._tables.setdefault((link, row["tokens"], row["batch_size"]), []).append(row)
        for row in earlier["parts_alone"]:
            self._parts_alone.setdefault((row["tokens"], row["batch_size"]), []).append(row)
        self._ladders: dict[str, dict] = {ladder["link"]: ladder for ladder in earlier["ladders"]}

    def has(self, link: LinkFields, num_tokens: int, batch_size: int, settings: Iterable[Setting]) -> bool:
        """Returns whether the table of a link, N and B has exactly these settings, in this order."""
        return _names(self.table(link, num_tokens, batch_size)) == [_name(setting) for setting in settings]

    def table(self, link: LinkFields, num_tokens: int, batch_size: int) -> list[dict]:
        """Returns the records of a link, N and B."""
        return self._tables.get((link, num_tokens, batch_size), [])

    def put(self, link: LinkFields, num_tokens: int, batch_size: int, timed: Sequence[dict]) -> None:
        """Stores the records of a link, N and B at the end, in place of earlier ones.

        Args:
          link: the link between the processes. If it is shaped or joins hosts, its ladder must be stored.
          num_tokens: N.
          batch_size: B. Times of parts alone must be stored for this N and B.
          timed: records from `requests.time_in_turn`.
        """
        seconds_alone = {_name_of(row): row["seconds"] for row in self._parts_alone[num_tokens, batch_size]}
        head = asdict(link) | self._measured(link)
        self._tables.pop((link, num_tokens, batch_size), None)
        self._tables[link, num_tokens, batch_size] = [
            head | row | {"seconds_alone": seconds_alone[_name_of(row)]} for row in timed
        ]

    def has_parts_alone(self, num_tokens: int, batch_size: int, settings: Iterable[Setting]) -> bool:
        """Returns whether a part of each setting was timed alone, at N and B."""
        return {_name(setting) for setting in settings} <= set(
            _names(self._parts_alone.get((num_tokens, batch_size), []))
        )

    def put_parts_alone(self, num_tokens: int, batch_size: int, timed: Sequence[dict]) -> None:
        """Stores the times of parts alone, from `part_alone.measure`, at the end, in place of earlier ones."""
        self._parts_alone.pop((num_tokens, batch_size), None)
        self._parts_alone[num_tokens, batch_size] = list(timed)

    def has_ladder(self, link: LinkFields) -> bool:
        """Returns whether the ladder of a link is stored."""
        return link.link in self._ladders

    def put_ladder(self, link: LinkFields, measured: dict[str, float], rungs: Sequence[dict]) -> None:
        """Stores the ladder of a link at the end, in place of an earlier one.

        Args:
          link: a shaped link, or one between hosts.
          measured: rate and round-trip time, from `ladder.measured`.
          rungs: from `ladder.climb`.
        """
        self._ladders.pop(link.link, None)
        self._ladders[link.link] = asdict(link) | {"measured": measured, "rungs": list(rungs)}

    def save(self) -> None:
        """Writes the file."""
        rows, parts_alone = (list(chain(*tables.values())) for tables in (self._tables, self._parts_alone))
        measured = {"rows": rows, "parts_alone": parts_alone, "ladders": list(self._ladders.values())}
        files.write_json(self._path.parent, self._header | measured)

    def _measured(self, link: LinkFields) -> dict[str, float | None]:
        """Returns the rate in bits a second and the round-trip time in ms that the ladder of a link measured; None
        without a ladder."""
        measured = self._ladders[link.link]["measured"] if self.has_ladder(link) else {}
        return {"rate_measured": measured.get("rate_bits_per_second"), "rtt_measured_ms": measured.get("rtt_ms")}


def _read(path: Path, header: dict[str, Any]) -> dict[str, list[dict]]:
    if not path.exists():
        return {"rows": [], "parts_alone": [], "ladders": []}
    earlier = read_calibration(path.parent, "choose another --out")
    differing = [name for name in SAME if earlier.get(name) != header[name]]
    if differing or earlier["environment"]["cpu"] != header["environment"]["cpu"]:
        raise InputError(f"{path} is of another {', '.join(differing) or 'machine'}; choose another --out")
    return {name: earlier[name] for name in ("rows", "parts_alone", "ladders")}


def _name(setting: Setting) -> tuple[str, int]:
    return text_of(setting.exchange), setting.num_parts


def _name_of(row: dict) -> tuple[str, int]:
    return row["setting"], row["num_parts"]


def _names(rows: Iterable[dict]) -> list[tuple[str, int]]:
    return list(map(_name_of, rows))
