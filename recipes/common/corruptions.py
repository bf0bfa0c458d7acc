"""Corrupted copies of test images: how a network does on data that are not quite those it was trained on.

Kinds and strengths are those of CIFAR-10-C (Hendrycks & Dietterich, ICLR 2019; `make_cifar_c.py`); `translation` is
ours. They act on an image at its own size, before the model's processor.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from hf_diversity.data.examples import Split

SEVERITIES = range(1, 6)
# Apart from every seed of a run: all runs are tested on the same images.
SEED = 0


@dataclass(frozen=True)
class Corruption:
    """A change of an image.

    Attributes:
        change: takes an image of mode "L" or "RGB", a strength and a source of random numbers.
        strengths: at severity 1 to 5.
    """

    change: Callable[[Image.Image, float, np.random.Generator], Image.Image]
    strengths: tuple[float, float, float, float, float]


def gaussian_noise(image: Image.Image, deviation: float, generator: np.random.Generator) -> Image.Image:
    """Add normal noise of this standard deviation to pixels in [0, 1]."""
    pixels = np.asarray(image) / 255
    return _image(pixels + generator.normal(scale=deviation, size=pixels.shape))


def impulse_noise(image: Image.Image, share: float, generator: np.random.Generator) -> Image.Image:
    """Set this share of all values to black or white, whichever comes."""
    pixels = np.asarray(image) / 255
    hit, white = generator.random(pixels.shape) < share, generator.random(pixels.shape) < 0.5
    return _image(np.where(hit, white, pixels))


def gaussian_blur(image: Image.Image, deviation: float, generator: np.random.Generator) -> Image.Image:
    """Convolve with a Gaussian of this standard deviation, in pixels."""
    from scipy import ndimage

    return _image(ndimage.gaussian_filter(np.asarray(image) / 255, deviation, mode="nearest", axes=(0, 1)))


def contrast(image: Image.Image, factor: float, generator: np.random.Generator) -> Image.Image:
    """Draw all values to the image's mean grey until this factor is left of their distance."""
    return ImageEnhance.Contrast(image).enhance(factor)


def brightness(image: Image.Image, amount: float, generator: np.random.Generator) -> Image.Image:
    """Add to the value (of hue, saturation and value) of pixels in [0, 1]."""
    *colour, value = (image.convert("HSV") if image.mode == "RGB" else image).split()
    value = value.point(lambda old: min(old + 255 * amount, 255))
    return Image.merge("HSV", [*colour, value]).convert("RGB") if colour else value


def translation(image: Image.Image, share: float, generator: np.random.Generator) -> Image.Image:
    """Shift by this share of the width and of the height, each to a random side; black comes in."""
    right, down = (int(generator.choice([-1, 1])) * round(share * side) for side in image.size)
    return image.transform(image.size, Image.Transform.AFFINE, (1, 0, -right, 0, 1, -down))


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.round(255 * pixels.clip(0, 1)).astype(np.uint8))


CORRUPTIONS = {
    "gaussian_noise": Corruption(gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "impulse_noise": Corruption(impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "gaussian_blur": Corruption(gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "contrast": Corruption(contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "brightness": Corruption(brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "translation": Corruption(translation, (1 / 32, 2 / 32, 3 / 32, 4 / 32, 5 / 32)),
}


def corrupt(image: Image.Image, name: str, severity: int) -> Image.Image:
    """Return a corrupted copy of an image; the same image gives the same copy, wherever it stands and whoever asks.

    Args:
        image: of mode "L" or "RGB".
        name: one of `CORRUPTIONS`.
        severity: from 1 to 5.
    """
    corruption = CORRUPTIONS[name]
    generator = np.random.default_rng([SEED, zlib.crc32(image.tobytes())])
    return corruption.change(image, corruption.strengths[severity - 1], generator)


def corrupted(split: Split, column: str, mode: str, name: str, severity: int) -> Split:
    """Return the examples with corrupted images, which are made when asked for.

    Args:
        split: the examples.
        column: the column that holds the images.
        mode: PIL mode that the model expects, "L" or "RGB".
        name: one of `CORRUPTIONS`.
        severity: from 1 to 5.
    """

    def change(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {column: [corrupt(image.convert(mode), name, severity) for image in batch[column]]}

    # Kept with the split, so that several runs over it make their inputs once.
    key = ("corrupted", column, mode, name, severity)
    return split.made.setdefault(key, Split(split.examples.with_transform(change, [column]), split.labels))
