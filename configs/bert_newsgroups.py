r"""MiniLM on 20 Newsgroups, N = 128: what each exchange costs, and what fine-tuning through it wins back.

    python -m eval.sweep configs/bert_newsgroups.py
    python -m train.finetune configs/bert_newsgroups.py --out runs/exact
    python -m train.calibrate configs/bert_newsgroups.py --base runs/exact --out runs/means --rate 0.01 \
        --dtype float16 --exchanges head_means:4:12
    python -m train.finetune configs/bert_newsgroups.py --out runs/tuned --start runs/exact \
        --exchange-arrays runs/means/exchange.safetensors --training.frozen 'exchange/.*' --training.epochs 1 \
        --training.exchanges segment_means:4 head_means:2:12:int4 head_means:4:12:int4 --training.parts 2 4 8 \
        --exchange head_means:4:12:int4 --num-parts 4

Weights: asset:minilm, from the package index, with adapters and learned means in configs/adapters. Expected: ours (JAX
0.10.2, CPU), accuracy in percent on 256 documents: one device and Voltage 85.2; P = 4, L = 4: 79.3 untuned, 82.8 tuned;
learned means of keys and values in int3: 83.2 untuned, 85.5 tuned.
"""

from prism_jax.exchange import WIRES, AllGather, HeadMeans, IsolatedParts, WholeSequence
from prism_jax.experiments.recipe import Evaluation, Experiment, Grid, Setting, Training
from prism_jax.models.bert import BertForSequenceClassification

LEARNED = HeadMeans(4, 12, wire=WIRES["int3"])
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
    grid=Grid((2, 4, 8), segments=(1, 4), exchanges=(IsolatedParts(), AllGather(), LEARNED)),
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
