"""Images as model inputs: what training sees, with augmentation, and what everything else sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import torch
from PIL.Image import Image

from common.arguments import LabelledDataArguments, ModelArguments
from common.data import Split, find_column

IMAGE_COLUMNS = ("image", "img", "images", "pixel_values")
AUGMENTATIONS = ("crop", "flip", "resized_crop")
CACHE_BYTES = 256 * 2**20


@dataclass
class ImageModelArguments(ModelArguments):
    """Which image classifier is trained, and from what weights it starts."""

    model: str = field(
        default="test_resnet",
        metadata={
            "help": "A timm architecture (timm.list_models()), a local folder or a Hub id of a transformers model."
        },
    )
    weights: str | None = field(
        default=None, metadata={"help": "Start from this local file of weights (timm architectures only)."}
    )


@dataclass
class ImageArguments(LabelledDataArguments):
    """Data arguments of image recipes."""

    dataset: str = field(
        default="embedded",
        metadata={
            "help": "'embedded' (3,000 images inside hf_diversity), a Hub id, a local folder in the Hub's layout or "
            "written by save_to_disk, or a local .parquet, .csv, .json or .jsonl file."
        },
    )
    image_column: str | None = field(
        default=None, metadata={"help": f"Column of the image. Default: the first of {', '.join(IMAGE_COLUMNS)}."}
    )
    image_size: int | None = field(
        default=None,
        metadata={
            "help": "Side of the square that the model sees. Default: a pretrained model's, or the images' own."
        },
    )
    image_mean: list[float] | None = field(
        default=None,
        metadata={
            "help": "Mean of each channel, subtracted. Default: a pretrained model's, or that of the training images."
        },
    )
    image_std: list[float] | None = field(
        default=None, metadata={"help": "Standard deviation of each channel, divided by. Default: as for image_mean."}
    )
    augmentation: list[str] | None = field(
        default=None,
        metadata={
            "help": "Random changes of the training images, any of: 'crop' (pad by crop_padding, cut out the original "
            "size), 'flip' (left-right), 'resized_crop' (8 to 100 %% of the area, as for ImageNet)."
        },
    )
    crop_padding: int = field(default=4, metadata={"help": "Pixels added on each side before 'crop'."})

    def __post_init__(self):
        """Refuse augmentations that do not exist."""
        super().__post_init__()
        for name in self.augmentation or ():
            if name not in AUGMENTATIONS:
                raise ValueError(f"augmentation {name!r} is unknown: choose from {', '.join(AUGMENTATIONS)}")
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size is {self.image_size}: it must be at least 1")
        if (self.image_mean is None) != (self.image_std is None):
            raise ValueError("image_mean and image_std go together: give both or neither")


def augmentation(arguments: ImageArguments):
    """Return the random change of a training image (PIL in, PIL out), or None if there is none.

    It comes before the model's own processor, so that a user who reloads model and processor gets exactly what
    evaluation saw.
    """
    if not arguments.augmentation:
        return None
    from torchvision import transforms

    def crop(image: Image) -> Image:
        # At the image's own size, whatever it is.
        size = (image.height, image.width)
        return transforms.RandomCrop(size, padding=arguments.crop_padding)(image)

    def resized_crop(image: Image) -> Image:
        side = arguments.image_size or image.height
        return transforms.RandomResizedCrop(side)(image)

    steps = {"crop": crop, "flip": transforms.RandomHorizontalFlip(), "resized_crop": resized_crop}
    return transforms.Compose([steps[name] for name in arguments.augmentation])


def image_column(split: Split, arguments: ImageArguments) -> str:
    """Return the column that holds the images, after a look at the first one.

    Raises:
        ValueError: there is no such column, or it holds no images.
    """
    name = find_column(split.examples, arguments.image_column, IMAGE_COLUMNS, "image_column")
    if not isinstance(split.examples.features[name], datasets.Image):
        raise ValueError(
            f"image_column {name!r} holds {split.examples.features[name]}, not images: type image_column: NAME, or "
            "save the data with the feature datasets.Image()"
        )
    return name


def channel_statistics(
    split: Split, column: str, mode: str, sample: int = 2000
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measure mean and standard deviation of each channel over the first `sample` images, pixels in [0, 1]."""
    total, squares, count = 0.0, 0.0, 0
    for image in split.examples.select(range(min(sample, len(split))))[column]:
        pixels = np.asarray(image.convert(mode), dtype=np.float64) / 255
        pixels = pixels.reshape(image.height * image.width, -1)
        total, squares, count = total + pixels.sum(0), squares + (pixels**2).sum(0), count + len(pixels)
    mean = total / count
    # Three digits: what one would type into a configuration file.
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 1e-6))
    return tuple(np.round(mean, 3).tolist()), tuple(np.round(deviation, 3).tolist())


@dataclass
class _Memory:
    """Inputs made so far, (N, C, H, W) from the first on, and of which examples."""

    is_made: np.ndarray
    inputs: torch.Tensor | None = None


class ImageDataset(torch.utils.data.Dataset):
    """Model inputs `{"pixel_values": tensor, "labels": int}`, made when asked for.

    Not a `datasets.Dataset` with a transform: Trainer would remove its image column, and label noise would have to
    rewrite the images.

    Args:
        split: examples and their labels.
        column: the column that holds the images.
        mode: PIL mode that the model expects, "L" or "RGB".
        processor: the model's image processor.
        change: a random change of the image before the processor. Without one, inputs that fit into `CACHE_BYTES` are
            made only once for a split, column, mode and processor.
    """

    def __init__(self, split: Split, column: str, mode: str, processor: Any, change=None):
        self.split, self.column, self.mode, self.processor, self.change = split, column, mode, processor, change
        key = (column, mode, str(processor.to_dict()))
        self._memory = split.made.setdefault(key, _Memory(np.zeros(len(split), dtype=bool)))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.split)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Return one example."""
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        """Return several examples; `DataLoader` asks for a batch at a time if it can."""
        pixels = self._make(positions) if self.change is not None else self._remembered(positions)
        return [
            {"pixel_values": image, "labels": int(self.split.labels[position])}
            for image, position in zip(pixels, positions, strict=True)
        ]

    def _make(self, positions: Sequence[int]) -> torch.Tensor:
        images = [image.convert(self.mode) for image in self.split.examples[list(positions)][self.column]]
        if self.change is not None:
            images = [self.change(image) for image in images]
        return self.processor(images, return_tensors="pt")["pixel_values"]

    def _remembered(self, positions: Sequence[int]) -> torch.Tensor:
        memory = self._memory
        missing = [position for position in positions if not memory.is_made[position]]
        if not missing and memory.inputs is not None:
            return memory.inputs[list(positions)]
        made = self._make(missing)
        if memory.inputs is None:
            if made[0].nbytes * len(self) > CACHE_BYTES:
                return made
            memory.inputs = torch.empty((len(self), *made.shape[1:]), dtype=made.dtype)
        memory.inputs[missing] = made
        memory.is_made[missing] = True
        return memory.inputs[list(positions)]
