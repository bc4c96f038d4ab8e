"""Ideas that extend a model: as the ones in docs/, and with the runs that are there."""

import json
import runpy
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.closeness import assert_close
from helpers.command import command
from helpers.paths import ROOT
from helpers.tiny import stack_config, tiny_batch

import prism_jax as pj
from prism_jax.models.bert import BertConfig, BertForSequenceClassification
from prism_jax.testing import check_exchange

pytestmark = pytest.mark.usefixtures("quick_to_compile")

IDEAS = ROOT / "configs" / "ideas"


@pytest.mark.slow
def test_a_learned_weight_on_log_count():
    """At 1, which it is at first, it changes nothing; at 0 log(count) is left out."""
    idea = runpy.run_path(IDEAS / "sst2_learned_weight.py")
    config = BertConfig(stack_config(), vocab_size=100, num_positions=64)
    plain, learned, batch = (
        BertForSequenceClassification(config),
        idea["LearnedWeight"](config),
        tiny_batch(12, padded=True),
    )
    params = jax.jit(pj.init_params, static_argnums=0)(learned, jax.random.key(0))
    on_parts = pj.on_one_device(3)

    @partial(jax.jit, static_argnums=(0, 2))
    def logits(model, params, exchange):
        return pj.forward(model, params, on_parts.split(batch), exchange, on_parts)

    shared = {name: x for name, x in params.items() if name != "log_count"}
    assert_close(logits(learned, params, pj.SegmentMeans(1)), logits(plain, shared, pj.SegmentMeans(1)))
    unscaled = logits(plain, shared, pj.exchange.UnscaledMeans(1))
    assert_close(logits(learned, params | {"log_count": jnp.full(2, -0.01)}, pj.SegmentMeans(1)), unscaled)
    gradient = jax.jit(jax.grad(lambda params: logits(learned, params, pj.SegmentMeans(1)).sum()))(params)
    assert (gradient["log_count"] != 0).all()


@pytest.mark.slow
def test_summary_queries_read_all_rows_of_their_part():
    queries, rng = runpy.run_path(IDEAS / "summary_queries.py")["SummaryQueries"], np.random.default_rng(0)
    x_BND, real_BN = rng.normal(size=(2, 12, 8)).astype(np.float32), rng.random((2, 12)) < 0.7
    query_LD, outside_L = rng.normal(size=(2, 8)).astype(np.float32), np.float32([0.5, 3])
    run = pj.on_one_device(2)
    parts = run.split({"x": x_BND, "mask": real_BN})

    def received(exchange):
        rows = run(lambda _, tokens, layout: exchange(tokens["x"], layout).x_BKD[:, 6:], {}, parts)
        return np.asarray(rows).reshape(2, 2, 2, 8)[:, ::-1]  # what each part has sent

    sent = received(queries(2, query_LD=query_LD, outside_L=outside_L))
    for b, part, row in np.ndindex(2, 2, 2):
        score = x_BND[b, 6 * part : 6 * part + 6].astype(float) @ query_LD[row]
        score -= outside_L[row] * (np.arange(6) // 3 != row)
        share = np.exp(score) * real_BN[b, 6 * part : 6 * part + 6]
        expected = share @ x_BND[b, 6 * part : 6 * part + 6] / share.sum()
        assert_close(sent[b, part, row], expected * real_BN[b].reshape(2, 2, 3)[part, row].any())
    without = queries(2, query_LD=0 * query_LD, outside_L=np.float32([100, 100]))
    assert_close(received(without), received(pj.SegmentMeans(2)))
    check_exchange(queries(2))


@pytest.mark.slow
def test_a_class_that_extends_a_model_starts_from_its_runs(toy_config, trained, tmp_path, capsys):
    own = tmp_path / "own.py"
    own.write_text(f"""
from dataclasses import replace

from prism_jax.experiments import recipe as configs
from prism_jax.models.bert import BertForSequenceClassification


class Upside(BertForSequenceClassification):
    def head(self, rows_BRD, real_BN, keys_B=None):
        return -super().head(rows_BRD, real_BN, keys_B)


config = replace(configs.load({toy_config!r}), model=Upside)
""")

    def score(config, checkpoint, out):
        flags = ["--checkpoint", checkpoint, "--out", tmp_path / out]
        assert command("eval.evaluate", config, *flags) == 0
        content = json.loads((tmp_path / out / "results.json").read_text())
        return content["model"], content["rows"][0]["score"]

    plain, upside = score(toy_config, trained, "plain"), score(own, trained, "upside")
    assert (plain[0].split(",")[0], upside[0].split(",")[0]) == ("BertForSequenceClassification", "Upside")
    assert plain[1] > 60 > 40 > upside[1]

    def swept():
        flags = ["--base", trained, "--parts", 2, "--segments", 2, "--exchanges", "--out", tmp_path / "sweep"]
        assert command("eval.sweep", own, *flags) == 0
        return [row["score"] for row in json.loads((tmp_path / "sweep" / "results.json").read_text())["rows"]]

    as_it_was, before = own.read_text(), swept()
    own.write_text(as_it_was.replace("return -super()", "return super()"))  # stored rows are of another model now
    assert max(before) < 40 < 60 < min(swept())
    own.write_text(as_it_was)
    flags = ["--start", trained, "--out", tmp_path / "run"]
    assert command("train.finetune", own, *flags) == 0
    assert score(own, tmp_path / "run", "tuned")[1] > upside[1]
    flags = ["--checkpoint", tmp_path / "run", "--out", tmp_path / "refused"]
    assert command("eval.evaluate", toy_config, *flags) == 2
    assert "was trained with different model" in capsys.readouterr().err
