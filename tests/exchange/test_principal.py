"""Rows in a basis of principal components, against the singular values of the rows."""

import jax
import numpy as np
import pytest
from helpers.closeness import assert_close
from helpers.tiny import hidden_states, stack_config, tiny_batch, tiny_bert

import prism_jax as pj
from prism_jax import cost
from prism_jax.errors import InputError
from prism_jax.exchange import Codebooks, GatedMeans, KeysValues, Principal, arrays
from prism_jax.exchange.principal import Projected
from prism_jax.exchange.text import parse
from prism_jax.exchange.wire import FLOAT32
from prism_jax.testing import check_exchange
from prism_jax.trees import unflatten
from train.fit_codebooks import coordinates, fit_basis, large_beside_small

pytestmark = pytest.mark.usefixtures("quick_to_compile")


def rows(number=400, features=32):
    """Rows whose components have unlike variances, away from the origin."""
    rng = np.random.default_rng(0)
    scale, turn = np.geomspace(3, 0.1, features), np.linalg.qr(rng.normal(size=(features, features)))[0]
    return (rng.normal(size=(number, features)) * scale @ turn + rng.normal(size=features)).astype(np.float32)


@pytest.mark.parametrize("rank", [5, 16, 32])
def test_what_is_lost_is_the_variance_of_the_components_left_out(rank):
    x_ND = rows()
    own = fit_basis(Principal(pj.AllGather(), rank), [x_ND])["block_0"]
    wire = Projected(FLOAT32, own["mean"], own["basis"])
    arrived = np.asarray(wire.decode(wire.encode(x_ND[None]), 32))[0]
    singular = np.linalg.svd(x_ND - x_ND.mean(0, dtype=float), compute_uv=False)
    assert_close(
        ((arrived - x_ND) ** 2).sum() / (singular**2).sum(), (singular[rank:] ** 2).sum() / (singular**2).sum()
    )


def test_neighbouring_components_share_the_variance():
    x_ND = rows()
    (coordinates_NR,) = coordinates([x_ND], fit_basis(Principal(pj.AllGather(), 16), [x_ND]))
    logs = np.log(coordinates_NR.var(0))
    of_groups = logs.reshape(4, 4).sum(1)
    assert np.ptp(of_groups) < 0.2 * np.ptp(np.sort(logs).reshape(4, 4).sum(1))
    assert sorted(large_beside_small(7)) == list(range(7))


def test_all_components_equal_one_device():
    model, params = tiny_bert()
    rng = np.random.default_rng(0)
    bases = {
        f"exchange/principal_{rank}{suffix}/block_{i}/{name}": x
        for rank, suffix in ((32, ""), (64, "_keys_values"))
        for i in range(2)
        for name, x in (("mean", rng.normal(size=rank)), ("basis", np.linalg.qr(rng.normal(size=(rank, rank)))[0]))
    }
    params = {**params, **jax.tree.map(lambda x: x.astype(np.float32), unflatten(bases))}
    batch = tiny_batch(19, padded=True)
    expected = hidden_states(model, params, batch, pj.WholeSequence(), pj.on_one_device(1))
    for exchange in (Principal(pj.AllGather(), 32), Principal(KeysValues(pj.AllGather()), 64)):
        assert_close(hidden_states(model, params, batch, exchange, pj.on_mesh(3)), expected)


@pytest.mark.parametrize(
    ("text", "row_bytes"),
    [
        ("codebooks:4:4:principal:8:keys_values:all_gather", 2),
        ("principal:16:all_gather:int4", 12),
        pytest.param("codebooks:4:8:principal:8:segment_means:2", 4, marks=pytest.mark.slow),
        pytest.param("codebooks:4:8:keys_values:gated_means:2", 4, marks=pytest.mark.slow),
    ],
)
def test_the_compiled_program_computes_and_sends_what_the_formula_says(text, row_bytes):
    exchange, stack = parse(text), stack_config()
    formula = cost.formula(stack, exchange, 3, 18)
    compiled = cost.compiled_from_shapes(tiny_bert()[0], exchange, pj.on_mesh(3), 18)
    assert compiled.flops == formula.flops
    assert compiled.bytes_sent == formula.bytes_sent == 2 * 2 * exchange.rows_sent(6) * row_bytes
    assert compiled.collectives == 2


def test_flops_of_an_exchange_itself():
    """Written out: 6 rows are encoded and 12 decoded, by a basis of 64 x 8; 6 rows search 16 centroids."""
    exchange = parse("codebooks:4:4:principal:8:keys_values:all_gather")
    assert exchange.flops(6, 3, 64) == 2 * 6 * 64 * 8 + 2 * 12 * 8 * 64 + 2 * 6 * 16 * 8
    assert GatedMeans(2).flops(6, 3, 32) == 2 * 2 * 6 * 32
    assert exchange.flops(6, 1, 64) == GatedMeans(2).flops(6, 1, 32) == pj.SegmentMeans(2).flops(6, 3, 32) == 0


@pytest.mark.slow
def test_it_is_an_exchange_like_all_others():
    check_exchange(parse("codebooks:4:4:principal:8:keys_values:all_gather"))


def test_arrays_are_named_by_what_they_are_made_of():
    exchange = parse("codebooks:4:4:principal:8:keys_values:all_gather")
    assert parse(str(exchange)) == exchange == Codebooks(Principal(KeysValues(pj.AllGather()), 8), 4, 4)
    names = {
        path.split("/")[1]: spec.shape for path, spec in arrays.stated(exchange, 1, stack_config().width_of).items()
    }
    assert names == {"codebooks_4_4_principal_8_keys_values": (4, 16, 2), "principal_8_keys_values": (64, 8)}
    plain = arrays.stated(parse("codebooks:4:4:segment_means:2"), 1, stack_config().width_of)
    assert list(plain) == ["exchange/codebooks_4_4/block_0/centroids"]


def test_a_rank_above_the_width_is_refused():
    with pytest.raises(InputError, match="33 components of 32 features; choose a rank of at most 32"):
        cost.compiled_from_shapes(tiny_bert()[0], Principal(pj.AllGather(), 33), pj.on_mesh(3), 18)
