"""What log(count) should weigh in a ViT that was fine-tuned on one device, in percent: 0 leaves it out, 100 is PRISM.

python -m eval.sweep docs/vit_ideas/weights.py --base runs/dinov2/exact --out runs/dinov2/weights
"""

from dataclasses import replace

from prism_jax import config as configs
from prism_jax.exchange import parse

configs.load("docs/sst2_ideas/ideas.py")  # which holds weighted_means
config = replace(
    configs.load("configs/vit_dinov2_cifar10.py"),
    segments=(),
    exchanges=tuple(parse(f"weighted_means:3:{percent}") for percent in (0, 50, 100, 150, 200)),
    limit=2000,
)
