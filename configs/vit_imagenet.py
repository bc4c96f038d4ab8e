r"""ViT-B/16 on ImageNet-1k on two devices. The hub's weights are fine-tuned already, so the branches start from them.

    python -m train.finetune configs/vit_imagenet.py --out runs/vit_imagenet/prism \
        --training.exchanges segment_means:10 --training.parts 2
    python -m train.finetune configs/vit_imagenet.py --out runs/vit_imagenet/control \
        --exchange whole_sequence --num-parts 1
    python -m eval.sweep configs/vit_imagenet.py --out runs/vit_imagenet/sweep \
        --tuned runs/vit_imagenet/prism --control runs/vit_imagenet/control

Weights: google/vit-base-patch16-224, its head included. The set asks for your consent on the hub; or give a folder of
your own with --data-source. "test" is its labelled validation split. Expected: ours, not yet measured; the paper's
ImageNet table could not be read. For comparison, ASTRA (arXiv 2505.19342) reports 80.32 % for ViT-B on one device and
80.28 % at 76.8 times fewer bytes. The recipe is ours: a quarter of an epoch at a low rate, to adapt to the exchange
and not to learn the set anew.
"""

from prism_jax.exchange.segments import SegmentMeans
from prism_jax.experiments.recipe import Evaluation, Experiment, Grid, Setting, Training
from prism_jax.models.vit import ViTForImageClassification

config = Experiment(
    model=ViTForImageClassification,
    weights="google/vit-base-patch16-224",
    dataset="imagenet",
    num_tokens=197,
    evaluation=Evaluation(limit=0),
    setting=Setting(SegmentMeans(10), num_parts=2),
    grid=Grid(parts=(2,), segments=(10, 20, 30)),
    training=Training(
        fresh=(), epochs=0.25, batch_size=128, learning_rate=1e-5, augment=True, validation=0.01, evaluate_every=500
    ),
)
