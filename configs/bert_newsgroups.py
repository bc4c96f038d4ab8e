"""MiniLM on 20 Newsgroups, N = 128: what each exchange costs, and what fine-tuning through it wins back.

    python -m eval.sweep configs/bert_newsgroups.py                 256 test documents; --limit 0 for all
    python -m train.finetune configs/bert_newsgroups.py --out runs/exact
    python -m train.finetune configs/bert_newsgroups.py --out runs/prism --start runs/exact --training.epochs 0.5 \\
        --training.exchanges segment_means:1 segment_means:4 --training.parts 2 4 8 --exchange segment_means:4 \\
        --num-parts 4
    python -m train.finetune configs/bert_newsgroups.py --out runs/control --start runs/exact --training.epochs 0.5
    python -m train.export runs/exact configs/adapters/minilm_newsgroups --adapter --dtype float16
    python -m train.calibrate configs/bert_newsgroups.py --examples 512 --dtype float16 \\
        --exchanges codebooks:48:8:principal:144:keys_values:all_gather --out configs/adapters/minilm_newsgroups

Weights: asset:minilm, from the package index, with adapters and codebooks in configs/adapters. Expected: ours (JAX
0.10.2, CPU), accuracy in percent on 256 documents: one device and Voltage 85.2; P = 4, L = 4: 79.3 untuned, 81.6 tuned.
All documents, three seeds: one device 82.6; P = 4, L = 4: 74.6 untuned, 79.7 tuned; control 82.1.
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
