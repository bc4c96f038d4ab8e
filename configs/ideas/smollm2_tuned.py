r"""SmolLM2-135M tuned through an exchange, with LoRA, at 1/11 of Voltage's bytes: does a mean help after tuning?

    M=first_tokens:1:keys_values
    python -m train.finetune configs/ideas/smollm2_tuned.py --out runs/smollm2/means \
        --training.exchanges $M:unscaled_means:16 --training.parts 4 --exchange $M:unscaled_means:16 --num-parts 4
    python -m train.finetune configs/ideas/smollm2_tuned.py --out runs/smollm2/control \
        --exchange whole_sequence --num-parts 1
    python -m eval.sweep configs/ideas/smollm2_tuned.py --on one_device --parts 2 4 --segments \
        --exchanges $M:unscaled_means:16 --tuned runs/smollm2/means --control runs/smollm2/control \
        --checkpoints runs/smollm2/control --out runs/smollm2/tuned_means

Likewise with $M:tail:16, first_tokens:1:isolated_parts and keys_values:all_gather:int4. Text: five novels of Jane
Austen; the sixth is for scoring. 32 steps of 2 windows each, four minutes of one core. Expected: ours (JAX 0.10.2, CPU,
one seed), perplexity a token on 24 windows: one device 34.1, control 30.0; at P = 4 untuned and tuned: means 46.7 and
36.5, last tokens 39.3 and 33.4, nothing 49.8 and 37.6, int4 34.6 and 30.4.
"""

from dataclasses import replace

from prism_jax.experiments import recipe as configs
from prism_jax.experiments.recipe import Evaluation, Training

config = replace(
    configs.load("configs/ideas/smollm2_tail.py"),
    dataset="austen",
    compute_dtype="bfloat16",
    batch_size=2,
    evaluation=Evaluation(limit=24),
    training=Training(
        fresh=(),
        lora_rank=8,
        lora_alpha=16,
        learning_rate=5e-4,
        batch_size=2,
        epochs=0.0369,
        validation=0.02,
        validation_limit=1,
        log_every=4,
    ),
)
