r"""BERT-base at N = 256 on two devices: for latency, which does not hang on the values of the weights.

    python -m eval.latency configs/bert_base.py -n 2 --rates 10mbit 50mbit 200mbit --rtts 0 5 20

Weights: google-bert/bert-base-uncased from the hub, its classifier drawn at random; where no hub can be reached, all of
them: --weights FOLDER --training.fresh encoder pooler classifier, with a folder that holds a config.json and a tokenizer.
L = 16 is a CR of 8. Expected: ours (docs/latency, two cores), B = 1, 200 Mbit/s without delay: one device 477 ms, L = 16
299 ms, Voltage 699 ms.
"""

from prism_jax.config import Experiment, Training
from prism_jax.exchange import IsolatedParts, SegmentMeans
from prism_jax.models.bert import BertForSequenceClassification
from prism_jax.wire import INT8

config = Experiment(
    model=BertForSequenceClassification,
    weights="google-bert/bert-base-uncased",
    dataset="newsgroups",
    num_tokens=256,
    exchange=SegmentMeans(16),
    num_parts=2,
    parts=(2, 4),
    segments=(1, 16),
    exchanges=(IsolatedParts(), SegmentMeans(16, wire=INT8)),
    training=Training(learning_rate=2e-5, epochs=3),
)
