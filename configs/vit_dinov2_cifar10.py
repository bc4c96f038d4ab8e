r"""DINOv2 small on CIFAR-10 at 112 pixels on two and four devices: the ViT experiment where no hub can be reached.

    python -m train.finetune configs/vit_dinov2_cifar10.py --out runs/dinov2/exact \
        --exchange whole_sequence --num-parts 1
    python -m train.finetune configs/vit_dinov2_cifar10.py --out runs/dinov2/prism --start runs/dinov2/exact \
        --training.epochs 1.34 --training.learning-rate 2e-5 \
        --training.exchanges segment_means:1 segment_means:3 --training.parts 2 4
    python -m train.finetune configs/vit_dinov2_cifar10.py --out runs/dinov2/control --start runs/dinov2/exact \
        --training.epochs 1.34 --training.learning-rate 2e-5 --exchange whole_sequence --num-parts 1
    python -m eval.sweep configs/vit_dinov2_cifar10.py --out runs/dinov2/sweep --base runs/dinov2/exact \
        --tuned runs/dinov2/prism --control runs/dinov2/control

Weights: asset:dinov2, from the package index, tuned for saliency by its authors; the classifier is drawn at random.
The data come from the hub, or with --data-source from a folder that holds plain_text/train-*.parquet and
plain_text/test-*.parquet; 20,000 training images are used, products are in bfloat16. L = 3 at P = 2 is a CR of 11, the
nearest to the paper's 9.9. Expected: ours (JAX 0.10.2, CPU, one seed), accuracy in percent of all 10,000 test images:
one device and Voltage 92.0, control 91.7; isolated parts 69.7 (P = 2), 32.7 (P = 4); L = 3 82.1, 67.7, tuned 89.6,
88.2.
"""

from prism_jax.exchange.segments import SegmentMeans
from prism_jax.experiments.recipe import Evaluation, Experiment, Grid, Setting, Training
from prism_jax.models.vit import ViTForImageClassification

config = Experiment(
    model=ViTForImageClassification,
    weights="asset:dinov2",
    dataset="cifar10",
    image_size=112,
    num_tokens=65,
    compute_dtype="bfloat16",
    evaluation=Evaluation(limit=0),
    setting=Setting(SegmentMeans(3), num_parts=2),
    grid=Grid(parts=(2, 4), segments=(3, 1)),
    training=Training(
        epochs=4,
        batch_size=64,
        learning_rate=3e-5,
        evaluate_every=104,
        augment=True,
        limit=20_000,
        validation=0.05,
        validation_limit=512,
    ),
)
