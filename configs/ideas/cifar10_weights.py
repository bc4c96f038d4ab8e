"""What log(count) should weigh in a ViT that was fine-tuned on one device, in percent: 0 leaves it out, 100 is PRISM.

python -m eval.sweep configs/ideas/cifar10_weights.py --base runs/dinov2/exact --out runs/dinov2/weights
"""

from dataclasses import replace

from configs.ideas.sst2_weights import WeightedMeans
from prism_jax.experiments import recipe as configs

config = replace(
    configs.load("configs/vit_dinov2_cifar10.py"),
    segments=(),
    exchanges=tuple(WeightedMeans(3, percent) for percent in (0, 50, 100, 150, 200)),
    limit=2000,
)
