r"""A small GPT-2 from scratch on tales of the Grimms and Andersen on two devices: 4 layers, 256 wide, N = 256.

    python -m train.finetune configs/gpt2_tales.py --out runs/gpt2_tales/exact --exchange whole_sequence --num-parts 1
    python -m train.finetune configs/gpt2_tales.py --out runs/gpt2_tales/prism --start runs/gpt2_tales/exact \
        --training.epochs 4 --training.learning-rate 3e-4 --training.exchanges segment_means:10 --training.parts 2
    python -m train.finetune configs/gpt2_tales.py --out runs/gpt2_tales/control --start runs/gpt2_tales/exact \
        --training.epochs 4 --training.learning-rate 3e-4 --exchange whole_sequence --num-parts 1
    python -m eval.sweep configs/gpt2_tales.py --out runs/gpt2_tales/sweep --base runs/gpt2_tales/exact \
        --tuned runs/gpt2_tales/prism --control runs/gpt2_tales/control

Weights: none. configs/models/gpt2_tales holds a config and a tokenizer of 4,096 tokens; all parameters are drawn at
random. Expected: ours (JAX 0.10.2, CPU, one seed), perplexity a token on 42 windows of held-out tales
(docs/results/tales/main): one device and Voltage 179.9; P = 2, L = 10: 186.8 untuned, 179.0 tuned; L = 1: 200.8 and
178.7. Isolated parts reach 181.1: so small a model hardly looks beyond its own part. The recipe is ours; the model soon
learns no more of so little text (at step 225 of 500), so the best checkpoint counts.
"""

from prism_jax.exchange.segments import SegmentMeans
from prism_jax.experiments.recipe import Evaluation, Experiment, Grid, Setting, Training
from prism_jax.models.gpt2 import GPT2LMHeadModel

config = Experiment(
    model=GPT2LMHeadModel,
    weights="configs/models/gpt2_tales",
    dataset="tales",
    num_tokens=256,
    evaluation=Evaluation(limit=0),
    setting=Setting(SegmentMeans(10), num_parts=2),
    grid=Grid(parts=(2, 4), segments=(1, 10, 30)),
    training=Training(fresh=("encoder",), epochs=20, batch_size=16, learning_rate=1e-3, weight_decay=0.1),
)
