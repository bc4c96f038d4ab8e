r"""DINOv2 small on ImageNet-1k at 224 pixels on two devices. The hub's weights have a trained head.

    python -m eval.sweep configs/dinov2_imagenet.py --out runs/dinov2_imagenet/as_is
    python -m train.finetune configs/dinov2_imagenet.py --out runs/dinov2_imagenet/prism \
        --training.exchanges segment_means:13 --training.parts 2
    python -m train.finetune configs/dinov2_imagenet.py --out runs/dinov2_imagenet/control \
        --exchange whole_sequence --num-parts 1
    python -m eval.sweep configs/dinov2_imagenet.py --out runs/dinov2_imagenet/sweep \
        --tuned runs/dinov2_imagenet/prism --control runs/dinov2_imagenet/control

Weights: facebook/dinov2-small-imagenet1k-1-layer, its linear head included; the position table is resized from 518
pixels. The set asks for your consent on the hub; or give a folder of your own with --data-source. "test" is its
labelled validation split. Expected: ours, not yet measured. For comparison, DINOv2's authors (arXiv 2304.07193)
report 81.1 % for a linear head on ViT-S/14, on one device. The recipe is that of vit_imagenet.py.
"""

from prism_jax.exchange.segments import SegmentMeans
from prism_jax.experiments.recipe import Evaluation, Experiment, Grid, Setting, Training
from prism_jax.models.dinov2 import Dinov2ForImageClassification

config = Experiment(
    model=Dinov2ForImageClassification,
    weights="facebook/dinov2-small-imagenet1k-1-layer",
    dataset="imagenet",
    image_size=224,
    num_tokens=257,
    evaluation=Evaluation(limit=0),
    setting=Setting(SegmentMeans(13), num_parts=2),
    grid=Grid(parts=(2,), segments=(6, 13, 26)),
    training=Training(
        fresh=(), epochs=0.25, batch_size=128, learning_rate=1e-5, augment=True, validation=0.01, evaluate_every=500
    ),
)
