r"""BERT-base on a task of GLUE on two devices, N = 256 as in the paper. SST-2; --dataset glue/NAME takes another one.

    python -m train.finetune configs/bert_glue.py --out runs/bert_glue/exact --exchange whole_sequence --num-parts 1
    python -m train.finetune configs/bert_glue.py --out runs/bert_glue/prism --start runs/bert_glue/exact \
        --training.epochs 1 --training.exchanges segment_means:1 --training.parts 2
    python -m train.finetune configs/bert_glue.py --out runs/bert_glue/control --start runs/bert_glue/exact \
        --training.epochs 1 --exchange whole_sequence --num-parts 1
    python -m eval.sweep configs/bert_glue.py --out runs/bert_glue/sweep --base runs/bert_glue/exact \
        --tuned runs/bert_glue/prism --control runs/bert_glue/control

Weights: google-bert/bert-base-uncased; the classifier is drawn at random. Expected: the paper's -99.2 % of
communication and -51.24 % of a device's compute at L = 1 (CR 128); its accuracies could not be read, and ours are not
yet measured. Real lengths matter: the median sentence of SST-2 has 25 tokens, so that at N = 256 its second part is
padding and every exchange equals one device. Read the columns of real tokens beside an accuracy, or cut each text by
its own length with --buckets 32 64 128. The recipe is that of BERT's authors (arXiv 1810.04805): 3 epochs, batches of
32, 2e-5, a tenth of it warm-up, then a linear fall.
"""

from prism_jax.exchange.segments import SegmentMeans
from prism_jax.experiments.recipe import Evaluation, Experiment, Grid, Setting, Training
from prism_jax.models.bert import BertForSequenceClassification

config = Experiment(
    model=BertForSequenceClassification,
    weights="google-bert/bert-base-uncased",
    dataset="glue/sst2",
    num_tokens=256,
    evaluation=Evaluation(limit=0),
    setting=Setting(SegmentMeans(1), num_parts=2),
    grid=Grid(parts=(2,), segments=(1, 8, 32)),
    training=Training(epochs=3, batch_size=32, learning_rate=2e-5, schedule="linear"),
)
