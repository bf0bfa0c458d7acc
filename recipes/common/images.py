"""Images as model inputs: what training sees, with augmentation, and what everything else sees."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL.Image import Image

from common.arguments import LabelledDataArguments, ModelArguments
from common.corruptions import CORRUPTIONS, SEVERITIES
from hf_diversity.data.columns import IMAGE_COLUMNS, find_image_column
from hf_diversity.data.examples import Split

AUGMENTATIONS = ("crop", "flip", "resized_crop")


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
            "help": "'embedded' (3,000 images inside hf_diversity), a Hub id, a local folder (in the Hub's layout, of "
            "images by class, or written by save_to_disk), or a local .parquet, .csv, .json or .jsonl file."
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
    test_corruptions: list[str] | None = field(
        default=None,
        metadata={
            "help": "Evaluate the test set, at the end, under each of these corruptions as well, any of: "
            f"{', '.join(CORRUPTIONS)}. Each image's is the same in every run."
        },
    )
    corruption_severity: int = field(
        default=3, metadata={"help": "Strength of test_corruptions, 1 to 5, as of CIFAR-10-C."}
    )

    def __post_init__(self):
        """Refuse augmentations and corruptions that do not exist."""
        super().__post_init__()
        for name in self.test_corruptions or ():
            if name not in CORRUPTIONS:
                raise ValueError(f"test_corruptions {name!r} is unknown: choose from {', '.join(CORRUPTIONS)}")
        if self.corruption_severity not in SEVERITIES:
            raise ValueError(f"corruption_severity is {self.corruption_severity}: it must be from 1 to 5")
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
    return find_image_column(split.examples, arguments.image_column)


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
