r"""RoBERTa-base on a task of GLUE on two devices. SST-2; --dataset glue/NAME takes another one.

    python -m train.finetune configs/roberta_glue.py --out runs/roberta_glue/exact \
        --exchange whole_sequence --num-parts 1
    python -m train.finetune configs/roberta_glue.py --out runs/roberta_glue/prism --start runs/roberta_glue/exact \
        --training.epochs 1 --training.exchanges segment_means:2 --training.parts 2
    python -m train.finetune configs/roberta_glue.py --out runs/roberta_glue/control --start runs/roberta_glue/exact \
        --training.epochs 1 --exchange whole_sequence --num-parts 1
    python -m eval.sweep configs/roberta_glue.py --out runs/roberta_glue/sweep --base runs/roberta_glue/exact \
        --tuned runs/roberta_glue/prism --control runs/roberta_glue/control

Weights: FacebookAI/roberta-base; both layers of the classifier are drawn at random. Expected: ours, not yet measured.
For comparison, RoBERTa's authors report 94.8 % for RoBERTa-base on SST-2, on one device (fairseq's page of RoBERTa).
Each text is cut by its own length. The recipe is that of its authors (arXiv 1907.11692): batches of 32, 2e-5, 6 % of
the steps warm-up, then a linear fall; with 3 epochs in place of 10.
"""

from prism_jax.exchange.segments import SegmentMeans
from prism_jax.experiments.recipe import Evaluation, Experiment, Grid, Setting, Training
from prism_jax.models.roberta import RobertaForSequenceClassification

config = Experiment(
    model=RobertaForSequenceClassification,
    weights="FacebookAI/roberta-base",
    dataset="glue/sst2",
    num_tokens=128,
    buckets=(32, 64),
    evaluation=Evaluation(limit=0),
    setting=Setting(SegmentMeans(2), num_parts=2),
    grid=Grid(parts=(2,), segments=(1, 2, 8)),
    training=Training(epochs=3, batch_size=32, learning_rate=2e-5, warmup=0.06, schedule="linear"),
)
