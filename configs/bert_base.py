r"""BERT-base at N = 256 on two devices, with random weights: for latency, which does not depend on their values.

    python -m eval.latency configs/bert_base.py -n 2 --rates 10mbit 50mbit 200mbit --rtts 0 5 20

Weights: drawn at random. configs/models/bert_base holds the sizes and the vocabulary of google-bert/bert-base-uncased
and no weights, so no hub is needed; only times and bytes mean something. With the hub's own weights, and a classifier
drawn at random: --weights google-bert/bert-base-uncased --training.fresh classifier.
L = 16 is a CR of 8. Expected: ours (docs/latency, two cores), B = 1, 200 Mbit/s without delay: one device 502 ms, L =
16 319 ms, Voltage 599 ms.
"""

from prism_jax.exchange.baselines import IsolatedParts
from prism_jax.exchange.segments import SegmentMeans
from prism_jax.exchange.wire import INT8
from prism_jax.experiments.recipe import Experiment, Grid, Setting, Training
from prism_jax.models.bert import BertForSequenceClassification

config = Experiment(
    model=BertForSequenceClassification,
    weights="configs/models/bert_base",
    dataset="newsgroups",
    num_tokens=256,
    setting=Setting(SegmentMeans(16), num_parts=2),
    grid=Grid(parts=(2, 4), segments=(1, 16), exchanges=(IsolatedParts(), SegmentMeans(16, wire=INT8))),
    training=Training(fresh=("encoder", "pooler", "classifier"), learning_rate=2e-5, epochs=3),
)
