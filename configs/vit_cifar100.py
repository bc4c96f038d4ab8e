r"""ViT-B/16 on CIFAR-100, by its 100 fine classes, on two devices.

    python -m train.finetune configs/vit_cifar100.py --out runs/vit_cifar100/exact \
        --exchange whole_sequence --num-parts 1
    python -m train.finetune configs/vit_cifar100.py --out runs/vit_cifar100/prism --start runs/vit_cifar100/exact \
        --training.epochs 1 --training.exchanges segment_means:10 --training.parts 2
    python -m train.finetune configs/vit_cifar100.py --out runs/vit_cifar100/control --start runs/vit_cifar100/exact \
        --training.epochs 1 --exchange whole_sequence --num-parts 1
    python -m eval.sweep configs/vit_cifar100.py --out runs/vit_cifar100/sweep --base runs/vit_cifar100/exact \
        --tuned runs/vit_cifar100/prism --control runs/vit_cifar100/control

Weights: google/vit-base-patch16-224-in21k; the classifier is drawn at random. Expected: ours, not yet measured; the
paper's CIFAR-100 table could not be read. For comparison, ASTRA (arXiv 2505.19342) reports 92.53 % for ViT-B on one
device, and 91.64 or 88.95 % with its compressed exchange. The recipe is that of CIFAR-10, with smoothed labels for
the many classes; it is ours.
"""

from prism_jax.exchange.segments import SegmentMeans
from prism_jax.experiments.recipe import Evaluation, Experiment, Grid, Setting, Training
from prism_jax.models.vit import ViTForImageClassification

config = Experiment(
    model=ViTForImageClassification,
    weights="google/vit-base-patch16-224-in21k",
    dataset="cifar100",
    num_tokens=197,
    evaluation=Evaluation(limit=0),
    setting=Setting(SegmentMeans(10), num_parts=2),
    grid=Grid(parts=(2,), segments=(10, 20, 30)),
    training=Training(epochs=5, batch_size=64, learning_rate=5e-5, augment=True, label_smoothing=0.1, validation=0.05),
)
