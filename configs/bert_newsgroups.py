"""MiniLM on 20 Newsgroups, N = 256: what each exchange costs in accuracy, FLOPs and bytes. The encoder is frozen.

    python -m eval.sweep configs/bert_newsgroups.py                 256 test documents
    python -m eval.sweep configs/bert_newsgroups.py --limit 0       the full official test split
    python -m train.finetune configs/bert_newsgroups.py --out runs/newsgroups_head

Expected: see README.
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
