r"""A class token on every part of a ViT that was fine-tuned on one device, see prism_jax/models/class_tokens.py.

python -m eval.sweep configs/ideas/cifar10_class_tokens.py --base runs/dinov2/exact --out runs/dinov2/class_tokens
"""

from dataclasses import replace

from prism_jax.experiments import recipe as configs
from prism_jax.models import vit
from prism_jax.models.class_tokens import mean_of_class_rows, with_class_row


class Encoder(vit.ViTEncoder):
    def __call__(self, tokens, layout, exchange):
        class_D = self.class_token + self.position.embedding[0]
        return self.norm(with_class_row(self.blocks, self.embed(tokens, layout), class_D, layout, exchange))


class ClassTokens(vit.ViTForImageClassification):
    encoder_class = Encoder

    def head(self, rows_BRD, real_BN, keys_B=None):
        return super().head(mean_of_class_rows(rows_BRD, real_BN), real_BN, keys_B)


config = replace(configs.load("configs/vit_dinov2_cifar10.py"), model=ClassTokens)
