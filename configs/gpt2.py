r"""GPT-2 (124 M) with OpenAI's weights: text generation through an exchange.

    python -m eval.generate configs/gpt2.py --prompt "$(head -c 2000 story.txt)" --num-parts 4 \
        --exchange segment_means:8
    python -m eval.generate configs/gpt2.py --weights gpt2-medium --prompt "Once upon a time" --temperature 0.8 \
        --top-p 0.95

Weights: openai-community/gpt2 from the hub, or with --weights a folder in its layout.
Expected: with all_gather or one part the greedy text of transformers' `generate`, token for token (tested on random
weights). The price of segment means on real text: not yet measured.
"""

from prism_jax.exchange.segments import SegmentMeans
from prism_jax.experiments.recipe import Experiment, Setting
from prism_jax.models.gpt2 import GPT2LMHeadModel

config = Experiment(
    model=GPT2LMHeadModel,
    weights="openai-community/gpt2",
    num_tokens=1024,
    setting=Setting(SegmentMeans(8), num_parts=2),
)
