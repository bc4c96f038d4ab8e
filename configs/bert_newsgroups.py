r"""MiniLM on 20 Newsgroups, N = 128: what each exchange costs, and what fine-tuning through it wins back.

    python -m eval.sweep configs/bert_newsgroups.py
    python -m train.finetune configs/bert_newsgroups.py --out runs/exact
    python -m train.calibrate configs/bert_newsgroups.py --base runs/exact --out runs/codes --examples 512 \
        --dtype float16 --exchanges codebooks:48:8:principal:144:keys_values:all_gather
    python -m train.finetune configs/bert_newsgroups.py --out runs/tuned --start runs/exact \
        --exchange-arrays runs/codes/exchange.safetensors --training.epochs 1 \
        --training.exchanges segment_means:1 segment_means:4 codebooks:48:8:principal:144:keys_values:all_gather \
        --training.parts 2 4 8 --exchange codebooks:48:8:principal:144:keys_values:all_gather --num-parts 4 \
        --training.distill.logits 1 --training.distill.blocks 1

Weights: asset:minilm, from the package index, with adapters and codebooks in configs/adapters. Expected: ours (JAX
0.10.2, CPU), accuracy in percent on 256 documents: one device and Voltage 85.2; P = 4, L = 4: 79.3 untuned, 83.6 tuned;
codes 83.2, 84.0.
"""

from prism_jax.exchange import AllGather, Codebooks, IsolatedParts, KeysValues, Principal, WholeSequence
from prism_jax.experiments.recipe import Evaluation, Experiment, Grid, Setting, Training
from prism_jax.models.bert import BertForSequenceClassification

CODES = Codebooks(Principal(KeysValues(AllGather()), 144), 48, 8)
config = Experiment(
    model=BertForSequenceClassification,
    weights="asset:minilm",
    dataset="newsgroups",
    num_tokens=128,
    evaluation=Evaluation(
        adapter="configs/adapters/minilm_newsgroups", tuned="configs/adapters/minilm_newsgroups_prism"
    ),
    setting=Setting(WholeSequence(), num_parts=1),
    exchange_arrays="configs/adapters/minilm_newsgroups/exchange.safetensors",
    grid=Grid((2, 4, 8), segments=(1, 4), exchanges=(IsolatedParts(), AllGather(), CODES)),
    training=Training(
        fresh=("pooler", "classifier"),
        lora_rank=4,
        lora_alpha=8,
        learning_rate=1e-3,
        epochs=2,
        dropout=False,
        evaluate_every=159,
        validation_limit=512,
    ),
)
