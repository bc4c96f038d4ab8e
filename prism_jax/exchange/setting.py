"""A setting: one exchange on a number of parts."""

from collections.abc import Iterable
from dataclasses import dataclass

from prism_jax.errors import InputError
from prism_jax.exchange.base import as_tuple, check
from prism_jax.exchange.baselines import WholeSequence
from prism_jax.exchange.flag_types import ExchangeFlag
from prism_jax.exchange.text import text_of
from prism_jax.records import NumParts


@dataclass(frozen=True)
class Setting:
    """An exchange on a number of parts. A sweep scores many settings, other commands run one."""

    exchange: ExchangeFlag
    """The exchange between the parts, such as all_gather or segment_means:8."""
    num_parts: NumParts
    """P, number of parts."""

    def __str__(self) -> str:
        return f"{text_of(self.exchange)} on {self.num_parts}"

    def check_parts(self) -> None:
        """Raises InputError if there is an exchange, but one part alone, which has no other to exchange with."""
        if self.num_parts == 1 and any(in_block != WholeSequence() for in_block in as_tuple(self.exchange)):
            raise InputError(
                f"{text_of(self.exchange)} on 1 part exchanges nothing; give --num-parts, such as 2, "
                "or --exchange whole_sequence"
            )

    def check(self, lengths: Iterable[int]) -> None:
        """Checks that sequences of these lengths can run.

        Args:
          lengths: tokens, N of each.

        Raises:
          InputError: if the exchange can't run on so many parts of one of them.
        """
        for num_tokens in lengths:
            check(self.exchange, num_tokens, self.num_parts)
