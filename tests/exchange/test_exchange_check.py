"""The check of an exchange of one's own: it takes ours, and finds what is wrong with others."""

from dataclasses import dataclass

import jax.numpy as jnp
import pytest
from helpers.cases import one_is_quick

import prism_jax as pj
from prism_jax.errors import InputError
from prism_jax.testing import check_exchange

pytestmark = pytest.mark.usefixtures("quick_to_compile")


@pytest.mark.parametrize(
    "exchange",
    one_is_quick(
        pj.AllGather(),
        [pj.AllGather(), pj.exchange.WeightedMeans(2, 0.5, wire=pj.WIRES["int8"]), pj.IsolatedParts()],
    ),
    ids=str,
)
def test_ours_can_be_trusted(exchange):
    check_exchange(exchange)


@dataclass(frozen=True)
class Early(pj.Wrapped):
    """Says that what it is sent stands at the beginning."""

    def __call__(self, x_BTD, layout):
        context = self.of(x_BTD, layout)
        return context.replace(last_K=context.last_K.at[layout.part_len :].set(0))


@dataclass(frozen=True)
class MeansOfAll(pj.Segments):
    """Means over padded places too."""

    def pool(self, x_BLSD, real_BLS):
        return x_BLSD.mean(2)


@dataclass(frozen=True)
class OfTheBatch(pj.Segments):
    """Less the mean over the batch."""

    def pool(self, x_BLSD, real_BLS):
        mean_BLD = jnp.where(real_BLS[..., None], x_BLSD, 0).mean(2)
        return mean_BLD - mean_BLD.mean(0, keepdims=True)


@dataclass(frozen=True)
class TwiceSent(pj.Sending):
    """Sends its first row twice, and keeps one."""

    def __call__(self, x_BTD, layout):
        twice = self.share(
            x_BTD, x_BTD[:, [0, 0]], layout.real_BPT[:, :, [0, 0]], layout.positions_PT[:, [0, 0]], layout
        )
        kept = jnp.concatenate([jnp.arange(layout.part_len), layout.part_len + 2 * jnp.arange(layout.num_parts - 1)])
        return pj.Context(twice.x_BKD[:, kept], twice.weight_BK[:, kept], twice.last_K[kept])

    def rows_sent(self, part_len):
        return 1


@pytest.mark.parametrize(
    ("exchange", "message"),
    [
        (Early(pj.SegmentMeans(2)), "the tokens from .* on change what is computed before them"),
        (MeansOfAll(2), "the content of padding changes an answer"),
        (OfTheBatch(2), "another example of the batch changes an answer"),
        (TwiceSent(), "it sends 1024 bytes for an example, but by its rows_sent and its wire format it is 512"),
    ],
    ids=lambda value: str(value).split(":")[0],
)
def test_what_is_wrong_is_found(exchange, message):
    with pytest.raises(ValueError, match=f"can't be trusted: {message}"):
        check_exchange(exchange)


def test_an_exchange_for_models_without_a_causal_mask():
    check_exchange(Early(pj.SegmentMeans(2)), causal=False)


class PlaceOfOneRow(pj.SegmentMeans):
    def __call__(self, x_BTD, layout):
        context = super().__call__(x_BTD, layout)
        return context.replace(place_BK=context.place_BK[:, :1])


def test_places_of_another_shape_are_refused():
    with pytest.raises(InputError, match="gave places of shape .*; give one for each row of each text"):
        check_exchange(PlaceOfOneRow(2))
