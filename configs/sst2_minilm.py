r"""MiniLM on SST-2 on two and four devices, N = 32: small enough for a CPU, and its sentences fill the parts.

    python -m train.finetune configs/sst2_minilm.py --out runs/sst2_minilm/exact --exchange whole_sequence --num-parts 1
    python -m train.finetune configs/sst2_minilm.py --out runs/sst2_minilm/prism --start runs/sst2_minilm/exact \
        --training.epochs 0.34 --training.exchanges segment_means:1 segment_means:2 --training.parts 2 4
    python -m train.finetune configs/sst2_minilm.py --out runs/sst2_minilm/control --start runs/sst2_minilm/exact \
        --training.epochs 0.34 --exchange whole_sequence --num-parts 1
    python -m eval.sweep configs/sst2_minilm.py --out runs/sst2_minilm/sweep --base runs/sst2_minilm/exact \
        --tuned runs/sst2_minilm/prism --control runs/sst2_minilm/control

Weights: asset:minilm, from the package index; pooler and classifier are drawn at random. The data come from the hub,
or with --data-source from a folder that holds sst2/train-*.parquet and sst2/validation-*.parquet; 24,000 training
phrases are used. "test" is the labelled validation split, 872 sentences with a median of 24 tokens. Expected: ours
(JAX 0.10.2, CPU, three seeds), accuracy in percent: one device and Voltage 86.9; L = 1 at P = 2 84.2 untuned, 85.7
tuned; at P = 4 83.1 and 84.8; isolated parts 80.4 and 71.6. With --training.epochs 1 --training.exchanges
segment_means:1 on the second command, and one epoch on the third, 86.5 and 85.4. Other seeds: --training.seed 1 on
each. The recipe is BERT's (arXiv 1810.04805).
"""

from prism_jax.exchange.segments import SegmentMeans
from prism_jax.experiments.recipe import Evaluation, Experiment, Grid, Setting, Training
from prism_jax.models.bert import BertForSequenceClassification

config = Experiment(
    model=BertForSequenceClassification,
    weights="asset:minilm",
    dataset="glue/sst2",
    num_tokens=32,
    buckets=(16,),
    evaluation=Evaluation(limit=0),
    setting=Setting(SegmentMeans(2), num_parts=2),
    grid=Grid(parts=(2, 4), segments=(1, 2)),
    training=Training(
        fresh=("pooler", "classifier"),
        epochs=2,
        batch_size=32,
        learning_rate=5e-5,
        schedule="linear",
        limit=24_000,
        validation=0.05,
    ),
)
