r"""GPT-2 (124 M) on the Children's Book Test on two devices: common nouns, or --dataset cbt/NE, cbt/V or cbt/P.

    python -m train.finetune configs/gpt2_cbt.py --out runs/gpt2_cbt/exact --exchange whole_sequence --num-parts 1
    python -m train.finetune configs/gpt2_cbt.py --out runs/gpt2_cbt/prism --start runs/gpt2_cbt/exact \
        --training.limit 10000 --training.exchanges segment_means:10 --training.parts 2
    python -m train.finetune configs/gpt2_cbt.py --out runs/gpt2_cbt/control --start runs/gpt2_cbt/exact \
        --training.limit 10000 --exchange whole_sequence --num-parts 1
    python -m eval.sweep configs/gpt2_cbt.py --out runs/gpt2_cbt/sweep --base runs/gpt2_cbt/exact \
        --tuned runs/gpt2_cbt/prism --control runs/gpt2_cbt/control

Weights: openai-community/gpt2. The most likely of ten endings is the answer; chance is 10 %. Without --base the sweep
scores OpenAI's weights as they are. Expected: ours, not yet measured; the paper's table could not be read. Shorter
questions are padded to 512 or 768 tokens, and their part boundaries follow. The recipe is ours: one pass at the usual
rate for GPT-2, as a language model.
"""

from prism_jax.exchange.segments import SegmentMeans
from prism_jax.experiments.recipe import Evaluation, Experiment, Grid, Setting, Training
from prism_jax.models.gpt2 import GPT2LMHeadModel

config = Experiment(
    model=GPT2LMHeadModel,
    weights="openai-community/gpt2",
    dataset="cbt/CN",
    num_tokens=1024,
    buckets=(512, 768),
    evaluation=Evaluation(limit=0),
    setting=Setting(SegmentMeans(10), num_parts=2),
    grid=Grid(parts=(2,), segments=(1, 10, 40)),
    training=Training(
        fresh=(), epochs=1, limit=40_000, batch_size=16, learning_rate=5e-5, validation=0.01, validation_limit=500
    ),
)
