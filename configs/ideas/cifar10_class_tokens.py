r"""A class token on every part of a ViT that was fine-tuned on one device, see prism_jax/models/class_tokens.py.

python -m eval.sweep configs/ideas/cifar10_class_tokens.py --base runs/dinov2/exact --out runs/dinov2/class_tokens
"""

from dataclasses import replace

from prism_jax.experiments import recipe as configs
from prism_jax.models.vit import ViTWithClassTokens

config = replace(configs.load("configs/vit_dinov2_cifar10.py"), model=ViTWithClassTokens)
