"""The stand-in for inputs on processes other than 0: the same shapes, none of the values."""

import pickle
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from PIL import Image

from prism_jax.data.images import load_processor
from prism_jax.data.text import Tokens
from prism_jax.layers.config import TransformerConfig
from prism_jax.models.vit import ViTConfig
from prism_jax.tasks.classification import Classification, Regression
from prism_jax.tasks.inputs import Endings, Images, Texts
from prism_jax.tasks.language import ClozeTask, LanguageModelling
from prism_jax.tasks.placeholder import placeholder

NUM_TOKENS = 12
IDS = [np.arange(1, n + 1, dtype=np.int32) for n in (3, 12, 5, 8)]


@dataclass(frozen=True)
class Counted:
    """Inputs that count the sequences that are read."""

    inputs: Texts
    read: list[int] = field(default_factory=list)

    @property
    def lengths(self):
        return self.inputs.lengths

    def arrays(self, index, num_tokens, rng):
        self.read.extend(index)
        return self.inputs.arrays(index, num_tokens, rng)


@pytest.fixture
def texts():
    return Texts(Tokens(IDS, [np.zeros_like(ids) for ids in IDS]))


@pytest.fixture
def images(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"height": 4, "width": 4}}'
    )
    config = ViTConfig(TransformerConfig(1, 8, 2, 8), image_size=(4, 4), patch_size=(2, 2))
    return Images([Image.new("L", (4, 4), i) for i in range(4)], load_processor(tmp_path), config)


TASKS = {
    "classes": lambda texts, images: Classification(texts, np.array([0, 1, 1, 0]), ("accuracy_percent",)),
    "numbers": lambda texts, images: Regression(texts, np.array([0.5, 1, 1, 0]), ("pearson_percent",)),
    "no labels": lambda texts, images: Classification(texts, None, ("accuracy_percent",)),
    "images": lambda texts, images: Classification(images, np.array([0, 1, 1, 0]), ("accuracy_percent",)),
    "plain text": lambda texts, images: LanguageModelling(texts, np.array([[2, 5], [11, 9], [4, 4], [7, 20]])),
    "endings": lambda texts, images: ClozeTask(
        Endings([ids[:2] for ids in IDS[:2]], [ids[:3] for ids in IDS], NUM_TOKENS), np.array([1, 0])
    ),
}


@pytest.mark.parametrize("kind", TASKS)
def test_batches_on_other_processes_have_the_shapes_of_process_0_s(kind, texts, images):
    task = TASKS[kind](texts, images)
    num_tokens = images.config.num_tokens if kind == "images" else NUM_TOKENS
    elsewhere = pickle.loads(pickle.dumps(replace(task, inputs=placeholder(task.inputs, num_tokens))))
    assert elsewhere.lengths.tolist() == task.lengths.tolist()
    assert elsewhere.training_index.tolist() == task.training_index.tolist()
    for length in {num_tokens, *(() if kind == "images" else (5, 8))}:
        index = np.flatnonzero(task.lengths <= length)
        (batch, targets), (zeros, no_targets) = (one.arrays(index, length, None) for one in (task, elsewhere))
        assert {name: (x.shape, x.dtype) for name, x in zeros.items()} == {
            name: (x.shape, x.dtype) for name, x in batch.items()
        }
        assert (no_targets.shape, no_targets.dtype) == (targets.shape, targets.dtype)
        assert not any(x.any() for x in zeros.values())


def test_one_row_is_read_and_none_is_sent(texts):
    counted = Counted(texts)
    sent = placeholder(counted, NUM_TOKENS)
    assert len(counted.read) == 1
    assert all(x.size == 0 for x in sent.empty.values())
