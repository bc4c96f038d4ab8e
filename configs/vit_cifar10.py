r"""ViT-B/16 on CIFAR-10, the paper's table: what segment means cost on two devices, and what fine-tuning wins back.

    python -m train.finetune configs/vit_cifar10.py --out runs/vit_cifar10/exact \
        --exchange whole_sequence --num-parts 1
    python -m train.finetune configs/vit_cifar10.py --out runs/vit_cifar10/prism --start runs/vit_cifar10/exact \
        --training.epochs 1 --training.exchanges segment_means:10 --training.parts 2
    python -m train.finetune configs/vit_cifar10.py --out runs/vit_cifar10/control --start runs/vit_cifar10/exact \
        --training.epochs 1 --exchange whole_sequence --num-parts 1
    python -m eval.sweep configs/vit_cifar10.py --out runs/vit_cifar10/sweep --base runs/vit_cifar10/exact \
        --tuned runs/vit_cifar10/prism --control runs/vit_cifar10/control

Weights: google/vit-base-patch16-224-in21k, never tuned on CIFAR-10; the classifier is drawn at random. Expected: the
paper's 98.01 % on one device, 95.64, 96.84 and 97.06 % through L = 10, 20 and 30, and 97.43 % fine-tuned at L = 10;
ours: not yet measured. The recipe is ours, as the paper's is not known to us: AdamW at the usual rate for a ViT, random
crops and flips.
"""

from prism_jax.exchange.segments import SegmentMeans
from prism_jax.experiments.recipe import Evaluation, Experiment, Grid, Setting, Training
from prism_jax.models.vit import ViTForImageClassification

config = Experiment(
    model=ViTForImageClassification,
    weights="google/vit-base-patch16-224-in21k",
    dataset="cifar10",
    num_tokens=197,
    evaluation=Evaluation(limit=0),
    setting=Setting(SegmentMeans(10), num_parts=2),
    grid=Grid(parts=(2,), segments=(10, 20, 30)),
    training=Training(epochs=3, batch_size=64, learning_rate=5e-5, augment=True, validation=0.05),
)
