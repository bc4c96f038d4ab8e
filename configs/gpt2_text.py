r"""GPT-2 (124 M) on plain text on two devices: perplexity on WikiText-103, or on a text of your own.

    python -m train.finetune configs/gpt2_text.py --out runs/gpt2_text/exact --exchange whole_sequence --num-parts 1
    python -m train.finetune configs/gpt2_text.py --out runs/gpt2_text/prism --start runs/gpt2_text/exact \
        --training.epochs 0.25 --training.exchanges segment_means:10 --training.parts 2
    python -m train.finetune configs/gpt2_text.py --out runs/gpt2_text/control --start runs/gpt2_text/exact \
        --training.epochs 0.25 --exchange whole_sequence --num-parts 1
    python -m eval.sweep configs/gpt2_text.py --out runs/gpt2_text/sweep --base runs/gpt2_text/exact \
        --tuned runs/gpt2_text/prism --control runs/gpt2_text/control

Weights: openai-community/gpt2. --data-source takes a folder with train.txt and test.txt, or another set of the hub.
Expected: ours, not yet measured; no figure of the paper for plain text is known to us. For comparison, ASTRA (arXiv
2505.19342) reports for GPT2-M on WikiText-103 a perplexity of 14.8 on one device and 16.84 at 102 times fewer bytes.
The perplexity here is per token of GPT-2, not per word, in windows of 1,024 tokens that do not overlap. The recipe is
ours: one pass at the usual rate for GPT-2.
"""

from prism_jax.exchange.segments import SegmentMeans
from prism_jax.experiments.recipe import Evaluation, Experiment, Grid, Setting, Training
from prism_jax.models.gpt2 import GPT2LMHeadModel

config = Experiment(
    model=GPT2LMHeadModel,
    weights="openai-community/gpt2",
    dataset="text",
    data_source="Salesforce/wikitext:wikitext-103-raw-v1",
    num_tokens=1024,
    batch_size=8,
    evaluation=Evaluation(limit=0),
    setting=Setting(SegmentMeans(10), num_parts=2),
    grid=Grid(parts=(2,), segments=(1, 10, 40)),
    training=Training(fresh=(), epochs=1, batch_size=16, learning_rate=5e-5, validation=0.01, evaluate_every=500),
)
