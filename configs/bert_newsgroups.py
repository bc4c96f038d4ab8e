"""MiniLM on 20 Newsgroups, N = 256: what each exchange costs in accuracy, FLOPs and bytes. The encoder is frozen.

    python -m eval.sweep configs/bert_newsgroups.py                 256 test documents
    python -m eval.sweep configs/bert_newsgroups.py --limit 0       the full official test split
    python -m train.finetune configs/bert_newsgroups.py --out runs/newsgroups_head

Expected (ours, JAX 0.10.2, CPU), accuracy in percent on the full test split: one device and Voltage 75.9; P = 4 isolated parts 70.7,
segment means L = 1 71.2, L = 16 72.9. On the default 256 documents one device has 75.4, with an interval of 5 points to either side.
"""

from prism_jax.config import Experiment, HeadTraining
from prism_jax.exchange import SegmentMeans
from prism_jax.models.bert import BertForSequenceClassification

config = Experiment(
    model=BertForSequenceClassification,
    weights="asset:minilm",
    head="configs/heads/minilm_newsgroups.safetensors",
    dataset="newsgroups",
    num_tokens=256,
    exchange=SegmentMeans(16),
    num_parts=4,
    parts=(2, 4, 8),
    segments=(1, 4, 16),
    training=HeadTraining(trained=("pooler", "classifier"), learning_rate=1e-3, epochs=30),
)
