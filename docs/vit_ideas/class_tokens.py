r"""A class token on every part (after ASTRA, arXiv 2505.19342), on a ViT that was fine-tuned on one device.

    python -m eval.sweep docs/vit_ideas/class_tokens.py --base runs/dinov2/exact --out runs/dinov2/class_tokens

Each part has a class row of its own beside its patches. It reads them as they are, and the other parts through the exchange;
no class row is sent. The head reads the mean of the class rows. One row more to compute, none more to send.
"""

from dataclasses import dataclass, replace

import jax.numpy as jnp

import prism_jax as pj
from prism_jax import config as configs
from prism_jax.exchange import per_block
from prism_jax.models import vit
from prism_jax.transformer import head_dense


@dataclass(frozen=True)
class BesideClassRow(pj.Wrapped):
    """An exchange of a part's rows but its first, the class row, which stays at home."""

    def __call__(self, x_BTD, layout):
        inner = replace(layout, real_BN=layout.real_BPT[:, :, 1:].reshape(len(x_BTD), -1))
        context = self.of(x_BTD[:, 1:], replace(inner, num_tokens=inner.real_BN.shape[1]))
        return pj.Context(
            jnp.concatenate([x_BTD[:, :1], context.x_BKD], 1),
            jnp.pad(context.count_BK, ((0, 0), (1, 0)), constant_values=1),
            jnp.pad(context.last_K, (1, 0)),
        )

    def rows_sent(self, part_len):
        return self.of.rows_sent(part_len - 1)


class Encoder(vit.ViTEncoder):
    """Puts a class row before every part's rows, in place of the one at position 0."""

    def __call__(self, tokens, layout, exchange):
        x_BTD = self.embed(tokens, layout)
        class_BTD = jnp.broadcast_to(self.class_token + self.position.embedding[0], (len(x_BTD), 1, x_BTD.shape[2]))
        real_BPT = jnp.pad(layout.real_BPT.at[:, 0, 0].set(False), ((0, 0), (0, 0), (1, 0)), constant_values=True)
        layout = replace(layout, real_BN=real_BPT.reshape(len(x_BTD), -1), num_tokens=real_BPT[0].size)
        each = tuple(BesideClassRow(of=one) for one in per_block(exchange, self.config.stack.num_layers))
        return self.norm(self.blocks(jnp.concatenate([class_BTD, x_BTD], 1), each, layout)[0])


class ClassTokens(vit.ViTForImageClassification):
    """Logits from the mean of the parts' class rows."""

    def setup(self):
        self.encoder, self.classifier = Encoder(self.config), head_dense(self.config.num_labels, self.config.stack)

    def head(self, rows_BRD, real_BN, keys_B=None):
        return self.classifier(rows_BRD.mean(1))


config = replace(configs.load("configs/vit_dinov2_cifar10.py"), model=ClassTokens)
