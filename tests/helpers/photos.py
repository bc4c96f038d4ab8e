"""Images that look like photographs."""

import numpy as np
from PIL import Image


def photo(width: int, height: int) -> Image.Image:
    """Smooth shades, an edge and some noise."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    shades = np.stack([x, y, np.sin(9 * x * y) ** 2], -1) + 0.3 * (x > y)[..., None]
    noise = np.random.default_rng(width).normal(0, 0.03, shades.shape)
    return Image.fromarray((255 * (shades + noise).clip(0, 1)).astype(np.uint8))
