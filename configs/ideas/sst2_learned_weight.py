r"""A factor of log(count) for each block, learned by fine-tuning through segment means.

Training starts from weights that were tuned on one device.

    python -m train.finetune configs/ideas/sst2_learned_weight.py --out runs/sst2_minilm/learned \
        --start runs/sst2_minilm/exact \
        --training.epochs 0.34 --training.exchanges segment_means:1 --training.parts 2 4
    python -m eval.sweep configs/ideas/sst2_learned_weight.py --out runs/sst2_minilm/learned_sweep \
        --base runs/sst2_minilm/exact \
        --tuned runs/sst2_minilm/learned --segments 1
"""

from dataclasses import dataclass, replace

import flax.linen as nn
import jax
import jax.numpy as jnp

import prism_jax as pj
from prism_jax.exchange.base import per_block
from prism_jax.experiments import recipe as configs
from prism_jax.models.bert import BertForSequenceClassification


@dataclass(frozen=True)
class Weighted(pj.Wrapped):
    """An exchange whose log(count) is multiplied by a factor."""

    weight: jax.Array | float

    def __call__(self, x_BTD, layout):
        context = self.of(x_BTD, layout)
        weight_BK = context.weight_BK
        return context.replace(weight_BK=jnp.where(weight_BK > 0, jnp.maximum(weight_BK, 1) ** self.weight, 0))


class LearnedWeight(BertForSequenceClassification):
    """A BERT whose factors are 1 at first. They learn at a hundred times the rate of the other
    parameters, so that they move in a few hundred steps."""

    def setup(self):
        super().setup()
        self.log_count = self.param("log_count", nn.initializers.zeros, (self.config.stack.num_layers,), jnp.float32)

    def part(self, tokens, layout, exchange):
        plain = per_block(exchange, self.config.stack.num_layers)
        return super().part(tokens, layout, tuple(map(Weighted, plain, 1 + 100 * self.log_count)))


config = configs.load("configs/sst2_minilm.py")
fresh = (*config.training.fresh, "log_count")
config = replace(config, model=LearnedWeight, training=replace(config.training, fresh=fresh))
